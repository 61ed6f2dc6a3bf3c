"""The rollouts file: JSONL, a line a completion, the same for every command. Version 1.

Every line has version, prompt_id, prompt, messages, answer, index, completion, prompt_token_ids,
token_ids, sampling_logprobs, temperature, finish_reason, outcome, extracted, reward, seed and
policy_version. Lines that training wrote also have length_penalty (added to the reward before the
advantages), advantage, vocab_size, credit (the rule's settings) and, a number a token, logprobs,
entropy, hellinger_sq, scores and weights.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from dgpo_cli.errors import DataError
from dgpo_cli.types import (
    OUTCOMES,
    Batch,
    Completion,
    FinishReason,
    Message,
    Prompt,
    ScoredGroup,
    Verdict,
)

VERSION = 1
_TOKEN_FIELDS = ("logprobs", "entropy", "hellinger_sq", "scores", "weights")


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
                "sampling_logprobs": list(completion.sampling_logprobs),
                "temperature": temperature,
                "finish_reason": completion.finish_reason,
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
    advantages = [a for group in groups for a in group.advantages]
    penalties = [p for group in groups for p in group.penalties or (0.0,) * len(group.advantages)]
    for row, line in enumerate(rollout_lines(groups, temperature=temperature)):
        length = len(line["token_ids"])
        own = {
            name: [_number(x) for x in column[row][:length]]
            for name, column in zip(_TOKEN_FIELDS, rows, strict=True)
        }
        yield {
            **line,
            "length_penalty": penalties[row],
            "advantage": advantages[row],
            "vocab_size": vocab_size,
            "credit": credit,
            **own,
        }


def _number(value: float) -> float | None:
    """Return a float32 number with the 9 digits that give it back exactly; JSON has no NaN."""
    return float(f"{value:.9g}") if math.isfinite(value) else None


def write_lines(path: Path, lines: Iterator[dict[str, Any]]) -> int:
    """Write a rollouts file in one piece; return the number of lines."""
    from dgpo_cli.models.checkpoint import atomic_text

    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with atomic_text(path) as file:
        for line in lines:
            # ensure_ascii: the text of a model may hold half of a surrogate pair.
            file.write(json.dumps(line) + "\n")
            count += 1
    return count


@dataclass(frozen=True, slots=True)
class RolloutLine:
    """One completion read back. `stats` is None where the file has no token statistics.

    completion.token_ids is empty where the line has only text.
    """

    prompt: Prompt
    index: int
    prompt_ids: tuple[int, ...]
    completion: Completion
    verdict: Verdict
    temperature: float
    advantage: float | None
    stats: StoredStats | None


def read_lines(path: Path) -> list[RolloutLine]:
    """Read a rollouts file.

    Raises:
        DataError: it is not there, or a line is broken; the message names file, line and field.
    """
    found = list(each_line(path))
    if not found:
        raise DataError(f"{path}: no rollouts in it")
    return found


def each_line(path: Path) -> Iterator[RolloutLine]:
    """Read a rollouts file line by line, as far as it is asked for.

    Raises:
        DataError: as for `read_lines`, when the line is come to.
    """
    try:
        with path.open(encoding="utf-8") as file:
            for number, raw in enumerate(file, start=1):
                if raw.strip():
                    yield _parsed(raw, where=f"{path}:{number}")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def _parsed(raw: str, *, where: str) -> RolloutLine:
    try:
        line = json.loads(raw)
    except ValueError as error:
        raise DataError(f"{where}: not JSON: {error}") from error
    if not isinstance(line, dict):
        raise DataError(f"{where}: not a JSON object")
    try:
        return _parse(line, where=where)
    except KeyError as error:
        raise DataError(f"{where}: the field {error} is missing") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{where}: not a line of rollouts: {error}") from error


def _parse(line: dict[str, Any], *, where: str) -> RolloutLine:
    if line.get("version", VERSION) != VERSION:
        raise DataError(f"{where}: version {line['version']}, this dgpo reads {VERSION}")
    ids = tuple(int(i) for i in line.get("token_ids", ()))
    completion = Completion(
        token_ids=ids,
        sampling_logprobs=tuple(float(x) for x in line.get("sampling_logprobs", ())),
        text=str(line["completion"]),
        finish_reason=_one_of(line.get("finish_reason", "stop"), get_args(FinishReason)),
        policy_version=int(line.get("policy_version", 0)),
        seed=int(line.get("seed", 0)),
    )
    messages = line.get("messages") or [{"role": "user", "content": line["prompt"]}]
    answer = str(line.get("answer", ""))
    verdict = Verdict(
        outcome=_one_of(line.get("outcome", "no_answer"), OUTCOMES),
        extracted=line.get("extracted"),
        reward=float(line.get("reward", 0.0)),
    )
    advantage = line.get("advantage")
    return RolloutLine(
        prompt=Prompt(
            id=str(line["prompt_id"]),
            messages=tuple(Message(role=m["role"], content=m["content"]) for m in messages),
            answer=answer,
            source=where.rpartition(":")[0],
        ),
        index=int(line["index"]),
        prompt_ids=tuple(int(i) for i in line.get("prompt_token_ids", ())),
        completion=completion,
        verdict=verdict,
        temperature=float(line.get("temperature", 1.0)),
        advantage=None if advantage is None else float(advantage),
        stats=_stats(line, length=len(ids)),
    )


def _stats(line: dict[str, Any], *, length: int) -> StoredStats | None:
    if "weights" not in line:
        return None
    columns = {
        name: tuple(math.nan if x is None else float(x) for x in line[name])
        for name in _TOKEN_FIELDS
    }
    for name, values in columns.items():
        if len(values) != length:
            raise ValueError(f"{name} has {len(values)} numbers for {length} tokens")
    return StoredStats(credit=line["credit"], vocab_size=int(line["vocab_size"]), **columns)


def _one_of(value: Any, allowed: Sequence[str]) -> Any:
    if value not in allowed:
        raise ValueError(f"{value!r} is none of {', '.join(allowed)}")
    return value


def with_ids(line: RolloutLine, *, prompt_ids: Sequence[int], ids: Sequence[int]) -> RolloutLine:
    """Return the line with token ids, for a file that has only text."""
    return replace(
        line,
        prompt_ids=tuple(prompt_ids),
        completion=replace(line.completion, token_ids=tuple(ids)),
    )
