"""The credit rule of values: a token gets what it changed of the reward that is expected."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from dgpo_cli.algo.credit.base import CreditRule
from dgpo_cli.core.errors import ConfigError
from dgpo_cli.core.types.values import MANY_CONTINUATIONS

if TYPE_CHECKING:
    from torch import Tensor

    from dgpo_cli.core.types import Credit, TokenStats

# A sum of moves below this share of their sizes is 0 but for the rounding of float32.
_ROUNDING = 1e-6


class ValueCredit(CreditRule):
    """w = T dV / sum dV, with dV what a token moves the expected reward by; it may be negative.

    V_t is the expected reward of a completion that begins with the prompt and its first t tokens.
    It is the mean reward of `continuations` sampled from there by the policy, and of the
    completions of the group that begin so. dV_t = V_{t+1} - V_t is the exact advantage of token
    t. V_0 is the mean reward of the group and V_T the completion's own, so the moves add up to
    r - mean r, and A w = T dV / std r with an advantage A of `advantage`.

    The mean of w over a completion is 1, but w has both signs: a right completion may pass through
    a token that made success less likely. Moves are estimated once a step, by the policy that
    sampled; `refresh` changes nothing.

    What the mean of 1 does to the scale: A w is T times A dV / sum dV, whose expected gradient is
    that of A alone, token for token. `loss.aggregation=sequence-mean` divides a completion by its
    T, and the expected gradient is that of `uniform` with token-mean, times the mean length. With
    token-mean or constant a completion counts T times as much: where lengths differ, the longer
    ones have the larger part.

    With `continuations` 0 only the group's own completions count ("siblings"). A token whose
    prefix no other completion has does not move: one completion alone shows no difference. Credit
    lies where completions part.

    Source: VinePPO, arXiv 2410.01679; siblings: arXiv 2509.21154.
    """

    needs_values: ClassVar[bool] = True

    rule: Literal["value"] = "value"
    continuations: int = Field(
        8,
        ge=0,
        le=MANY_CONTINUATIONS,
        description="Continuations sampled from each prefix of a completion, to estimate the "
        "reward that is expected there; 0: the group's own completions tell.",
    )

    def credit(
        self, stats: TokenStats, mask: Tensor, *, vocab_size: int, rows: Tensor | None = None
    ) -> Credit:
        """Return moves and weights, without gradient.

        A row whose moves add up to 0 has weights of exactly 1, a row without tokens has zeros.

        mask: bool [B, T].

        Raises:
            ConfigError: no moves were measured.
        """
        import torch

        from dgpo_cli.algo.masked import masked_values
        from dgpo_cli.core.types import Credit

        if stats.value_moves is None:
            raise ConfigError(
                "credit.rule=value: needs continuations of the completions, and these statistics "
                "have none; set credit.rule=dgpo, or train with this rule"
            )
        with torch.no_grad():
            moves = masked_values(stats.value_moves.double(), mask)
            total = moves.sum(dim=1, keepdim=True)
            known = total.abs() > _ROUNDING * moves.abs().sum(dim=1, keepdim=True)
            lengths = mask.sum(dim=1, keepdim=True)
            shares = moves / torch.where(known, total, torch.ones_like(total))
            # A move of 0 in a completion that lost would weigh -0.
            weights = torch.where(known, shares * lengths + 0.0, torch.ones_like(moves))
            return Credit(scores=moves.float(), weights=masked_values(weights.float(), mask))
