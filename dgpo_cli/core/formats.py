"""The type and version of everything that dgpo writes; FORMATS lists them.

A new field is a line in one of these types, or in a type of core/types that they use; then run
`make schemas`. Files of earlier versions lack it, so it has a default.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from dgpo_cli.core.codec import Format
from dgpo_cli.core.schema import (
    Column,
    Count,
    Flag,
    Id,
    Number,
    Object,
    Real,
    Terms,
    Text,
    TokenId,
    Whole,
)
from dgpo_cli.core.types import (
    Card,
    Evaluation,
    FinishReason,
    Interval,
    Outcome,
    ScoredGroup,
    SettingChange,
    Tuned,
)
from dgpo_cli.core.types.evaluation import Ends
from dgpo_cli.core.types.rollout import Span

Share = Annotated[Number, Field(ge=0, le=1)]
Positive = Annotated[Number, Field(ge=0)]


def joined_content(content: Any) -> Any:
    """Return the text of a turn, which may come in parts, or of several turns."""
    if content is None:
        return ""
    if not isinstance(content, list):
        return content
    parts = [part if isinstance(part, dict) else {"text": part} for part in content]
    return _all_texts(joined_content(part.get("text", part.get("content"))) for part in parts)


def _written(answer: Any) -> Any:
    """Return an answer as text: numbers as JSON has them, lists joined."""
    if isinstance(answer, list):
        return _all_texts(map(_written, answer), between=", ")
    number = isinstance(answer, int | float) and not isinstance(answer, bool)
    return json.dumps(answer) if number else answer


def _all_texts(values: Iterable[Any], *, between: str = "") -> str:
    found = list(values)
    if not all(isinstance(value, str) for value in found):
        raise ValueError("must be text, or a list of texts")
    return between.join(found)


_Content = Annotated[Text, BeforeValidator(joined_content)]


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a conversation; in files of other programs the role may be any."""

    role: Text
    content: _Content = ""


def prefix_of(line: Mapping[str, Any]) -> str:
    """Return what the assistant's turn began with, of a line with the field `messages`."""
    match line.get("messages"):
        case [*_, {"role": "assistant", "content": str(text)}]:
            return text
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutRecord:
    """A completion: one line.

    prompt: the last user turn. messages: the whole conversation before the completion; a last one
        of the assistant is what its turn began with, and the completion follows it.
    starts_in_thought: the prompt leaves a thought open, so that the completion begins inside it.
    environment: [start, stop) of the token ids that an environment wrote between the policy's
        turns; what is a number a token is 0 for them.
    reward: null if the completion is unscored; note: why, or what a reward of the user's says.
    terms: the value of each term of the reward before its weight; null where it does not apply.
    """

    prompt_id: Id
    prompt: Text = ""
    messages: tuple[Turn, ...] = ()
    answer: Annotated[Text, BeforeValidator(_written)] = ""
    index: Count
    completion: _Content
    prompt_token_ids: tuple[TokenId, ...] = ()
    token_ids: tuple[TokenId, ...] = ()
    sampling_logprobs: Column = ()
    temperature: Positive = 1.0
    finish_reason: FinishReason = "stop"
    starts_in_thought: Flag | None = None
    outcome: Outcome | None = None
    extracted: Text | None = None
    note: Text | None = None
    reward: Real = math.nan
    terms: Terms = ()
    seed: Whole = 0
    policy_version: Count = 0
    environment: tuple[Span, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedRecord(RolloutRecord):
    """A completion that training took a step with, and what it computed for every token.

    length_penalty: added to the reward before the advantages. credit: the rule's settings.
    tau: that its weights were made with; null where none makes a difference.
    noise_floor: of hellinger_sq; null where it was not measured.
    logprobs, entropy, hellinger_sq, scores, weights: a number a token.
    """

    length_penalty: Number | None = None
    advantage: Number | None = None
    vocab_size: Annotated[TokenId, Field(ge=2)] | None = None
    credit: Object | None = None
    tau: Positive | None = None
    noise_floor: Positive | None = None
    logprobs: Column | None = None
    entropy: Column | None = None
    hellinger_sq: Column | None = None
    scores: Column | None = None
    weights: Column | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRecord:
    """A sample of an evaluation: one line. It ends with what a checker says of it.

    logprob: of the whole completion, in whole nats towards 0. checker: the version that judged it.
    second: the outcome of the math checker, if it was asked. digest: shows later changes.
    reasoning, prompt_tokens, completion_tokens, finish: what an endpoint said, which gives no token
        ids; see core.types.Reply.
    """

    prompt_id: Text
    index: Count
    seed: Whole | None = None
    messages: tuple[Turn, ...] | None = None
    answer: Text
    completion: Text
    reasoning: Text | None = None
    token_ids: tuple[TokenId, ...] = ()
    logprob: Number | None = None
    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    temperature: Positive | None = None
    finish_reason: FinishReason
    finish: Text | None = None
    outcome: Outcome
    extracted: Text | None = None
    checker: Text
    starts_in_thought: Flag | None = None
    second: Outcome | None = None
    digest: Text | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalRecord:
    """An evaluation during training: one line. step: steps that were finished by then.

    out: its folder, from that of the run.
    """

    step: Count
    bench: Text
    k: Whole
    avg_at_k: Share
    stderr_rerun: Real = math.nan
    stderr_problems: Real = math.nan
    rerun_95: Interval | None = None
    problems_95: Interval | None = None
    pass_at_k: Real = math.nan
    maj_at_k: Real = math.nan
    truncated: Real = math.nan
    no_answer: Real = math.nan
    length_mean: Real = math.nan
    out: Text = ""
    greedy: Flag | None = None


@dataclass(frozen=True, slots=True)
class CardRecord:
    """All that moves the score of an evaluation. key: SHA-256 of the other three."""

    key: Text | None = None
    protocol: Object = field(kw_only=True)
    subject: Object = field(kw_only=True)
    environment: Object = field(kw_only=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationReport(Evaluation):
    """An evaluation and its card. Scores, shares and errors are from 0 to 1, lengths in tokens.

    if_truncated: avg_at_k with the truncated counted as all wrong, and as all right.
    outcome_letters: what the letters of the problems' outcomes mean.
    """

    if_truncated: Ends = field()
    warnings: tuple[Text, ...]
    outcome_letters: dict[str, Outcome]
    card: Card | None = None
    card_key: Text | None = None


@dataclass(frozen=True, slots=True)
class TrackerMark:
    """The run with a tracker. told: by kind, the last step of which it knows the numbers."""

    id: Text
    told: dict[str, Count] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TrainerState:
    """Counters of a run after `step` finished steps.

    draws, prompts: the position in the prompts, how often and how many were drawn; None in
        checkpoints of earlier versions, which drew once a step.
    data: SHA-256 of the prompts that the position is one of; None where they are generated.
    noise_floor: as it was last measured; None before that.
    """

    step: Count
    policy_version: Count
    bad_streak: Count
    format: Count = 2
    draws: Count | None = None
    prompts: Count | None = None
    data: Text | None = None
    noise_floor: Positive | None = None


@dataclass(frozen=True, slots=True)
class PendingGroup:
    """A group that waits for the next step.

    old_logprobs: of every completion's tokens, by the trainer, under the sampling weights.
    kept: what top_p and top_k kept in place of the tokens, under the same weights: for each
        completion base64 of integers of 32 bits, least byte first: the number of tokens, how many
        were kept for each (negative where the drawn one was not among them), and their ids.
    """

    group: ScoredGroup
    old_logprobs: tuple[Column, ...]
    kept: tuple[Text, ...] = ()


@dataclass(frozen=True, slots=True)
class Position:
    """The position of a run in its prompts: the number of draws, and of prompts in all."""

    draws: Count = 0
    prompts: Count = 0

    def after(self, count: int) -> Position:
        """Return the position after one more draw of `count` prompts."""
        return Position(self.draws + 1, self.prompts + count)


@dataclass(frozen=True, slots=True)
class Measurements:
    """What prompts.select knows of prompts, by id.

    rates: pass rates of the newest draws. passed: turns since the last draw that passed it over.
    """

    rates: dict[str, tuple[Real, ...]]
    passed: dict[str, Count]


@dataclass(frozen=True, slots=True)
class PrefetchedBatch:
    """The batch of step `number` (from 1) that was sampled before its turn.

    version: optimiser updates that the sampling weights had seen. before: the position in the
    prompts before it was drawn. sampled: all that was drawn; null if all of it is in `groups`.
    kept: see PendingGroup, of as many completions as old_logprobs.
    """

    number: Count
    version: Count
    before: Position
    group_size: Count
    temperature: Positive
    groups: tuple[ScoredGroup, ...]
    old_logprobs: tuple[Column, ...]
    sampled: tuple[ScoredGroup, ...] | None = field(default=None, kw_only=True)
    metrics: dict[str, Real]
    kept: tuple[Text, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ValuesHeader:
    """What the rewards of a file of values depend on, besides prompt and prefix: its first line.

    weights: SHA-256 of the files of the model and of its adapter, and how they are loaded.
    settings: of sampling and reward, by their dotted names. code: SHA-256 of each file of the
        user's own code in the reward, by name.
    """

    weights: Object
    settings: Object
    code: dict[str, Text]


@dataclass(frozen=True, slots=True, kw_only=True)
class ValuesRecord:
    """Rewards of continuations of a prefix: one line.

    problem: digest of what they are judged by. at: tokens of the completion in the prefix. digest:
        of their ids and the prompt's. seed: that of all seeds. first: number of the first one.
    rewards: with the penalty for length, of one continuation after the other.
    """

    prompt_id: Text
    problem: Text
    at: Count
    digest: Text
    seed: Whole
    first: Count
    rewards: tuple[Number, ...]


ROLLOUT = Format(
    RolloutRecord,
    name="rollout",
    what="a line of the file of dgpo rollout --out",
    stamp="version",
    versionless=True,
    sparse=("environment", "note", "terms"),
)
TRAINED = Format(
    TrainedRecord,
    name="trained-rollout",
    what="a line of rollouts/*.jsonl and bad_batches/*.jsonl of a run",
    stamp="version",
    versionless=True,
    sparse=("environment", "note", "terms"),
)
SAMPLE = Format(
    SampleRecord,
    name="sample",
    what="a line of samples.jsonl of an evaluation",
    stamp="version",
    sparse=(
        *("reasoning", "logprob", "prompt_tokens", "completion_tokens", "finish"),
        *("starts_in_thought", "second", "digest"),
    ),
)
METRICS: Format[dict[str, float | None]] = Format(
    Annotated[dict[str, Whole | Number | None], Field(json_schema_extra={"required": ["step"]})],  # type: ignore[arg-type]
    name="metrics",
    what="a line of metrics.jsonl of a run",
)
EVAL = Format(EvalRecord, name="eval", what="a line of evals.jsonl of a run", sparse=("greedy",))
CHANGE = Format(SettingChange, name="change", what="a line of changes.jsonl of a run")
CARD = Format(CardRecord, name="card", what="card.json of an evaluation", stamp="version")
EVALUATION = Format(
    EvaluationReport,
    name="evaluation",
    what="report.json of an evaluation, and dgpo eval --json",
    stamp="version",
    sparse=("prompt_tokens", "cost", "greedy", "stop_when"),
)
TRACKERS: Format[dict[str, TrackerMark]] = Format(
    dict[str, TrackerMark], name="trackers", what="trackers.json of a run"
)
STATE = Format(
    TrainerState, name="state", what="state.json of a checkpoint", version=2, closed=True
)
PENDING: Format[tuple[PendingGroup, ...]] = Format(
    tuple[PendingGroup, ...], name="carried", what="carried.json of a checkpoint"
)
PREFETCHED = Format(
    PrefetchedBatch, name="waiting", what="waiting.json of a checkpoint", stamp="format"
)
SELECTED = Format(
    Measurements, name="selected", what="selected.json of a checkpoint", stamp="format"
)
TUNED = Format(Tuned, name="tuned", what="tuned.json of a study", stamp="version")
VALUES = Format(
    ValuesHeader, name="values", what="the first line of a file of values", stamp="version"
)
VALUE = Format(ValuesRecord, name="value", what="a further line of a file of values")

FORMATS: tuple[Format[Any], ...] = (
    *(ROLLOUT, TRAINED, SAMPLE, METRICS, EVAL, CHANGE, CARD, EVALUATION),
    *(TRACKERS, STATE, PENDING, PREFETCHED, SELECTED, TUNED, VALUES, VALUE),
)
