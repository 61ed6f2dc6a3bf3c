r"""Parses expressions: sums, products, powers, functions, brackets. Evaluates nothing.

Ambiguous text is read as typeset, or not at all. The exception is `2^10`: without braces it is
plain text, and 1024.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from fractions import Fraction

from dgpo_cli.rewards.formulas.nodes import (
    Bracketed,
    Call,
    Constant,
    Grid,
    Name,
    Node,
    Number,
    Relation,
    Several,
    Words,
)
from dgpo_cli.rewards.formulas.tokens import FUNCTIONS, SIGNS, Cursor, Lexeme, Unread, canonical
from dgpo_cli.rewards.vocabulary import GREEK

MAX_DEPTH = 50  # of brackets in brackets
CALCULUS = frozenset(["lim", "int", "iint", "oint", "limsup", "liminf", "sup", "inf"])
_MARKED = frozenset(["overline", "vec", "hat", "tilde", "dot", "ddot"])
_FIGURES = frozenset(["angle", "triangle", "widehat", "measuredangle", "square", "odot"])
_PAIRS = {"(": (")", "]"), "[": ("]", ")"), "\\{": ("\\}",), "langle": ("rangle",)}
FUNCTION_LETTERS = frozenset("fghFGH")


class ExpressionReader(Cursor, ABC):
    """Parser of expressions; the content of brackets is parsed like a whole answer."""

    def __init__(self, tokens: list[Lexeme]) -> None:
        super().__init__(tokens)
        self._depth = 0
        self._bars = 0  # open | of absolute values
        self._in_set = False
        self._in_grid = False
        self._congruent = False  # behind the sign of a congruence, whose modulus is to come
        self._indices: list[str] = []  # of sums; i is a number elsewhere
        self._units: list[str] = []

    @abstractmethod
    def _list(self) -> Node:
        """Read the content of brackets: statements between commas."""

    @abstractmethod
    def _statement(self) -> Node:
        """Read one item of a list."""

    @abstractmethod
    def _unit(self, value: Node) -> Node:
        """Read the words after `value`."""

    # Expressions

    def _union(self) -> Node:
        left = self._sum()
        while (token := self._peek()) is not None and token.kind in ("command", "letter"):
            name = {"cup": "cup", "cap": "cap", "setminus": "setminus", "U": "cup"}.get(token.text)
            if name is None:
                break
            self._at += 1
            left = Call(name, (left, self._sum()))
        return left

    def _sum(self) -> Node:
        terms = [self._signed_product()]
        while (token := self._peek()) is not None and token.kind != "word":
            if token.text not in ("+", "-", "pm", "mp"):
                break
            terms.append(self._signed_product())
        return terms[0] if len(terms) == 1 else Call("+", tuple(terms))

    def _signed_product(self) -> Node:
        token = self._peek()
        if token is not None and token.text in ("+", "-", "pm", "mp") and token.kind != "word":
            self._at += 1
            self._deeper()
            inner = self._signed_product()
            self._depth -= 1
            return inner if token.text == "+" else Call(token.text, (inner,))
        return self._product()

    def _product(self) -> Node:
        left = self._unit(self._power())
        while (token := self._peek()) is not None:
            operator = token.text if token.kind in ("symbol", "command") else ""
            if operator in ("*", "div", "/") or (operator == "bmod" and not self._congruent):
                self._at += 1
                right = self._signed_power()
                name = {"*": "*", "bmod": "mod"}.get(operator, "/")
                left = self._unit(Call(name, (left, right)))
            elif self._starts_factor(token):
                left = self._unit(self._juxtaposed(left, token))
            else:
                break
        return left

    def _juxtaposed(self, left: Node, token: Lexeme) -> Node:
        """Read `2x`, and the mixed numbers `1\frac{1}{2}` and `3 1/2`."""
        before = self._tokens[self._at - 1]
        if before.kind == "word" and len(before.text) > 1:
            raise Unread("2 if x is not 2x")
        if token.kind == "number" and before.text != "!":
            slash = self._peek_is("/", 1) and self._peek(2) is not None
            last = self._tokens[self._at + 2] if slash else None
            if last is None or last.value is None or token.value is None or not token.spaced:
                raise Unread("two numbers side by side")
            if before.kind != "number" or not isinstance(left, Number):
                raise Unread("two numbers side by side")
            self._at += 3
            return _mixed(left, Call("/", (Number(token.value), Number(last.value))))
        right = self._power()
        if isinstance(right, Bracketed) and isinstance(left, Name) and left.text.isupper():
            return Relation((left, right), ("=",))  # the point P(1, 2)
        if before.kind == "number" and token.text == "frac" and isinstance(left, Number):
            return _mixed(left, right)
        return Call("*", (left, right))

    def _starts_factor(self, token: Lexeme) -> bool:
        if token.kind in ("number", "letter"):
            return not (token.text == "U" and self._tokens[self._at - 1].text in (")", "]"))
        if token.kind == "symbol":
            if token.text == "|":
                return not self._bars and not self._in_set
            return token.text in ("(", "[", "{") and self._modulus_ahead() is False
        if token.kind == "word":
            return len(token.text) == 1 and token.in_text is False
        return token.kind == "command" and token.text not in SIGNS and token.text in _ATOMS

    def _modulus_ahead(self) -> bool:
        inside = self._peek(1)
        return inside is not None and inside.text in ("mod", "bmod", "pmod")

    def _signed_power(self) -> Node:
        if self._peek_is("-"):
            self._at += 1
            self._deeper()
            inner = self._signed_power()
            self._depth -= 1
            return Call("-", (inner,))
        self._take("+")
        return self._power()

    def _power(self) -> Node:
        base = self._atom()
        while (token := self._peek()) is not None and token.kind in ("symbol", "command"):
            if token.text == "!" and not self._peek_is("=", 1):
                self._at += 1
                base = Call("!", (base,))
            elif token.text == "%":
                self._at += 1
                base = Call("percent", (base,))
            elif token.text == "circ":
                self._at += 1
                base = Call("degree", (base,))
            elif token.text == "^":
                self._at += 1
                base = self._raised(base)
            elif token.text == "'" and isinstance(base, Name):
                self._at += 1
                base = Name(f"{base.text}'")
            else:
                break
        return base

    def _raised(self, base: Node) -> Node:
        braced = self._peek_is("{")
        inside = self._peek(1 if braced else 0)
        if inside is not None and inside.text in ("circ", "'", "st", "nd", "rd", "th"):
            self._at += 2 if braced else 1
            if braced:
                self._expect("}")
            if inside.text == "'" and isinstance(base, Name):
                return Name(f"{base.text}'")
            return Call("degree", (base,)) if inside.text == "circ" else base
        exponent = self._script()
        if self._take("^"):
            exponent = self._raised(exponent)
        return Call("^", (base, exponent))

    def _script(self) -> Node:
        """Read the argument of `^`: a group, or one atom with its sign."""
        if self._peek_is("-"):
            self._at += 1
            return Call("-", (self._script(),))
        return self._argument()

    # Atoms

    def _atom(self) -> Node:
        token = self._next()
        if token.kind == "number":
            assert token.value is not None
            return Number(token.value, token.places)
        if token.kind == "based":
            return Words(token.text)
        if token.kind == "letter" or (token.kind == "word" and len(token.text) == 1):
            return self._name(token.text)
        if token.kind == "symbol":
            return self._bracket(token.text)
        if token.kind == "command":
            return self._command(token.text)
        raise Unread(token.text)

    def _name(self, text: str) -> Node:
        if self._peek_is("_"):
            self._at += 1
            text += f"_{self._written()}"
        elif text in ("e", "i") and text not in self._indices:
            return Constant(text)
        if text in FUNCTION_LETTERS and self._peek_is("("):
            closing = self._closing(self._at)
            if text != "f" and closing - self._at > 2:
                return Name(text)  # h(a + b) is a product
            text += canonical(self._tokens[self._at : closing + 1])
            self._at = closing + 1
        return Name(text)

    def _written(self) -> str:
        """Return the next group or token as written, without its braces."""
        begin = self._at
        if not self._take("{"):
            self._at += 1
            return canonical(self._tokens[begin : self._at])
        depth = 1
        while depth:
            depth += {"{": 1, "}": -1}.get(self._next().text, 0)
        return canonical(self._tokens[begin + 1 : self._at - 1])

    def _bracket(self, opener: str) -> Node:
        if opener == "{":
            return self._group()
        if opener == "|":
            self._bars += 1
            node = self._list()
            self._bars -= 1
            self._expect("|")
            return Call("abs", (node,))
        if opener == "\\|":
            inside = self._sum()
            self._expect("\\|")
            return Call("norm", (inside,))
        if opener in ("$", "£", "€"):
            self._units.append(opener)
            return self._power()
        if opener not in _PAIRS:
            raise Unread(opener)
        return self._row(opener)

    def _group(self) -> Node:
        node = self._inside(self._list)
        if self._take("choose"):
            node = Call("binom", (node, self._inside(self._list)))
        if self._at < len(self._tokens):  # an unclosed brace ends with the answer
            self._expect("}")
        return node

    def _inside(self, part: Callable[[], Node]) -> Node:
        """Read `part` inside brackets."""
        self._deeper()
        bars, self._bars = self._bars, 0
        node = part()
        self._bars = bars
        self._depth -= 1
        return node

    def _row(self, opener: str) -> Node:
        in_set, self._in_set = self._in_set, opener == "\\{"
        if opener == "\\{" and self._take("\\}"):
            self._in_set = in_set
            return Constant("emptyset")
        node = self._inside(self._list)
        if self._in_set and (self._take("|") or self._take(":")):
            node = Call("where", (node, self._inside(self._list)))
            self._in_set = in_set
            self._expect("\\}")
            return node
        self._in_set = in_set
        closer = self._next().text
        if closer not in _PAIRS[opener]:
            raise Unread(f"{opener} closed by {closer}")
        if isinstance(node, Several) and node.joiner == ",":
            return Bracketed(opener, closer, node.items)
        if opener in ("\\{", "langle"):
            items = node.items if isinstance(node, Several) else (node,)
            return Bracketed(opener, closer, items)
        if closer != _PAIRS[opener][0]:
            raise Unread("half an interval")
        return node

    def _command(self, name: str) -> Node:
        if name in _READERS:
            return _READERS[name](self)
        if name in GREEK:
            return self._name(f"\\{name}")
        if name.startswith("mathbb "):
            return Constant(self._number_set(name[-1]))
        if name in FUNCTIONS or name in ("Re", "Im", "Pr"):
            return self._function(name)
        if name in _MARKED:
            return Name(f"\\{name}{{{self._written()}}}")
        if name in _FIGURES:
            letters = f"\\{name} "
            while (token := self._peek()) is not None and token.kind == "letter":
                letters += token.text
                self._at += 1
            return Name(letters)
        if name in CALCULUS:
            begin = self._at - 1
            self._at = self._index_of_sign()
            return Name(canonical(self._tokens[begin : self._at]), opaque=True)
        raise Unread(f"\\{name}")

    def _number_set(self, letter: str) -> str:
        script = ""
        while self._peek_is("^") or self._peek_is("_"):
            script += self._next().text + self._written()
        return letter + script

    def _fraction(self) -> Node:
        begin = self._at
        top, bottom = self._argument(), self._argument()
        if _begins_with_d(top) and isinstance(bottom, Call) and _begins_with_d(bottom):
            return Name(f"\\frac{canonical(self._tokens[begin : self._at])}")
        return Call("/", (top, bottom))

    def _binomial(self) -> Node:
        return Call("binom", (self._argument(), self._argument()))

    def _root(self) -> Node:
        degree: Node = Number(Fraction(2))
        if self._take("["):
            degree = self._inside(self._list)
            self._expect("]")
        return Call("root", (self._argument(), degree))

    def _argument(self) -> Node:
        """Read a group in braces or round brackets, or one atom; one digit of `\\frac12`."""
        token = self._peek()
        if token is None:
            raise Unread("an argument is missing")
        if token.kind == "number" and self._single_digits() and token.text.isdigit():
            rest = token.text[1:]
            if rest:
                last = Lexeme("number", rest, Fraction(int(rest)))
                self._tokens[self._at : self._at + 1] = [
                    Lexeme("number", token.text[0], Fraction(int(token.text[0]))),
                    last,
                ]
        return self._atom()

    def _single_digits(self) -> bool:
        before = self._tokens[self._at - 1]
        earlier = self._tokens[self._at - 2] if self._at > 1 else before
        return before.text == "frac" or earlier.text == "frac"

    def _function(self, name: str) -> Node:
        extra: tuple[Node, ...] = ()
        power: Node | None = None
        while self._peek_is("^") or self._peek_is("_"):
            if self._next().text == "_":
                extra = (self._argument(),)
            else:
                power = self._script()
        argument = self._function_argument()
        args = argument.items if isinstance(argument, Several | Bracketed) else (argument,)
        if name == "sqrt":
            return Call("root", (argument, Number(Fraction(2))))
        node: Node = Call(name, (*args, *extra))
        if power is None:
            return node
        if power == Call("-", (Number(Fraction(1)),)) and f"arc{name}" in FUNCTIONS:
            return Call(f"arc{name}", args)
        return Call("^", (node, power))

    def _function_argument(self) -> Node:
        token = self._peek()
        if token is not None and token.text in ("(", "[", "{"):
            return self._power() if token.text == "{" else self._atom()
        if self._peek_is("-"):
            return self._signed_power()
        left = self._power()
        while (token := self._peek()) is not None and self._starts_factor(token):
            if token.text in FUNCTIONS or token.text == "(" or token.kind == "number":
                break
            left = Call("*", (left, self._power()))
        if self._peek_is("/") and (after := self._peek(1)) is not None and after.kind == "number":
            self._at += 1
            left = Call("/", (left, self._power()))
        return left

    def _sum_or_product(self, name: str) -> Node:
        begin = self._at - 1
        if not self._take("_"):
            raise Unread(name)
        index = self._peek(1)
        self._indices.append(index.text if index is not None else "")
        node = self._series(name, begin)
        self._indices.pop()
        return node

    def _series(self, name: str, begin: int) -> Node:
        low = self._argument()
        if not self._take("^"):
            raise Unread(name)
        high = self._argument()
        body = self._product()
        if Constant("infty") in (high, low):
            return Name(canonical(self._tokens[begin : self._at]), opaque=True)
        if isinstance(low, Relation) and low.signs == ("=",) and isinstance(low.members[0], Name):
            return Call(name, (low.members[0], low.members[1], high, body))
        return Name(canonical(self._tokens[begin : self._at]), opaque=True)

    def _rounded(self, name: str) -> Node:
        inside = self._inside(self._list)
        self._expect(f"r{name}")
        return Call(name, (inside,))

    def _environment(self) -> Node:
        kind = self._written().removesuffix("*")
        if kind == "array":
            self._written()
        if kind not in ("pmatrix", "bmatrix", "vmatrix", "matrix", "array", "cases", "smallmatrix"):
            raise Unread(kind)
        in_grid, self._in_grid = self._in_grid, True
        rows: list[tuple[Node, ...]] = []
        row: list[Node] = []
        while not (self._peek_is("end") or self._peek() is None):
            if self._take("&"):
                continue
            if self._take("\\"):
                rows.append(tuple(row))
                row = []
                continue
            row.append(self._inside(self._list if kind == "cases" else self._statement))
            if kind != "cases":
                self._take(",")
        self._in_grid = in_grid
        self._expect("end")
        self._written()
        rows += [tuple(row)] if row else []
        if kind == "cases" and all(len(row) == 1 for row in rows):
            return Several(tuple(item for row in rows for item in row), ",")  # a system
        grid = Grid(tuple(rows), cases=kind == "cases")
        return Call("det", (grid,)) if kind == "vmatrix" else grid

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Unread("too deep")


_READERS: dict[str, Callable[[ExpressionReader], Node]] = {
    "frac": ExpressionReader._fraction,
    "binom": ExpressionReader._binomial,
    "sqrt": ExpressionReader._root,
    "sum": lambda reader: reader._sum_or_product("sum"),
    "prod": lambda reader: reader._sum_or_product("prod"),
    "lfloor": lambda reader: reader._rounded("floor"),
    "lceil": lambda reader: reader._rounded("ceil"),
    "begin": ExpressionReader._environment,
    "langle": lambda reader: reader._row("langle"),
    "pi": lambda reader: Constant("pi"),
    "infty": lambda reader: Constant("infty"),
    "emptyset": lambda reader: Constant("emptyset"),
    "ldots": lambda reader: Constant("..."),
}
_CALCULUS_ATOMS = frozenset(["Re", "Im", "lim", "int", "sum", "prod"])
_ATOMS = frozenset(_READERS) | GREEK | FUNCTIONS | _MARKED | _FIGURES | _CALCULUS_ATOMS


def _begins_with_d(node: Node) -> bool:
    """Whether `node` is the d or the dy of a derivative."""
    while isinstance(node, Call) and node.name == "*":
        node = node.args[0]
    return node == Name("d")


def _mixed(whole: Number, part: Node) -> Node:
    r"""Return `1\frac{1}{2}` as 3/2; an improper fraction is an error."""
    match part:
        case Call("/", (Number(top), Number(bottom))):
            if 0 < top < bottom and top.denominator == bottom.denominator == 1:
                return Call("+", (whole, part))
            raise Unread("no mixed number")
        case Call("percent" | "degree" as name, (inner,)):
            return Call(name, (_mixed(whole, inner),))
    return Call("*", (whole, part))
