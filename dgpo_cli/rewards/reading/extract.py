r"""Finds where the answer stands in a completion: the last box, answer line or number.

Every search is linear in the text, whatever the text is; the rules are in `rewards/answer.py`.
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
MAX_EMPTY_LINES = 64  # answer lines without content that are passed over before giving up
MAX_NUMBER_CHARS = 300
MAX_OPENING_CHARS = 60
MAX_BLANK_LINES = 4  # markup lines between "Answer:" and the line that has the answer

_ANSWER_COLON = re.compile(r"answer(?:[ \t]+is)?[*_`\s]{0,8}[:：]", re.IGNORECASE)
# What may stand before "Answer:" where it opens a line.
_LINE_OPENING = re.compile(
    r"[\s*_#>`$-]*(?:(?:so|thus|hence|therefore|the|my|our|final|correct)[,\s]+)*", re.IGNORECASE
)
_MARKED = re.compile(r"####[ \t]*(\$?[-−]?[0-9][0-9.,/]*(?: ?%)?)\s*")
_LEFT_SIDE = re.compile(
    r".*(?:\A|[\n$,;:&]|\\[(\[\\]|(?<![\\A-Za-z])[A-Za-z]{2,}\s)([^\n$=<>,;]+)=\s*\Z", re.DOTALL
)
_BULLET = re.compile(r"\s*- +")
_MARKUP = " \t\r*_`#$\\[]()>"
# A closing tag or special token is no part of the answer.
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
    """The piece of a completion that is taken as its answer, and where in the completion it ends.

    parts: each of several boxes that are offered together; empty where there is one. `text` has
        all of them, with commas. They are a list, or one answer that is written more than once.
    equation: what a box is the right side of, with it: `y = 2x` of `y = \\boxed{2x}`.
    """

    text: str
    form: Literal["boxed", "answer-line", "last-number"]
    end: int
    parts: tuple[str, ...] = ()
    equation: str | None = None


def find_answer(
    text: str, *, where: Extract, cut: bool = False, is_answer: Callable[[str], bool]
) -> Extraction | None:
    """Return where the answer stands in `text`: the one rule for every kind of answer.

    With `boxed-or-answer-line` it is the last box, unless an answer line behind it opens its line
    and gives an answer; behind a box that gives none, the line need not open with it.

    cut: the text was ended by the token limit.
    is_answer: whether a box or a line gives an answer of the kind that is judged.
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
    """Return the answer that `text` gives in the form `where`, or None.

    cut: the text was ended by the token limit; an answer that only the limit ended is passed over.
    """
    start = after_thinking(text)
    if start is None:
        return None
    if where in ("boxed", "boxed-or-answer-line"):
        box = last_box(text, start, cut=cut)
        if box is not None or where == "boxed":
            return None if box is None else _from_box(text, start, box)
    if where == "last-number":
        # A text that was cut has a last number wherever it was cut: that is no answer.
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
    """What follows the last `Answer:`, or stands in the last complete <answer> tag.

    opens_line: only where it opens a line, or is a tag.
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
    """The number behind `####` where that is the last line, as in GSM8K; not of a cut text."""
    at = text.rfind("####", start)
    found = None if cut or at < 0 else _MARKED.fullmatch(text, at, min(len(text), at + 200))
    if found is None or (at > start and text[at - 1] != "\n"):
        return None
    return found[1]


def _opens_line(text: str, start: int, found: int) -> bool:
    """Whether nothing but markup and words such as "final" stands before `found` in its line."""
    begin = text.rfind("\n", max(start, found - MAX_OPENING_CHARS), found) + 1
    return begin > 0 and _LINE_OPENING.fullmatch(text, begin, found) is not None


def _inside_tag(text: str, begin: int) -> str:
    """The content of an <answer> tag; empty where it is not closed."""
    end = text.find("</answer>", begin)
    return text[begin : min(end, begin + MAX_LINE_CHARS)].strip() if end >= 0 else ""


def _answer_words(text: str, start: int) -> Iterator[int]:
    """Where the words Answer, answer and ANSWER begin, from the last to the first."""
    # No answer line is behind the last colon, nor a tag behind the last bracket.
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
    """The first line with content from `begin` on; empty where there is none or it was cut."""
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
