"""The comparison view and its JSON: true numbers, plain words, safe text."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.cells import cell_len

from dgpo_cli.core.errors import ConfigError, DataError
from dgpo_cli.evals.compare import run
from dgpo_cli.evals.views import comparison_json
from dgpo_cli.evals.views.comparison import in_words, render
from dgpo_cli.evals.views.evaluation_json import to_json
from dgpo_cli.stats.comparison import ComparedPair, NamedEvaluation
from tests.samples import HOSTILE, SGR, card, check_snapshot, evaluation, printed

BEFORE = (0, 1, 4, 7, 8, 8)


def made(name: str, correct: tuple[int, ...], *, k: int = 8, seed: int = 0) -> NamedEvaluation:
    return NamedEvaluation(name, evaluation(correct, k=k), card(seed=seed))


def pairs() -> tuple[ComparedPair, ...]:
    later = made("evals/later", (6, 7, 8, 8, 8, 8), seed=1)
    return run([made("evals/base", BEFORE), later, made("evals/worse", (0, 0, 3, 2, 8, 8))])


def forced() -> tuple[ComparedPair, ...]:
    other = replace(made("evals/other", (3, 0, 2, 7), k=4), card=card(temperature=1.0))
    return run([made("evals/base", BEFORE), other], force=True)


@pytest.mark.parametrize("width", [80, 40])
def test_snapshot_of_a_comparison(width: int) -> None:
    check_snapshot(f"compare-{width}.txt", printed(render(pairs()), width=width))


def test_snapshot_of_a_forced_comparison_in_colour() -> None:
    check_snapshot("compare-forced.txt", printed(render(forced()), color="truecolor"))


def test_snapshot_of_a_comparison_in_ascii() -> None:
    check_snapshot("compare-ascii-40.txt", printed(render(pairs()), width=40, encoding="ascii"))


@pytest.mark.parametrize("width", [24, 40, 80, 200])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_every_line_fits_the_width(width: int, encoding: str) -> None:
    nasty = "".join(HOSTILE).replace("\ud800", "")
    (hostile,) = run([made("x" * 300, (0,) * 40), made(nasty, (8,) * 40, k=257)])
    views = [pairs(), forced(), (replace(hostile, notes=(nasty,), subject=("y" * 500,)),)]
    views.append(run([made("a", (1,), k=1), made("b", (0,), k=1)]))
    for view in views:
        output = SGR.sub("", printed(render(view), width=width, encoding=encoding))
        assert all(cell_len(line) <= width for line in output.split("\n"))
        assert "\x1b" not in output and "\x07" not in output


def test_both_errors_have_their_interval_and_p() -> None:
    first = pairs()[0]
    found = first.comparison
    output = printed(render((first,)), width=120)
    row = next(line.split() for line in output.split("\n") if line.startswith("Avg@8"))
    assert row == ["Avg@8", "58.3%", "93.8%", "+35.4"]  # 28 and 45 of 48
    rerun = next(line for line in output.split("\n") if line.startswith("  rerun"))
    low, high = 100 * found.rerun_95.low, 100 * found.rerun_95.high
    assert f"{low:+.1f} to {high:+.1f}  p " in rerun and output.count("95% intervals") == 1
    problems = next(line for line in output.split("\n") if line.startswith("  problems"))
    # the four that changed all rose: 2 of 16 sign patterns are as extreme
    assert found.p_problems == 2 / 16 and "p = 0.125, other problems" in problems


def test_what_flipped_is_named_from_the_largest_change_on() -> None:
    output = printed(render(pairs()[:1]))
    assert re.search(r"3 gained: most samples right only in B\n +p0, p1, p2\n", output)
    assert "0 lost" in output
    table = output[output.index("Largest changes") :]
    assert re.findall(r"^(p\d) +(\d) +(\d) ", table, re.M) == [
        ("p0", "0", "6"),
        ("p1", "1", "7"),
        ("p2", "4", "8"),
        ("p3", "7", "8"),
    ]
    assert "adjusted by Holm for all 6 problems" in table.replace("\n", " ")


def test_the_words_follow_both_tests() -> None:
    found = pairs()[0].comparison
    both = replace(found, p_rerun=0.01, p_problems=0.04)
    assert "C is better than A, also on other" in in_words(both, letter="C")
    assert "B is worse" in in_words(replace(both, difference=-0.1), letter="B")
    these = in_words(replace(both, p_problems=0.06), letter="B")
    assert "better than A on these problems" in these and "no difference is shown" in these
    for p_problems in (0.01, 0.5):
        neither = replace(both, p_rerun=0.06, p_problems=p_problems)
        assert in_words(neither, letter="B").startswith("No difference is shown")
    assert "same score" in in_words(replace(both, difference=0.0), letter="B")


def test_greedy_runs_are_compared_by_the_error_over_problems_alone() -> None:
    a, b = made("a", (0, 1, 0, 0, 0, 0), k=1), made("b", (1, 1, 1, 1, 1, 0), k=1)
    sampled = run([a, b])[0].comparison
    greedy = [replace(each, evaluation=replace(each.evaluation, greedy=True)) for each in (a, b)]
    (pair,) = run(greedy)
    found = pair.comparison
    unknown = [found.stderr_rerun, found.rerun_95.low, found.p_rerun, found.smallest_rerun]
    assert all(map(math.isnan, unknown)) and not math.isnan(sampled.p_rerun)
    assert (found.p_problems, found.problems_95) == (sampled.p_problems, sampled.problems_95)
    assert "also on other" in in_words(replace(found, p_problems=0.01), letter="B")
    assert "B is better than A on these problems" in in_words(found, letter="B")
    output = printed(render((pair,)), width=120)
    row = next(line for line in output.split("\n") if line.startswith("  rerun"))
    assert "greedy" in row and "p " not in row and "nan" not in output
    json_of = comparison_json.to_json((pair,))["comparisons"][0]
    assert json_of["p_rerun"] is None and json_of["rerun_95"] == [None, None]
    (forced,) = run([a, greedy[1]], force=True)
    assert forced.comparison.p_rerun == sampled.p_rerun  # the other run has an error


def test_several_comparisons_are_said_to_be_several() -> None:
    assert "p below 0.025" in printed(render(pairs())).replace("\n", " ")
    assert "Bonferroni" not in printed(render(pairs()[:1]))


def test_forced_differences_are_repeated_and_scores_are_of_the_common_problems() -> None:
    (pair,) = forced()
    output = printed(render((pair,)))
    assert "not comparable" in output and "protocol.temperature: 0.6 -> 1.0" in output
    assert "problems: 6 and 4, 4 in both" in output
    assert "\nmaj@" not in output  # it would be of other problems
    assert pair.comparison.before == pytest.approx(12 / 32)


def test_the_json_is_exactly_the_documented_and_valid() -> None:
    data = json.loads(json.dumps(comparison_json.to_json(forced()), allow_nan=False))
    assert list(data) == ["version", "baseline", "comparisons"]
    assert data["baseline"] == {
        "name": "evals/base", "bench": "sums", "k": 8, "n_problems": 6, "avg_at_k": 28 / 48,
        "card_key": card().key,
    }  # fmt: skip
    (found,) = data["comparisons"]
    assert list(found) == [
        "run", "n_problems", "k_before", "k_after", "before", "after", "difference",
        "stderr_rerun", "rerun_95", "p_rerun", "smallest_rerun", "stderr_problems", "problems_95",
        "p_problems", "exact", "smallest_problems", "changes", "subject", "forced", "notes",
    ]  # fmt: skip
    assert found["run"]["name"] == "evals/other" and len(found["rerun_95"]) == 2
    assert found["changes"][1]["flipped"] is None and found["changes"][0]["flipped"] == "gained"
    assert len(found["forced"]) == 2 and len(found["notes"]) == 2


def test_an_evaluation_is_read_from_its_folder_or_its_report(tmp_path: Path) -> None:
    wanted = made("x", BEFORE)
    file = tmp_path / "report.json"
    file.write_text(json.dumps(to_json(wanted.evaluation, wanted.card)), encoding="utf-8")
    for path in (tmp_path, file):
        found = comparison_json.read_run(path)
        assert found.name == str(path) and found.card == wanted.card
        assert found.evaluation.problems == wanted.evaluation.problems


def test_what_is_no_evaluation_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"report\.json: no such file"):
        comparison_json.read_run(tmp_path)
    file = tmp_path / "report.json"
    for text, message in (("{", "not JSON"), ("[" * 100_000, "nested too deep"), ("{}", "no")):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=message) as caught:
            comparison_json.read_run(tmp_path)
        assert str(file) in str(caught.value)
