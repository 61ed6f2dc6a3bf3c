"""The loss of a token: the clipped surrogate of PPO, GRPO and DAPO."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from dgpo_cli.core.schema import Frozen

if TYPE_CHECKING:
    from torch import Tensor

# Above 88 exp is infinite in float32, and an infinite ratio turns the gradient of a clipped token
# into 0 * inf. No useful update comes near e^80.
_MAX_LOG_RATIO = 80.0


class ClipLoss(Frozen):
    """-min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A); no KL term."""

    kind: Literal["clip"] = "clip"
    clip_low: float = Field(0.2, ge=0, lt=1, description="The ratio is clipped below at 1 - this.")
    clip_high: float = Field(0.28, ge=0, description="The ratio is clipped above at 1 + this.")
    aggregation: Literal["token-mean", "sequence-mean", "constant"] = Field(
        "token-mean",
        description="token-mean: DAPO's. sequence-mean: GRPO's. constant: Dr. GRPO's.",
    )

    mask_truncated: bool = Field(
        False,
        description="Leave truncated completions out of the loss and its normaliser.",
    )

    def token_losses(
        self,
        logprobs: Tensor,  # float32 [B, T], nats, with gradient
        *,
        old_logprobs: Tensor,  # float32 [B, T], nats
        token_advantages: Tensor,  # float32 [B, T], the completion's advantage times the weight
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return (losses, ratio, clipped), each [B, T]; only the losses carry a gradient.

        clipped marks tokens without gradient: their ratio left the range on the side that the
        advantage pushes to. Every entry must be finite, padding included (the caller masks it).

        Source: PPO, arXiv 1707.06347; two bounds: DAPO, arXiv 2503.14476.
        """
        import torch

        ratio = (logprobs - old_logprobs.detach()).clamp(max=_MAX_LOG_RATIO).exp()
        advantages = token_advantages.detach()
        low, high = 1.0 - self.clip_low, 1.0 + self.clip_high
        losses = -torch.minimum(ratio * advantages, ratio.clamp(low, high) * advantages)
        ratio = ratio.detach()
        clipped = ((advantages > 0) & (ratio > high)) | ((advantages < 0) & (ratio < low))
        return losses, ratio, clipped

    def row_scales(
        self,
        lengths: Tensor,  # int64 [B], completion tokens of each row
        *,
        num_tokens: int,
        num_completions: int,
        max_completion_tokens: int,
    ) -> Tensor:
        """Return float32 [B] such that the loss is sum(losses * mask * scale) over any split.

        num_tokens and num_completions are those of the whole optimiser batch, over all
        micro-batches and ranks; `lengths` are any part of it. With sequence-mean, a row without
        tokens has scale 0.
        """
        import torch

        rows = lengths.to(torch.float32)
        if self.aggregation == "token-mean":
            return torch.full_like(rows, 1.0 / max(num_tokens, 1))
        if self.aggregation == "constant":
            return torch.full_like(rows, 1.0 / (num_completions * max_completion_tokens))
        scales = 1.0 / (num_completions * rows.clamp(min=1.0))
        return torch.where(rows > 0, scales, torch.zeros_like(scales))


# With a second loss this becomes Annotated[ClipLoss | Other, Field(discriminator="kind")].
LossSettings = ClipLoss
