"""Generated arithmetic: nested sums with integer answers, split into train and held-out test.

The side of the split is a hash of the problem itself, so that training can never see a test
problem, whatever the seeds. Every value on the way to the answer is an integer in 0..999.
"""

from __future__ import annotations

import hashlib
import random
from typing import Literal, NamedTuple

from dgpo_cli.core.errors import DataError

Operator = Literal["+", "-", "*"]
Postfix = tuple[int | Operator, ...]
Split = Literal["train", "test"]

MAX_VALUE = 999
MAX_FACTORS = (9, 99)  # smaller and larger factor: products that a small model can learn
MAX_OPERATIONS = 32
MAX_OPERAND = 99
HELD_OUT_SEED = 2605
HELD_OUT_COUNT = 30

_OPERATORS: tuple[Operator, ...] = ("+", "-", "*")
_PRECEDENCE: dict[Operator, int] = {"+": 1, "-": 1, "*": 2}
_LEAF_PRECEDENCE = 3
_TEST_BYTES = 32  # of the 256 values of the hash's first byte: 1/8 of all problems are test
_MAX_TRIES = 20_000  # draws without a hit before a range of problems counts as exhausted


class SumStep(NamedTuple):
    """One operation of a solution; prints as `12+7=19`."""

    left: int
    operator: Operator
    right: int
    result: int

    def __str__(self) -> str:
        return f"{self.left}{self.operator}{self.right}={self.result}"


class SumProblem(NamedTuple):
    """A problem with its worked solution.

    expression: as written, with parentheses only where precedence needs them.
    steps: in evaluation order, left before right; the last result is `answer`.
    postfix: the same expression as operands and operators of a stack machine.
    key: the expression up to the order of the operands of + and *; decides the split.
    """

    expression: str
    answer: int
    steps: tuple[SumStep, ...]
    postfix: Postfix
    key: str

    @property
    def question(self) -> str:
        """The text of the prompt: `(12+7)*4-8?`."""
        return f"{self.expression}?"


def sample_problem(
    rng: random.Random, *, operations: int, max_operand: int = MAX_OPERAND, split: Split = "train"
) -> SumProblem:
    """Draw one problem of `split` with operands 1..max_operand.

    Expressions that differ only in the order of operands of + or * are on the same side of the
    split; a fixed eighth of all problems is test.

    Raises:
        DataError: the range of problems is empty on that side of the split, or not allowed.
    """
    if not 1 <= operations <= MAX_OPERATIONS:
        raise DataError(f"operations={operations}: must be between 1 and {MAX_OPERATIONS}")
    if not 1 <= max_operand <= MAX_VALUE:
        raise DataError(f"max_operand={max_operand}: must be between 1 and {MAX_VALUE}")
    for _ in range(_MAX_TRIES):
        postfix, answer = _draw(rng, operations, max_operand)
        expression, key = _render(postfix)
        if split_of_key(key) == split:
            return SumProblem(expression, answer, work(postfix), postfix, key)
    raise DataError(
        f"no {split} problem with operations={operations} and max_operand={max_operand}; "
        "raise max_operand"
    )


def held_out(
    operations: int,
    *,
    count: int = HELD_OUT_COUNT,
    max_operand: int = MAX_OPERAND,
    seed: int = HELD_OUT_SEED,
) -> tuple[SumProblem, ...]:
    """Return `count` different test problems, the same ones for the same arguments.

    Raises:
        DataError: there are fewer than `count` test problems in this range.
    """
    rng = random.Random(seed)
    found: dict[str, SumProblem] = {}
    misses = 0
    while len(found) < count:
        problem = sample_problem(rng, operations=operations, max_operand=max_operand, split="test")
        misses = misses + 1 if problem.key in found else 0
        if misses >= _MAX_TRIES // 10:
            raise DataError(
                f"count={count}: only {len(found)} test problems with operations={operations} "
                f"and max_operand={max_operand}; ask for fewer or raise max_operand"
            )
        found.setdefault(problem.key, problem)
    return tuple(found.values())


def solution(problem: SumProblem) -> str:
    r"""Write the worked solution: `12+7=19;19*4=76;76-8=68;\boxed{68}`."""
    return written(problem.steps)


def written(steps: tuple[SumStep, ...]) -> str:
    """Write `steps` as a solution whose answer is the last result, correct or not."""
    return ";".join([*map(str, steps), f"\\boxed{{{steps[-1].result}}}"])


def apply(left: int, operator: Operator, right: int) -> int:
    """Return the correct result of one operation."""
    if operator == "+":
        return left + right
    return left - right if operator == "-" else left * right


def work(postfix: Postfix) -> tuple[SumStep, ...]:
    """Return the steps of `postfix` in evaluation order."""
    stack: list[int] = []
    steps: list[SumStep] = []
    for item in postfix:
        if isinstance(item, int):
            stack.append(item)
            continue
        right, left = stack.pop(), stack.pop()
        stack.append(apply(left, item, right))
        steps.append(SumStep(left, item, right, stack[-1]))
    return tuple(steps)


def split_of_key(key: str) -> Split:
    """Return the side of the split of every problem with this `key`."""
    return "test" if hashlib.sha256(key.encode()).digest()[0] < _TEST_BYTES else "train"


def _draw(rng: random.Random, operations: int, max_operand: int) -> tuple[Postfix, int]:
    """Draw an expression and its value; an operator that would leave 0..999 is replaced."""
    if operations == 0:
        operand = 1 + int(rng.random() * max_operand)
        return (operand,), operand
    on_the_left = int(rng.random() * operations)
    operator = _OPERATORS[int(rng.random() * 3)]
    left, left_value = _draw(rng, on_the_left, max_operand)
    right, right_value = _draw(rng, operations - 1 - on_the_left, max_operand)
    if operator == "*":
        # One operand is redrawn small: products of two-digit operands are hardly ever allowed.
        if len(right) == 1:
            right, right_value = _draw_factor(rng, max_operand)
        elif len(left) == 1:
            left, left_value = _draw_factor(rng, max_operand)
        small, large = sorted((left_value, right_value))
        if small > MAX_FACTORS[0] or large > MAX_FACTORS[1]:
            operator = _OPERATORS[int(rng.random() * 2)]
    if operator == "+" and left_value + right_value > MAX_VALUE:
        operator = "-"
    if operator == "-" and left_value < right_value:
        left, left_value, right, right_value = right, right_value, left, left_value
    return (*left, *right, operator), apply(left_value, operator, right_value)


def _draw_factor(rng: random.Random, max_operand: int) -> tuple[Postfix, int]:
    largest = min(MAX_FACTORS[0], max_operand)
    smallest = min(2, largest)
    factor = smallest + int(rng.random() * (largest - smallest + 1))
    return (factor,), factor


def _render(postfix: Postfix) -> tuple[str, str]:
    """Return the expression as written, and its key."""
    stack: list[tuple[str, str, int]] = []
    for item in postfix:
        if isinstance(item, int):
            stack.append((str(item), str(item), _LEAF_PRECEDENCE))
            continue
        right, right_key, right_precedence = stack.pop()
        left, left_key, left_precedence = stack.pop()
        precedence = _PRECEDENCE[item]
        if left_precedence < precedence:
            left = f"({left})"
        if right_precedence <= precedence:
            right = f"({right})"
        if item != "-" and right_key < left_key:
            left_key, right_key = right_key, left_key
        stack.append((f"{left}{item}{right}", f"({left_key}{item}{right_key})", precedence))
    expression, key, _ = stack.pop()
    return expression, key
