"""Several sources of prompts in fixed shares.

The sources take turns so that after every prompt each has had its share, to less than one prompt of
what its weight says: the next prompt is that of the source which is furthest behind. So the shares
hold in every step, and a position alone says which prompts come next.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

from dgpo_cli.core.errors import DataError
from dgpo_cli.core.formats import Position
from dgpo_cli.core.types import Prompt
from dgpo_cli.prompts.datasets import Fits, PromptStream


class Turns:
    """Which source each prompt comes from, by the weights of the sources.

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
