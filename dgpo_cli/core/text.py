"""Untrusted text made safe and visible: the one place for escapes, widths and truncation.

Text of a model, a file or the hub is untrusted: what a terminal would obey or hide is shown as an
escape and never sent, and nothing goes through rich markup. `Glyphs` has the symbols for UTF-8 and
for ASCII. Widths are cells of a terminal.
"""

from __future__ import annotations

import html
import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

from rich.cells import cell_len
from rich.style import Style
from rich.text import Text

from dgpo_cli.core.token_texts import REPLACEMENT


@dataclass(frozen=True, slots=True)
class Glyphs:
    """The symbols of one encoding. Strings of levels run from weak to strong."""

    newline: str
    tab: str
    space: str
    ellipsis: str
    empty: str
    partial: str
    rule: str
    separator: str
    times: str
    plus_minus: str
    passed: str
    failed: str
    above: str
    below: str
    fractions: str  # none, eight or so steps, all
    ascii_only: bool


UNICODE = Glyphs(
    newline="↵",
    tab="⇥",
    space="·",
    ellipsis="…",
    empty="∅",
    partial=REPLACEMENT,
    rule="─",
    separator="·",
    times="×",
    plus_minus="±",
    passed="✓",
    failed="✗",
    above="▂▅█",
    below="-=≡",
    fractions="·▁▂▃▄▅▆▇█",
    ascii_only=False,
)
ASCII = Glyphs(
    newline="\\n",
    tab="\\t",
    space="_",
    ellipsis="..",
    empty="<>",
    partial="\\ufffd",
    rule="-",
    separator="|",
    times="x",
    plus_minus="+-",
    passed="ok",
    failed="x",
    above="+*#",
    below=".-=",
    fractions=".12345678#",
    ascii_only=True,
)

# Letters and marks by category that show as nothing, or that change how their neighbour looks.
_INVISIBLE = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0"
) | frozenset(map(chr, [*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)]))

# Blocks in which every assigned letter and sign is shown as itself, so that a text of these is not
# looked at letter by letter: Latin, Greek, Cyrillic, punctuation, arrows to mathematics, kana, Han.
_ORDINARY = re.compile(
    "[ -~\u00a1-\u00ac\u00ae-\u02ff\u0370-\u0482\u048a-\u052f\u2010-\u2027\u2030-\u205e"
    "\u2190-\u23ff\u2500-\u27ff\u2900-\u2aff\u3001-\u3029\u3041-\u3096\u309b-\u30ff"
    "\u4e00-\u9fff\uff01-\uff60]*"
)

_MARKUP = re.compile(r"[\\`*_\[\]~|]")  # within a line of Markdown


def glyphs_for(*, ascii_only: bool) -> Glyphs:
    """Return the symbols to use; `ascii_only` as in rich's ConsoleOptions."""
    return ASCII if ascii_only else UNICODE


def _escape(char: str) -> str:
    code = ord(char)
    if code < 0x100:
        return {"\r": "\\r"}.get(char, f"\\x{code:02x}")
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _show(char: str, *, glyphs: Glyphs, spaces: bool) -> str:
    if char == "\n":
        return glyphs.newline
    if char == "\t":
        return glyphs.tab
    if char == " ":
        return glyphs.space if spaces else char
    if char == REPLACEMENT:
        return glyphs.partial
    hidden = not char.isprintable() or char in _INVISIBLE or cell_len(char) == 0
    return _escape(char) if hidden or (glyphs.ascii_only and char > "~") else char


@lru_cache(maxsize=65536)
def visible(text: str, *, glyphs: Glyphs = UNICODE, spaces: bool = False) -> str:
    """Return `text` on one line, with nothing in it that a terminal would obey or hide.

    Newlines and tabs become symbols, so do spaces with `spaces`; control characters, bidirectional
    overrides, zero-width, private and unassigned characters become escapes such as \\x1b.
    At most three combining marks stay on a letter, so that no text reaches into other lines.
    """
    ordinary = text.isascii() or (not glyphs.ascii_only and _ORDINARY.fullmatch(text))
    if ordinary and text.isprintable() and not spaces:
        return text
    shown: list[str] = []
    room = 0  # marks that the letter before can still take
    for char in text:
        category = unicodedata.category(char)
        if category[0] == "M" and char not in _INVISIBLE and not glyphs.ascii_only:
            lone = not shown
            shown.append(f"◌{char}" if lone else char if room > 0 else _escape(char))
            room = 2 if lone else room - 1
        else:
            shown.append(_show(char, glyphs=glyphs, spaces=spaces))
            room = 3 if category[0] in "LNPS" else 0
    return "".join(shown)


def plain(text: str, *, glyphs: Glyphs = UNICODE, style: Style | str = "") -> Text:
    """`visible(text)` as a rich Text that never wraps, never marks up and never highlights."""
    return Text(visible(text, glyphs=glyphs), style=style, no_wrap=True, end="")


def split_cells(text: str, room: int) -> tuple[str, str]:
    """The longest start of visible text that fits `room` cells, and the rest.

    Marks stay with their letter; a wide character that would straddle the edge is in the rest.
    """
    if len(text) <= room and text.isascii():
        return text, ""
    used = 0
    for at, char in enumerate(text):
        used += cell_len(char)
        if used > room:
            return text[:at], text[at:]
    return text, ""


def split_cells_end(text: str, room: int) -> tuple[str, str]:
    """The rest, and the longest end of visible text that fits `room` cells."""
    used = 0
    cut = len(text)
    for at in range(len(text) - 1, -1, -1):
        size = cell_len(text[at])
        if used + size > room:
            break
        used += size
        if size:
            cut = at
    return text[:cut], text[cut:]


def split_words(text: str, room: int) -> tuple[str, str]:
    """A line's worth of visible text, cut at its last space or, in a long word, anywhere."""
    line, rest = split_cells(text, room)
    at = line.rfind(" ")
    if rest and not rest.startswith(" ") and at > room // 2:
        line, rest = text[:at], text[at:]
    return line, rest.lstrip(" ")


def elide(text: str, width: int, *, glyphs: Glyphs = UNICODE, end: bool = False) -> str:
    """Visible text in at most `width` cells; an ellipsis says that the rest is missing.

    end: keep the end instead of the start: there ids, paths and answers differ.
    """
    if cell_len(text) <= width:
        return text
    mark = glyphs.ellipsis[:width]
    room = width - cell_len(mark)
    return mark + split_cells_end(text, room)[1] if end else split_cells(text, room)[0] + mark


def cut(text: str, most: int = 100) -> str:
    """Return text as a message quotes it, not longer than a line."""
    return text if len(text) <= most else f"{text[:most]}..."


def pad(text: str, width: int, *, right: bool = False) -> str:
    """Visible text filled with spaces to `width` cells, aligned right on request."""
    fill = " " * (width - cell_len(text))
    return fill + text if right else text + fill


def visible_lines(text: str) -> str:
    """`visible(text)` line by line: newlines stay."""
    return "\n".join(map(visible, text.split("\n")))


def escaped(text: str) -> str:
    """Untrusted text as HTML on one line, in elements and in quoted attributes.

    What a reader could not see or a browser would obey is shown as an escape, as in the terminal.
    """
    return html.escape(visible(text), quote=True)


def markdown_plain(text: str) -> str:
    """Text that no Markdown reader takes for markup or for a second line."""
    return "".join(char if char.isalnum() or char in " -_./" else "-" for char in text)


def markdown_code(text: str) -> str:
    """Text as code that can end neither the code nor the table cell it stands in."""
    safe = html.escape(text, quote=False).replace("|", "&#124;").replace("`", "&#96;")
    return f"<code>{safe}</code>"


def markdown_line(text: str) -> str:
    """A sentence of ours with foreign names in it as Markdown that shows nothing but its text."""
    safe = html.escape(visible(text), quote=False).replace("://", "&#58;//")
    return _MARKUP.sub(r"\\\g<0>", safe.replace("www.", "www&#46;"))
