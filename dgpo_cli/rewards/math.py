r"""Checks general mathematical answers: parses both and compares their meaning.

An answer is parsed into nodes and compared by its kind (`rewards/formulas`); unparsed text equals
only itself. Limits, integrals and other calculus go to math-verify, whose "equal" is confirmed at
random points. Everything runs in worker processes with a deadline and a memory limit.

| gold and answer | verdict |
| --- | --- |
| equal as written, whatever the length; equal but for fonts, spaces and words' capitals | correct |
| more than 4,096 characters otherwise | wrong: too long for a final answer |
| one of them cannot be read | wrong: not shown to be equal |
| numbers and constants | equal exactly: 1/2 and 0.5 are, 1/3 and 0.333 are not |
| an exact value and a decimal of 10 or more digits that is its rounding | correct |
| `13\%`, `13\text{ percent}` | 13/100: equal to 0.13, not to 13 |
| `5\text{ million}`, `2\text{ dozen}` | the number that is meant: 5,000,000, 24 |
| `101_2` | equal to `101_{2}` alone: not to 101, 5 or `12_3` |
| units: on one side, or the same on both | do not count; `5\text{ cm}` is not `5\text{ m}` |
| `90^\circ` | 90; in sin, cos, tan an angle in degrees |
| expressions with variables | equal where both are real, at all points that are tried |
| `x^2 + C` and `x^2 + 1 + C` | equal: C is any constant |
| `y = 2x + 1`, `2x - y + 1 = 0`, `x^2 = 9` and `x = \pm 3` | equal: the same solutions |
| `x \equiv 2 \pmod 5` and `x \equiv 7 \pmod 5` | equal: the same numbers |
| gold `x = 3`, `\lim ... = 2`, `f(x) = x^2`, `(x, y) = (1, 2)` | the right side alone will do |
| gold `x = 3` or `x > 2`, the answer `2x = 6` or `2x > 4` | wrong: not solved |
| any other equation, congruence, label, and `y = 2x + 1` | the right side alone is wrong |
| an answer `x = 3`, `\angle A = 3`, `x = 6/2 = 3` to the gold 3 | correct; `x + y = 3` is wrong |
| `(1, 2)`, `[1, 2)`, `\langle 1, 2 \rangle` | same brackets, same order; `(4,112)` is no number |
| `\{1, 2\}`, `1, 2`, `1` and `2`, `\pm 1` | in any order; sets without repeats |
| several answers to one gold | correct if each of them is gold: `0.5` or `1/2` |
| `x > 2`, `2 < x`, `(2, \infty)`, `\{x : x > 2\}` | equal: the same real numbers |
| `3:4`, `6:8`, `3/4` | equal; `12:30` is a time, and only itself, unless gold is as `3:5` |
| `CAB`, and other capitals side by side | an order: not `ABC`; of two, `AB` is `BA` |
| `2k\pi` and `2n\pi, n \in \mathbb{Z}` | equal: k, l, m and n count turns |
| `\textbf{(B)}\ 12` | the option B, and 12 |
| `Alice: 3` | label and value must both agree |
| a power or factorial beyond millions of digits | equal to nothing but itself as written |
| math-verify hid a MemoryError behind "not equal" | crash: unknown, not wrong |
| place of the answer, truncated completions | as for integers, see `rewards/answer.py` |
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dgpo_cli.rewards.answer import MAX_SHOWN_CHARS
from dgpo_cli.rewards.formulas.equality import equal
from dgpo_cli.rewards.formulas.formula import MAX_CHARS, read
from dgpo_cli.rewards.formulas.nodes import Name, Relation, Several, Words, below
from dgpo_cli.rewards.formulas.tokens import Unread, canonical, tokens_of
from dgpo_cli.rewards.formulas.values import TooLarge, Undefined
from dgpo_cli.rewards.integer import read_integer
from dgpo_cli.rewards.reading.extract import find_answer
from dgpo_cli.rewards.reading.stated import looks_like_answer

if TYPE_CHECKING:
    from types import FrameType

    from dgpo_cli.core.types import FinishReason, Outcome
    from dgpo_cli.rewards.formulas.nodes import Node
    from dgpo_cli.rewards.settings import Extract

_MAY_EXPLODE = re.compile(r"[\^!*]|binom|choose|times|cdot|matrix|sum|prod|int")
_CALCULUS = re.compile(r"\\(?:int|iint|lim|sum|prod|frac\{d\}|det)(?![A-Za-z])")
_ABOUT = re.compile(r"\s*(?:\\approx(?![A-Za-z])|≈)")  # gold counts as exact
_BOUND = re.compile(r"_\s*\{[^{}]*\}")
_LETTER = re.compile(r"(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])")
_EQUALITY = re.compile(r"=|≡|:|\\equiv|\\(?:to|rightarrow)(?![a-z])")
_BARE_NUMBER = re.compile(r"[-+]?\$?[0-9][0-9,]*")
_DELIMITERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))
_LAST_SPACE = re.compile(r"(?<!\\)(?:\\\\)*\\\s*\Z")  # left of "\\ " by stripping
# An option with its value, as AMC writes it; and an option alone.
_OPTION = re.compile(
    r"\\(?:textbf|text|mathrm|mathbf)\s*\{\s*\(([A-E])\)\s*\}(?:[\s~]|\\[ ,;:!]|\\q?quad)*(\S.*)"
)
_LETTER_ALONE = re.compile(r"(?:\\(?:textbf|text|mathrm|mathbf)\s*\{)?\s*\(?([A-E])\)?\s*\}?")
_BESIDE_SIGN = re.compile(r"\s+(?![A-Za-z0-9])|(?<![A-Za-z0-9])\s+")
_PLACES = ("3/7", "19/11", "7/5")  # points at which math-verify's results are evaluated


def check_math(
    gold: str, text: str, *, finish_reason: FinishReason, where: Extract
) -> tuple[Outcome, str | None]:
    """Judge the completion `text` against `gold`; both may be LaTeX.

    Returns the outcome and the first characters of the extracted answer, if any.

    Raises:
        MemoryError: the comparison ran out of memory, which math-verify hides.
    """
    cut = finish_reason == "length"
    found = find_answer(text, where=where, cut=cut, is_answer=looks_like_answer)
    if found is None:
        return ("truncated" if cut else "no_answer"), None
    given, wanted = bare(found.text), bare(gold)
    # Several boxes are a list, or one answer written several times.
    right = _is_right(wanted, given) or (
        len(found.parts) > 0 and all(_is_right(wanted, bare(part)) for part in found.parts)
    )
    if not right and found.equation is not None and "=" in wanted:
        right = is_equal(wanted, found.equation)
    return ("correct" if right else "wrong"), given[:MAX_SHOWN_CHARS]


def _is_right(gold: str, answer: str) -> bool:
    if is_equal(gold, answer):
        return True
    option = _OPTION.fullmatch(answer)
    if option is not None and _is_value(option[2]):
        letter = _LETTER_ALONE.fullmatch(gold)
        return letter[1] == option[1] if letter is not None else is_equal(gold, option[2])
    if not _BARE_NUMBER.fullmatch(gold) or _EQUALITY.search(answer):
        return False
    # Words and signs around an integer, not a formula.
    return _reading(answer) is None and read_integer(answer) == read_integer(gold) is not None


def _is_value(text: str) -> bool:
    node = _reading(text)
    return node is not None and not any(
        isinstance(one, Name | Several | Words | Relation) for one in below(node)
    )


def is_equal(gold: str, answer: str) -> bool:
    """Whether two answers without surrounding prose have the same meaning.

    Raises:
        MemoryError: the comparison ran out of memory, which math-verify hides.
    """
    if gold == answer:
        return True
    if max(len(gold), len(answer)) > MAX_CHARS:
        return False
    if _same_spelling(gold, answer):
        return True
    wanted = _reading(_ABOUT.sub("", gold))
    given = _reading(answer)
    if isinstance(wanted, Several) and given is not None and not isinstance(given, Several):
        given = _reading(answer, grouping=False)  # 2,345 for the list 2, 345
    if wanted is not None and given is not None:
        try:
            if equal(wanted, given):
                return True
        except (TooLarge, Undefined, RecursionError):
            return False
        if not any(isinstance(one, Name) and one.opaque for one in (*below(wanted), *below(given))):
            return False
    return _needs_calculus(gold, answer) and _is_equal_by_math_verify(gold, answer)


def is_equal_to_any(gold: str, prose: str) -> bool | None:
    """Whether an answer that math-verify finds in `prose` equals `gold`; None if it finds none.

    Raises:
        MemoryError: as `is_equal`.
    """
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    places = [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]
    found = parse(prose, extraction_config=places, parsing_timeout=None, raise_on_error=True)
    if not found:
        return None
    return any(is_equal(gold, bare(str(one))) for one in found if _is_plain(one))


def _is_plain(found: object) -> bool:
    """Whether math-verify found text or a rational number."""
    return isinstance(found, str) or getattr(found, "is_Rational", False)


def warm_up() -> None:
    """Import math-verify and, by using them once, sympy's lazy parts."""
    for gold, answer in ((r"\int_0^1 x dx", r"\frac{1}{2}"), (r"\sqrt{2}+x", r"x+\sqrt{2}")):
        _is_equal_by_math_verify(gold, answer)
        is_equal(gold, answer)


def bare(answer: str) -> str:
    """Return `answer` without surrounding markdown, full stop and math delimiters."""
    answer = _LAST_SPACE.sub("", answer.strip().strip("*`").strip().removesuffix(".").strip())
    for opener, closer in _DELIMITERS:
        inside = answer.removeprefix(opener).removesuffix(closer)
        whole = len(inside) == len(answer) - len(opener) - len(closer)
        if whole and opener not in inside and closer not in inside:
            return inside.strip()
    return answer


def _same_spelling(gold: str, answer: str) -> bool:
    """Whether two answers have the same tokens; words alone in any case."""
    try:
        one, other = tokens_of(gold), tokens_of(answer)
    except Unread:
        return _BESIDE_SIGN.sub("", gold).split() == _BESIDE_SIGN.sub("", answer).split()
    left, right = canonical(one), canonical(other)
    if not left or not right:
        return False
    if left == right:
        return True
    both = (*one, *other)
    words = all(token.kind in ("word", "letter") or token.text in ",'?!" for token in both)
    return words and any(token.kind == "word" for token in both) and left.lower() == right.lower()


def _reading(answer: str, *, grouping: bool = True) -> Node | None:
    try:
        return read(answer, grouping=grouping)
    except (Unread, RecursionError):
        return None


# Calculus, by math-verify


def _needs_calculus(gold: str, answer: str) -> bool:
    """Whether one of two answers, not equations, has a limit, an integral or the like."""
    return "=" not in _BOUND.sub("", f"{gold} {answer}") and any(
        _CALCULUS.search(text) for text in (gold, answer)
    )


def _is_equal_by_math_verify(gold: str, answer: str) -> bool:
    if _equal(gold, answer):
        return True
    if _MAY_EXPLODE.search(answer) and _runs_out_of_memory(lambda: _equal(gold, answer)):
        raise MemoryError
    return False


def _equal(gold: str, answer: str) -> bool:
    """Whether math-verify finds both equal, and its results have equal values at some points."""
    from math_verify import verify

    readings = [_parse(text) for text in (gold, answer)]
    if not verify(*readings, timeout_seconds=None):
        return False
    return _confirmed(*(reading[0] for reading in readings), written=(gold, answer))


def _confirmed(one: Any, other: Any, *, written: tuple[str, str]) -> bool:
    import sympy

    if not (isinstance(one, sympy.Expr) and isinstance(other, sympy.Expr)):
        return False
    symbols = sorted(one.free_symbols | other.free_symbols, key=str)
    for reading, text in zip((one, other), written, strict=True):
        # Skipped text would be missing from the letters.
        if not set(_LETTER.findall(text)) - set("eid") <= set(str(reading)):
            return False
    for place in _PLACES:
        point = {symbol: sympy.Rational(place) * (at + 1) for at, symbol in enumerate(symbols)}
        values = [sympy.N(reading.subs(point).doit(), 30) for reading in (one, other)]
        if not all(value.is_number for value in values):
            return False
        if abs(values[0] - values[1]) > abs(values[0]) * sympy.Float("1e-20"):
            return False
    return True


def _parse(answer: str) -> list[Any]:
    """Return sympy's parse of `answer`, if any, and `answer` itself."""
    from math_verify import LatexExtractionConfig, parse

    # With "first_match" the whole box is parsed or nothing: by default, a box that is too deep
    # would be judged by some fraction inside it.
    parsed: list[Any] = parse(
        rf"\boxed{{{answer}}}",
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
