"""Evaluates nodes at points: exactly while everything is rational, else to many digits.

Nothing here can grow without bound: what would have too many digits, terms or rows is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import mpmath
from mpmath import mp

from dgpo_cli.rewards.formulas.nodes import Call, Constant, Grid, Name, Node, Number, Quantity

MAX_BITS = 300_000  # of an exact numerator or denominator
MAX_LOG = 10**7  # of the base-2 logarithm of a number that is not exact
MAX_FACTORIAL = 20_000
MAX_TERMS = 2_000  # of a sum or product
MAX_STEPS = 50_000
MAX_ROWS = 6

Value = Any  # Fraction, mpf, mpc, or a tuple of rows of them


class Undefined(Exception):
    """There is no value: a division by zero, a logarithm of zero."""


class TooLarge(Exception):
    """The value has more digits, terms or rows than the limits."""


class Evaluator:
    """Evaluates nodes with `digits` decimal digits; `point` gives the values of variables."""

    def __init__(self, point: Mapping[str, Value], *, digits: int) -> None:
        self._point = dict(point)
        self._digits = digits
        self._steps = 0

    def __call__(self, node: Node) -> Value:
        """Return the value of `node`.

        Raises:
            Undefined: it has none, or is not an expression.
            TooLarge: it exceeds the limits.
        """
        with mp.workdps(self._digits):
            try:
                return self._value(node)
            except (ZeroDivisionError, ValueError, TypeError, mp.NoConvergence) as error:
                raise Undefined(str(error)) from error
            except OverflowError as error:
                raise TooLarge(str(error)) from error

    def _value(self, node: Node) -> Value:
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise TooLarge("steps")
        match node:
            case Number(value):
                return value
            case Name(text):
                if text not in self._point:
                    raise Undefined(text)
                return self._point[text]
            case Constant(text):
                return _constant(text)
            case Quantity(value, _):
                return self._value(value)
            case Call("sum" | "prod", _):
                return self._series(node)
            case Call(name, args) if name in _TRIGONOMETRIC:
                return _function(name, [self._angle(args[0])])
            case Call(name, args):
                return _checked(_function(name, [self._value(arg) for arg in args]))
            case Grid(rows, False):
                if len(rows) > MAX_ROWS or len({len(row) for row in rows}) != 1:
                    raise TooLarge("rows")
                return tuple(tuple(self._value(item) for item in row) for row in rows)
        raise Undefined(type(node).__name__)

    def _angle(self, node: Node) -> Value:
        """Return the argument of a trigonometric function; only here degrees are converted."""
        match node:
            case Call("degree", (inner,)):
                return _mul(self._value(inner), mp.pi / 180)
            case Call("+" | "-" | "*" | "/" as name, args) if _has_degree(node):
                return _function(name, [self._angle(arg) for arg in args])
        return self._value(node)

    def _series(self, node: Call) -> Value:
        bound, low, high, body = node.args
        assert isinstance(bound, Name)
        first, last = _whole(self._value(low)), _whole(self._value(high))
        if last - first > MAX_TERMS:
            raise TooLarge("terms")
        outer = self._point.get(bound.text)
        total: Value = Fraction(0 if node.name == "sum" else 1)
        for index in range(first, last + 1):
            self._point[bound.text] = Fraction(index)
            term = self._value(body)
            total = _add(total, term) if node.name == "sum" else _mul(total, term)
        self._point.pop(bound.text, None)
        if outer is not None:
            self._point[bound.text] = outer
        return _checked(total)


def is_real(value: Value) -> bool:
    """Whether `value` is a finite real number, up to a rounded imaginary part."""
    if isinstance(value, Fraction):
        return True
    if isinstance(value, mpmath.mpc):
        size = mp.fabs(value.real) + 1
        return bool(mp.fabs(value.imag) < size * mp.mpf(10) ** -30)
    return isinstance(value, mpmath.mpf) and bool(mp.isfinite(value))


def as_mp(value: Value) -> Value:
    """Return `value` as an mpmath number of the current precision."""
    if isinstance(value, Fraction):
        return mp.mpf(value.numerator) / value.denominator
    return value


def _has_degree(node: Node) -> bool:
    match node:
        case Call("degree", _):
            return True
        case Call("+" | "-" | "*" | "/", args):
            return any(map(_has_degree, args))
    return False


def _constant(text: str) -> Value:
    match text:
        case "pi":
            return +mp.pi
        case "e":
            return +mp.e
        case "i":
            return mp.mpc(0, 1)
        case "infty":
            return mp.inf
    raise Undefined(text)


def _checked(value: Value) -> Value:
    if isinstance(value, Fraction):
        if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
            raise TooLarge("digits")
    elif isinstance(value, mpmath.mpf | mpmath.mpc):
        if mp.isnan(value):
            raise Undefined("nan")
        _small(value)
    return value


def _small(value: Value) -> None:
    """Raise TooLarge for large exponents."""
    for part in (value.real, value.imag):
        if mp.isfinite(part) and part and abs(mp.mag(part)) > MAX_LOG:
            raise TooLarge("exponent")


def _whole(value: Value) -> int:
    if isinstance(value, Fraction):
        if value.denominator != 1:
            raise Undefined("no whole number")
        return value.numerator
    if not is_real(value):
        raise Undefined("no whole number")
    nearest = mp.nint(value.real)
    if mp.fabs(value - nearest) > mp.mpf(10) ** (-mp.dps // 2) or mp.mag(nearest) > 200:
        raise Undefined("no whole number")
    return int(nearest)


def _add(left: Value, right: Value) -> Value:
    if isinstance(left, tuple) or isinstance(right, tuple):
        if not (isinstance(left, tuple) and isinstance(right, tuple)) or _shape(left) != _shape(
            right
        ):
            raise Undefined("shapes")
        return tuple(tuple(map(_add, one, other)) for one, other in zip(left, right, strict=True))
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return left + right
    return as_mp(left) + as_mp(right)


def _mul(left: Value, right: Value) -> Value:
    if isinstance(left, tuple) and isinstance(right, tuple):
        if len(left[0]) != len(right):
            raise Undefined("shapes")
        columns = list(zip(*right, strict=True))
        return tuple(tuple(_dot(row, column) for column in columns) for row in left)
    if isinstance(left, tuple):
        return tuple(tuple(_mul(item, right) for item in row) for row in left)
    if isinstance(right, tuple):
        return _mul(right, left)
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return left * right
    return as_mp(left) * as_mp(right)


def _dot(row: tuple[Value, ...], column: tuple[Value, ...]) -> Value:
    total: Value = Fraction(0)
    for left, right in zip(row, column, strict=True):
        total = _add(total, _mul(left, right))
    return total


def _shape(rows: tuple[Value, ...]) -> tuple[int, int]:
    return len(rows), len(rows[0])


def _div(left: Value, right: Value) -> Value:
    if isinstance(right, tuple):
        raise Undefined("a matrix below a fraction")
    if isinstance(right, Fraction):
        return _mul(left, 1 / right)
    if mp.isinf(right):
        raise Undefined("infinity below a fraction")
    return _mul(left, 1 / right)


def _pow(base: Value, exponent: Value) -> Value:
    if isinstance(base, tuple):
        times = _whole(exponent)
        if not 1 <= times <= 64:
            raise TooLarge("power of a matrix")
        result = base
        for _ in range(times - 1):
            result = _checked_rows(_mul(result, base))
        return result
    if isinstance(exponent, Fraction) and exponent.denominator == 1:
        return _whole_power(base, exponent.numerator)
    if isinstance(base, Fraction) and base == 0:
        if is_real(exponent) and as_mp(exponent).real > 0:
            return Fraction(0)
        raise Undefined("zero to this power")
    odd_root = isinstance(exponent, Fraction) and exponent.denominator % 2 == 1
    if odd_root and is_real(base) and as_mp(base).real < 0:
        size = _real_power(-as_mp(base).real, as_mp(exponent))
        return -size if exponent.numerator % 2 else size
    return _real_power(as_mp(base), as_mp(exponent))


def _whole_power(base: Value, exponent: int) -> Value:
    if isinstance(base, Fraction):
        bits = max(base.numerator.bit_length(), base.denominator.bit_length())
        if base in (0, 1, -1):
            if base == 0 and exponent <= 0:
                if exponent == 0:
                    return Fraction(1)
                raise Undefined("zero to a negative power")
            return base ** (exponent % 2 if base == -1 else min(exponent, 1))
        if abs(exponent) * (bits - 1) <= MAX_BITS:
            return base**exponent
    return _real_power(as_mp(base), mp.mpf(exponent))


def _real_power(base: Value, exponent: Value) -> Value:
    if mp.isinf(base) or mp.isinf(exponent):
        raise Undefined("infinity in a power")
    if base == 0:
        raise Undefined("zero to this power")
    _small(exponent)
    if mp.fabs(exponent) * (abs(mp.mag(base)) + 1) > MAX_LOG:
        raise TooLarge("power")
    return mp.power(base, exponent)


def _checked_rows(rows: tuple[Value, ...]) -> tuple[Value, ...]:
    return tuple(tuple(map(_checked, row)) for row in rows)


def _factorial(value: Value) -> Value:
    if isinstance(value, Fraction) and value.denominator == 1:
        if value < 0:
            raise Undefined("factorial of a negative number")
        if value > MAX_FACTORIAL:
            raise TooLarge("factorial")
        return Fraction(math.factorial(value.numerator))
    value = as_mp(value)
    if mp.fabs(value) > MAX_FACTORIAL:
        raise TooLarge("factorial")
    return mp.gamma(value + 1)


def _binomial(top: Value, bottom: Value) -> Value:
    whole = [isinstance(one, Fraction) and one.denominator == 1 for one in (top, bottom)]
    if all(whole) and bottom >= 0 and top >= 0:
        if top > MAX_FACTORIAL:
            raise TooLarge("binomial")
        return Fraction(math.comb(top.numerator, bottom.numerator))
    if mp.fabs(as_mp(top)) > MAX_FACTORIAL or mp.fabs(as_mp(bottom)) > MAX_FACTORIAL:
        raise TooLarge("binomial")
    return mp.binomial(as_mp(top), as_mp(bottom))


def _determinant(rows: Value) -> Value:
    if not isinstance(rows, tuple) or _shape(rows)[0] != _shape(rows)[1]:
        raise Undefined("determinant")
    if len(rows) == 1:
        return rows[0][0]
    total: Value = Fraction(0)
    for column, item in enumerate(rows[0]):
        minor = tuple(row[:column] + row[column + 1 :] for row in rows[1:])
        term = _mul(item, _determinant(minor))
        total = _add(total, _mul(Fraction(-1), term) if column % 2 else term)
    return total


def _floor(value: Value, *, up: bool = False) -> Value:
    if isinstance(value, Fraction):
        return Fraction(math.ceil(value) if up else math.floor(value))
    if not is_real(value):
        raise Undefined("floor")
    value = value.real
    if mp.mag(value) > 4 * mp.dps // 2:
        raise TooLarge("floor")
    nearest = mp.nint(value)
    if mp.fabs(value - nearest) < mp.mpf(10) ** (-mp.dps // 2):
        return Fraction(int(nearest))
    return Fraction(int(mp.ceil(value) if up else mp.floor(value)))


def _absolute(value: Value) -> Value:
    if isinstance(value, tuple):
        return _determinant(value)
    return abs(value) if isinstance(value, Fraction) else mp.fabs(value)


def _logarithm(value: Value, base: Value) -> Value:
    return mp.log(as_mp(value)) / mp.log(as_mp(base))


def _modulo(value: Value, modulus: Value) -> Value:
    if not isinstance(value, Fraction) or not isinstance(modulus, Fraction):
        raise Undefined("mod")
    return value % modulus


def _extreme(values: list[Value], choose: Callable[..., Value]) -> Value:
    if not all(map(is_real, values)):
        raise Undefined("order")
    return choose(values, key=as_mp)


_TRIGONOMETRIC = frozenset(["sin", "cos", "tan", "cot", "sec", "csc"])
_OF_ONE: dict[str, Callable[[Any], Any]] = {
    "-": lambda x: _mul(Fraction(-1), x),
    "!": _factorial,
    "percent": lambda x: _mul(x, Fraction(1, 100)),
    "degree": lambda x: x,
    "abs": _absolute,
    "det": _determinant,
    "floor": _floor,
    "ceil": lambda x: _floor(x, up=True),
    "ln": lambda x: mp.log(as_mp(x)),
    "lg": lambda x: _logarithm(x, Fraction(10)),
    "exp": lambda x: _real_power(+mp.e, as_mp(x)),
    "sin": lambda x: mp.sin(_moderate(x)),
    "cos": lambda x: mp.cos(_moderate(x)),
    "tan": lambda x: _div(mp.sin(_moderate(x)), mp.cos(_moderate(x))),
    "cot": lambda x: _div(mp.cos(_moderate(x)), mp.sin(_moderate(x))),
    "sec": lambda x: 1 / mp.cos(_moderate(x)),
    "csc": lambda x: 1 / mp.sin(_moderate(x)),
    "arcsin": lambda x: mp.asin(as_mp(x)),
    "arccos": lambda x: mp.acos(as_mp(x)),
    "arctan": lambda x: mp.atan(as_mp(x)),
    "arccot": lambda x: mp.pi / 2 - mp.atan(as_mp(x)),
    "sinh": lambda x: mp.sinh(_moderate(x)),
    "cosh": lambda x: mp.cosh(_moderate(x)),
    "tanh": lambda x: mp.tanh(_moderate(x)),
    "coth": lambda x: 1 / mp.tanh(_moderate(x)),
    "arg": lambda x: mp.arg(as_mp(x)),
    "Re": lambda x: as_mp(x).real,
    "Im": lambda x: as_mp(x).imag,
}


def _moderate(value: Value) -> Value:
    value = as_mp(value)
    if mp.isinf(value) or mp.fabs(value) > 1_000_000:
        raise TooLarge("an angle")
    return value


def _function(name: str, args: list[Value]) -> Value:
    if len(args) == 1 and name in _OF_ONE:
        return _OF_ONE[name](args[0])
    match name, args:
        case "+", _:
            total = args[0]
            for arg in args[1:]:
                total = _add(total, arg)
            return total
        case "*", [left, right]:
            return _mul(left, right)
        case (("/" | "ratio"), [left, right]):
            return _div(left, right)
        case "^", [base, exponent]:
            return _pow(base, exponent)
        case "root", [radicand, degree]:
            return _pow(radicand, _div(Fraction(1), degree))
        case "binom", [top, bottom]:
            return _binomial(top, bottom)
        case "log", [value, *base]:
            return _logarithm(value, base[0] if base else Fraction(10))
        case "mod", [value, modulus]:
            return _modulo(value, modulus)
        case (("gcd" | "lcm"), _):
            numbers = [_whole(arg) for arg in args]
            return Fraction((math.gcd if name == "gcd" else math.lcm)(*numbers))
        case "max", _:
            return _extreme(args, max)
        case "min", _:
            return _extreme(args, min)
    raise Undefined(name)
