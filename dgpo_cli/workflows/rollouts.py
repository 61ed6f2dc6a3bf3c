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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from dgpo_cli.thinking import ends_in_thought
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
                "sampling_logprobs": list(completion.sampling_logprobs),
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


def parse_line(line: dict[str, Any], *, source: str) -> RolloutLine:
    """Read the line of one completion.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: a field is missing or not what it must be.
    """
    if line.get("version", VERSION) != VERSION:
        raise ValueError(f"version {line['version']}, this dgpo reads {VERSION}")
    ids = tuple(int(i) for i in line.get("token_ids", ()))
    completion = Completion(
        token_ids=ids,
        sampling_logprobs=tuple(float(x) for x in line.get("sampling_logprobs", ())),
        text=str(line["completion"]),
        finish_reason=_one_of(line.get("finish_reason", "stop"), get_args(FinishReason)),
        policy_version=int(line.get("policy_version", 0)),
        seed=int(line.get("seed", 0)),
        starts_in_thought=_starts_in_thought(line),
    )
    messages = line.get("messages") or [{"role": "user", "content": line["prompt"]}]
    reward = float(line.get("reward", math.nan))
    advantage = line.get("advantage")
    return RolloutLine(
        prompt=Prompt(
            id=str(line["prompt_id"]),
            messages=tuple(Message(role=m["role"], content=m["content"]) for m in messages),
            answer=str(line.get("answer", "")),
            source=source,
        ),
        index=int(line["index"]),
        prompt_ids=tuple(int(i) for i in line.get("prompt_token_ids", ())),
        completion=completion,
        verdict=_verdict(line, reward=reward),
        reward=reward,
        temperature=float(line.get("temperature", 1.0)),
        advantage=None if advantage is None else float(advantage),
        stats=_stats(line, length=len(ids)),
    )


def _starts_in_thought(line: dict[str, Any]) -> bool:
    """As the line says; one that does not may hold the prompt as it was rendered."""
    told = line.get("starts_in_thought")
    return ends_in_thought(str(line.get("prompt", ""))) if told is None else bool(told)


def _verdict(line: dict[str, Any], *, reward: float) -> Verdict | None:
    if line.get("outcome") is None:
        return None
    outcome = _one_of(line["outcome"], OUTCOMES)
    return Verdict(outcome=outcome, extracted=line.get("extracted"), reward=reward)


def _stats(line: dict[str, Any], *, length: int) -> StoredStats | None:
    if "weights" not in line:
        return None
    columns = {
        name: tuple(math.nan if x is None else float(x) for x in line[name])
        for name in TOKEN_FIELDS
    }
    for name, values in columns.items():
        if len(values) != length:
            raise ValueError(f"{name} has {len(values)} numbers for {length} tokens")
    tau, noise_floor = line.get("tau"), line.get("noise_floor")
    return StoredStats(
        credit=line["credit"],
        vocab_size=int(line["vocab_size"]),
        tau=None if tau is None else float(tau),
        noise_floor=None if noise_floor is None else float(noise_floor),
        **columns,
    )


def _one_of(value: Any, allowed: Sequence[str]) -> Any:
    if value not in allowed:
        raise ValueError(f"{value!r} is none of {', '.join(allowed)}")
    return value
