"""From verdicts to advantages: rewards shaped by length, and what is left out of the loss."""

from __future__ import annotations

from dgpo_cli.algo.advantages import AdvantageSettings
from dgpo_cli.algo.overlong import OverlongSettings, is_truncated
from dgpo_cli.core.types import Group, ScoredGroup, Verdict


def scored_group(
    group: Group,
    verdicts: tuple[Verdict, ...],
    *,
    advantage: AdvantageSettings,
    overlong: OverlongSettings,
    max_completion_tokens: int,
    mask_truncated: bool,
) -> ScoredGroup:
    """Return the group with the advantages of its rewards plus the penalties for length.

    A truncated completion that the loss leaves out has no advantage, but it is one of its group
    all the same: the others are compared with it.

    Source: overlong filtering and soft overlong punishment, DAPO, arXiv 2503.14476, section 3.4.
    """
    penalties = overlong.penalties(
        [len(completion.token_ids) for completion in group.completions],
        limit=max_completion_tokens,
    )
    advantages = advantage.advantages(
        [verdict.reward + penalty for verdict, penalty in zip(verdicts, penalties, strict=True)]
    )
    if mask_truncated:
        pairs = zip(advantages, group.completions, strict=True)
        advantages = tuple(0.0 if is_truncated(each) else value for value, each in pairs)
    return ScoredGroup(
        prompt=group.prompt,
        prompt_ids=group.prompt_ids,
        completions=group.completions,
        verdicts=verdicts,
        advantages=advantages,
        penalties=penalties,
    )
