"""The credit rule of forking tokens: the tokens of the highest entropy have all the weight."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from dgpo_cli.algo.credit.base import CreditRule, in_proportion

if TYPE_CHECKING:
    from torch import Tensor

    from dgpo_cli.core.types import Credit, TokenStats

_ROUNDING = 1e-9  # so that a share of 0.2 of 10 tokens is 2 of them


class TopEntropyCredit(CreditRule):
    """w = T / K on the K tokens of a completion that are among the `share` of highest entropy.

    The others have weight 0. A completion without such a token has weights of 1: its entropies say
    nothing of where its credit belongs, and it stays as GRPO has it. Tokens that tie with the last
    one are in.

    Source: arXiv 2506.01939, "Beyond the 80/20 Rule", where the share is of all tokens of a batch
    and the others are left out of the loss, which is still divided by the number of all tokens.
    There a token has weight 1 or 0, and a completion counts by the number of its tokens that are
    in; here, as with every rule, its credit is moved and not dropped.
    """

    rule: Literal["top-entropy"] = "top-entropy"
    share: float = Field(
        0.2,
        gt=0,
        le=1,
        description="Share of the tokens, those of the highest entropy, that has all the weight.",
    )
    share_over: Literal["batch", "completion"] = Field(
        "batch",
        description="The share is of all tokens of the step's completions with an advantage, as in "
        "the paper, which costs a second forward pass; or of each completion's own.",
    )

    @property
    def whole_batch(self) -> bool:
        """Whether the weights of a row depend on other rows."""
        return self.share_over == "batch"

    def credit(
        self, stats: TokenStats, mask: Tensor, *, vocab_size: int, rows: Tensor | None = None
    ) -> Credit:
        """Return scores of 1 and 0, and weights, without gradient.

        mask: bool [B, T]. rows: bool [B], those whose tokens count for a share of the batch; None:
        all.
        """
        import torch

        from dgpo_cli.algo.masked import masked_values
        from dgpo_cli.core.types import Credit

        with torch.no_grad():
            entropy = masked_values(stats.entropy.float(), mask)
            counted = mask if rows is None else mask & rows.unsqueeze(1)
            if not self.whole_batch:
                bound = self._bound(entropy, mask)
            else:
                among = counted if bool(counted.any()) else mask
                bound = self._bound(entropy.reshape(1, -1), among.reshape(1, -1))
            scores = masked_values((entropy >= bound).float(), mask)
            return Credit(scores=scores, weights=in_proportion(scores, mask))

    def _bound(self, entropy: Tensor, mask: Tensor) -> Tensor:
        """Return the lowest entropy that is in, of each row, [B, 1]."""
        lengths = mask.sum(dim=1, keepdim=True)
        ordered = entropy.masked_fill(~mask, -math.inf).sort(dim=1, descending=True).values
        count = (lengths.double() * self.share - _ROUNDING).ceil().long().clamp(min=1)
        return ordered.gather(1, count - 1)
