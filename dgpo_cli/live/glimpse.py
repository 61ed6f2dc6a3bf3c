"""A few completions of a step to look at: a right one, a wrong one, and what else there is."""

from __future__ import annotations

from dgpo_cli.core.events import Sampled
from dgpo_cli.core.types import OUTCOMES, Glimpse, Shown

MOST = 3


def glimpse(sampled: Sampled) -> Glimpse:
    """Return what is to be seen of the groups that a step drew; the same for equal groups.

    The first completion of each outcome, then the last ones that there are.
    """
    every = [
        Shown(group.prompt.text, completion.text, verdict.outcome, verdict.reward)
        for group in sampled.groups
        for completion, verdict in zip(group.completions, group.verdicts, strict=True)
    ]
    first = {shown.outcome: at for at, shown in reversed(list(enumerate(every)))}
    chosen = [first[outcome] for outcome in OUTCOMES if outcome in first][:MOST]
    rest = [at for at in reversed(range(len(every))) if at not in chosen]
    chosen += rest[: MOST - len(chosen)]
    return Glimpse(
        step=sampled.step,
        completions=len(every),
        groups=len(sampled.groups),
        shown=tuple(every[at] for at in chosen),
    )
