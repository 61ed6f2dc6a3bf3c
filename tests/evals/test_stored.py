"""An evaluation is read as far as it goes, and what is lost is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from dgpo_cli.core.errors import ConfigError
from dgpo_cli.core.events import NOBODY
from dgpo_cli.evals.page import stored
from dgpo_cli.evals.page.stored import StoredEvaluation
from tests.evals.stored_evaluations import evaluation, line

TWO = {"1+1": "cwc", "2+2": "tnc"}


def read(*paths: Path) -> tuple[StoredEvaluation, ...]:
    return stored.run(paths, observer=NOBODY)


def letters(shown: StoredEvaluation) -> dict[str, list[str]]:
    return {
        problem.id: [problem.samples[at].outcome for at in sorted(problem.samples)]
        for problem in shown.problems
    }


def test_a_finished_evaluation_is_whole(tmp_path: Path) -> None:
    (found,) = read(evaluation(tmp_path / "a", TWO).path)
    assert letters(found) == {
        "1+1": ["correct", "wrong", "correct"],
        "2+2": ["truncated", "no_answer", "correct"],
    }
    assert (found.name, found.bench, found.wanted, found.notes) == ("a", "sums", 2, ())
    assert found.scores is not None and found.scores.avg_at_k == 0.5
    first = found.problems[0]
    assert (first.answer, first.messages) == ("gold of 1+1", (("user", "How much is 1+1?"),))
    sample = first.samples[1]
    assert sample.text is not None and sample.text[sample.answer_at :] == "so 1+1 is 1"
    assert (sample.tokens, sample.extracted, sample.finish) == (20, "7", "stop")


def test_an_evaluation_without_a_report_has_the_scores_of_its_whole_rounds(tmp_path: Path) -> None:
    part = {"1+1": "cwc", "2+2": "tc"}
    (found,) = read(evaluation(tmp_path / "a", part, report=False).path)
    assert found.scores is not None
    assert (found.scores.k, found.scores.avg_at_k) == (2, 0.5)
    assert found.notes == ("unfinished: 5 samples, of 2 of 2 problems",)


def test_a_first_round_that_is_not_over_has_no_score(tmp_path: Path) -> None:
    folder = evaluation(tmp_path / "a", {"1+1": "c"}, wanted=30, report=False)
    (found,) = read(folder.path)
    assert (found.scores, found.wanted, len(found.problems)) == (None, 30, 1)
    assert found.notes == ("unfinished: 1 sample, of 1 of 30 problems",)


def test_rounds_beyond_the_report_count_once_they_are_whole(tmp_path: Path) -> None:
    folder = evaluation(tmp_path / "a", {"1+1": "c", "2+2": "w"})
    folder.samples.append([line("1+1", 1, "c")])
    (found,) = read(folder.path)
    assert found.scores is not None and found.scores.k == 1
    assert found.notes == ("unfinished: 3 samples, of 2 of 2 problems",)
    folder.samples.append([line("2+2", 1, "c")])
    (found,) = read(folder.path)
    assert found.scores is not None and (found.scores.k, found.scores.avg_at_k) == (2, 0.75)
    assert found.notes == ()


def test_broken_and_changed_lines_are_named_and_the_report_fills_the_gap(tmp_path: Path) -> None:
    folder = evaluation(tmp_path / "a", TWO)
    file = folder.samples.path
    rows = file.read_bytes().splitlines(keepends=True)
    rows[1] = b"{broken\n"
    rows[2] = rows[2].replace(b'"wrong"', b'"crash"')
    rows.append(rows[0])  # a second time
    file.write_bytes(b"".join(rows) + rows[3][:50])  # and a line that is being written
    (found,) = read(folder.path)
    assert found.notes == (
        "samples.jsonl: lines 2, 7 cannot be read",
        "samples.jsonl: line 3 changed since written",
    )
    assert letters(found)["1+1"] == ["correct", "crash", "correct"]
    assert letters(found)["2+2"] == ["truncated", "no_answer", "correct"]
    lost = found.problems[1].samples[0]
    assert (lost.text, lost.tokens) == (None, 10)


def test_a_sample_of_a_number_that_nobody_draws_is_left_out(tmp_path: Path) -> None:
    folder = evaluation(tmp_path / "a", TWO)
    folder.samples.append([line("1+1", 5, "c") | {"index": 2**40}])
    (found,) = read(folder.path)
    assert found.notes == ("samples.jsonl: 1 sample beyond 100,000 left out",)
    assert max(found.problems[0].samples) == 2


def test_a_turn_may_have_no_content_or_parts_of_it(tmp_path: Path) -> None:
    turns = [{"role": "system"}, {"role": "user", "content": [{"type": "text", "text": "1"}, "+1"]}]
    odd = line("1+1", 0, "c", messages=turns)
    (found,) = read(evaluation(tmp_path / "a", {"1+1": "c"}, lines=[odd]).path)
    assert found.problems[0].messages == (("system", ""), ("user", "1+1"))


def test_a_report_alone_has_outcomes_and_lengths(tmp_path: Path) -> None:
    folder = evaluation(tmp_path / "a", TWO)
    folder.samples.path.unlink()
    folder.card_file.unlink()
    (found,) = read(folder.report_file)
    assert letters(found)["2+2"] == ["truncated", "no_answer", "correct"]
    assert len(found.notes) == 2 and "samples.jsonl" in found.notes[1]


@pytest.mark.parametrize("name", ["report.json", "card.json"])
def test_a_broken_file_is_left_out_and_named(tmp_path: Path, name: str) -> None:
    folder = evaluation(tmp_path / "a", TWO)
    (folder.path / name).write_text('{"version": 1, "bench"')
    (found,) = read(folder.path)
    assert found.scores is not None and found.scores.avg_at_k == 0.5
    assert len(found.notes) == 1 and name in found.notes[0]


def test_a_run_stands_for_its_evaluations(tmp_path: Path) -> None:
    for step in (10, 5):
        evaluation(tmp_path / "run" / "evals" / f"step-{step:06d}", TWO)
    (tmp_path / "run" / "evals" / "step-000015").mkdir()
    found = read(tmp_path / "run")
    assert [each.name for each in found] == ["step-000005", "step-000010"]


def test_an_open_thought_is_all_thought_whoever_opened_it(tmp_path: Path) -> None:
    lines = [
        line("1+1", 0, "t", text="<think>and so on"),
        line("1+1", 1, "c", text="by the prompt</think>2", starts_in_thought=True),
        line("1+1", 2, "t", text="by the prompt", starts_in_thought=True),
        line("1+1", 3, "c", text="none"),
    ]
    (found,) = read(evaluation(tmp_path / "a", {"1+1": "tctc"}, lines=lines).path)
    samples = found.problems[0].samples
    cut = [(s.text or "")[s.answer_at :] for s in (samples[at] for at in range(4))]
    assert cut == ["", "2", "", "none"]


def test_a_disputed_sample_is_one_that_the_report_lists(tmp_path: Path) -> None:
    lines = [
        line("1+1", 0, "c", second="wrong"),
        line("1+1", 1, "w", second="no_answer"),
        line("1+1", 2, "w", second="timeout"),
    ]
    (found,) = read(evaluation(tmp_path / "a", {"1+1": "cww"}, lines=lines).path)
    assert [found.problems[0].samples[at].disputed for at in range(3)] == [True, False, False]
    assert found.scores is not None
    assert [each.index for each in found.scores.disagreements] == [0]


def test_a_path_without_an_evaluation_is_named_with_the_fix(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    folder = evaluation(tmp_path / "a", TWO).path
    for paths in ((tmp_path / "absent",), (empty,), (folder, folder), (folder / "card.json",)):
        with pytest.raises(ConfigError, match=paths[-1].name):
            read(*paths)


def test_without_a_path_the_newest_evaluation_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="dgpo eval"):
        read()
    evaluation(tmp_path / "evals" / "new", TWO)
    assert [each.name for each in read()] == ["new"]
