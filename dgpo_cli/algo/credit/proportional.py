"""The credit rule of DGPO without its softmax: weight in proportion to the score."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from dgpo_cli.algo.credit.base import CreditRule
from dgpo_cli.algo.credit.dgpo import gated_distance

if TYPE_CHECKING:
    from torch import Tensor

    from dgpo_cli.core.types import TokenStats


class ProportionalCredit(CreditRule):
    """w = T s / sum s with the score of DGPO, s = d h^kappa, for comparison.

    It has no tau, so that weights do not depend on how large the distances are: as soon as policy
    and reference differ by rounding alone, the rounding sets the weights. While all d are 0 they
    are 1.
    """

    needs_reference: ClassVar[bool] = True

    rule: Literal["proportional"] = "proportional"
    kappa: float = Field(1.0, ge=0, description="Power of the entropy gate; 0 switches it off.")
    noise_every: int = Field(
        20,
        ge=0,
        description="Steps between measurements of the noise floor of the distance; d near it is "
        "marked. 0: only at the first step.",
    )

    def token_scores(self, stats: TokenStats, mask: Tensor, *, vocab_size: int) -> Tensor:
        """Return d h^kappa, [B, T]."""
        return gated_distance(stats, kappa=self.kappa, vocab_size=vocab_size)
