"""Evaluations that stop once the error is small enough."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from dgpo_cli.core.errors import DgpoError
from dgpo_cli.evals import regrade
from dgpo_cli.evals.eval_folder import EvalFolder
from dgpo_cli.evals.views.evaluation import render
from dgpo_cli.stats.stopping import stopping_round
from tests.evals.evaluations import PROBLEMS, Asked, install, problems, run, stored
from tests.recorder import Notes
from tests.samples import printed

N = len(PROBLEMS)


def mostly_right(seed: int) -> str:
    """The right answer of the first problem; wrong for the others, and at times for it too."""
    answer = 19 if random.Random(seed).random() < 0.9 else 3
    return rf"{seed}: \boxed{{{answer}}}"


def whole_rounds(out: Path) -> list[list[bool]]:
    lines = {(line["prompt_id"], line["index"]): line["outcome"] for line in stored(out)}
    rounds: list[list[bool]] = []
    while all((name, len(rounds)) in lines for name in PROBLEMS):
        rounds.append([lines[name, len(rounds)] == "correct" for name in PROBLEMS])
    return rounds


@pytest.mark.parametrize("batch", [1, 4, 1000])
def test_sampling_stops_after_a_whole_round_and_counts_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    install(monkeypatch, Asked(mostly_right))
    bench, out = problems(tmp_path), tmp_path / "e"
    size = f"rollout.backend.batch_size={batch}"
    result = run(bench, 200, out, size, stop_when=0.1)
    found = result.evaluation
    rounds = whole_rounds(out)
    assert found.k == stopping_round(rounds, margin=0.1) < 40
    assert found.rerun_95.half_width <= 0.1 == found.stop_when
    assert {len(problem.outcomes) for problem in found.problems} == {found.k}
    # A batch that holds many rounds is not filled with rounds that nobody needs.
    assert result.sampled == len(stored(out)) <= 1.5 * found.k * N + batch % 1000
    assert f"stopped at k={found.k}, ±" in printed(render(found))


def test_an_evaluation_that_was_interrupted_stops_where_one_that_was_not_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, Asked(mostly_right))
    bench = problems(tmp_path)
    whole = run(bench, 200, tmp_path / "whole", stop_when=0.1)
    batches = 0
    for _ in range(200):
        install(monkeypatch, Asked(mostly_right, fail_after=2))
        try:
            result = run(bench, 200, tmp_path / "parts", stop_when=0.1)
            break
        except KeyboardInterrupt:
            batches += 2
    assert batches > 4
    assert result.evaluation.problems == whole.evaluation.problems
    asked = install(monkeypatch, Asked(mostly_right))
    again = run(bench, 200, tmp_path / "parts", stop_when=0.1)
    assert (again.sampled, asked.seeds) == (0, [])
    assert again.evaluation.k == whole.evaluation.k


def test_a_larger_k_changes_nothing_once_sampling_has_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, Asked(mostly_right))
    bench, out = problems(tmp_path), tmp_path / "e"
    first = run(bench, 60, out, stop_when=0.1)
    assert run(bench, 500, out, stop_when=0.1).evaluation.k == first.evaluation.k
    regraded = regrade.run(out, observer=Notes([])).evaluation
    assert (regraded.k, regraded.stop_when) == (first.evaluation.k, 0.1)


def test_k_is_the_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Asked(mostly_right))
    found = run(problems(tmp_path), 5, tmp_path / "e", stop_when=0.001).evaluation
    assert found.k == 5
    assert "not stopped by k=5: ±" in printed(render(found))


def test_the_card_says_at_which_error_sampling_stops_and_only_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, Asked(mostly_right))
    bench = problems(tmp_path)
    plain, stopping = tmp_path / "plain", tmp_path / "stopping"
    run(bench, 4, plain)
    run(bench, 8, stopping, stop_when=0.2)
    assert "stop_when" not in EvalFolder(plain).read_card().protocol
    assert EvalFolder(stopping).read_card().protocol["stop_when"] == 0.2
    reports = [json.loads((each / "report.json").read_text()) for each in (plain, stopping)]
    assert "stop_when" not in reports[0] and reports[1]["stop_when"] == 0.2
    with pytest.raises(DgpoError, match="stop_when"):
        run(bench, 8, stopping)
