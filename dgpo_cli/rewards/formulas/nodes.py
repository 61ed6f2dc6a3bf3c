"""The nodes of a parsed answer: numbers, names, operations, brackets, relations, lists, words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import product

MAX_SIGNS = 5  # of plus or minus in one answer


@dataclass(frozen=True, slots=True)
class Number:
    """places: decimals as written, None for whole numbers and fractions."""

    value: Fraction
    places: int | None = None


@dataclass(frozen=True, slots=True)
class Name:
    """A variable. opaque: a limit or an integral, compared as written."""

    text: str
    opaque: bool = False


@dataclass(frozen=True, slots=True)
class Constant:
    r"""`pi`, `e`, `i`, `infty`, `...`, or a set of numbers such as `R`."""

    text: str


@dataclass(frozen=True, slots=True)
class Call:
    """An operation or a function of `args`."""

    name: str
    args: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Bracketed:
    """Items in brackets, between commas: a tuple, an interval or a set."""

    opener: str
    closer: str
    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Grid:
    """A matrix, or the rows of a definition by cases."""

    rows: tuple[tuple[Node, ...], ...]
    cases: bool = False


@dataclass(frozen=True, slots=True)
class Relation:
    """`members` with `signs` between them: 1 < x = y. modulus: of a congruence."""

    members: tuple[Node, ...]
    signs: tuple[str, ...]
    modulus: Node | None = None


@dataclass(frozen=True, slots=True)
class Several:
    """A list without brackets. joiner: `,`, `and` or `or`."""

    items: tuple[Node, ...]
    joiner: str


@dataclass(frozen=True, slots=True)
class Quantity:
    """A value with units: words or currency signs."""

    value: Node
    units: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Labelled:
    """`Alice: 3`."""

    label: str
    value: Node


@dataclass(frozen=True, slots=True)
class Words:
    """Words only; also a number in a base other than ten, which has one spelling."""

    text: str


Node = (
    Number
    | Name
    | Constant
    | Call
    | Bracketed
    | Grid
    | Relation
    | Several
    | Quantity
    | Labelled
    | Words
)


def children(node: Node) -> tuple[Node, ...]:
    """Return the nodes directly below `node`."""
    match node:
        case Call(_, args):
            return args
        case Bracketed(_, _, items) | Several(items, _):
            return items
        case Grid(rows):
            return tuple(item for row in rows for item in row)
        case Relation(members, _, modulus):
            return members if modulus is None else (*members, modulus)
        case Quantity(value, _) | Labelled(_, value):
            return (value,)
    return ()


def below(node: Node) -> Iterator[Node]:
    """Yield `node` and all nodes below it."""
    waiting = [node]
    while waiting:
        one = waiting.pop()
        yield one
        waiting.extend(children(one))


def variables(node: Node) -> frozenset[str]:
    """Return the variables of `node`, except those bound by a sum or product."""
    if isinstance(node, Name):
        return frozenset([node.text])
    if isinstance(node, Call) and node.name in ("sum", "prod"):
        bound, low, high, body = node.args
        assert isinstance(bound, Name)
        return (variables(body) - {bound.text}) | variables(low) | variables(high)
    return frozenset().union(*map(variables, children(node)))


def renamed(node: Node, old: str, new: str) -> Node:
    """Return `node` with the variable `old` renamed to `new`."""
    match node:
        case Name(text, opaque) if text == old:
            return Name(new, opaque)
        case Call(name, args):
            return Call(name, tuple(renamed(arg, old, new) for arg in args))
        case Bracketed(opener, closer, items):
            return Bracketed(opener, closer, tuple(renamed(item, old, new) for item in items))
        case Several(items, joiner):
            return Several(tuple(renamed(item, old, new) for item in items), joiner)
        case Relation(members, signs, modulus):
            return Relation(tuple(renamed(one, old, new) for one in members), signs, modulus)
    return node


def spread(node: Node) -> Node:
    """Return `node` with each plus-or-minus expanded."""
    if isinstance(node, Several):
        items: list[Node] = []
        for item in node.items:
            one = spread(item)
            items += one.items if isinstance(one, Several) else [one]
        return Several(tuple(items), node.joiner)
    signs = [one for one in below(node) if isinstance(one, Call) and one.name in ("pm", "mp")]
    if not signs or len(signs) > MAX_SIGNS:
        return node
    tied = any(one.name == "mp" for one in signs)
    choices: list[tuple[bool, ...]]
    if tied:
        choices = [(True,) * len(signs), (False,) * len(signs)]
    else:
        choices = list(product((True, False), repeat=len(signs)))
    variants = [_with_signs(node, list(choice)) for choice in choices]
    if isinstance(node, Bracketed) and node.opener == "\\{":
        members = [item for one in variants if isinstance(one, Bracketed) for item in one.items]
        return Bracketed("\\{", "\\}", tuple(members))
    return Several(tuple(variants), "or")


def _with_signs(node: Node, plus: list[bool]) -> Node:
    """Return `node` with its signs chosen, from left to right."""
    match node:
        case Call("pm" | "mp" as name, (inner,)):
            positive = plus.pop(0) == (name == "pm")
            inner = _with_signs(inner, plus)
            return inner if positive else Call("-", (inner,))
        case Call(name, args):
            return Call(name, tuple(_with_signs(arg, plus) for arg in args))
        case Bracketed(opener, closer, items):
            return Bracketed(opener, closer, tuple(_with_signs(item, plus) for item in items))
        case Relation(members, signs, modulus):
            return Relation(tuple(_with_signs(one, plus) for one in members), signs, modulus)
        case Quantity(value, units):
            return Quantity(_with_signs(value, plus), units)
    return node
