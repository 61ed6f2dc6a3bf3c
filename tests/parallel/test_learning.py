"""What is learnt does not depend on the number of ranks."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from tests.parallel import learning
from tests.ranks import on_ranks

expected = functools.cache(learning.alone)


@functools.cache
def replicated(count: int) -> list[dict[str, dict[str, Any]]]:
    return on_ranks(learning.all_cases, count)


@functools.cache
def sharded(kind: str, count: int, offload: bool = False) -> list[dict[str, dict[str, Any]]]:
    return on_ranks(learning.all_sharded, count, kind, offload, collective=True)


@pytest.mark.parametrize(
    ("kind", "count", "offload"),
    [("shard", 2, True), ("shard", 4, False), ("hybrid", 4, False)],
)
@pytest.mark.parametrize("case", learning.CASES)
def test_shards_learn_what_one_device_learns(
    case: str, kind: str, count: int, offload: bool
) -> None:
    first, *others = (found[case] for found in sharded(kind, count, offload))
    learning.check_equal(first, expected()[case], rounding=learning.CASES[case].rounding)
    for other in others:
        learning.check_equal(other, first, within=0.0)


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("case", learning.CASES)
def test_replicas_learn_what_one_device_learns(case: str, count: int) -> None:
    first, *others = (found[case] for found in replicated(count))
    learning.check_equal(first, expected()[case], rounding=learning.CASES[case].rounding)
    for other in others:  # to the bit: they hold one policy
        learning.check_equal(other, first, within=0.0)
