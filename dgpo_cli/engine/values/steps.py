"""Where the steps of a text begin: its lines, sentences and clauses.

A step ends with a line, a sentence or a semicolon, but not inside decimals, enumerations,
abbreviations, "...", formulas and brackets.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator

# TeX's formulas by opening and closing; none can contain an empty line.
_FORMULAS = {"\\[": "\\]", "\\(": "\\)", "$$": "$$", "$": "$"}
_OPENING = re.compile(r"\\\[|\\\(|\$\$|\\begin\{([A-Za-z]+\*?)\}|\\.|\$", re.DOTALL)
_PARAGRAPH = re.compile(r"\n[^\S\n]*\n")
_DOLLAR = re.compile(r"(?<=[^\s\\])\$(?!\d)")
# An end of a sentence or clause with the quotes and brackets that close behind it.
_END = re.compile(
    r"(?P<wide>[。！？；]+)[\"'”’」』）\]*_]*"
    r"|(?<![.!?…])(?P<mark>[.!?…]++)[\"'”’)\]}*_]*+(?=[^\S\n]+(?P<next>\S\S?))"
    r"|(?P<clause>;)(?!\))(?=[^\S\n]*\S)"
)
_ABBREVIATION = re.compile(
    r"(?:^|[^A-Za-z])(?:e\.g|i\.e|cf|vs|resp|approx|dr|mr|mrs|ms|prof|w\.r\.t)\Z", re.IGNORECASE
)
_NUMBERED = re.compile(  # Eq. 3
    r"(?:^|[^A-Za-z])(?:no|nos|eqs?|figs?|thm|prop|sec|ch|ex|def|pp?)\Z", re.IGNORECASE
)
_ENUMERATION = re.compile(r"[\s>#*_-]*\(?(?:\d{1,3}|[A-Za-z]|[ivxIVX]{1,5})\)?\Z")
_FACTORIAL = re.compile(r"(?:[\d)}]|(?:^|[^A-Za-z])[A-Za-z])\Z")  # 5!, (n - 1)!, n!
_ENTITY = re.compile(r"&#?\w{1,10}\Z")
_BRACKETS = {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}
_BRACKET = re.compile(r"[()\[\]{}]")
_REACH = 24  # characters before an end that can make it an abbreviation or an enumeration


def step_starts(text: str) -> list[int]:
    """Return the offsets in `text` at which a step begins, 0 first.

    Line breaks, empty lines and lines without a letter or digit belong to the step before, spaces
    between two sentences to the second.
    """
    starts = [0]
    for start, stop in _lines(text):
        if start and any(map(str.isalnum, text[starts[-1] : start])):
            starts.append(start)
        for end in _ends(text, start, stop):
            starts.append(end)
    return starts


def _lines(text: str) -> Iterator[tuple[int, int]]:
    """Yield lines with a letter or digit, each with the breaks and empty lines after it."""
    formulas = _Spans(_formulas(text))
    start = at = 0
    while (at := text.find("\n", at) + 1) > 0:
        if formulas.hold(at - 1):
            continue
        following = text.find("\n", at)
        line = text[at : following if following >= 0 else len(text)]
        if any(map(str.isalnum, line)) or formulas.hold(at):
            yield start, at
            start = at
    yield start, len(text)


def _ends(text: str, start: int, stop: int) -> Iterator[int]:
    """Yield the offsets inside a line at which a sentence or clause begins."""
    body = text[start:stop].rstrip()
    if not _END.search(body):
        return
    formulas = _Spans(_formulas(body))
    depth = _Depth(body)
    begun = 0
    for found in _END.finditer(body):
        if formulas.hold(found.start()) or found.end() >= len(body):
            continue
        if found["clause"] and depth.at(found.start()) > 0:
            continue
        if _is_end(found, body, begun):
            begun = found.end()
            yield start + begun


def _is_end(found: re.Match[str], body: str, begun: int) -> bool:
    before = body[max(begun, found.start() - _REACH) : found.start()]
    if found["clause"]:
        return any(map(str.isalnum, before)) and not _ENTITY.search(before)
    if found["wide"]:
        return True
    mark, following = found["mark"], found["next"]
    if mark == ".":
        is_number = found.start() - begun <= _REACH and _ENUMERATION.match(before)
        if is_number or _ABBREVIATION.search(before):
            return False
        if following[0] in "(0123456789" and _NUMBERED.search(before):
            return False
    if mark[0] == "!" and _FACTORIAL.search(before):
        return following[0].isupper() and following[1:].islower()
    if following[0].islower():  # a new sentence only if it opens with a variable
        trails_off = mark in ("…", "...") or mark.startswith("..")
        return not trails_off and following[0] != "a" and not following[1:].isalpha()
    return following[0].isalnum() or following[0] in "$\\\"'“‘(*["


def _formulas(text: str) -> Iterator[tuple[int, int]]:
    """Yield the offsets of formulas: opened, and closed before the next empty line."""
    paragraphs = [*(found.start() for found in _PARAGRAPH.finditer(text)), len(text)]
    missing: set[tuple[str, int]] = set()  # closings that do not come before an offset
    at = 0
    while found := _OPENING.search(text, at):
        at = found.end()
        closing = f"\\end{{{found[1]}}}" if found[1] else _FORMULAS.get(found[0])
        limit = paragraphs[bisect_right(paragraphs, found.start())]
        if closing == "$":
            line = text.find("\n", at, limit)
            limit = line if line >= 0 else limit
        if closing is None or (closing, limit) in missing:
            continue
        end = _closing(text, closing, at, limit)
        if end is None:
            missing.add((closing, limit))
        elif end > at:
            yield found.start(), end
            at = end


def _closing(text: str, closing: str, at: int, limit: int) -> int | None:
    """Return the offset after the closing, None without one, `at` if nothing opens here.

    A dollar opens only before something and closes only behind something, as in Pandoc.
    """
    if closing != "$":
        end = text.find(closing, at, limit)
        return end + len(closing) if end >= 0 else None
    if text[at : at + 1].isspace():
        return at
    found = _DOLLAR.search(text, at, limit)
    return found.end() if found else None


class _Spans:
    """Ascending ranges of offsets."""

    def __init__(self, spans: Iterator[tuple[int, int]]) -> None:
        self._bounds = [bound for span in spans for bound in span]

    def hold(self, offset: int) -> bool:
        return bisect_right(self._bounds, offset) % 2 == 1


class _Depth:
    """The number of open brackets at an offset; an unmatched closing one is ignored."""

    def __init__(self, text: str) -> None:
        self._offsets, self._depths = [-1], [0]
        for found in _BRACKET.finditer(text):
            self._offsets.append(found.start())
            self._depths.append(max(0, self._depths[-1] + _BRACKETS[found[0]]))

    def at(self, offset: int) -> int:
        return self._depths[bisect_right(self._offsets, offset) - 1]
