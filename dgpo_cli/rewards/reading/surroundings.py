r"""Finds the expression that a box is part of, from the text around it.

In `-\boxed{7}`, `\frac{\boxed{7}}{2}`, `10^{\boxed{7}}` and `(\boxed{7}, 3)` the answer is the
whole expression; in `n = \boxed{7}`, `\boxed{7}\text{ cm}` and `\textbf{\boxed{7}}` it is the box.
At most `MAX_CHARS` on each side are read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from dgpo_cli.rewards import vocabulary as v
from dgpo_cli.rewards.spelling import UNIT_FRACTION

MAX_CHARS = 160
MAX_NEAR_CHARS = 24
MAX_GROUPS = 16  # braces and brackets removed around a box

_TEXT = r"\\(?:" + "|".join(sorted(v.TEXT_COMMANDS, key=len, reverse=True)) + r")\s*\{[^{}]*\}"
_BREAK = "\x00"  # replaces a text command, which ends an expression
_GREEK = (
    r"pi|phi|theta|alpha|beta|gamma|delta|epsilon|zeta|eta|kappa|lambda|mu|nu|xi|rho|sigma|tau|chi"
    r"|psi|omega"
)
_FUNCTIONS = (
    r"(?:arc)?(?:sin|cos|tan|cot|sec|csc)h?|log|ln|lg|exp|det|gcd|lcm|deg|dim|max|min|sup|inf|arg"
    r"|sqrt|d?frac|tfrac|cfrac|d?binom|tbinom|lfloor|lceil"
)
_OPERATORS = (
    r"cdots?|times|div|pm|mp|ast|star|circ|bmod|mod|over|choose|cup|cap|setminus|sum|prod|int"
)
_RELATIONS = r"neq?|le|leq|geq?|leqslant|geqslant|lt|gt|ll|gg|not|nless|ngtr|nleq|ngeq|mid|nmid"

_INVISIBLE = re.compile(
    r"\\(?:[hvm]space|color|textcolor|colorbox|tag|label)\*?\s*(?:\[[^\[\]]*\]\s*)?\{[^{}]*\}"
    r"|\\bbox\s*(?:\[[^\[\]]*\])?"
    r"|_\s*\{\s*\\(?:text|mathrm)\s*\{\s*(?:base[\s~]*)?(?:10|ten)\s*\}\s*\}"
    r"|\\mu\s*(?=\\(?:mathrm|text))"  # micrometres
    r"|\\fcolorbox\s*\{[^{}]*\}\s*\{[^{}]*\}"
    r"|\\(?:left|right|[bB]igg?[lr]?|displaystyle|textstyle|bf|rm|it|large|Large|LARGE|huge|Huge|small"
    r"|normalsize|thinspace|medspace|thickspace)(?![A-Za-z])|\\[,;:! ]|\{\}"
)
_UPRIGHT = re.compile(r"\\mathrm\s*\{\s*([ie])\s*\}")
_OPEN_BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s*\{([^{}]*)\}")
_ROW_JOINT = re.compile(r"(?<=[{(^_/])[ \t]*\n\s*|[ \t]*\n\s*(?=[})^_/])")
_BULLET = re.compile(r"\s*(?:(?:[-*+•]|[0-9]{1,3}[.)]|#+|>)\s+)+")
_WORD = r"(?<![\\A-Za-z])[A-Za-z]{2,}"
# Edges of a formula or sentence; then also separators of expressions within one.
_FORMULA_EDGE = re.compile(
    rf"\$|\\[$()\[\]]|\\\\(?:\s*\[[^\]]*\])?|\\(?:begin|end)\s*\{{[^{{}}]*\}}|&|\n|{_BREAK}"
    r"|\\(?:boxed|fbox|framebox)"
)
_PROSE_EDGE = re.compile(rf"{_WORD}|[!?.:](?=\s)")
_STATEMENT_EDGE = re.compile(
    r"=|≈|≡|→|⇒|∴|[,;:](?![0-9])|\.(?![0-9])|\\(?:equiv|approx|sim(?:eq)?|cong|to|(?:long)?rightarrow"
    r"|[Rr]ightarrow|Longrightarrow|[Ll]eftrightarrow|iff|implies|therefore|because|in|q?quad|colon"
    r")(?![A-Za-z])"
)
# A backslash command that owns the brace at the end, with its arguments before that brace.
_OWNER = re.compile(
    r"(?:\\(?P<name>[A-Za-z]+)\*?|(?P<script>[\^_]))\s*"
    r"(?:\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}\s*|\[[^\[\]]*\]\s*){0,4}\Z"
)
_SCRIPTS = r"(?:\s*[_^]\s*(?:\{[^{}]*\}|[0-9A-Za-z]))*"
_BOUND_LEFT = re.compile(
    rf"(?:\\(?:{_FUNCTIONS}|{_OPERATORS}|{_GREEK})(?![A-Za-z]){_SCRIPTS}(?:\s*\[[^\[\]]*\])?"
    r"|\\%|[\^±∓×·÷√∑∏∫]|(?<=[0-9A-Za-z})])_|[0-9A-Za-z})\]!]\s*(?:/|(?<!\*)\*(?!\*)))\s*\Z"
)
_RELATED_LEFT = re.compile(
    rf"(!=|[≠<>≤≥]|(?<=[<>])=|\\(?:{_RELATIONS})(?![A-Za-z])\s*=?)\s*(?:\\?[$(\[{{]\s*)*\Z"
)
# The common case, for speed: a formula of its own, a right side, after a word.
_ALONE_LEFT = re.compile(r"(?:\$|\\[(\[]|=|\n\n|(?:\A|\s)[a-z]{2,20} )\s*\Z")
_ALONE_RIGHT = re.compile(r"\s*(?:\$|\\[)\]]|\n\n|\Z|[.,;](?:\s|\Z))")
_NO_RELATION = re.compile(r"(?:[-=~]>|<[/|A-Za-z][^<>]*>|(?:\A|\n)\s*>)\s*(?:\\?[$(\[{]\s*)*\Z")
_RATIO_LEFT = re.compile(r"[0-9]\s*:\Z")
_TOUCHES_LEFT = re.compile(r"(?:[0-9})]|(?<![A-Za-z])[A-Za-z])\Z")
_SIGN_LEFT = re.compile(r"(?P<sign>[-−–+])(?P<space>\s*)\Z")
_WORD_LEFT = re.compile(
    r"(?:\b((?:not|never|cannot)(?:\s+be)?|minus|negative|twice|thrice|half|double|triple"
    r"|(?:half|third|square|cube|root|reciprocal|inverse|negative|factorial)\s+of(?:\s+the)?)|(n't(?:\s+be)?))"
    r"[\s}]*(?:\\?[$(\[]\s*)*\Z",
    re.IGNORECASE,
)
_AMOUNTS = (
    r"percent|per\s?cent|pct|hundred|thousand|million|billion|trillion|dozen|lakh|crore|factorial"
    r"|squared|cubed|or\s+(?:more|less|fewer)|and\s+a\s+half|halves|thirds|quarters|fifths|tenths"
    r"|hundredths|thousandths|is\s+(?:not|wrong|incorrect|false|impossible|too)"
)
_WORD_RIGHT = re.compile(
    rf"(?:[\s~]|\\[,;:! ]|\\?[$)\]])*(?:\\(?:text|mathrm|textrm)\s*\{{\s*)?"
    rf"(?:({_AMOUNTS})\b|\\?%)",
    re.IGNORECASE,
)
# Another integer is offered after the box, or the box is the end of a number.
_OR_RIGHT = re.compile(
    r"(?:[\s~]|\\[,;:! ]|\\?[$)\]])*(?:\\text\s*\{\s*)?or\b[\s~}]*(?:\\?[$(\[]\s*)*"
    r"(-?[0-9]+)(?![0-9.,/])"
)
# The formula is a list of numbers, of which one is in the box.
_LIST_LEFT = re.compile(r"(?:(?<=\$)|(?<=\\[(\[])|\A)(?:\s*-?[0-9]+\s*,)+\s*\Z")
_LIST_RIGHT = re.compile(r"(?:\s*,\s*-?[0-9]+)+(?=\s*(?:\$|\\[)\]]|\.?\s*\Z))")
_NUMBER_LEFT = re.compile(r"(?:(?<![0-9])0\.|[0-9]\{,\})\Z")
_BOUND_RIGHT = re.compile(
    rf"\s*(?:\{{?\\(?:{_FUNCTIONS}|{_OPERATORS}|{_GREEK}|{_RELATIONS})(?![A-Za-z])|\\?%|[±∓×·÷√≠≤≥²³½]"
    r"|\^(?!\s*\{?\s*(?:\\?(?:circ|degree|textdegree|prime)|[°∘o]\b|(?:st|nd|rd|th)\b|\Z))"
    r"|\^\s*\{?\s*\\circ\s*\}?\s*[0-9]"
    r"|[<>]=?(?=\s|[0-9\\]|[A-Za-z](?![A-Za-z>]))|!=|/\s*(?=[0-9\\({A-Za-z])|\*\s*(?=[0-9\\({])(?!\*)"
    r"|[-+−]\s*(?:[0-9\\({]|[A-Za-z](?![A-Za-z])))"
    r"|_(?!\s*(?:\{\s*)?(?:10|ten|\x00)\b)(?=[0-9A-Za-z{\\])|[.:][0-9]|,[0-9]{3}(?![0-9])|[0-9]"
)
_TOUCHES_RIGHT = re.compile(r"[A-Za-z](?![A-Za-z])|\(\s*[0-9A-Za-z](?![A-Za-z])|\\sqrt|!(?![!=])")
_BRACKETS = (("(", ")"), ("[", "]"), (r"\{", r"\}"), ("|", "|"), (r"\lfloor", r"\rfloor"))
_ATOM = re.compile(r"\s*[0-9A-Za-z.]+\s*")


@dataclass(slots=True)
class _Sides:
    """The text left and right of a box. prose: on the left it starts after a word."""

    left: str
    right: str
    prose: bool
    bound: bool = False


def with_surroundings(before: str, content: str, after: str, *, listed: bool) -> str | None:
    """Return the expression that a box is part of, without the box; None if it is alone.

    before, after: the text on both sides. listed: `content` is several boxes, joined by commas.
    """
    near = before[-MAX_NEAR_CHARS:]
    if (word := _WORD_LEFT.search(near)) is not None:
        return rf"\text{{{word[1] or 'not'} }}{content}"
    if (word := _WORD_RIGHT.match(after)) is not None:
        return rf"{content}\text{{ {word[1]}}}" if word[1] else rf"{content}\%"
    if (other := _OR_RIGHT.match(after)) is not None and content.strip().isdigit():
        return f"{content} or {other[1]}" if other[1] != content.strip() else None
    beside = _LIST_LEFT.search(before), _LIST_RIGHT.match(after)
    if any(beside):
        left, right = (found[0] if found else "" for found in beside)
        return f"{left}{content}{right}"
    if (begun := _NUMBER_LEFT.search(near)) is not None:
        return f"{begun[0]}{content}"
    related = _RELATED_LEFT.search(near)
    if related is not None and not listed and not _NO_RELATION.search(near):
        return rf"{related[1]} {content}"
    if not listed and _ALONE_LEFT.search(near) and _ALONE_RIGHT.match(after):
        return None
    before, after = _cleaned(before[-MAX_CHARS:]), _cleaned(after[:MAX_CHARS])
    sides = _formula(_as_break(before), _as_break(after))
    group = _bracketed(sides, content, listed=listed)
    if group is not None:
        return group
    if listed:
        return None
    ratio = not sides.prose and _RATIO_LEFT.search(sides.left)
    if ratio:
        return f"{ratio[0]}{content}"
    whole = _expression(sides)
    _look_through_groups(sides)
    if sides.bound or _binds_left(sides) or _binds_right(sides):
        return f"{whole.left}{_grouped(content, whole)}{whole.right}".strip()
    return None


def _cleaned(text: str) -> str:
    r"""Return `text` without invisible commands and boxes, with `\\frac` as `\frac`."""
    text = re.sub(r"\\\\(?=[A-Za-z]{2})", r"\\", text)
    text = _OPEN_BOX.sub(r" \1 ", _INVISIBLE.sub("", text))
    text = _UPRIGHT.sub(r"\1", text).replace(r"\langle", "(").replace(r"\rangle", ")")
    return _ROW_JOINT.sub("", text)


def _as_break(text: str) -> str:
    return re.sub(_TEXT, _BREAK, UNIT_FRACTION.sub(_BREAK, text))


def _formula(before: str, after: str) -> _Sides:
    """Return both sides up to the edge of the formula, the line or a word."""
    edge = _last(_FORMULA_EDGE, before)
    left = before[edge:]
    at_line_start = edge == 0 or before[edge - 1] == "\n"
    if at_line_start and (bullet := _BULLET.match(left)) is not None:
        left = left[bullet.end() :]
    word = _last(_PROSE_EDGE, left)
    found = _FORMULA_EDGE.search(after)
    right = after[: found.start()] if found else after
    found = _PROSE_EDGE.search(right)
    right = right[: found.start()] if found else right
    return _Sides(left[word:], right, prose=word > 0)


def _last(pattern: re.Pattern[str], text: str) -> int:
    """Return the end of the last match of `pattern`; 0 without one."""
    end = 0
    for found in pattern.finditer(text):
        end = found.end()
    return end


def _expression(sides: _Sides) -> _Sides:
    """Return both sides up to the next equals sign or comma."""
    edge = _last(_STATEMENT_EDGE, sides.left)
    left = sides.left[edge:]
    found = _STATEMENT_EDGE.search(sides.right)
    right = sides.right[: found.start()] if found else sides.right
    prose = sides.prose and sides.left[:edge][-1:] in ("", *",;:.")
    sides.left, sides.right, sides.prose = left, right, prose
    return _Sides(left, right, prose)


def _bracketed(sides: _Sides, content: str, *, listed: bool) -> str | None:
    """Return the tuple, interval or set that contains the box, if any."""
    left, right = sides.left, sides.right
    begin = _unmatched(left[::-1], openers=")]", closers="([")
    end = _unmatched(right, openers="([", closers=")]")
    if begin < 0 or end < 0:
        return None
    begin = len(left) - 1 - begin
    inside = left[begin + 1 :], right[:end]
    if not listed and not any(re.search(r"[,;]", part) for part in inside):
        return None
    begin -= left[:begin].endswith("\\")  # of a set
    return f"{left[begin:]}{content}{right[: end + 1]}"


def _unmatched(text: str, *, openers: str, closers: str) -> int:
    """Return the index of the first of `closers` that `text` does not open, or -1."""
    depth = 0
    for at, char in enumerate(text):
        if char in openers + "{" * (openers == "([") + "}" * (openers == ")]"):
            depth += 1
        elif char in closers + "}" * (openers == "([") + "{" * (openers == ")]"):
            depth -= 1
            if depth < 0:
                return at
    return -1


def _look_through_groups(sides: _Sides) -> None:
    """Remove neutral braces and brackets around the box."""
    for _ in range(MAX_GROUPS):
        left, right = sides.left.rstrip(), sides.right.lstrip()
        if left.endswith("{") and not left.endswith(r"\{") and right.startswith("}"):
            owner = _OWNER.search(left[:-1])
            if owner is not None and not _is_harmless(owner["name"]):
                sides.bound = True
                return
            sides.left = left[: -1 if owner is None else owner.start()]
            sides.right = right[1:]
            continue
        for opener, closer in _BRACKETS:
            if opener == "|" and (sides.prose or not sides.left.endswith("|")):
                continue  # a cell of a table
            if left.endswith(opener) and right.startswith(closer):
                sides.left, sides.right = left[: -len(opener)], right[len(closer) :]
                sides.bound = "|" in opener or "floor" in opener or _is_touched(sides)
                break
        else:
            return
        if sides.bound:
            return


def _is_harmless(name: str | None) -> bool:
    return name is not None and (name in v.TEXT_COMMANDS or name in v.IGNORED_COMMANDS)


def _binds_left(sides: _Sides) -> bool:
    left = sides.left
    if _BOUND_LEFT.search(left) is not None:
        return True
    sign = _SIGN_LEFT.search(left)
    if sign is not None:
        operand = left[: sign.start()].rstrip()
        if operand:
            return re.search(r"[0-9A-Za-z)}\]!(|{*^]\Z", operand) is not None
        if sign["sign"] == "+":
            return False
        return not sides.prose or (not sign["space"] and sign.start() > 0)
    return _is_touched(sides)


def _is_touched(sides: _Sides) -> bool:
    """Whether a factor is directly left, as in `2\\boxed{7}`."""
    opened = sides.left.count("{") >= sides.left.count("}")
    return not sides.prose and opened and _TOUCHES_LEFT.search(sides.left) is not None


def _binds_right(sides: _Sides) -> bool:
    if sides.right.startswith("*") and sides.left.endswith("*"):
        return False  # emphasis
    if _BOUND_RIGHT.match(sides.right) is not None:
        return True
    return not sides.prose and _TOUCHES_RIGHT.match(sides.right) is not None


def _grouped(content: str, sides: _Sides) -> str:
    """Return `content`, in brackets if the text around would merge with it."""
    left = sides.left.rstrip()
    if left.endswith("{") and sides.right.lstrip().startswith("}"):
        return content
    if left[-1:].isalnum() and not re.search(r"\\[A-Za-z]+\Z", left):
        return f"({content})"
    return f" {content}" if _ATOM.fullmatch(content) else f"({content})"
