"""A completion's reasoning steps as ranges of tokens."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from dgpo_cli.core.types import InspectedToken
from dgpo_cli.engine.values.steps import step_starts


@dataclass(frozen=True, slots=True)
class ReasoningStep:
    """The tokens from `start` up to, not including, `stop`; at least one."""

    start: int
    stop: int


def steps_of(tokens: Sequence[InspectedToken]) -> tuple[ReasoningStep, ...]:
    """Return the steps in order; every token is in exactly one.

    A token belongs to the step in which it begins; the parts of a character begin where it does.
    What an environment says between two turns is one step.
    """
    if not tokens:
        return ()
    texts = [token.text for token in tokens]
    begins = list(accumulate(map(len, texts), initial=0))[:-1]
    starts = step_starts("".join(texts))
    owners = [bisect_right(starts, begin) for begin in begins]
    sources = [token.environment for token in tokens]
    cuts = [
        at
        for at in range(1, len(tokens))
        if sources[at] != sources[at - 1] or (owners[at] != owners[at - 1] and not sources[at])
    ]
    return tuple(ReasoningStep(start, stop) for start, stop in pairwise([0, *cuts, len(tokens)]))
