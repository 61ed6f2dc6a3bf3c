r"""Matches parameters of answers: the k of `2k\pi`, with or without `k \in \mathbb{Z}`."""

from __future__ import annotations

from dgpo_cli.rewards.formulas.nodes import (
    Call,
    Constant,
    Name,
    Node,
    Relation,
    Several,
    below,
    renamed,
    variables,
)

_WHOLE_NUMBERS = frozenset("klmn")  # letters that count turns wherever pi or degrees do


def without_conditions(gold: Node, answer: Node) -> tuple[Node, Node]:
    r"""Return both without `k \in \mathbb{Z}` if one omits it, and with one name for k."""
    (first, one), (second, other) = _conditions(gold), _conditions(answer)
    if len(one) == len(other) == 1:
        (name, numbers), (given, given_numbers) = one[0], other[0]
        if numbers != given_numbers or (name != given and name in variables(second)):
            return gold, answer
        second = renamed(second, given, name)
    elif one and other:
        return gold, answer
    if one:
        first = _family(first, second, {name for name, _ in one})
    return first, _named_alike(first, second)


def _family(gold: Node, answer: Node, parameters: set[str]) -> Node:
    r"""Return the right side of `x = 2k\pi` if the answer is not an equation."""
    match gold:
        case Relation((Name(), value), ("=",), None) if variables(value) == parameters:
            return gold if isinstance(answer, Relation | Several) else value
    return gold


def _named_alike(gold: Node, answer: Node) -> Node:
    r"""Return `answer` with gold's name for a number of turns: `n\pi` for `k\pi`."""
    names, given = variables(gold), variables(answer)
    wanted, found = names - given, given - names
    if not (len(wanted) == len(found) == 1 and wanted | found <= _WHOLE_NUMBERS):
        return answer
    if not (_counts_turns(gold, wanted) and _counts_turns(answer, found)):
        return answer
    return renamed(answer, *found, *wanted)


def _counts_turns(node: Node, names: frozenset[str]) -> bool:
    """Whether a product contains the variable in `names` and pi or degrees."""
    return any(
        names <= variables(product) and any(map(_is_turn, below(product)))
        for product in below(node)
        if isinstance(product, Call) and product.name == "*"
    )


def _is_turn(node: Node) -> bool:
    return node == Constant("pi") or (isinstance(node, Call) and node.name == "degree")


def _conditions(node: Node) -> tuple[Node, list[tuple[str, str]]]:
    """Split a list into its items and the ranges of its parameters."""
    if not isinstance(node, Several):
        return node, []
    kept: list[Node] = []
    found: list[tuple[str, str]] = []
    for item in node.items:
        match item:
            case Relation((Name(text), Constant(numbers)), ("in",), None):
                found.append((text, numbers))
            case _:
                kept.append(item)
    if not kept or not found or not all(name in variables(kept[0]) for name, _ in found):
        return node, []
    return (kept[0] if len(kept) == 1 else Several(tuple(kept), node.joiner)), found
