"""What a diagnosis needs besides the metrics of a run. No torch, no settings: plain values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TermFacts:
    """A term of the reward. judges: it may say what is correct; checks: it compares answers."""

    name: str
    kind: str
    weight: float
    judges: bool
    checks: bool


@dataclass(frozen=True, slots=True)
class Facts:
    """The settings that thresholds and advice depend on, under their own names.

    logprob_tolerance: mean gap in nats between log-probabilities of sampler and trainer that
        rounding may cause.
    correction: level of the off-policy correction: none, token or sequence.
    clip_high: None where the loss has none.
    operations: of generated sums; empty for prompts from data.
    worst: the reward of a completion that is not right.
    template_owner: the preset whose template is around other problems than its own, if any.
    terms: of a reward that is added up. terms_summed: advantages are those of the sum.
    """

    prompts_per_step: int
    group_size: int
    max_completion_tokens: int
    temperature: float
    dynamic_sampling: bool
    extract: str
    template: str
    timeout_s: float
    workers: int
    lr: float
    warmup_steps: int
    total_steps: int
    max_grad_norm: float
    updates_per_step: int
    clip_high: float | None
    kl: float
    has_adapter: bool
    dtype: str
    logprob_tolerance: float
    correction: str
    operations: tuple[int, ...] = ()
    worst: float = 0.0
    template_owner: str = ""
    terms: tuple[TermFacts, ...] = ()
    terms_summed: bool = True


@dataclass(frozen=True, slots=True)
class UnreadExample:
    """A completion without an answer, to show to the user.

    ending: its last characters as the model wrote them: untrusted, escaped where shown.
    readable_as: the value of reward.extract that finds an answer in most such completions, if any.
    in_thought: most such completions end inside a thought, which is not read.
    """

    ending: str
    readable_as: str | None
    in_thought: bool = False


FindUnread = Callable[[], UnreadExample | None]


def no_example() -> UnreadExample | None:
    """Return None: there is no completion to show."""
    return None
