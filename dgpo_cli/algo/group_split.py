"""The split of a step's groups into disjoint parts.

| part | groups that |
| --- | --- |
| signal | move the policy: their advantages are not all zero |
| all_right | are all-correct |
| all_wrong | have no correct answer, most often a wrong or out-of-range one |
| truncated | have no correct answer, most often none before the token limit |
| no_answer | have no correct answer, most often a completion that ended without a readable one |
| unjudged | have no correct answer, and some not judged: deadline, crash or error of the reward |
| filtered | were dropped: by dynamic sampling, or because the loss masks what gave them signal |
| all_equal | have equal scores that judge nothing right or wrong; only with such rewards |

Dynamic sampling drops every all-correct or all-wrong group, whatever its answers: the parts in
between are then empty, and the outcomes of the completions (outcome/*) tell more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal, get_args

from dgpo_cli.core.types import Outcome, ScoredGroup, StepMetrics

Part = Literal[
    "signal",
    "all_right",
    "all_wrong",
    "truncated",
    "no_answer",
    "unjudged",
    "filtered",
    "all_equal",
]
PARTS: tuple[Part, ...] = get_args(Part)
_JUDGED: tuple[Part, ...] = PARTS[:-1]  # what there is where a checker judges answers

# Of equally frequent failures, the one that a setting fixes comes first.
_FAILURES: dict[Part, tuple[Outcome, ...]] = {
    "truncated": ("truncated",),
    "no_answer": ("no_answer",),
    "all_wrong": ("wrong", "out_of_range"),
    "all_equal": ("scored",),
}


def split_metrics(groups: Sequence[ScoredGroup], *, dynamic_sampling: bool) -> StepMetrics:
    """Return the share of each part, split/<part>, of all groups drawn in a step.

    dynamic_sampling: all-correct and all-wrong groups were dropped. Pending groups count as
        signal in the step that drew them.
    """
    counts = Counter(part_of(group, dynamic_sampling=dynamic_sampling) for group in groups)
    judged = all(verdict.outcome != "scored" for group in groups for verdict in group.verdicts)
    parts = _JUDGED if judged else PARTS
    return {f"split/{part}": counts[part] / len(groups) for part in parts}


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
    if outcomes["timeout"] or outcomes["crash"] or outcomes["error"]:
        return "unjudged"  # the group might have had signal: unknown is not wrong
    return max(_FAILURES, key=lambda part: sum(outcomes[name] for name in _FAILURES[part]))
