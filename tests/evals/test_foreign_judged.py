"""Samples of others, judged again: flips against their verdicts, cards that say what is missing."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from dgpo_cli.core.errors import ConfigError, DataError
from dgpo_cli.evals import regrade
from dgpo_cli.evals.eval_folder import EvalFolder
from dgpo_cli.evals.foreign import judged
from dgpo_cli.evals.request import RegradeResult
from dgpo_cli.evals.views.comparison_json import read_run
from tests.cli.helpers import in_process as dgpo
from tests.evals import foreign_logs as logs
from tests.evals.evaluations import stored
from tests.recorder import Notes


def run(path: Path, out: Path, *, notes: list[str] | None = None, **more: Any) -> RegradeResult:
    observer = Notes([] if notes is None else notes)
    return judged.run(path, out=out, kind=more.get("kind"), observer=observer)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return logs.as_zip(tmp_path / "log.eval", logs.entries_of(logs.four()))


def test_flips_are_against_the_logs_verdicts(log: Path, tmp_path: Path) -> None:
    result = run(log, tmp_path / "out")
    flips = [
        (f.prompt_id, f.index, f.old, f.new, f.old_extracted, f.new_extracted) for f in result.flips
    ]
    assert flips == [
        ("1", 0, "wrong", "correct", "7", "70"),
        ("2", 0, "correct", "wrong", "588", "8"),
    ]
    assert result.evaluation.avg_at_k == 0.5 and result.evaluation.k == 2
    assert result.evaluation.no_answer == 0.25  # wrong for both: no flip
    assert result.logged is not None and result.logged.scores == {"match accuracy": 0.5}


def test_the_folder_is_one_of_ours_and_keeps_what_the_log_has(log: Path, tmp_path: Path) -> None:
    result = run(log, tmp_path / "out")
    lines = stored(tmp_path / "out")
    assert [(line["prompt_id"], line["index"]) for line in lines] == [
        ("1", 0), ("2", 0), ("1", 1), ("2", 1),
    ]  # fmt: skip
    first = lines[0]
    assert first["messages"] == [
        {"role": "system", "content": logs.SYSTEM},
        {"role": "user", "content": "What is 1?"},
    ]
    assert (first["completion_tokens"], first["prompt_tokens"]) == (7, 42)
    assert first["token_ids"] == [] and first["temperature"] == 0.5 and first["seed"] is None
    assert result.evaluation.lengths.mean == 7
    card = EvalFolder(tmp_path / "out").read_card()
    assert card == result.card
    assert card.protocol["checker"]["kind"] == "integer"
    assert (card.protocol["bench"], card.protocol["name"]) == ("evals/aime2025", "inspect_ai")
    assert card.protocol["unknown"] == ["top_p", "top_k", "seed"]
    assert card.subject["not_given"][-3:] == ["top_p", "top_k", "seed"]
    assert {"weights", "token ids"} <= set(card.subject["not_given"])
    assert card.environment["versions"]["inspect_ai"] == "0.3.160"
    for file in (tmp_path / "out").iterdir():
        assert b"SECRET" not in file.read_bytes(), file.name  # of the model's arguments


def test_the_folder_can_be_judged_again_and_made_again(log: Path, tmp_path: Path) -> None:
    first = run(log, tmp_path / "out")
    before = (tmp_path / "out" / "samples.jsonl").read_bytes()
    again = regrade.run(tmp_path / "out", observer=Notes([]))
    assert again.flips == () and again.evaluation == first.evaluation
    assert run(log, tmp_path / "out").flips == first.flips
    assert (tmp_path / "out" / "samples.jsonl").read_bytes() == before
    with pytest.raises(ConfigError, match=r"samples of another evaluation: protocol\.checker"):
        run(log, tmp_path / "out", kind="math")


def test_the_checker_is_the_one_that_the_answers_are_for(tmp_path: Path) -> None:
    def kind(*golds: str, **more: Any) -> dict[str, Any]:
        samples = [logs.sample(at, target=gold, **more) for at, gold in enumerate(golds)]
        result = run(logs.as_json(tmp_path / "x.json", samples), tmp_path / f"{golds}")
        found: dict[str, Any] = result.card.protocol["checker"]
        return found

    assert kind("7", "-12", "+3")["kind"] == "integer"
    assert kind("7", r"\frac{1}{2}")["kind"] == "math"
    assert kind("A", "d")["kind"] == "choice"
    options = [str(at) for at in range(10)]
    assert kind("A", "B", choices=options, text="Answer: J")["choices"] == 10
    assert kind("A", "F", text="Answer: F")["choices"] == 6


def test_reasoning_is_kept_and_never_judged(tmp_path: Path) -> None:
    parts = [
        {"type": "reasoning", "reasoning": r"\boxed{70}"},
        {"type": "text", "text": "I do not know."},
    ]
    path = logs.as_json(tmp_path / "x.json", [logs.sample(text=parts)])
    assert [f.new for f in run(path, tmp_path / "out").flips] == ["no_answer"]
    assert stored(tmp_path / "out")[0]["reasoning"] == r"\boxed{70}"


def test_k_is_what_every_problem_has(tmp_path: Path) -> None:
    samples = [logs.sample(1, epoch=epoch) for epoch in (1, 2, 3)] + [logs.sample(2, epoch=2)]
    notes: list[str] = []
    result = run(logs.as_json(tmp_path / "x.json", samples), tmp_path / "out", notes=notes)
    assert result.evaluation.k == 1 and result.samples == 4
    assert any("k = 1, which every problem has; 2 more samples are stored" in n for n in notes)


def test_counts_without_verdicts_are_compared_as_counts(tmp_path: Path) -> None:
    texts = [r"\boxed{70}", r"\boxed{70}", "no", "no"]
    rows = [
        logs.row(at, texts=texts, metric={"avg@n:n=4": share})
        for at, share in ((0, 0.25), (1, 0.5))
    ]
    notes: list[str] = []
    path = logs.as_details(tmp_path, rows)
    result = run(path, tmp_path / "out", notes=notes)
    assert result.flips == () and result.evaluation.avg_at_k == 0.5
    assert f"{path}: other numbers of right samples: 0: 1 -> 2 of 4" in notes
    evaluation = read_run(path).evaluation
    assert [problem.correct for problem in evaluation.problems] == [1, 2]
    assert math.isnan(evaluation.maj_at_k)


def test_a_log_is_compared_by_its_own_verdicts(log: Path, tmp_path: Path) -> None:
    found = read_run(log)
    assert found.evaluation.avg_at_k == 0.5
    assert [problem.outcomes for problem in found.evaluation.problems] == [
        ("wrong", "wrong"),
        ("correct", "correct"),
    ]
    assert found.card is not None
    assert found.card.protocol["checker"] == {"kind": "inspect_ai: match"}
    other = logs.as_json(
        tmp_path / "b.json", [logs.sample(1, score="C"), logs.sample(2, target="588")]
    )
    ended = dgpo("compare", str(log), str(other), "--force", "--json")
    assert ended.exit_code == 0, ended.stderr
    [pair] = json.loads(ended.stdout)["comparisons"]
    assert (pair["before"], pair["after"]) == (0.5, 1.0)
    assert dgpo("compare", str(log), str(log)).exit_code == 0
    ended = dgpo("compare", str(log), str(other))
    assert ended.exit_code == 0, ended.stderr  # the same protocol; k differs, and that is noted


def test_a_log_without_verdicts_cannot_be_compared_but_judged(tmp_path: Path) -> None:
    path = logs.as_json(tmp_path / "x.json", [logs.sample(score=math.nan)])
    with pytest.raises(DataError, match="has no verdict on 1 of 1 samples; judge them with dgpo"):
        read_run(path)
    result = run(path, tmp_path / "out")
    assert result.flips == () and result.evaluation.avg_at_k == 1.0


def test_answers_that_the_checker_cannot_compare_with_are_told(log: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="give another --kind than choice") as told:
        run(log, tmp_path / "out", kind="choice")
    assert "the answer of problem '1' is not" in str(told.value) and "70" not in str(told.value)
    assert not (tmp_path / "out").exists()


def test_the_command_prints_flips_their_scores_and_the_folder(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = dgpo("regrade", str(log))
    assert ended.exit_code == 0, ended.stderr
    [out] = (tmp_path / "evals").iterdir()
    assert out.name.startswith("evals-aime2025-openai-some-model-")
    for words in (
        "correct -> wrong",
        "588 -> 8",
        "2 of 4 samples flipped",
        "inspect_ai 0.3.160 reported match accuracy 0.5",
        f"written to evals/{out.name}",
    ):
        assert words in ended.stdout
    [line] = [line for line in ended.stdout.splitlines() if "588 -> 8" in line]
    assert line.count("588") == 1  # extracted; the answer is shown on request
    data = json.loads(dgpo("regrade", str(log), "--out", "mine", "--kind", "math", "--json").stdout)
    assert data["out"] == "mine" and data["logged"]["scores"] == {"match accuracy": 0.5}
    assert (
        len(data["flips"]) == 2 and data["report"]["card"]["protocol"]["checker"]["kind"] == "math"
    )


def test_what_is_no_log_is_one_line(log: Path, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": 1}')
    (tmp_path / "b.eval").write_bytes(log.read_bytes()[:100])
    for name, more, words in (
        ("a.json", [], "neither a log of inspect_ai nor results of lighteval"),
        ("b.eval", [], "a damaged zip file"),
        ("none.eval", ["--kind", "math"], "--kind: goes with a log of another program"),
        (".", ["--out", "x"], "--out: goes with a log of another program"),
    ):
        ended = dgpo("regrade", str(tmp_path / name), *more)
        assert ended.exit_code == 2 and words in ended.stderr, ended.stderr
        assert ended.stderr.count("\n") == 1 and "Traceback" not in ended.stderr


def test_an_evaluation_of_ours_is_still_read_as_one(tmp_path: Path, log: Path) -> None:
    run(log, tmp_path / "out")
    copied = tmp_path / "copy.json"
    copied.write_bytes((tmp_path / "out" / "report.json").read_bytes())
    for path in (tmp_path / "out", tmp_path / "out" / "report.json", copied):
        assert read_run(path).evaluation.avg_at_k == 0.5
