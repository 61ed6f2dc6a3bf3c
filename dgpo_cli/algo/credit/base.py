"""What every credit rule has: the base class of the built-in rules and of rules of your own."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from dgpo_cli.core.schema import Frozen

if TYPE_CHECKING:
    from torch import Tensor

    from dgpo_cli.core.types import Credit, TokenStats


class CreditRule(Frozen):
    """How the advantage of a completion is spread over its tokens.

    A rule gives every token a score of at least 0 (`token_scores`), and its weights are in
    proportion to the scores: w = T s / sum s over the T tokens of the completion. A rule whose
    weights are something else overrides `credit`. Either way the mean of w over a completion is 1.

    Fields are settings of the rule, each with a default; they are read from the section `credit`.
    `rule` is the rule's name there.

    needs_reference: whether the scores use `stats.hellinger_sq`; else the reference does not run.
    needs_values: whether the weights use `stats.value_moves`; they may then be negative. A field
        `continuations` says how many are sampled from each prefix of a completion; without one,
        none are.
    """

    needs_reference: ClassVar[bool] = False
    needs_values: ClassVar[bool] = False

    rule: str = ""
    sign: Literal["both", "positive", "negative"] = Field(
        "both",
        description="Which completions the rule weighs: all, or those whose advantage is positive, "
        "or negative. The others have weights of 1, as in GRPO.",
    )
    refresh: Literal["step", "update"] = Field(
        "step",
        description="With optim.updates_per_step above 1: the weights are those of the policy that "
        "the step began with, or each update measures its completions again before it moves.",
    )

    @property
    def is_own(self) -> bool:
        """Whether the rule is not dgpo's."""
        return not type(self).__module__.startswith("dgpo_cli.")

    @property
    def name(self) -> str:
        """Its name in the settings, else that of its class."""
        return self.rule or type(self).__name__

    @property
    def whole_batch(self) -> bool:
        """Whether the weights of a row depend on other rows."""
        return False

    def token_scores(self, stats: TokenStats, mask: Tensor, *, vocab_size: int) -> Tensor:
        """Return the score of every token, floating [B, T], at least 0 on the mask.

        stats: of the policy that the weights are measured by. mask: bool [B, T], True on the
        tokens of a completion; what is outside does not count. vocab_size: width of the logits.
        """
        raise NotImplementedError(f"{type(self).__name__} has neither token_scores nor credit")

    def credit(
        self, stats: TokenStats, mask: Tensor, *, vocab_size: int, rows: Tensor | None = None
    ) -> Credit:
        """Return scores and weights, without gradient.

        A row whose scores are all 0 has weights of exactly 1, a row without tokens has zeros.

        mask: bool [B, T]. rows: bool [B], those that a weight of other rows may depend on; None:
        all.
        """
        import torch

        from dgpo_cli.algo.masked import masked_values
        from dgpo_cli.algo.own import check_column
        from dgpo_cli.core.types import Credit

        with torch.no_grad():
            scores = self.token_scores(stats, mask, vocab_size=vocab_size)
            if self.is_own:
                check_column("scores", scores, mask)
            scores = masked_values(scores.float(), mask)
            return Credit(scores=scores, weights=in_proportion(scores, mask))

    def weighs(self, advantages: Tensor) -> Tensor:
        """Return which completions the rule weighs, bool [B]: all but those of the other sign.

        advantages: floating [B]; 0 and NaN (unknown) have no sign.
        """
        import torch

        match self.sign:
            case "both":
                return advantages.new_ones(advantages.shape, dtype=torch.bool)
            case "positive":
                return ~(advantages < 0)
            case "negative":
                return ~(advantages > 0)

    def credit_for(
        self, stats: TokenStats, mask: Tensor, advantages: Tensor, *, vocab_size: int
    ) -> Credit:
        """Return `credit` with weights of exactly 1 where the advantage has the other sign.

        advantages: floating [B]; where they are 0, the row sets no weight of other rows.

        Raises:
            DgpoError: a rule of the user's own fails, or gives what cannot be scores or weights.
        """
        import torch

        from dgpo_cli.algo.own import check_credit, own_faults

        weighed = self.weighs(advantages)
        rows = weighed & (advantages != 0)
        with own_faults(f"credit.rule={self.name}", of=self) if self.is_own else nullcontext():
            found = self.credit(stats, mask, vocab_size=vocab_size, rows=rows)
            if self.is_own:
                check_credit(found, mask, signed=self.needs_values)
        if self.sign == "both":
            return found
        weights = torch.where(weighed.unsqueeze(1), found.weights, mask.to(found.weights.dtype))
        tau = None if found.tau is None else found.tau.masked_fill(~weighed, math.nan)
        return replace(found, weights=weights, tau=tau)


def in_proportion(scores: Tensor, mask: Tensor) -> Tensor:
    """Return T s / sum s of each row, [B, T]; 1 where all s are 0."""
    import torch

    from dgpo_cli.algo.masked import masked_values

    total = scores.sum(dim=1, keepdim=True)
    lengths = mask.sum(dim=1, keepdim=True).to(scores.dtype)
    shares = scores / torch.where(total > 0, total, torch.ones_like(total))
    weights = torch.where(total > 0, shares * lengths, torch.ones_like(scores))
    return masked_values(weights, mask)
