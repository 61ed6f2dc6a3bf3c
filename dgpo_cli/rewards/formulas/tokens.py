r"""Tokenises an answer: numbers with their grouping, letters, words, commands, symbols.

Fonts, boxes, sizes and spaces are dropped, and each symbol has one name: `\dfrac` is `\frac`, `×`
and `\cdot` are `*`. Letters outside \text{} are variables, unless they spell a function or a word.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from dgpo_cli.rewards.spelling import in_ascii, without_layout
from dgpo_cli.rewards.vocabulary import words

MAX_DEPTH = 60  # of \text{} in \text{}
MAX_EXPONENT = 10_000  # of ten in 1.6e-19

Kind = Literal["number", "based", "letter", "word", "command", "symbol"]


class Unread(Exception):
    """The text is not a supported formula."""


@dataclass(frozen=True, slots=True)
class Lexeme:
    """places: decimals as written, None for integers. spaced: whitespace precedes."""

    kind: Kind
    text: str
    value: Fraction | None = None
    places: int | None = None
    spaced: bool = False
    in_text: bool = False


FUNCTIONS = words(
    "sin cos tan cot sec csc arcsin arccos arctan arccot sinh cosh tanh coth log ln lg exp sqrt "
    "gcd lcm max min det arg"
)
SIGNS = {
    "=": "=", "<": "<", ">": ">", "leq": "<=", "geq": ">=", "neq": "!=", "equiv": "equiv",
    "approx": "approx", "in": "in", "notin": "notin", "to": "to", "subset": "subset",
    "subseteq": "subseteq", "iff": "iff", "cong": "cong", "sim": "sim",
    "parallel": "parallel", "perp": "perp", "propto": "propto",
}  # fmt: skip
_WORDS = words(
    "and or yes no not the is one two six ten odd all day cm mm km kg mg ml ft lb oz hr mph cent "
    "sec min hrs per nor any none even true false"
)
_NUMBER_UNITS = words("cm mm km kg mg ml ft in lb oz hr hrs min mi yd nm cl kl kmh mph")
_SYMBOLS = {
    "π": r"\pi ", "√": r"\sqrt ", "∞": r"\infty ", "×": "*", "·": "*", "∙": "*", "⋅": "*",
    "÷": r"\div ", "≤": r"\leq ", "≥": r"\geq ", "⩽": r"\leq ", "⩾": r"\geq ", "≠": r"\neq ",
    "≈": r"\approx ", "≡": r"\equiv ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ",
    "∅": r"\emptyset ", "±": r"\pm ", "∓": r"\mp ", "∠": r"\angle ", "△": r"\triangle ",
    "°": r"^\circ ", "º": r"^\circ ", "½": r"\frac{1}{2}", "⅓": r"\frac{1}{3}",
    "⅔": r"\frac{2}{3}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "¹": "^{1}", "²": "^{2}",
    "³": "^{3}", "⁴": "^{4}", "…": r"\ldots ", "→": r"\to ", "⇒": r"\implies ", "∖": r"\setminus ",
    "⟨": r"\langle ", "⟩": r"\rangle ", "′": "'", "⌊": r"\lfloor ", "⌋": r"\rfloor ",
    "⌈": r"\lceil ", "⌉": r"\rceil ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℚ": r"\mathbb{Q}",
    "ℕ": r"\mathbb{N}", "ℂ": r"\mathbb{C}", "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ",
    "δ": r"\delta ", "θ": r"\theta ", "λ": r"\lambda ", "μ": r"\mu ", "φ": r"\phi ",
    "ω": r"\omega ", "∑": r"\sum ", "∏": r"\prod ", "∫": r"\int ",
}  # fmt: skip
_TRANSLATION = str.maketrans(_SYMBOLS)
_RENAMED = {
    "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "dbinom": "binom", "tbinom": "binom",
    "le": "leq", "leqslant": "leq", "ge": "geq", "geqslant": "geq", "ne": "neq",
    "varnothing": "emptyset", "infin": "infty", "dots": "ldots", "cdots": "ldots",
    "dotsc": "ldots", "rightarrow": "to", "longrightarrow": "to", "mapsto": "to",
    "Rightarrow": "implies", "Longrightarrow": "implies", "therefore": "implies",
    "backslash": "setminus", "smallsetminus": "setminus", "varphi": "phi", "varepsilon": "epsilon",
    "land": "and", "wedge": "and", "lor": "or", "vee": "or", "widehat": "hat", "widetilde": "tilde",
    "overrightarrow": "vec", "approxeq": "approx", "simeq": "approx", "thickapprox": "approx",
    "degree": "circ", "textdegree": "circ", "deg": "circ", "imath": "i", "bar": "overline",
    "sgn": "sign", "tg": "tan", "arctg": "arctan", "ctg": "cot", "cosec": "csc",
}  # fmt: skip
_AS_SYMBOL = {
    "times": "*", "cdot": "*", "ast": "*", "lt": "<", "gt": ">", "vert": "|", "lvert": "|",
    "rvert": "|", "mid": "|", "lbrace": "\\{", "rbrace": "\\}", "lbrack": "[", "rbrack": "]",
    "lparen": "(", "rparen": ")", "colon": ":", "prime": "'", "eq": "=", "coloneqq": "=",
    "Vert": "\\|", "lVert": "\\|", "rVert": "\\|", "dollar": "$", "textdollar": "$",
    "pounds": "£", "euro": "€", "percent": "%", "i": "i",
}  # fmt: skip
_NOTHING = re.compile(
    r"\\(?:left|right|middle|[bB]igg?[lrm]?|displaystyle|textstyle|scriptstyle|q?quad|limits|"
    r"nolimits|thinspace|medspace|thickspace|enspace|space|par|newline|hfill|nonumber|notag|"
    r"normalsize|small|large|Large|LARGE|huge|Huge|bf|rm|it|boldmath|qed|blacksquare|checkmark)"
    r"(?![A-Za-z])"
)
_FONT = re.compile(
    r"\\(?:boxed|fbox|framebox|frame|mathbf|boldsymbol|bm|pmb|mathit|mathnormal|mathcal|mathfrak|"
    r"mathscr|mathsf|mathtt|mathord|mathop|ensuremath|underline|uline|num|ang|emph)(?![A-Za-z])"
)
_TEXT = words("text textbf textit textrm textsf texttt textnormal textup textsc mbox hbox mathrm")
_GROUP = r"(?:,\\!|\{,\}\\!|,\{\}|\{,\}|\\text\{,\}|\\[,;:! ]|[ ~'])"
_TOKEN = re.compile(
    rf"""
    (?P<based>(?<![A-Za-z\\0-9.])(?=[A-F]*+[0-9])[0-9A-F]++\s*_\s*
        (?:\{{\s*(?:\\text\s*\{{)?\s*(?P<base>[0-9]+|[a-z]+)[\s}}]*\}}|(?P<digit>[0-9]+)))
    | (?P<number>
        (?P<grouped>[1-9][0-9]{{0,2}}(?P<sep>,|{_GROUP})[0-9]{{3}}(?:(?P=sep)[0-9]{{3}})*
            (?![0-9]))(?:\.[0-9]+)?
        | [0-9]+\.?[0-9]* | \.[0-9]+)
      (?P<repeats>\\(?:overline|bar|dot)\s*\{{?[0-9]+\}}?)?
      (?P<power>[eE][-+]?[0-9]+(?![A-Za-z0-9.]))?
    | \\mathbb\s*\{{?\s*(?P<set>[A-Z])\s*\}}?
    | \\operatorname\*?\s*\{{(?P<operator>[^{{}}]*)\}}
    | \\(?P<command>[A-Za-z]+)\*?
    | \\(?P<escaped>.)
    | (?P<letters>[A-Za-z]+)
    | (?P<space>\s+)
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_BASES = {
    "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "eleven": 11, "twelve": 12, "sixteen": 16,
}  # fmt: skip
_TIMES_TEN = re.compile(r"(?<=[0-9])\s*[xX]\s*(?=10\s*\^)")
_BRACKETED_BASE = re.compile(r"(?:\(|\\text\s*\{)\s*([0-9A-F]+)\s*[)}](?=\s*_)")
_BASE_IN_WORDS = re.compile(
    r"(?<![0-9A-F])(?=[A-F]*+[0-9])([0-9A-F]++)(?:\s|\\text\s*\{|\()+(?:in\s+)?base[\s}-]+([0-9]{1,2}|[a-z]+)[\s)}]*$"
)
_DOUBLED = re.compile(r"\\\\(?=[A-Za-z({\[%$])")
_UNIT_FRACTION = re.compile(
    r"\\[dt]?frac\s*\{\s*\\(?:text|mathrm)\s*(\{[A-Za-z ]+\})\s*\}"
    r"\s*\{\s*\\(?:text|mathrm)\s*(\{[A-Za-z ]+\})\s*\}"
)
_ORDINAL = re.compile(r"(?<=[0-9])\s*\^\s*\{\s*(?:\\\w+\s*\{)?(?:st|nd|rd|th)\s*\}+")
_HALF_OF_DAY = re.compile(r"(?<![A-Za-z])([AaPp])\.\s?[Mm]\.?(?![A-Za-z])")
_ROW_SPACE = re.compile(r"\\\\\s*\[[0-9.]+\s*(?:pt|em|ex|mm|cm)\]")


def tokens_of(answer: str, *, grouping: bool = True) -> list[Lexeme]:
    """Return the tokens of `answer`, which may contain math delimiters.

    grouping: a comma before three digits may be a thousands separator, outside brackets.

    Raises:
        Unread: it contains unsupported text.
    """
    answer = in_ascii(answer).translate(_TRANSLATION)
    if "\\" in answer:
        answer = _UNIT_FRACTION.sub(r"\\text\1/\\text\2", answer)
        answer = _ROW_SPACE.sub(r"\\\\ ", answer)
        if r"\begin" not in answer:
            answer = _DOUBLED.sub(r"\\", answer)
        answer = _FONT.sub("", _NOTHING.sub(" ", without_layout(answer)))
        for delimiter in (r"\(", r"\)", r"\[", r"\]"):
            answer = answer.replace(delimiter, " ")
    answer = _BRACKETED_BASE.sub(r"\1", _TIMES_TEN.sub("*", answer))
    answer = _ORDINAL.sub(" ", answer)
    if ":" in answer:
        answer = _HALF_OF_DAY.sub(r"\1m", answer.replace("{:}", ":"))
    answer = _BASE_IN_WORDS.sub(r"\1_{\2}", answer)
    return _Lexer(answer, grouping=grouping).read()


def canonical(tokens: list[Lexeme]) -> str:
    """Return the tokens as one text, without spelling variants and spaces."""
    parts: list[str] = []
    for before, token in zip([None, *tokens], tokens, strict=False):
        touching = before is not None and {before.kind, token.kind} <= {"number", "word", "based"}
        parts.append(f" {token.text}" if touching else token.text)
    return "".join(parts)


class Cursor:
    """A position in a list of tokens."""

    def __init__(self, tokens: list[Lexeme]) -> None:
        self._tokens = tokens
        self._at = 0

    def _peek(self, ahead: int = 0) -> Lexeme | None:
        at = self._at + ahead
        return self._tokens[at] if at < len(self._tokens) else None

    def _peek_is(self, text: str, ahead: int = 0) -> bool:
        token = self._peek(ahead)
        return token is not None and token.text == text and token.kind in ("symbol", "command")

    def _next(self) -> Lexeme:
        token = self._peek()
        if token is None:
            raise Unread("the answer ends early")
        self._at += 1
        return token

    def _take(self, text: str) -> bool:
        if self._peek_is(text):
            self._at += 1
            return True
        return False

    def _expect(self, text: str) -> None:
        if not self._take(text):
            raise Unread(f"no {text}")

    def _index_of_sign(self) -> int:
        """Return the index of the next relation outside brackets, or the end."""
        depth = 0
        for index in range(self._at, len(self._tokens)):
            text = self._tokens[index].text
            depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(text, 0)
            if depth < 0 or (depth == 0 and index > self._at and text in SIGNS):
                return index
        return len(self._tokens)

    def _closing(self, opening: int) -> int:
        depth = 0
        for index in range(opening, len(self._tokens)):
            depth += {"(": 1, ")": -1}.get(self._tokens[index].text, 0)
            if depth == 0:
                return index
        raise Unread("a bracket without end")


class _Lexer:
    """Reads tokens; `depth` counts brackets, inside which a comma separates."""

    def __init__(self, text: str, *, grouping: bool, in_text: bool = False, level: int = 0) -> None:
        self._text = text
        self._grouping = grouping
        self._in_text = in_text
        self._level = level
        self._tokens: list[Lexeme] = []
        self._depth = 0
        self._spaced = False

    def read(self) -> list[Lexeme]:
        position = 0
        while position < len(self._text):
            match = _TOKEN.match(self._text, position)
            assert match is not None
            position = match.end()
            match match.lastgroup:
                case "space":
                    self._spaced = True
                case "base" | "digit" | "based":
                    position = self._based(match)
                case "number" | "grouped" | "sep" | "repeats" | "power":
                    position = self._number(match)
                case "set":
                    self._add("command", f"mathbb {match['set']}")
                case "operator":
                    self._operator(match["operator"].strip())
                case "command":
                    position = self._command(match["command"], position)
                case "escaped":
                    self._escaped(match["escaped"])
                case "letters":
                    self._letters(match["letters"])
                case _:
                    self._other(match["other"])
        return self._tokens

    def _add(
        self, kind: Kind, text: str, value: Fraction | None = None, places: int | None = None
    ) -> None:
        self._tokens.append(Lexeme(kind, text, value, places, self._spaced, self._in_text))
        self._spaced = False

    def _based(self, match: re.Match[str]) -> int:
        """Read `101_2`, or only the digits if the base does not fit."""
        digits = match["based"].partition("_")[0].strip()
        written = match["base"] or match["digit"]
        base = int(written[:3]) if written.isdigit() else _BASES.get(written, 0)
        if 2 <= base <= 36 and all(int(digit, 36) < base for digit in digits):
            if base == 10:
                self._add("number", digits.lstrip("0") or "0", Fraction(int(digits)))
            else:
                self._add("based", f"{digits.lstrip('0') or '0'}_{base}")
            return match.end()
        if not digits.isdigit():
            raise Unread(match["based"])
        self._add("number", digits, Fraction(int(digits)))
        return match.start() + len(digits)

    def _number(self, match: re.Match[str]) -> int:
        written, end = match["number"], match.end("number")
        separator = match["sep"]
        if separator == "," and (self._depth or not self._grouping):
            end = match.start() + len(match["grouped"].partition(",")[0])
            written, separator = self._text[match.start() : end], None
        if separator is not None:
            written = written.replace(separator, "")
        digits = written.rstrip(".") or "0"
        value, places = Fraction(digits), len(digits.partition(".")[2]) or None
        if end == match.end("number") and match["repeats"]:
            value += _repeating(match["repeats"], places or 0)
            places, end = None, match.end("repeats")
            digits = f"{digits}{match['repeats']}"
        if end == match.start("power") and not self._in_text:
            exponent = int(match["power"][1:])
            if abs(exponent) > MAX_EXPONENT:
                raise Unread(match["power"])
            value *= Fraction(10) ** exponent
            digits, end = f"{digits}{match['power']}", match.end("power")
            places = None
        self._add("number", digits, value, places)
        return end

    def _operator(self, name: str) -> None:
        name = _RENAMED.get(name, name)
        if name not in FUNCTIONS and name not in ("Re", "Im", "tr", "rank", "mod"):
            raise Unread(f"operatorname {name}")
        self._add("command", name)

    def _command(self, name: str, position: int) -> int:
        if name in _TEXT:
            return self._text_group(name, position)
        name = _RENAMED.get(name, name)
        if name in ("and", "or"):
            self._add("word", name)
        elif name == "circ":
            self._add("command", "circ")
        elif name in _AS_SYMBOL:
            self._symbol(_AS_SYMBOL[name])
        else:
            self._add("command", name)
        return position

    def _text_group(self, name: str, position: int) -> int:
        """Read the group after \\text as text; \\mathrm of one letter is that letter."""
        begin = len(self._text) - len(self._text[position:].lstrip())
        if not self._text.startswith("{", begin):
            return position
        end, depth = begin + 1, 1
        while end < len(self._text) and depth:
            char = self._text[end]
            depth += {"{": 1, "}": -1}.get(char, 0) if self._text[end - 1] != "\\" else 0
            end += 1
        if depth or self._level == MAX_DEPTH:
            raise Unread("text without end")
        inside = self._text[begin + 1 : end - 1]
        if name == "mathrm" and inside.strip() in FUNCTIONS:
            self._add("command", inside.strip())
            return end
        if name == "mathrm" and len(inside.strip()) == 1 and inside.strip().isalpha():
            self._add("letter", inside.strip())
            return end
        spaced = self._spaced or inside[:1].isspace()
        inner = _Lexer(inside, grouping=self._grouping, in_text=True, level=self._level + 1)
        inner._spaced = spaced
        self._tokens += inner.read()
        self._spaced = inside[-1:].isspace()
        return end

    def _escaped(self, char: str) -> None:
        if char == "\\":
            self._add("command", "\\")
        elif char in "{}":
            self._symbol(f"\\{char}")
        elif char == "|":
            self._symbol("\\|")
        elif char in "%$":
            self._symbol(char)
        elif char == "_" and self._in_text:
            self._add("symbol", "_")
        elif char in " ,;:!>&#":
            self._spaced = True
        else:
            raise Unread(f"\\{char}")

    def _letters(self, run: str) -> None:
        lower = run.lower()
        after_number = bool(self._tokens) and self._tokens[-1].kind == "number"
        if lower == "mod":
            self._add("command", "mod")
        elif self._in_text or lower in _WORDS or (after_number and run in _NUMBER_UNITS):
            self._add("word", run if len(run) == 1 else lower)
        elif run in FUNCTIONS or lower == "pi":
            self._add("command", _RENAMED.get(run, run) if run in FUNCTIONS else "pi")
        elif lower in ("infinity", "inf"):
            self._add("command", "infty")
        elif (split := _function_prefix(run)) is not None:
            self._add("command", split)
            self._letters(run[len(split) :])
        elif len(run) > 3:
            self._add("word", lower)
        else:
            for letter in run:
                self._add("letter", letter)

    def _symbol(self, symbol: str) -> None:
        if symbol in ("(", "[", "\\{"):
            self._depth += 1
        elif symbol in (")", "]", "\\}"):
            self._depth = max(0, self._depth - 1)
        self._add("symbol", symbol)

    def _other(self, char: str) -> None:
        if char in '$&~`"“”‘’':
            # A dollar sign is a delimiter; money is \$.
            if char != "&" or "\\begin" not in self._text:
                self._spaced = True
                return
        elif char == "." and (self._in_text or not self._tokens):
            self._spaced = True
            return
        elif char not in "+-*/^_=<>!()[]{}|,;:'%£€.?":
            raise Unread(char)
        self._symbol(char)


def _repeating(written: str, places: int) -> Fraction:
    digits = "".join(filter(str.isdigit, written))
    return Fraction(int(digits), (10 ** len(digits) - 1) * 10**places)


def _function_prefix(run: str) -> str | None:
    """The function at the start of `sinx` or `lnab`."""
    for length in (4, 3, 2):
        if run[:length] in ("sin", "cos", "tan", "ln", "log", "sqrt") and len(run) <= length + 1:
            return run[:length] if len(run) > length else None
    return None
