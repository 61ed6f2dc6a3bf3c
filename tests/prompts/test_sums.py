"""Laws of the generated arithmetic, checked against Python's own parser and evaluator."""

from __future__ import annotations

import ast
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgpo_cli.core.errors import DataError
from dgpo_cli.prompts import sums
from dgpo_cli.prompts.sums import SumProblem, held_out, sample_problem, solution

SYMBOLS: dict[type[ast.operator], str] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*"}

problems = st.builds(
    lambda seed, operations, max_operand, split: sample_problem(
        random.Random(seed), operations=operations, max_operand=max_operand, split=split
    ),
    st.integers(0, 2**32),
    st.integers(1, 6),
    st.integers(9, 999),
    st.sampled_from(["train", "test"]),
)


def parsed_steps(node: ast.expr, steps: list[str]) -> int:
    """Slow twin: evaluate Python's syntax tree, noting each operation."""
    if isinstance(node, ast.Constant):
        assert isinstance(node.value, int)
        return node.value
    assert isinstance(node, ast.BinOp)
    left, right = parsed_steps(node.left, steps), parsed_steps(node.right, steps)
    text = f"{left}{SYMBOLS[type(node.op)]}{right}"
    result = eval(text)
    assert isinstance(result, int)
    steps.append(f"{text}={result}")
    return result


def unordered(node: ast.expr) -> object:
    """Slow twin of the key: a tree in which operands of + and * have no order."""
    if isinstance(node, ast.Constant):
        return node.value
    assert isinstance(node, ast.BinOp)
    operands = [unordered(node.left), unordered(node.right)]
    symbol = SYMBOLS[type(node.op)]
    if symbol == "-":
        return symbol, tuple(operands)
    return symbol, frozenset(Counter(operands).items())


def tree(problem: SumProblem) -> ast.expr:
    return ast.parse(problem.expression, mode="eval").body


def mirrored(postfix: sums.Postfix) -> sums.Postfix:
    """The same problem with the operands of every + and * swapped."""
    stack: list[sums.Postfix] = []
    for item in postfix:
        if isinstance(item, int):
            stack.append((item,))
            continue
        right, left = stack.pop(), stack.pop()
        stack.append((*left, *right, item) if item == "-" else (*right, *left, item))
    return stack.pop()


@given(problems)
def test_expression_evaluates_to_answer(problem: SumProblem) -> None:
    assert eval(problem.expression) == problem.answer
    assert problem.question == problem.expression + "?"


@given(problems)
def test_solution_is_what_the_parser_evaluates(problem: SumProblem) -> None:
    steps: list[str] = []
    answer = parsed_steps(tree(problem), steps)
    assert solution(problem) == ";".join([*steps, f"\\boxed{{{answer}}}"])


@given(problems)
def test_every_value_is_between_0_and_999(problem: SumProblem) -> None:
    values = [v for step in problem.steps for v in (step.left, step.right, step.result)]
    assert min(values) >= 0
    assert max(values) <= 999
    assert problem.answer == values[-1]


@given(problems)
def test_parentheses_are_only_where_needed(problem: SumProblem) -> None:
    assert (
        "(" not in problem.expression
        or ast.unparse(tree(problem)).replace(" ", "") == problem.expression
    )


@given(st.integers(0, 2**32), st.integers(1, 12), st.integers(9, 999))
def test_operations_and_operands_are_as_asked(seed: int, operations: int, limit: int) -> None:
    problem = sample_problem(random.Random(seed), operations=operations, max_operand=limit)
    operands = [item for item in problem.postfix if isinstance(item, int)]
    assert len(problem.steps) == operations
    assert len(operands) == operations + 1
    assert all(1 <= operand <= limit for operand in operands)


@given(problems)
def test_products_have_one_single_digit_factor(problem: SumProblem) -> None:
    for step in problem.steps:
        if step.operator == "*":
            assert min(step.left, step.right) <= 9
            assert max(step.left, step.right) <= 99


@given(problems)
def test_swapped_operands_share_the_side_of_the_split(problem: SumProblem) -> None:
    _, key = sums._render(mirrored(problem.postfix))
    assert key == problem.key


def test_solution_style_is_the_documented_one() -> None:
    postfix: sums.Postfix = (12, 7, "+", 4, "*", 8, "-")
    expression, key = sums._render(postfix)
    problem = SumProblem(expression, 68, sums.work(postfix), postfix, key)
    assert problem.question == "(12+7)*4-8?"
    assert solution(problem) == r"12+7=19;19*4=76;76-8=68;\boxed{68}"


def test_split_is_the_same_on_every_machine() -> None:
    """Pinned: another hash would let problems of published test sets into training."""
    assert [p.expression for p in held_out(2)[:3]] == ["62-(95-68)", "33+49+80", "85-(63-14)"]
    keys = [f"({a}+{b})" for a in range(100) for b in range(100)]
    assert sum(sums.split_of_key(key) == "test" for key in keys) == 1173


def test_train_and_test_never_meet_in_100_000_draws() -> None:
    """One-operation sums repeat often, so a leak would show; deeper ones hardly repeat."""
    rng = random.Random(7)
    seen: dict[sums.Split, set[str]] = {"train": set(), "test": set()}
    counts: dict[sums.Split, int] = {"train": 92_000, "test": 8_000}
    for split, count in counts.items():
        for draw in range(count):
            problem = sample_problem(rng, operations=1 + draw % 2, split=split)
            seen[split].add(problem.key)
    assert not seen["train"] & seen["test"]
    assert len(seen["train"]) > 40_000
    assert len(seen["test"]) > 4_000


def test_train_and_test_differ_by_more_than_the_order_of_operands() -> None:
    rng = random.Random(8)
    train = [sample_problem(rng, operations=1, max_operand=30) for _ in range(6_000)]
    test = [sample_problem(rng, operations=1, max_operand=30, split="test") for _ in range(600)]
    assert not {unordered(tree(p)) for p in train} & {unordered(tree(p)) for p in test}


@pytest.mark.parametrize("operations", [1, 2, 3])
def test_held_out_problems_are_30_different_test_problems(operations: int) -> None:
    benchmark = held_out(operations)
    assert len({unordered(tree(p)) for p in benchmark}) == 30
    assert {sums.split_of_key(p.key) for p in benchmark} == {"test"}
    assert {len(p.steps) for p in benchmark} == {operations}


def test_same_seed_gives_same_problems() -> None:
    def draw(seed: int) -> list[SumProblem]:
        rng = random.Random(seed)
        return [sample_problem(rng, operations=3) for _ in range(20)]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    assert held_out(3) == held_out(3)
    assert held_out(3) != held_out(3, seed=1)


def test_single_digit_sums_have_a_small_test_set() -> None:
    benchmark = held_out(1, count=20, max_operand=9)
    assert len({p.key for p in benchmark}) == 20
    assert all(operand <= 9 for p in benchmark for operand in p.postfix if isinstance(operand, int))
    with pytest.raises(DataError, match=r"count=500: only \d\d test problems with operations=1"):
        held_out(1, count=500, max_operand=9)


def test_every_operator_and_shape_comes_up() -> None:
    rng = random.Random(3)
    drawn = [sample_problem(rng, operations=2) for _ in range(3_000)]
    operators = Counter(step.operator for p in drawn for step in p.steps)
    assert min(operators["+"], operators["-"], operators["*"]) > 1_000
    assert 500 < sum("(" in p.expression for p in drawn) < 1_500


@pytest.mark.parametrize(
    ("operations", "max_operand", "words"),
    [(0, 9, "operations=0"), (33, 9, "operations=33"), (1, 0, "max_operand=0"), (1, 1000, "1000")],
)
def test_impossible_ranges_are_named(operations: int, max_operand: int, words: str) -> None:
    with pytest.raises(DataError, match=words):
        sample_problem(random.Random(0), operations=operations, max_operand=max_operand)


def test_an_empty_side_of_the_split_is_an_error_and_no_endless_loop() -> None:
    with pytest.raises(DataError, match="no test problem with operations=1 and max_operand=1"):
        sample_problem(random.Random(0), operations=1, max_operand=1, split="test")
