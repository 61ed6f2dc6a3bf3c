"""Laws of regrade: today's verdicts on stored samples, every flip named, no model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dgpo_cli.core.errors import ConfigError, DataError
from dgpo_cli.evals import card, regrade
from dgpo_cli.evals.request import Flip, RegradeResult
from tests.evals.evaluations import Asked, boxed, install, problems, run, stored
from tests.recorder import Notes


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished evaluation of three problems with three samples each."""
    install(monkeypatch, Asked(boxed))
    run(problems(tmp_path), 3, tmp_path / "out")
    return tmp_path / "out"


def again(folder: Path, notes: list[str] | None = None) -> RegradeResult:
    return regrade.run(folder, observer=Notes([] if notes is None else notes))


def judge_wrongly(folder: Path, number: int, **fields: Any) -> dict[str, Any]:
    """Store other verdict fields in a line, as an older checker might have."""
    lines = stored(folder)
    lines[number] |= fields
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    (folder / "samples.jsonl").write_text(text)
    return lines[number]


def test_a_second_judgement_by_the_same_checker_changes_nothing(folder: Path) -> None:
    names = ("samples.jsonl", "card.json", "settings.toml")
    before = {name: (folder / name).read_bytes() for name in names}
    (folder / "report.json").unlink()
    result = again(folder)
    assert (result.flips, result.samples) == ((), 9)
    assert {name: (folder / name).read_bytes() for name in names} == before
    report = json.loads((folder / "report.json").read_text())
    assert (report["k"], report["card"]["subject"]) == (3, result.card.subject)


def test_every_flip_is_listed_and_stored(folder: Path) -> None:
    truth = stored(folder)
    whole = again(folder).evaluation
    for number in (1, 4):
        judge_wrongly(folder, number, outcome="timeout", extracted=None)
    result = again(folder)
    expected = [
        Flip(
            prompt_id=truth[n]["prompt_id"],
            index=truth[n]["index"],
            answer=truth[n]["answer"],
            old="timeout",
            new=truth[n]["outcome"],
            old_extracted=None,
            new_extracted=truth[n]["extracted"],
        )
        for n in (1, 4)
    ]
    assert list(result.flips) == expected
    assert stored(folder) == truth
    assert result.evaluation.problems == whole.problems
    assert again(folder).flips == ()


def test_lines_that_were_edited_are_told_and_judged_as_they_are(folder: Path) -> None:
    judge_wrongly(folder, 1, answer="123")
    notes: list[str] = []
    result = again(folder, notes)
    said = "1 of its lines were changed since they were written and are judged as they are now: 2"
    assert any(event.endswith(said) for event in notes)
    assert [flip.answer for flip in result.flips] in (["123"], [])
    assert stored(folder)[1]["answer"] == "123" and stored(folder)[1]["outcome"] == "wrong"
    notes.clear()
    again(folder, notes)
    assert notes == []


def test_another_reading_of_a_wrong_answer_is_stored_but_no_flip(folder: Path) -> None:
    truth = stored(folder)
    number = next(n for n, line in enumerate(truth) if line["outcome"] == "wrong")
    judge_wrongly(folder, number, extracted="something")
    assert again(folder).flips == ()
    assert stored(folder) == truth


def test_the_new_version_of_the_checker_goes_on_card_and_samples(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(regrade, "CHECKER_VERSION", "next")
    monkeypatch.setattr(card, "CHECKER_VERSION", "next")
    before = json.loads((folder / "card.json").read_text())
    result = again(folder)
    after = json.loads((folder / "card.json").read_text())
    assert after["protocol"]["checker"]["version"] == "next"
    assert {line["checker"] for line in stored(folder)} == {"next"}
    assert after["key"] == result.card.key != before["key"]
    assert (after["subject"], after["environment"]) == (before["subject"], before["environment"])


def test_the_second_opinion_is_kept(folder: Path) -> None:
    judge_wrongly(folder, 2, outcome="crash", second="correct")
    again(folder)
    assert stored(folder)[2]["second"] == "correct"


def test_a_report_over_fewer_samples_stays_one(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, Asked(boxed))
    run(problems(tmp_path), 2, folder)
    result = again(folder)
    assert (result.evaluation.k, result.samples) == (2, 9)


def test_an_unfinished_evaluation_is_judged_but_not_reported(folder: Path) -> None:
    lines = stored(folder)
    judge_wrongly(folder, 0, outcome="crash", extracted=None)
    path = folder / "samples.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]) + b'{"torn')
    (folder / "report.json").unlink()
    notes: list[str] = []
    with pytest.raises(DataError, match="not every problem has a sample yet; finish it"):
        again(folder, notes)
    assert not (folder / "report.json").exists()
    assert any("torn or damaged" in event for event in notes)
    assert stored(folder) == lines[:2]


def test_a_folder_without_samples_is_a_usage_error_and_stays_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no samples\.jsonl in it"):
        again(tmp_path)
    assert list(tmp_path.iterdir()) == []
