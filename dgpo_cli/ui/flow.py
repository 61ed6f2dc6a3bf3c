"""Running text of a completion: visible pieces wrapped to lines of cells, each with its level.

Not rich's wrapping: this is fast with thousands of styled pieces, breaks at newlines, and puts a
row of level glyphs under the text if there is no colour.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style

from dgpo_cli.core.text import Glyphs, split_cells, visible
from dgpo_cli.ui.ramp import Ramp

FOREIGN = 1 << 10  # the level of text that has none, because another than the policy wrote it


class Run(NamedTuple):
    """Visible text of one level; `listed` if its token is in the table."""

    text: str
    level: int
    listed: bool


Line = list[Run]


def show(text: str | None, *, glyphs: Glyphs) -> str:
    """Return a piece in running text, with a line break after each newline symbol.

    Single spaces stay; several in a row, or at a line's end, are shown as symbols.
    """
    if text is None:
        return glyphs.empty
    if "\n" not in text and "  " not in text:
        return visible(text, glyphs=glyphs)
    lines = text.split("\n")
    shown = []
    for line in lines[:-1]:
        body = line.rstrip(" ")
        ends = visible(line[len(body) :], glyphs=glyphs, spaces=True)
        shown.append(_inner(body, glyphs=glyphs) + ends + glyphs.newline + "\n")
    return "".join(shown) + _inner(lines[-1], glyphs=glyphs)


def show_all(texts: Iterable[str | None], *, glyphs: Glyphs) -> list[str]:
    """Return consecutive pieces as `show` does, also for spaces in a row of different pieces."""
    shown: list[str] = []
    before: str | None = None
    for text in texts:
        own = show(text, glyphs=glyphs)
        if before and text and before[-1] == " " and text[0] in " \n":
            shown[-1] = shown[-1][:-1] + glyphs.space
            own = glyphs.space + own[1:] if text[0] == " " else own
        shown.append(own)
        before = text
    return shown


def _inner(line: str, *, glyphs: Glyphs) -> str:
    return visible(line, glyphs=glyphs, spaces="  " in line)


class _Wrapper:
    """Fills lines; a word that does not fit moves to the next line unless it is long."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.line: Line = []
        self.used = 0
        self.word: Line = []
        self.word_used = 0

    def add(self, run: Run) -> Iterator[Line]:
        """Add the text of a run up to the next break; yield the lines that are full."""
        size = cell_len(run.text)
        self.word.append(run)
        self.word_used += size
        if self.word_used > self.width // 2 or run.text.endswith(" "):
            yield from self.end_word()

    def end_word(self) -> Iterator[Line]:
        """Place the word, on a new line if it is short and there is no room."""
        fits = self.used + self.word_used <= self.width
        if not fits and self.word_used <= self.width // 2:
            yield self.end_line()
        for run in self.word:
            text = run.text
            while text:
                head, text = split_cells(text, self.width - self.used)
                if head:
                    self.line.append(run._replace(text=head))
                    self.used += cell_len(head)
                if text:
                    yield self.end_line()
        self.word, self.word_used = [], 0

    def end_line(self) -> Line:
        line, self.line, self.used = self.line, [], 0
        return line


def wrap(runs: Iterable[Run], *, width: int) -> Iterator[Line]:
    """Yield lines of at most `width` cells (at least 2); "\\n" in a run's text ends a line."""
    wrapper = _Wrapper(max(width, 2))
    for run in runs:
        if "\n" not in run.text and " " not in run.text:
            yield from wrapper.add(run)
            continue
        *lines, last = run.text.split("\n")
        for line in lines:
            yield from _words(wrapper, run, line)
            yield from wrapper.end_word()
            yield wrapper.end_line()
        yield from _words(wrapper, run, last)
    yield from wrapper.end_word()
    if wrapper.line:
        yield wrapper.end_line()


def _words(wrapper: _Wrapper, run: Run, text: str) -> Iterator[Line]:
    start = 0
    while start < len(text):
        stop = text.find(" ", start) + 1 or len(text)
        yield from wrapper.add(run._replace(text=text[start:stop]))
        start = stop


def joined(runs: Iterable[Run]) -> Iterator[Run]:
    """Join neighbouring runs that look the same."""
    parts: list[str] = []
    look = (0, False)
    for text, level, listed in runs:
        if parts and look != (level, listed):
            yield Run("".join(parts), *look)
            parts = []
        look = (level, listed)
        parts.append(text)
    if parts:
        yield Run("".join(parts), *look)


def drawn(lines: Iterable[Line], *, ramp: Ramp | None, glyphs: Glyphs) -> Iterator[Segment]:
    """Yield lines in the ramp's colours, or with marks if there is none."""
    return coloured(lines, ramp=ramp) if ramp else marked(lines, glyphs=glyphs)


def coloured(lines: Iterable[Line], *, ramp: Ramp) -> Iterator[Segment]:
    """Yield lines in the ramp's colours."""
    styles: dict[tuple[int, bool], Style] = {}
    for line in lines:
        for text, level, listed in line:
            key = (level, listed)
            if key not in styles:
                dim = level == FOREIGN
                styles[key] = Style(dim=True) if dim else ramp.style(level, listed=listed)
            yield Segment(text, styles[key])
        yield Segment.line()


def marked(lines: Iterable[Line], *, glyphs: Glyphs) -> Iterator[Segment]:
    """Yield lines, each above the glyphs of its cells' levels."""
    for line in lines:
        yield Segment("".join(run.text for run in line) + "\n")
        under = "".join(level_glyph(run.level, glyphs=glyphs) * cell_len(run.text) for run in line)
        if under.strip():
            yield Segment(under.rstrip() + "\n")


def level_glyph(level: int, *, glyphs: Glyphs) -> str:
    """Return the glyph of a level, a space for 0; ink grows with the distance from 0."""
    if level == 0:
        return " "
    if level == FOREIGN:
        return glyphs.separator
    return glyphs.above[level - 1] if level > 0 else glyphs.below[-level - 1]
