"""Completions that are too long or truncated: DAPO's soft penalty, and the mask of the loss."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from dgpo_cli.core.schema import Frozen
from dgpo_cli.core.types import Completion, ScoredGroup, StepMetrics


class OverlongSettings(Frozen):
    """The soft penalty; it starts at a length of max_completion_tokens - buffer_tokens."""

    buffer_tokens: int = Field(
        0, ge=0, description="Tokens before the limit in which the penalty rises; 0: no penalty."
    )
    penalty: float = Field(
        1.0, gt=0, le=100, description="Subtracted from the reward of a completion at the limit."
    )

    def penalties(self, lengths: Sequence[int], *, limit: int) -> tuple[float, ...]:
        """Return what to add to the rewards of completions of these lengths; never positive.

        With b = buffer_tokens and a length of n tokens, EOS included:

            0                                  for n <= limit - b
            -penalty * (n - (limit - b)) / b   for limit - b < n <= limit

        limit: rollout.max_completion_tokens; no completion is longer.

        Source: DAPO, arXiv 2503.14476, equation 13 (there the penalty is 1).
        """
        if self.buffer_tokens == 0:
            return (0.0,) * len(lengths)
        start = limit - self.buffer_tokens
        return tuple(
            -self.penalty * (length - start) / self.buffer_tokens if length > start else 0.0
            for length in lengths
        )


def is_truncated(completion: Completion) -> bool:
    """Whether the token limit ended the completion; one that ends by itself there is complete."""
    return completion.finish_reason == "length"


def overlong_metrics(groups: Sequence[ScoredGroup], *, masks: bool) -> StepMetrics:
    """Return the shares of completions that were penalised and that the loss leaves out.

    masks: whether it leaves out truncated completions (loss.mask_truncated).
    """
    completions = [completion for group in groups for completion in group.completions]
    penalties = [penalty for group in groups for penalty in group.penalties]
    cut = sum(is_truncated(completion) for completion in completions) if masks else 0
    return {
        "overlong/penalised": sum(penalty < 0 for penalty in penalties) / len(completions),
        "overlong/penalty_mean": sum(penalties) / len(completions),
        "overlong/masked": cut / len(completions),
    }
