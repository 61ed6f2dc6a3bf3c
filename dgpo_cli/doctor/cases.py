"""Lines of JSON with completions to judge: written by hand, or by dgpo rollout, train and eval.

| read | from |
| --- | --- |
| text | `output` or `completion` |
| expected answer | `gold` or `answer` |
| conversation | `messages`, or `prompt` as its user turn |
| columns of a reward | all other fields; of a line of dgpo's, those that are not dgpo's |
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any, Literal, cast

from dgpo_cli.core.errors import DataError
from dgpo_cli.core.formats import ROLLOUT, SampleRecord, TrainedRecord, prefix_of
from dgpo_cli.core.thinking import ends_in_thought
from dgpo_cli.core.types import CHECKED_OUTCOMES, FinishReason, Message
from dgpo_cli.prompts.files import final_answer
from dgpo_cli.rewards.checker_settings import shown_gold
from dgpo_cli.rewards.item import GradeItem
from dgpo_cli.rewards.settings import RewardSettings, RewardValues

NO_OPINION = "policy"
WANTS = ("correct", "incorrect", NO_OPINION, *CHECKED_OUTCOMES[1:])
_TEXT, _GOLD = ("output", "completion"), ("gold", "answer")
_OF_DGPO = frozenset(
    field.name for record in (TrainedRecord, SampleRecord) for field in fields(record)
) | {"version"}


@dataclass(frozen=True, slots=True)
class Case:
    """A line: its number from 1, what is judged, the wanted outcome or reward, its other fields."""

    number: int
    item: GradeItem
    want: str | float | None
    rest: dict[str, Any]


@dataclass(frozen=True, slots=True)
class BrokenLine:
    """A line that cannot be judged."""

    number: int
    why: str


class _Broken(Exception):
    """What is wrong with a line."""


def read_cases(
    lines: Iterable[bytes],
    *,
    reward: RewardSettings | RewardValues,
    parts: Collection[str] = (),
) -> Iterator[Case | BrokenLine]:
    """Yield each line; blank ones are skipped.

    parts: names of the sources of a mixture, which ids of its problems begin with.
    """
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            case = _case(line, number, needs_answer=reward.needs_answer, parts=parts)
            if (fault := reward.fault_for(case.item.part, case.item.gold)) is not None:
                raise _Broken(f"{shown_gold(case.item.gold)} {fault}")
        except _Broken as broken:
            yield BrokenLine(number, str(broken))
        else:
            yield case


def _case(line: bytes, number: int, *, needs_answer: bool, parts: Collection[str]) -> Case:
    given = _object(line)
    known = ", ".join(map(repr, given)) or "none"
    answered = needs_answer or any(name in given for name in _GOLD)
    gold = _taken(given, _GOLD, known=known) if answered else ""
    text = _taken(given, _TEXT, known=known)
    want = given.pop("want", None)
    number_wanted = isinstance(want, int | float) and not isinstance(want, bool)
    if want is not None and not number_wanted and want not in WANTS:
        raise _Broken(f"want={want!r:.80}: must be one of {', '.join(WANTS)}, or a reward")
    reason = _finish_reason(given.pop("finish_reason", None))
    opened = _starts_in_thought(given)
    try:
        told = ROLLOUT.read_part(
            {n: given[n] for n in ("prompt_id", "token_ids", "messages") if n in given}, where=""
        )
    except DataError as error:
        raise _Broken(str(error).removeprefix(": ")) from None
    turns = [(turn.role, turn.content) for turn in told.get("messages", ())]
    if not turns and isinstance(given.get("prompt"), str):
        turns = [("user", given["prompt"])]
    prompt_id = told.get("prompt_id", "")
    part = prompt_id.partition("/")[0]
    ours = "prompt_id" in given and "index" in given
    rest = {name: value for name, value in given.items() if not (ours and name in _OF_DGPO)}
    item = GradeItem(
        final_answer(gold),
        text,
        reason,
        opened,
        prefix_of(given),
        part=part if part in parts else "",
        prompt_id=prompt_id,
        token_ids=tuple(told.get("token_ids", ())),
        messages=tuple(Message(cast(Literal["user"], role), said) for role, said in turns),
        columns=rest,
    )
    return Case(number, item, want, rest)


def _object(line: bytes) -> dict[str, Any]:
    try:
        given = json.loads(line.removeprefix(b"\xef\xbb\xbf").decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _Broken(f"not UTF-8 at byte {error.start}") from error
    except (ValueError, RecursionError) as error:
        raise _Broken(f"not JSON: {error}") from error
    if not isinstance(given, dict):
        raise _Broken("not a JSON object with gold and output")
    return given


def _taken(given: dict[str, Any], names: tuple[str, str], *, known: str) -> str:
    """Remove and return the text in the first of these fields that is there."""
    name = next((name for name in names if name in given), None)
    if name is None:
        raise _Broken(f"no field {names[0]!r} (fields: {known:.200})")
    value = given.pop(name)
    if name in _GOLD and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise _Broken(f"{name}={value!r:.80} is not text; put it in quotes")
    return value


def _starts_in_thought(given: dict[str, Any]) -> bool:
    """Return the field of that name, else whether the prompt leaves a thought open."""
    told = given.pop("starts_in_thought", None)
    if told is not None and not isinstance(told, bool):
        raise _Broken(f"starts_in_thought={told!r:.80}: must be true or false")
    prompt = given.get("prompt")
    return ends_in_thought(prompt) if told is None and isinstance(prompt, str) else told is True


def _finish_reason(value: object) -> FinishReason:
    match value:
        case None | "stop":
            return "stop"
        case "length":
            return "length"
    raise _Broken(f"finish_reason={value!r:.80}: must be stop or length")
