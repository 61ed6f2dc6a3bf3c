"""Whether two expressions have the same value everywhere, or one is a multiple of the other.

Rational values are compared exactly. Others are computed with two precisions: the difference of
equal values is rounding and shrinks, that of unequal values stays. There is no tolerance, so
1/20! is not 1/21! and 2^-98 is not 0.

Variables are real. Expressions differ if only one of them is real at a place; a place at which
neither is real is skipped, unless there is no other.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from fractions import Fraction

from mpmath import mp

from dgpo_cli.rewards.formulas.nodes import Call, Constant, Name, Node, Number, below, variables
from dgpo_cli.rewards.formulas.values import Evaluator, TooLarge, Undefined, Value, as_mp, is_real

DIGITS = 50  # at random points; twice as many confirm
CONSTANT_DIGITS = 1000  # where there are no variables, and only one place to compare at
ENOUGH = 3  # points at which two expressions must agree
MAX_VARIABLES = 12
SURE_DIGITS = 10  # of a decimal that may be the rounding of an exact value
_WHOLE_ARGUMENTS = frozenset(["!", "binom", "gcd", "lcm", "mod"])
_INTEGRATION_CONSTANTS = frozenset(["C", "c", "K"])

Point = dict[str, Fraction]


def same_value(one: Node, other: Node) -> bool:
    """Whether two expressions are equal as functions of their variables.

    Raises:
        TooLarge: a value is too large to compare.
    """
    names = variables(one) | variables(other)
    if not names:
        return _same_constant(one, other) or _is_rounding(one, other) or _is_rounding(other, one)
    if len(names) > MAX_VARIABLES:
        return False
    return _same_function(one, other, names) or _same_up_to_constant(one, other)


def proportional(one: Node, other: Node, *, positive: bool = False) -> bool:
    """Whether `other` is a nonzero multiple of `one`, or a positive one if `positive`.

    Raises:
        TooLarge: a value is too large to compare.
    """
    names = variables(one) | variables(other)
    if not names or len(names) > MAX_VARIABLES:
        return False
    first: Point | None = None
    agreed = 0
    for point, mixed in _points(names, _whole_variables(one, other)):
        low = _pair(one, other, point, DIGITS)
        if low is None:
            continue
        if low[0] is None or low[1] is None:
            if mixed:
                continue
            return False
        zeros = [_is_zero(one, point), _is_zero(other, point)]
        if all(zeros):
            continue
        if any(zeros) or (positive and not _same_sign(*low)):
            return False
        first = point if first is None else first
        if first is not point and not _same_ratio(one, other, first, point):
            return False
        agreed += 1
    return agreed > ENOUGH


def same_zeros(one: Node, other: Node) -> bool:
    """Whether `one = 0` and `other = 0` have the same solutions, judging by their factors.

    Either they are multiples of each other, or their numerators are, and the denominators are
    products of variables that are not zero at any solution: xy - 1 and y - 1/x.

    Raises:
        TooLarge: a value is too large to compare.
    """
    if proportional(one, other):
        return True
    (top, bottom), (other_top, other_bottom) = _over_one_line(one), _over_one_line(other)
    if bottom == other_bottom or not proportional(top, other_top):
        return False
    return _never_zero(bottom, top) and _never_zero(other_bottom, other_top)


def same_ratios(one: Node, other: Node) -> bool:
    """Whether two differences of ratios are zero together: m:n = 3:2 and n:m = 2:3."""
    return proportional(_over_one_line(one)[0], _over_one_line(other)[0])


def _over_one_line(node: Node) -> tuple[Node, Node]:
    """Return numerator and denominator of `node`, without cancelling."""
    one = Number(Fraction(1))
    match node:
        case Call("/" | "ratio", (left, right)):
            (a, b), (c, d) = _over_one_line(left), _over_one_line(right)
            return Call("*", (a, d)), Call("*", (b, c))
        case Call("*", (left, right)):
            (a, b), (c, d) = _over_one_line(left), _over_one_line(right)
            return Call("*", (a, c)), Call("*", (b, d))
        case Call("-", (inner,)):
            top, bottom = _over_one_line(inner)
            return Call("-", (top,)), bottom
        case Call("+", args):
            top, bottom = _over_one_line(args[0])
            for arg in args[1:]:
                c, d = _over_one_line(arg)
                left, right = Call("*", (top, d)), Call("*", (c, bottom))
                top, bottom = Call("+", (left, right)), Call("*", (bottom, d))
            return top, bottom
    return node, one


def _never_zero(bottom: Node, top: Node) -> bool:
    """Whether `bottom` is a product of numbers and variables, and `top` not 0 where one is 0."""
    for part in below(bottom):
        if not isinstance(part, Number | Name) and not (
            isinstance(part, Call) and part.name in ("*", "-")
        ):
            return False
    for name in variables(bottom):
        others = variables(top) - {name}
        values: list[Value] = []
        for point, _ in _points(others, frozenset()):
            try:
                values.append(Evaluator({**point, name: Fraction(0)}, digits=DIGITS)(top))
            except (Undefined, TooLarge):
                return False
        exact = all(isinstance(value, Fraction) for value in values)
        if not exact or len(set(values)) != 1 or values[0] == 0:
            return False
    return True


def _same_constant(one: Node, other: Node) -> bool:
    low = _pair(one, other, {}, DIGITS)
    if low is None or low[0] is None or low[1] is None:
        return False
    parts = _parts(low)
    if parts is None:
        return False
    if all(isinstance(value, Fraction) for pair in parts for value in pair):
        return all(left == right for left, right in parts)
    for left, right in parts:
        if mp.isinf(as_mp(left)) or mp.isinf(as_mp(right)):
            return bool(as_mp(left) == as_mp(right))
        if _plainly_differ(left, right):
            return False
    return _agree(one, other, {}, CONSTANT_DIGITS)


def _is_rounding(exact: Node, decimal: Node) -> bool:
    """Whether `decimal` has many digits and is `exact` rounded to them."""
    sign = 1
    while isinstance(decimal, Call) and decimal.name == "-":
        decimal, sign = decimal.args[0], -sign
    if not isinstance(decimal, Number) or not decimal.places:
        return False
    if isinstance(exact, Number) and exact.places is not None:
        return False
    unit = Fraction(1, 10**decimal.places)
    if len(str(int(decimal.value / unit))) < SURE_DIGITS:
        return False
    try:
        value = Evaluator({}, digits=DIGITS)(exact)
    except (Undefined, TooLarge):
        return False
    if not is_real(value):
        return False
    with mp.workdps(DIGITS):
        return bool(abs(as_mp(value).real - as_mp(sign * decimal.value)) * 2 <= as_mp(unit))


def _same_function(one: Node, other: Node, names: frozenset[str]) -> bool:
    with_i = any(node == Constant("i") for root in (one, other) for node in below(root))
    agreed = 0
    neither_real: list[Point] = []
    for point, mixed in _points(names, _whole_variables(one, other)):
        values = _pair(one, other, point, DIGITS)
        if values is None:
            continue
        real = [_all_real(value) for value in values]
        if all(real) or (with_i and None not in values):
            if not _agree(one, other, point, DIGITS):
                return False
            agreed += 1
        elif any(real) and not mixed:
            return False
        elif None not in values:
            neither_real.append(point)
    if agreed >= ENOUGH:
        return True
    places = len(neither_real) + agreed
    return places >= ENOUGH and all(_agree(one, other, point, DIGITS) for point in neither_real)


def _same_up_to_constant(one: Node, other: Node) -> bool:
    """Whether both end in `+ C`, and the rest differs by a constant."""
    stripped = [_without_constant(node) for node in (one, other)]
    left, right = stripped
    if left is None or right is None:
        return False
    difference = Call("+", (left, Call("-", (right,))))
    names = variables(difference)
    first: Point | None = None
    agreed = 0
    for point, _ in _points(names, frozenset()):
        values = _pair(left, right, point, DIGITS)
        if values is None or not all(map(_all_real, values)):
            continue
        first = point if first is None else first
        if not _vanishes(
            [_at(difference, point, d) - _at(difference, first, d) for d in (DIGITS, 2 * DIGITS)],
            scale=1,
            digits=DIGITS,
        ):
            return False
        agreed += 1
    return agreed > ENOUGH


def _without_constant(node: Node) -> Node | None:
    if not isinstance(node, Call) or node.name != "+":
        return None
    kept = tuple(
        arg
        for arg in node.args
        if not (isinstance(arg, Name) and arg.text in _INTEGRATION_CONSTANTS)
    )
    if len(kept) != len(node.args) - 1 or not variables(Call("+", kept)):
        return None
    return kept[0] if len(kept) == 1 else Call("+", kept)


def _pair(
    one: Node, other: Node, point: Mapping[str, Value], digits: int
) -> tuple[Value, Value] | None:
    """Return both values, None for an undefined one; None if there is nothing to compare."""
    values: list[Value] = []
    for node in (one, other):
        try:
            values.append(Evaluator(point, digits=digits)(node))
        except Undefined:
            values.append(None)
        except TooLarge:
            if not point:
                raise
            return None
    return None if values == [None, None] else (values[0], values[1])


def _at(node: Node, point: Mapping[str, Value], digits: int) -> Value:
    with mp.workdps(digits):
        return as_mp(Evaluator(point, digits=digits)(node))


def _agree(one: Node, other: Node, point: Mapping[str, Value], digits: int) -> bool:
    """Whether both have the same value at `point`: their difference is rounding, and shrinks."""
    low, high = (_pair(one, other, point, d) for d in (digits, 2 * digits))
    if low is None or high is None or None in (*low, *high):
        return False
    low_parts, high_parts = _parts(low), _parts(high)
    if low_parts is None or high_parts is None:
        return False
    for (left, right), (finer_left, finer_right) in zip(low_parts, high_parts, strict=True):
        if isinstance(left, Fraction) and isinstance(right, Fraction):
            if left != right:
                return False
            continue
        if mp.isinf(as_mp(left)) or mp.isinf(as_mp(right)):
            if left != right:
                return False
            continue
        with mp.workdps(2 * digits):
            rough = as_mp(left) - as_mp(right)
            fine = as_mp(finer_left) - as_mp(finer_right)
            scale = max(mp.fabs(as_mp(finer_left)), mp.fabs(as_mp(finer_right)))
            if not _vanishes([rough, fine], scale=scale, digits=digits):
                return False
    return True


def _vanishes(differences: list[Value], *, scale: Value, digits: int) -> bool:
    """Whether a difference, computed with `digits` and with twice as many, is only rounding."""
    rough, fine = (mp.fabs(as_mp(difference)) for difference in differences)
    if fine == 0:
        return True
    if rough == 0:
        return bool(fine <= scale * mp.mpf(10) ** (-3 * digits // 2))
    return bool(fine <= rough * mp.mpf(10) ** (-digits // 2))


def _same_ratio(one: Node, other: Node, first: Point, second: Point) -> bool:
    crossed = []
    for digits in (DIGITS, 2 * DIGITS):
        here, there = (_pair(one, other, point, digits) for point in (first, second))
        if here is None or there is None:
            return False
        (a, b), (c, d) = here, there
        if None in (a, b, c, d) or any(isinstance(value, tuple) for value in (a, b, c, d)):
            return False
        if all(isinstance(value, Fraction) for value in (a, b, c, d)):
            return bool(a * d == b * c)
        with mp.workdps(digits):
            crossed.append(as_mp(a) * as_mp(d) - as_mp(b) * as_mp(c))
            scale = mp.fabs(as_mp(a) * as_mp(d))
    return _vanishes(crossed, scale=scale, digits=DIGITS)


def _is_zero(node: Node, point: Point) -> bool:
    values = [_at(node, point, digits) for digits in (DIGITS, 2 * DIGITS)]
    return _vanishes(values, scale=0, digits=DIGITS)


def _same_sign(left: Value, right: Value) -> bool:
    if not (is_real(left) and is_real(right)):
        return False
    return bool((as_mp(left).real > 0) == (as_mp(right).real > 0))


def _plainly_differ(left: Value, right: Value) -> bool:
    """Whether two numbers differ by far more than rounding."""
    left, right = as_mp(left), as_mp(right)
    apart = mp.fabs(left - right)
    return bool(apart > mp.mpf(10) ** -6 * (1 + max(mp.fabs(left), mp.fabs(right))))


def _parts(values: tuple[Value, Value]) -> list[tuple[Value, Value]] | None:
    """Return pairs of numbers to compare, item by item of matrices; None for different shapes."""
    left, right = values
    if not isinstance(left, tuple) and not isinstance(right, tuple):
        return [(left, right)]
    if not (isinstance(left, tuple) and isinstance(right, tuple)):
        return None
    if [len(row) for row in left] != [len(row) for row in right]:
        return None
    rows = zip(left, right, strict=True)
    return [pair for row, other in rows for pair in zip(row, other, strict=True)]


def _all_real(value: Value) -> bool:
    if isinstance(value, tuple):
        return all(is_real(item) for row in value for item in row)
    return value is not None and is_real(value)


def _whole_variables(*roots: Node) -> frozenset[str]:
    """Return variables that are integers: in factorials, bounds, powers of -1."""
    found: set[str] = set()
    for root in roots:
        for node in below(root):
            match node:
                case Call(name, args) if name in _WHOLE_ARGUMENTS:
                    found.update(*map(variables, args))
                case Call("sum" | "prod", (_, low, high, _)):
                    found |= variables(low) | variables(high)
                case Call("^", (Call("-", _), exponent)):
                    found |= variables(exponent)
    return frozenset(found)


def _points(names: frozenset[str], whole: frozenset[str]) -> Iterator[tuple[Point, bool]]:
    """Yield points to compare at, always the same, and whether their signs are random.

    First all variables are positive, small and large; then one is negative; then signs vary.
    """
    draw = random.Random(len(names))
    ordered = sorted(names)

    def size(scale: int) -> Fraction:
        return Fraction(draw.randint(5, 101) * scale, draw.choice([53, 59, 61, 67]))

    def point(scale: int, negative: frozenset[str]) -> Point:
        drawn = {name: -size(scale) if name in negative else size(scale) for name in ordered}
        return drawn | {name: Fraction(draw.randint(4, 17)) for name in ordered if name in whole}

    for scale in (1, 1, 1, 4, 4, 30, 300):
        yield point(scale, frozenset()), False
    for name in ordered:
        for scale in (1, 5):
            yield point(scale, frozenset([name])), False
    for _ in range(3):
        yield point(2, frozenset(name for name in ordered if draw.random() < 0.5)), True
