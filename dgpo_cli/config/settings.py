"""The tree of settings of a run. No torch here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dgpo_cli.algo.advantages import AdvantageSettings
from dgpo_cli.algo.credit import CreditRule, CreditSettings, DgpoCredit
from dgpo_cli.algo.losses import ClipLoss, Loss, LossSettings
from dgpo_cli.algo.off_policy import OffPolicySettings
from dgpo_cli.core.own_code import OwnVariant
from dgpo_cli.core.schema import Change, Frozen
from dgpo_cli.policy.settings import (
    AdapterSettings,
    ModelSettings,
    NoAdapter,
    OptimizerKind,
    ParallelKind,
    ParallelSettings,
)
from dgpo_cli.prompts.settings import PromptSettings, SumsPrompts
from dgpo_cli.rewards.settings import IntegerReward, RewardSettings
from dgpo_cli.samplers.settings import RolloutSettings
from dgpo_cli.trackers.settings import TrackSettings

_OWN_RULE = OwnVariant(CreditRule, tag="rule", needs=("token_scores", "credit"))
_OWN_LOSS = OwnVariant(Loss, tag="kind", needs=("token_losses",))


class OptimSettings(Frozen):
    """AdamW, updates and micro-batches."""

    kind: Annotated[OptimizerKind, Change.FIXED] = Field(
        "adamw",
        description="adamw8bit keeps AdamW's state in 8 bits, paged-adamw8bit lets it move to the "
        "host's memory (CUDA only); both need bitsandbytes.",
    )
    lr: float = Field(1e-6, gt=0, lt=1, description="Learning rate after the warm-up.")
    warmup_steps: int = Field(0, ge=0, description="Steps over which the rate rises linearly.")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant",
        description="The rate after the warm-up; linear and cosine fall to 0 at train.steps.",
    )
    weight_decay: float = Field(0.0, ge=0, description="AdamW's decoupled weight decay.")
    beta1: float = Field(0.9, ge=0, lt=1, description="AdamW's first-moment decay.")
    beta2: float = Field(0.999, ge=0, lt=1, description="AdamW's second-moment decay.")
    eps: float = Field(1e-8, gt=0, description="AdamW's epsilon.")
    max_grad_norm: float = Field(
        1.0, ge=0, description="The gradient is scaled down to this norm; 0 switches it off."
    )
    updates_per_step: int = Field(
        1, ge=1, description="Optimiser updates on one rollout batch, each on its own groups."
    )
    grad_noise: bool = Field(
        False,
        description="Measure the noise of the gradient in every update: even groups come first, so "
        "that numbers differ by rounding.",
    )
    micro_batch_size: Annotated[int, Change.FREE] = Field(
        0,
        ge=0,
        description="Most completions in one forward and backward pass; 0: no limit but "
        "micro_batch_tokens, which then counts padding, too. Affects memory, and numbers only by "
        "rounding.",
    )
    micro_batch_tokens: Annotated[int, Change.FREE] = Field(
        16384,
        ge=1,
        description="Most tokens in one forward and backward pass, prompts included; a longer "
        "completion gets a pass of its own. Affects memory, and numbers only by rounding.",
    )


class TrainSettings(Frozen):
    """Length of the run, checkpoints and rollouts."""

    steps: int = Field(100, ge=1, description="Rollout batches to train on.")
    checkpoint_every: int = Field(50, ge=1, description="Steps between checkpoints.")
    keep_checkpoints: int = Field(2, ge=1, description="Newest checkpoints that are kept.")
    rollouts_every: int = Field(
        10, ge=1, description="Steps between rollouts written to the run folder."
    )
    threads: int = Field(0, ge=0, description="CPU threads of torch; 0: torch's default.")
    stop_signal: Literal["none", "SIGUSR1", "SIGUSR2", "SIGHUP", "SIGXCPU"] = Field(
        "none",
        description="A signal that warns of the end, as Slurm and spot machines send: it stops the "
        "run after the step, with a checkpoint, as Ctrl-C and SIGTERM do.",
    )


class EvalSettings(Frozen):
    """Evaluations during training. Unset values are the protocol's, else the run's."""

    every: int = Field(
        0, ge=0, description="Steps between evaluations, also before the first step; 0: none."
    )
    bench: str = Field(
        "sums",
        min_length=1,
        description="Name of a benchmark, its manifest, or a file of problems.",
    )
    data: str | None = Field(None, description="Local copy of a named benchmark's data.")
    k: int = Field(8, ge=1, description="Samples of each problem.")
    protocol: str | None = Field(
        None, description="Protocol; unset: the benchmark's own, 'settings': the run's settings."
    )
    temperature: float | None = Field(
        None, ge=0, le=10, description="Sampling temperature; 0: greedy, with eval.k=1."
    )
    top_p: float | None = Field(None, gt=0, le=1, description="Nucleus sampling.")
    top_k: int | None = Field(None, ge=0, description="Keep the k likeliest tokens; 0: all.")
    max_completion_tokens: int | None = Field(
        None, ge=1, description="Longest completion; longer ones are truncated."
    )


class Settings(Frozen):
    """All settings of a run."""

    seed: int = Field(0, ge=0, lt=2**31, description="Seed of all randomness in the run.")
    model: ModelSettings = Field(ModelSettings(), description="The policy.")
    adapter: Annotated[AdapterSettings, Change.FIXED] = Field(
        NoAdapter(), description="LoRA, or none for full training."
    )
    prompts: PromptSettings = Field(SumsPrompts(), description="The problems.")
    rollout: RolloutSettings = Field(RolloutSettings(), description="Sampling.")
    reward: RewardSettings = Field(IntegerReward(), description="The checker and the reward.")
    advantage: AdvantageSettings = Field(AdvantageSettings(), description="Group advantages.")
    credit: Annotated[CreditSettings, _OWN_RULE] = Field(
        DgpoCredit(), description="How credit is spread over tokens."
    )
    loss: Annotated[LossSettings, _OWN_LOSS] = Field(
        ClipLoss(), description="The loss and its aggregation."
    )
    off_policy: OffPolicySettings = Field(
        OffPolicySettings(),
        description="Correction for a sampler that differs slightly from the policy.",
    )
    optim: OptimSettings = Field(OptimSettings(), description="The optimiser.")
    train: Annotated[TrainSettings, Change.FREE] = Field(TrainSettings(), description="The run.")
    eval: Annotated[EvalSettings, Change.FREE] = Field(
        EvalSettings(), description="Evaluations during training."
    )
    track: Annotated[TrackSettings, Change.FREE] = Field(
        TrackSettings(), description="Trackers of metrics."
    )
    parallel: Annotated[ParallelSettings, Change.FREE] = Field(
        ParallelSettings(), description="Devices."
    )


def needs_reference(settings: Settings) -> bool:
    """Return whether the reference runs in training: for credit, or for the loss."""
    return settings.credit.needs_reference or settings.loss.needs_reference


def parallel_kind(settings: Settings) -> ParallelKind:
    """Return how a run is distributed over its devices, with auto resolved."""
    parallel = settings.parallel
    if parallel.gpus == 1:
        return "single"
    if parallel.kind == "auto":
        return "shard" if settings.adapter.kind == "none" else "replicate"
    return parallel.kind
