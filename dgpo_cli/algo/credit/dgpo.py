"""The credit rule of DGPO: weight by how far the policy has moved and how unsure it is."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from dgpo_cli.schema import Frozen

if TYPE_CHECKING:
    from torch import Tensor

    from dgpo_cli.types import Credit, TokenStats

# The smallest temperature that is not 0 in float32 by a wide margin; below, weights are the same.
_SMALLEST_TAU = 1e-30


def entropy_gate(entropy: Tensor, *, vocab_size: int) -> Tensor:
    """Return h = entropy / log V, entropy in nats, held to [0, 1]; a vocabulary of one has 0."""
    if vocab_size < 2:
        return entropy.new_zeros(entropy.shape)
    return (entropy / math.log(vocab_size)).clamp(0.0, 1.0)


class DgpoCredit(Frozen):
    """w = T * softmax(d * h^kappa / tau). Source: arXiv 2605.03327."""

    needs_reference: ClassVar[bool] = True

    rule: Literal["dgpo"] = "dgpo"
    tau: float = Field(
        0.5, gt=0, description="Temperature of the weights; larger is closer to GRPO's."
    )
    kappa: float = Field(1.0, ge=0, description="Power of the entropy gate; 0 switches it off.")

    def credit(self, stats: TokenStats, mask: Tensor, *, vocab_size: int) -> Credit:
        """Return scores and weights, without gradient, each row by itself.

        mask: bool [B, T]. vocab_size: width of the logits. Equal scores in a row give weights of
        exactly 1; a row without tokens has zeros.
        """
        import torch

        from dgpo_cli.algo.masked import masked_max, masked_values
        from dgpo_cli.types import Credit

        with torch.no_grad():
            gate = entropy_gate(stats.entropy.float(), vocab_size=vocab_size)
            scores = masked_values(stats.hellinger_sq.float() * gate.pow(self.kappa), mask)
            # The row's largest is taken off before the division: no tau, however small, overflows.
            peak = masked_max(scores, mask, dim=1).unsqueeze(1)
            powers = masked_values((scores - peak).div(max(self.tau, _SMALLEST_TAU)).exp(), mask)
            total = powers.sum(dim=1, keepdim=True).clamp(min=1.0)  # the largest gives 1
            lengths = mask.sum(dim=1, keepdim=True).to(powers.dtype)
            return Credit(scores=scores, weights=powers * (lengths / total))
