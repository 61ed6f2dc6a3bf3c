r"""Reads one integer from an answer: `\textbf{(1{,}016)}` is 1016, `5!` and `5\%` are none.

Nothing is evaluated. The answer is tokenised once and then judged: exactly one number, at most one
sign before it, and around it only text that does not change it.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Literal, TypeGuard

from dgpo_cli.rewards import vocabulary as v
from dgpo_cli.rewards.spelling import plain

MAX_ANSWER_CHARS = 2048  # far below the 4,300 digits at which int() fails

Kind = Literal["number", "sign", "equals", "hence", "separator", "and", "bad"] | v.WordKind
Atom = tuple[Kind, str]

_ROW_GOES_ON = re.compile(r"\s*(?:&\s*)*(?:=|\\(?:equiv|Rightarrow|implies|Longrightarrow)\b|$)")
_TOKEN = re.compile(
    r"""
    (?P<number>
        [1-9][0-9]{0,2}
        (?P<sep> ,\\! | \{,\}\\! | ,\{\} | , | \{,\} | \\text\{,\}
               | \\[,;:!\ ] | \\thinspace\ ? | [\ ~'] )
        [0-9]{3} (?:(?P=sep)[0-9]{3})* (?![0-9])
        (?:\.[0-9]*)?
        | [0-9]+(?:\.[0-9]*)? | \.[0-9]+
    )
    | \\(?P<command>[A-Za-z]+)\*?
    | \\(?P<escaped>.)
    | (?P<word>[^\W\d_]+)
    | (?P<space>\s+)
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_PRODUCT = re.compile("[abcd]{2,4}|[k-t]{2,3}|[u-z]{2,4}")  # of unknowns; other letters are a word
_LETTER = re.compile(r"\s*[A-Za-z]")
_COMMA = re.compile(r"[0-9],[0-9]")
_NOT_DIGIT = re.compile(r"[^0-9.]")
_UNIT_POWER = re.compile(r"\s*(?:\{\s*-?[0-9]\s*\}|-?[0-9])(?![0-9])")
_BASE_TEN = re.compile(
    r"\s*(?:\{\s*(?:\\(?:text|mathrm)\s*\{)?\s*(?:base[\s}]*)?(?:10|ten)[\s}]*\}|10(?![0-9]))"
)


@lru_cache(maxsize=4096)
def read_integer(answer: str) -> str | None:
    """Return the integer in `answer` as digits with at most a minus sign, or None."""
    if len(answer) > MAX_ANSWER_CHARS:
        return None
    if answer.isascii() and answer.isdigit():
        return answer.lstrip("0") or "0"
    return _judge(_Tokens(plain(answer)).read())


def _judge(atoms: list[Atom]) -> str | None:
    """Return the right-hand side of the last equality if it is one integer."""
    statement = _only_statement(_conclusion(atoms))
    if statement is None:
        return None
    kinds = [kind for kind, _ in statement]
    if "and" in kinds and ("equals" not in kinds or "and" in kinds[kinds.index("equals") :]):
        return None
    right = len(kinds) - kinds[::-1].index("equals") if "equals" in kinds else 0
    last = statement[right:]
    # 204 = x means x = 204
    if right and last and all(map(_is_variable, last)) and _names_a_value(last):
        return _judge(statement[: right - 1])
    if right and not _names_a_value(_part_before(statement, right - 1)):
        return None
    return _one_number(last)


def _part_before(atoms: list[Atom], equals: int) -> list[Atom]:
    """Return the atoms between the equality at `equals` and the one before it."""
    begin = equals
    while begin and atoms[begin - 1][0] not in ("equals", "hence"):
        begin -= 1
    return atoms[begin:equals]


def _names_a_value(left: list[Atom]) -> bool:
    """Whether `left` = 204 gives the answer, rather than an equation to solve.

    Names do: x, m+n, a_1, f(2), |AB|, "the area", and terms without unknowns: 5!, 3 \\cdot 68.
    2x, x^2+y^2, xy, x-5, n!, |x| and \\frac{x}{2} do not: for 2x = 204 the answer is 102.
    """
    if not any(map(_is_unknown, left)):
        return True
    if left[0] == ("sign", "-"):
        return False
    before: Atom | None = None
    for at, atom in enumerate(left):
        kind, value = atom
        after = left[at + 1] if at + 1 < len(left) else None
        if kind == "bad" and not (value in v.NAMING_MARKS or value in v.GREEK_COMMANDS):
            return False
        if _PRODUCT.fullmatch(value) and _is_unknown(atom):
            return False
        if kind == "bad" and value == "|" and (_is_small(before) or _is_small(after)):
            return False
        if kind == "number" and (before is None or before[0] not in ("bare", "touching", "bad")):
            return False
        if _is_small(atom) and before is not None and (_is_small(before) or before[0] == "number"):
            return False
        before = atom
    return True


def _is_unknown(atom: Atom) -> bool:
    kind, value = atom
    if kind in ("bare", "touching"):
        short = len(value) <= 2 and value.lower() not in v.SHORT_WORDS_AND_UNITS
        return short or _PRODUCT.fullmatch(value) is not None
    return kind == "bad" and value in v.GREEK_COMMANDS


def _is_small(atom: Atom | None) -> bool:
    """Whether it is a lower-case unknown, or a product of two."""
    return atom is not None and _is_unknown(atom) and atom[1].islower()


def _conclusion(atoms: list[Atom]) -> list[Atom]:
    """Return the atoms after the last arrow, up to the reasons given."""
    arrows = [at for at, (kind, _) in enumerate(atoms) if kind == "hence"]
    if arrows and arrows[-1] < len(atoms) - 1:
        atoms = atoms[arrows[-1] + 1 :]
    has_number = False
    for at, (kind, value) in enumerate(atoms):
        has_number = has_number or kind == "number"
        if has_number and _is_word(kind) and value.lower() in v.REASONS:
            return atoms[:at]
    return atoms


def _only_statement(atoms: list[Atom]) -> list[Atom] | None:
    """Return the only part between commas that is not just harmless words; None if several."""
    parts: list[list[Atom]] = [[]]
    for kind, value in atoms:
        if kind == "separator":
            parts.append([])
        else:
            parts[-1].append((kind, value))
    said = [part for part in parts if not all(map(_is_harmless, part))]
    if ("separator", "or") in atoms or len(said) > 1:
        return None
    return said[0] if said else []


def _one_number(atoms: list[Atom]) -> str | None:
    """Return the integer if there is one number, at most a sign before it and harmless words."""
    sign = number = ""
    for at, (kind, value) in enumerate(atoms):
        if kind == "number" and not number:
            if v.operates([word for _, word in atoms[:at]]):
                return None
            number = value
        elif kind == "sign" and not number and not sign:
            sign = value
        elif _is_word(kind) and (number or not sign):
            harmless = v.may_follow(value, kind) if number else v.may_lead(value, kind)
            if not harmless:
                return None
        else:
            return None
    whole, _, decimals = _NOT_DIGIT.sub("", number).partition(".")
    if not whole or decimals.strip("0"):
        return None
    digits = whole.lstrip("0") or "0"
    return f"-{digits}" if sign == "-" and digits != "0" else digits


def _is_harmless(atom: Atom) -> bool:
    kind, value = atom
    return _is_word(kind) and len(value) > 1 and v.may_follow(value, kind)


def _is_variable(atom: Atom) -> bool:
    kind, value = atom
    return (kind in ("bare", "touching") and len(value) <= 2) or atom == ("sign", "+")


def _is_word(kind: Kind | None) -> TypeGuard[v.WordKind]:
    return kind in ("text", "bare", "touching")


class _Tokens:
    """Turns an answer into atoms; drops grouping, formatting and spacing."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._atoms: list[Atom] = []
        self._modes = [False]  # for each open brace: whether it is text, without variables
        self._opens_text = False
        self._depth = 0
        self._spaced = True

    def read(self) -> list[Atom]:
        position = 0
        while position < len(self._text):
            token = _TOKEN.match(self._text, position)
            assert token is not None
            position = token.end()
            if token["space"]:
                self._spaced = True
                continue
            kind = token.lastgroup
            if kind == "number":
                self._number(token["number"])
            elif kind == "command":
                self._command(token["command"])
            elif kind == "word":
                self._word(token["word"])
            elif kind == "escaped":
                self._escaped(token["escaped"], position)
            else:
                position = self._other(token["other"], position)
        return self._atoms

    def _add(self, kind: Kind, value: str = "") -> None:
        self._atoms.append((kind, value))
        self._spaced = False

    def _has_number(self) -> bool:
        return any(kind == "number" for kind, _ in self._atoms)

    def _has_number_on_this_side(self) -> bool:
        for kind, _ in reversed(self._atoms):
            if kind in ("equals", "hence", "number"):
                return kind == "number"
        return False

    def _last(self) -> Kind | None:
        return self._atoms[-1][0] if self._atoms else None

    def _number(self, digits: str) -> None:
        # In x204 the letter makes the number something else; scripts without spaces are exempt.
        touches = self._last() in ("bare", "touching") and not self._spaced
        if touches and self._atoms[-1][1].isascii():
            self._add("bad", v.TOUCHED)
        if self._depth and _COMMA.search(digits):
            self._add("bad")  # (1,234) is a pair
        self._add("number", digits)

    def _command(self, name: str) -> None:
        if name in v.TEXT_COMMANDS:
            self._opens_text = True
            self._spaced = True
        elif name in v.EQUALITY_COMMANDS:
            self._add("equals")
        elif name in v.HENCE_COMMANDS:
            self._add("hence")
        elif name in v.AND_COMMANDS:
            self._add("and")
        elif name in v.IGNORED_COMMANDS:
            self._spaced = self._spaced or name not in ("left", "big", "Big", "bigl", "Bigl")
        else:
            self._add("bad", name)

    def _escaped(self, char: str, position: int) -> None:
        if char == "\\":
            # The next row continues with an equality, or is another statement.
            if not _ROW_GOES_ON.match(self._text, position):
                self._add("separator")
            self._spaced = True
        elif char in "{}":
            self._group(opens=char == "{")
        elif char in v.IGNORED_ESCAPES:
            self._spaced = True
        else:
            self._add("bad")

    def _word(self, word: str) -> None:
        word = word.rstrip("²³")  # as in cm²
        lower = word.lower()
        if not word.isalpha():
            if word or not _is_word(self._last()):
                self._add("bad")
        elif lower == "or":
            self._add("separator", "or")
        elif lower == "and":
            self._add("and")
        elif self._modes[-1]:
            self._add("text", word)
        else:
            self._add("bare" if self._spaced else "touching", word)

    def _group(self, *, opens: bool) -> None:
        self._depth = max(0, self._depth + (1 if opens else -1))

    def _other(self, char: str, position: int) -> int:
        """Read one character; return the next position."""
        if char == "{":
            self._modes.append(self._opens_text or self._modes[-1])
            self._opens_text = False
        elif char == "}":
            if len(self._modes) > 1:
                self._modes.pop()
        elif char in "()[]":
            touches = char in "([" and _is_word(self._last()) and not self._spaced
            if touches and not self._has_number_on_this_side():
                self._add("bad", v.TOUCHED)  # floor(204)
            self._group(opens=char in "([")
        elif char in ",;":
            self._add("separator" if self._depth == 0 else "bad", char)
        elif char in "^_/":
            return self._script(char, position)
        elif char in "=-":
            return self._relation(char, position)
        elif char == "+":
            self._add("sign", char)
        elif char in v.EQUALITY_CHARS:
            self._add("equals")
        elif char in v.HENCE_CHARS:
            self._add("hence")
        elif char == ":" and _is_word(self._last()) and not self._has_number():
            # N: 204 is an equality, a:b a ratio
            ratio = _is_unknown(self._atoms[-1]) and _LETTER.match(self._text, position)
            denied = self._atoms[-1][1].lower() in v.DENIALS
            self._add(*(("bad", char) if ratio or denied else ("equals", "")))
        elif char in "~:.":
            self._spaced = True
        elif char in "'’" and self._last() == "number" and self._text.count(char) == 1:
            self._add("bad", char)  # minutes of arc, feet
        elif char not in v.IGNORED_CHARS and unicodedata.category(char) != "So":
            self._add("bad", char)
        return position

    def _script(self, char: str, position: int) -> int:
        """Read powers and quotients of units, the base ten, and underscores of markdown."""
        after = self._text[position : position + 1]
        if char == "/":
            if not (_is_word(self._last()) and (after.isalpha() or after == "\\")):
                self._add("bad", char)
            self._spaced = True
            return position
        if char == "^":
            power = _UNIT_POWER.match(self._text, position)
            if power is not None and _is_word(self._last()):
                if _is_unknown(self._atoms[-1]) and not self._has_number_on_this_side():
                    self._add("bad", char)  # x^2; in 204 m^2 it is a unit
                return power.end()
            self._add("bad", char)
            return position
        base = _BASE_TEN.match(self._text, position)
        if base is not None and self._last() == "number":
            return base.end()
        if after == "{" or (self._last() == "number" and (after.isalnum() or after == "\\")):
            self._add("bad", char)
        return position

    def _relation(self, char: str, position: int) -> int:
        """Read equals signs and arrows; `!=`, `<=` and a negated equality are not ones."""
        if char == "-":
            if self._text.startswith(">", position):
                self._add("equals")
                return position + 1
            self._add("sign", char)
            return position
        before = self._text[max(0, position - 3) : position - 1]
        unequal = before[-1:] == "!" and not before[:-1].strip()
        negated = bool(self._atoms) and self._atoms[-1] == ("bad", "not")
        arrow = self._text.startswith(">", position)
        says: Kind = "hence" if arrow else "equals"
        self._add("bad" if unequal or negated or before[-1:] in ("<", ">") else says)
        return position + 1 if arrow else position
