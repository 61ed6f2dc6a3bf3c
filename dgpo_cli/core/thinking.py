"""Finds where thinking ends and the answer begins. The rules are in `rewards/answer.py`."""

from __future__ import annotations

OPENER = "<think>"
MAX_CHECKED = 64  # less-than signs that are checked one by one
_TAGS = (
    *("think", "thinking", "thought", "reasoning"),
    *("seed:think", "mm:think", "ifm|think", "longcat_think"),
)
# What opens and closes a thought, by model.
MARKS = (
    *((f"<{tag}>", f"</{tag}>") for tag in _TAGS),
    ("◁think▷", "◁/think▷"),  # Kimi
    ("[THINK]", "[/THINK]"),  # Magistral
    ("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A
    ("<|begin_of_thought|>", "<|end_of_thought|>"),  # Sky-T1, OpenThinker
    ("<|inner_prefix|>", "<|inner_suffix|>"),  # Apertus
    ("<|channel>thought", "<channel|>"),  # Gemma 4
    ("<|channel|>analysis", "<|channel|>final"),  # gpt-oss
    ("<|channel|>commentary", "<|channel|>final"),
)
_OPENERS = tuple(opener for opener, _ in MARKS)
_ALL = (*_OPENERS, *dict.fromkeys(closer for _, closer in MARKS))
_ANGLED = tuple(mark for mark in _ALL if mark.startswith("<"))
_OTHERS = (("◁", ("◁think▷", "◁/think▷")), ("THINK]", ("[THINK]", "[/THINK]")))
# Every angled mark contains one of these: a few searches exclude most marks.
_HINTS = ("think>", "thinking>", "thought>", "reasoning>", "|>", "<|channel>")
_HEADER = "<|message|>"  # may stand between a mark and its thought


def after_thinking(text: str) -> int | None:
    """Return where the answer part begins; None inside an open thought."""
    at, mark = _last_mark(text)
    if mark in _OPENERS:
        return None
    return at + len(mark)


def ends_in_thought(prompt: str, *, problem: str = "") -> bool:
    """Whether a rendered prompt leaves a thought open, so that its completion begins in it.

    A mark that the text only mentions opens nothing: it counts at the very end, or after `problem`,
    the user's last words, where the chat template writes.
    """
    if prompt.rstrip().removesuffix(_HEADER).endswith(_OPENERS):
        return True
    begin = prompt.rfind(problem) if problem else -1
    return begin >= 0 and after_thinking(prompt[begin + len(problem) :]) is None


def is_part_of_mark(token: str) -> bool:
    """Whether a special token is a mark or begins one, so that a text keeps it."""
    return len(token) > 1 and any(mark.startswith(token) for mark in _ALL)


def _last_mark(text: str) -> tuple[int, str]:
    """Return where the last mark of the text begins, and the mark; (0, "") without one.

    Fast for texts without a mark, or with one close to their end.
    """
    found = _last_angled(text)
    for hint, marks in _OTHERS:
        if hint in text:
            found = max(found, *((text.rfind(mark), mark) for mark in marks))
    return found if found[0] >= 0 else (0, "")


def _last_angled(text: str) -> tuple[int, str]:
    at = len(text)
    for _ in range(MAX_CHECKED):
        at = text.rfind("<", 0, at)
        if at < 0:
            return -1, ""
        if text.startswith(_ANGLED, at):
            return at, next(mark for mark in _ANGLED if text.startswith(mark, at))
    hints = [hint for hint in _HINTS if text.find(hint, 0, at) >= 0]
    marks = [mark for mark in _ANGLED if any(hint in mark for hint in hints)]
    return max(((text.rfind(mark, 0, at), mark) for mark in marks), default=(-1, ""))
