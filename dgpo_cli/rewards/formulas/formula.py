r"""Parses an answer into nodes: lists of statements, which are relations, labels, words, values.

Unsupported text raises `Unread`; only a few words such as "the answer is" are skipped.
"""

from __future__ import annotations

from fractions import Fraction

from dgpo_cli.rewards import vocabulary as v
from dgpo_cli.rewards.formulas.expression import CALCULUS, FUNCTION_LETTERS, ExpressionReader
from dgpo_cli.rewards.formulas.nodes import (
    Call,
    Constant,
    Labelled,
    Name,
    Node,
    Number,
    Quantity,
    Relation,
    Several,
    Words,
)
from dgpo_cli.rewards.formulas.tokens import SIGNS, Lexeme, Unread, canonical, tokens_of

MAX_CHARS = 4096  # a longer text is not a final answer, nor a valid argument of int()
MAX_TOKENS = 2000
_LEAD = v.words(
    "the final answer correct is are result value solution so thus hence therefore we get have it "
    "equals equal to be that our my a an if for when"
)
_ALIASES: dict[str, Node] = {
    **dict.fromkeys(["all real numbers", "all reals", "real numbers"], Constant("R")),
    **dict.fromkeys(["no solution", "no solutions", "empty set"], Constant("emptyset")),
    "infinity": Constant("infty"),
    "dne": Words("does not exist"),
}
AMOUNTS = {
    "hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12,
    "dozen": 12, "lakh": 10**5, "crore": 10**7,
}  # fmt: skip
_CLOSERS = frozenset(["rangle", "rfloor", "rceil", "end", "choose"])
_POWERS = {"square": "2", "sq": "2", "cubic": "3", "cu": "3"}


def read(answer: str, *, grouping: bool = True) -> Node:
    """Parse `answer`; grouping as in `tokens_of`.

    Raises:
        Unread: it is not supported, too long or too deep.
    """
    if len(answer) > MAX_CHARS:
        raise Unread(f"{len(answer)} characters")
    tokens = _conclusion(tokens_of(answer, grouping=grouping))
    if not tokens or len(tokens) > MAX_TOKENS:
        raise Unread(f"{len(tokens)} tokens")
    return _AnswerReader(tokens).answer()


def _conclusion(tokens: list[Lexeme]) -> list[Lexeme]:
    """Return the tokens after the last arrow, up to reasons and `for all x`."""
    arrows = [at for at, token in enumerate(tokens) if token.text == "implies"]
    if arrows and arrows[-1] + 1 < len(tokens):
        tokens = tokens[arrows[-1] + 1 :]
    for at, token in enumerate(tokens):
        if token.kind != "word" or not at:
            continue
        for_all = token.text == "for" and tokens[at + 1 : at + 2]
        everywhere = for_all and for_all[0].text in ("all", "every", "any", "each")
        if token.text in v.REASONS or (everywhere and _is_one_name(tokens[at + 2 :])):
            return tokens[: at - 1] if tokens[at - 1].text == "," else tokens[:at]
    return tokens


def _is_one_name(tokens: list[Lexeme]) -> bool:
    """Whether `tokens` are a letter, or its range and a letter: `integers n`."""
    kinds = [token.kind for token in tokens]
    return kinds in (["letter"], ["word", "letter"], ["word"])


class _AnswerReader(ExpressionReader):
    # Lists and statements

    def answer(self) -> Node:
        node = self._list()
        if self._at < len(self._tokens):
            raise Unread(self._tokens[self._at].text)
        return node

    def _list(self) -> Node:
        """Read statements between commas, `and`, `or` and row ends, to the end of the list."""
        items: list[Node] = []
        joiners: set[str] = set()
        while True:
            while (joiner := self._separator()) is not None:
                joiners.add(joiner)
            if self._ends():
                break
            if items and not joiners:
                raise Unread("two statements without a separator")
            items.append(self._statement())
            if not self._ends() and self._peek_separator() is None:
                raise Unread(self._tokens[self._at].text)
        if not items:
            raise Unread("nothing")
        if len(items) == 1:
            return items[0]
        joiner = next((one for one in ("or", "and") if one in joiners), ",")
        return Several(tuple(items), joiner)

    def _ends(self) -> bool:
        token = self._peek()
        if token is None:
            return True
        if token.kind == "symbol" and token.text == "|":
            return self._bars > 0 or self._in_set
        if token.text == ":" and self._in_set:
            return True
        if self._in_grid and token.text in ("&", "\\"):
            return True
        if token.kind == "symbol" and token.text in (")", "]", "\\}", "}", "\\|"):
            return True
        return token.kind == "command" and token.text in _CLOSERS

    def _peek_separator(self) -> str | None:
        token = self._peek()
        if token is None:
            return None
        if token.kind == "symbol" and token.text in (",", ";"):
            return ","
        if token.kind == "command" and token.text == "\\" and not self._in_grid:
            return ","
        return token.text if token.kind == "word" and token.text in ("and", "or") else None

    def _separator(self) -> str | None:
        joiner = self._peek_separator()
        if joiner is not None:
            self._at += 1
            following = self._peek()
            if joiner == "," and following is not None and following.text == "=":
                raise Unread("a row that begins with =")
        return joiner

    def _statement(self) -> Node:
        """Read one item of a list: an expression, a relation, a label with its value, words."""
        outer, self._units = self._units, []
        self._skip_lead()
        first = self._declared() or self._words() or self._union()
        if isinstance(first, Words) and self._take(":"):
            node: Node = Labelled(first.text, self._statement())
        elif self._peek_is(":") and not self._in_set:
            node = self._ratio(first)
        else:
            node = first
        members, signs = [node], []
        while (sign := self._sign()) is not None:
            signs.append(sign)
            congruent, self._congruent = self._congruent, sign == "equiv"
            members.append(self._words() or self._union())
            self._congruent = congruent
            if self._peek_is(":") and not self._in_set:
                members[-1] = self._ratio(members[-1])
        modulus = self._modulus()
        if signs or modulus is not None:
            node = Relation(tuple(members), tuple(signs), modulus)
        if self._units:
            node = _measured(node, tuple(self._units))
        self._units = outer
        return node

    def _ratio(self, first: Node) -> Node:
        items, begin = [first], self._at - 1
        while self._take(":"):
            items.append(self._union())
        written = canonical([one for one in self._tokens[begin : self._at] if one.kind != "word"])
        minutes = written.rpartition(":")[2]
        if len(minutes) == 2 and len(items) < 4 and written.replace(":", "").isdigit():
            return Words(written)  # 12:00 is a time
        return Call("ratio", tuple(items))

    def _sign(self) -> str | None:
        token = self._peek()
        if token is None or token.kind not in ("symbol", "command"):
            return None
        text = token.text
        if text == "!" and self._peek_is("=", 1):
            self._at += 2
            return "!="
        if text == "not" and token.kind == "command":
            self._at += 1
            inner = self._sign()
            if inner in ("=", "in"):
                return {"=": "!=", "in": "notin"}[inner]
            raise Unread("not")
        if text not in SIGNS or (text == "in" and token.kind != "command"):
            return None
        self._at += 1
        if text in "<>" and self._take("="):
            return f"{text}="
        return SIGNS[text]

    def _modulus(self) -> Node | None:
        token = self._peek()
        if token is None:
            return None
        if token.kind == "command" and token.text in ("pmod", "mod", "bmod"):
            self._at += 1
            return self._argument() if token.text == "pmod" else self._union()
        inside = self._peek(1)
        if token.text == "(" and inside is not None and inside.text in ("mod", "bmod", "pmod"):
            self._at += 2
            modulus = self._union()
            self._expect(")")
            return modulus
        return None

    def _declared(self) -> Node | None:
        r"""Read `f(x)`, `P(A)`, `\lim_{n\to\infty} a_n` and the like before `=`, as a name."""
        token = self._peek()
        if token is None or token.kind not in ("letter", "command"):
            return None
        end = self._at
        if token.kind == "command":
            if token.text not in CALCULUS:
                return None
            end = self._index_of_sign()
            if end == len(self._tokens) or self._tokens[end].text != "=":
                return None
        else:
            opening = self._after_marks(end + 1)
            if not self._tokens[opening:] or self._tokens[opening].text != "(":
                return None
            closing = self._closing(opening)
            after = self._tokens[closing + 1 : closing + 2]
            inside = closing - opening - 1
            known = token.text in FUNCTION_LETTERS or token.text in "PEpqTVSNA"
            if not after or after[0].text != "=" or inside < 1 or not (known or inside == 1):
                return None
            end = closing + 1
        name = canonical(self._tokens[self._at : end])
        self._at = end
        return Name(name, opaque=token.kind == "command")

    def _after_marks(self, at: int) -> int:
        """Return the end of a name with primes, indices and powers: `f''`, `f_1`, `f^{-1}`."""
        while at < len(self._tokens) and self._tokens[at].text in ("'", "^", "_"):
            braced = self._tokens[at + 1 : at + 2]
            if self._tokens[at].text == "'":
                at += 1
            elif braced and braced[0].text == "{":
                texts = [token.text for token in self._tokens[at:]]
                at += texts.index("}") + 1 if "}" in texts else len(texts)
            else:
                at += 2
        return at

    # Words and units

    def _skip_lead(self) -> None:
        """Skip `The answer is`, but not `Area =`, and an equals sign in front."""
        start = at = self._at
        while at < len(self._tokens) and self._tokens[at].kind == "word":
            if self._tokens[at].text in ("and", "or"):
                break
            at += 1
        said = [token.text for token in self._tokens[start:at]]
        more = at < len(self._tokens) and not self._ends_at(at)
        if said and more and all(v.may_lead(word, "text") for word in said):
            known = all(word in _LEAD for word in said)
            if known or (said[-1] in ("is", "are", "equals") and "of" not in said[-2:]):
                self._at = at
                self._take(":")
        if self._at == start == 0 or self._at > start:
            self._take("=")

    def _ends_at(self, at: int) -> bool:
        here, self._at = self._at, at
        ends = self._ends() or self._peek_separator() is not None or self._peek_is(":")
        self._at = here
        return ends and self._tokens[at].text != ":"

    def _words(self) -> Node | None:
        """Read words alone, if nothing follows that they could belong to."""
        at = self._at
        while at < len(self._tokens) and self._tokens[at].kind == "word":
            if self._tokens[at].text in ("and", "or"):
                break
            at += 1
        if at == self._at or (at == self._at + 1 and len(self._tokens[at - 1].text) == 1):
            return None
        text = " ".join(token.text for token in self._tokens[self._at : at])
        following = self._tokens[at].text if at < len(self._tokens) else ""
        self._at = at
        if self._ends() or self._peek_separator() or following == ":" or following in SIGNS:
            return _ALIASES.get(text.lower()) or Words(_singular(text.lower()))
        raise Unread(text)

    def _unit(self, value: Node) -> Node:
        """Read the words after `value`: units go to the statement, amounts multiply."""
        power = ""
        while (token := self._peek()) is not None:
            if token.kind == "symbol" and token.text == "/" and self._next_is_unit():
                self._at += 1
                self._units.append("per")
                continue
            if token.kind == "letter" and self._is_unit_letter(token):
                self._units.append(token.text)
                self._at += 1
                continue
            if token.kind != "word" or token.text in ("and", "or"):
                break
            self._at += 1
            word = token.text
            if word == "per" and self._peek_is_word("cent"):
                self._at += 1
                word = "percent"
            lower = word.lower().removesuffix("s")
            if lower in AMOUNTS:
                value = Call("*", (value, Number(Fraction(AMOUNTS[lower]))))
            elif word in v.PERCENT:
                value = Call("percent", (value,))
            elif word in _POWERS:
                power = _POWERS[word]
            elif word in ("st", "nd", "rd", "th") or v.may_follow(word, "text"):
                written = self._power_of_unit() or power
                self._units.append(f"{word}^{written}" if written not in ("", "1") else word)
                power = ""
            else:
                raise Unread(word)
        return value

    def _next_is_unit(self) -> bool:
        following = self._peek(1)
        return bool(self._units) and following is not None and following.kind == "word"

    def _is_unit_letter(self, token: Lexeme) -> bool:
        """Whether `token` is the m in `5 m` at the end; 5m is a product."""
        if not (token.spaced and v.may_follow(token.text, "bare")):
            return False
        before, after = self._tokens[self._at - 1], self._peek(1)
        return before.kind == "number" and (after is None or after.text in (",", ";"))

    def _peek_is_word(self, word: str) -> bool:
        token = self._peek()
        return token is not None and token.kind == "word" and token.text == word

    def _power_of_unit(self) -> str:
        if not self._take("^"):
            return ""
        exponent = self._script()
        if isinstance(exponent, Number):
            return str(exponent.value)
        raise Unread("a unit's power")


def _singular(text: str) -> str:
    """Return `text` without plural s and without an article in front."""
    first, *more = text.split()
    kept = more if more and first in ("a", "an", "the") else [first, *more]
    return " ".join(word.removesuffix("s") if len(word) > 3 else word for word in kept)


def _measured(node: Node, units: tuple[str, ...]) -> Node:
    """Return `node` with its units, which belong to the last member of a relation."""
    if isinstance(node, Relation):
        last = Quantity(node.members[-1], units)
        return Relation((*node.members[:-1], last), node.signs, node.modulus)
    return Quantity(node, units)
