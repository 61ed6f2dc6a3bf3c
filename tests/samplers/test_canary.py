"""What proves that a sampler has the trainer's weights, and what does not."""

from __future__ import annotations

import math

import pytest

from dgpo_cli.core.errors import BackendError
from dgpo_cli.samplers.canary import TOLERANCES, Canary, mean_gap

BASE = [-1.0, -2.0, -3.0, -4.0]


def shifted(by: float) -> list[float]:
    return [x + by for x in BASE]


def canary() -> Canary:
    return Canary(tolerance=0.1, dtype="bfloat16")


def test_the_gap_is_the_mean_of_the_distances() -> None:
    assert mean_gap([1.0, 2.0, 3.0], [1.5, 1.0, 3.0]) == 0.5
    assert mean_gap([], []) == math.inf
    assert mean_gap([1.0], [1.0, 2.0]) == math.inf


def test_rounding_passes_and_more_does_not() -> None:
    canary().check(shifted(0.09), BASE, what="v1", where="s")
    with pytest.raises(BackendError, match=r"differ by 0\.11 nats .* more than 0\.1 for bfloat16"):
        canary().check(shifted(0.11), BASE, what="v1", where="s")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_a_number_is_no_proof(value: float) -> None:
    with pytest.raises(BackendError):
        canary().check([value, *BASE[1:]], BASE, what="v1", where="s")


def test_equal_bits_are_a_skipped_sync_once_the_trainer_has_moved() -> None:
    watch = canary()
    watch.check(BASE, BASE, what="v1", where="s")
    with pytest.raises(BackendError, match=r"equal those of v1 bit for bit, .* the sync of v2"):
        watch.check(BASE, shifted(0.01), what="v2", where="s")


def test_equal_bits_are_fine_while_the_trainer_stands_still() -> None:
    watch = canary()
    watch.check(BASE, BASE, what="v1", where="s")
    watch.check(BASE, shifted(1e-4), what="v2", where="s")


def test_small_skipped_steps_add_up_until_they_are_found() -> None:
    watch = canary()
    watch.check(BASE, BASE, what="v0", where="s")
    with pytest.raises(BackendError, match="equal those of v0"):
        for step in range(1, 30):
            watch.check(BASE, shifted(2e-4 * step), what=f"v{step}", where="s")


def test_a_return_to_the_base_is_found_long_after() -> None:
    watch = canary()
    watch.check(BASE, BASE, what="the base model", where="s")
    for step in range(1, 5):
        watch.check(shifted(0.01 * step), shifted(0.01 * step), what=f"v{step}", where="s")
    with pytest.raises(BackendError, match="equal those of the base model"):
        watch.check(BASE, shifted(0.05), what="v5", where="s")


def test_the_error_says_which_weights_the_numbers_fit() -> None:
    watch = canary()
    watch.check(BASE, BASE, what="v1", where="s")
    with pytest.raises(BackendError, match="its numbers fit v1"):
        watch.check(shifted(1e-6), shifted(1.0), what="v2", where="s")
    with pytest.raises(BackendError, match="check its model"):
        watch.check(shifted(2.0), shifted(1.0), what="v2", where="s")


def test_a_server_holds_its_weights_while_it_says_the_same() -> None:
    watch = canary()
    assert not watch.holds(BASE)
    watch.check(BASE, BASE, what="v1", where="s")
    assert watch.holds(shifted(1e-6)) and not watch.holds(shifted(0.02))


def test_rougher_types_are_given_more() -> None:
    order = ["float32", "float16", "bfloat16", "nf4"]
    assert sorted(TOLERANCES, key=lambda name: TOLERANCES[name]) == order
