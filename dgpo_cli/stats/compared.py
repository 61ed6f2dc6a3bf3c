"""What a comparison of evaluations consists of: the runs, and what they say of each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dgpo_cli.core.types import Card, Evaluation, Interval


@dataclass(frozen=True, slots=True)
class Run:
    """One evaluation with the card it was made under, if it has one; name: where it lies."""

    name: str
    evaluation: Evaluation
    card: Card | None


@dataclass(frozen=True, slots=True)
class Change:
    """How one problem fared: samples solved before and after.

    p: Fisher's exact test of this problem alone. p_holm: the same, adjusted for all problems.
    flipped: the majority of the samples is right only after (gained) or only before (lost).
    """

    id: str
    answer: str
    before: int
    after: int
    difference: float
    p: float
    p_holm: float
    flipped: Literal["gained", "lost"] | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """What two evaluations say of each other; shares between -1 and 1, NaN is unknown.

    `rerun`: the same problems sampled again; `problems`: other problems of this kind.
    p_rerun: samples of each problem exchanged. p_problems: signs of the problems' differences
    flipped, all of them where `exact`, else seeded draws.
    smallest_*: the difference that would be found at the 5% level in 80% of such comparisons;
    infinite where none would.
    """

    n_problems: int
    k_before: int
    k_after: int
    before: float
    after: float
    difference: float
    stderr_rerun: float
    rerun_95: Interval
    p_rerun: float
    smallest_rerun: float
    stderr_problems: float
    problems_95: Interval
    p_problems: float
    exact: bool
    smallest_problems: float
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """A run beside its baseline.

    subject: the entries in which the subjects differ, which is what is compared.
    forced: differences that forbid a comparison and were passed over.
    notes: what else a reader has to know. Lines of all three may hold untrusted text.
    """

    before: Run
    after: Run
    comparison: Comparison
    subject: tuple[str, ...]
    forced: tuple[str, ...]
    notes: tuple[str, ...]
