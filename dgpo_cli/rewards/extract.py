r"""Finds where the answer stands in a completion: the last box, answer line or number.

Every search is linear in the text, whatever the text is; the rules are in `rewards/answer.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from dgpo_cli.rewards.settings import Extract

MAX_LINE_CHARS = 4096
MAX_EMPTY_LINES = 64  # answer lines without content that are passed over before giving up
MAX_NUMBER_CHARS = 300
MAX_BLANK_LINES = 4  # markup lines between "Answer:" and the line that has the answer

_THINK_TAGS = (("<think>", "</think>"), ("<thinking>", "</thinking>"))
# \boxed{ or \boxed 204; two backslashes as in text that was escaped once too often.
_BOX = (
    r"\\{1,2}(?:boxed|fbox)"
    r"(?:\s*(?P<open>\{)|[ \t]*(?=(?P<bare>[-+−]?[0-9０-９][^\n$]{0,200})))"
)
_BOX_HERE = re.compile(_BOX)
_BOX_OR_BRACE = re.compile(_BOX + r"|\\.|(?P<brace>[{}])", re.DOTALL)
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_BARE_END = re.compile(r"\\[)\]]|\.(?=\s|$)")
_SPACE = re.compile(r"\s*")
_ANSWER_COLON = re.compile(r"answer[*_`\s]{0,8}[:：]", re.IGNORECASE)
_MARKUP = " \t\r*_`#$\\[]()>"
_TAIL = re.compile(r"</|<\|")  # a closing tag or special token is no part of the answer
_DIGIT = re.compile(r"[0-9]")
_NUMBER = re.compile(
    r"(?:(?<![0-9A-Za-z)\]}])[-+−])?"
    r"[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?(?:[/^][0-9.]+)*(?:\s?\\?%|!)?"
)


@dataclass(frozen=True, slots=True)
class Extraction:
    """The piece of a completion that is taken as its answer, as it was written."""

    text: str
    form: Literal["boxed", "answer-line", "last-number"]


def extract(text: str, *, where: Extract, cut: bool = False) -> Extraction | None:
    """Return the answer that `text` gives in the form `where`, or None.

    cut: the text was ended by the token limit; an answer that only the limit ended is passed over.
    """
    start = _after_thinking(text)
    if start is None:
        return None
    if where in ("boxed", "boxed-or-answer-line"):
        box = _last_box(text, start, cut=cut)
        if box is not None or where == "boxed":
            return None if box is None else Extraction(box, "boxed")
    if where == "last-number":
        # A text that was cut has a last number wherever it was cut: that is no answer.
        number = None if cut else _last_number(text, start)
        return None if number is None else Extraction(number, "last-number")
    line = _last_answer_line(text, start, cut=cut)
    return None if line is None else Extraction(line, "answer-line")


def _after_thinking(text: str) -> int | None:
    """Where the answer part begins; None inside thinking that was not closed."""
    start = 0
    for _, closer in _THINK_TAGS:
        found = text.rfind(closer)
        if found >= 0:
            start = max(start, found + len(closer))
    if any(text.find(opener, start) >= 0 for opener, _ in _THINK_TAGS):
        return None
    return start


def _last_box(text: str, start: int, *, cut: bool) -> str | None:
    """The content of the complete, non-empty box that closes last."""
    last = max(text.rfind("\\boxed", start), text.rfind("\\fbox", start))
    if last < 0:
        return None
    box = _BOX_HERE.match(text, last)
    if box is not None and box["open"]:
        inside = box.end()
        end = _unmatched_brace(text, inside)
        # With no unmatched brace behind it, no other box is around this one.
        if end >= 0 and not _is_blank(text, inside, end) and _unmatched_brace(text, end + 1) < 0:
            return text[inside:end]
    return _last_box_of_all(text, start, cut=cut)


def _unmatched_brace(text: str, start: int) -> int:
    """Index of the first closing brace from `start` on that closes nothing, or -1."""
    depth = 0
    for token in _BRACE.finditer(text, start):
        match token[0]:
            case "{":
                depth += 1
            case "}":
                depth -= 1
                if depth < 0:
                    return token.start()
    return -1


def _last_box_of_all(text: str, start: int, *, cut: bool) -> str | None:
    """One pass over all braces, for text with unclosed, empty, bare or nested boxes."""
    opened: list[int] = []  # where each open brace's content begins if it is a box, else -1
    best: tuple[int, int] | None = None
    for token in _BOX_OR_BRACE.finditer(text, start):
        if token["open"]:
            opened.append(token.end())
        elif token["bare"] is not None:
            begin, end = token.span("bare")
            stop = _BARE_END.search(text, begin, end)
            if stop is not None or not (cut and end == len(text)):
                best = (begin, stop.start() if stop is not None else end)
        elif token["brace"] == "{":
            opened.append(-1)
        elif token["brace"] == "}" and opened:
            begin = opened.pop()
            if begin >= 0 and not _is_blank(text, begin, token.start()):
                best = (begin, token.start())
    return None if best is None else text[best[0] : best[1]]


def _is_blank(text: str, begin: int, end: int) -> bool:
    space = _SPACE.match(text, begin)
    return space is not None and space.end() >= end


def _last_answer_line(text: str, start: int, *, cut: bool) -> str | None:
    """What follows the last `Answer:`, or stands in the last complete <answer> tag."""
    empty = 0
    for found in _answer_words(text, start):
        if text.startswith("<answer>", found - 1):
            line = _inside_tag(text, found + len("answer>"))
        elif (colon := _ANSWER_COLON.match(text, found)) is not None:
            line = _line_from(text, colon.end(), cut=cut)
        else:
            continue
        if line:
            return line
        empty += 1
        if empty == MAX_EMPTY_LINES:
            return None
    return None


def _inside_tag(text: str, begin: int) -> str:
    """The content of an <answer> tag; empty where it is not closed."""
    end = text.find("</answer>", begin)
    return text[begin : min(end, begin + MAX_LINE_CHARS)].strip() if end >= 0 else ""


def _answer_words(text: str, start: int) -> Iterator[int]:
    """Where the words Answer, answer and ANSWER begin, from the last to the first."""
    lower = text.rfind("nswer", start)
    upper = text.rfind("NSWER", start)
    while lower >= 0 or upper >= 0:
        found = max(lower, upper)
        if found == lower:
            lower = text.rfind("nswer", start, found + 4)
        else:
            upper = text.rfind("NSWER", start, found + 4)
        if found > start and not text[max(start, found - 2) : found - 1].isalnum():
            yield found - 1


def _line_from(text: str, begin: int, *, cut: bool) -> str:
    """The first line with content from `begin` on; empty where there is none or it was cut."""
    for _ in range(MAX_BLANK_LINES):
        bound = begin + MAX_LINE_CHARS
        end = text.find("\n", begin, bound)
        if end < 0 and bound >= len(text) and cut:
            return ""
        line = text[begin:end] if end >= 0 else text[begin:bound]
        if line.strip(_MARKUP):
            line = _TAIL.split(line, maxsplit=1)[0].strip()
            return f"≈{line[1:]}" if line.startswith("~") else line
        if end < 0:
            return ""
        begin = end + 1
    return ""


def _last_number(text: str, start: int) -> str | None:
    """The last number with what makes it another number: sign, decimals, fraction, percent."""
    end = len(text)
    while end > start and not _DIGIT.search(text, max(start, end - MAX_LINE_CHARS), end):
        end -= MAX_LINE_CHARS
    if end <= start:
        return None
    begin = max(start, end - MAX_LINE_CHARS)
    last = max(text.rfind(digit, begin, end) for digit in "0123456789")
    window = text[max(start, last - MAX_NUMBER_CHARS) : last + 8]
    numbers = _NUMBER.findall(window)
    return numbers[-1] if numbers else None
