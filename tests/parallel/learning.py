"""Three steps of measuring and updating on one rank's share, and all that they give."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from dgpo_cli.algo.credit import DgpoCredit
from dgpo_cli.algo.losses import CispoLoss, ClipLoss, GspoLoss, Loss
from dgpo_cli.algo.off_policy import Correction
from dgpo_cli.algo.truncation import Truncation
from dgpo_cli.core.types import KeptTokens
from dgpo_cli.engine.learn import Learner
from dgpo_cli.engine.optimizers import build_adamw
from dgpo_cli.engine.piece import Recipe
from dgpo_cli.parallel.ranks import ALONE, Ranks
from dgpo_cli.policy.policy import Policy
from dgpo_cli.policy.settings import CheckpointingKind
from tests.policy import tiny

GROUP = 4
# Prompt and completion lengths of three steps: prompts shared by a group; one step with fewer
# rows that have an advantage than there are ranks, one in which a group has none.
STEPS = [
    ([5] * 4 + [9] * 4 + [3] * 4, [6, 11, 1, 17, 3, 8, 5, 2, 13, 7, 4, 9]),
    ([4] * 4 + [4] * 4 + [8] * 4, [12, 2, 9, 5, 6, 6, 7, 1, 3, 10, 2, 8]),
    ([7] * 4 + [2] * 4 + [6] * 4, [3, 14, 5, 9, 1, 2, 19, 4, 8, 8, 6, 5]),
]
ADVANTAGES = [
    [1.1, -0.4, -0.7, 0.0, 0.0, 0.0, 0.0, 0.0, -0.5, 1.2, 0.3, -1.0],
    [0.0] * 9 + [0.7, -0.7, 0.0],
    [0.9, 0.1, -0.6, -0.4, -1.0, 0.3, 0.3, 0.4, 0.2, -0.2, 0.5, -0.5],
]


RULE = DgpoCredit(tau=0.05)
NONE = [None] * (len(ADVANTAGES[0]) - GROUP)
CLIP = ClipLoss()


@dataclass(frozen=True)
class Case:
    """What differs between runs. A family with an adapter is "lora"."""

    family: str = "qwen2-tied"
    checkpointing: CheckpointingKind = "none"
    updates: int = 1
    loss: Loss = CLIP
    truncated: bool = False
    carried: bool = False
    corrected: bool = False
    turns: bool = False
    rule: DgpoCredit = RULE
    micro_tokens: int = 40
    sampler: Truncation | None = None
    double: bool = False
    noise: bool = False

    @property
    def rounding(self) -> float:
        """The multiple of 1e-6 by which extremes and norms may be apart; see `check_equal`."""
        return 2 if self.double else 4


CASES = {
    "tied": Case(),
    "untied, checkpointed": Case("qwen2-untied", checkpointing="selective"),
    "adapter": Case("lora"),
    "adapter, checkpointed, two updates": Case("lora", checkpointing="full", updates=2),
    "noise of the gradient": Case(noise=True),
    "noise of the gradient, adapter": Case("lora", noise=True, micro_tokens=10_000),
    "two updates, sequence-mean": Case(updates=2, loss=ClipLoss(aggregation="sequence-mean")),
    "three updates, constant": Case(updates=3, loss=ClipLoss(aggregation="constant")),
    "truncated rows are masked": Case(truncated=True, loss=ClipLoss(aggregation="sequence-mean")),
    "carried groups": Case(carried=True, updates=2),
    "off-policy correction": Case(corrected=True),
    "several turns": Case(turns=True, corrected=True),
    "several turns, two updates, double": Case(turns=True, corrected=True, updates=2, double=True),
    "one tau for the batch": Case(rule=DgpoCredit(target_ess=0.9, target_ess_over="batch")),
    "refreshed by each update": Case(updates=3, rule=DgpoCredit(tau=0.05, refresh="update")),
    "refreshed, one tau for an update": Case(
        updates=3,
        rule=DgpoCredit(target_ess=0.9, target_ess_over="batch", refresh="update", sign="positive"),
    ),
    "top_p, three updates": Case(updates=3, sampler=Truncation(0.7, 0)),
    "top_p and top_k, carried groups": Case(
        "lora", updates=2, carried=True, turns=True, sampler=Truncation(0.9, 12)
    ),
    "top_k, refreshed, one tau for an update": Case(
        updates=2,
        rule=DgpoCredit(target_ess=0.9, target_ess_over="batch", refresh="update"),
        sampler=Truncation(1.0, 9),
        double=True,
    ),
    "KL, gspo, top_p, two updates": Case(
        "lora", updates=2, loss=GspoLoss(kl=0.1), sampler=Truncation(0.9, 0)
    ),
    "KL, top_p, refreshed": Case(
        updates=3,
        rule=DgpoCredit(tau=0.05, refresh="update"),
        loss=ClipLoss(kl=0.1),
        sampler=Truncation(0.9, 0),
        double=True,
    ),
    "KL, cispo, rows are masked": Case(truncated=True, carried=True, loss=CispoLoss(kl=0.1)),
    "one row a pass": Case(micro_tokens=1),
    "one pass for all": Case(micro_tokens=10_000),
    "not packed": Case("gemma2-softcap"),
}


def make_policy(case: Case) -> Policy:
    if case.family == "lora":
        policy = tiny.make_lora_policy(apart=0.02)
    else:
        policy = tiny.make_policy(case.family, apart=0.02)
    policy.layers.checkpoint(case.checkpointing)
    if case.double:
        policy.model.double()
        assert policy._reference is not None
        policy._reference.double()
    return policy


def sharded(policy: Policy, kind: Literal["shard", "hybrid"], *, offload: bool) -> Policy:
    """Return the policy on weights that are sharded; hybrid: over machines of two ranks."""
    from dgpo_cli.parallel.sharding import make_mesh, shard

    mesh = make_mesh(kind, device_type="cpu", node_size=2)
    reference = policy._reference
    shard(policy.model, mesh=mesh, compute=None)
    if reference is not None:
        shard(reference, mesh=mesh, compute=None, offload=offload)
    return Policy(
        policy.model,
        tokenizer=policy.tokenizer,
        reference=reference,
        has_adapter=policy.has_adapter,
        sharded=True,
    )


def learn(ranks: Ranks, case: Case, policy: Policy) -> dict[str, Any]:
    """Return losses, gradient norms, statistics, credit and final weights."""
    optimizer = build_adamw(policy, lr=1e-4, betas=(0.9, 0.99), eps=1e-3, weight_decay=0.01)
    learner = Learner(policy, optimizer, ranks=ranks)
    recipe = Recipe(
        rule=case.rule,
        loss=case.loss,
        temperature=0.8,
        max_completion_tokens=20,
        group_size=GROUP,
        micro_batch_size=4,
        micro_batch_tokens=case.micro_tokens,
        updates=case.updates,
        max_grad_norm=0.5,
        truncation=case.sampler,
        grad_noise=case.noise,
    )
    if case.corrected:
        recipe = replace(recipe, correction=Correction("token", "truncate", 1.1))
    found: dict[str, Any] = {"updates": [], "columns": []}
    for step, ((prompts, lengths), advantages) in enumerate(zip(STEPS, ADVANTAGES, strict=True)):
        rows = tiny.rows_of_pairs(_pairs(step, prompts, lengths, turns=case.turns))
        if case.carried and step and case.sampler is not None:
            rows = replace(rows, kept=[*map(_kept, rows.completion_ids[:GROUP], rows.mask), *NONE])
        batch = learner.measure(
            rows,
            torch.tensor(advantages),
            recipe=recipe,
            every_distance=step == 1,
            sampling_logprobs=_values(step, lengths) if case.corrected else None,
            counted=torch.tensor([n < 11 for n in lengths]) if case.truncated else None,
            old_logprobs=_values(step, lengths[:GROUP]) if case.carried and step else None,
        )
        updates = learner.update(batch, recipe=recipe)
        found["updates"] += [
            [u.loss, u.grad_norm, u.ratio_min, u.ratio_max, u.clipped_tokens, u.signal_tokens,
             u.kept_tokens, u.correction_weights, u.correction_squares, u.learnt_tokens,
             u.clipped_low, (u.kl or 0.0) / max(u.learnt_tokens, 1), u.half_norm or 0.0, u.applied]
            for u in updates
        ]  # fmt: skip
        stats, credit = batch.stats, batch.credit
        found["columns"].append(
            torch.stack([stats.old_logprobs, stats.entropy, stats.hellinger_sq, credit.weights])
        )
        if stats.kept is not None and stats.outside is not None:
            found["columns"].append(torch.stack([stats.kept, stats.outside]))
        if stats.reference_logprobs is not None:
            found["columns"].append(stats.reference_logprobs)
        if credit.tau is not None:
            found["columns"].append(credit.tau.nan_to_num(-1.0))
    found["weights"] = {name: whole(weight) for name, weight in policy.trainable()}
    return found


def whole(weight: Any) -> torch.Tensor:
    """Return a weight, gathered if it is sharded."""
    weight = weight.detach()
    full: torch.Tensor = weight.full_tensor() if hasattr(weight, "full_tensor") else weight.clone()
    return full


def _pairs(step: int, prompts: list[int], lengths: list[int], *, turns: bool) -> Any:
    """Completions of a group share their prompt; with turns, long ones have an environment's."""
    rng = random.Random(step)

    def ids(count: int) -> list[int]:
        return [rng.randrange(2, tiny.VOCAB) for _ in range(count)]

    firsts = [ids(count) for count in prompts[::GROUP]]
    return [
        (firsts[row // GROUP], ids(count), [(2, 4), (5, count - 1)] if turns and count > 6 else [])
        for row, count in enumerate(lengths)
    ]


def _kept(ids: torch.Tensor, mask: torch.Tensor) -> KeptTokens:
    """A set for each token on the mask: itself, and two that have nothing to do with it."""
    own = ids[mask]
    sets = torch.stack([own, (own + 7) % tiny.VOCAB, (own + 20) % tiny.VOCAB])
    count = len(own)
    return KeptTokens(
        torch.full((count,), 3, dtype=torch.int32),
        sets.t().reshape(-1).int(),
        torch.arange(count) % 2 == 0,
    )


def _values(step: int, lengths: list[int]) -> torch.Tensor:
    """Log-probabilities of a sampler or of earlier weights."""
    rng = random.Random(100 + step)
    most = max(STEPS[step][1])
    return torch.tensor(
        [[-rng.uniform(0.5, 5.0) if t < n else 0.0 for t in range(most)] for n in lengths]
    )


def all_cases(ranks: Ranks) -> dict[str, dict[str, Any]]:
    """Run every case, one after the other."""
    return {name: learn(ranks, case, make_policy(case)) for name, case in CASES.items()}


def all_sharded(
    ranks: Ranks, kind: Literal["shard", "hybrid"], offload: bool = False
) -> dict[str, dict[str, Any]]:
    """Run every case on sharded weights."""
    return {
        name: learn(ranks, case, sharded(make_policy(case), kind, offload=offload))
        for name, case in CASES.items()
    }


def alone() -> dict[str, dict[str, Any]]:
    return all_cases(ALONE)


def check_equal(
    found: dict[str, Any], expected: dict[str, Any], *, within: float = 1e-6, rounding: float = 4
) -> None:
    """Compare what `learn` returned: counts exactly, numbers relative to their largest.

    Rounding alone moves a gradient's norm and the extreme ratios by up to 3e-6, as another
    micro-batch size does on one device, and by twice that where a row is cut. Cases in which it is
    more (5e-6 in a ratio) run in double precision, where only the statistics are rounded to
    float32, and are held to 2e-6.

    rounding: the multiple of `within` that they may be apart.
    """
    for mine, theirs in zip(found["updates"], expected["updates"], strict=True):
        assert mine[4:7] == theirs[4:7] and mine[-1] == theirs[-1], (mine, theirs)
        assert abs(mine[0] - theirs[0]) <= within, (mine, theirs)
        for a, b in zip(mine[1:], theirs[1:], strict=True):
            assert abs(a - b) <= rounding * within * max(1.0, abs(b)), (mine, theirs)
    for mine, theirs in zip(found["columns"], expected["columns"], strict=True):
        assert mine.shape == theirs.shape
        apart = (mine - theirs).abs().max()
        assert apart <= rounding * within * theirs.abs().max(), apart
    assert found["weights"].keys() == expected["weights"].keys()
    for name, theirs in expected["weights"].items():
        apart = (found["weights"][name] - theirs).abs().max()
        assert apart <= within, (name, float(apart))
