"""Calls a reward function of the user's; runs only in workers, and imports no torch.

What a function returns for a completion:

| returned | value | outcome |
| --- | --- | --- |
| a number; of numpy or torch too | itself | by `correct_at` |
| True, False | 1, 0 | correct, wrong |
| None | none: the term does not apply | none |
| (number, outcome), (number, outcome, note) | the number | as said; None: by `correct_at` |
| NaN, an infinity, anything else | none | error, with a note |

A function that takes one completion is called for each, and fails for each. One that takes several
returns a list with one of the above for each; an exception, or a list of another length, is an
error of all completions of the call: they are not tried one by one, since what the function makes
of a completion may depend on the others.

Calls of an async function for one completion run at the same time, and each has the deadline. A
call that blocks its worker delays the others; if that passes the deadline, each is tried alone.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from dgpo_cli.core.errors import ConfigError
from dgpo_cli.core.own_code import digests_of, load_own, where_it_failed
from dgpo_cli.core.text import cut
from dgpo_cli.core.types import FinishReason, Message, Outcome
from dgpo_cli.rewards.protocol import unpacked

MAX_NOTE_CHARS = 2000
_LARGEST = 3e38  # as float32
_SAYABLE = [name for name in get_args(Outcome) if name not in ("timeout", "crash", "error")]
_ONE, _SEVERAL = "completion", "completions"
_Result = list[Any]  # "done" with [value, outcome, note] for each completion; "error" with a note


@dataclass(frozen=True, slots=True)
class RewardCompletion:
    """A completion as a reward function gets it.

    text: without what the assistant's turn began with, if anything.
    messages: the conversation before it. answer: the expected one, "" where the data has none.
    """

    text: str
    token_ids: tuple[int, ...] = ()
    finish_reason: FinishReason = "stop"
    messages: tuple[Message, ...] = ()
    answer: str = ""
    prompt_id: str = ""


def open_calls(
    *, path: str, group: bool, timeout_s: float, digests: Mapping[str, str]
) -> tuple[Callable[[Sequence[Any]], Iterator[_Result]], dict[str, Any]]:
    """Load the function; return what answers tasks, and what its signature says.

    That is: `single`, it takes one completion; `together`, its calls run at the same time;
    `columns`, the names that it asks for, None for all; `required`, those without a default.

    digests: of the files that it is made of.

    Raises:
        ConfigError: the function cannot be loaded, takes other arguments, or is another one now.
    """
    now = digests_of(path)
    if changed := [name for name in {**digests, **now} if digests.get(name) != now.get(name)]:
        raise ConfigError(
            f"{path}: {changed[0]} has changed since its first worker was started; "
            "restore it, or start again"
        )
    function = load_own(path)
    asked = _Asked.of(function, path=path)
    if group and asked.single:
        raise ConfigError(
            f"{path} takes one completion, and group = true calls it with all of a prompt; name "
            "its first parameter completions, or set group = false"
        )
    is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004
    )
    calls = _Calls(function, asked, path=path, timeout_s=timeout_s)
    told = {
        "single": asked.single,
        "together": asked.single and is_async,
        "columns": None if asked.all_columns else [n for n in asked.columns if n != "answer"],
        "required": sorted(asked.required - {"answer"}),
    }
    return (calls.together if told["together"] else calls.in_turn), told


class _Unusable(Exception):
    """A call that cannot be made, or what one returned; the message says all."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a function's parameters ask for."""

    single: bool
    columns: tuple[str, ...]
    required: frozenset[str]
    all_columns: bool

    @classmethod
    def of(cls, function: Callable[..., Any], *, path: str) -> _Asked:
        if not callable(function):
            raise ConfigError(f"{path} is {_kind(function)}; name a function")
        parameters = list(inspect.signature(function).parameters.values())
        first = parameters[0].name if parameters else ""
        if first not in (_ONE, _SEVERAL):
            has = f"is {first!r}" if first else "is missing"
            raise ConfigError(
                f"{path}: its first parameter {has}; name it {_ONE} to get one completion a call, "
                f"or {_SEVERAL} to get a list of them"
            )
        rest = parameters[1:]
        unnamed = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL)
        if odd := next((p for p in rest if p.kind in unnamed), None):
            raise ConfigError(f"{path}: columns are given by name, and {odd} has none")
        named = [p for p in rest if p.kind is not inspect.Parameter.VAR_KEYWORD]
        return cls(
            single=first == _ONE,
            columns=tuple(p.name for p in named),
            required=frozenset(p.name for p in named if p.default is inspect.Parameter.empty),
            all_columns=len(named) < len(rest),
        )

    def arguments(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the columns of a call by name; a row that lacks one that others have gets None.

        Raises:
            _Unusable: no row has a required one.
        """
        there = dict.fromkeys(name for row in rows for name in row)
        for name in sorted(self.required):
            if name not in there:
                known = ", ".join(map(repr, there))
                raise _Unusable(f"no column {name!r} for the parameter of that name, only {known}")
        wanted = [n for n in there if self.all_columns or n in self.columns]
        values = {name: [row.get(name) for row in rows] for name in wanted}
        return {n: column[0] for n, column in values.items()} if self.single else dict(values)


class _Calls:
    """Answers tasks, each of them one call."""

    def __init__(
        self, function: Callable[..., Any], asked: _Asked, *, path: str, timeout_s: float
    ) -> None:
        self._function, self._asked = function, asked
        self._timeout_s = timeout_s
        # Of a file as it was given, of a module where it is.
        module = sys.modules[getattr(function, "__module__", None) or __name__]
        self._folder = Path(module.__file__ or path).parent
        self._runner = asyncio.Runner()

    def in_turn(self, tasks: Sequence[Any]) -> Iterator[_Result]:
        for (message,) in tasks:
            try:
                completions, columns = self._given(message)
                returned = self._function(completions, **columns)
                if inspect.isawaitable(returned):
                    returned = self._runner.run(_awaited(returned))
                yield ["done", self._read(returned, count=len(message["rows"]))]
            except MemoryError:
                raise
            except (Exception, SystemExit, asyncio.CancelledError) as error:
                yield ["error", self._told(error)]

    def together(self, tasks: Sequence[Any]) -> Iterator[_Result]:
        yield from self._runner.run(self._all(tasks))

    async def _all(self, tasks: Sequence[Any]) -> list[_Result]:
        return await asyncio.gather(*(self._one(message) for (message,) in tasks))

    async def _one(self, message: Mapping[str, Any]) -> _Result:
        try:
            completion, columns = self._given(message)
            async with asyncio.timeout(self._timeout_s) as limit:
                returned = await self._function(completion, **columns)
            return ["done", self._read(returned, count=1)]
        except MemoryError:
            raise
        except (Exception, SystemExit, asyncio.CancelledError) as error:
            if isinstance(error, TimeoutError) and limit.expired():
                return ["timeout", f"took longer than timeout_s={self._timeout_s:g}"]
            return ["error", self._told(error)]

    def _given(self, message: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        prompts, completions, columns = message["prompts"], [], []
        for at, text, token_ids, finish_reason in message["rows"]:
            prompt = prompts[at]
            columns.append({**prompt["columns"], "answer": prompt["answer"]})
            completions.append(
                RewardCompletion(
                    text=text,
                    token_ids=unpacked(token_ids),
                    finish_reason=finish_reason,
                    messages=tuple(Message(*turn) for turn in prompt["messages"]),
                    answer=prompt["answer"],
                    prompt_id=prompt["id"],
                )
            )
        given = completions[0] if self._asked.single else completions
        return given, self._asked.arguments(columns)

    def _told(self, error: BaseException) -> str:
        """Return an exception in a line, with the innermost line of the user's code."""
        if isinstance(error, _Unusable):
            return str(error)
        return cut(where_it_failed(error, folder=self._folder), MAX_NOTE_CHARS)

    def _read(self, returned: Any, *, count: int) -> list[_Result]:
        if self._asked.single:
            return [score_of(returned)]
        if isinstance(returned, str | bytes | Mapping) or not hasattr(returned, "__iter__"):
            raise _Unusable(f"returned {_kind(returned)}; return a list with a score for each")
        scores = list(returned.tolist() if hasattr(returned, "tolist") else returned)
        if len(scores) != count:
            raise _Unusable(f"returned {len(scores):,} scores for {count:,} completions")
        return [score_of(each) for each in scores]


async def _awaited(returned: Awaitable[Any]) -> Any:
    return await returned


def score_of(returned: Any) -> _Result:
    """Return value, outcome and note of what was returned for one completion."""
    parts = returned if isinstance(returned, tuple) else (returned,)
    if not 1 <= len(parts) <= 3:
        return [None, "error", f"returned {len(parts)} values; return number, outcome, note"]
    value, outcome, note = (*parts, None, None)[:3]
    note = None if note is None else cut(str(note), MAX_NOTE_CHARS)
    if hasattr(value, "item") and not isinstance(value, bool | int | float):
        try:
            value = value.item()
        except (ValueError, RuntimeError):
            return [None, "error", f"returned {_kind(value)} with several numbers"]
    if outcome is not None and outcome not in _SAYABLE:
        return [None, "error", f"returned outcome {outcome!r:.60}; say {' or '.join(_SAYABLE)}"]
    if value is None:
        return [None, outcome, note]
    if isinstance(value, bool):
        return [float(value), outcome or ("correct" if value else "wrong"), note]
    if isinstance(value, str | bytes) or not hasattr(value, "__float__"):
        return [None, "error", f"returned {_kind(value)}; return a number, True, False or None"]
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    except (TypeError, ValueError) as error:
        return [None, "error", f"returned {_kind(value)}, which is not a number: {error}"]
    if not abs(number) <= _LARGEST:
        what = f"{number:g}" if not math.isfinite(number) else f"{number:g}, which is too large"
        return [None, "error", f"returned {what}"]
    return [number, outcome, note]


def _kind(value: Any) -> str:
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
