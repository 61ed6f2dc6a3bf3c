"""What an update is made of: its recipe, its completions and what their tokens lose, its result."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from dgpo_cli.algo.grad_noise import GradNoise
from dgpo_cli.algo.off_policy import Correction
from dgpo_cli.algo.own import check_forms, guarding
from dgpo_cli.core.errors import ConfigError
from dgpo_cli.policy.batching import whole_groups

if TYPE_CHECKING:
    from torch import Tensor

    from dgpo_cli.algo.credit import CreditRule
    from dgpo_cli.algo.losses import Loss
    from dgpo_cli.algo.truncation import Truncation
    from dgpo_cli.config.settings import Settings
    from dgpo_cli.core.types import Batch


NO_CORRECTION = Correction(level="none", mode="truncate", cap=1.0)


@dataclass(frozen=True, slots=True)
class Recipe:
    """The settings under which a batch is measured and learnt from.

    updates, group_size: the rows are cut into that many pieces of whole groups, an update each.
    max_grad_norm: 0 switches clipping off. grad_noise: each update measures its noise.
    """

    rule: CreditRule
    loss: Loss
    temperature: float
    max_completion_tokens: int
    group_size: int
    micro_batch_size: int
    micro_batch_tokens: int | None = None
    correction: Correction = NO_CORRECTION
    truncation: Truncation | None = None
    updates: int = 1
    max_grad_norm: float = 0.0
    grad_noise: bool = False

    @classmethod
    def of(cls, settings: Settings) -> Recipe:
        """Return the recipe of a run."""
        optim, rollout = settings.optim, settings.rollout
        return cls(
            rule=settings.credit,
            loss=settings.loss,
            # Greedy sampling has no temperature; its tokens are scored under the plain logits.
            temperature=rollout.temperature or 1.0,
            max_completion_tokens=rollout.max_completion_tokens,
            group_size=rollout.group_size,
            micro_batch_size=optim.micro_batch_size,
            micro_batch_tokens=optim.micro_batch_tokens,
            correction=settings.off_policy.of(rollout.backend.kind),
            truncation=rollout.truncation,
            updates=optim.updates_per_step,
            max_grad_norm=optim.max_grad_norm,
            grad_noise=optim.grad_noise,
        )

    @property
    def refreshes(self) -> bool:
        """Whether every update after the first measures its rows again."""
        return self.rule.refresh == "update" and self.updates > 1

    @property
    def needs_reference(self) -> bool:
        """Whether the reference runs: for distances, for the loss, or for both in one pass."""
        return self.rule.needs_reference or self.loss.needs_reference

    def learnt_rows(
        self,
        advantages: Tensor,  # float32 [B]
        *,
        counted: Tensor | None,  # bool [B], see Batch
    ) -> Tensor:
        """Return the rows that may have a gradient, bool [B]; the others are not computed."""
        if not self.loss.needs_reference:
            return advantages != 0
        return torch.ones_like(advantages, dtype=torch.bool) if counted is None else counted

    def pieces(self, rows: int) -> list[tuple[int, int]]:
        """Return the rows of each update. Raises ConfigError if the last group is not whole."""
        if not rows or rows % self.group_size:
            raise ConfigError(
                f"rollout.group_size={self.group_size}: {rows} completions are not a multiple; "
                "sample that many for each prompt"
            )
        return whole_groups(rows, group_size=self.group_size, pieces=self.updates)


@dataclass(slots=True)
class Update:
    """The result of one update. Sums run over the completion tokens of rows with an advantage.

    signal_tokens: the number of those tokens.
    clipped_low: the clipped tokens whose ratio is below 1.
    learnt_tokens: of all rows that were computed; with a KL term, those without an advantage too.
    kl: sum over these of the estimates of the KL divergence, in nats; None without a KL term.
    kept_tokens: tokens whose importance weight was within its cap.
    correction_weights, correction_squares: sums of those weights and of their squares.
    ratios_finite: whether the logarithm of every ratio was a finite number.
    grad_norm: before clipping; 0 when no row was computed.
    half_norm: of the gradient of the even groups alone; None if it was not measured.
    noise: what both norms say; None for a single group, too.
    applied: whether the weights moved: the update was finite and a completion was computed.
    """

    loss: float = 0.0
    ratio_min: float = math.inf
    ratio_max: float = -math.inf
    clipped_tokens: int = 0
    signal_tokens: int = 0
    clipped_low: int = 0
    learnt_tokens: int = 0
    kl: float | None = None
    kept_tokens: int = 0
    correction_weights: float = 0.0
    correction_squares: float = 0.0
    ratios_finite: bool = True
    grad_norm: float = 0.0
    half_norm: float | None = None
    noise: GradNoise | None = None
    applied: bool = False

    @property
    def finite(self) -> bool:
        """Whether the loss, its gradient and the logarithm of every ratio were finite numbers."""
        return self.ratios_finite and math.isfinite(self.loss) and math.isfinite(self.grad_norm)

    def include(self, other: Update) -> None:
        """Add the micro-batches of another rank."""
        self.loss += other.loss
        self.ratio_min = min(self.ratio_min, other.ratio_min)
        self.ratio_max = max(self.ratio_max, other.ratio_max)
        self.clipped_tokens += other.clipped_tokens
        self.clipped_low += other.clipped_low
        self.signal_tokens += other.signal_tokens
        self.learnt_tokens += other.learnt_tokens
        if other.kl is not None:
            self.kl = (self.kl or 0.0) + other.kl
        self.kept_tokens += other.kept_tokens
        self.correction_weights += other.correction_weights
        self.correction_squares += other.correction_squares
        self.ratios_finite &= other.ratios_finite

    def add(
        self,
        loss: Tensor,  # scalar
        *,
        log_ratios: Tensor,  # [N], of the tokens on the mask
        kl: Tensor | None,  # [N]
        ratios: Tensor,  # [S], of those of rows with an advantage, and so those below
        clipped: Tensor,
        weights: Tensor,
        within: Tensor,
    ) -> None:
        """Count one micro-batch. weights: of the correction, within: of its cap."""
        self.learnt_tokens += len(log_ratios)
        if kl is not None:
            self.kl = (self.kl or 0.0) + float(kl.detach().double().sum())
        self.kept_tokens += int(within.sum())
        self.correction_weights += float(weights.double().sum())
        self.correction_squares += float(weights.double().square().sum())
        self.loss += float(loss.detach())
        if len(ratios):
            self.ratio_min = min(self.ratio_min, float(ratios.min()))
            self.ratio_max = max(self.ratio_max, float(ratios.max()))
        self.clipped_tokens += int(clipped.sum())
        self.clipped_low += int((clipped & (ratios < 1)).sum())
        self.signal_tokens += len(ratios)
        # A probability of zero gives a ratio of 0 or a clipped one, and so a finite loss.
        self.ratios_finite &= bool(log_ratios.isfinite().all())


@dataclass(frozen=True, slots=True)
class Piece:
    """The completions of one update, and its result so far."""

    batch: Batch
    recipe: Recipe
    scales: Tensor  # float32 [B], what the token losses of a row are multiplied by; 0 outside
    update: Update

    @classmethod
    def of(cls, batch: Batch, index: Tensor, *, recipe: Recipe) -> Piece:
        """Take the rows `index` (int64 [M]) of a batch.

        Raises:
            ConfigError: the loss needs a reference that did not run.
        """
        if recipe.loss.needs_reference and batch.stats.reference_logprobs is None:
            raise ConfigError(
                f"loss.kl={recipe.loss.kl:g}: the policy was loaded without a reference, or the "
                "batch measured with another loss; set loss.kl=0, or load and measure with this "
                "setting"
            )
        counting = batch.counting(index)
        scales = torch.zeros(len(batch.mask), device=batch.mask.device)
        if len(counting):  # else every row is left out of the loss
            own = batch.lengths[counting]
            with guarding(recipe.loss):
                scales[counting] = recipe.loss.row_scales(
                    own,
                    num_tokens=int(own.sum()),
                    num_completions=len(counting),
                    max_completion_tokens=recipe.max_completion_tokens,
                )
        return cls(batch, recipe, scales, Update())

    def backward(
        self,
        logprobs: Tensor,  # float32 [M, t]
        *,
        old_logprobs: Tensor,  # float32 [M, t]
        mask: Tensor,  # bool [M, t]
        chosen: Tensor,  # int64 [M], the rows of the batch that these are
        counts: bool = True,
    ) -> None:
        """Add the gradient of a micro-batch to .grad, and count it.

        counts: False for a pass that only keeps other ranks company: its gradient is 0.
        """
        batch, width, device = self.batch, mask.shape[1], mask.device
        sampled = batch.sampling_logprobs
        weights, within = self.recipe.correction.weights(
            old_logprobs,
            old_logprobs if sampled is None else sampled[chosen, :width].to(device),
            mask,
        )
        # A positive factor of the advantage is one of the loss, and moves no bound of the clip.
        credited = batch.advantages[chosen, None] * batch.credit.weights[chosen, :width]
        loss, reference, kl = self.recipe.loss, batch.stats.reference_logprobs, None
        if reference is not None:
            reference = reference[chosen, :width].to(device) if loss.needs_reference else None
        with guarding(loss):
            found = loss.token_losses(
                logprobs,
                old_logprobs=old_logprobs,
                token_advantages=credited.to(device) * weights,
                mask=mask,
                reference_logprobs=reference,
            )
            if loss.is_own:
                check_forms(found, mask)
            losses, ratios, clipped = found
            if reference is not None:
                kl = loss.token_kl(logprobs, reference_logprobs=reference)
                losses = losses + loss.kl * kl
        value = (losses * self.scales[chosen, None].to(device))[mask].sum()
        if not counts:
            (value * 0.0).backward()
            return
        value.backward()
        signal = mask & (batch.advantages[chosen, None] != 0).to(device)
        self.update.add(
            value,
            log_ratios=(logprobs.detach() - old_logprobs)[mask],
            kl=None if kl is None else kl[mask],
            ratios=ratios[signal],
            clipped=clipped[signal],
            weights=weights[signal],
            within=within[signal],
        )
