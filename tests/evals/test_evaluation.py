"""The evaluation view shows true numbers, labels its errors and warns where a score says less."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rich.cells import cell_len

from dgpo_cli.core.text import ASCII, UNICODE
from dgpo_cli.core.types import Disagreement, Evaluation, Interval
from dgpo_cli.evals.views.evaluation import pass_levels, render
from dgpo_cli.evals.views.outcome_grid import bar
from tests.samples import HOSTILE, SGR, card, check_snapshot, evaluation, printed

MODES = ["truecolor", "256", "16", "none"]


def odd(count: int) -> tuple[Disagreement, ...]:
    return tuple(Disagreement("p1", at, "68", None, "wrong", "correct") for at in range(count))


def full() -> Evaluation:
    return evaluation(duplicates=3, odd_duplicates=True, disagreements=odd(7), tokens_per_s=1234.5)


def line_of(output: str, start: str) -> str:
    return next(line for line in output.split("\n") if f"{line} ".startswith(f"{start} "))


@pytest.mark.parametrize("width", [80, 40])
@pytest.mark.parametrize("color", MODES)
def test_snapshot_of_an_evaluation(color: str, width: int) -> None:
    output = printed(render(full(), card()), color=color, width=width)
    check_snapshot(f"evaluation-{color}-{width}.txt", output)


def test_snapshot_in_ascii_at_40_columns() -> None:
    output = printed(render(full(), card()), width=40, encoding="ascii")
    check_snapshot("evaluation-ascii-40.txt", output)


def test_snapshot_of_30_problems_with_32_samples() -> None:
    many = evaluation([min(32, at * at // 20) for at in range(30)], k=32)
    check_snapshot("evaluation-30x32.txt", printed(render(many, card())))


@pytest.mark.parametrize("width", [24, 40, 80, 200])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_every_line_fits_the_width(width: int, encoding: str) -> None:
    nasty = card(template="".join(HOSTILE).replace("\ud800", ""), name="x" * 300)
    views = [
        evaluation([at % 9 for at in range(500)]),
        evaluation([3], k=7),
        evaluation([0, 100], k=257, duplicates=1, odd_duplicates=True, disagreements=odd(2)),
        evaluation([32] * 30, k=32),
        evaluation([5], k=8, rerun_95=Interval(0.999, 1.0), problems_95=Interval(0.111, 1.0)),
    ]
    for view in views:
        output = SGR.sub("", printed(render(view, nasty), width=width, encoding=encoding))
        assert all(cell_len(line) <= width for line in output.split("\n"))


def test_both_errors_are_labelled_in_words_and_have_their_interval() -> None:
    output = printed(
        render(
            evaluation(
                rerun_95=Interval(0.541, 0.624),
                problems_95=Interval(0.28, 0.84),
            )
        )
    )
    assert line_of(output, "Avg@8").split()[:2] == ["Avg@8", "58.3%"]  # 28 / 48
    rerun = line_of(output, "  rerun")
    assert "54.1 to 62.4  these problems sampled again" in rerun
    problems = line_of(output, "  problems")
    assert "28.0 to 84.0  other problems of this kind" in problems
    assert output.count("95%") == 1 and "95% intervals:" in line_of(output, "Avg@8")


def test_one_sample_each_has_an_unknown_error_and_still_an_interval() -> None:
    output = printed(render(evaluation([0, 1, 1], k=1)))
    assert "  20.8 to 93.9  these" in line_of(output, "  rerun")  # Wilson's for 2 of 3
    assert "standard error of a rerun" in output and "nan" not in output


def test_greedy_stands_in_place_of_the_error_of_a_rerun() -> None:
    output = printed(render(replace(evaluation([0, 1, 1], k=1), greedy=True)))
    assert "  greedy  the likeliest token each time" in line_of(output, "  rerun")
    assert "standard error of a rerun" not in output and "nan" not in output
    assert "other problems of this kind" in line_of(output, "  problems")


def test_the_truncated_bracket_the_score() -> None:
    report = evaluation([2, 6])
    high = 100 * (0.5 + report.truncated)
    assert report.truncated > 0
    line = line_of(printed(render(report)), "truncated")
    assert f"score 50.0 to {high:.1f} if these are all wrong or all correct" in line
    assert "all wrong or all correct" not in printed(render(evaluation([8, 8])))


@pytest.mark.parametrize(("share", "warned"), [(0.05, False), (0.051, True)])
def test_more_than_five_percent_without_a_verdict_is_a_warning(share: float, warned: bool) -> None:
    calm = {"truncated": 0.0, "no_answer": 0.0}
    output = printed(render(evaluation(**calm | {"truncated": share})))
    assert ("were truncated" in output) is warned
    output = printed(render(evaluation(**calm | {"no_answer": share})))
    assert ("have no readable answer" in output) is warned


def test_repeated_and_unjudged_samples_are_a_warning_with_their_number() -> None:
    output = printed(render(evaluation(duplicates=1, odd_duplicates=True)))
    assert "1 sample repeats an earlier sample" in output
    output = printed(render(evaluation(duplicates=41, odd_duplicates=True, unjudged=2 / 48)))
    assert "41 samples repeat an earlier sample" in output
    assert "check of 2 samples timed out" in output
    assert "repeat" not in printed(render(evaluation(duplicates=41)))


def test_the_first_disagreements_are_listed_and_said_to_settle_nothing() -> None:
    output = printed(render(evaluation(disagreements=odd(7))))
    assert "differs on 7 samples. The checker" in output
    assert output.count("second correct") == 5 and "and 2 more" in output
    hostile = Disagreement("\x1b[2J", 0, "[red]1", "\x07", "wrong", "correct")
    output = printed(render(evaluation(disagreements=(hostile,))))
    assert "\\x1b[2J sample 0" in output and "answer [red]1, read \\x07" in output


def test_pass_is_shown_for_powers_of_two_and_k() -> None:
    assert pass_levels(1) == (1,)
    assert pass_levels(12) == (1, 2, 4, 8, 12)
    assert pass_levels(32) == (1, 2, 4, 8, 16, 32)
    output = printed(render(evaluation()))
    assert line_of(output, "pass@").split() == ["pass@", "1", "2", "4", "8"]


def test_speed_is_shown_where_something_was_sampled() -> None:
    assert "tokens/s" not in printed(render(evaluation()))
    assert "sampled now at 1,230 tokens/s" in printed(render(evaluation(tokens_per_s=1234.4)))


def test_lengths_are_shown_for_right_and_wrong() -> None:
    output = printed(render(evaluation([8, 0])))  # lengths 10, 20, ..., 80 on either side
    output = output[output.index("Length of") :]
    assert line_of(output, "right").split() == ["right", "45.0", "17.0", "45.0", "73.0", "80.0"]
    assert line_of(output, "wrong").split()[1:] == line_of(output, "right").split()[1:]
    none_right = printed(render(evaluation([0])))
    assert line_of(none_right, "right").split() == ["right", *"-----"]


def test_problems_never_solved_are_named_and_their_names_are_safe() -> None:
    report = evaluation([0, 8])
    bad = tuple(
        type(p)("\x1b[2J" + p.id, p.answer, p.correct, p.majority, p.outcomes, p.lengths)
        for p in report.problems
    )
    output = printed(render(evaluation([0, 8], problems=bad)))
    assert "all-correct 1, all-wrong 1 of 2" in output
    assert "all-wrong: \\x1b[2Jp0" in output and "\x1b" not in output


def test_many_problems_are_a_bar_each() -> None:
    output = printed(render(evaluation([at % 9 for at in range(61)])))
    assert "\n 1  ·▁▂▃▄▅▆▇█· ▁▂" in output
    assert "· none" in output


def test_the_score_comes_last_and_the_card_only_where_it_is_asked_for() -> None:
    output = printed(render(evaluation(), card()))
    assert output.index("Problems  id") < output.index("Card ") < output.index("Avg@8")
    assert card().key[:12] in output
    assert "Card" not in printed(render(evaluation()))


def test_the_last_lines_have_the_model_and_what_it_cost() -> None:
    output = printed(render(evaluation(cost=12.345), name="Qwen3-8B"))
    end = output[output.index("sums  Qwen3-8B") :]
    assert line_of(end, "cost").split() == ["cost", "12.35"]
    assert len(end.splitlines()) <= 16
    assert "cost" not in printed(render(evaluation()))


def test_the_bars_show_none_all_and_between() -> None:
    assert [bar(c, k=8, glyphs=UNICODE) for c in range(9)] == list("·▁▂▃▄▅▆▇█")
    assert bar(1, k=1000, glyphs=UNICODE) == "▁"
    assert bar(999, k=1000, glyphs=UNICODE) == "▇"
    assert [bar(c, k=1, glyphs=ASCII) for c in (0, 1)] == [".", "#"]
