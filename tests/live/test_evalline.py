"""The line of an evaluation during training, and what a run says of its evaluations at the end."""

from __future__ import annotations

import math
from typing import Any

from dgpo_cli.live.evalline import eval_line, levels, summary


def line(step: int, share: float, **changes: Any) -> dict[str, Any]:
    return {
        "step": step,
        "bench": "sums",
        "k": 8,
        "avg_at_k": share,
        "rerun_95": {"low": share - 0.0213, "high": share + 0.0213},
        "problems_95": {"low": share - 0.04, "high": share + 0.042},
        "truncated": 0.0,
        **changes,
    }


CURVE = [line(0, 0.0), line(10, 0.49), line(20, 0.999), line(30, 1.0)]


def test_the_newest_value_stands_with_both_errors_and_the_curve() -> None:
    assert eval_line(CURVE, width=100) == (
        "eval sums after step 30  Avg@8 100.0%  "
        "95%: 97.9 to 102.1 rerun, 96.0 to 104.2 problems  ▁▄██"
    )


def test_what_does_not_fit_is_left_out_the_score_last() -> None:
    whole = eval_line(CURVE, width=100)
    for width in range(1, 100):
        shown = eval_line(CURVE, width=width)
        assert len(shown) <= max(width, len("eval sums after step 30  Avg@8 100.0%"))
        assert shown.startswith("eval sums after step 30  Avg@8 100.0%")
    assert len(eval_line(CURVE, width=len(whole) - 1)) < len(whole)
    assert "problems" not in eval_line(CURVE, width=len(whole) - 1)


def test_truncated_samples_are_told_of_and_unknown_errors_are_not() -> None:
    unknown = {"low": None, "high": math.nan}
    text = eval_line([line(0, 0.5, truncated=0.25, rerun_95=unknown)], width=100)
    head = "eval sums after step 0  Avg@8 50.0%"
    assert text == f"{head}  95%: 46.0 to 54.2 problems  truncated 25%  ▅"
    unknown = {"low": math.nan, "high": math.nan}
    text = eval_line([line(0, 0.5, rerun_95=unknown, problems_95=unknown)], width=100)
    assert text == f"{head}  ▅"


def test_greedy_is_said_beside_the_score() -> None:
    unknown = {"low": math.nan, "high": math.nan}
    text = eval_line([line(0, 0.5, k=1, greedy=True, rerun_95=unknown)], width=100)
    assert text == "eval sums after step 0  Avg@1 50.0% greedy  95%: 46.0 to 54.2 problems  ▅"


def test_a_long_curve_keeps_its_end() -> None:
    curve = [*(line(i, 0.0) for i in range(500)), line(500, 1.0)]
    text = eval_line(curve, width=120)
    assert len(text) == 120 and text.endswith("▁▁█")


def test_only_points_of_the_same_benchmark_are_on_a_curve() -> None:
    text = eval_line([line(0, 0.1, bench="aime2025"), line(0, 0.9)], width=100)
    assert text.endswith("problems  █")


def test_plain_terminals_get_digits() -> None:
    text = eval_line(CURVE, width=100, ascii_only=True)
    assert text.endswith("104.2 problems  1488") and text.isascii()
    assert levels([0.0, 0.124, 0.126, 1.0], ascii_only=True) == "1128"


def test_the_summary_needs_two_points_of_the_same_kind() -> None:
    assert summary([]) is None
    assert summary([line(0, 0.5)]) is None
    assert summary([line(0, 0.5, k=4), line(9, 0.6)]) is None
    assert summary([line(0, 0.1, k=4), line(0, 0.5), line(9, 0.625)]) == (
        "sums Avg@8 50.0% after step 0, 62.5% after step 9"
    )
