"""The split of a step's groups: complete, exclusive, and by the rules of its table."""

from __future__ import annotations

import math
from itertools import combinations_with_replacement

import pytest

from dgpo_cli.algo.group_split import PARTS, part_of, split_metrics
from dgpo_cli.core.types import OUTCOMES, Outcome, ScoredGroup
from tests.algo.test_rollout_summary import group


def of(*outcomes: Outcome, signal: bool) -> ScoredGroup:
    rows = [(outcome, 0.0, 3, "stop") for outcome in outcomes]
    advantages = [1.0, *[-0.5] * (len(rows) - 1)] if signal else [0.0] * len(rows)
    return group(rows, advantages=advantages)  # type: ignore[arg-type]


@pytest.mark.parametrize("dynamic", [False, True])
def test_every_group_is_in_exactly_one_part_and_the_shares_add_up(dynamic: bool) -> None:
    groups = [
        of(*outcomes, signal=signal)
        for outcomes in combinations_with_replacement(OUTCOMES, 3)
        for signal in (True, False)
    ]
    shares = split_metrics(groups, dynamic_sampling=dynamic)
    assert shares.keys() == {f"split/{part}" for part in PARTS}
    assert math.fsum(shares.values()) == pytest.approx(1.0, abs=1e-12)
    counted = [part_of(each, dynamic_sampling=dynamic) for each in groups]
    assert shares == {f"split/{part}": counted.count(part) / len(groups) for part in PARTS}


@pytest.mark.parametrize(
    ("outcomes", "signal", "part"),
    [
        (("correct", "wrong", "wrong"), True, "signal"),
        (("wrong", "wrong", "wrong"), True, "signal"),  # a penalty for length tells them apart
        (("correct", "correct", "correct"), False, "all_right"),
        (("wrong", "out_of_range", "truncated"), False, "all_wrong"),
        (("truncated", "truncated", "wrong"), False, "truncated"),
        (("truncated", "no_answer", "wrong"), False, "truncated"),  # a tie: what a setting mends
        (("no_answer", "no_answer", "truncated"), False, "no_answer"),
        (("no_answer", "wrong"), False, "no_answer"),
        (("wrong", "wrong", "timeout"), False, "unjudged"),  # it might have been right
        (("crash", "crash", "truncated"), False, "unjudged"),
        (("correct", "truncated", "truncated"), False, "filtered"),  # the loss masks the rest
    ],
)
def test_a_group_falls_where_its_table_says(
    outcomes: tuple[Outcome, ...], signal: bool, part: str
) -> None:
    assert part_of(of(*outcomes, signal=signal), dynamic_sampling=False) == part


def test_dynamic_sampling_filters_what_is_all_right_or_all_wrong() -> None:
    """A penalty for length gives an all-wrong group rewards that differ; it is left out too."""
    assert part_of(of("wrong", "wrong", signal=True), dynamic_sampling=True) == "filtered"
    assert part_of(of("correct", "correct", signal=False), dynamic_sampling=True) == "filtered"
    assert part_of(of("correct", "wrong", signal=True), dynamic_sampling=True) == "signal"
