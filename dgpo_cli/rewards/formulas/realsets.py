r"""Compares sets of real numbers: `x > 2` and `(2, \infty)`.

A set is a membership test and the few numbers at which membership may change. Two sets are equal if
their tests agree at, between and beyond all those numbers.
"""

from __future__ import annotations

from itertools import pairwise

from mpmath import mp

from dgpo_cli.rewards.formulas.nodes import (
    Bracketed,
    Call,
    Constant,
    Name,
    Node,
    Relation,
    Several,
    below,
    variables,
)
from dgpo_cli.rewards.formulas.values import Evaluator, TooLarge, Undefined, Value, as_mp, is_real

DIGITS = 120
_INTERVALS = frozenset("([")
_ORDER = frozenset(["<", "<=", ">", ">=", "!=", "="])
MAX_BORDERS = 100


class _NotASet(Exception):
    """The node is not a supported set of real numbers."""


def same_real_set(gold: Node, answer: Node) -> bool:
    """Whether both describe the same set of real numbers, in the same variable if in any."""
    if isinstance(gold, Bracketed) and isinstance(answer, Bracketed):
        return False  # brackets, order and items decide
    names = [variables(node) for node in (gold, answer)]
    if any(len(one) > 1 for one in names) or (all(names) and names[0] != names[1]):
        return False
    if not (_may_be_set(gold) and _may_be_set(answer)):
        return False
    with mp.workdps(DIGITS):
        try:
            borders = sorted({*_borders(gold), *_borders(answer)})
            if not borders or len(borders) > MAX_BORDERS:
                places = [mp.mpf(0)] if not borders else []
            else:
                between = [(a + b) / 2 for a, b in pairwise(borders)]
                places = [*borders, *between, borders[0] - 1, borders[-1] + 1]
            inside = _inside(gold, places)
            return any(inside) and inside == _inside(answer, places)
        except (_NotASet, Undefined, TooLarge):
            return False


def _inside(node: Node, places: list[Value]) -> list[bool]:
    """Return which places `node` contains. A comma is "and" if both sides can hold, else "or"."""
    if isinstance(node, Several) and node.joiner == ",":
        both = _inside(Several(node.items, "and"), places)
        return both if any(both) else _inside(Several(node.items, "or"), places)
    return [_contains(node, place) for place in places]


def _may_be_set(node: Node) -> bool:
    match node:
        case Relation(_, signs, None):
            return set(signs) != {"="}
        case Several(items, joiner):
            # `x = 1 and x = 2` lists solutions, and `(1, 2) and (3, 4)` points.
            said = {sign for item in items if isinstance(item, Relation) for sign in item.signs}
            parts = all(isinstance(item, Bracketed | Relation) for item in items)
            return parts and bool(said) and (joiner == "or" or "=" not in said)
        case Bracketed(_, _, items):
            return not any(
                isinstance(one, Bracketed | Relation) for item in items for one in below(item)
            )
        case Constant(text):
            return text in ("R", "emptyset")
        case Call(name):
            return name in ("cup", "cap", "setminus", "where")
    return False


def _borders(node: Node) -> list[Value]:
    """Return the numbers at which membership may change."""
    match node:
        case Bracketed(opener, closer, items):
            ends = list(map(_number, items))
            if opener in _INTERVALS and (len(ends) != 2 or ends[0] > ends[1]):
                raise _NotASet
            if (opener == "[" and mp.isinf(ends[0])) or (closer == "]" and mp.isinf(ends[-1])):
                raise _NotASet
            return [one for one in ends if mp.isfinite(one)]
        case Constant("R" | "emptyset"):
            return []
        case Call("cup" | "cap" | "setminus", args) | Several(args, _):
            return [border for arg in args for border in _borders(arg)]
        case Call("where", (Name(), condition)):
            return _borders(condition)
        case Call("where", (Relation() as first, condition)):
            return _borders(first) + _borders(condition)
        case Relation((Name(), right), ("in" | "notin",), None):
            return _borders(right)
        case Relation(members, signs, None) if set(signs) <= _ORDER:
            numbers = [_number(one) for one in members if not isinstance(one, Name)]
            if len(numbers) == len(members):
                raise _NotASet
            return [one for one in numbers if mp.isfinite(one)]
    raise _NotASet


def _contains(node: Node, place: Value) -> bool:
    match node:
        case Bracketed(opener, closer, items) if opener in _INTERVALS:
            low, high = map(_number, items)
            return _compare(low, "<" if opener == "(" else "<=", place) and _compare(
                place, "<" if closer == ")" else "<=", high
            )
        case Bracketed(_, _, items):
            return any(_compare(_number(item), "=", place) for item in items)
        case Constant("R" | "emptyset" as text):
            return text == "R"
        case Call("cup", args) | Several(args, "or"):
            return any(_contains(arg, place) for arg in args)
        case Call("cap", args) | Several(args, _):
            return all(_contains(arg, place) for arg in args)
        case Call("setminus", (left, right)):
            return _contains(left, place) and not _contains(right, place)
        case Call("where", (first, condition)):
            return _contains(condition, place) and (
                isinstance(first, Name) or _contains(first, place)
            )
        case Relation((_, right), ("in" | "notin" as sign,), None):
            return _contains(right, place) == (sign == "in")
        case Relation(members, signs, _):
            values = [place if isinstance(one, Name) else _number(one) for one in members]
            return all(map(_compare, values, signs, values[1:]))
    raise _NotASet


def _compare(left: Value, sign: str, right: Value) -> bool:
    close = left == right
    if mp.isfinite(left) and mp.isfinite(right):
        close = mp.fabs(left - right) <= mp.mpf(10) ** (10 - DIGITS) * mp.fabs(left)
    match sign:
        case "=":
            return bool(close)
        case "!=":
            return not close
        case "<=" | ">=":
            return bool(close or (left < right if sign == "<=" else left > right))
    return bool(not close and (left < right if sign == "<" else left > right))


def _number(node: Node) -> Value:
    if variables(node):
        raise _NotASet
    value = Evaluator({}, digits=DIGITS)(node)
    if isinstance(value, tuple):
        raise _NotASet
    value = as_mp(value)
    if not (is_real(value) or mp.isinf(value)):
        raise _NotASet
    return value.real
