"""The credit rule of GRPO and DAPO: every token has weight 1."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from dgpo_cli.core.schema import Frozen

if TYPE_CHECKING:
    from torch import Tensor

    from dgpo_cli.core.types import Credit, TokenStats


class UniformCredit(Frozen):
    """w = 1."""

    needs_reference: ClassVar[bool] = False
    whole_batch: ClassVar[bool] = False

    rule: Literal["uniform"] = "uniform"

    def credit(
        self, stats: TokenStats, mask: Tensor, *, vocab_size: int, rows: Tensor | None = None
    ) -> Credit:
        """Return scores of 0, and weights of 1 on the mask (bool [B, T])."""
        import torch

        from dgpo_cli.core.types import Credit

        weights = mask.to(torch.float32)
        return Credit(scores=torch.zeros_like(weights), weights=weights)
