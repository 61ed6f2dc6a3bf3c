"""A line that is broken costs only itself, and what are missing or there twice is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dgpo_cli.runs.run_folder import RunFolder
from dgpo_cli.runs.step_lines import StepLines, missing_notes

BROKEN = {
    "NUL": b"\0" * 40,
    "NUL before an object": b'\0{"step": 2}',
    "UTF-16": '{"step": 2}'.encode("utf-16"),
    "bad UTF-8": b'{"step": 2, "a/b": "\xff"}',
    "no object": b"[2]",
    "no step": b'{"a/b": 1}',
    "a step in words": b'{"step": "2"}',
    "a step below 0": b'{"step": -2}',
    "half a step": b'{"step": 2.5}',
    "no step at all": b'{"step": true}',
    "an endless step": b'{"step": 1e400}',
    "a step of 5,000 digits": b'{"step": ' + b"2" * 5000 + b"}",
    "nested too deep": b'{"step": 2, "a/b": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "two lines in one": b'{"step": 2, "a/{"step": 3}',
}


@pytest.mark.parametrize("raw", BROKEN.values(), ids=BROKEN)
def test_a_broken_line_is_moved_away_and_costs_only_itself(tmp_path: Path, raw: bytes) -> None:
    folder = RunFolder(tmp_path)
    good = [b'{"step": 1, "a/b": 0.5}', b'{"step": 3, "a/b": null}']
    folder.metrics_file.write_bytes(b"\n".join([good[0], raw, good[1], b""]))
    lines = [{"step": 1, "a/b": 0.5}, {"step": 3, "a/b": None}]
    assert folder.read_metrics() == lines
    assert folder.metric_ends(first=1, last=2) == lines
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]  # reading moves nothing
    assert folder.forget_after(3) == [
        f"{folder.metrics_file}: line 2 is broken, moved to metrics.jsonl.bad",
        "metrics of step 2 are missing",
    ]
    assert folder.metrics_file.read_bytes() == b"\n".join([*good, b""])
    assert (tmp_path / "metrics.jsonl.bad").read_bytes() == raw + b"\n"
    assert folder.forget_after(2) == ["metrics of step 2 are missing"]


def test_broken_lines_of_several_times_are_all_kept(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for raw in (b"one\n", b"two\n"):
        folder.metrics_file.write_bytes(raw)
        folder.forget_after(0)
    assert (tmp_path / "metrics.jsonl.bad").read_bytes() == b"one\ntwo\n"


def test_of_a_step_that_is_there_twice_the_last_line_counts(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for step, value in ((2, 0.2), (1, 0.1), (3, 0.3), (2, 0.4)):
        folder.write_metrics(step, {"a/b": value})
    lines = [{"step": 1, "a/b": 0.1}, {"step": 2, "a/b": 0.4}, {"step": 3, "a/b": 0.3}]
    assert folder.read_metrics() == lines
    assert folder.forget_after(3) == ["metrics of step 2 are duplicated; the last line counts"]
    assert folder.read_metrics() == lines
    assert folder.forget_after(3) == []


def test_what_is_no_finite_number_is_unknown(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    text = '{"step": 1.0, "a": 1e400, "b": NaN, "c": "1", "d": [1], "e": true, "f": 1, "g": 1%s}\n'
    folder.metrics_file.write_text(text % ("0" * 400))
    assert folder.read_metrics() == [
        {"step": 1, "a": None, "b": None, "c": None, "d": None, "e": None, "f": 1.0, "g": None}
    ]


@pytest.mark.parametrize(
    ("there", "last", "told"),
    [
        ([1, 2, 3], 3, []),
        ([], 0, []),
        ([], 2, ["x of steps 1 to 2 are missing"]),
        ([1, 2, 3], 4, ["x of step 4 are missing"]),
        ([1, 3, 10], 12, ["x of steps 2, 4 to 9, 11 to 12 are missing"]),
        ([10**18], 10**18, [f"x of steps 1 to {10**18 - 1} are missing"]),
    ],
)
def test_holes_are_named(there: list[int], last: int, told: list[str]) -> None:
    assert missing_notes("x", there, last=last) == told


def test_evaluations_of_several_benchmarks_after_one_step_are_no_repeat(tmp_path: Path) -> None:
    lines = StepLines(tmp_path / "evals.jsonl", what="evaluations", beside="bench")
    lines.append(1, {"bench": "b"})
    lines.append(1, {"bench": "a"})
    found = lines.read()
    assert [line["bench"] for line in found.lines] == ["b", "a"]
    assert found.repeated == ()


@pytest.mark.parametrize("torn", [b'{"step": 2, "a/', b"\0" * 40, b"garbage", b"\xff"])
def test_a_last_line_without_its_end_is_moved_away_too(tmp_path: Path, torn: bytes) -> None:
    folder = RunFolder(tmp_path)
    folder.metrics_file.write_bytes(b'{"step": 1}\n' + torn)
    assert folder.metrics.read().broken == ()  # it may be being written
    assert folder.forget_after(1) == [
        f"{folder.metrics_file}: line 2 is broken, moved to metrics.jsonl.bad"
    ]
    assert folder.metrics_file.read_bytes() == b'{"step": 1}\n'
    assert (tmp_path / "metrics.jsonl.bad").read_bytes() == torn + b"\n"


def test_a_line_of_a_step_that_the_run_cannot_have_is_broken(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.settings_file.write_text("[train]\nsteps = 3\n")
    folder.checkpoint_dir(4).mkdir(parents=True)  # of a run that was once to be longer
    for step in (1, 2, 3, 4, 5):
        folder.write_metrics(step, {})
        folder.write_eval(step, EVALUATION)
    assert [line["step"] for line in folder.read_metrics()] == [1, 2, 3, 4]
    assert [line["step"] for line in folder.read_evals()] == [1, 2, 3, 4]
    assert [line["step"] for line in folder.metric_ends(first=1, last=2)] == [1, 4]
    assert folder.forget_after(4) == [
        f"{file}: line 5 is broken, moved to {file.name}.bad"
        for file in (folder.metrics_file, folder.evals_file)
    ]


def test_a_line_of_which_only_the_end_is_lost_counts(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.metrics_file.write_bytes(b'{"step": 1}\n{"step": 2}')  # only the line's end is lost
    assert [line["step"] for line in folder.read_metrics()] == [1, 2]
    assert [line["step"] for line in folder.metric_ends(first=0, last=1)] == [2]
    assert folder.forget_after(2) == []
    assert folder.metrics_file.read_bytes() == b'{"step": 1}\n{"step": 2}\n'


EVALUATION = {
    **{"bench": "b", "k": 2, "avg_at_k": 0.5, "truncated": 0.0, "pass_at_k": None},
    **{"rerun_95": {"low": 0.4, "high": None}, "problems_95": None},
}


@pytest.mark.parametrize(
    "edit",
    [
        {"bench": None},
        {"k": "2"},
        {"k": 2.5},
        {"avg_at_k": None},
        {"avg_at_k": 10**400},
        {"avg_at_k": 1.5},
        {"truncated": "x"},
        {"pass_at_k": [1]},
        {"rerun_95": 7},
        {"rerun_95": {"low": 0.4}},
        {"problems_95": {"low": "a", "high": 1}},
    ],
)
def test_an_evaluation_that_cannot_be_drawn_is_a_broken_line(
    tmp_path: Path, edit: dict[str, object]
) -> None:
    folder = RunFolder(tmp_path)
    folder.evals_file.write_text(
        "".join(
            json.dumps({"step": step, **EVALUATION, **change}) + "\n"
            for step, change in ((1, {}), (2, edit), (3, {}))
        )
    )
    assert [line["step"] for line in folder.read_evals()] == [1, 3]
    (note,) = folder.evals.cut(3)
    assert note == f"{folder.evals_file}: line 2 is broken, moved to evals.jsonl.bad"
    assert folder.evals.cut(3) == []
