"""The credit rule of the drawn token: weight by how improbable it was."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from dgpo_cli.algo.credit.base import CreditRule, in_proportion

if TYPE_CHECKING:
    from torch import Tensor

    from dgpo_cli.core.types import Credit, TokenStats


class SurprisalCredit(CreditRule):
    """w = mix + (1 - mix) s / mean s, with s = -log p of the drawn token, and no w above a cap.

    Entropy and distance are those of a position and the same for every token that could be drawn
    there; the surprisal is that of the token which was. With a truncated sampler p is that of the
    truncated policy: a token that was the only one kept has a surprisal of 0. What the cap takes
    goes to the other tokens in proportion to their weights, so the mean stays 1. A completion whose
    tokens all have p = 1 has weights of exactly 1.

    It is no method of a paper. The gradient of log p is itself largest at improbable tokens; arXiv
    2505.12929 ("Do Not Let Low-Probability Tokens Over-Dominate in RL for LLMs") therefore gives
    them less weight, by alpha p + 1 - alpha. This rule goes the opposite way, like arXiv
    2603.22117, which gives tokens of low probability more; the direction is from there, not the
    formula. arXiv 2606.31575 selects tokens by their surprisal relative to the entropy; here none
    is left out.
    """

    rule: Literal["surprisal"] = "surprisal"
    mix: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Share of a completion's weight that is spread evenly, before the cap; the "
        "rest is in proportion to the surprisal. 1 is GRPO.",
    )
    cap: float = Field(
        4.0,
        gt=1,
        description="No weight exceeds this; GRPO's are 1. What is cut off goes to the "
        "completion's other tokens in proportion to their weights.",
    )

    def credit(
        self, stats: TokenStats, mask: Tensor, *, vocab_size: int, rows: Tensor | None = None
    ) -> Credit:
        """Return surprisals in nats as scores, and weights, without gradient.

        mask: bool [B, T].
        """
        import torch

        from dgpo_cli.algo.masked import masked_values
        from dgpo_cli.core.types import Credit

        with torch.no_grad():
            # Rounding may leave a log-probability above 0; 0 - x has no negative zero.
            scores = masked_values((0.0 - stats.old_logprobs.float()).clamp(min=0.0), mask)
            even = self.mix + (1.0 - self.mix) * in_proportion(scores.double(), mask)
            weights = _capped(masked_values(even, mask), mask, cap=self.cap)
            return Credit(scores=scores, weights=weights.float())


def _capped(weights: Tensor, mask: Tensor, *, cap: float) -> Tensor:
    """Return min(cap, c w) with the c that leaves the mean of each row at 1, [B, T].

    weights: float64 [B, T], at least 0, with a mean of 1 over the mask; 0 outside. Where a row has
    too few weights above 0 for that, the others share the rest evenly: the limit of small weights.
    """
    import torch

    from dgpo_cli.algo.masked import masked_values

    lengths = mask.sum(dim=1, keepdim=True).to(weights.dtype)
    ordered = weights.sort(dim=1, descending=True).values
    rest = ordered.flip(1).cumsum(dim=1).flip(1)  # of the k-th largest weight and those below it
    left = lengths - cap * torch.arange(mask.shape[1], device=mask.device)
    # With the first k at the cap, c is left / rest; k is the first whose next weight then fits.
    count = (ordered * left > cap * rest).sum(dim=1, keepdim=True)
    if not count.any():
        return weights
    last = count.clamp(max=mask.shape[1] - 1)
    rest, left = rest.gather(1, last), left.gather(1, last)
    factor = left / torch.where(rest > 0, rest, torch.ones_like(rest))
    filled = torch.where(weights > 0, cap, left / (lengths - count).clamp(min=1))
    scaled = torch.where(rest > 0, (weights * factor).clamp(max=cap), filled)
    return masked_values(torch.where(count > 0, scaled, weights), mask)
