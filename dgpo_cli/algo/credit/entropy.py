"""A credit rule like GTPO's: weight in proportion to the policy's entropy."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from dgpo_cli.core.schema import Frozen

if TYPE_CHECKING:
    from torch import Tensor

    from dgpo_cli.core.types import Credit, TokenStats


class EntropyCredit(Frozen):
    """w = T * H / sum H over the completion's own tokens, H the policy's entropy.

    From GTPO (Group Token Policy Optimization, arXiv 2508.04349) it takes credit in proportion to
    a token's entropy. It is not GTPO, which shares a bonus on the reward among the completions of
    a group at the same position, weights wrong completions by the inverse entropy, and normalises
    correct and wrong ones separately.
    """

    needs_reference: ClassVar[bool] = False
    whole_batch: ClassVar[bool] = False

    rule: Literal["entropy"] = "entropy"

    def credit(
        self, stats: TokenStats, mask: Tensor, *, vocab_size: int, rows: Tensor | None = None
    ) -> Credit:
        """Return the entropies as scores, and their weights, without gradient.

        mask: bool [B, T]. A row whose entropies are all 0 has weights 1.
        """
        import torch

        from dgpo_cli.algo.masked import masked_values
        from dgpo_cli.core.types import Credit

        with torch.no_grad():
            scores = masked_values(stats.entropy.float(), mask)
            total = scores.sum(dim=1, keepdim=True)
            lengths = mask.sum(dim=1, keepdim=True).to(scores.dtype)
            shares = scores / torch.where(total > 0, total, torch.ones_like(total))
            weights = torch.where(total > 0, shares * lengths, torch.ones_like(scores))
            return Credit(scores=scores, weights=masked_values(weights, mask))
