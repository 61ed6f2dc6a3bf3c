"""What became of every group of a step: each falls into exactly one part, and the shares add up.

| part | groups that |
| --- | --- |
| signal | move the policy: their advantages are not all zero |
| all_right | have nothing but correct answers |
| all_wrong | have none, and most often an answer that was read and is wrong or out of range |
| truncated | have none, and most often no answer before the limit of tokens |
| no_answer | have none, and most often ended by themselves without one that could be read |
| unjudged | have none, and some that could not be judged: deadline or crash of the checker |
| filtered | were left out: by dynamic sampling, or because the loss masks what gave them signal |

Dynamic sampling leaves out every group that is all right or all wrong, whatever its answers were:
there the parts between say nothing, and the outcomes of the completions (outcome/*) do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal, get_args

from dgpo_cli.core.types import Outcome, ScoredGroup, StepMetrics

Part = Literal["signal", "all_right", "all_wrong", "truncated", "no_answer", "unjudged", "filtered"]
PARTS: tuple[Part, ...] = get_args(Part)

# Of a failure that is as frequent as another, the one that a setting mends comes first.
_FAILURES: dict[Part, tuple[Outcome, ...]] = {
    "truncated": ("truncated",),
    "no_answer": ("no_answer",),
    "all_wrong": ("wrong", "out_of_range"),
}


def split_metrics(groups: Sequence[ScoredGroup], *, dynamic_sampling: bool) -> StepMetrics:
    """Return the share of each part, split/<part>, of all groups drawn in a step.

    dynamic_sampling: groups without right and wrong answers were left out. Those that it keeps
        for the next step count as signal in the step that drew them.
    """
    counts = Counter(part_of(group, dynamic_sampling=dynamic_sampling) for group in groups)
    return {f"split/{part}": counts[part] / len(groups) for part in PARTS}


def part_of(group: ScoredGroup, *, dynamic_sampling: bool) -> Part:
    """Return the one part that a group belongs to."""
    if dynamic_sampling and not group.is_mixed:
        return "filtered"
    if group.has_signal:
        return "signal"
    if group.is_mixed:
        return "filtered"
    outcomes = Counter(verdict.outcome for verdict in group.verdicts)
    if outcomes["correct"]:
        return "all_right"
    if outcomes["timeout"] or outcomes["crash"]:
        return "unjudged"  # the group might have had signal: unknown is not wrong
    return max(_FAILURES, key=lambda part: sum(outcomes[name] for name in _FAILURES[part]))
