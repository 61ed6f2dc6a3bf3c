"""A page of a terminal: its width, symbols and colours, and the lines that are written on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import Segment, Segments
from rich.style import Style
from rich.text import Text

from dgpo_cli.core.text import UNICODE, Glyphs, elide, glyphs_for, pad, plain, split_words, visible
from dgpo_cli.ui.ramp import Depth, depth_of, shallower

NOTE = Style(dim=True, italic=True)  # a note of ours among a model's text
LEAST_WIDTH = 24  # narrower terminals wrap
LABEL = 12  # cells of the label of a field
NUMBER = 7  # of the number behind it
FACT = 26  # of the label of a fact

Part = str | Text | tuple[str, str | Style]  # of a line: text, or text and its style
Cell = tuple[str, int] | tuple[str, int, str]  # text, width (below 0: to the right), style


@dataclass(slots=True)
class Page:
    """Lines of at most `width` cells, written from top to bottom.

    Text from elsewhere goes through `shown` first; a style is left out where there is no colour.
    """

    width: int
    glyphs: Glyphs = UNICODE
    depth: Depth = "truecolor"
    console: Console | None = None  # where it will be printed
    lines: list[RenderableType] = field(default_factory=list)

    @property
    def styled(self) -> bool:
        return self.depth != "none"

    def style(self, name: str | Style) -> str | Style:
        return name if self.styled else ""

    def shown(self, text: str, *, spaces: bool = False) -> str:
        """Foreign text, visible in the symbols of this page."""
        return visible(text, glyphs=self.glyphs, spaces=spaces)

    def fit(self, text: str, room: int | None = None, *, end: bool = False) -> str:
        """Visible text cut to `room` cells, or to the page; end: keep its end."""
        return elide(text, self.width if room is None else room, glyphs=self.glyphs, end=end)

    def inner(self, width: int) -> Page:
        """An empty page of the same kind."""
        return Page(width, self.glyphs, self.depth, self.console)

    def text(self, *parts: Part) -> Text:
        """A line that is not on the page yet."""
        line = plain("")
        for part in parts:
            if isinstance(part, Text):
                line.append_text(part)
            else:
                text, style = (part, "") if isinstance(part, str) else part
                line.append(visible(text), self.style(style))
        return line

    def add(self, *parts: Part) -> Text:
        """Write a line."""
        line = self.text(*parts)
        self.lines.append(line)
        return line

    def cells(self, *cells: Cell) -> Text:
        """A row of a table that is not on the page yet: each text in the width of its column."""
        parts = []
        for text, width, *style in cells:
            parts.append((pad(text, abs(width), right=width < 0), style[0] if style else ""))
        return self.text(*parts)

    def row(self, *cells: Cell) -> Text:
        """Write a row of a table."""
        line = self.cells(*cells)
        self.lines.append(line)
        return line

    def draw(self, segments: Iterable[Segment]) -> None:
        """Write text whose colours are not those of the page: tokens of a model."""
        self.lines.append(Segments(segments))

    def blank(self) -> None:
        self.add()

    def rule(self) -> None:
        self.add((self.glyphs.rule * self.width, "dim"))

    def heading(self, text: str, note: str = "") -> None:
        """A bold line, and a dim note behind it."""
        note = self.fit(f"  {note}", self.width - cell_len(text)) if note else ""
        self.add((text, "bold"), (note, "dim"))

    def title(self, left: str, right: str = "") -> None:
        """A bold title, something at the right edge, and a rule below."""
        room = self.width - cell_len(right) - 1 if right else self.width
        left = self.fit(left, room)
        self.add((pad(left, self.width - cell_len(right)) + right if right else left, "bold"))
        self.rule()

    def field(self, label: str, value: str, style: str = "") -> None:
        """A label and a value on one line."""
        value = self.fit(self.shown(value), self.width - LABEL)
        self.add((pad(label, LABEL), "dim"), (value, style))

    def value(self, label: str, number: str, style: str = "") -> Text:
        """A label and a short number in a column of numbers."""
        return self.row((label, LABEL, "dim"), (number, -NUMBER, style))

    def note(self, *notes: str) -> None:
        """What belongs to the last line: behind it as long as there is room, the rest below.

        The last of the notes says what the line means and is dim.
        """
        line, rest = self.lines[-1], list(notes)
        assert isinstance(line, Text)
        while rest and line.cell_len + 2 + len(rest[0]) <= self.width:
            line.append_text(self.text("  ", (rest[0], "dim" if len(rest) == 1 else "")))
            rest.pop(0)
        for each in rest:
            self.paragraph(each, "dim" if each == rest[-1] else "", indent=4)

    def interval(self, name: str, ends: str, *notes: str) -> None:
        """A 95% interval and what it is the error of; the view says "95%" once."""
        self.add((pad(f"  {name}", LABEL), "dim"), f" {ends}")
        self.note(*notes)

    def fields(self, *pairs: tuple[str, str]) -> None:
        """Short labels and values side by side where two or three columns have room."""
        columns = max(1, min(3, self.width // 26))
        room = self.width // columns - LABEL
        for start in range(0, len(pairs), columns):
            line = self.add()
            for label, value in pairs[start : start + columns]:
                line.append(self.cells((label, LABEL, "dim"), (self.fit(value, room - 1), room)))
            line.rstrip()

    def fact(self, label: str, value: str, *, wraps: bool = False) -> Text:
        """A long label and a number; wraps: it stands below where the line has no room."""
        if wraps and FACT + cell_len(value) > self.width:
            line = self.add((label, "dim"))
            self.paragraph(value, indent=2)
            return line
        return self.add((pad(label, FACT), "dim"), value)

    def paragraph(
        self, text: str, style: str = "", *, indent: int = 0, head: Text | None = None
    ) -> None:
        """A sentence wrapped at spaces; only visible text has a place in it.

        head: what stands on the first line in place of the indent.
        """
        line, *words = text.split() or [""]
        for word in words:
            if indent + cell_len(line) + 1 + cell_len(word) <= self.width:
                line = f"{line} {word}"
                continue
            self.add(head or " " * indent, (line, style))
            line, head = word, None
        self.add(head or " " * indent, (line, style))

    def wrapped(self, text: str, *, indent: int = 0) -> None:
        """Foreign text, however long its words are."""
        rest = self.shown(text)
        while rest:
            line, rest = split_words(rest, self.width - indent)
            self.add(" " * indent, line)

    def items(self, parts: Iterable[Text], *, gap: int = 3) -> None:
        """Short texts behind each other, on as many lines as they need."""
        line: Text | None = None
        for part in parts:
            if line is None or line.cell_len + gap + part.cell_len > self.width:
                line = self.add(part)
            else:
                line.append(" " * gap).append(part)


@dataclass(frozen=True, slots=True)
class View:
    """Something that rich can print: `draw` writes it on a page of the console.

    color: the most colour to use; the console may allow less (NO_COLOR, a pipe). width: cells a
    line at most. Symbols follow the console's encoding.
    """

    draw: Callable[[Page], None]
    color: Depth = "truecolor"
    width: int | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        room = options.max_width if self.width is None else min(self.width, options.max_width)
        page = Page(
            width=max(LEAST_WIDTH, room),
            glyphs=glyphs_for(ascii_only=options.ascii_only),
            depth=shallower(self.color, depth_of(console)),
            console=console,
        )
        self.draw(page)
        for line in page.lines:
            if isinstance(line, Text):
                line.end = "\n"
            yield line
