"""The credit rule of DGPO: weight by distance from the reference and by entropy."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from dgpo_cli.algo.credit.base import CreditRule

if TYPE_CHECKING:
    from torch import Tensor

    from dgpo_cli.core.types import Credit, TokenStats

# The smallest tau, far above 0 in float32; a smaller one gives the same weights.
_SMALLEST_TAU = 1e-30


def entropy_gate(entropy: Tensor, *, vocab_size: int) -> Tensor:
    """Return h = entropy / log V, entropy in nats, clamped to [0, 1]; 0 for V = 1."""
    if vocab_size < 2:
        return entropy.new_zeros(entropy.shape)
    return (entropy / math.log(vocab_size)).clamp(0.0, 1.0)


def gated_distance(stats: TokenStats, *, kappa: float, vocab_size: int) -> Tensor:
    """Return the score of a token, d h^kappa, [B, T]."""
    gate = entropy_gate(stats.entropy.float(), vocab_size=vocab_size)
    return stats.hellinger_sq.float() * gate.pow(kappa)


class DgpoCredit(CreditRule):
    """w = T * softmax(d * h^kappa / tau). Source: arXiv 2605.03327.

    The paper's tau is fixed. With `target_ess` it is found from the effective token fraction,
    however small the distances; see target.py.
    """

    needs_reference: ClassVar[bool] = True

    rule: Literal["dgpo"] = "dgpo"
    tau: float = Field(
        0.5,
        gt=0,
        description="How strongly scores turn into weights; larger is closer to GRPO. Ignored "
        "with target_ess.",
    )
    kappa: float = Field(1.0, ge=0, description="Power of the entropy gate; 0 switches it off.")
    target_ess: float | None = Field(
        None,
        ge=0.01,
        le=0.999,
        description="Effective token fraction, (sum w)^2 / (T sum w^2), that sets tau; unset: tau "
        "is fixed, as in the paper.",
    )
    target_ess_over: Literal["completion", "batch"] = Field(
        "completion",
        description="With target_ess: one tau per completion, or one for the mean over the "
        "completions of a step, which costs a second forward pass.",
    )
    max_weight: float = Field(
        10.0,
        gt=1,
        description="With target_ess: tau is raised until no weight exceeds this; GRPO's are 1.",
    )
    noise_every: int = Field(
        20,
        ge=0,
        description="Steps between measurements of the noise floor of the distance: two forward "
        "passes over an eighth of the completions, at most 8. target_ess keeps tau above it, and "
        "d near it is marked. 0: only at the first step.",
    )

    @property
    def whole_batch(self) -> bool:
        """Whether the weights of a row depend on other rows."""
        return self.target_ess is not None and self.target_ess_over == "batch"

    def credit(
        self, stats: TokenStats, mask: Tensor, *, vocab_size: int, rows: Tensor | None = None
    ) -> Credit:
        """Return scores and weights, without gradient.

        mask: bool [B, T]. vocab_size: width of the logits. rows: bool [B], those that set a tau
        of the whole batch; None: all. Equal scores in a row give weights of exactly 1; a row
        without tokens has zeros.
        """
        import torch

        from dgpo_cli.algo.credit.target import NOISE_SHARE, Target, find_tau, noise_of_scores
        from dgpo_cli.algo.masked import masked_max, masked_values
        from dgpo_cli.core.types import Credit

        with torch.no_grad():
            distance = stats.hellinger_sq.float()
            gate = entropy_gate(stats.entropy.float(), vocab_size=vocab_size).pow(self.kappa)
            scores = masked_values(distance * gate, mask)
            # The row's largest score is subtracted first, so that no tau overflows, however small.
            peak = masked_max(scores, mask, dim=1).unsqueeze(1)
            if self.target_ess is None:
                weights = _weights(scores - peak, mask, tau=max(self.tau, _SMALLEST_TAU))
                tau = torch.full((len(mask),), self.tau, dtype=torch.float64, device=mask.device)
                return Credit(scores, weights, tau=tau)
            noise = noise_of_scores(distance, gate, noise=stats.noise_floor)
            found = find_tau(
                masked_values(peak - scores, mask),
                mask,
                floor=masked_max(noise, mask, dim=1) / NOISE_SHARE,
                target=Target(self.target_ess, self.max_weight, self.whole_batch),
                rows=rows,
            )
            tau = found.tau.float().nan_to_num(1.0).unsqueeze(1)
            weights = _weights(scores - peak, mask, tau=tau)
            return Credit(scores, weights, tau=found.tau, limit=found.limit)


def _weights(gaps: Tensor, mask: Tensor, *, tau: float | Tensor) -> Tensor:
    """Return T * softmax(gaps / tau) of each row, [B, T]; the largest gap is 0, the rest below."""
    from dgpo_cli.algo.masked import masked_values

    powers = masked_values(gaps.div(tau).exp(), mask)
    total = powers.sum(dim=1, keepdim=True).clamp(min=1.0)  # the largest gives 1
    lengths = mask.sum(dim=1, keepdim=True).to(powers.dtype)
    return powers * (lengths / total)
