"""The rollouts file: JSONL, a line a completion, the same for every command.

Lines are core.formats.RolloutRecords; training writes TrainedRecords.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dgpo_cli.core import io
from dgpo_cli.core.codec import encoded, filled
from dgpo_cli.core.formats import ROLLOUT, TRAINED, RolloutRecord, TrainedRecord, Turn
from dgpo_cli.core.thinking import ends_in_thought
from dgpo_cli.core.types import Batch, Completion, Message, Prompt, ScoredGroup, Verdict
from dgpo_cli.core.types.rollout import Span

TOKEN_FIELDS = ("logprobs", "entropy", "hellinger_sq", "scores", "weights")


@dataclass(frozen=True, slots=True)
class StoredStats:
    """The token statistics of a line that training wrote; T numbers each."""

    credit: dict[str, Any]
    vocab_size: int
    logprobs: tuple[float, ...]
    entropy: tuple[float, ...]
    hellinger_sq: tuple[float, ...]
    scores: tuple[float, ...]
    weights: tuple[float, ...]
    tau: float | None = None
    noise_floor: float | None = None


def _records(groups: Sequence[ScoredGroup], *, temperature: float) -> Iterator[RolloutRecord]:
    for group in groups:
        for index, (completion, verdict) in enumerate(
            zip(group.completions, group.verdicts, strict=True)
        ):
            yield filled(
                RolloutRecord,
                completion,
                verdict,
                prompt_id=group.prompt.id,
                prompt=group.prompt.text,
                messages=tuple(Turn(m.role, m.content) for m in group.prompt.messages),
                answer=group.prompt.answer,
                index=index,
                completion=completion.text,
                prompt_token_ids=group.prompt_ids,
                temperature=temperature,
                environment=completion.environment or None,
            )


def rollout_lines(groups: Sequence[ScoredGroup], *, temperature: float) -> Iterator[dict[str, Any]]:
    """Yield a line for every completion, in order; `temperature` is that of the sampling."""
    return map(ROLLOUT.dump, _records(groups, temperature=temperature))


def training_lines(
    groups: Sequence[ScoredGroup],
    batch: Batch,
    *,
    temperature: float,
    credit: dict[str, Any],
    vocab_size: int,
    advantages: Sequence[float],
) -> Iterator[dict[str, Any]]:
    """Yield the lines of a training step, with the advantage and the statistics of every token.

    advantages: that the step trained with, of every completion.
    """
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
    penalties = [p for group in groups for p in group.penalties or (0.0,) * len(group.advantages)]
    for row, record in enumerate(_records(groups, temperature=temperature)):
        length = len(record.token_ids)
        trained = filled(
            TrainedRecord,
            record,
            length_penalty=penalties[row],
            advantage=advantages[row],
            vocab_size=vocab_size,
            credit=credit,
            tau=None if math.isnan(taus[row]) else _nine_digits(taus[row]),
            noise_floor=batch.stats.noise_floor,
            **{
                name: tuple(map(_nine_digits, column[row][:length]))
                for name, column in zip(TOKEN_FIELDS, rows, strict=True)
            },
        )
        yield TRAINED.dump(trained)


def _nine_digits(value: float) -> float:
    """Round a float32 number to the 9 digits that restore it exactly."""
    return float(f"{value:.9g}")


def write_lines(path: Path, lines: Iterator[dict[str, Any]]) -> int:
    """Write a rollouts file, whole or not at all; return the number of lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0

    def texts() -> Iterator[bytes]:
        nonlocal count
        for line in lines:
            count += 1
            yield encoded(line).encode("ascii") + b"\n"

    io.write(path, texts())
    return count


@dataclass(frozen=True, slots=True)
class RolloutLine:
    """A completion of a rollouts file. `stats` is None if the line has no token statistics.

    completion.token_ids is empty if the line has only text; without an outcome or reward, verdict
    is None and reward NaN.
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


def parse_line(record: TrainedRecord, *, source: str) -> RolloutLine:
    """Convert a line to the types of core.

    Raises:
        ValueError, KeyError: fields do not go together; the message names one.
    """
    inside = record.starts_in_thought
    return filled(
        RolloutLine,
        record,
        prompt=Prompt(
            id=record.prompt_id,
            messages=tuple(Message(turn.role, turn.content) for turn in record.messages)  # type: ignore[arg-type]
            or (Message("user", record.prompt),),
            answer=record.answer,
            source=source,
        ),
        prompt_ids=record.prompt_token_ids,
        completion=filled(
            Completion,
            record,
            text=record.completion,
            starts_in_thought=ends_in_thought(record.prompt) if inside is None else inside,
            environment=_spans(record),
        ),
        verdict=None if record.outcome is None else filled(Verdict, record),
        stats=_stats(record),
    )


def _spans(record: TrainedRecord) -> tuple[Span, ...]:
    """Return the tokens of an environment; those between its spans are the policy's."""
    end, spans = 0, record.environment or ()
    for start, stop in spans:
        if not end < start < stop < len(record.token_ids):
            raise ValueError(
                f"environment has [{start}, {stop}] after {end}, of {len(record.token_ids)} tokens"
            )
        end = stop
    return spans


def _stats(record: TrainedRecord) -> StoredStats | None:
    if record.weights is None:
        return None
    for name in TOKEN_FIELDS:
        values = getattr(record, name)
        if values is None:
            raise KeyError(name)
        if len(values) != len(record.token_ids):
            raise ValueError(f"{name} has {len(values)} numbers for {len(record.token_ids)} tokens")
    for name in ("credit", "vocab_size"):
        if getattr(record, name) is None:
            raise KeyError(name)
    if record.credit and not isinstance(record.credit.get("rule"), str):
        raise KeyError("credit.rule")
    return filled(StoredStats, record)
