r"""Finds the last complete box: `\boxed{204}`, `\fbox{204}`, `\framebox{204}` or `\boxed 204`.

Linear in the text, and usually without a Python step per brace.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_BARE_CHARS = 200
MAX_SHALLOW_CHARS = 2048  # of a box that one pattern matches; longer ones are read step by step
MAX_SKIPPED = 8  # boxes without an answer, before one pass over all braces
_FLAT = r"[^{}\\]*+(?:\\.[^{}\\]*+)*+"


def _balanced(depth: int) -> str:
    """Return a pattern for text with matching braces, nested at most `depth` deep."""
    inner = _FLAT
    for _ in range(depth):
        inner = rf"{_FLAT}(?:\{{{inner}\}}{_FLAT})*+"
    return inner


# One backslash is the box's own, two come from double escaping, and three include a line break:
# only their parity counts.
_BOX = (
    r"(?P<slashes>\\{1,3})(?:boxed|fbox|framebox(?:\[[^\[\]{}]{0,20}\]){0,2})"
    rf"(?:\s*(?P<open>\{{)|[ \t]*(?=(?P<bare>[-+−]?[0-9０-９][^\n$]{{0,{MAX_BARE_CHARS}}})))"
)
_BOX_OR_BRACE = re.compile(_BOX + r"|\\.|(?P<brace>[{}])", re.DOTALL)
_BOX_HERE = re.compile(_BOX)
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_SHALLOW = re.compile(_balanced(5) + r"(?=\})", re.DOTALL)
_BARE_END = re.compile(r"\\[)\]]|\.(?=\s|$)")
_SPACE = re.compile(r"\s*")
_NO_BRACES = bytes(set(range(256)) - set(b"{}"))
_NESTS = tuple(b"{" * depth + b"}" * depth for depth in (4096, 256, 16, 4, 1, 1, 1, 1))
# From the closing brace of one box to the next one joined to it.
_GAP = r"(?:[\s$()\[\]*]|\\(?:[()\[\]\\,;:! ]|q?quad(?![A-Za-z])))*+"
_JOINT = (
    r"(?:or|and|\\(?:text|mathrm)\s*\{\s*(?:,?\s*(?:or|and)|,)\s*\}|as\s+well\s+as"
    r"|\\lor|\\vee|\\land|\\wedge)"
)
_NAME = r"(?:[A-Za-z](?:_\{?[0-9A-Za-z]\}?)?\s*=\s*)?"
_OFFERED_TOGETHER = re.compile(
    rf"\}}(?:{_GAP}(?:[.,;]?{_GAP}{_JOINT}|[,;]){_GAP}{_NAME}{_GAP})?\Z", re.IGNORECASE
)
_MAX_TOGETHER = 16
_MAX_BETWEEN_CHARS = 40
_MAX_SLASHES = 64


@dataclass(frozen=True, slots=True)
class Box:
    """The last box and its place in the text.

    parts: the contents of the joined boxes, the last one last.
    begin, end: the start of the first, and the end of the last one's content.
    over: the start of the text after them.
    """

    parts: tuple[str, ...]
    begin: int
    end: int
    over: int


@dataclass(frozen=True, slots=True)
class _Span:
    """The start of a box with its backslashes, its content, and its end."""

    at: int
    begin: int
    end: int
    over: int
    doubled: bool


def last_box(text: str, start: int, *, cut: bool) -> Box | None:
    """Return the complete, non-empty box that closes last, with those joined to it.

    Commas, "and" or "or" join boxes; `x = ` may precede each.

    cut: the token limit ended the text, and perhaps a bare box.
    """
    span = _last_span(text, start, cut=cut)
    if span is None:
        return None
    spans = _offered_together(text, start, span)
    parts = tuple(_content(text, each) for each in spans)
    return Box(parts, spans[0].at, span.end, max(span.over, span.end))


def _content(text: str, span: _Span) -> str:
    content = text[span.begin : span.end]
    return content.replace("\\\\", "\\") if span.doubled else content


def _last_span(text: str, start: int, *, cut: bool) -> _Span | None:
    stop = len(text)
    for _ in range(MAX_SKIPPED):
        stop = _name_before(text, start, stop)
        if stop < 0:
            return None
        span = _span_at(text, start, stop, cut=cut)
        if span is not None:
            # Without an unmatched brace after it, no other box contains this one.
            closes = text.find("}", span.over) >= 0
            if closes and _name_before(text, start, stop) >= 0 and _may_close_more(text, span.over):
                break
            return span
    return _last_span_of_all(text, start, cut=cut)


def _name_before(text: str, start: int, stop: int) -> int:
    r"""Return the index of the last `boxed`, `fbox` or `framebox` command before `stop`, or -1."""
    # Longer needles are found faster, and the word box alone is common.
    found = max(text.rfind(name, start, stop) for name in ("\\boxed", "\\fbox", "\\framebox"))
    return found + 1 if found >= 0 else -1


def _span_at(text: str, start: int, name: int, *, cut: bool) -> _Span | None:
    """Return the box whose name is at `name`, if it is complete and not empty."""
    before = text[max(start, name - _MAX_SLASHES) : name]
    doubled = (len(before) - len(before.rstrip("\\"))) % 2 == 0
    at = name - 2 if doubled else name - 1
    box = _BOX_HERE.match(text, at)
    if box is None:
        return None
    if not box["open"]:
        return _bare_span(text, box, cut=cut)
    begin = box.end()
    end = _closing_brace(text, begin)
    if end < 0 or _is_blank(text, begin, end):
        return None
    return _Span(at, begin, end, end + 1, doubled)


def _bare_span(text: str, box: re.Match[str], *, cut: bool) -> _Span | None:
    begin, end = box.span("bare")
    stop = _BARE_END.search(text, begin, end)
    if stop is None and cut and end == len(text):
        return None
    # Ends where it begins: a brace in its line may belong to a box around it.
    return _Span(box.start(), begin, end if stop is None else stop.start(), begin, False)


def _closing_brace(text: str, begin: int) -> int:
    """Return the index of the brace that closes the one before `begin`, or -1."""
    if text.find("}", begin) < 0:
        return -1
    shallow = _SHALLOW.match(text, begin, begin + MAX_SHALLOW_CHARS)
    if shallow is not None:
        return shallow.end()
    if not _may_close_more(text, begin):
        return -1
    depth = 0
    for token in _BRACE.finditer(text, begin):
        if token[0] == "{":
            depth += 1
        elif token[0] == "}":
            depth -= 1
            if depth < 0:
                return token.start()
    return -1


def _may_close_more(text: str, begin: int) -> bool:
    r"""Whether more braces may close than open from `begin` on. False is certain.

    Escaped opening braces are removed, escaped closing ones count: both err towards True.
    """
    first = text.find("}", begin)
    if first < 0:
        return False
    tail = text[begin:]
    if text.find("{", begin, first) < 0:
        return True
    braces = tail.replace("\\{", "").encode("utf-8", "surrogatepass").translate(None, _NO_BRACES)
    for nest in _NESTS:
        braces = braces.replace(nest, b"")
    return b"}" in braces


def _last_span_of_all(text: str, start: int, *, cut: bool) -> _Span | None:
    """Return the same by one pass over all braces: boxes may be unclosed, empty, bare or nested."""
    opened: list[re.Match[str] | None] = []  # of each open brace, its box if it is one
    best: tuple[re.Match[str], int] | None = None
    for token in _BOX_OR_BRACE.finditer(text, start):
        if token["open"]:
            opened.append(token)
        elif token["bare"] is not None:
            ends_open = cut and token.end("bare") == len(text)
            if not ends_open or _bare_span(text, token, cut=cut) is not None:
                best = (token, -1)
        elif token["brace"] == "{":
            opened.append(None)
        elif token["brace"] == "}" and opened:
            box = opened.pop()
            if box is not None and not _is_blank(text, box.end(), token.start()):
                best = (box, token.start())
    if best is None:
        return None
    box, end = best
    if end < 0:
        return _bare_span(text, box, cut=cut)
    return _Span(box.start(), box.end(), end, end + 1, len(box["slashes"]) % 2 == 0)


def _is_blank(text: str, begin: int, end: int) -> bool:
    space = _SPACE.match(text, begin)
    return space is not None and space.end() >= end


def _offered_together(text: str, start: int, span: _Span) -> list[_Span]:
    r"""Return the joined boxes that end with `span`: `\boxed{1}, \boxed{2} or \boxed{3}`."""
    spans = [span]
    while len(spans) < _MAX_TOGETHER:
        at = spans[0].at
        joined = _OFFERED_TOGETHER.search(text, max(start, at - _MAX_BETWEEN_CHARS), at)
        name = _name_before(text, start, joined.start()) if joined is not None else -1
        before = _span_at(text, start, name, cut=False) if name >= 0 else None
        if joined is None or before is None or before.end != joined.start():
            break
        spans.insert(0, before)
    return spans
