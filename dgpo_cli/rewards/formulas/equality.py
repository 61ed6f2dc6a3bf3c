"""Compares two parsed answers by the rules of the table in `rewards/math.py`."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from dgpo_cli.rewards.formulas.congruences import same_congruence
from dgpo_cli.rewards.formulas.nodes import (
    Bracketed,
    Call,
    Constant,
    Grid,
    Labelled,
    Name,
    Node,
    Number,
    Quantity,
    Relation,
    Several,
    Words,
    below,
    children,
    spread,
    variables,
)
from dgpo_cli.rewards.formulas.parameters import without_conditions
from dgpo_cli.rewards.formulas.realsets import same_real_set
from dgpo_cli.rewards.formulas.sameness import proportional, same_ratios, same_value, same_zeros
from dgpo_cli.rewards.formulas.units import units_agree

MAX_ITEMS = 200  # of a list or set
_MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
_SYMMETRIC = frozenset(["=", "!=", "approx", "cong", "sim", "parallel", "perp", "iff"])


def equal(gold: Node, answer: Node) -> bool:
    """Whether `answer` means the same as `gold`.

    Raises:
        TooLarge: a value is too large to compare.
    """
    gold, answer = without_conditions(spread(gold), spread(answer))
    if gold == answer:
        return True
    gold_set, answer_set = _members(gold), _members(answer)
    if gold_set is not None or answer_set is not None:
        return _same_members(gold, answer, gold_set, answer_set)
    if isinstance(gold, Relation) or isinstance(answer, Relation):
        return _related(gold, answer)
    return _same(gold, answer)


def _same(gold: Node, answer: Node) -> bool:
    """Compare nodes other than lists, sets and relations."""
    gold, answer = _in_degrees(gold), _in_degrees(answer)
    if _is_ratio(gold):
        answer = _as_ratio(answer)
    if _is_spelt(gold) or _is_spelt(answer):
        return gold == answer
    match gold, answer:
        case Quantity() | Labelled(), _:
            return _dressed(gold, answer)
        case _, Quantity() | Labelled():
            return _dressed(gold, answer)
        case Words(), _:
            return False
        case _, Words():
            return False
        case Bracketed(), Bracketed():
            same = (gold.opener, gold.closer) == (answer.opener, answer.closer)
            return same and _in_order(gold.items, answer.items)
        case Grid(), Grid():
            return _same_grid(gold, answer)
    if _is_ratio(gold) or _is_ratio(answer):
        return _same_ratio(gold, answer)
    if _is_set(gold) or _is_set(answer):
        return same_real_set(gold, answer)
    return same_value(gold, answer)


def _is_spelt(node: Node) -> bool:
    """Whether `node` is three or more adjacent capitals, like CAB: an order, not a product."""
    if not isinstance(node, Call) or node.name != "*":
        return False
    letters = [one for one in below(node) if not (isinstance(one, Call) and one.name == "*")]
    return len(letters) > 2 and all(
        isinstance(one, Name) and len(one.text) == 1 and one.text.isupper() for one in letters
    )


def _in_degrees(node: Node) -> Node:
    """Return an angle in degrees as a quantity with that unit."""
    match node:
        case Call("degree", (inner,)):
            return Quantity(inner, ("degree",))
        case Quantity(Call("degree", (inner,)), units):
            return Quantity(inner, ("degree", *units))
    return node


def _dressed(gold: Node, answer: Node) -> bool:
    """Compare units and labels, then their values."""
    if isinstance(gold, Labelled) or isinstance(answer, Labelled):
        if not (isinstance(gold, Labelled) and isinstance(answer, Labelled)):
            return False
        return gold.label == answer.label and equal(gold.value, answer.value)
    gold, gold_units = (gold.value, gold.units) if isinstance(gold, Quantity) else (gold, ())
    answer, units = (answer.value, answer.units) if isinstance(answer, Quantity) else (answer, ())
    return units_agree(gold_units, units) and equal(gold, answer)


def _in_order(golds: Sequence[Node], answers: Sequence[Node]) -> bool:
    return len(golds) == len(answers) and all(map(equal, golds, answers))


def _same_grid(gold: Grid, answer: Grid) -> bool:
    if gold.cases != answer.cases or len(gold.rows) != len(answer.rows):
        return False
    if gold.cases:
        rows = [Bracketed("(", ")", row) for row in gold.rows]
        return _matched(rows, [Bracketed("(", ")", row) for row in answer.rows])
    return all(map(_in_order, gold.rows, answer.rows))


def _is_ratio(node: Node) -> bool:
    return isinstance(node, Call) and node.name == "ratio"


def _as_ratio(node: Node) -> Node:
    """Return 6:10, which alone is a time, as a ratio, to compare with 3:5."""
    if not (isinstance(node, Words) and ":" in node.text):
        return node
    parts = node.text.split(":")
    if not all(part.isdecimal() and part[0] != "0" for part in parts):
        return node
    return Call("ratio", tuple(Number(Fraction(part)) for part in parts))


def _same_ratio(gold: Node, answer: Node) -> bool:
    """Whether two ratios are equal: 3:4, 6:8 and 3/4."""
    one, other = (
        node.args if isinstance(node, Call) and node.name == "ratio" else None
        for node in (gold, answer)
    )
    if one is None or other is None:
        return len(one or other or ()) == 2 and same_value(gold, answer)
    if len(one) != len(other):
        return False
    return all(
        same_value(Call("*", (left, other[0])), Call("*", (one[0], right)))
        for left, right in zip(one[1:], other[1:], strict=True)
    )


def _is_set(node: Node) -> bool:
    match node:
        case Bracketed():
            return True
        case Constant(text):
            return text not in ("pi", "e", "i", "infty", "...")
        case Call(name):
            return name in ("cup", "cap", "setminus", "where")
    return False


# Lists and sets


def _members(node: Node) -> tuple[Node, ...] | None:
    """Return the items of a list or of a set in braces; None for anything else."""
    if isinstance(node, Several):
        return _inherited(node.items)
    if isinstance(node, Bracketed) and node.opener == "\\{":
        return node.items
    return None


def _inherited(items: tuple[Node, ...]) -> tuple[Node, ...]:
    """Return the items of `x = 2, 5` as x = 2, x = 5."""
    last = items[-1]
    match items[0]:
        case Relation((left, first), ("equiv",), None) if isinstance(last, Relation):
            # x is 2, 3 (mod 5)
            plain = not any(isinstance(one, Relation) for one in items[1:-1])
            if last.modulus is not None and not last.signs and plain:
                values = (first, *items[1:-1], last.members[0])
                return tuple(Relation((left, one), ("equiv",), last.modulus) for one in values)
        case Relation((name, *_), ("=",), None) if is_name(name):
            return tuple(
                item if isinstance(item, Relation) else Relation((name, item), ("=",))
                for item in items
            )
    return items


def _same_members(
    gold: Node,
    answer: Node,
    golds: tuple[Node, ...] | None,
    answers: tuple[Node, ...] | None,
) -> bool:
    if same_real_set(gold, answer):
        return True
    if golds is None:
        assert answers is not None
        if isinstance(gold, Bracketed) and (point := _as_tuple(answer)) is not None:
            return equal(gold, point)
        if isinstance(gold, Relation):
            if (given := _by_coordinate(gold)) is not None:
                return _hold_together(answer) and _matched(given, answers)
            return _as_one_equation(answers, gold) or _values_of(gold, answer)
        return gold != Constant("emptyset") and all(equal(gold, one) for one in answers)
    if answers is None:
        if isinstance(answer, Bracketed) and (point := _as_tuple(gold)) is not None:
            return equal(point, answer)
        if isinstance(answer, Relation):
            if (given := _by_coordinate(answer)) is not None:
                return _hold_together(gold) and _matched(golds, given)
            if _values_of(answer, gold):
                return True
        single = (
            isinstance(gold, Bracketed) and len(golds) == 1 and not isinstance(answer, Bracketed)
        )
        return single and equal(golds[0], answer)
    if _joined_otherwise(gold, answer):
        return False
    if len(golds) > MAX_ITEMS or len(answers) > MAX_ITEMS:
        return False
    if Constant("...") in golds or Constant("...") in answers:
        return _in_order(golds, answers)
    if isinstance(gold, Bracketed) and isinstance(answer, Bracketed):
        golds, answers = _distinct(golds), _distinct(answers)
    named = [any(isinstance(one, Relation) for one in many) for many in (golds, answers)]
    if named[0] != named[1]:
        values = _without_names(golds if named[0] else answers)
        if values is None:
            return False
        golds, answers = (values, answers) if named[0] else (golds, values)
    return _matched(golds, answers)


def _joined_otherwise(gold: Node, answer: Node) -> bool:
    """Whether gold is "p and q" and the answer "p or q"; 2 and 3 equals 2 or 3, as roots."""
    both = [one for one in (gold, answer) if isinstance(one, Several)]
    joiners = {one.joiner for one in both}
    if len(joiners) < 2 or "or" not in joiners:
        return False
    if "and" in joiners and all(isinstance(one, Name | Words) for one in both[0].items):
        return True
    # a = 2 or b = 3, but x = 2 or x = 3
    said = [item.members[0] for item in both[0].items if isinstance(item, Relation)]
    names = {one.text.partition("_")[0] for one in said if isinstance(one, Name)}
    return len(names) > 1


def _as_tuple(node: Node) -> Bracketed | None:
    """Return `y = 3, x = 2` as (2, 3): one value per variable, in alphabetical order."""
    if not isinstance(node, Several) or not _hold_together(node):
        return None
    values: dict[str, Node] = {}
    for item in _inherited(node.items):
        match item:
            case Relation((Name(text), value), ("=",), None) if len(text) == 1:
                values[text] = value
            case _:
                return None
    if not 1 < len(values) == len(node.items):
        return None
    return Bracketed("(", ")", tuple(values[name] for name in sorted(values)))


def _hold_together(node: Node) -> bool:
    """Whether it means x = 2 and y = 3, not x = 2 or y = 3."""
    return not isinstance(node, Several) or node.joiner != "or"


def _by_coordinate(relation: Relation) -> tuple[Node, ...] | None:
    """Return `(x, y) = (2, 3)` as x = 2 and y = 3."""
    match relation:
        case Relation((Bracketed("(", ")", names), Bracketed("(", ")", values)), ("=",), None):
            if len(names) == len(values) and all(map(is_name, names)):
                pairs = zip(names, values, strict=True)
                return tuple(Relation(pair, ("=",)) for pair in pairs)
    return None


def _values_of(relation: Relation, values: Node) -> bool:
    r"""Whether `x = \{2, 5\}` or `x \in \{2, 5\}` means `values`, such as `2, 5`."""
    match relation:
        case Relation((name, right), ("=" | "in",), None) if is_name(name):
            return _members(right) is not None and equal(right, values)
    return False


def _distinct(items: tuple[Node, ...]) -> tuple[Node, ...]:
    kept: list[Node] = []
    for item in items:
        if not any(equal(item, other) for other in kept):
            kept.append(item)
    return tuple(kept)


def _without_names(items: tuple[Node, ...]) -> tuple[Node, ...] | None:
    """Return the values of `x = 2, x = 5` and `x_1 = 2, x_2 = 5`; None if the names differ."""
    names: set[str] = set()
    values: list[Node] = []
    for item in items:
        said = _said(item) if isinstance(item, Relation) else None
        if said is None or not isinstance(said[0], Name):
            return None
        names.add(said[0].text.partition("_")[0])
        values.append(said[1])
    return tuple(values) if len(names) == 1 else None


def _matched(golds: Sequence[Node], answers: Sequence[Node]) -> bool:
    """Whether gold items and answers match one to one."""
    left = list(answers)
    if len(left) != len(golds):
        return False
    for gold in golds:
        index = next((at for at, one in enumerate(left) if equal(gold, one)), None)
        if index is None:
            return False
        del left[index]
    return True


def _as_one_equation(items: tuple[Node, ...], equation: Relation) -> bool:
    r"""Whether `x = 3` or `x = -3` is `x^2 = 9`: the product of differences is a multiple of it."""
    parts = [_difference(item) for item in items if isinstance(item, Relation)]
    whole = _difference(equation)
    if whole is None or len(parts) != len(items) or len(parts) > MAX_ITEMS:
        return False
    factors: Node = Number(Fraction(1))
    names: set[frozenset[str]] = {variables(whole)}
    for part in parts:
        if part is None:
            return False
        names.add(variables(part))
        factors = Call("*", (factors, part))
    return len(names) == 1 and len(names.pop()) == 1 and proportional(whole, factors)


# Relations


def _related(gold: Node, answer: Node) -> bool:
    if same_real_set(gold, answer):
        return True
    if isinstance(gold, Relation) and isinstance(answer, Relation):
        return _same_relation(gold, answer)
    if isinstance(gold, Relation):
        said = _said(gold)
        return said is not None and _asks_for_value(*said) and equal(said[1], answer)
    assert isinstance(answer, Relation)
    if answer.modulus is not None and not answer.signs:
        return equal(gold, answer.members[0])  # 3 (mod 7) for 3
    said = _said(answer)
    return said is not None and equal(gold, said[1])


def is_name(node: Node) -> bool:
    r"""Whether `node` only names a value: `x`, `f(2)`, `AB`, `\angle A`, words."""
    match node:
        case Name() | Words():
            return True
        case Bracketed("(", ")", items):
            return all(isinstance(item, Name) for item in items)
        case Call("*", _):
            factors = [one for one in below(node) if not children(one)]
            if not all(isinstance(one, Name) for one in factors):
                return False
            texts = [one.text for one in factors if isinstance(one, Name)]
            figure = any(text.startswith(("\\angle", "\\triangle")) for text in texts)
            return figure or all(text.isalpha() and text.isupper() for text in texts)
        case Call("abs", (Name(text),)):
            return text.isupper()  # the size of a set
        case Call("abs", (Call("*", _) as inside,)):
            return is_name(inside)
    return False


def _said(relation: Relation) -> tuple[Node | None, Node] | None:
    """Return name, if any, and value of `x = 2/4 = 1/2`.

    None for anything else: an equation between expressions, an inequality.
    """
    members, signs = list(relation.members), list(relation.signs)
    if relation.modulus is not None:
        return None
    while signs and signs[-1] == "approx":
        members.pop()
        signs.pop()
    if any(sign != "=" for sign in signs):
        return None
    name: Node | None = None
    if is_name(members[-1]) and not is_name(members[0]):
        members = [members[-1], *members[:-1]]
    if is_name(members[0]):
        name = members.pop(0)
    if not members or (name is None and len(set(relation.members)) < 2):
        return None
    if name is not None and any(variables(name) & variables(one) for one in members):
        return None
    first = members[0]
    if not all(equal(first, other) for other in members[1:]):
        return None
    return name, first


def _asks_for_value(name: Node | None, value: Node) -> bool:
    """Whether the value alone answers an equation of gold, as 3 answers x = 3."""
    if name is None:
        return not variables(value)
    if isinstance(name, Words):
        return False
    if not variables(value):
        return True
    if not isinstance(name, Name):
        return False
    # f(x), dy/dx, and a_n
    index = name.text.partition("_")[2]
    return "(" in name.text or "\\frac{d" in name.text or index in variables(value)


def _same_relation(gold: Relation, answer: Relation) -> bool:
    if (gold.modulus is None) != (answer.modulus is None):
        return False
    if gold.modulus is not None and answer.modulus is not None:
        return same_congruence(gold, answer)
    one, other = _said(gold), _said(answer)
    if one is not None and other is not None and _same_name(one[0], other[0]):
        return equal(one[1], other[1])
    if len(gold.signs) != len(answer.signs):
        return False
    return _same_chain(gold, answer) or _same_chain(gold, _mirrored(answer))


def _same_name(one: Node | None, other: Node | None) -> bool:
    return one == other or (
        isinstance(one, Bracketed) and isinstance(other, Bracketed) and equal(one, other)
    )


def _mirrored(relation: Relation) -> Relation:
    signs = tuple(_MIRRORED.get(sign, sign) for sign in reversed(relation.signs))
    if not set(relation.signs) <= _SYMMETRIC | set(_MIRRORED):
        return relation
    return Relation(tuple(reversed(relation.members)), signs)


def _same_chain(gold: Relation, answer: Relation) -> bool:
    if gold.signs != answer.signs:
        return False
    if _in_order(gold.members, answer.members):
        return True
    return all(_same_link(gold, answer, index, sign) for index, sign in enumerate(gold.signs))


def _same_link(gold: Relation, answer: Relation, index: int, sign: str) -> bool:
    """Whether two links are equivalent: their differences of sides agree up to a factor."""
    if sign not in ("=", "!=", *_MIRRORED):
        return False
    links = [Relation(one.members[index : index + 2], (sign,)) for one in (gold, answer)]
    if _is_solved(links[0]) and not _is_solved(links[1]):
        return False  # 2x = 6 is what was to be solved
    left, right = map(_difference, links)
    if left is None or right is None or variables(left) != variables(right):
        return False
    if sign in _MIRRORED:
        return proportional(left, right, positive=True)
    if any(_is_ratio(node) for link in links for node in link.members):
        return same_ratios(left, right)
    return same_zeros(left, right)


def _is_solved(relation: Relation) -> bool:
    """Whether it relates a name alone to a number."""
    named = [isinstance(one, Name) for one in relation.members]
    return any(named) and all(
        name or not variables(one) for name, one in zip(named, relation.members, strict=True)
    )


def _difference(relation: Relation) -> Node | None:
    """Return one side minus the other; None if a side is not an expression."""
    if len(relation.members) != 2 or relation.modulus is not None:
        return None
    for node in relation.members:
        if any(
            isinstance(one, Bracketed | Words | Several | Labelled | Grid) for one in below(node)
        ):
            return None
    left, right = relation.members
    return Call("+", (left, Call("-", (right,))))
