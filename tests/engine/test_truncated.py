"""Training on samples of a truncated sampler: what is learnt is the truncated policy."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from dgpo_cli.algo.credit import UniformCredit
from dgpo_cli.algo.losses import ClipLoss
from dgpo_cli.algo.truncation import Truncation
from dgpo_cli.core.types import Batch
from dgpo_cli.engine.learn import Learner
from dgpo_cli.engine.piece import Recipe
from dgpo_cli.policy.policy import Policy
from tests.engine import updates
from tests.policy import tiny, twins

T = updates.TEMPERATURE
RULE = Truncation(0.8, 0)
PROMPT = [7, 20, 11, 9]
SPREAD = ClipLoss(clip_low=0.99, clip_high=1e6, aggregation="constant")  # clips nothing


def nucleus(logits: Tensor) -> list[int]:
    """The fewest likeliest tokens with at least 0.8 of the probability."""
    probs = logits.softmax(-1).tolist()
    kept: list[int] = []
    for token in sorted(range(len(probs)), key=lambda i: -probs[i]):
        if sum(probs[i] for i in kept) >= RULE.top_p:
            break
        kept.append(token)
    return kept


def reward(tokens: tuple[int, ...]) -> float:
    """Some function of a completion, of both signs and never 0."""
    return ((tokens[0] * 37 + tokens[-1] * 11) % 17 - 7.5) / 5


class Truncated:
    """The exact distribution of completions of some length, by enumeration in float64.

    The sets are those of the weights it was made with; `logprobs` may use later ones.
    """

    def __init__(self, policy: Policy, *, length: int) -> None:
        model, self.sets = twins.widened(policy.model), {}
        self.completions: list[tuple[int, ...]] = [()]
        for _ in range(length):
            for begun in self.completions:
                self.sets[begun] = nucleus(next_logits(model, begun).detach())
            self.completions = [
                (*begun, token) for begun in self.completions for token in self.sets[begun]
            ]

    def logprob(self, model: Any, completion: tuple[int, ...]) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for at, token in enumerate(completion):
            logits = next_logits(model, completion[:at])
            total = total + logits[token] - logits[self.sets[completion[:at]]].logsumexp(-1)
        return total

    def gradient(self, model: Any) -> dict[str, Tensor]:
        """Of the expected reward, in every parameter."""
        model = twins.widened(model)
        expected = sum(self.logprob(model, each).exp() * reward(each) for each in self.completions)
        assert isinstance(expected, Tensor)
        expected.backward()
        return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def next_logits(model: Any, begun: tuple[int, ...]) -> Tensor:
    ids = torch.tensor([[*PROMPT, *begun]])
    return model(input_ids=ids, use_cache=False).logits[0, -1] / T


class Recorded(torch.optim.SGD):
    """Moves the weights, and keeps the gradient and the weights before each step."""

    def __init__(self, policy: Policy, *, lr: float) -> None:
        self.policy, self.steps, self.before = policy, [], []  # type: ignore[var-annotated]
        super().__init__([p for _, p in policy.trainable()], lr=lr)

    def step(self, closure: Any = None) -> None:
        self.before.append(copy.deepcopy(self.policy.model))
        self.steps.append({n: p.grad.clone() for n, p in self.policy.trainable()})
        super().step()


def recipe(rows: int, *, truncation: Truncation | None = RULE, **changes: Any) -> Recipe:
    given = {
        "rule": UniformCredit(),
        "loss": SPREAD,
        "max_completion_tokens": 1,
        "group_size": rows,
        "truncation": truncation,
        "micro_batch_size": 64,
    }
    return updates.recipe_of(**given | changes)


def expectation(
    policy: Policy, exact: Truncated, *, pieces: int, truncation: Truncation | None = RULE
) -> tuple[list[dict[str, Tensor]], list[Any], Batch]:
    """The gradient of each update on every completion there is, each as often as it is drawn.

    An update's loss is linear in the advantages: chances make it the expectation over samples.
    """
    with torch.no_grad():
        twin = twins.widened(policy.model)
        chances = [float(exact.logprob(twin, each).exp()) for each in exact.completions]
    assert sum(chances) == pytest.approx(1.0)
    count = len(exact.completions)
    advantages = [p * reward(c) * count for p, c in zip(chances, exact.completions, strict=True)]
    rows = tiny.rows_of_pairs([(PROMPT, list(each)) for each in exact.completions] * pieces)
    recorded = Recorded(policy, lr=0.005)
    learner = Learner(policy, recorded)
    use = recipe(count, updates=pieces, truncation=truncation)
    batch = learner.measure(rows, torch.tensor(advantages * pieces), recipe=use)
    for update in learner.update(batch, recipe=use):
        assert update.applied and not update.clipped_tokens
    return recorded.steps, recorded.before, batch


def ascent(gradient: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: -value for name, value in gradient.items()}


def distance(found: dict[str, Tensor], exact: dict[str, Tensor]) -> float:
    both = [(found[n].double() - e, e) for n, e in exact.items()]
    gap = torch.stack([a.norm() for a, _ in both]).norm()
    return float(gap / torch.stack([b.norm() for _, b in both]).norm())


def test_the_expected_gradient_of_every_update_is_that_of_the_truncated_policy() -> None:
    """Of one token each, so that the ratio is that of the whole completion: at moved weights the
    surrogate's gradient is then the exact one, of the policy over the sets of the old weights."""
    policy = tiny.make_policy()
    exact = Truncated(policy, length=1)
    assert 3 < len(exact.completions) < 40
    steps, before, batch = expectation(policy, exact, pieces=3)
    for number, (found, model) in enumerate(zip(steps, before, strict=True)):
        assert distance(ascent(found), exact.gradient(model)) < 1e-5, number
    assert (
        float(
            (
                before[2].get_output_embeddings().weight.detach()
                - before[0].get_output_embeddings().weight
            )
            .abs()
            .max()
        )
        > 1e-3
    )
    assert batch.stats.outside is not None and not batch.stats.outside.any()


def test_log_probabilities_over_the_vocabulary_would_learn_something_else() -> None:
    """What the other test forbids: the bias of not renormalising is large."""
    policy = tiny.make_policy()
    exact = Truncated(policy, length=1)
    steps, before, _ = expectation(policy, exact, pieces=3, truncation=None)
    for found, model in zip(steps, before, strict=True):
        assert distance(ascent(found), exact.gradient(model)) > 0.02


def test_the_expected_gradient_over_several_tokens_is_exact_too() -> None:
    """All completions of two tokens; each second token has a set of its own."""
    policy = tiny.make_policy()
    exact = Truncated(policy, length=2)
    expected = exact.gradient(policy.model)
    steps, _, batch = expectation(policy, exact, pieces=1)
    assert distance(ascent(steps[0]), expected) < 1e-5
    sizes = batch.stats.kept
    assert sizes is not None and len(sizes[:, 1].unique()) > 2
    plain, _, _ = expectation(tiny.make_policy(), exact, pieces=1, truncation=None)
    assert distance(ascent(plain[0]), expected) > 0.05


@pytest.mark.parametrize("pieces", [1, 2])
def test_the_kl_term_compares_both_models_over_the_set_of_the_policy(pieces: int) -> None:
    """In the pass that trains and in the one before it, against float64: ln q(a) - ln q(set)."""
    policy = tiny.make_policy(apart=0.05)
    exact = Truncated(policy, length=2)
    reference = twins.widened(policy._reference)
    rows = tiny.rows_of_pairs([(PROMPT, list(each)) for each in exact.completions] * pieces)
    advantages = torch.tensor([reward(each) for each in exact.completions] * pieces)
    use = recipe(len(exact.completions), loss=ClipLoss(kl=0.1), updates=pieces)
    batch = Learner(policy, Recorded(policy, lr=0.0)).measure(rows, advantages, recipe=use)
    found = batch.stats.reference_logprobs
    assert found is not None
    with torch.no_grad():
        totals = [float(exact.logprob(reference, each)) for each in exact.completions] * pieces
    assert found.sum(dim=1).tolist() == pytest.approx(totals, abs=2e-5)


def test_a_batch_that_is_measured_first_is_learnt_from_as_in_one_pass() -> None:
    """Its sets are then known, and the ratios are 1 to the bit."""
    policy = tiny.make_policy(apart=0.05)
    rows = tiny.rows_of_pairs(updates.PAIRS)
    advantages = torch.tensor(updates.ADVANTAGES)
    use = updates.recipe_of(truncation=Truncation(0.6, 12))
    found = []
    for optimizer in (updates.Capture(policy), None):
        batch = Learner(policy, optimizer).measure(rows, advantages, recipe=use)
        assert batch.kept is not None
        assert [each is None for each in batch.kept] == [
            optimizer is not None or value == 0 for value in updates.ADVANTAGES
        ]
        capture = updates.Capture(policy)
        [result] = Learner(policy, capture).update(batch, recipe=use)
        assert (result.ratio_min, result.ratio_max) == (1.0, 1.0)
        found.append((batch, capture.gradients))
    (begun, ours), (plain, theirs) = found
    assert torch.equal(begun.stats.old_logprobs, plain.stats.old_logprobs)
    assert begun.stats.outside is not None and float(begun.stats.outside.sum()) > 0
    updates.assert_same_gradient(ours, theirs, error=1e-6)
