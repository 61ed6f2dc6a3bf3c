"""The loss and its gradient are those of TRL 1.16.0's GRPOTrainer, where the two have names for the
same thing: w = 1 and TRL's loss types grpo, dapo, bnpo, dr_grpo and cispo, its sequence ratio
(GSPO), `delta` and `beta`.

Ours is the path that training takes, engine.learn, in micro-batches of 3 rows, packed and padded;
TRL's is `_compute_loss` of a GRPOTrainer over all rows at once, or over its own micro-batches.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from dgpo_cli.algo.credit import UniformCredit
from dgpo_cli.algo.losses import CispoLoss, ClipLoss, GspoLoss, Loss
from dgpo_cli.core.types import Batch, TokenStats
from dgpo_cli.engine.learn import Learner
from dgpo_cli.engine.piece import Recipe
from dgpo_cli.policy.batching import Rows
from dgpo_cli.policy.policy import Policy
from dgpo_cli.policy.scoring import token_stats
from tests.policy import tiny

pytestmark = pytest.mark.slow

TRL_VERSION = "1.16.0"
GROUP_SIZE = 4
MAX_TOKENS = 20  # of a completion; the longest of the batch has 17
# Loss type of TRL and the aggregation that is the same over a whole optimiser batch.
PAIRS = (
    ("grpo", "sequence-mean"),
    ("dapo", "token-mean"),
    ("bnpo", "token-mean"),
    ("dr_grpo", "constant"),
)
# (prompt tokens, completion tokens) of three groups.
SHAPES = [
    *[(3, t) for t in (5, 17, 1, 9)],
    *[(8, t) for t in (12, 2, 7, 4)],
    *[(5, t) for t in (6, 11, 3, 14)],
]
# Both signs, a zero within a group, and a group without signal.
ADVANTAGES = [1.2, -0.7, 0.0, -0.5, 0.0, 0.0, 0.0, 0.0, -1.6, 0.9, 0.4, 0.3]


@dataclass(frozen=True)
class Step:
    """A loss, the gradient by parameter name, and the clipped tokens."""

    loss: float
    gradient: dict[str, torch.Tensor]
    clipped: float


@functools.cache
def batch_at(temperature: float, family: str) -> Batch:
    """Twelve completions whose old log-probabilities are up to 0.6 nats off today's."""
    policy = tiny.make_policy(family)
    rows = tiny.rows_of_pairs(tiny.random_pairs(SHAPES, seed=4))
    now = token_stats(
        policy, rows, temperature=temperature, micro_batch_size=5, with_reference=False
    )
    noise, other = torch.rand(2, *rows.mask.shape, generator=torch.Generator().manual_seed(1))
    stats = TokenStats(
        old_logprobs=(now.old_logprobs + noise * 1.2 - 0.6) * rows.mask,
        entropy=now.entropy,
        hellinger_sq=now.hellinger_sq,
        reference_logprobs=(now.old_logprobs + other * 3.0 - 1.5) * rows.mask,
    )
    return Batch(
        prompt_ids=rows.prompt_ids,
        prompt_mask=rows.prompt_mask,
        completion_ids=rows.completion_ids,
        mask=rows.mask,
        advantages=torch.tensor(ADVANTAGES),
        stats=stats,
        credit=UniformCredit().credit(stats, rows.mask, vocab_size=policy.vocab_size),
    )


def our_step(
    batch: Batch, *, loss: Loss, temperature: float, family: str, packs: bool = True
) -> Step:
    """Take the gradient that the optimiser is given by one update."""
    model = tiny.build_model(family)
    if not packs:
        model.set_attn_implementation("eager")
    policy = Policy(model, tokenizer=tiny.char_tokenizer(), reference=None, has_adapter=False)
    assert policy.packs == packs
    optimizer, gradient = keeping_optimizer(policy)
    recipe = recipe_of(loss, temperature)
    [result] = Learner(policy, optimizer).update(batch, recipe=recipe)
    return Step(result.loss, gradient, result.clipped_tokens)


def keeping_optimizer(policy: Policy) -> tuple[torch.optim.Optimizer, dict[str, torch.Tensor]]:
    """Return an optimiser that moves nothing, and where it puts the gradients it is given."""
    gradient: dict[str, torch.Tensor] = {}

    def keep(*_: Any) -> None:
        gradient.update({n: p.grad.clone() for n, p in policy.trainable() if p.grad is not None})

    optimizer = torch.optim.SGD([p for _, p in policy.trainable()], lr=0.0)
    optimizer.register_step_pre_hook(keep)
    return optimizer, gradient


def clip(aggregation: Any) -> ClipLoss:
    return ClipLoss(clip_low=0.2, clip_high=0.28, aggregation=aggregation)


def recipe_of(loss: Loss, temperature: float) -> Recipe:
    return Recipe(
        rule=UniformCredit(),
        group_size=len(ADVANTAGES),
        loss=loss,
        temperature=temperature,
        max_completion_tokens=MAX_TOKENS,
        micro_batch_size=3,
    )


def our_first_step(batch: Batch, *, aggregation: Any, family: str) -> tuple[Batch, Step]:
    """Measure the completions and update on them in one pass, as the first update of a step."""
    policy = tiny.make_policy(family)
    optimizer, gradient = keeping_optimizer(policy)
    learner = Learner(policy, optimizer)
    recipe = recipe_of(clip(aggregation), 1.0)
    measured = learner.measure(Rows.of(batch), batch.advantages, recipe=recipe)
    [result] = learner.update(measured, recipe=recipe)
    return measured, Step(result.loss, gradient, result.clipped_tokens)


def trl_trainer(
    folder: Path, *, temperature: float, family: str, pieces: int, options: dict[str, Any]
) -> Any:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    config = GRPOConfig(
        output_dir=str(folder),
        temperature=temperature,
        **{"epsilon": 0.2, "epsilon_high": 0.28} | options,
        num_generations=GROUP_SIZE,
        per_device_train_batch_size=len(SHAPES) // pieces,
        gradient_accumulation_steps=pieces,
        max_completion_length=MAX_TOKENS,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        report_to="none",
    )
    model = tiny.build_model(family)
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=config,
        train_dataset=Dataset.from_dict({"prompt": ["1+1?"] * len(SHAPES)}),
        processing_class=tiny.char_tokenizer(),
    )
    # Trainer.train sets it before the first micro-batch.
    trainer.current_gradient_accumulation_steps = pieces
    return trainer


def trl_step(
    batch: Batch,
    folder: Path,
    *,
    temperature: float,
    family: str,
    pieces: int = 1,
    clips: bool = True,
    beta: float = 0.0,
    **options: Any,
) -> Step:
    """Take TRL's loss and gradient over the batch in `pieces` micro-batches of whole groups."""
    trainer = trl_trainer(
        folder, temperature=temperature, family=family, pieces=pieces, options=options
    )
    trainer.beta = beta  # set later, so that TRL looks for no reference: its numbers are given
    model = trainer.model.train()
    columns = {
        "prompt_ids": batch.prompt_ids,
        "prompt_mask": batch.prompt_mask.long(),
        "completion_ids": batch.completion_ids,
        "completion_mask": batch.mask.long(),
        "advantages": batch.advantages,
        "old_per_token_logps": batch.stats.old_logprobs,
    }
    if batch.stats.reference_logprobs is not None:
        columns["ref_per_token_logps"] = batch.stats.reference_logprobs
    loss, size = 0.0, len(SHAPES) // pieces
    for start in range(0, len(SHAPES), size):
        inputs = {name: column[start : start + size] for name, column in columns.items()}
        # TRL counts the tokens of the whole generation batch, not of the micro-batch.
        part = trainer._compute_loss(model, inputs | {"num_items_in_batch": batch.mask.sum()})
        part.backward()
        loss += float(part.detach())
    share = trainer._metrics["train"].get("clip_ratio/region_mean", [float("nan")])
    for side in ("low", "high") if clips else ():
        assert trainer._metrics["train"][f"clip_ratio/{side}_mean"][0] > 0, f"nothing clips {side}"
    gradient = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return Step(loss, gradient, share[0] * int(batch.mask.sum()) if pieces == 1 else float("nan"))


def distance(ours: Step, theirs: Step) -> float:
    """Return the largest difference of any two gradient entries, over the largest entry."""
    assert ours.gradient.keys() == theirs.gradient.keys()
    scale = max(float(g.abs().max()) for g in theirs.gradient.values())
    assert scale > 1e-3, "a gradient of nothing proves nothing"
    gaps = (float((ours.gradient[n] - g).abs().max()) for n, g in theirs.gradient.items())
    return max(gaps) / scale


@pytest.fixture(scope="module", autouse=True)
def _trl() -> None:
    trl = pytest.importorskip("trl", reason="TRL is in the development extra")
    assert trl.__version__ == TRL_VERSION


@pytest.mark.parametrize("packs", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize("family", ["qwen2-untied", "qwen2-tied"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize(("loss_type", "aggregation"), PAIRS)
def test_loss_and_gradient_are_trls(
    loss_type: str, aggregation: str, temperature: float, family: str, packs: bool, tmp_path: Path
) -> None:
    batch = batch_at(temperature, family)
    ours = our_step(
        batch, loss=clip(aggregation), temperature=temperature, family=family, packs=packs
    )
    theirs = trl_step(batch, tmp_path, loss_type=loss_type, temperature=temperature, family=family)
    assert ours.gradient.keys() == dict(tiny.build_model(family).named_parameters()).keys()
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-5)
    assert ours.clipped == pytest.approx(theirs.clipped)
    assert distance(ours, theirs) < 1e-5


@pytest.mark.parametrize(("loss_type", "aggregation"), PAIRS)
def test_a_first_update_in_one_pass_is_trls(
    loss_type: str, aggregation: str, tmp_path: Path
) -> None:
    family = "qwen2-untied"
    batch, ours = our_first_step(batch_at(1.0, family), aggregation=aggregation, family=family)
    theirs = trl_step(
        batch, tmp_path, loss_type=loss_type, temperature=1.0, family=family, clips=False
    )
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-5, abs=1e-7)
    assert distance(ours, theirs) < 1e-5


@pytest.mark.parametrize(
    ("loss_type", "aggregation"), [pair for pair in PAIRS if pair[0] != "bnpo"]
)
def test_trl_in_micro_batches_adds_up_to_the_same(
    loss_type: str, aggregation: str, tmp_path: Path
) -> None:
    batch = batch_at(1.0, "qwen2-untied")
    ours = our_step(batch, loss=clip(aggregation), temperature=1.0, family="qwen2-untied")
    theirs = trl_step(
        batch, tmp_path, loss_type=loss_type, temperature=1.0, family="qwen2-untied", pieces=3
    )
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-5)
    assert distance(ours, theirs) < 1e-5


def test_bnpo_of_micro_batches_is_not_the_mean_over_the_batch(tmp_path: Path) -> None:
    # bnpo averages over each micro-batch by itself; our token-mean does not depend on the cut.
    batch = batch_at(1.0, "qwen2-untied")
    ours = our_step(batch, loss=clip("token-mean"), temperature=1.0, family="qwen2-untied")
    theirs = trl_step(
        batch, tmp_path, loss_type="bnpo", temperature=1.0, family="qwen2-untied", pieces=3
    )
    assert distance(ours, theirs) > 1e-2


@pytest.mark.parametrize("aggregation", ["token-mean", "sequence-mean", "constant"])
def test_another_aggregation_is_told_apart(aggregation: str, tmp_path: Path) -> None:
    batch = batch_at(1.0, "qwen2-untied")
    ours = our_step(batch, loss=clip(aggregation), temperature=1.0, family="qwen2-untied")
    for loss_type, same in PAIRS:
        theirs = trl_step(
            batch, tmp_path, loss_type=loss_type, temperature=1.0, family="qwen2-untied"
        )
        if same != aggregation:
            assert distance(ours, theirs) > 1e-2
            assert ours.loss != pytest.approx(theirs.loss, rel=1e-2)


# The bounds of gspo are wide, so that some of these few completions are within.
OTHERS: dict[str, tuple[Loss, dict[str, Any]]] = {
    "gspo": (
        GspoLoss(sequence_clip_low=0.05, sequence_clip_high=0.06),
        {
            "loss_type": "grpo",
            "importance_sampling_level": "sequence",
            "epsilon": 0.05,
            "epsilon_high": 0.06,
        },
    ),
    "gspo, token-mean": (
        GspoLoss(sequence_clip_low=0.05, sequence_clip_high=0.06, aggregation="token-mean"),
        {
            "loss_type": "dapo",
            "importance_sampling_level": "sequence",
            "epsilon": 0.05,
            "epsilon_high": 0.06,
        },
    ),
    "cispo": (CispoLoss(weight_max=1.3), {"loss_type": "cispo", "epsilon_high": 1.3}),
    "dual_clip": (ClipLoss(dual_clip=1.5), {"loss_type": "dapo", "delta": 1.5}),
    "kl": (
        ClipLoss(kl=0.1, aggregation="sequence-mean"),
        {"loss_type": "grpo", "beta": 0.1, "use_bias_correction_kl": False},
    ),
    "gspo, kl": (
        GspoLoss(kl=0.1, sequence_clip_low=0.05, sequence_clip_high=0.06, aggregation="constant"),
        {
            "loss_type": "dr_grpo",
            "beta": 0.1,
            "use_bias_correction_kl": False,
            "importance_sampling_level": "sequence",
            "epsilon": 0.05,
            "epsilon_high": 0.06,
        },
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_losses_are_trls(name: str, tmp_path: Path) -> None:
    family, (loss, options) = "qwen2-untied", OTHERS[name]
    batch = batch_at(0.7, family)
    ours = our_step(batch, loss=loss, temperature=0.7, family=family)
    clips = options["loss_type"] != "cispo"
    theirs = trl_step(batch, tmp_path, temperature=0.7, family=family, clips=clips, **options)
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-5)
    assert distance(ours, theirs) < 1e-5
    plain = our_step(batch, loss=clip(loss.aggregation), temperature=0.7, family=family)
    assert distance(plain, theirs) > 1e-3


def test_trls_corrected_kl_term_is_told_apart(tmp_path: Path) -> None:
    batch, (loss, options) = batch_at(1.0, "qwen2-untied"), OTHERS["kl"]
    ours = our_step(batch, loss=loss, temperature=1.0, family="qwen2-untied")
    options = options | {"use_bias_correction_kl": True}
    theirs = trl_step(batch, tmp_path, temperature=1.0, family="qwen2-untied", **options)
    assert distance(ours, theirs) > 1e-2


def test_another_temperature_is_told_apart(tmp_path: Path) -> None:
    batch = batch_at(1.0, "qwen2-untied")
    ours = our_step(batch, loss=clip("token-mean"), temperature=0.7, family="qwen2-untied")
    theirs = trl_step(batch, tmp_path, loss_type="dapo", temperature=1.0, family="qwen2-untied")
    assert distance(ours, theirs) > 1e-2
