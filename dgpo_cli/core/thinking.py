"""Finds where thinking ends and the answer begins. The rules are in `rewards/answer.py`."""

from __future__ import annotations

import re
from functools import lru_cache

OPENER = "<think>"
MAX_CHECKED = 64  # less-than signs that are checked one by one
_TAGS = (
    *("think", "thinking", "thought", "reasoning"),
    *("seed:think", "mm:think", "longcat_think"),
    *("ifm|think", "ifm|think_fast", "ifm|think_faster"),
)
# What opens and closes a thought, by model.
MARKS = (
    *((f"<{tag}>", f"</{tag}>") for tag in _TAGS),
    ("◁think▷", "◁/think▷"),  # Kimi
    ("[THINK]", "[/THINK]"),  # Magistral
    ("[unused16]", "[unused17]"),  # Pangu
    ("<think:", "</think:"),  # Hunyuan 3, whose tags have a suffix
    ("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A
    ("<|think:start|>", "<|think:end|>"),  # Solar Open 2
    ("<|open|>think", "<|close|>think"),  # Kimi K3, each before <|sep|>
    ("<|open|>think", "<|open|>response"),
    ("<|content_thinking|>", "<|content_text|>"),  # Inkling
    ("<|begin_of_thought|>", "<|end_of_thought|>"),  # Sky-T1, OpenThinker
    ("<|inner_prefix|>", "<|inner_suffix|>"),  # Apertus
    ("<|channel>thought", "<channel|>"),  # Gemma 4
    ("<|channel|>analysis", "<|channel|>final"),  # gpt-oss
    ("<|channel|>commentary", "<|channel|>final"),
)
# What only a prompt may open a thought with, and what ends that: Apriel.
PROMPT_OPENER = "Here are my reasoning steps:"
FINAL_RESPONSE = "[BEGIN FINAL RESPONSE]"
_OPENERS = tuple(opener for opener, _ in MARKS)
_ALL = (*_OPENERS, *dict.fromkeys(closer for _, closer in MARKS), FINAL_RESPONSE)
_ANGLED = tuple(mark for mark in _ALL if mark.startswith("<"))
# The other marks, and what they contain: one letter is found fifty times as fast as a word.
_OTHERS = (
    (("◁",), ("◁think▷", "◁/think▷")),
    (("K", "THINK]"), ("[THINK]", "[/THINK]")),
    (("[unused1",), ("[unused16]", "[unused17]")),
    ((FINAL_RESPONSE,), (FINAL_RESPONSE,)),
)
# Every angled mark contains one of these: a few searches exclude most marks.
_HINTS = (
    "think>",
    "thinking>",
    "thought>",
    "reasoning>",
    "think_fast",
    "think:",
    "|>",
    "<|channel>",
)
_HEADERS = ("<|message|>", "<|sep|>", "<seed:cot_budget_reflect>")  # between a mark and its thought
_QUOTES = "`\"'"
_SUFFIX = re.compile(r"[^<>\s]{0,40}>")  # of the mark <think:
# Thoughts without marks that a text begins with, and what closes them: gpt-oss without its special
# tokens; Granite 3.2, whose words other models use too, so that they count only together.
_BARE_ANALYSIS = re.compile(r"\s*analysis(?=[A-Z0-9\"'(*\\$])")
_BARE_FINAL = "assistantfinal"
_PROCESS = re.compile(r"\s*(?:Here is|Here's) my thought process:")
_RESPONSES = ("Here is my response:", "Here's my response:")


def after_thinking(text: str) -> int | None:
    """Return where the answer part begins; None inside an open thought."""
    at, mark = _last_mark(text)
    if mark in _OPENERS:
        return None
    if not mark:
        return _after_spoken(text)
    end = at + len(mark)
    suffix = _SUFFIX.match(text, end) if mark.endswith(":") else None
    return end if suffix is None else suffix.end()


def ends_in_thought(prompt: str, *, problem: str = "") -> bool:
    """Whether a rendered prompt leaves a thought open, so that its completion begins in it.

    A mark that the text only mentions opens nothing: it counts at the very end, or after `problem`,
    the user's last words, where the chat template writes.
    """
    end = prompt.rstrip()
    for header in _HEADERS:
        end = end.removesuffix(header)
    if end.endswith((*_OPENERS, PROMPT_OPENER)) or (end.endswith(">") and _ends_with_suffixed(end)):
        return True
    begin = prompt.rfind(problem) if problem else -1
    return begin >= 0 and after_thinking(prompt[begin + len(problem) :]) is None


def _ends_with_suffixed(prompt: str) -> bool:
    """Whether a prompt ends with a mark such as <think:x>."""
    at = prompt.rfind("<think:")
    return at >= 0 and _SUFFIX.fullmatch(prompt, at + len("<think:")) is not None


def _after_spoken(text: str) -> int | None:
    """Return where the answer part of a text without marks begins; None in an open thought."""
    if _BARE_ANALYSIS.match(text) is not None:
        at = text.rfind(_BARE_FINAL)
        return None if at < 0 else at + len(_BARE_FINAL)
    if _PROCESS.match(text) is not None:
        ends = [text.rfind(each) + len(each) for each in _RESPONSES if each in text]
        return max(ends, default=0)
    return 0


@lru_cache(maxsize=4096)  # every text that is decoded asks it of every special token
def is_part_of_mark(token: str) -> bool:
    """Whether a special token is a mark or begins one, so that a text keeps it."""
    if token.startswith(("<think:", "</think:")):
        return True
    return len(token) > 1 and any(mark.startswith(token) for mark in _ALL)


def _last_mark(text: str) -> tuple[int, str]:
    """Return where the last mark of the text begins, and the mark; (0, "") without one.

    Fast for texts without a mark, or with one close to their end.
    """
    found = _last_angled(text)
    for hints, marks in _OTHERS:
        begin = max(0, found[0])
        if all(text.find(hint, begin) >= 0 for hint in hints):
            found = max(found, *((_rfind(text, mark, len(text)), mark) for mark in marks))
    return found if found[0] >= 0 else (0, "")


def _last_angled(text: str) -> tuple[int, str]:
    at = len(text)
    for _ in range(MAX_CHECKED):
        at = text.rfind("<", 0, at)
        if at < 0:
            return -1, ""
        if text.startswith(_ANGLED, at):
            mark = next(mark for mark in _ANGLED if text.startswith(mark, at))
            if not _is_quoted(text, at, at + len(mark)):
                return at, mark
    hints = [hint for hint in _HINTS if text.find(hint, 0, at) >= 0]
    marks = [mark for mark in _ANGLED if any(hint in mark for hint in hints)]
    return max(((_rfind(text, mark, at), mark) for mark in marks), default=(-1, ""))


def _rfind(text: str, mark: str, end: int) -> int:
    """Return where the last `mark` before `end` begins that is not quoted, or -1."""
    while (at := text.rfind(mark, 0, end)) >= 0 and _is_quoted(text, at, at + len(mark)):
        end = at
    return at


def _is_quoted(text: str, begin: int, end: int) -> bool:
    """Whether a text only mentions the mark from `begin` to `end`, as `<think>` in backticks."""
    before = text[begin - 1 : begin]
    return before != "" and before in _QUOTES and text[end : end + 1] == before
