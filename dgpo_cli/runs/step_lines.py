"""Files with a line a step: metrics.jsonl, evals.jsonl, changes.jsonl.

Lines are not trusted: a full disk or a power cut leaves zeros, half lines and gaps. Readers skip
broken lines; only the run that has locked the folder moves them away.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from dgpo_cli.core import io
from dgpo_cli.core.codec import encoded, parsed
from dgpo_cli.core.errors import DataError

_MOST = 10  # places that a note names
_LAST = 10**12  # steps; no run gets there

Line = dict[str, Any]


@dataclass(frozen=True, slots=True)
class LinesFound:
    """The lines of a file.

    lines: one a step, in order; of a step written twice, the later one. numbers: their numbers in
    the file, from 1. broken: numbers of lines without a step. repeated: steps with several lines.
    """

    lines: tuple[Line, ...] = ()
    numbers: tuple[int, ...] = ()
    broken: tuple[int, ...] = ()
    repeated: tuple[int, ...] = ()


class StepLines:
    """One such file."""

    def __init__(
        self,
        path: Path,
        *,
        what: str,
        beside: str = "",
        is_whole: Callable[[Line], bool] = lambda line: True,
        last: Callable[[], int | None] = lambda: None,
    ) -> None:
        """
        Args:
            what: its contents, in words.
            beside: a field that distinguishes several lines of a step.
            is_whole: whether a line with a step is complete.
            last: the last step that a line can have, None if unknown.
        """
        self.path = path
        self.what = what
        self._beside = beside
        self._is_whole = is_whole
        self._last = last

    def append(self, step: int, values: Mapping[str, Any]) -> None:
        """Add the line of a step; numbers that are not finite are written as null."""
        io.append(self.path, encoded({"step": step, **values}) + "\n", flush=False)

    def sync(self) -> None:
        """Flush what was appended to the disk."""
        if self.path.exists():
            io.sync(self.path)

    def read(self) -> LinesFound:
        """Read the file, which may be missing.

        A last line without a newline does not count as broken: it may be being written.
        """
        if not self.path.exists():
            return LinesFound()
        good, broken = self._sorted(with_cut=False)
        times = Counter(self._key(line) for _, _, line in good)
        latest = {self._key(line): (number, line) for number, _, line in good}
        ordered = sorted(latest.values(), key=lambda each: each[1]["step"])
        return LinesFound(
            lines=tuple(line for _, line in ordered),
            numbers=tuple(number for number, _ in ordered),
            broken=tuple(number for number, _ in broken),
            repeated=tuple(sorted({step for (step, _), count in times.items() if count > 1})),
        )

    def ends(self, *, first: int, last: int) -> list[Line]:
        """Return the first and the last lines, as `read` would, without reading the others.

        A file with fewer lines is returned whole, none of it twice.
        """
        if not self.path.exists():
            return []
        raws = io.line_ends(self.path, first=first, last=last)
        beyond = self._beyond()
        return [line for raw in raws if (line := self._parsed(raw, beyond=beyond)) is not None]

    def cut(self, step: int) -> list[str]:
        """Drop the lines after `step`, move broken ones away, and return notes."""
        if not self.path.exists():
            return []
        found = self.read()
        good, broken = self._sorted(with_cut=True)
        latest = {self._key(line): raw for _, raw, line in good if line["step"] <= step}
        notes = repeated_notes(self.what, [each for each in found.repeated if each <= step])
        if broken:
            aside = io.move_to_bad(self.path, (raw for _, raw in broken))
            verb = "is" if len(broken) == 1 else "are"
            which = lines_named([number for number, _ in broken])
            notes.insert(0, f"{self.path}: {which} {verb} broken, moved to {aside.name}")
        ordered = sorted(latest, key=lambda key: key[0])
        io.write(self.path, (latest[key] + b"\n" for key in ordered))
        return notes

    def _sorted(
        self, *, with_cut: bool
    ) -> tuple[list[tuple[int, bytes, Line]], list[tuple[int, bytes]]]:
        """Split the lines into those with a step and broken ones, with their numbers.

        with_cut: count a last line without a newline as broken.
        """
        with io.naming(self.path):
            *whole, cut = self.path.read_bytes().split(b"\n")
        good: list[tuple[int, bytes, Line]] = []
        broken: list[tuple[int, bytes]] = []
        beyond = self._beyond()
        for number, raw in enumerate([*whole, cut], start=1):
            line = self._parsed(raw, beyond=beyond)
            if line is not None:
                good.append((number, raw, line))
            elif raw.strip() and (with_cut or number <= len(whole)):
                broken.append((number, raw))
        return good, broken

    def _beyond(self) -> int:
        """Return the first step that no line can have."""
        last = self._last()
        return _LAST if last is None else min(last + 1, _LAST)

    def _parsed(self, raw: bytes, *, beyond: int) -> Line | None:
        """Return the object of a line that has a step of the run and is complete."""
        try:
            values = parsed(raw, where="")
        except DataError:
            return None
        if not isinstance(values, dict):
            return None
        step = number_of(values.get("step"))
        if step is None or not 0 <= step < beyond or step != int(step):
            return None
        line = {**values, "step": int(step)}
        return line if self._is_whole(line) else None

    def _key(self, line: Line) -> tuple[int, str]:
        return line["step"], str(line.get(self._beside, ""))


def repeated_notes(what: str, steps: Sequence[int]) -> list[str]:
    """Return a note on the steps with several lines, if any."""
    if not steps:
        return []
    which = _steps([(step, step) for step in steps])
    return [f"{what} of {which} are duplicated; the last line counts"]


def missing_notes(what: str, there: Sequence[int], *, last: int) -> list[str]:
    """Return a note on the steps 1 to `last` that are missing from `there`, which is sorted."""
    spans = [(low + 1, high - 1) for low, high in pairwise([0, *there, last + 1])]
    gaps = [(low, high) for low, high in spans if low <= high]
    if not gaps:
        return []
    return [f"{what} of {_steps(gaps)} are missing"]


def _steps(spans: Sequence[tuple[int, int]]) -> str:
    """Name steps by their spans: "step 3", "steps 3, 7 to 12"."""
    texts = [str(low) if low == high else f"{low} to {high}" for low, high in spans]
    return f"{'step' if spans[0][0] == spans[-1][1] else 'steps'} {named(texts)}"


def lines_named(numbers: Sequence[int]) -> str:
    """Name lines: "line 3", "lines 3, 7"."""
    return f"{'line' if len(numbers) == 1 else 'lines'} {named(numbers)}"


def named(places: Sequence[object]) -> str:
    """Name the first places of many."""
    return ", ".join(map(str, places[:_MOST])) + " ..." * (len(places) > _MOST)


def number_of(value: Any) -> float | None:
    """Return a finite number, None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer beyond the range of floats
        return None
