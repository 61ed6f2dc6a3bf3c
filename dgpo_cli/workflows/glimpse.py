"""A few completions of a step to look at: a right one, a wrong one, and what else there is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dgpo_cli.types import OUTCOMES, Glimpse, ScoredGroup, Shown

OnGlimpse = Callable[[Glimpse], None]

MOST = 3


def glimpse(step: int, groups: Sequence[ScoredGroup]) -> Glimpse:
    """Return what is to be seen of the groups that step `step` drew; the same for equal groups.

    The first completion of each outcome, then the last ones that there are.
    """
    every = [
        Shown(group.prompt.text, completion.text, verdict.outcome, verdict.reward)
        for group in groups
        for completion, verdict in zip(group.completions, group.verdicts, strict=True)
    ]
    first = {shown.outcome: at for at, shown in reversed(list(enumerate(every)))}
    chosen = [first[outcome] for outcome in OUTCOMES if outcome in first][:MOST]
    rest = [at for at in reversed(range(len(every))) if at not in chosen]
    chosen += rest[: MOST - len(chosen)]
    return Glimpse(
        step=step,
        completions=len(every),
        groups=len(groups),
        shown=tuple(every[at] for at in chosen),
    )
