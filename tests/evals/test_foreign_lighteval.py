"""Outputs of lighteval: texts, tokens and the verdicts that it keeps, and which it does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dgpo_cli.core.errors import DataError
from dgpo_cli.core.formats import Turn
from dgpo_cli.evals.foreign import lighteval
from dgpo_cli.evals.foreign.log import ForeignLog
from dgpo_cli.evals.foreign.read import read_log
from tests.evals import foreign_logs as logs

FOUR = tuple(rf"\boxed{{{at}}}" for at in (70, 1, 2, 3))


def read(path: Path) -> ForeignLog:
    found = read_log(path)
    assert found is not None
    return found


def test_details_and_results_give_one_log(tmp_path: Path) -> None:
    rows = [logs.row(at, texts=FOUR, metric={"avg@n:n=4": 0.25, "x": 9.0}) for at in range(70)]
    details = logs.as_details(tmp_path, rows)
    log = read(details)
    assert log == read(tmp_path / "results" / "me" / "model" / f"results_{logs.DATE}.json")
    assert (log.program, log.version) == ("lighteval", "3fd15266" * 5)
    assert (log.task, log.model, log.scorer) == (logs.TASK, "me/model", "avg@n:n=4")
    assert log.dataset == "yentinglin/aime_2025" and log.k == 4 and len(log.problems) == 70
    assert log.scores == {"avg@n:n=4": 0.25, "avg@n:n=4_stderr": 0.1}
    assert log.sampling == {
        "temperature": 0.6,
        "top_p": 0.95,
        "max_completion_tokens": 50,
        "system": logs.SYSTEM,
    }
    first = log.problems[69]
    assert (first.id, first.gold, first.right) == ("69", "70", 1)
    assert first.messages == (Turn("user", "What is 69?"),)
    assert [each.text for each in first.samples] == list(FOUR)
    assert {each.outcome for each in first.samples} == {None} and first.samples[0].tokens == 5
    assert log.notes == ("of 70 problems it says how many samples are right, and not which",)


def test_details_beside_their_results_are_found_as_on_the_hub(tmp_path: Path) -> None:
    details = logs.as_details(tmp_path / "x", [logs.row()], results=False)
    (tmp_path / logs.DATE).mkdir()
    moved = details.rename(tmp_path / logs.DATE / details.name)
    (tmp_path / f"results_{logs.DATE}.json").write_text(json.dumps(logs.RESULTS))
    assert read(moved).model == "me/model"
    assert read(tmp_path / f"results_{logs.DATE}.json") == read(moved)


def test_details_alone_are_read_and_say_what_is_missing(tmp_path: Path) -> None:
    log = read(logs.as_details(tmp_path, [logs.row()], results=False))
    assert (log.model, log.sampling, log.scores) == ("unknown", {}, {})
    assert log.notes[0].endswith("was found: model and sampling are not known")


@pytest.mark.parametrize(
    ("metric", "n", "outcomes", "right"),
    [
        ({"extractive_match": 1.0}, 1, ["correct"], 1),
        ({"pass@k:k=1": 0.0, "avg@n:n=1": 0.0}, 1, ["wrong"], 0),
        ({"em": 0.5}, 1, ["wrong"], 0),
        ({"avg@n:n=2": 1.0}, 2, ["correct", "correct"], 2),
        ({"avg@n:n=2": 0.0}, 2, ["wrong", "wrong"], 0),
        ({"pass@k:k=1&n=2": 0.5}, 2, [None, None], 1),
        ({"avg@k:k=2": 0.5}, 2, [None, None], 1),
        ({"avg@n:n=4": 0.5}, 2, [None, None], None),  # of other samples than these
        ({"pass@k:k=2&n=2": 1.0}, 2, [None, None], None),
        ({"maj@n:n=2": 1.0}, 2, [None, None], None),
        ({"avg@n:n=2": 0.3}, 2, [None, None], None),
        ({"extractive_match": 12.0}, 1, [None], None),
    ],
)
def test_only_a_mean_over_these_samples_is_a_verdict_on_them(
    tmp_path: Path, metric: dict[str, Any], n: int, outcomes: list[str | None], right: int | None
) -> None:
    row = logs.row(texts=FOUR[:n], metric=metric)
    [problem] = read(logs.as_details(tmp_path, [row])).problems
    assert [each.outcome for each in problem.samples] == outcomes and problem.right == right


def test_a_completion_of_as_many_tokens_as_allowed_is_truncated(tmp_path: Path) -> None:
    row = logs.row(texts=FOUR, tokens=[49, 50, 51, 1], metric={"avg@n:n=4": 0.0})
    [problem] = read(logs.as_details(tmp_path, [row])).problems
    reasons = [each.finish_reason for each in problem.samples]
    assert reasons == ["stop", "length", "length", "stop"]
    [alone] = read(logs.as_details(tmp_path / "x", [row], results=False)).problems
    assert {each.finish_reason for each in alone.samples} == {"stop"}  # up to 100 by the task


def test_a_prompt_that_opens_a_thought_is_noticed(tmp_path: Path) -> None:
    rows = [logs.row(0, sent="<user>What is 0?<assistant><think>\n"), logs.row(1)]
    log = read(logs.as_details(tmp_path, rows))
    assert [each.samples[0].starts_in_thought for each in log.problems] == [True, False]


def test_letters_are_the_answers_of_options(tmp_path: Path) -> None:
    row = logs.row(choices=["A", "B", "C", "D"], gold=2, texts=["Answer: C"])
    [problem] = read(logs.as_details(tmp_path, [row])).problems
    assert (problem.gold, problem.choices) == ("C", 4)
    several = logs.row(choices=["70", "seventy"], gold=[0, 1])
    log = read(logs.as_details(tmp_path / "x", [several]))
    assert log.problems[0].gold == "70"
    assert log.notes[0] == "1 problems accept several answers; the first of each counts"


def test_the_earlier_names_of_the_columns_are_read(tmp_path: Path) -> None:
    details = logs.as_details(tmp_path, [])
    row = {f"__{name}__": value for name, value in logs.row().items()}
    pq.write_table(pa.Table.from_pylist([row]), details)
    assert read(details).problems[0].samples[0].text == r"\boxed{70}"


def refused(path: Path) -> str:
    with pytest.raises(DataError) as told:
        read_log(path)
    assert "\n" not in str(told.value)
    return str(told.value)


def test_what_cannot_be_judged_again_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = logs.row()
    silent["model_response"]["text"] = []
    assert "row 2: has no text; the task compares log-prob" in refused(
        logs.as_details(tmp_path / "a", [logs.row(), silent])
    )
    assert "gold_index names no choice" in refused(
        logs.as_details(tmp_path / "b", [logs.row(gold=1)])
    )
    old = logs.as_details(tmp_path / "c", [])
    pq.write_table(pa.table({"full_prompt": ["x"], "predictions": ["y"]}), old)
    assert "it has full_prompt, predictions" in refused(old)
    whole = logs.as_details(tmp_path / "d", [logs.row()])
    monkeypatch.setattr(lighteval, "MOST_UNPACKED", 10)
    assert "unpacks to more than" in refused(whole)
    monkeypatch.undo()
    for data in (whole.read_bytes()[:-9], b"PAR1", b"", b"PAR1" + b"x" * 99 + b"PAR1"):
        whole.write_bytes(data)
        assert "a damaged Parquet file" in refused(whole)


def test_a_run_of_several_tasks_names_its_files(tmp_path: Path) -> None:
    logs.as_details(tmp_path, [logs.row()])
    other = logs.as_details(tmp_path, [logs.row()], task="aime24|0")
    results = tmp_path / "results" / "me" / "model" / f"results_{logs.DATE}.json"
    assert f"has the details of 2 tasks; give one of the files, as {other}" in refused(results)
    for file in other.parent.iterdir():
        file.unlink()
    assert "no details_*.parquet beside it" in refused(results)
