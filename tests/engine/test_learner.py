"""A batch that is measured and learnt from in one pass, against the two passes that it replaces."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from dgpo_cli.algo.credit import DgpoCredit, EntropyCredit, SurprisalCredit, UniformCredit
from dgpo_cli.algo.off_policy import Correction
from dgpo_cli.algo.summary import effective_fractions
from dgpo_cli.core.types import Batch
from dgpo_cli.engine.batch_metrics import off_policy_metrics
from dgpo_cli.engine.learn import Learner
from dgpo_cli.engine.piece import Recipe, Update
from dgpo_cli.policy.policy import Policy
from tests.engine import updates
from tests.engine.test_update import twin_rule
from tests.policy import tiny, twins

MAKERS = {
    "full": lambda: tiny.make_policy(apart=0.05),
    "softcap": lambda: tiny.make_policy("gemma2-softcap", apart=0.05),
    "lora": lambda: tiny.make_lora_policy(apart=0.05),
}
EVERY_POLICY = pytest.mark.parametrize("kind", MAKERS)


def recipe(*, updates_per_step: int = 1, rule: Any = updates.CREDIT, **changes: Any) -> Recipe:
    return updates.recipe_of(updates=updates_per_step, rule=rule, **changes)


def measured(
    learner: Learner,
    *,
    advantages: list[float] = updates.ADVANTAGES,
    old_logprobs: Tensor | None = None,
    **changes: Any,
) -> Batch:
    return learner.measure(
        tiny.rows_of_pairs(updates.PAIRS),
        torch.tensor(advantages),
        recipe=recipe(**changes),
        old_logprobs=old_logprobs,
    )


def finished(learner: Learner, batch: Batch, **changes: Any) -> list[Update]:
    return learner.update(batch, recipe=recipe(**changes))


def forward_tokens(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Make the policy write down how many tokens each of its forward passes has."""
    seen: list[int] = []
    plain = policy.hidden

    def counted(packed: Any) -> Tensor:
        seen.append(len(packed.ids))
        return plain(packed)

    monkeypatch.setattr(policy, "hidden", counted)
    return seen


@EVERY_POLICY
def test_the_batch_is_that_of_the_pass_without_gradient_to_the_bit(kind: str) -> None:
    policy = MAKERS[kind]()
    alone, together = Learner(policy, None), Learner(policy, updates.Capture(policy))
    plain, begun = measured(alone), measured(together)
    assert float(plain.credit.weights.max()) > 1.5
    for name in ("old_logprobs", "entropy", "hellinger_sq"):
        assert torch.equal(getattr(begun.stats, name), getattr(plain.stats, name)), name
        assert not getattr(begun.stats, name).requires_grad
    assert torch.equal(begun.credit.weights, plain.credit.weights)
    assert torch.equal(begun.credit.scores, plain.credit.scores)


@EVERY_POLICY
def test_the_gradient_is_that_of_two_passes(kind: str) -> None:
    policy = MAKERS[kind]()
    expected = updates.gradient_of(policy, measured(Learner(policy, None)))
    capture = updates.Capture(policy)
    learner = Learner(policy, capture)
    [result] = finished(learner, measured(learner))
    assert result.applied and result.signal_tokens == updates.SIGNAL_TOKENS
    assert (result.ratio_min, result.ratio_max, result.clipped_tokens) == (1.0, 1.0, 0)
    updates.assert_same_gradient(capture.gradients, expected, error=1e-6)


def test_loss_and_gradient_equal_the_slow_twin() -> None:
    policy = MAKERS["full"]()
    capture = updates.Capture(policy)
    learner = Learner(policy, capture)
    [result] = finished(learner, measured(learner))
    loss, gradient = twins.update_gradient(
        twins.widened(policy.model),
        twins.widened(policy._reference),
        updates.PAIRS,
        advantages=updates.ADVANTAGES,
        shifts=updates.random_shifts(spread=0.0),
        rule=twin_rule("token-mean"),
    )
    assert result.loss == pytest.approx(loss, rel=1e-5, abs=1e-7)
    updates.assert_same_gradient(capture.gradients, gradient)


@EVERY_POLICY
def test_every_token_is_run_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = MAKERS[kind]()
    seen = forward_tokens(policy, monkeypatch)
    learner = Learner(policy, updates.Capture(policy))
    batch = measured(learner)
    finished(learner, batch)
    assert sum(seen) == sum(len(p) + len(c) - 1 for p, c in updates.PAIRS)


def test_completions_of_later_updates_are_measured_before_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And run again at their turn; their statistics are of the weights that sampled them."""
    policy = MAKERS["full"]()
    plain = measured(Learner(policy, None), updates_per_step=3)
    seen = forward_tokens(policy, monkeypatch)
    adamw = torch.optim.AdamW([p for _, p in policy.trainable()], lr=1e-2)
    learner = Learner(policy, adamw)
    batch = measured(learner, updates_per_step=3)
    first, second, third = finished(learner, batch, updates_per_step=3)
    tokens = [len(p) + len(c) - 1 for p, c in updates.PAIRS]
    assert sum(seen) == sum(tokens) + sum(tokens[6:])  # the second group has no signal
    assert torch.allclose(batch.stats.old_logprobs, plain.stats.old_logprobs, atol=1e-5)
    assert (first.ratio_max, second.applied, third.applied) == (1.0, False, True)
    assert third.ratio_max > 1.0 + 1e-3


def test_a_batch_that_was_changed_is_computed_anew() -> None:
    policy = MAKERS["full"]()
    capture = updates.Capture(policy)
    learner = Learner(policy, capture)
    batch = measured(learner)
    other = dataclasses.replace(batch, advantages=-batch.advantages)
    expected = updates.gradient_of(policy, other)
    finished(learner, other)
    updates.assert_same_gradient(capture.gradients, expected, error=1e-6)


def test_a_batch_is_begun_once() -> None:
    """A gradient that was not used, or has been, is not used again."""
    policy = MAKERS["full"]()
    capture = updates.Capture(policy)
    learner = Learner(policy, capture)
    measured(learner)
    batch = measured(learner)
    finished(learner, batch)
    once = dict(capture.gradients)
    finished(learner, batch)
    updates.assert_same_gradient(capture.gradients, once, error=1e-6)


def test_without_signal_nothing_is_begun() -> None:
    policy = MAKERS["full"]()
    learner = Learner(policy, updates.Capture(policy))
    [result] = finished(learner, measured(learner, advantages=[0.0] * 9))
    assert (result.applied, result.finite, result.signal_tokens) == (False, True, 0)
    assert all(p.grad is None for _, p in policy.trainable())


def test_under_dropout_the_statistics_are_taken_without_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy = tiny.make_lora_policy(apart=0.05)
    plain = measured(Learner(policy, None), rule=UniformCredit())
    assert not policy.has_dropout
    for module in policy.model.modules():
        if hasattr(module, "lora_dropout"):
            module.lora_dropout["default"] = torch.nn.Dropout(0.5).eval()
    assert policy.has_dropout
    seen = forward_tokens(policy, monkeypatch)
    learner = Learner(policy, updates.Capture(policy))
    batch = measured(learner, rule=UniformCredit())
    assert torch.equal(batch.stats.old_logprobs, plain.stats.old_logprobs)
    measuring = sum(seen)
    [result] = finished(learner, batch, rule=UniformCredit())
    assert sum(seen) > measuring
    assert result.ratio_max > 1.0 + 1e-3


def test_dropout_of_attention_counts_as_dropout() -> None:
    policy = tiny.make_policy()
    assert not policy.has_dropout
    policy.model.config.attention_dropout = 0.1
    assert policy.has_dropout


def test_what_is_not_finite_is_not_applied() -> None:
    policy = MAKERS["full"]()
    with torch.no_grad():
        policy.model.get_output_embeddings().weight[7] = float("nan")
    learner = Learner(policy, updates.Capture(policy))
    [result] = finished(learner, measured(learner))
    assert not result.applied and not result.finite


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["qwen2-untied", "qwen3_moe"])
@pytest.mark.parametrize("make", [tiny.make_policy, tiny.make_lora_policy])
def test_equal_weights_have_a_distance_of_zero_in_the_pass_that_trains(
    make: Any, family: str, dtype: torch.dtype
) -> None:
    policy = make(family, dtype=dtype)
    learner = Learner(policy, updates.Capture(policy))
    batch = measured(learner)
    assert torch.count_nonzero(batch.stats.hellinger_sq) == 0
    assert torch.equal(batch.credit.weights[batch.mask], torch.ones(int(batch.mask.sum())))
    assert torch.count_nonzero(batch.stats.entropy[batch.mask]) == int(batch.mask.sum())


def test_activations_that_are_computed_again_change_nothing() -> None:
    gradients, batches = [], []
    for on in (False, True):
        policy = MAKERS["lora"]()
        if on:
            policy.model.enable_input_require_grads()
            policy.model.gradient_checkpointing_enable({"use_reentrant": False})
        capture = updates.Capture(policy)
        learner = Learner(policy, capture)
        batches.append(measured(learner))
        finished(learner, batches[-1])
        gradients.append(capture.gradients)
    assert torch.equal(batches[0].stats.hellinger_sq, batches[1].stats.hellinger_sq)
    assert torch.equal(batches[0].credit.weights, batches[1].credit.weights)
    updates.assert_same_gradient(gradients[1], gradients[0], error=1e-6)


def test_the_correction_multiplies_the_losses_of_its_tokens() -> None:
    """In the pass that measures, and for later updates: as if the credit weights were so."""
    rule = Correction("token", "truncate", 1.2)
    shift = updates.padded(updates.random_shifts(), tiny.rows_of_pairs(updates.PAIRS).mask)
    for count in (1, 3):
        corrected = recipe(updates_per_step=count, correction=rule)
        gradients = []
        for manual in (False, True):
            policy = MAKERS["full"]()
            capture = updates.Capture(policy)
            plain = measured(Learner(policy, None), updates_per_step=count)
            sampled = plain.stats.old_logprobs + shift
            weights, within = rule.weights(plain.stats.old_logprobs, sampled, plain.mask)
            assert 0 < int(within.sum()) < int(plain.mask.sum())
            learner = Learner(policy, capture)
            if manual:
                credit = dataclasses.replace(plain.credit, weights=plain.credit.weights * weights)
                batch = dataclasses.replace(plain, credit=credit)
                results = finished(learner, batch, updates_per_step=count)
            else:
                batch = learner.measure(
                    tiny.rows_of_pairs(updates.PAIRS),
                    torch.tensor(updates.ADVANTAGES),
                    recipe=corrected,
                    sampling_logprobs=sampled,
                )
                results = learner.update(batch, recipe=corrected)
                signal = plain.mask & (plain.advantages != 0)[:, None]
                assert sum(r.kept_tokens for r in results) == int((within & signal).sum())
                total, square = weights[signal].sum(), weights[signal].square().sum()
                ess = float(total**2 / (signal.sum() * square))
                assert off_policy_metrics(results) == pytest.approx(
                    {
                        "off_policy/kept_frac": float(within[signal].float().mean()),
                        "off_policy/ess": ess,
                    },
                    rel=1e-5,
                )
            gradients.append(capture.gradients)  # of the last update
        updates.assert_same_gradient(gradients[0], gradients[1], error=1e-5)


EACH = DgpoCredit(target_ess=0.8, max_weight=5.0)
WHOLE = DgpoCredit(target_ess=0.8, max_weight=5.0, target_ess_over="batch")


@pytest.mark.parametrize("rule", [EACH, WHOLE], ids=["completion", "batch"])
@EVERY_POLICY
def test_a_tau_that_is_found_gives_the_gradient_of_two_passes(kind: str, rule: Any) -> None:
    """And the weights, the tau and what held it of the whole batch at once, to the bit."""
    policy = MAKERS[kind]()
    plain = measured(Learner(policy, None), rule=rule)
    expected = updates.gradient_of(policy, plain)
    capture = updates.Capture(policy)
    learner = Learner(policy, capture)
    batch = measured(learner, rule=rule)
    [result] = finished(learner, batch, rule=rule)
    assert result.applied and (result.ratio_min, result.ratio_max) == pytest.approx((1.0, 1.0))
    updates.assert_same_gradient(capture.gradients, expected, error=1e-6)
    for name in ("scores", "weights", "tau", "limit"):
        found, whole = getattr(batch.credit, name), getattr(plain.credit, name)
        assert torch.equal(found.nan_to_num(), whole.nan_to_num()), name
    signal = batch.advantages != 0
    fractions = effective_fractions(batch.credit.weights, batch.mask)[signal]
    assert float(fractions.min()) < 0.95


@pytest.mark.parametrize("sign", ["positive", "negative"])
@EVERY_POLICY
def test_the_other_sign_is_trained_on_as_grpo_does(kind: str, sign: str) -> None:
    """In the pass that trains, and in one that only measures."""
    policy = MAKERS[kind]()
    rule = updates.CREDIT.model_copy(update={"sign": sign})
    plain = measured(Learner(policy, None))
    expected = plain.credit.weights.clone()
    other = plain.advantages < 0 if sign == "positive" else plain.advantages > 0
    expected[other] = plain.mask[other].float()
    capture = updates.Capture(policy)
    learner = Learner(policy, capture)
    batch = measured(learner, rule=rule)
    assert torch.equal(batch.credit.weights, expected)
    assert torch.equal(measured(Learner(policy, None), rule=rule).credit.weights, expected)
    finished(learner, batch, rule=rule)
    plain.credit.weights.copy_(expected)
    updates.assert_same_gradient(capture.gradients, updates.gradient_of(policy, plain), error=1e-6)


def _moved(policy: Policy, *, rate: float = 0.3) -> tuple[Learner, list[dict[str, Tensor]]]:
    """Return a learner that moves by plain gradients, and these, of each update."""
    optimizer = torch.optim.SGD([p for _, p in policy.trainable()], lr=rate)
    seen: list[dict[str, Tensor]] = []

    def keep(*_: Any) -> None:
        named = policy.trainable()
        seen.append({n: p.grad.detach().clone() for n, p in named if p.grad is not None})

    optimizer.register_step_pre_hook(keep)
    return Learner(policy, optimizer), seen


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_refreshed_weights_and_their_gradient_equal_the_slow_twin(kind: str) -> None:
    """Policy statistics of the weights that the update starts from, old_logprobs of those that
    the step began with."""
    policy = MAKERS[kind]()
    rule = updates.CREDIT.model_copy(update={"refresh": "update"})
    twin = twins.widened(policy.model)
    reference = (
        twins.widened(policy.model).unload() if kind == "lora" else twins.widened(policy._reference)
    )
    learner, seen = _moved(policy)
    batch = measured(learner, rule=rule, updates_per_step=3)
    began = batch.credit.weights.clone()
    finished(learner, batch, rule=rule, updates_per_step=3)

    def gradient(rows: slice, shifts: list[list[float]]) -> dict[str, Tensor]:
        return twins.update_gradient(
            twin,
            reference,
            updates.PAIRS[rows],
            advantages=updates.ADVANTAGES[rows],
            shifts=shifts,
            rule=twin_rule("token-mean"),
        )[1]

    def stats_of(model: Any) -> list[twins.TwinStats]:
        return [
            twins.completion_stats(model, reference, pair, temperature=updates.TEMPERATURE)
            for pair in updates.PAIRS[6:]
        ]

    before = stats_of(twin)
    first = gradient(slice(0, 3), updates.random_shifts(spread=0.0)[:3])
    updates.assert_same_gradient(seen[0], first)
    with torch.no_grad():
        for name, weight in twin.named_parameters():
            if name in first:
                weight -= 0.3 * first[name]
    now = stats_of(twin)
    shifts = [
        [old - new for old, new in zip(a.logprobs, b.logprobs, strict=True)]
        for a, b in zip(before, now, strict=True)
    ]
    last = gradient(slice(6, 9), shifts)
    updates.assert_same_gradient(seen[1], last, error=1e-4)
    for row, own, was in zip(range(6, 9), now, before, strict=True):
        size = len(own.entropy)
        assert batch.stats.entropy[row, :size].tolist() == pytest.approx(own.entropy, rel=1e-4)
        assert batch.stats.hellinger_sq[row, :size].tolist() == pytest.approx(
            own.hellinger_sq, rel=1e-3, abs=1e-7
        )
        old = batch.stats.old_logprobs[row, :size].tolist()
        assert old == pytest.approx(was.logprobs, abs=1e-4)
    assert float((batch.credit.weights - began)[6:].abs().max()) > 0.02
    assert torch.equal(batch.credit.weights[:6], began[:6])


@pytest.mark.parametrize("dropout", [False, True], ids=["", "dropout"])
@pytest.mark.parametrize(
    "rule",
    [
        updates.CREDIT,
        EntropyCredit(),
        SurprisalCredit(),
        EACH,
        WHOLE,
        DgpoCredit(tau=0.05, sign="negative"),
    ],
    ids=["dgpo", "entropy", "surprisal", "completion", "batch", "negative"],
)
def test_a_refreshed_update_has_the_credit_of_a_step_that_begins_there(
    rule: Any, dropout: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = MAKERS["full"]()
    monkeypatch.setattr(Policy, "has_dropout", dropout)
    rule = rule.model_copy(update={"refresh": "update"})
    learner, _ = _moved(policy)
    batch = measured(learner, rule=rule, updates_per_step=3)
    begun = torch.cat([batch.stats.old_logprobs, batch.credit.weights[:6]])
    last: dict[str, Batch] = {}

    def watch(*_: Any) -> None:
        last["fresh"] = Learner(policy, None).measure(
            tiny.rows_of_pairs(updates.PAIRS[6:]),
            torch.tensor(updates.ADVANTAGES[6:]),
            recipe=recipe(rule=rule),
        )

    assert learner.optimizer is not None
    learner.optimizer.register_step_post_hook(lambda *_: last or watch())
    finished(learner, batch, rule=rule, updates_per_step=3)
    fresh = last["fresh"]
    width = fresh.mask.shape[1]
    torch.testing.assert_close(
        batch.credit.weights[6:, :width], fresh.credit.weights, rtol=1e-4, atol=1e-5
    )
    assert torch.equal(torch.cat([batch.stats.old_logprobs, batch.credit.weights[:6]]), begun)
    torch.testing.assert_close(
        batch.stats.entropy[6:, :width], fresh.stats.entropy, rtol=1e-5, atol=1e-6
    )


def test_with_one_update_a_step_refreshing_changes_nothing() -> None:
    found = []
    for refresh in ("step", "update"):
        policy = MAKERS["full"]()
        rule = WHOLE.model_copy(update={"refresh": refresh})
        learner, seen = _moved(policy)
        batch = measured(learner, rule=rule)
        finished(learner, batch, rule=rule)
        found.append((batch.credit.weights, seen[0]))
    assert torch.equal(found[0][0], found[1][0])
    assert all(torch.equal(found[0][1][name], found[1][1][name]) for name in found[0][1])


def test_a_tau_of_the_whole_batch_is_that_of_the_rows_with_an_advantage() -> None:
    """Whether the others are looked at, because they are written down, moves it by no more than
    the rounding of other micro-batches."""
    policy = MAKERS["full"]()
    batches = [
        Learner(policy, None).measure(
            tiny.rows_of_pairs(updates.PAIRS),
            torch.tensor(updates.ADVANTAGES),
            recipe=recipe(rule=WHOLE),
            every_distance=every,
        )
        for every in (False, True)
    ]
    signal = batches[0].advantages != 0
    assert float(batches[0].stats.hellinger_sq[~signal].max()) == 0.0
    assert float(batches[1].stats.hellinger_sq[~signal].max()) > 0.0
    fractions = effective_fractions(batches[0].credit.weights, batches[0].mask)[signal]
    assert float(fractions.mean()) == pytest.approx(0.8, abs=1e-3)
    one, other = (batch.credit for batch in batches)
    torch.testing.assert_close(other.weights[signal], one.weights[signal], rtol=1e-4, atol=0.0)
    assert one.tau is not None and other.tau is not None
    assert float(other.tau[0]) == pytest.approx(float(one.tau[0]), rel=1e-4)
    everyone = WHOLE.credit(batches[1].stats, batches[1].mask, vocab_size=policy.vocab_size)
    assert everyone.tau is not None
    assert float(everyone.tau[0]) != pytest.approx(float(one.tau[0]), rel=1e-2)


def test_a_tau_of_the_whole_batch_is_known_before_anything_is_trained_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So every token with an advantage is run twice."""
    policy = MAKERS["full"]()
    seen = forward_tokens(policy, monkeypatch)
    learner = Learner(policy, updates.Capture(policy))
    finished(learner, measured(learner, rule=WHOLE), rule=WHOLE)
    tokens = [len(p) + len(c) - 1 for p, c in updates.PAIRS]
    assert sum(seen) == sum(tokens) + sum(tokens[:3] + tokens[6:])


def test_the_noise_floor_reaches_the_rule_in_the_pass_that_trains() -> None:
    policy = MAKERS["full"]()
    batches = [
        Learner(policy, updates.Capture(policy)).measure(
            tiny.rows_of_pairs(updates.PAIRS),
            torch.tensor(updates.ADVANTAGES),
            recipe=recipe(rule=EACH),
            noise_floor=floor,
        )
        for floor in (1e-14, 1.0)
    ]
    quiet, loud = (
        effective_fractions(b.credit.weights, b.mask)[b.advantages != 0].min() for b in batches
    )
    assert float(quiet) < 0.95 and float(loud) > 0.999


@pytest.mark.parametrize("trains", [True, False])
def test_surprisal_is_that_of_the_present_policy(trains: bool) -> None:
    """Whatever the old_logprobs of completions that earlier weights sampled are."""
    policy = MAKERS["full"]()
    apart = updates.make_batch(policy, shifts=updates.random_shifts())
    learner = Learner(policy, updates.Capture(policy) if trains else None)
    batch = measured(learner, rule=SurprisalCredit(), old_logprobs=apart.stats.old_logprobs)
    assert batch.policy_logprobs is not None
    torch.testing.assert_close(
        batch.credit.scores, (-batch.policy_logprobs).clamp(min=0), rtol=0, atol=1e-6
    )
    assert float((batch.policy_logprobs - batch.stats.old_logprobs).abs().max()) > 0.1
    assert float(batch.credit.weights.max()) > 1.25


@pytest.mark.parametrize("rows", [4, 9])
@EVERY_POLICY
def test_old_logprobs_of_earlier_weights_give_the_gradient_of_two_passes(
    kind: str, rows: int
) -> None:
    """Ratios on both sides of both bounds; rows without old_logprobs of their own start at 1."""
    shifts = [s if i < rows else [0.0] * len(s) for i, s in enumerate(updates.random_shifts())]
    policy = MAKERS[kind]()
    apart = updates.make_batch(policy, shifts=shifts)
    expected = updates.gradient_of(policy, apart)
    capture = updates.Capture(policy)
    learner = Learner(policy, capture)
    batch = measured(learner, old_logprobs=apart.stats.old_logprobs[:rows])
    (result,) = finished(learner, batch)
    updates.assert_same_gradient(capture.gradients, expected)
    assert result.clipped_tokens > 0 and result.ratio_max > 1.28 and result.ratio_min < 0.8
    assert torch.equal(batch.stats.old_logprobs[:rows], apart.stats.old_logprobs[:rows])
    assert batch.policy_logprobs is not None
    present = updates.make_batch(policy).stats
    torch.testing.assert_close(batch.policy_logprobs, present.old_logprobs, rtol=0, atol=1e-5)
    assert torch.equal(batch.policy_logprobs[rows:], batch.stats.old_logprobs[rows:])
    # The weights of the credit are the present policy's, whatever the old_logprobs are.
    torch.testing.assert_close(batch.stats.hellinger_sq[0], present.hellinger_sq[0])
    torch.testing.assert_close(batch.stats.entropy, present.entropy, rtol=0, atol=1e-4)
