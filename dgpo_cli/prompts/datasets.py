"""The prompts of a run: generated sums, or the problems of a file, drawn by seed and step.

What a stream gives at a step depends on nothing but the seed, the step and the count, so a run
is resumed from its step number alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from dgpo_cli.errors import BackendError, DataError
from dgpo_cli.prompts.files import Row, exact_text, read_rows
from dgpo_cli.prompts.settings import FilePrompts, PromptSettings, SumsPrompts
from dgpo_cli.prompts.sums import SumProblem, sample_problem
from dgpo_cli.prompts.templates import chat_messages, problem_messages
from dgpo_cli.seeds import derive_seed
from dgpo_cli.types import Message, Prompt

Fits = Callable[[Prompt], bool]
_MAX_REPEATS = 2000  # draws in a row without a new problem before a range counts as exhausted


class PromptStream(Protocol):
    """Where the prompts of a run come from."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out or noticed on opening, a line each; empty when nothing was."""
        ...

    @property
    def size(self) -> int | None:
        """Different prompts in all; None where they are generated without end."""
        ...

    def take(self, *, step: int, count: int) -> list[Prompt]:
        """Return the `count` prompts of `step` (from 0), the same at every call.

        Raises:
            DataError: there are not enough different prompts.
        """
        ...

    def keep(self, fits: Fits, *, reason: str) -> PromptStream:
        """Return a stream of only the prompts that fit; `notes` counts the others with `reason`.

        Generated prompts that do not fit are drawn again, and nothing is left out.

        Raises:
            DataError: no prompt fits.
        """
        ...


def open_prompts(settings: PromptSettings, *, seed: int) -> PromptStream:
    """Open the source of prompts that `settings` names.

    Raises:
        ConfigError: the file does not exist or cannot be read here.
        DataError: the file is broken, or has no problems.
        BackendError: the source needs a download, which dgpo does not do.
    """
    if isinstance(settings, SumsPrompts):
        return SumsStream(settings, seed)
    if isinstance(settings, FilePrompts):
        prompts, notes = read_prompts(
            Path(settings.path),
            template=settings.template,
            system=settings.system,
            problem_column=settings.problem_column,
            answer_column=settings.answer_column,
        )
        return FileStream(prompts, seed, notes)
    raise BackendError(
        f"prompts.dataset={settings.dataset!r}: reading from the hub is not built yet; download "
        "the file and set prompts.kind='file' and prompts.path"
    )


def sum_prompt(problem: SumProblem, *, template: str, system: str | None, source: str) -> Prompt:
    """Return a generated problem as a prompt; its expression is its id."""
    return Prompt(
        id=problem.expression,
        messages=problem_messages(problem.question, template=template, system=system),
        answer=str(problem.answer),
        source=source,
    )


@dataclass(frozen=True, slots=True)
class SumsStream:
    """Generated training problems; no problem comes twice in a step."""

    settings: SumsPrompts
    seed: int
    fits: Fits | None = None
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> int | None:
        return None

    def take(self, *, step: int, count: int) -> list[Prompt]:
        rng = random.Random(derive_seed("prompts.sums", self.seed, step))
        found: dict[str, Prompt] = {}
        repeats = 0
        while len(found) < count:
            prompt = self._draw(rng)
            new = prompt.id not in found and (self.fits is None or self.fits(prompt))
            repeats = 0 if new else repeats + 1
            if repeats > _MAX_REPEATS:
                raise DataError(
                    f"prompts.operations={list(self.settings.operations)} with prompts.max_operand="
                    f"{self.settings.max_operand}: found only {len(found)} different problems that "
                    f"fit for {count} prompts a step; raise prompts.max_operand or "
                    "prompts.max_prompt_tokens, or lower rollout.prompts_per_step"
                )
            if new:
                found[prompt.id] = prompt
        return list(found.values())

    def keep(self, fits: Fits, *, reason: str) -> SumsStream:
        stream = replace(self, fits=fits)
        stream.take(step=0, count=1)  # fails now where nothing fits
        return stream

    def _draw(self, rng: random.Random) -> Prompt:
        problem = sample_problem(
            rng,
            operations=rng.choice(self.settings.operations),
            max_operand=self.settings.max_operand,
            split="train",
        )
        settings = self.settings
        return sum_prompt(
            problem, template=settings.template, system=settings.system, source="sums"
        )


@dataclass(frozen=True, slots=True)
class FileStream:
    """The problems of a file in epochs, each shuffled anew by the seed.

    The epochs follow each other without a gap: every problem comes equally often, and a step
    that lies across two epochs, or that asks for more than the file has, may repeat one.
    """

    prompts: tuple[Prompt, ...]
    seed: int
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> int | None:
        return len(self.prompts)

    def take(self, *, step: int, count: int) -> list[Prompt]:
        size = len(self.prompts)
        chosen = []
        for position in range(step * count, (step + 1) * count):
            epoch, place = divmod(position, size)
            chosen.append(self.prompts[_epoch_order(self.seed, epoch, size)[place]])
        return chosen

    def keep(self, fits: Fits, *, reason: str) -> FileStream:
        kept = tuple(prompt for prompt in self.prompts if fits(prompt))
        dropped = len(self.prompts) - len(kept)
        if not kept:
            raise DataError(f"{self.prompts[0].source}: all {dropped} problems are {reason}")
        if not dropped:
            return self
        note = f"{dropped} of {len(self.prompts)} problems are left out: {reason}"
        return replace(self, prompts=kept, notes=(*self.notes, note))


@lru_cache(maxsize=2)
def _epoch_order(seed: int, epoch: int, size: int) -> tuple[int, ...]:
    rng = random.Random(derive_seed("prompts.file", seed, epoch))
    return tuple(rng.sample(range(size), size))


def read_prompts(
    path: Path,
    *,
    template: str,
    system: str | None,
    problem_column: str = "problem",
    answer_column: str = "answer",
) -> tuple[tuple[Prompt, ...], tuple[str, ...]]:
    """Return the problems of a file, in its order, and notes on what was left out.

    A problem that stands there again (the same text after trimming) is left out and counted. The
    problem column may hold text or a list of chat messages; then the template wraps the last
    user turn. A prompt's id is the row's `id`, or the file's name and the row's number.

    Raises:
        ConfigError: the file does not exist or cannot be read here.
        DataError: a row is broken (with file, line and field), two rows share an id, or there is
            no problem at all.
    """
    found: dict[tuple[Message, ...], Prompt] = {}
    places: dict[str, str] = {}
    repeated = conflicting = 0
    for row in read_rows(path, columns=(problem_column, answer_column, "id")):
        messages = _messages(row, problem_column, template=template, system=system)
        answer = _answer(row, answer_column)
        first = found.get(messages)
        if first is not None:
            repeated += 1
            conflicting += first.answer != answer
            continue
        prompt = Prompt(id=_identity(row), messages=messages, answer=answer, source=str(path))
        if prompt.id in places:
            raise row.error(f"id {prompt.id!r} is already that of {places[prompt.id]}")
        places[prompt.id] = row.place
        found[messages] = prompt
    if not found:
        raise DataError(f"{path}: no problems in it")
    notes = []
    if repeated:
        notes.append(f"{repeated} repeated problems are left out of {path}")
    if conflicting:
        notes.append(f"{conflicting} of them have another answer than the first, which is kept")
    return tuple(found.values()), tuple(notes)


def _identity(row: Row) -> str:
    given = row.get("id")
    if given is None or given == "":
        return f"{row.path.stem}:{row.number}"
    text = exact_text(given)
    if not text:
        raise row.error(f"field 'id' must be text or a number, not {type(given).__name__}")
    return text


def _answer(row: Row, column: str) -> str:
    value = row.require(column)
    text = exact_text(value)
    if text is None:
        raise row.error(f"field {column!r} must be text or a number, not {_kind(value)}")
    if not text:
        raise row.error(f"field {column!r} is empty")
    return text


def _messages(row: Row, column: str, *, template: str, system: str | None) -> tuple[Message, ...]:
    value = row.require(column)
    if isinstance(value, list):
        turns = [_turn(row, column, item) for item in value]
        try:
            return chat_messages(turns, template=template, system=system)
        except ValueError as error:
            raise row.error(f"field {column!r}: {error}") from error
    if not isinstance(value, str):
        raise row.error(f"field {column!r} must be text or a list of messages, not {_kind(value)}")
    if not value.strip():
        raise row.error(f"field {column!r} is empty")
    return problem_messages(value.strip(), template=template, system=system)


def _turn(row: Row, column: str, item: object) -> Message:
    fields = item if isinstance(item, dict) else {}
    role, content = fields.get("role"), fields.get("content")
    if role not in ("system", "user", "assistant") or not isinstance(content, str):
        raise row.error(
            f"field {column!r}: every message needs a role (system, user or assistant) and a "
            "content that is text"
        )
    return Message(role, content)


def _kind(value: object) -> str:
    names = {
        "NoneType": "null",
        "Decimal": "a number that is endless or has over 1000 digits",
        "dict": "an object",
        "bool": "a boolean",
    }
    return names.get(type(value).__name__, f"a {type(value).__name__}")
