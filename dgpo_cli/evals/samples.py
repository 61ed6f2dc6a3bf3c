"""The samples of an evaluation: JSONL, a line a sample, appended as they come.

A line is a core.formats.SampleRecord: the fields of the rollouts file without prompt ids and the
log-probabilities of tokens, which judging does not need, and what it was judged by. Lines of
earlier versions lack `digest`, `logprob` and `starts_in_thought`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dgpo_cli.core import io
from dgpo_cli.core.codec import encoded, filled, parsed
from dgpo_cli.core.errors import DataError
from dgpo_cli.core.formats import SAMPLE, SampleRecord, Turn, joined_content, prefix_of
from dgpo_cli.core.types import Completion, Message, Outcome, Prompt, Verdict
from dgpo_cli.rewards.grader import GradeItem

_TAIL = ("outcome", "extracted", "checker", "second", "starts_in_thought", "digest")
_DIGEST = b',"digest":"'
REMEDY = "delete the line to draw that sample again, or start from scratch with --fresh"
Key = tuple[str, int]  # id of the problem, number of the sample


@dataclass(frozen=True, slots=True)
class Sample:
    """What a report needs of a stored sample; text and token ids stay in the file.

    tokens: their number. fingerprint: equal for equal token ids, or texts where there are no ids.
        logprob: of all tokens, in whole nats rounded towards 0, of the sampler. logprob,
        starts_in_thought: None if an earlier version did not record it. tokens, logprob,
        prompt_tokens: None where an endpoint did not give it.
    """

    prompt_id: str
    index: int
    tokens: int | None
    fingerprint: int
    answer: str
    verdict: Verdict
    checker: str
    second: str | None
    starts_in_thought: bool | None
    logprob: float | None
    prompt_tokens: int | None = None

    @property
    def key(self) -> Key:
        return self.prompt_id, self.index


def sample_line(
    prompt: Prompt,
    completion: Completion,
    verdict: Verdict,
    *,
    index: int,
    temperature: float,
    checker: str,
) -> dict[str, Any]:
    """Return the line of sample `index` of a problem; `temperature` is that of the sampling."""
    record = filled(
        SampleRecord,
        completion,
        verdict,
        prompt_id=prompt.id,
        index=index,
        messages=tuple(Turn(m.role, m.content) for m in prompt.messages),
        answer=prompt.answer,
        completion=completion.text,
        logprob=_whole_nats(completion),
        temperature=temperature,
        checker=checker,
    )
    return SAMPLE.dump(record)


def _whole_nats(completion: Completion) -> int | None:
    """Return the field `logprob`, if known; finer digits depend on the batch."""
    logprobs = completion.sampling_logprobs
    known = logprobs and len(logprobs) == len(completion.token_ids)
    total = math.fsum(logprobs) if known else math.nan
    return math.ceil(total) if math.isfinite(total) else None


def verdict_fields(
    verdict: Verdict, *, checker: str, second: str | None, starts_in_thought: bool | None
) -> dict[str, Any]:
    """Return the fields that end a line; what is None has no field."""
    fields = {"outcome": verdict.outcome, "extracted": verdict.extracted, "checker": checker}
    others = {"starts_in_thought": starts_in_thought, "second": second}
    return fields | {name: value for name, value in others.items() if value is not None}


def item_of(line: Mapping[str, Any], *, starts_in_thought: bool = False) -> GradeItem:
    """Return what is judged of a line. starts_in_thought: used if the line does not record it."""
    inside = line.get("starts_in_thought", starts_in_thought)
    prefix = prefix_of(line)
    turns = line.get("messages", ())
    return GradeItem(
        line["answer"],
        line["completion"],
        line["finish_reason"],
        inside,
        prefix,
        prompt_id=line["prompt_id"],
        token_ids=tuple(line.get("token_ids", ())),
        messages=tuple(
            Message(turn["role"], joined_content(turn.get("content"))) for turn in turns
        ),
    )


class SampleFile:
    """samples.jsonl of one folder. Only the holder of the folder's lock may call it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, lines: Sequence[dict[str, Any]]) -> None:
        """Add lines; they are on the disk when this returns."""
        io.append(self.path, b"".join(map(_encoded, lines)))

    def count(self) -> int:
        """Return the number of finished lines."""
        if not self.path.exists():
            return 0
        with self.path.open("rb") as file:
            return sum(line.endswith(b"\n") for line in file)

    def mend(self) -> int:
        """Remove a last line that a kill left unfinished; return the number removed, 0 or 1."""
        return io.drop_torn_line(self.path, is_whole=_is_json)

    def lines(
        self, *, changed: set[int] | None = None, broken: set[int] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Yield the lines as they are stored, checked.

        changed: receives the number, from 1, of each line that was changed, which is then
            yielded; without it such a line is an error.
        broken: receives the number of each line that cannot be read or repeats a sample, which is
            left out; without it such a line is an error. A last line that is being written is none.

        Raises:
            DataError: a line is broken or changed, or a sample is there twice; the message names
                the line.
        """
        if not self.path.exists():
            return
        seen: set[Key] = set()
        with self.path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                where = f"{self.path}:{number}"
                try:
                    line = parsed(raw, where=where)
                    record = SAMPLE.read(line, where=where)
                    key = (record.prompt_id, record.index)
                    if key in seen:
                        raise DataError(f"{where}: a second sample {key[1]} of problem {key[0]!r}")
                except DataError as error:
                    if broken is not None:
                        if raw.endswith(b"\n"):
                            broken.add(number)
                        continue
                    raise DataError(f"{error}; start from scratch with --fresh") from error
                seen.add(key)
                if "digest" in line and not _is_sealed(raw):
                    if changed is None:
                        raise DataError(
                            f"{where}: sample {key[1]} of problem {key[0]!r} was changed since it "
                            f"was written; {REMEDY}, or judge it as it is now with dgpo regrade"
                        )
                    changed.add(number)
                there = {
                    name: value
                    for name, value in line.items()
                    if value is not None and name != "digest"
                }
                yield {"extracted": None, **there}

    def judge_again(self, tails: Mapping[int, dict[str, Any]]) -> None:
        """Replace the verdicts of the lines with these numbers, from 0, in one piece.

        A verdict is the end of a line (`verdict_fields`); the rest is copied unchanged.
        """
        if not tails:
            return
        with self.path.open("rb") as old:
            lines = (
                _with_tail(raw, tails[number]) if number in tails else raw
                for number, raw in enumerate(old)
            )
            io.write(self.path, lines)


def _encoded(line: Mapping[str, Any]) -> bytes:
    return _sealed(_json({name: value for name, value in line.items() if name != "digest"})[:-1])


def _json(values: Mapping[str, Any]) -> bytes:
    return encoded(values, compact=True).encode("ascii")


def _sealed(head: bytes) -> bytes:
    """Return a whole line: an object that is still open, its digest and the end."""
    return head + _DIGEST + _digest(head) + b'"}\n'


def _is_sealed(raw: bytes) -> bool:
    head, _, end = raw.rpartition(_DIGEST)
    return end.rstrip(b"\r\n") == _digest(head) + b'"}'


def _digest(head: bytes) -> bytes:
    return hashlib.sha256(head).hexdigest()[:16].encode("ascii")


def _with_tail(raw: bytes, tail: Mapping[str, Any]) -> bytes:
    # A JSON string has no bare quotation mark: this is the field and nothing else.
    cut = raw.rfind(b',"outcome":')
    own = parsed(b"{" + raw[cut + 1 :], where="") if cut >= 0 else {}
    if own.keys() <= set(_TAIL) and "outcome" in own:
        return _sealed(raw[:cut] + b"," + _json(tail)[1:-1])
    return _encoded({**parsed(raw, where=""), **tail})  # fields in another order


def _is_json(raw: bytes) -> bool:
    try:
        parsed(raw, where="")
    except DataError:
        return False
    return True


def sample_of(line: dict[str, Any]) -> Sample:
    """Return what a report needs of a line."""
    ids = tuple(line.get("token_ids", ()))
    text = line.get("reasoning"), line["completion"]
    return Sample(
        prompt_id=line["prompt_id"],
        index=line["index"],
        tokens=len(ids) if ids else line.get("completion_tokens"),
        fingerprint=hash(ids) if ids else hash(text),
        answer=line["answer"],
        verdict=verdict_of(line["outcome"], line["extracted"]),
        checker=line["checker"],
        second=line.get("second"),
        starts_in_thought=line.get("starts_in_thought"),
        logprob=line.get("logprob"),
        prompt_tokens=line.get("prompt_tokens"),
    )


def verdict_of(outcome: Outcome, extracted: str | None) -> Verdict:
    """Return the verdict of a stored sample; a report does not need the settings' rewards."""
    return Verdict(outcome, extracted, float(outcome == "correct"))
