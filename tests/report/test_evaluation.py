"""The evaluation view shows true numbers, warns where a score says less, and is valid JSON."""

from __future__ import annotations

import json
import math

import pytest
from rich.cells import cell_len

from dgpo_cli.report.evaluation import compare, points, render, to_json
from dgpo_cli.report.grid import bar, colours
from dgpo_cli.report.ramp import RAMPS, contrast, luminance
from dgpo_cli.report.text import ASCII, UNICODE
from dgpo_cli.types import ProblemResult
from tests.report.samples import SGR, check_snapshot, evaluation, printed

MODES = ["truecolor", "256", "16", "none"]


@pytest.mark.parametrize("color", MODES)
def test_snapshot_of_an_evaluation(color: str) -> None:
    check_snapshot(f"evaluation-{color}.txt", printed(render(evaluation()), color=color))


def test_snapshot_of_a_comparison() -> None:
    before, after = evaluation(), evaluation((6, 7, 8, 8, 8, 8))
    check_snapshot("compare.txt", printed(compare(before, after)))


def test_snapshot_in_ascii_at_40_columns() -> None:
    output = printed(render(evaluation()), width=40, encoding="ascii")
    check_snapshot("evaluation-ascii-40.txt", output)


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("color", MODES)
def test_every_line_fits_the_width(width: int, color: str) -> None:
    many = evaluation(tuple(at % 9 for at in range(500)), truncated=0.3, no_answer=0.2)
    few = evaluation((1, 2))
    for view in (render(many), compare(few, many), compare(few, few)):
        output = SGR.sub("", printed(view, width=width, color=color))
        assert all(cell_len(line) <= width for line in output.split("\n"))


def test_both_errors_are_labelled_and_have_their_95_percent_half_width() -> None:
    output = printed(render(evaluation()))
    assert "58.3 %" in output  # 28 / 48
    rerun = next(line for line in output.split("\n") if "rerun" in line)
    assert "± 2.0" in rerun and "95 %:   ± 3.9" in rerun  # 1.96 * 2.0 = 3.92
    problems = next(line for line in output.split("\n") if line.startswith("  problems"))
    assert "± 15.0" in problems and "95 %:  ± 29.4" in problems


def test_an_unknown_error_is_said_to_be_unknown() -> None:
    output = printed(render(evaluation(stderr_rerun=math.nan, stderr_problems=math.nan)))
    assert output.count("unknown") == 2 and "nan" not in output


@pytest.mark.parametrize(("share", "warned"), [(0.05, False), (0.051, True)])
def test_more_than_five_percent_without_a_verdict_is_a_warning(share: float, warned: bool) -> None:
    assert ("were cut off" in printed(render(evaluation(truncated=share)))) is warned
    assert ("hold no answer" in printed(render(evaluation(no_answer=share)))) is warned


def test_the_grid_shows_none_all_and_between() -> None:
    assert [bar(c, k=8, glyphs=UNICODE) for c in range(9)] == list("·▁▂▃▄▅▆▇█")
    assert bar(1, k=1000, glyphs=UNICODE) == "▁"
    assert bar(999, k=1000, glyphs=UNICODE) == "▇"
    assert [bar(c, k=1, glyphs=ASCII) for c in (0, 1)] == [".", "#"]
    assert "\n1  ·▁▄▇██\n" in printed(render(evaluation()))


@pytest.mark.parametrize("depth", ["truecolor", "256", "16"])
def test_the_bars_read_on_the_card_and_brighten(depth) -> None:  # type: ignore[no-untyped-def]
    ramp = RAMPS[depth]
    shades = colours(ramp)
    assert len(shades) >= (1 if depth == "16" else 2)
    assert all(contrast(shade, ramp.card.background) >= 4.5 for shade in shades)
    assert [luminance(shade) for shade in shades] == sorted(map(luminance, shades))


def test_problems_never_solved_are_named_and_their_names_are_safe() -> None:
    problems = (ProblemResult("\x1b[2Jp", "1", 0), ProblemResult("q", "2", 8))
    output = printed(render(evaluation((0, 8), problems=problems)))
    assert "always solved 1, never solved 1 of 2" in output
    assert "never: \\x1b[2Jp" in output and "\x1b" not in output


def test_the_change_has_the_error_of_two_independent_reruns() -> None:
    # 0.03 and 0.04 give 0.05; 45 / 48 - 28 / 48 = 17 / 48 = 35.4 points = 7.08 errors
    before = evaluation(stderr_rerun=0.03)
    after = evaluation((6, 7, 8, 8, 8, 8), stderr_rerun=0.04)
    output = printed(compare(before, after))
    row = next(line.split() for line in output.split("\n") if line.startswith("Avg@8"))
    assert row == ["Avg@8", "58.3", "%", "93.8", "%", "+35.4"]
    rerun = next(line for line in output.split("\n") if "rerun" in line)
    assert rerun.split() == ["rerun", "±", "3.0", "±", "4.0", "±", "5.0"]
    assert "rose by 35.4 points, 7 times its rerun error" in output


def test_a_change_within_the_rerun_error_is_said_to_be() -> None:
    small = evaluation((0, 1, 4, 7, 8, 7), stderr_rerun=0.02)
    assert "within what a rerun" in printed(compare(evaluation(), small))
    assert "fell by" in printed(compare(evaluation((8,) * 6), evaluation()))


def test_different_problems_are_not_compared_in_silence() -> None:
    other = evaluation((8, 8, 8, 8, 8, 8), bench="other")
    assert "the change says little" in printed(compare(evaluation(), other))
    fewer = evaluation((8, 8))
    assert "the change says little" in printed(compare(evaluation(), fewer))


def test_a_change_that_rounds_to_zero_has_no_minus() -> None:
    assert points(-0.0001) == "+0.0"
    assert points(-0.012) == "-1.2"


def test_the_json_has_exactly_the_documented_keys_and_is_valid() -> None:
    result = evaluation(stderr_rerun=math.nan, pass_at_k={1: 0.5, 8: math.nan})
    data = json.loads(json.dumps(to_json(result), allow_nan=False))
    assert list(data) == [
        "bench",
        "k",
        "n_problems",
        "avg_at_k",
        "stderr_rerun",
        "stderr_problems",
        "pass_at_k",
        "maj_at_k",
        "truncated",
        "no_answer",
        "mean_tokens",
        "problems",
    ]
    assert data["pass_at_k"] == {"1": 0.5, "8": None}
    assert data["stderr_rerun"] is None
    assert data["problems"][1] == {"id": "p1", "answer": "1", "correct": 1}


def test_a_result_without_problems_is_shown_without_a_grid() -> None:
    output = printed(render(evaluation((), avg_at_k=math.nan, pass_at_k={}, n_problems=0)))
    assert "unknown" in output and "Problems" not in output
