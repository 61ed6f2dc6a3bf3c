"""The credit rule of GRPO and DAPO: every token has weight 1."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from dgpo_cli.algo.credit.base import CreditRule

if TYPE_CHECKING:
    from torch import Tensor

    from dgpo_cli.core.types import TokenStats


class UniformCredit(CreditRule):
    """w = 1."""

    rule: Literal["uniform"] = "uniform"

    def token_scores(self, stats: TokenStats, mask: Tensor, *, vocab_size: int) -> Tensor:
        """Return scores of 0, [B, T]."""
        return stats.entropy.new_zeros(mask.shape)
