"""Credit rules: the slow twin, and what every rule must keep whole."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dgpo_cli.algo.credit import (
    CreditRule,
    DgpoCredit,
    EntropyCredit,
    ProportionalCredit,
    SurprisalCredit,
    TopEntropyCredit,
    UniformCredit,
)
from dgpo_cli.core.types import TokenStats
from tests.algo import twins

VOCAB = 100


class Own(CreditRule):
    """A rule of somebody's own: distances above a bound."""

    rule: str = "own"
    above: float = 0.1

    def token_scores(
        self, stats: TokenStats, mask: torch.Tensor, *, vocab_size: int
    ) -> torch.Tensor:
        return (stats.hellinger_sq - self.above).clamp(min=0)


RULES = [
    DgpoCredit(),
    DgpoCredit(tau=0.01, kappa=0.0),
    DgpoCredit(target_ess=0.8),
    UniformCredit(),
    EntropyCredit(),
    Own(),
    TopEntropyCredit(share=0.3, share_over="completion"),
    ProportionalCredit(kappa=0.7),
    SurprisalCredit(),
    SurprisalCredit(mix=0.0, cap=1.5),
]
EVERY_RULE = pytest.mark.parametrize("rule", RULES, ids=lambda rule: repr(rule))
UNIT = st.floats(0, 1, width=32)
BATCH = st.tuples(
    hnp.arrays("float32", (4, 7), elements=UNIT),
    hnp.arrays("float32", (4, 7), elements=UNIT),
    st.lists(st.integers(0, 7), min_size=4, max_size=4),
)


def make(d, h, lengths) -> tuple[TokenStats, torch.Tensor]:  # type: ignore[no-untyped-def]
    """Statistics with deviations `d` and gates `h`; NaN where the mask is False."""
    d, h = torch.as_tensor(d).float().clone(), torch.as_tensor(h).float().clone()
    mask = torch.arange(d.shape[1]) < torch.tensor(lengths).unsqueeze(1)
    d[~mask], h[~mask] = math.nan, math.nan
    entropy = h * math.log(VOCAB)
    return TokenStats(old_logprobs=-3.0 * h, entropy=entropy, hellinger_sq=d), mask


def random_batch(lengths: list[int], *, seed: int = 0) -> tuple[TokenStats, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    width = max(lengths)
    d = torch.rand(len(lengths), width, generator=generator)
    return make(d, torch.rand(len(lengths), width, generator=generator), lengths)


@pytest.mark.parametrize("kappa", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("tau", [0.01, 0.5, 3.0])
@given(BATCH)
@settings(max_examples=25, deadline=None)
def test_dgpo_equals_the_slow_twin(tau: float, kappa: float, batch) -> None:  # type: ignore[no-untyped-def]
    stats, mask = make(*batch)
    credit = DgpoCredit(tau=tau, kappa=kappa).credit(stats, mask, vocab_size=VOCAB)
    for row, length in enumerate(batch[2]):
        d = stats.hellinger_sq[row, :length].tolist()
        h = [min(e / math.log(VOCAB), 1.0) for e in stats.entropy[row, :length].tolist()]
        scores, weights = twins.dgpo_weights(d, h, tau=tau, kappa=kappa)
        assert credit.scores[row, :length].tolist() == pytest.approx(scores, rel=1e-4, abs=1e-6)
        assert credit.weights[row, :length].tolist() == pytest.approx(weights, rel=1e-3, abs=1e-6)


@EVERY_RULE
@given(BATCH)
@settings(max_examples=40, deadline=None)
def test_weights_of_a_completion_have_mean_one(rule, batch) -> None:  # type: ignore[no-untyped-def]
    stats, mask = make(*batch)
    weights = rule.credit(stats, mask, vocab_size=VOCAB).weights
    assert (weights >= 0).all()
    assert weights.sum(1).tolist() == pytest.approx(batch[2], rel=1e-5)


@EVERY_RULE
def test_credit_is_moved_and_never_made(rule) -> None:  # type: ignore[no-untyped-def]
    lengths = [5, 1, 9]
    stats, mask = random_batch(lengths)
    weights = rule.credit(stats, mask, vocab_size=VOCAB).weights
    advantages = torch.tensor([1.5, -0.3, -2.0])
    shared = (advantages.unsqueeze(1) * weights).sum(1)
    expected = [a * length for a, length in zip(advantages.tolist(), lengths, strict=True)]
    assert shared.tolist() == pytest.approx(expected, rel=1e-5)


@EVERY_RULE
@given(BATCH)
@settings(max_examples=40, deadline=None)
def test_padding_has_no_credit_and_gives_no_nan(rule, batch) -> None:  # type: ignore[no-untyped-def]
    stats, mask = make(*batch)
    credit = rule.credit(stats, mask, vocab_size=VOCAB)
    assert (credit.scores[~mask] == 0).all()
    assert (credit.weights[~mask] == 0).all()
    assert torch.isfinite(credit.scores).all()
    assert torch.isfinite(credit.weights).all()


@EVERY_RULE
def test_weights_carry_no_gradient(rule) -> None:  # type: ignore[no-untyped-def]
    stats, mask = random_batch([3, 4])
    live = TokenStats(
        old_logprobs=stats.old_logprobs,
        entropy=stats.entropy.nan_to_num().requires_grad_(),
        hellinger_sq=stats.hellinger_sq.nan_to_num().requires_grad_(),
    )
    credit = rule.credit(live, mask, vocab_size=VOCAB)
    assert not credit.weights.requires_grad
    assert not credit.scores.requires_grad


def rows_of(stats: TokenStats, mask: torch.Tensor, order: list[int]) -> tuple:  # type: ignore[type-arg]
    parts = (stats.old_logprobs, stats.entropy, stats.hellinger_sq)
    return TokenStats(*(part[order] for part in parts)), mask[order]


@EVERY_RULE
def test_permuting_or_splitting_the_batch_changes_nothing(rule) -> None:  # type: ignore[no-untyped-def]
    stats, mask = random_batch([4, 9, 1, 6])
    whole = rule.credit(stats, mask, vocab_size=VOCAB).weights
    for order in ([2, 0, 3, 1], [1], [3, 2]):
        part = rule.credit(*rows_of(stats, mask, order), vocab_size=VOCAB).weights
        torch.testing.assert_close(part, whole[order], rtol=1e-6, atol=0.0)


@EVERY_RULE
def test_padding_more_on_either_side_changes_nothing(rule) -> None:  # type: ignore[no-untyped-def]
    stats, mask = random_batch([4, 9, 1])
    narrow = rule.credit(stats, mask, vocab_size=VOCAB).weights

    def pad(part: torch.Tensor, value: float) -> torch.Tensor:
        return torch.nn.functional.pad(part, (3, 40), value=value)

    parts = (stats.old_logprobs, stats.entropy, stats.hellinger_sq)
    wide_stats = TokenStats(*(pad(part, math.nan) for part in parts))
    wide = rule.credit(wide_stats, pad(mask, False).bool(), vocab_size=VOCAB).weights
    torch.testing.assert_close(wide[:, 3:-40], narrow, rtol=1e-6, atol=0.0)


def test_equal_models_give_weight_exactly_one() -> None:
    stats, mask = make(torch.zeros(3, 11), torch.rand(3, 11), [11, 7, 1])
    credit = DgpoCredit().credit(stats, mask, vocab_size=VOCAB)
    assert (credit.weights[mask] == 1.0).all()
    assert (credit.scores == 0.0).all()


def test_infinite_tau_is_grpo() -> None:
    stats, mask = random_batch([40, 17, 3])
    uniform = UniformCredit().credit(stats, mask, vocab_size=VOCAB).weights
    assert torch.equal(uniform, mask.float())
    distances = []
    for tau in (0.1, 1.0, 10.0, 1e3, 1e12):
        weights = DgpoCredit(tau=tau).credit(stats, mask, vocab_size=VOCAB).weights
        distances.append(float((weights - uniform).abs().max()))
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 1e-6


@pytest.mark.parametrize("tau", [1e-3, 1e-12, 1e-300])
def test_tiny_tau_gives_all_credit_to_the_highest_score(tau: float) -> None:
    stats, mask = make([[0.1, 0.9, 0.4, 0.0]], [[1.0, 1.0, 1.0, 1.0]], [4])
    weights = DgpoCredit(tau=tau).credit(stats, mask, vocab_size=VOCAB).weights
    assert weights.tolist() == [[0.0, 4.0, 0.0, 0.0]]


def test_a_constant_added_to_all_scores_changes_nothing() -> None:
    d = torch.tensor([[0.1, 0.35, 0.02, 0.2]])
    ones = torch.ones_like(d)
    rule = DgpoCredit(tau=0.2, kappa=0.0)
    plain = rule.credit(*make(d, ones, [4]), vocab_size=VOCAB).weights
    moved = rule.credit(*make(d + 0.6, ones, [4]), vocab_size=VOCAB).weights
    torch.testing.assert_close(moved, plain, rtol=1e-5, atol=0.0)


def test_kappa_zero_switches_the_gate_off_even_for_certain_tokens() -> None:
    stats, mask = make([[0.3, 0.3, 0.6]], [[0.0, 0.5, 1.0]], [3])
    credit = DgpoCredit(kappa=0.0).credit(stats, mask, vocab_size=VOCAB)
    assert credit.scores.tolist() == [pytest.approx([0.3, 0.3, 0.6])]


def test_gate_is_entropy_over_log_v_held_to_one() -> None:
    d = torch.ones(1, 3)
    stats = TokenStats(d, torch.tensor([[0.0, math.log(10), 50.0]]), d)
    credit = DgpoCredit().credit(stats, d.bool(), vocab_size=VOCAB)
    assert credit.scores.tolist() == [pytest.approx([0.0, 0.5, 1.0])]


def test_weights_by_hand() -> None:
    # scores 0 and 0.5 * ln 3 at tau 0.5: shares 1/4 and 3/4 of T = 2
    stats, mask = make([[0.0, 0.5 * math.log(3)]], [[1.0, 1.0]], [2])
    weights = DgpoCredit(tau=0.5).credit(stats, mask, vocab_size=VOCAB).weights
    assert weights.tolist() == [pytest.approx([0.5, 1.5], rel=1e-6)]


def test_entropy_rule_by_hand() -> None:
    stats, mask = make(torch.zeros(2, 3), [[0.1, 0.3, 0.2], [0.5, 0.0, 0.0]], [3, 2])
    credit = EntropyCredit().credit(stats, mask, vocab_size=VOCAB)
    assert credit.weights.tolist() == [pytest.approx([0.5, 1.5, 1.0]), pytest.approx([2, 0, 0])]
    assert credit.scores[0].tolist() == pytest.approx(stats.entropy[0].tolist())


def test_a_rule_of_scores_weighs_in_proportion_to_them() -> None:
    d = torch.tensor([[0.2, 0.4, 0.05, 0.3], [0.1, 0.0, 0.05, 9.0]])
    credit = Own().credit(*make(d, torch.zeros(2, 4), [4, 3]), vocab_size=VOCAB)
    assert credit.scores.tolist() == [
        pytest.approx([0.1, 0.3, 0.0, 0.2]),
        pytest.approx([0, 0, 0, 0]),
    ]
    assert credit.weights.tolist() == [
        pytest.approx([4 / 6, 12 / 6, 0.0, 8 / 6]),
        pytest.approx([1, 1, 1, 0]),
    ]


def test_a_rule_without_scores_says_so() -> None:
    class Empty(CreditRule):
        rule: str = "empty"

    with pytest.raises(NotImplementedError, match="Empty has neither token_scores nor credit"):
        Empty().credit(*random_batch([2]), vocab_size=VOCAB)


def test_entropy_rule_is_uniform_where_nothing_is_unsure() -> None:
    stats, mask = make(torch.zeros(2, 3), torch.zeros(2, 3), [3, 1])
    weights = EntropyCredit().credit(stats, mask, vocab_size=VOCAB).weights
    assert torch.equal(weights, mask.float())


def test_rows_without_tokens_have_no_credit() -> None:
    stats, mask = make(torch.rand(2, 3), torch.rand(2, 3), [0, 2])
    for rule in RULES:
        weights = rule.credit(stats, mask, vocab_size=VOCAB).weights
        assert weights.sum(1).tolist() == pytest.approx([0.0, 2.0])


def test_a_vocabulary_of_one_has_no_gate() -> None:
    stats, mask = make([[0.5, 0.1]], [[0.0, 0.0]], [2])
    credit = DgpoCredit().credit(stats, mask, vocab_size=1)
    assert credit.weights.tolist() == [[1.0, 1.0]]


ADVANTAGES = torch.tensor([1.5, -0.3, 0.0, -2.0, math.nan, 0.7])
LENGTHS = [5, 9, 4, 1, 6, 7]


@pytest.mark.parametrize("sign", ["positive", "negative"])
@EVERY_RULE
def test_completions_of_the_other_sign_have_weights_of_exactly_one(rule, sign: str) -> None:  # type: ignore[no-untyped-def]
    """And the others those that they have without a sign; so do those without an advantage."""
    stats, mask = random_batch(LENGTHS)
    plain = rule.credit_for(stats, mask, ADVANTAGES, vocab_size=VOCAB)
    found = type(rule)(**rule.model_dump() | {"sign": sign}).credit_for(
        stats, mask, ADVANTAGES, vocab_size=VOCAB
    )
    other = ADVANTAGES < 0 if sign == "positive" else ADVANTAGES > 0
    assert torch.equal(found.weights[other], mask[other].float())
    assert torch.equal(found.weights[~other], plain.weights[~other])
    assert torch.equal(found.scores, plain.scores)
    if found.tau is not None:
        assert found.tau[other].isnan().all()
        assert torch.equal(found.tau[~other].nan_to_num(), plain.tau[~other].nan_to_num())


@EVERY_RULE
def test_with_both_signs_the_advantages_change_nothing(rule) -> None:  # type: ignore[no-untyped-def]
    stats, mask = random_batch(LENGTHS)
    found = rule.credit_for(stats, mask, ADVANTAGES, vocab_size=VOCAB)
    plain = rule.credit(stats, mask, vocab_size=VOCAB)
    assert torch.equal(found.weights, plain.weights)


def test_one_tau_of_the_batch_is_set_by_the_completions_that_it_weighs() -> None:
    stats, mask = random_batch([30, 40, 20, 50, 25, 35])
    asked = {"target_ess": 0.8, "target_ess_over": "batch"}
    rule = DgpoCredit(**asked, sign="positive")  # type: ignore[arg-type]
    known = ADVANTAGES.nan_to_num()
    found = rule.credit_for(stats, mask, known, vocab_size=VOCAB)
    positive = [0, 5]
    alone = DgpoCredit(**asked).credit(*rows_of(stats, mask, positive), vocab_size=VOCAB)  # type: ignore[arg-type]
    assert found.tau is not None and alone.tau is not None
    assert found.tau[positive].tolist() == pytest.approx(alone.tau.tolist(), rel=1e-9)
    torch.testing.assert_close(found.weights[positive], alone.weights, rtol=1e-6, atol=0.0)
    everyone = DgpoCredit(**asked).credit_for(stats, mask, known, vocab_size=VOCAB)  # type: ignore[arg-type]
    assert everyone.tau is not None
    assert float(everyone.tau[0]) != pytest.approx(float(found.tau[0]), rel=1e-3)


@given(BATCH)
@settings(max_examples=40, deadline=None)
def test_proportional_is_the_score_of_dgpo_over_its_mean(batch) -> None:  # type: ignore[no-untyped-def]
    stats, mask = make(*batch)
    found = ProportionalCredit(kappa=0.5).credit(stats, mask, vocab_size=VOCAB)
    dgpo = DgpoCredit(kappa=0.5).credit(stats, mask, vocab_size=VOCAB)
    assert torch.equal(found.scores, dgpo.scores)
    for row, length in enumerate(batch[2]):
        scores = found.scores[row, :length].double()
        total = float(scores.sum())
        expected = scores * length / total if total else torch.ones_like(scores)
        own = found.weights[row, :length].double()
        torch.testing.assert_close(own, expected, rtol=1e-5, atol=1e-6)


def slow_surprisal(logprobs: list[float], *, mix: float, cap: float) -> list[float]:
    """The weights by the definition: raise c until the mean of min(cap, c w) is 1, by halving."""
    scores = [max(0.0, -value) for value in logprobs]
    mean = math.fsum(scores) / len(scores)
    if mean == 0:
        return [1.0] * len(scores)
    plain = [mix + (1 - mix) * score / mean for score in scores]
    low, high = -700.0, 700.0
    for _ in range(200):
        c = math.exp((low + high) / 2)
        found = [min(cap, c * w) for w in plain]
        low, high = (low, math.log(c)) if math.fsum(found) > len(found) else (math.log(c), high)
    missing, empty = len(found) - math.fsum(found), plain.count(0.0)
    return [
        missing / empty if w == 0 and missing > 1e-6 else x
        for w, x in zip(plain, found, strict=True)
    ]


def with_logprobs(logprobs, lengths) -> tuple[TokenStats, torch.Tensor]:  # type: ignore[no-untyped-def]
    stats, mask = make(*torch.zeros(2, len(logprobs), len(logprobs[0])), lengths)
    old = torch.as_tensor(logprobs).float().masked_fill(~mask, math.nan)
    return dataclasses.replace(stats, old_logprobs=old), mask


# Certain tokens, rounding above 0, and what float32 can hardly tell from certain.
LOGPROB = st.one_of(st.floats(-40, 0, width=32), st.sampled_from([0.0, -0.0, 1e-7, -1e-7, -1e30]))


@pytest.mark.parametrize("mix", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("cap", [1.01, 1.5, 4.0, 100.0])
@given(
    hnp.arrays("float32", (4, 7), elements=LOGPROB),
    st.lists(st.integers(0, 7), min_size=4, max_size=4),
)
@settings(max_examples=25, deadline=None)
def test_surprisal_equals_the_slow_twin(mix: float, cap: float, logprobs, lengths) -> None:  # type: ignore[no-untyped-def]
    stats, mask = with_logprobs(logprobs, lengths)
    found = SurprisalCredit(mix=mix, cap=cap).credit(stats, mask, vocab_size=VOCAB)
    assert found.weights.sum(1).tolist() == pytest.approx(lengths, rel=1e-6)
    assert float(found.weights.max()) <= cap * (1 + 1e-6)
    assert not found.scores.signbit().any()
    for row, length in enumerate(lengths):
        if length:
            own = stats.old_logprobs[row, :length].tolist()
            expected = slow_surprisal(own, mix=mix, cap=cap)
            assert found.weights[row, :length].tolist() == pytest.approx(
                expected, rel=1e-5, abs=1e-6
            )


def test_surprisal_by_hand() -> None:
    # s / mean s = 0, 1, 1, 6: half of it and half even is 0.5, 1, 1, 3.5 and 0.5 four times
    logprobs = [[0.0, -0.5, -0.5, -3.0, 0.0, 0.0, 0.0, 0.0]]
    stats, mask = with_logprobs(logprobs, [8])
    free = SurprisalCredit(mix=0.5, cap=10.0).credit(stats, mask, vocab_size=VOCAB)
    assert free.scores.tolist() == [pytest.approx([0, 0.5, 0.5, 3, 0, 0, 0, 0])]
    assert free.weights.tolist() == [pytest.approx([0.5, 1, 1, 3.5, 0.5, 0.5, 0.5, 0.5])]
    # at most 2: the other 6 of 8 go to weights that add up to 4.5
    capped = SurprisalCredit(mix=0.5, cap=2.0).credit(stats, mask, vocab_size=VOCAB)
    ratio = 6 / 4.5
    assert capped.weights.tolist() == [
        pytest.approx([0.5 * ratio, ratio, ratio, 2.0, *[0.5 * ratio] * 4])
    ]


def test_surprisal_of_certain_tokens_and_a_mix_of_one_are_grpo() -> None:
    stats, mask = with_logprobs([[0.0, -0.0, 1e-7, 0.0], [-1.0, -2.0, 0.0, 0.0]], [4, 3])
    for rule in (SurprisalCredit(), SurprisalCredit(mix=0.0)):
        weights = rule.credit(stats, mask, vocab_size=VOCAB).weights
        assert weights[0].tolist() == [1.0] * 4
        assert weights[1].tolist() != [1.0, 1.0, 1.0, 0.0]
    even = SurprisalCredit(mix=1.0).credit(stats, mask, vocab_size=VOCAB).weights
    assert torch.equal(even, mask.float())


def test_weights_by_surprisal_alone_fill_up_where_the_cap_leaves_too_few() -> None:
    """One token can take 2 of 5; the others, all certain, share the rest."""
    stats, mask = with_logprobs([[0.0, 0.0, -3.0, 0.0, 0.0]], [5])
    weights = SurprisalCredit(mix=0.0, cap=2.0).credit(stats, mask, vocab_size=VOCAB).weights
    assert weights.tolist() == [pytest.approx([0.75, 0.75, 2.0, 0.75, 0.75])]
    nearly, _ = with_logprobs([[-1e-9, -1e-9, -3.0, -1e-9, -1e-9]], [5])
    limit = SurprisalCredit(mix=0.0, cap=2.0).credit(nearly, mask, vocab_size=VOCAB).weights
    assert limit.tolist() == [pytest.approx(weights[0].tolist(), rel=1e-5)]


def slow_top(rows: list[list[float]], *, share: float, over: str) -> list[list[float]]:
    """The weights by the definition: count the tokens with more entropy."""
    everyone = [h for row in rows for h in row]
    found = []
    for row in rows:
        among = everyone if over == "batch" else row
        most = math.ceil(share * len(among) - 1e-9)
        kept = [sum(other > h for other in among) < most for h in row]
        found.append(
            [len(row) / sum(kept) if k else 0.0 for k in kept] if any(kept) else [1.0] * len(row)
        )
    return found


@pytest.mark.parametrize("over", ["batch", "completion"])
@pytest.mark.parametrize("share", [0.05, 0.2, 0.5, 1.0])
@given(BATCH)
@settings(max_examples=25, deadline=None)
def test_top_entropy_equals_the_slow_twin(share: float, over: str, batch) -> None:  # type: ignore[no-untyped-def]
    """Many entropies tie here: ties with the last token are in."""
    stats, mask = make(*batch)
    stats = dataclasses.replace(stats, entropy=(stats.entropy * 2).round() / 2)
    rule = TopEntropyCredit(share=share, share_over=over)  # type: ignore[arg-type]
    found = rule.credit(stats, mask, vocab_size=VOCAB)
    rows = [stats.entropy[row, :length].tolist() for row, length in enumerate(batch[2])]
    expected = slow_top([row for row in rows if row], share=share, over=over)
    for row, length in enumerate(batch[2]):
        if length:
            assert found.weights[row, :length].tolist() == pytest.approx(expected.pop(0), rel=1e-6)


def test_a_share_of_a_batch_is_of_the_completions_that_are_learnt_from() -> None:
    h = [[0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8], [0.9, 0.9, 0.9, 0.9]]
    stats, mask = make(torch.zeros(3, 4), h, [4, 4, 4])
    rule = TopEntropyCredit(share=0.25)
    found = rule.credit_for(stats, mask, torch.tensor([1.0, -1.0, 0.0]), vocab_size=VOCAB)
    assert found.scores.tolist() == [[0, 0, 0, 0], [0, 0, 1, 1], [1, 1, 1, 1]]
    assert found.weights.tolist() == [[1, 1, 1, 1], [0, 0, 2, 2], [1, 1, 1, 1]]
    every = rule.credit(stats, mask, vocab_size=VOCAB)
    assert every.weights.tolist() == [[1] * 4, [1] * 4, [1] * 4]
