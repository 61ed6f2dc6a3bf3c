r"""Normalises the spelling of an answer: `204^{\text{th}}`, `２０４` and `204\pmod{1000}` as `204`.

It removes or replaces only text that changes no number but would confuse a parser.
"""

from __future__ import annotations

import re
import unicodedata

# Full-width forms, dashes and spaces as ASCII; joiners, marks and variation selectors as nothing.
_WIDE = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
_DASHES = dict.fromkeys(map(ord, "−–﹣"), "-")
_SPACES = dict.fromkeys([0xA0, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000], " ")
_NOTHING = dict.fromkeys(
    [
        *(0xAD, 0x61C, *range(0x200B, 0x2010), 0x202A, 0x202B, 0x202C, *range(0x2060, 0x2065)),
        *(*range(0x2066, 0x206A), *range(0xFE00, 0xFE10), 0xFEFF),
    ]
)
_TRANSLATION: dict[int, int | str | None] = {**_WIDE, **_DASHES, **_SPACES, **_NOTHING}
_FOREIGN_DIGIT = re.compile(r"(?![0-9])\d")

_DEGREE = re.compile(
    r"""(?:\{\})? \s* \^ \s*
        (?: \{ \s* (?:\\[,;:!\ ]\s*)? (?: \\circ | \\textdegree | ∘ | ° | ˚ | o ) \s* \}
          | (?: \\circ | \\textdegree | o ) (?![A-Za-z]) | [∘°˚] )
      | \\(?:degree|deg|textdegree)(?![A-Za-z]) (?:\{\})? | (?<=[0-9\s}])∘ | [°º˚]""",
    re.VERBOSE,
)
# 204th and 204^{\text{th}}, which is not a power.
_ORDINAL = re.compile(
    r"(?<=[0-9])(?:\s*\^\s*\{?\s*)?(?:\\(?:text|mathrm|textrm)\s*\{)?(?:st|nd|rd|th)(?![A-Za-z])[\s}]*"
)
# A fraction of units: km over h.
UNIT_FRACTION = re.compile(
    r"\\[dt]?frac\s*(?:\{\s*\\(?:text|mathrm|textrm)\s*\{\s*[A-Za-z]+\s*\}\s*\}\s*){2}"
)
_ROWS = re.compile(
    r"\\(?:begin|end)\s*\{(?:aligned|align|gathered|gather|split|equation|eqnarray)\*?\}"
)
# \\text after double escaping; \\x is a line break and a variable.
_DOUBLED = re.compile(r"\\\\(?=[A-Za-z]{2})")
_CHOICE = re.compile(r"\s*(?:\([A-E]\)|[A-E][.)])(?=[\s~\\])")
_INVISIBLE = re.compile(
    r"\\(?:[hvm]space|color|textcolor|colorbox|tag|label|[hv]?phantom)\*?\s*"
    r"(?:\[[^\[\]]*\]\s*)?\{[^{}]*\}|\\bbox\s*(?:\[[^\[\]]*\])?"
    r"|\\(?:fcolorbox|rule)\s*\{[^{}]*\}\s*\{[^{}]*\}|\\(?:left|right)\s*\."
)
_MODULUS = re.compile(
    r"\\p?mod(?![A-Za-z])\s*(?:\{[^{}]*\}|[0-9]+)"
    r"|\(\s*(?:\\b?mod|mod|\\(?:text|mathrm|operatorname)\s*\{\s*mod\s*\})"
    r"(?:[\s~}]|\\[ ,;])*\{?\s*[0-9]+\s*\}?\s*\)"
)
# 41 (forty-one)
_SPELLED_OUT = re.compile(
    r"(?<=[0-9])[\s~]*\((?:(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen"
    r"|fourteen|fifteen|sixteen|seventeen|eighteen|nineteen|twenty|thirty|forty|fifty|sixty|seventy"
    r"|eighty|ninety|hundred|thousand|and)[-\s]*)+\)",
    re.IGNORECASE,
)
_IN_BASE_TEN = re.compile(r"\(\s*base\s*(?:10|ten)\s*\)")


def plain(answer: str) -> str:
    """Return `answer` in ASCII if possible, without text that changes no number."""
    answer = in_ascii(answer)
    if "\\\\" in answer:
        answer = _DOUBLED.sub(r"\\", answer)
    answer = _ORDINAL.sub(" ", _DEGREE.sub(" degrees ", answer))
    if "\\" in answer:
        answer = without_layout(answer)
        answer = UNIT_FRACTION.sub(r" \\text{ units} ", answer)
    if "(" in answer:
        answer = _SPELLED_OUT.sub(" ", answer)
    if "mod" in answer:
        answer = _MODULUS.sub(" ", answer)
    if "base" in answer:
        answer = _IN_BASE_TEN.sub(" ", answer)
    return _CHOICE.sub("", answer, count=1) if _CHOICE.match(answer) else answer


def in_ascii(answer: str) -> str:
    """Return `answer` with all digits, dashes and spaces in ASCII, without invisible marks."""
    if answer.isascii():
        return answer
    return _FOREIGN_DIGIT.sub(_as_ascii, answer.translate(_TRANSLATION))


def without_layout(answer: str) -> str:
    """Return `answer` without colours, spaces, labels and environments that only align rows."""
    return _INVISIBLE.sub(" ", _ROWS.sub(" ", answer))


def _as_ascii(char: re.Match[str]) -> str:
    value = unicodedata.decimal(char[0], None)
    return char[0] if value is None else str(value)
