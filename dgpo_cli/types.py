"""What flows through the engine: prompts, completions, groups, batches, statistics.

Everything may import this file; it imports nothing of ours and no torch at run time.
P prompts, G group size, B = P * G completions, L prompt tokens, T completion tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor

FinishReason = Literal["stop", "length"]
Outcome = Literal["correct", "wrong", "no_answer", "truncated", "out_of_range", "timeout", "crash"]
OUTCOMES: tuple[Outcome, ...] = (
    "correct",
    "wrong",
    "no_answer",
    "truncated",
    "out_of_range",
    "timeout",
    "crash",
)
StepMetrics = dict[str, float]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question with a known answer. `source` names the file, benchmark or generator."""

    id: str
    messages: tuple[Message, ...]
    answer: str
    source: str

    @property
    def text(self) -> str:
        """The last user turn, as people read it."""
        return next((m.content for m in reversed(self.messages) if m.role == "user"), "")


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled completion; `token_ids` are the sampler's own and include EOS where it came.

    sampling_logprobs: the sampler's log-probability in nats of each token, one per token id, of
    the logits divided by the sampling temperature.
    policy_version: optimiser updates that the sampling weights had seen.
    """

    token_ids: tuple[int, ...]
    sampling_logprobs: tuple[float, ...]
    text: str
    finish_reason: FinishReason
    policy_version: int
    seed: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the answer checker says of one completion, and the reward that follows."""

    outcome: Outcome
    extracted: str | None
    reward: float


@dataclass(frozen=True, slots=True)
class Group:
    """All completions of one prompt in one rollout."""

    prompt: Prompt
    prompt_ids: tuple[int, ...]
    completions: tuple[Completion, ...]


@dataclass(frozen=True, slots=True)
class ScoredGroup:
    """A group with a verdict and an advantage for each completion."""

    prompt: Prompt
    prompt_ids: tuple[int, ...]
    completions: tuple[Completion, ...]
    verdicts: tuple[Verdict, ...]
    advantages: tuple[float, ...]

    @property
    def rewards(self) -> tuple[float, ...]:
        return tuple(verdict.reward for verdict in self.verdicts)

    @property
    def has_signal(self) -> bool:
        """Whether any completion of the group moves the policy."""
        return any(advantage != 0.0 for advantage in self.advantages)


@dataclass(frozen=True, slots=True)
class TokenStats:
    """Per-token statistics over the whole vocabulary; zero where the mask is False."""

    old_logprobs: Tensor  # float32 [B, T], no gradient
    entropy: Tensor  # float32 [B, T], nats
    hellinger_sq: Tensor  # float32 [B, T], in [0, 1]


@dataclass(frozen=True, slots=True)
class Credit:
    """What a credit rule returns; both are zero where the mask is False."""

    scores: Tensor  # float32 [B, T]
    weights: Tensor  # float32 [B, T], row mean 1 on the mask


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded tensors of B completions: prompts left-padded, completions right-padded.

    Row i is completion `i % G` of group `i // G` while the batch is whole.
    """

    prompt_ids: Tensor  # int64 [B, L]
    prompt_mask: Tensor  # bool [B, L]
    completion_ids: Tensor  # int64 [B, T]
    mask: Tensor  # bool [B, T], True on completion tokens, EOS included
    advantages: Tensor  # float32 [B]
    stats: TokenStats
    credit: Credit

    @property
    def lengths(self) -> Tensor:
        """Completion tokens of each row, int64 [B]."""
        return self.mask.sum(dim=1)


Advance = Callable[[int], None]


class Progress(Protocol):
    """Who listens to how far a phase has come. The engine reports; only the CLI draws."""

    def phase(self, name: str, *, total: int, unit: str) -> AbstractContextManager[Advance]:
        """Open a phase of `total` units; the returned callable adds finished units."""
        ...


class SilentProgress:
    """Listens to nothing."""

    def phase(self, name: str, *, total: int, unit: str) -> AbstractContextManager[Advance]:
        return nullcontext(lambda amount: None)
