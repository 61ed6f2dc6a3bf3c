r"""Checks general mathematical answers with math-verify. Runs in worker processes only.

math-verify evaluates what it reads: towers of powers keep it busy for hours, and its own alarm
cannot tell a timeout from a wrong answer. So its alarm is off, the pool's deadline kills it, and
what it is given is cut down to the final answer first.

| case | verdict |
| --- | --- |
| the answer equals gold as written, whatever its length | correct |
| both are integers, as `rewards/answer.py` reads them | compared exactly |
| `5\text{ thousand}`, `5\text{ percent}`, `5_8` where gold has no such word or base | wrong |
| more than 4,096 characters otherwise | wrong: no such text is a final answer |
| math-verify cannot read it, or fails while comparing | wrong: not shown to be equal |
| math-verify swallowed a MemoryError on its way to "not equal" | crash: unknown, not wrong |
| where the answer stands, cut completions | as for integers, see `rewards/answer.py` |
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dgpo_cli.rewards.answer import MAX_SHOWN_CHARS
from dgpo_cli.rewards.extract import find_answer
from dgpo_cli.rewards.integer import read_integer
from dgpo_cli.rewards.stated import looks_like_answer
from dgpo_cli.rewards.vocabulary import CHANGING_WORDS, PERCENT

if TYPE_CHECKING:
    from types import FrameType

    from dgpo_cli.rewards.settings import Extract
    from dgpo_cli.types import FinishReason, Outcome

MAX_ANSWER_CHARS = 4096
_MAY_EXPLODE = re.compile(r"[\^!*]|binom|choose|times|cdot|matrix|sum|prod|int")
_TEXT = re.compile(r"\\(?:text|textrm|textbf|mathrm|mbox)\s*\{([^{}]*)\}")
_WORD = re.compile(r"[A-Za-z]+")
_BASE = re.compile(r"[0-9]\s*_\s*(?!\{?\s*(?:10|ten|\\text\{ten\})\s*\}?)")
_DELIMITERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))


def check_math(
    gold: str, text: str, *, finish_reason: FinishReason, where: Extract
) -> tuple[Outcome, str | None]:
    """Judge the completion `text` against `gold`; both may be LaTeX.

    Returns the outcome and the extracted answer's first characters, None where there is none.

    Raises:
        MemoryError: the comparison ran out of memory, which math-verify itself hides.
    """
    cut = finish_reason == "length"
    found = find_answer(text, where=where, cut=cut, is_answer=looks_like_answer)
    if found is None:
        return ("truncated" if cut else "no_answer"), None
    given, wanted = bare(found.text), bare(gold)
    shown = given[:MAX_SHOWN_CHARS]
    if found.parts and all(_is_right(gold, part) for part in found.parts):
        return "correct", shown  # one answer, written more than once
    if given == wanted:
        return "correct", shown
    if len(given) > MAX_ANSWER_CHARS:
        return "wrong", shown
    integers = read_integer(wanted), read_integer(given)
    if None not in integers:
        return ("correct" if integers[0] == integers[1] else "wrong"), shown
    if _says_more(given, wanted):
        return "wrong", shown
    return ("correct" if is_equal(wanted, given) else "wrong"), shown


def _is_right(gold: str, answer: str) -> bool:
    box = rf"\boxed{{{answer}}}"
    return check_math(gold, box, finish_reason="stop", where="boxed")[0] == "correct"


def _says_more(given: str, wanted: str) -> bool:
    """Whether `given` has a word or a base, which math-verify drops, that `wanted` has not."""
    if _BASE.search(given) and "_" not in wanted:
        return True
    words = {word.lower() for part in _TEXT.findall(given) for word in _WORD.findall(part)}
    meant = {word.lower() for word in _WORD.findall(wanted)}
    if "%" in wanted:
        meant |= PERCENT
    return not (words & CHANGING_WORDS) <= meant


def is_equal(gold: str, answer: str) -> bool:
    """Whether math-verify takes the two answers, each without prose around it, for equal.

    Raises:
        MemoryError: the comparison ran out of memory, which math-verify itself hides.
    """
    if _equal(gold, answer):
        return True
    if _MAY_EXPLODE.search(answer) and _runs_out_of_memory(lambda: _equal(gold, answer)):
        raise MemoryError
    return False


def is_equal_to_any(gold: str, prose: str) -> bool | None:
    """Whether the answer that math-verify itself finds in `prose` is `gold`; None if it finds none.

    Raises:
        MemoryError: as `is_equal`.
    """
    found: list[Any] = []

    def compare() -> bool:
        from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

        nonlocal found
        places = [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]
        found = parse(prose, extraction_config=places, parsing_timeout=None, raise_on_error=True)
        return bool(found) and verify(_parse(gold), found, timeout_seconds=None)

    if compare():
        return True
    if _MAY_EXPLODE.search(prose) and _runs_out_of_memory(compare):
        raise MemoryError
    return False if found else None


def warm_up() -> None:
    """Import math-verify, and sympy's lazy parts by using them once."""
    for gold, answer in (("\\frac{1}{2}", "0.5"), ("x^2+1", "1+x^2"), ("(1,2)", "(1, 3)")):
        _equal(gold, answer)


def _equal(gold: str, answer: str) -> bool:
    from math_verify import verify

    equal: bool = verify(_parse(gold), _parse(answer), timeout_seconds=None)
    return equal


def _parse(answer: str) -> list[Any]:
    """Sympy's reading of `answer`, and `answer` itself for where there is none."""
    from math_verify import LatexExtractionConfig, parse

    # With "first_match" the whole box is read or nothing: by default, a box that is too deep to
    # be read would be judged by whatever fraction stands somewhere in it.
    parsed: list[Any] = parse(
        _as_latex(answer),
        extraction_config=[LatexExtractionConfig(boxed_match_priority=0)],
        extraction_mode="first_match",
        parsing_timeout=None,
        raise_on_error=True,
    )
    return parsed


def _runs_out_of_memory(call: Callable[[], Any]) -> bool:
    """Whether a MemoryError is raised anywhere below `call`, caught or not."""
    seen = False

    def watch(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal seen
        frame.f_trace_lines = False
        if event == "exception" and issubclass(argument[0], MemoryError):
            seen = True
        return watch

    sys.settrace(watch)
    try:
        call()
    finally:
        sys.settrace(None)
    return seen


def bare(answer: str) -> str:
    """`answer` without markdown, a full stop and math delimiters around the whole."""
    answer = answer.strip().strip("*`").strip().removesuffix(".").strip()
    answer = answer.replace(r"\varnothing", r"\emptyset")
    for opener, closer in _DELIMITERS:
        inside = answer.removeprefix(opener).removesuffix(closer)
        whole = len(inside) == len(answer) - len(opener) - len(closer)
        if whole and opener not in inside and closer not in inside:
            return inside.strip()
    return answer


def _as_latex(answer: str) -> str:
    """`answer` in a box, unless formulas stand in it that math-verify finds by their dollars."""
    return answer if "$" in answer.replace(r"\$", "") else rf"\boxed{{{answer}}}"
