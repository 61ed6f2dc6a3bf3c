"""The linear scale ends at a round number, and its steps are evenly wide."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgpo_cli.inspect.views.linear import Linear
from dgpo_cli.inspect.views.measure import added, gate, mean, measure_of, pieces, value_of
from tests.samples import completion, solution

NUMBERS = st.floats(1e-300, 1e300)


@given(st.lists(NUMBERS, min_size=1, max_size=20), st.sampled_from([3, 8, 12]))
def test_the_end_is_a_round_number_not_much_beyond_the_largest(
    values: list[float], steps: int
) -> None:
    scale = Linear.of(values, steps=steps)
    assert max(values) * (1 - 1e-8) <= scale.end <= 5 / 3 * max(values) * (1 + 1e-8)
    assert f"{scale.end:.1e}"[:3] in {"1.0", "1.5", "2.0", "3.0", "5.0", "7.0"}
    assert scale.level(max(values)) >= math.floor(steps * 0.6)


@given(st.lists(st.floats(0, 10), min_size=2, max_size=20))
def test_levels_grow_with_the_number_and_signs_mirror_them(values: list[float]) -> None:
    scale = Linear.of(values, steps=12)
    levels = [scale.level(value) for value in sorted(values)]
    assert levels == sorted(levels)
    assert levels[0] >= 0 and levels[-1] <= 12
    negative = Linear.of([-value for value in values], steps=12)
    assert [negative.level(-value) for value in sorted(values)] == levels
    signed = Linear.of(values, steps=12, signed=True)
    assert [signed.level(-value) for value in sorted(values)] == [-level for level in levels]


def test_the_first_number_of_a_level_is_half_a_step_before_its_middle() -> None:
    scale = Linear.of([0.9], steps=4)  # 0 to 1: levels at 0, 1/4, 1/2, 3/4, 1
    assert scale.end == 1.0
    assert [scale.start_of(level) for level in (1, 2, 4)] == [0.125, 0.375, 0.875]
    assert [scale.level(value) for value in (0.124, 0.126, 0.374, 0.376, 0.9)] == [0, 1, 1, 2, 4]
    down = Linear.of([-0.9], steps=4)
    assert (down.end, down.start_of(2)) == (-1.0, -0.375)


def test_numbers_that_are_not_finite_do_not_stretch_the_scale() -> None:
    scale = Linear.of([-math.inf, -2.0, math.nan], steps=12)
    assert scale.end == -2.0
    assert scale.level(-math.inf) == 12 and scale.level(math.nan) == 0


def test_zeros_alone_have_no_scale() -> None:
    assert Linear.of([0.0, 0.0], steps=12).is_uniform
    assert Linear.of([], steps=12).is_uniform
    assert Linear.of([0.0], steps=12).level(5.0) == 0


def test_a_tiny_number_is_its_own_end() -> None:
    assert Linear.of([5e-324], steps=3).level(5e-324) == 3


def test_the_gate_is_the_entropy_by_the_largest_there_can_be() -> None:
    assert gate(math.log(8), vocab_size=8) == pytest.approx(1.0)
    assert gate(math.log(2), vocab_size=8) == pytest.approx(1 / 3)
    assert gate(9.9, vocab_size=8) == 1.0 and gate(-1e-9, vocab_size=8) == 0.0
    assert gate(0.5, vocab_size=1) == 0.0
    assert math.isnan(gate(math.nan, vocab_size=8))


def test_the_gate_is_the_one_of_the_credit_rule() -> None:
    torch = pytest.importorskip("torch")
    from dgpo_cli.algo.credit.dgpo import entropy_gate

    for entropy in (0.0, 0.3, 2.5, 40.0):
        for vocab_size in (1, 2, 261, 151936):
            twin = entropy_gate(torch.tensor([entropy]).double(), vocab_size=vocab_size)
            assert gate(entropy, vocab_size=vocab_size) == pytest.approx(float(twin[0]))


def test_each_measure_is_the_number_that_it_names() -> None:
    shown = solution()
    token = shown.tokens[5]
    expected = {
        "weight": token.weight,
        "hellinger": token.hellinger_sq,
        "entropy": token.entropy,
        "score": token.score,
        "advantage": 0.75 * token.weight,
        "logprob": token.logprob,
    }
    for what, value in expected.items():
        assert value_of(token, what=what, advantage=0.75) == value  # type: ignore[arg-type]
        measure = measure_of(shown, what=what, steps=12)  # type: ignore[arg-type]
        assert measure.values[5] == value and len(measure.values) == len(shown.tokens)


def test_a_character_of_several_tokens_has_the_level_of_their_sum() -> None:
    shown = completion(["a", "", "", "😀", "b"], [0.0, 0.3, 0.3, 0.3, 0.0], tau=0.3)
    for what in ("weight", "hellinger", "score", "advantage"):
        measure = measure_of(shown, what=what, steps=12)  # type: ignore[arg-type]
        whole = pieces(shown.tokens)[1]
        assert (whole.start, whole.stop) == (1, 4)
        summed = math.fsum(measure.values[1:4])
        assert measure.piece_level(whole) == measure.scale.level(summed)
        assert measure.piece_level(pieces(shown.tokens)[0]) == measure.level(0)


def test_sums_survive_numbers_that_are_not_finite() -> None:
    assert added([1.0, 2.0]) == 3.0
    assert math.isnan(added([math.inf, -math.inf]))
    assert math.isnan(mean([]))
    assert mean([1.0, 2.0, 6.0]) == 3.0
