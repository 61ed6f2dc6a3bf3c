"""A credit rule like GTPO's: weight in proportion to the policy's entropy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from dgpo_cli.algo.credit.base import CreditRule

if TYPE_CHECKING:
    from torch import Tensor

    from dgpo_cli.core.types import TokenStats


class EntropyCredit(CreditRule):
    """w = T * H / sum H over the completion's own tokens, H the policy's entropy.

    From GTPO (Group Token Policy Optimization, arXiv 2508.04349) it takes credit in proportion to
    a token's entropy. It is not GTPO, which shares a bonus on the reward among the completions of
    a group at the same position, weights wrong completions by the inverse entropy, and normalises
    correct and wrong ones separately.
    """

    rule: Literal["entropy"] = "entropy"

    def token_scores(self, stats: TokenStats, mask: Tensor, *, vocab_size: int) -> Tensor:
        """Return the entropies, [B, T]."""
        return stats.entropy
