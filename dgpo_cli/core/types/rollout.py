"""The data of the engine: prompts, completions, groups, batches, statistics.

P prompts, G group size, B = P * G completions, L prompt tokens, T completion tokens, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

from dgpo_cli.core.schema import Column, Count, Flag, Object, Real, Terms, Text, TokenId, Whole

if TYPE_CHECKING:
    from torch import Tensor


FinishReason = Literal["stop", "length"]
Span = tuple[Count, Count]  # [start, stop) of a completion's token ids
# "scored": a number that judges nothing right or wrong. "error": a reward that failed.
Outcome = Literal[
    "correct",
    "wrong",
    "no_answer",
    "truncated",
    "out_of_range",
    "timeout",
    "crash",
    "scored",
    "error",
]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
CHECKED_OUTCOMES = OUTCOMES[:7]  # those of a checker of answers
StepMetrics = dict[str, float]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: Text


@dataclass(frozen=True, slots=True)
class Prompt:
    """A problem as messages, with its answer. `source` names the file, benchmark or generator.

    messages: if the last is the assistant's, the model continues it.
    place: in the file, such as "line 7"; empty without a file.
    columns: the row's fields, as JSON values; filled only for rewards that read them.
    part: the name of its source in a mixture; empty without one.
    """

    id: Text
    messages: tuple[Message, ...]
    answer: Text
    source: Text
    place: Text = field(default="", compare=False)
    columns: Object = field(default_factory=dict, compare=False)
    part: Text = ""

    @property
    def text(self) -> str:
        """The last user turn."""
        return next((m.content for m in reversed(self.messages) if m.role == "user"), "")

    @property
    def prefix(self) -> str:
        """What the assistant's turn begins with; every completion continues it."""
        return next((m.content for m in self.messages[-1:] if m.role == "assistant"), "")


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled completion; `token_ids` are the sampler's own and include EOS where it came.

    sampling_logprobs: the sampler's log-probability in nats of each token, one per token id, of
    the logits divided by the sampling temperature, over the tokens that top_k and top_p keep; of
    the logits themselves if the temperature is 0.
    environment: the tokens between the policy's turns, which an environment wrote; in order, and
    neither at the start nor at the end. Their log-probabilities are 0.
    policy_version: optimiser updates that the sampling weights had seen.
    starts_in_thought: the prompt leaves a thought open, so that the text begins inside it.
    """

    token_ids: tuple[TokenId, ...]
    sampling_logprobs: Column
    text: Text
    finish_reason: FinishReason
    policy_version: Count
    seed: Whole
    starts_in_thought: Flag = False
    environment: tuple[Span, ...] = ()

    @property
    def length(self) -> int:
        """Number of tokens that the policy wrote."""
        return len(self.token_ids) - sum(stop - start for start, stop in self.environment)

    @property
    def written(self) -> list[bool]:
        """Which tokens the policy wrote."""
        found = [True] * len(self.token_ids)
        for start, stop in self.environment:
            found[start:stop] = [False] * (stop - start)
        return found


@dataclass(frozen=True, slots=True)
class Reply(Completion):
    """What an endpoint answered: text without token ids and log-probabilities.

    reasoning: the content of its own field, which is kept and never judged.
    prompt_tokens, completion_tokens: as the endpoint counts them; None if it does not.
    finish: the endpoint's word for the end if it is neither "stop" nor "length".
    """

    reasoning: Text | None = None
    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    finish: Text | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The checker's verdict on a completion, and the reward.

    reward: NaN if the completion is unscored, because a reward failed or ran into its deadline.
    note: why, or what a reward of the user's says.
    terms: the name and value of each term before its weight; NaN where it does not apply or
        failed. Empty with one checker.
    """

    outcome: Outcome
    extracted: Text | None
    reward: Real
    note: Text | None = None
    terms: Terms = ()

    @property
    def is_scored(self) -> bool:
        return not math.isnan(self.reward)


@dataclass(frozen=True, slots=True)
class Group:
    """All completions of one prompt in one rollout.

    verdicts: those of an environment, which judges what it has played; else empty.
    """

    prompt: Prompt
    prompt_ids: tuple[int, ...]
    completions: tuple[Completion, ...]
    verdicts: tuple[Verdict, ...] = ()


@dataclass(frozen=True, slots=True)
class ScoredGroup:
    """A group with a verdict and an advantage for each completion.

    penalties: what was added to each reward for the completion's length before the advantages
        were computed, 0 or less; empty without a length penalty.
    """

    prompt: Prompt
    prompt_ids: tuple[TokenId, ...]
    completions: tuple[Completion, ...]
    verdicts: tuple[Verdict, ...]
    advantages: Column
    penalties: Column = ()

    @property
    def rewards(self) -> tuple[float, ...]:
        return tuple(verdict.reward for verdict in self.verdicts)

    @property
    def has_signal(self) -> bool:
        """Whether any completion of the group moves the policy."""
        return any(advantage != 0.0 for advantage in self.advantages)

    @property
    def is_mixed(self) -> bool:
        """Whether some completions are correct and some are not, whatever their rewards.

        Unscored ones do not count. Where nothing judges, whether the rewards differ.
        """
        scored = [verdict for verdict in self.verdicts if verdict.is_scored]
        if scored and all(verdict.outcome == "scored" for verdict in scored):
            return any(verdict.reward != scored[0].reward for verdict in scored)
        correct = sum(verdict.outcome == "correct" for verdict in scored)
        return 0 < correct < len(scored)


@dataclass(frozen=True, slots=True)
class KeptTokens:
    """The tokens that top_k and top_p left to draw from, in place of each of N tokens.

    counts: int32 [N], how many. ids: int32 [K], those of each token in turn, ascending.
    outside: bool [N], tokens that were drawn although the trainer's arithmetic does not keep them:
        they are in their sets all the same.
    """

    counts: Tensor
    ids: Tensor
    outside: Tensor


@dataclass(frozen=True, slots=True)
class TokenStats:
    """Per-token statistics over the whole vocabulary; zero where the mask is False.

    Attributes:
        old_logprobs: float32 [B, T], nats, without gradient; of a truncated sampler, over the
            tokens that it kept.
        entropy: float32 [B, T], nats.
        hellinger_sq: float32 [B, T], in [0, 1].
        kept: float32 [B, T], how many tokens a truncated sampler kept; None: all.
        outside: float32 [B, T], 1 where KeptTokens.outside is True.
        noise_floor: what rounding alone makes of hellinger_sq, as the policy and itself in another
            batch layout have it; None where it was not measured.
        reference_logprobs: float32 [B, T], nats, 0 in rows that the reference did not run on; None
            where the loss does not need them.
        value_moves: float32 [B, T], what each token moves the expected reward by; 0 in rows that
            were not measured. None where the credit rule does not need them.
    """

    old_logprobs: Tensor
    entropy: Tensor
    hellinger_sq: Tensor
    noise_floor: float | None = None
    kept: Tensor | None = None
    outside: Tensor | None = None
    reference_logprobs: Tensor | None = None
    value_moves: Tensor | None = None

    def take(self, index: Tensor) -> TokenStats:
        """Return the rows `index` [M] at the full width, [M, T]."""
        theirs = self.reference_logprobs
        return TokenStats(
            old_logprobs=self.old_logprobs[index],
            entropy=self.entropy[index],
            hellinger_sq=self.hellinger_sq[index],
            noise_floor=self.noise_floor,
            kept=None if self.kept is None else self.kept[index],
            outside=None if self.outside is None else self.outside[index],
            reference_logprobs=None if theirs is None else theirs[index],
            value_moves=None if self.value_moves is None else self.value_moves[index],
        )


# What kept the tau of a completion above that of its target: nothing, the noise of the distance,
# the cap on weights, or scores too equal for any tau.
LIMITS = ("none", "noise", "cap", "ties")


@dataclass(frozen=True, slots=True)
class Credit:
    """What a credit rule returns; scores and weights are zero where the mask is False.

    Attributes:
        scores: float32 [B, T].
        weights: float32 [B, T], with a mean of 1 over each row's mask; negative ones are possible
            with a rule that needs values.
        tau: float64 [B], the temperature that each row's weights were made with, NaN where none
            makes a difference, because the row's scores are equal. None: the rule has none.
        limit: int64 [B], index into LIMITS; None where tau was not looked for.
    """

    scores: Tensor
    weights: Tensor
    tau: Tensor | None = None
    limit: Tensor | None = None

    def put(self, index: Tensor, rows: Credit) -> None:
        """Write the rows `index` (int64 [M]) in place."""
        for mine, new in zip(self._columns(), rows._columns(), strict=True):
            if mine is not None and new is not None:
                mine[index] = new

    def _columns(self) -> tuple[Tensor | None, ...]:
        return self.scores, self.weights, self.tau, self.limit


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded tensors of B completions: prompts left-padded, completions right-padded.

    Row i is completion `i % G` of group `i // G` while the batch is whole.

    Attributes:
        prompt_ids: int64 [B, L].
        prompt_mask: bool [B, L].
        completion_ids: int64 [B, T].
        mask: bool [B, T], True on tokens that the policy wrote, EOS included.
        advantages: float32 [B].
        sampling_logprobs: float32 [B, T], nats; None: those of the trainer.
        counted: bool [B], the rows that enter loss and normaliser; None: all.
        policy_logprobs: float32 [B, T], before the update; None: old_logprobs.
        filled: bool [B, T], True on the environment's tokens too; None: there are none.
        kept: what a truncated sampler kept in place of each row's tokens; None for rows whose
            first pass is also the one that trains. None: it keeps all.
    """

    prompt_ids: Tensor
    prompt_mask: Tensor
    completion_ids: Tensor
    mask: Tensor
    advantages: Tensor
    stats: TokenStats
    credit: Credit
    sampling_logprobs: Tensor | None = None
    counted: Tensor | None = None
    policy_logprobs: Tensor | None = None
    filled: Tensor | None = None
    kept: Sequence[KeptTokens | None] | None = None

    @property
    def lengths(self) -> Tensor:
        """Tokens of each row that the policy wrote, int64 [B]."""
        return self.mask.sum(dim=1)

    def counting(self, index: Tensor) -> Tensor:
        """Return the rows of `index` (int64 [M]) that enter loss and normaliser."""
        return index if self.counted is None else index[self.counted[index]]


Advance = Callable[[int], None]
