"""The rollouts file: JSONL, a line a completion, the same for every command. Version 1.

Every line has version, prompt_id, prompt, messages, answer, index, completion, prompt_token_ids,
token_ids, sampling_logprobs, temperature, finish_reason, starts_in_thought (the prompt leaves a
thought open, so that the completion begins inside it), outcome, extracted, reward, seed and
policy_version. Lines that training wrote also have length_penalty (added to the reward before the
advantages), advantage, vocab_size, credit (the rule's settings), tau (that its weights were made
with; null where none makes a difference), noise_floor (of hellinger_sq; null where it was not
measured) and, a number a token, logprobs, entropy, hellinger_sq, scores and weights. Lines of
earlier versions have no tau and no noise_floor.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import BeforeValidator, Field, Strict

from dgpo_cli.core import io
from dgpo_cli.core.codec import Count, Flag, Format, Id, Number, Object, Text, TokenId, Whole
from dgpo_cli.core.thinking import ends_in_thought
from dgpo_cli.core.types import (
    Batch,
    Completion,
    FinishReason,
    Message,
    Outcome,
    Prompt,
    ScoredGroup,
    Verdict,
)

VERSION = 1
TOKEN_FIELDS = ("logprobs", "entropy", "hellinger_sq", "scores", "weights")


@dataclass(frozen=True, slots=True)
class StoredStats:
    """The token statistics of one line, as training wrote them; T numbers each."""

    credit: dict[str, Any]
    vocab_size: int
    logprobs: tuple[float, ...]
    entropy: tuple[float, ...]
    hellinger_sq: tuple[float, ...]
    scores: tuple[float, ...]
    weights: tuple[float, ...]
    tau: float | None = None
    noise_floor: float | None = None


def rollout_lines(groups: Sequence[ScoredGroup], *, temperature: float) -> Iterator[dict[str, Any]]:
    """Yield a line for every completion, in order; `temperature` is that of the sampling."""
    for group in groups:
        for index, (completion, verdict) in enumerate(
            zip(group.completions, group.verdicts, strict=True)
        ):
            yield {
                "version": VERSION,
                "prompt_id": group.prompt.id,
                "prompt": group.prompt.text,
                "messages": [{"role": m.role, "content": m.content} for m in group.prompt.messages],
                "answer": group.prompt.answer,
                "index": index,
                "completion": completion.text,
                "prompt_token_ids": list(group.prompt_ids),
                "token_ids": list(completion.token_ids),
                "sampling_logprobs": [
                    x if math.isfinite(x) else None for x in completion.sampling_logprobs
                ],
                "temperature": temperature,
                "finish_reason": completion.finish_reason,
                "starts_in_thought": completion.starts_in_thought,
                "outcome": verdict.outcome,
                "extracted": verdict.extracted,
                "reward": verdict.reward,
                "seed": completion.seed,
                "policy_version": completion.policy_version,
            }


def training_lines(
    groups: Sequence[ScoredGroup],
    batch: Batch,
    *,
    temperature: float,
    credit: dict[str, Any],
    vocab_size: int,
) -> Iterator[dict[str, Any]]:
    """Yield the lines of a training step, with the advantage and the statistics of every token."""
    columns = (
        batch.stats.old_logprobs,
        batch.stats.entropy,
        batch.stats.hellinger_sq,
        batch.credit.scores,
        batch.credit.weights,
    )
    rows = [column.tolist() for column in columns]
    no_tau = [math.nan] * len(batch.mask)
    taus = no_tau if batch.credit.tau is None else batch.credit.tau.tolist()
    advantages = [a for group in groups for a in group.advantages]
    penalties = [p for group in groups for p in group.penalties or (0.0,) * len(group.advantages)]
    for row, line in enumerate(rollout_lines(groups, temperature=temperature)):
        length = len(line["token_ids"])
        own = {
            name: [_number(x) for x in column[row][:length]]
            for name, column in zip(TOKEN_FIELDS, rows, strict=True)
        }
        yield {
            **line,
            "length_penalty": penalties[row],
            "advantage": advantages[row],
            "vocab_size": vocab_size,
            "credit": credit,
            "tau": _number(taus[row]),
            "noise_floor": batch.stats.noise_floor,
            **own,
        }


def _number(value: float) -> float | None:
    """Return a float32 number with the 9 digits that give it back exactly; JSON has no NaN."""
    return float(f"{value:.9g}") if math.isfinite(value) else None


def write_lines(path: Path, lines: Iterator[dict[str, Any]]) -> int:
    """Write a rollouts file in one piece; return the number of lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0

    def encoded() -> Iterator[bytes]:
        nonlocal count
        for line in lines:
            count += 1
            # ASCII: the text of a model may hold half of a surrogate pair.
            yield json.dumps(line).encode("ascii") + b"\n"

    io.write(path, encoded())
    return count


def _joined(content: Any) -> Any:
    """Return the text of a turn, which may come in parts; of several turns, all of it."""
    if content is None:
        return ""
    if not isinstance(content, list):
        return content
    parts = [part if isinstance(part, dict) else {"text": part} for part in content]
    return _all_texts(_joined(part.get("text", part.get("content"))) for part in parts)


def _written(answer: Any) -> Any:
    """Return an answer as text: a number as it is written, of a list all of it."""
    if isinstance(answer, list):
        return _all_texts(map(_written, answer), between=", ")
    number = isinstance(answer, int | float) and not isinstance(answer, bool)
    return json.dumps(answer) if number else answer


def _all_texts(values: Iterable[Any], *, between: str = "") -> str:
    found = list(values)
    if not all(isinstance(value, str) for value in found):
        raise ValueError("must be text, or a list of texts")
    return between.join(found)


_Content = Annotated[Text, BeforeValidator(_joined)]
_Column = tuple[Number | None, ...]  # null: not finite


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a conversation as a file has it; the role may be any program's."""

    role: Text
    content: _Content = ""


@dataclass(frozen=True, slots=True)
class RolloutRecord:
    """The fields of a line that are short; `messages` come before `prompt`."""

    prompt_id: Id
    index: Count
    completion: _Content
    version: Annotated[int, Strict(), Field(ge=VERSION, le=VERSION)] = VERSION
    prompt: Text = ""
    messages: tuple[Turn, ...] = ()
    answer: Annotated[Text, BeforeValidator(_written)] = ""
    temperature: Annotated[Number, Field(ge=0)] = 1.0
    finish_reason: FinishReason = "stop"
    starts_in_thought: Flag | None = None
    outcome: Outcome | None = None
    extracted: Text | None = None
    reward: Number = math.nan
    advantage: Number | None = None
    seed: Whole = 0
    policy_version: Count = 0
    credit: Object | None = None
    vocab_size: Annotated[TokenId, Field(ge=2)] | None = None
    tau: Annotated[Number, Field(ge=0)] | None = None
    noise_floor: Annotated[Number, Field(ge=0)] | None = None


@dataclass(frozen=True, slots=True)
class RolloutColumns:
    """The fields of a line that are long: a number a token."""

    prompt_token_ids: tuple[TokenId, ...] = ()
    token_ids: tuple[TokenId, ...] = ()
    sampling_logprobs: _Column = ()
    logprobs: _Column | None = None
    entropy: _Column | None = None
    hellinger_sq: _Column | None = None
    scores: _Column | None = None
    weights: _Column | None = None


RECORD = Format(RolloutRecord)
COLUMNS = Format(RolloutColumns)


@dataclass(frozen=True, slots=True)
class RolloutLine:
    """One completion read back. `stats` is None where the file has no token statistics.

    completion.token_ids is empty where the line has only text. verdict is None and reward NaN
    where the line does not tell them.
    """

    prompt: Prompt
    index: int
    prompt_ids: tuple[int, ...]
    completion: Completion
    verdict: Verdict | None
    reward: float
    temperature: float
    advantage: float | None
    stats: StoredStats | None


def parse_line(record: RolloutRecord, columns: RolloutColumns, *, source: str) -> RolloutLine:
    """Put a line together from its two parts.

    Raises:
        ValueError, KeyError: the parts do not go together; the message names the field.
    """
    ids = columns.token_ids
    return RolloutLine(
        prompt=Prompt(
            id=record.prompt_id,
            messages=tuple(Message(turn.role, turn.content) for turn in record.messages)  # type: ignore[arg-type]
            or (Message("user", record.prompt),),
            answer=record.answer,
            source=source,
        ),
        index=record.index,
        prompt_ids=columns.prompt_token_ids,
        completion=Completion(
            token_ids=ids,
            sampling_logprobs=_numbers(columns.sampling_logprobs),
            text=record.completion,
            finish_reason=record.finish_reason,
            policy_version=record.policy_version,
            seed=record.seed,
            starts_in_thought=(
                ends_in_thought(record.prompt)
                if record.starts_in_thought is None
                else record.starts_in_thought
            ),
        ),
        verdict=(
            None
            if record.outcome is None
            else Verdict(record.outcome, record.extracted, record.reward)
        ),
        reward=record.reward,
        temperature=record.temperature,
        advantage=record.advantage,
        stats=_stats(record, columns),
    )


def _stats(record: RolloutRecord, columns: RolloutColumns) -> StoredStats | None:
    if columns.weights is None:
        return None
    found: dict[str, tuple[float, ...]] = {}
    for name in TOKEN_FIELDS:
        values = getattr(columns, name)
        if values is None:
            raise KeyError(name)
        if len(values) != len(columns.token_ids):
            raise ValueError(
                f"{name} has {len(values)} numbers for {len(columns.token_ids)} tokens"
            )
        found[name] = _numbers(values)
    for name in ("credit", "vocab_size"):
        if getattr(record, name) is None:
            raise KeyError(name)
    assert record.credit is not None and record.vocab_size is not None
    if record.credit and not isinstance(record.credit.get("rule"), str):
        raise KeyError("credit.rule")
    return StoredStats(
        credit=record.credit,
        vocab_size=record.vocab_size,
        tau=record.tau,
        noise_floor=record.noise_floor,
        **found,
    )


def _numbers(values: tuple[float | None, ...]) -> tuple[float, ...]:
    if None in values:
        return tuple(math.nan if x is None else x for x in values)
    return cast("tuple[float, ...]", values)
