"""Compares congruences: whether they hold for the same integers."""

from __future__ import annotations

from fractions import Fraction
from math import lcm

from dgpo_cli.rewards.formulas.nodes import Call, Node, Relation, variables
from dgpo_cli.rewards.formulas.sameness import same_value
from dgpo_cli.rewards.formulas.values import Evaluator, Undefined

MAX_MODULUS = 5_000  # tried number by number


def same_congruence(gold: Relation, answer: Relation) -> bool:
    r"""`x \equiv 2 \pmod 5` is `x \equiv 7 \pmod 5`; numbers themselves must be congruent, too.

    Raises:
        TooLarge: a value is too large to compare.
    """
    assert gold.modulus is not None and answer.modulus is not None
    names = variables(gold) | variables(answer)
    moduli = [_whole(gold.modulus), _whole(answer.modulus)]
    if None in moduli or len(names) > 1 or len(gold.signs) != len(answer.signs):
        return _same_as_written(gold, answer)
    one, other = (abs(modulus) for modulus in moduli if modulus is not None)
    if not gold.signs:
        left, right = (_whole(relation.members[0]) for relation in (gold, answer))
        return one == other > 0 and None not in (left, right) and (left - right) % one == 0  # type: ignore[operator]
    period = lcm(one, other)
    if len(gold.members) != 2 or not names or not 0 < period <= MAX_MODULUS:
        return one == other and _same_as_written(gold, answer)
    name = next(iter(names))
    return all(
        _holds(gold, name, value, one) == _holds(answer, name, value, other)
        for value in range(period)
    )


def _holds(relation: Relation, name: str, value: int, modulus: int) -> bool:
    try:
        result = Evaluator({name: Fraction(value)}, digits=15)(_difference(relation))
    except Undefined:
        return False
    if not isinstance(result, Fraction) or result.denominator != 1:
        return False
    return result.numerator % modulus == 0


def _same_as_written(gold: Relation, answer: Relation) -> bool:
    """Whether both sides are equal, with the same modulus."""
    assert gold.modulus is not None and answer.modulus is not None
    if gold.signs != answer.signs or not same_value(gold.modulus, answer.modulus):
        return False
    if len(gold.members) != 2:
        return all(map(same_value, gold.members, answer.members))
    left, right = (_difference(relation) for relation in (gold, answer))
    return same_value(left, right) or same_value(left, Call("-", (right,)))


def _difference(relation: Relation) -> Node:
    left, right = relation.members
    return Call("+", (left, Call("-", (right,))))


def _whole(node: Node) -> int | None:
    try:
        value = Evaluator({}, digits=15)(node)
    except Undefined:
        return None
    if isinstance(value, Fraction) and value.denominator == 1:
        return value.numerator
    return None
