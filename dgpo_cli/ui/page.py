"""How a terminal page is laid out: its width, symbols and styles, and lines of labelled values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import ConsoleOptions, Group
from rich.style import Style
from rich.text import Text

from dgpo_cli.core.text import Glyphs, elide, glyphs_for, pad, plain
from dgpo_cli.ui.ramp import Depth

NOTE = Style(dim=True, italic=True)  # a note of ours among a model's text
LEAST_WIDTH = 24  # narrower terminals wrap
LABEL = 12  # cells of the label of a field
FACT = 26  # and of a fact


@dataclass(frozen=True, slots=True)
class Page:
    """How to write: cells a line, symbols, and whether styles may be used at all."""

    width: int
    glyphs: Glyphs
    styled: bool

    def style(self, name: str) -> str:
        return name if self.styled else ""

    def rule(self) -> Text:
        return plain(self.glyphs.rule * self.width, style=self.style("dim"))

    def field(self, label: str, value: str, style: str = "") -> Text:
        """A label and a value that is visible already, on one line."""
        line = plain("").append(pad(label, LABEL), style=self.style("dim"))
        room = self.width - LABEL
        return line.append(elide(value, room, glyphs=self.glyphs), style=self.style(style))

    def fields(self, *pairs: tuple[str, str]) -> Iterator[Text]:
        """Short labels and values side by side where two or three columns have room."""
        columns = max(1, min(3, self.width // 26))
        cell = self.width // columns
        for start in range(0, len(pairs), columns):
            line = plain("")
            for label, value in pairs[start : start + columns]:
                line.append(pad(label, LABEL), style=self.style("dim"))
                room = cell - LABEL
                line.append(pad(elide(value, room - 1, glyphs=self.glyphs), room))
            line.rstrip()
            yield line

    def fact(self, label: str, value: str) -> Text:
        """A long label and a number."""
        return plain("").append(pad(label, FACT), style=self.style("dim")).append(value)

    def fact_lines(self, label: str, value: str) -> Iterator[Text]:
        """A fact whose value stands below its label where the line has no room."""
        if FACT + cell_len(value) <= self.width:
            yield self.fact(label, value)
            return
        yield plain(label, style=self.style("dim"))
        yield from self.paragraph(value, indent=2)

    def paragraph(self, text: str, style: str = "", *, indent: int = 0) -> Iterator[Text]:
        """A sentence of ours wrapped at spaces; untrusted text has no place in it."""
        line = ""
        for word in text.split():
            if line and indent + cell_len(line) + 1 + cell_len(word) > self.width:
                yield plain(" " * indent + line, style=self.style(style))
                line = word
            else:
                line = f"{line} {word}" if line else word
        yield plain(" " * indent + line, style=self.style(style))


def title_line(page: Page, left: str, right: str = "") -> Text:
    """A bold title, and something at the right edge where it fits."""
    room = page.width - cell_len(right) - 1 if right else page.width
    line = plain(elide(left, room, glyphs=page.glyphs), style=page.style("bold"))
    gap = page.width - line.cell_len - cell_len(right)
    return line.append(" " * gap + right) if right else line


def page_for(options: ConsoleOptions, *, width: int | None = None, depth: Depth) -> Page:
    """The page for a console: at most `width` cells, ASCII symbols where it has no UTF-8."""
    room = options.max_width if width is None else min(width, options.max_width)
    return Page(
        width=max(LEAST_WIDTH, room),
        glyphs=glyphs_for(ascii_only=options.ascii_only),
        styled=depth != "none",
    )


def stack(texts: Iterable[Text]) -> Group:
    """Lines below each other."""
    lines = list(texts)
    for line in lines:
        line.end = "\n"
    return Group(*lines)
