"""The loss of a token: what each kind makes of the ratio, and how tokens add up to one number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from dgpo_cli.core.schema import Frozen

if TYPE_CHECKING:
    from torch import Tensor

# Above 88 exp is infinite in float32, and an infinite ratio turns the gradient of a clipped token
# into 0 * inf. No useful update comes near e^80.
_MAX_LOG_RATIO = 80.0

Aggregation = Literal["token-mean", "sequence-mean", "constant"]


class Loss(Frozen):
    """What a token's advantage does to its log-probability, and how tokens add up to one number.

    A kind of loss overrides `token_losses`. Fields are settings of the loss, each with a default;
    they are read from the section `loss`. `kind` is the loss's name there.
    """

    kind: str = ""
    aggregation: Aggregation = Field(
        "token-mean",
        description="token-mean: DAPO's. sequence-mean: GRPO's. constant: Dr. GRPO's.",
    )
    mask_truncated: bool = Field(
        False,
        description="Leave truncated completions out of the loss and its normaliser.",
    )
    kl: float = Field(
        0.0,
        ge=0,
        le=1000,
        description="Coefficient of the KL term, which holds the policy to the reference; 0: none. "
        "GRPO as published has 0.04.",
    )

    @property
    def needs_reference(self) -> bool:
        """Whether the reference runs on every completion, and each has a gradient.

        Without it, completions without an advantage are not computed: their gradient is 0.
        """
        return self.kl > 0

    def token_losses(
        self,
        logprobs: Tensor,  # float32 [B, T], nats, with gradient
        *,
        old_logprobs: Tensor,  # float32 [B, T], nats
        token_advantages: Tensor,  # float32 [B, T], the completion's advantage times the weight
        mask: Tensor,  # bool [B, T]
        reference_logprobs: Tensor | None = None,  # float32 [B, T], nats
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return (losses, ratio, clipped), each [B, T]; only the losses carry a gradient.

        A row is a whole completion, however the batch is cut. Entries outside the mask are not
        used, but must be finite, those that are returned too.

        ratio: of new to old probability, as the loss has it.
        clipped: bool, where the ratio is beyond a bound that holds the token back.
        reference_logprobs: None without `needs_reference`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no token_losses")

    @property
    def is_own(self) -> bool:
        """Whether the loss is not dgpo's."""
        return not type(self).__module__.startswith("dgpo_cli.")

    def token_kl(self, logprobs: Tensor, *, reference_logprobs: Tensor) -> Tensor:
        """Return r - 1 - log r for r = q / p, [B, T], with gradient; `kl` times it is added.

        Of tokens drawn from p it is an unbiased estimate of KL(p || q) in nats, never negative;
        q is the reference. Neither advantages nor credit weights multiply it.

        Source: GRPO, arXiv 2402.03300, equation 4; estimator k3 of Schulman, "Approximating KL
        Divergence" (2020).
        """
        gaps = (reference_logprobs - logprobs).clamp(max=_MAX_LOG_RATIO)
        return gaps.expm1() - gaps

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


class ClipLoss(Loss):
    """-min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A), rho the ratio of the token.

    With `dual_clip` c, the loss of a token with A < 0 is at most -c A.
    """

    kind: Literal["clip"] = "clip"
    clip_low: float = Field(0.2, ge=0, lt=1, description="The ratio is clipped below at 1 - this.")
    clip_high: float = Field(0.28, ge=0, description="The ratio is clipped above at 1 + this.")
    dual_clip: float | None = Field(
        None,
        gt=1,
        le=1000,
        description="Where the advantage is negative, the ratio is clipped above at this; unset: "
        "not at all. verl's default is 3.",
    )

    def token_losses(
        self,
        logprobs: Tensor,
        *,
        old_logprobs: Tensor,
        token_advantages: Tensor,
        mask: Tensor,
        reference_logprobs: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See Loss.token_losses. clipped: tokens without gradient.

        Their ratio left the range on the side that the advantage pushes to, or is above
        `dual_clip`.

        Source: PPO, arXiv 1707.06347; two bounds: DAPO, arXiv 2503.14476; dual_clip:
        arXiv 1912.09729.
        """
        import torch

        ratio = (logprobs - old_logprobs.detach()).clamp(max=_MAX_LOG_RATIO).exp()
        advantages = token_advantages.detach()
        losses, clipped = _clipped(ratio, advantages, low=self.clip_low, high=self.clip_high)
        ratio = ratio.detach()
        if self.dual_clip is not None:
            beyond = (advantages < 0) & (ratio > self.dual_clip)
            losses = torch.where(beyond, -self.dual_clip * advantages, losses)
            clipped = clipped | beyond
        return losses, ratio, clipped


class GspoLoss(Loss):
    """-min(s A, clip(s, 1 - low, 1 + high) A), s the ratio of the whole completion.

    s is the geometric mean of the ratios of its tokens. This is the form that the paper calls
    GSPO-token: each token's ratio has the value s and the gradient s grad log p of this token
    alone. If all tokens of a completion have one advantage, loss and gradient are GSPO's. GSPO's
    own form has no place for credit: there every token's loss has the gradient of s, so that only
    the sum of the weights counts, and that is the same whatever the rule. For the same reason it
    would lose importance weights of tokens.

    Source: arXiv 2507.18071, sections 4.1 and 4.3.
    """

    kind: Literal["gspo"] = "gspo"
    aggregation: Aggregation = Field(
        "sequence-mean",
        description="sequence-mean: GSPO's and GRPO's. token-mean: DAPO's. constant: Dr. GRPO's.",
    )
    # Not clip_low and clip_high: bounds of a token's ratio are a thousand times as wide, and would
    # be kept from a preset or file below.
    sequence_clip_low: float = Field(
        3e-4, ge=0, lt=1, description="The completion's ratio is clipped below at 1 - this."
    )
    sequence_clip_high: float = Field(
        4e-4, ge=0, description="The completion's ratio is clipped above at 1 + this."
    )

    def token_losses(
        self,
        logprobs: Tensor,
        *,
        old_logprobs: Tensor,
        token_advantages: Tensor,
        mask: Tensor,
        reference_logprobs: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See Loss.token_losses. ratio: the completion's. clipped: tokens without gradient."""
        from dgpo_cli.algo.masked import masked_mean

        now = logprobs.detach()
        mean = masked_mean(now - old_logprobs.detach(), mask, dim=1).unsqueeze(1)
        whole = mean.clamp(max=_MAX_LOG_RATIO).exp()
        ratio = (logprobs - now).exp() * whole
        losses, clipped = _clipped(
            ratio,
            token_advantages.detach(),
            low=self.sequence_clip_low,
            high=self.sequence_clip_high,
        )
        return losses, ratio.detach(), clipped


class CispoLoss(Loss):
    """-clip(rho, weight_min, weight_max) A log p; the clipped ratio is a weight without gradient.

    Every token has a gradient, a clipped one too. The value of this loss is not near 0.
    """

    kind: Literal["cispo"] = "cispo"
    weight_min: float = Field(
        0.0, ge=0, le=1, description="The ratio is clipped below at this; 0: not at all."
    )
    weight_max: float = Field(5.0, ge=1, le=1000, description="The ratio is clipped above at this.")

    def token_losses(
        self,
        logprobs: Tensor,
        *,
        old_logprobs: Tensor,
        token_advantages: Tensor,
        mask: Tensor,
        reference_logprobs: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See Loss.token_losses. clipped: tokens whose weight is at a bound.

        Source: MiniMax-M1, arXiv 2506.13585, equations 4 and 5, which has no lower bound and gives
        no upper one; weight_max: ScaleRL, arXiv 2510.13786.
        """
        gaps = logprobs.detach() - old_logprobs.detach()
        ratio = gaps.clamp(max=_MAX_LOG_RATIO).exp()
        weights = ratio.clamp(self.weight_min, self.weight_max)
        losses = -weights * token_advantages.detach() * logprobs
        return losses, ratio, weights != ratio


def _clipped(
    ratio: Tensor,  # [B, T], with gradient
    advantages: Tensor,  # [B, T]
    *,
    low: float,
    high: float,
) -> tuple[Tensor, Tensor]:
    """Return the clipped surrogate, and which tokens have no gradient for it, [B, T]."""
    import torch

    least, most = 1.0 - low, 1.0 + high
    losses = -torch.minimum(ratio * advantages, ratio.clamp(least, most) * advantages)
    ratio = ratio.detach()
    clipped = ((advantages > 0) & (ratio > most)) | ((advantages < 0) & (ratio < least))
    return losses, clipped


LossSettings = Annotated[ClipLoss | GspoLoss | CispoLoss, Field(discriminator="kind")]
