r"""Finds the answer in a completion: the last box, answer line or number.

Every search is linear in the text; the rules are in `rewards/answer.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from dgpo_cli.core.thinking import after_thinking
from dgpo_cli.rewards.reading.boxes import Box, last_box
from dgpo_cli.rewards.reading.stated import stated
from dgpo_cli.rewards.reading.surroundings import MAX_CHARS, with_surroundings

if TYPE_CHECKING:
    from dgpo_cli.rewards.settings import Extract

MAX_LINE_CHARS = 4096
MAX_EMPTY_LINES = 64  # skipped answer lines without content
MAX_NUMBER_CHARS = 300
MAX_OPENING_CHARS = 60
MAX_BLANK_LINES = 4  # markup lines between "Answer:" and the line that has the answer

_ANSWER_COLON = re.compile(r"answer(?:[ \t]+is)?[*_`\s]{0,8}[:：]", re.IGNORECASE)
# Allowed text before "Answer:" at the start of a line.
_LINE_OPENING = re.compile(
    r"[\s*_#>`$-]*(?:(?:so|thus|hence|therefore|the|my|our|final|correct)[,\s]+)*", re.IGNORECASE
)
_MARKED = re.compile(r"####[ \t]*(\$?[-−]?[0-9][0-9.,/]*(?: ?%)?)\s*")
_LEFT_SIDE = re.compile(
    r".*(?:\A|[\n$,;:&]|\\[(\[\\]|(?<![\\A-Za-z])[A-Za-z]{2,}\s)([^\n$=<>,;]+)=\s*\Z", re.DOTALL
)
_BULLET = re.compile(r"\s*- +")
_MARKUP = " \t\r*_`#$\\[]()>"
# A closing tag or special token is not part of the answer.
_TAIL = re.compile(r"<(?:[/|｜]|(?:eos|end_of_turn|pad|s|br)\b)")
# The end of a sentence that gives a number, unless the next takes it back.
_SENTENCE_END = re.compile(
    r"(?<=[0-9$)}\]*])\.\s+(?=[A-Z])(?!(?:Or|Wait|But|No|Not|Actually|Hmm|However)\b)"
)
_DIGIT = re.compile(r"[0-9]")
_NUMBER = re.compile(
    r"(?:(?<![0-9A-Za-z)\]}])[-+−])?"
    r"[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?(?:[/^][0-9.]+)*(?:\s?\\?%|!)?"
)


@dataclass(frozen=True, slots=True)
class Extraction:
    """The extracted answer of a completion, and where it ends.

    parts: the contents of several joined boxes, a list or one answer written several times; empty
        for a single box. `text` joins them by commas.
    equation: the equation whose right side is boxed: `y = 2x` of `y = \\boxed{2x}`.
    """

    text: str
    form: Literal["boxed", "answer-line", "last-number"]
    end: int
    parts: tuple[str, ...] = ()
    equation: str | None = None


def find_answer(
    text: str, *, where: Extract, cut: bool = False, is_answer: Callable[[str], bool]
) -> Extraction | None:
    """Return the answer in `text`, for every checker.

    With `boxed-or-answer-line` it is the last box, unless a later answer line gives an answer and
    starts its line; after a box without an answer it need not start the line.

    cut: the token limit ended the text.
    is_answer: whether a box or a line gives an answer of the expected kind.
    """
    found = extract(text, where=where, cut=cut)
    if found is None or found.form != "boxed" or where != "boxed-or-answer-line":
        return found
    opens_line = all(map(is_answer, found.parts or (found.text,)))
    line = _last_answer_line(text, found.end, cut=cut, opens_line=opens_line)
    if line is None or not is_answer(stated(line)):
        return found
    return Extraction(stated(line), "answer-line", len(text))


def extract(text: str, *, where: Extract, cut: bool = False) -> Extraction | None:
    """Return the answer of `text` in the form `where`, or None.

    cut: the token limit ended the text; an answer that only the limit ended is skipped.
    """
    start = after_thinking(text)
    if start is None:
        return None
    if where in ("boxed", "boxed-or-answer-line"):
        box = last_box(text, start, cut=cut)
        if box is not None or where == "boxed":
            return None if box is None else _from_box(text, start, box)
    if where == "last-number":
        # The last number of a truncated text is arbitrary: not an answer.
        number = None if cut else _last_number(text, start)
        return None if number is None else Extraction(number, "last-number", len(text))
    line = _last_answer_line(text, start, cut=cut) or _marked_line(text, start, cut=cut)
    return None if line is None else Extraction(stated(line), "answer-line", len(text))


def _from_box(text: str, start: int, box: Box) -> Extraction:
    several = len(box.parts) > 1
    content = ", ".join(part.strip() for part in box.parts) if several else box.parts[0]
    before = text[max(start, box.begin - MAX_CHARS) : box.begin]
    after = text[box.over : box.over + MAX_CHARS]
    whole = with_surroundings(before, content, after, listed=several)
    if whole is not None:
        return Extraction(whole, "boxed", box.end)
    if several:
        return Extraction(content, "boxed", box.end, box.parts)
    left = _LEFT_SIDE.match(before) if before.rstrip().endswith("=") else None
    equation = None if left is None else f"{left[1].strip()} = {content}"
    return Extraction(content, "boxed", box.end, equation=equation)


def _last_answer_line(text: str, start: int, *, cut: bool, opens_line: bool = False) -> str | None:
    """Return the text after the last `Answer:` or in the last complete <answer> tag.

    opens_line: only at the start of a line, or in a tag.
    """
    empty = 0
    for found in _answer_words(text, start):
        tag = text.startswith("<answer>", found - 1)
        if opens_line and not tag and not _opens_line(text, start, found):
            continue
        if tag:
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


def _marked_line(text: str, start: int, *, cut: bool) -> str | None:
    """Return the number after `####` in the last line, as in GSM8K; not of a truncated text."""
    at = text.rfind("####", start)
    found = None if cut or at < 0 else _MARKED.fullmatch(text, at, min(len(text), at + 200))
    if found is None or (at > start and text[at - 1] != "\n"):
        return None
    return found[1]


def _opens_line(text: str, start: int, found: int) -> bool:
    """Whether only markup and words such as "final" precede `found` in its line."""
    begin = text.rfind("\n", max(start, found - MAX_OPENING_CHARS), found) + 1
    return begin > 0 and _LINE_OPENING.fullmatch(text, begin, found) is not None


def _inside_tag(text: str, begin: int) -> str:
    """Return the content of an <answer> tag; empty if not closed."""
    end = text.find("</answer>", begin)
    return text[begin : min(end, begin + MAX_LINE_CHARS)].strip() if end >= 0 else ""


def _answer_words(text: str, start: int) -> Iterator[int]:
    """Yield the positions of the words Answer, answer and ANSWER, last first."""
    # No answer line follows the last colon, nor a tag the last bracket.
    bound = max(text.rfind(mark, start) for mark in (":", "：", ">"))
    while bound >= 0:
        lower = text.rfind("nswer", start, bound)
        upper = bound
        while (upper := text.rfind("NSWER", max(start, lower), upper)) >= 0:
            if _begins_word(text, start, upper):
                yield upper - 1
        if lower >= 0 and _begins_word(text, start, lower):
            yield lower - 1
        bound = lower


def _begins_word(text: str, start: int, second: int) -> bool:
    """Whether a word begins one character before `second`."""
    return second > start and not text[max(start, second - 2) : second - 1].isalnum()


def _line_from(text: str, begin: int, *, cut: bool) -> str:
    """Return the first line with content from `begin` on; empty if none, or truncated."""
    for lines_passed in range(MAX_BLANK_LINES):
        bound = begin + MAX_LINE_CHARS
        end = text.find("\n", begin, bound)
        if end < 0 and bound >= len(text) and cut:
            return ""
        line = text[begin:end] if end >= 0 else text[begin:bound]
        if line.strip(_MARKUP):
            if lines_passed and (bullet := _BULLET.match(line)) is not None:
                line = line[bullet.end() :]
            line = _TAIL.split(line, maxsplit=1)[0]
            line = _SENTENCE_END.split(line, maxsplit=1)[0].strip()
            return f"≈{line[1:]}" if line.startswith("~") else line
        if end < 0:
            return ""
        begin = end + 1
    return ""


def _last_number(text: str, start: int) -> str | None:
    """Return the last number with its sign, decimals, fraction and percent."""
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
