"""The prompts of a run: generated sums, or the problems of files, drawn by seed and position.

A draw depends only on the data, the seed, the position and the count, so a run resumes from its
position alone.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Protocol

from dgpo_cli.core.errors import DataError
from dgpo_cli.core.events import NOBODY, Observer
from dgpo_cli.core.formats import Position
from dgpo_cli.core.seeds import derive_seed
from dgpo_cli.core.types import Prompt
from dgpo_cli.environments.process import EnvProcess
from dgpo_cli.prompts.files import Row, read_rows
from dgpo_cli.prompts.hub_dataset import fetch_split, resolve_revision
from dgpo_cli.prompts.problems import Columns, DataFile, read_files
from dgpo_cli.prompts.settings import (
    FilePrompts,
    HubPrompts,
    MixturePrompts,
    PlayedPrompts,
    PromptSettings,
    SumsPrompts,
    env_source,
)
from dgpo_cli.prompts.sums import SumProblem, sample_problem
from dgpo_cli.prompts.templates import begun, problem_messages

Fits = Callable[[Prompt], bool]
_MAX_REPEATS = 2000  # draws in a row without a new problem before a range counts as exhausted


class PromptStream(Protocol):
    """The prompts of a run."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out or noticed on opening, a line each."""
        ...

    @property
    def prompts(self) -> tuple[Prompt, ...] | None:
        """All prompts, in the order of the data; None if they are generated without end."""
        ...

    def digest(self) -> str | None:
        """Return a SHA-256 of all prompts in order; None if they are generated."""
        ...

    def take(self, at: Position, *, count: int) -> list[Prompt]:
        """Return the next `count` prompts, the same at every call.

        Raises:
            DataError: there are not enough different prompts.
        """
        ...

    def with_note(self, note: str) -> PromptStream:
        """Return the stream with one more note."""
        ...

    def keep(self, fits: Fits, *, reason: str) -> PromptStream:
        """Return a stream of the prompts that fit; `notes` counts the others with `reason`.

        Generated prompts that do not fit are drawn again.

        Raises:
            DataError: no prompt fits.
        """
        ...


def open_prompts(
    settings: PromptSettings,
    *,
    seed: int,
    columns: bool = False,
    answered: bool = True,
    observer: Observer = NOBODY,
) -> PromptStream:
    """Open the source of prompts that `settings` names.

    Args:
        columns: keep every field of a row with its prompt, for a reward that reads them.
        answered: a row without an answer is an error.
        observer: gets the progress of downloads.

    Raises:
        ConfigError: the file does not exist or cannot be read here, or no file of the dataset fits.
        DataError: the file is broken, or has no problems.
        BackendError: the hub cannot be reached, or refuses a file.
    """
    if isinstance(settings, MixturePrompts):
        return _open_mixture(settings, seed=seed, observer=observer)
    if isinstance(settings, SumsPrompts):
        return SumsStream(settings, seed)
    if isinstance(settings, PlayedPrompts):
        with closing(EnvProcess(env_source(settings))) as process:
            return FileStream(tuple(process.tasks()), seed)
    files, source, notes = _files_of(settings, observer=observer)
    prompts, left_out = read_files(
        files,
        source=source,
        template=settings.template,
        system=settings.system,
        columns=Columns(
            settings.problem_column, settings.answer_column, others=columns, answered=answered
        ),
    )
    asked = tuple(begun(prompt, prefix=settings.assistant_prefix) for prompt in prompts)
    return FileStream(asked, seed, (*notes, *left_out))


def _open_mixture(settings: MixturePrompts, *, seed: int, observer: Observer) -> MixtureStream:
    parts = [
        (part.label, open_prompts(alone, seed=derive_seed(part.label, seed), observer=observer))
        for part, alone in zip(settings.sources, settings.alone(), strict=True)
    ]
    return MixtureStream(tuple(parts), Turns([part.weight for part in settings.sources]))


def first_rows(
    settings: FilePrompts | HubPrompts, *, count: int, observer: Observer = NOBODY
) -> tuple[Row, ...]:
    """Return the first rows of a source, with all their fields.

    Raises:
        As open_prompts.
    """
    files, _, _ = _files_of(settings, observer=observer)
    rows = (row for file in files for row in read_rows(file.path, columns=None))
    return tuple(islice(rows, count))


def _files_of(
    settings: FilePrompts | HubPrompts, *, observer: Observer
) -> tuple[list[DataFile], str, tuple[str, ...]]:
    """Return the files of a source, its name, and notes."""
    if isinstance(settings, HubPrompts):
        return _from_hub(settings, observer=observer)
    path = Path(settings.path)
    return [DataFile(path, path.stem)], str(path), ()


def _from_hub(
    settings: HubPrompts, *, observer: Observer
) -> tuple[list[DataFile], str, tuple[str, ...]]:
    """Return the files of a dataset, the name of their source, and notes."""
    commit, notes = resolve_revision(settings.dataset, settings.revision)
    data = fetch_split(settings.model_copy(update={"revision": commit}), observer=observer)
    one_folder = len({name.rpartition("/")[0] for name in data.names}) == 1
    files = []
    for name, path in zip(data.names, data.paths, strict=True):
        label = name.rpartition(".")[0]
        files.append(DataFile(path, label.rpartition("/")[2] if one_folder else label))
    return files, f"{settings.dataset} at {commit[:8]}", (*notes, *data.notes)


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
    """Generated training problems; no problem comes twice in a draw."""

    settings: SumsPrompts
    seed: int
    fits: Fits | None = None
    notes: tuple[str, ...] = ()

    @property
    def prompts(self) -> None:
        return None

    def digest(self) -> None:
        return None

    def take(self, at: Position, *, count: int) -> list[Prompt]:
        rng = random.Random(derive_seed("prompts.sums", self.seed, at.draws))
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

    def with_note(self, note: str) -> SumsStream:
        return replace(self, notes=(*self.notes, note))

    def keep(self, fits: Fits, *, reason: str) -> SumsStream:
        stream = replace(self, fits=fits)
        stream.take(Position(), count=1)  # fails now where nothing fits
        return stream

    def _draw(self, rng: random.Random) -> Prompt:
        problem = sample_problem(
            rng,
            operations=rng.choice(self.settings.operations),
            max_operand=self.settings.max_operand,
            split="train",
        )
        settings = self.settings
        prompt = sum_prompt(
            problem, template=settings.template, system=settings.system, source="sums"
        )
        return begun(prompt, prefix=settings.assistant_prefix)


@dataclass(frozen=True, slots=True)
class FileStream:
    """The problems of files in epochs, each in an order of its own from the seed.

    The epochs follow each other without a gap: every problem comes equally often, and a draw
    across two epochs, or of more problems than the files have, may repeat one.
    """

    prompts: tuple[Prompt, ...]
    seed: int
    notes: tuple[str, ...] = ()

    def digest(self) -> str:
        found = hashlib.sha256()
        for prompt in self.prompts:
            turns = [[turn.role, turn.content] for turn in prompt.messages]
            line = json.dumps([prompt.id, turns, prompt.answer], ensure_ascii=True)
            found.update(f"{line}\n".encode("ascii"))
        return found.hexdigest()

    def take(self, at: Position, *, count: int) -> list[Prompt]:
        size = len(self.prompts)
        chosen = []
        for position in range(at.prompts, at.prompts + count):
            epoch, place = divmod(position, size)
            chosen.append(self.prompts[_epoch_order(self.seed, epoch, size)[place]])
        return chosen

    def with_note(self, note: str) -> FileStream:
        return replace(self, notes=(*self.notes, note))

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


class Turns:
    """Which source each prompt comes from, by the weights of the sources.

    The next prompt is that of the source which is furthest behind its share, so that the shares
    hold after every prompt.

    Examples:
        >>> turns = Turns((2, 1))
        >>> turns.between(0, 6)
        [0, 1, 0, 0, 1, 0]
        >>> turns.before(6)
        (4, 2)
    """

    def __init__(self, weights: Sequence[float]) -> None:
        exact = [Fraction(repr(weight)) for weight in weights]
        scale = math.lcm(*(each.denominator for each in exact))
        self._weights = [int(each * scale) for each in exact]
        self._counts = [0] * len(exact)  # of all that is in _order
        self._order = bytearray()

    def between(self, start: int, end: int) -> list[int]:
        """Return the sources of the prompts from `start` on, before `end`."""
        self._reach(end)
        return list(self._order[start:end])

    def before(self, place: int) -> tuple[int, ...]:
        """Return how many of the first `place` prompts each source gives."""
        self._reach(place)
        return tuple(self._order.count(i, 0, place) for i in range(len(self._weights)))

    def _reach(self, place: int) -> None:
        whole = sum(self._weights)
        while len(self._order) < place:
            drawn = len(self._order) + 1
            behind = [
                w * drawn - n * whole for w, n in zip(self._weights, self._counts, strict=True)
            ]
            chosen = behind.index(max(behind))
            self._order.append(chosen)
            self._counts[chosen] += 1


@dataclass(frozen=True, slots=True)
class MixtureStream:
    """The prompts of several streams; each has epochs of its own.

    parts: names and streams.
    """

    parts: tuple[tuple[str, PromptStream], ...]
    turns: Turns
    own_notes: tuple[str, ...] = field(default=())

    @property
    def notes(self) -> tuple[str, ...]:
        """See PromptStream."""
        of_parts = (f"{name}: {note}" for name, stream in self.parts for note in stream.notes)
        return (*of_parts, *self.own_notes)

    @property
    def prompts(self) -> tuple[Prompt, ...] | None:
        """The prompts of the sources that have an end; None if none has."""
        found = [(name, stream.prompts) for name, stream in self.parts]
        if all(prompts is None for _, prompts in found):
            return None
        return tuple(_part(p, name=name) for name, prompts in found for p in prompts or ())

    def digest(self) -> str | None:
        """See PromptStream. It does not depend on the weights."""
        found = [(name, stream.digest()) for name, stream in self.parts]
        if all(digest is None for _, digest in found):
            return None
        lines = "".join(f"{name} {digest}\n" for name, digest in found)
        return hashlib.sha256(lines.encode()).hexdigest()

    def take(self, at: Position, *, count: int) -> list[Prompt]:
        """See PromptStream."""
        order = self.turns.between(at.prompts, at.prompts + count)
        drawn = []
        for i, (name, stream) in enumerate(self.parts):
            place = Position(at.draws, self.turns.before(at.prompts)[i])
            own = stream.take(place, count=order.count(i)) if i in order else []
            drawn.append(iter([_part(prompt, name=name) for prompt in own]))
        return [next(drawn[i]) for i in order]

    def with_note(self, note: str) -> MixtureStream:
        """See PromptStream."""
        return replace(self, own_notes=(*self.own_notes, note))

    def keep(self, fits: Fits, *, reason: str) -> MixtureStream:
        """See PromptStream; every source must have a prompt that fits."""
        kept = []
        for name, stream in self.parts:
            try:
                own = stream.keep(lambda p, name=name: fits(_part(p, name=name)), reason=reason)  # type: ignore[misc]
            except DataError as error:
                raise DataError(f"prompts.sources.{name}: {error}; leave the source out") from error
            kept.append((name, own))
        return replace(self, parts=tuple(kept))


def _part(prompt: Prompt, *, name: str) -> Prompt:
    """Return the prompt of a source, with an id that no other source has."""
    return replace(prompt, id=f"{name}/{prompt.id}", part=name)
