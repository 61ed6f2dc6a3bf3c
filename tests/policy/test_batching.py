"""Padding, trimming and micro-batches keep every token in its place."""

from __future__ import annotations

import itertools
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dgpo_cli.policy.batching import (
    Rows,
    cut_rows,
    micro_batches,
    padding_share,
    prompt_owners,
    shared_share,
)
from tests.policy import tiny

SHAPES = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=8)


def read_back(rows: Rows) -> list[tuple[list[int], list[int]]]:
    return [
        (rows.prompt_ids[i][rows.prompt_mask[i]].tolist(), rows.completion_ids[i][m].tolist())
        for i, m in enumerate(rows.mask)
    ]


@given(SHAPES, st.integers(0, 3), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_padding_touches_on_the_inside_and_loses_no_token(
    shapes: list[tuple[int, int]], left: int, right: int
) -> None:
    pairs = tiny.random_pairs(shapes)
    rows = tiny.rows_of_pairs(pairs, more_left=left, more_right=right)
    assert read_back(rows) == pairs
    both = torch.cat([rows.prompt_mask, rows.mask], dim=1).int()
    # Prompt and completion meet: reading a row, the mask rises once and falls once.
    assert int((both.diff(dim=1) > 0).sum(dim=1).max()) <= 1
    assert int((both.diff(dim=1) < 0).sum(dim=1).max()) <= 1
    assert torch.all(rows.prompt_ids[~rows.prompt_mask] == 0)
    assert torch.all(rows.completion_ids[~rows.mask] == 0)


@given(SHAPES, st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_taking_rows_keeps_them_and_trims_to_the_longest(
    shapes: list[tuple[int, int]], rng: random.Random
) -> None:
    pairs = tiny.random_pairs(shapes)
    chosen = [rng.randrange(len(pairs)) for _ in range(rng.randint(1, 5))]
    part = tiny.rows_of_pairs(pairs, more_left=2, more_right=2).take(torch.tensor(chosen))
    assert read_back(part) == [pairs[i] for i in chosen]
    assert part.prompt_ids.shape[1] == max(len(pairs[i][0]) for i in chosen)
    assert part.mask.shape[1] == max(len(pairs[i][1]) for i in chosen)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=20), st.integers(1, 8))
@settings(max_examples=60, deadline=None)
def test_micro_batches_hold_every_row_once_longest_first(lengths: list[int], size: int) -> None:
    parts = [part.tolist() for part in micro_batches(torch.tensor(lengths), size=size)]
    flat = [i for part in parts for i in part]
    assert sorted(flat) == list(range(len(lengths)))
    assert [lengths[i] for i in flat] == sorted(lengths, reverse=True)
    assert all(len(part) == size for part in parts[:-1])
    assert 1 <= len(parts[-1]) <= size


@pytest.mark.parametrize("size", [0, 1, 4])
def test_no_rows_make_no_micro_batch(size: int) -> None:
    assert list(micro_batches(torch.zeros(0, dtype=torch.long), size=size)) == []


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 8), st.integers(1, 120))
def test_micro_batches_hold_every_row_once_within_both_limits(
    lengths: list[int], size: int, tokens: int
) -> None:
    parts = [p.tolist() for p in micro_batches(torch.tensor(lengths), size=size, max_tokens=tokens)]
    assert sorted(row for part in parts for row in part) == list(range(len(lengths)))
    for part in parts:
        assert 1 <= len(part) <= size
        assert len(part) == 1 or sum(lengths[row] for row in part) <= tokens
    flat = [lengths[row] for part in parts for row in part]
    assert flat == sorted(lengths, reverse=True)


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 120))
def test_without_a_limit_of_rows_tokens_and_padding_decide(lengths: list[int], tokens: int) -> None:
    parts = [p.tolist() for p in micro_batches(torch.tensor(lengths), size=0, max_tokens=tokens)]
    assert sorted(row for part in parts for row in part) == list(range(len(lengths)))
    for part, after in itertools.zip_longest(parts, parts[1:]):
        width = lengths[part[0]]
        assert len(part) == 1 or len(part) * width <= tokens
        assert after is None or (len(part) + 1) * width > tokens  # one more would not have fitted
    together = micro_batches(torch.tensor(lengths), size=0)
    assert [len(part) for part in together] == ([len(lengths)] if lengths else [])


def test_the_share_of_padding_is_arithmetic() -> None:
    rows = tiny.rows_of_pairs(tiny.random_pairs([(2, 4), (3, 1)], seed=0))
    # One rectangle of 2 rows x (3 + 4) places for 10 tokens; two rows alone have no padding.
    assert padding_share(rows, size=2) == pytest.approx(1 - 10 / 14)
    assert padding_share(rows, size=1) == 0.0
    assert padding_share(rows, size=2, max_tokens=9) == 0.0


GROUPS = st.lists(
    st.tuples(st.integers(1, 30), st.lists(st.integers(1, 30), min_size=1, max_size=4)),
    min_size=1,
    max_size=5,
)


def rows_in_groups(groups: list[tuple[int, list[int]]], *, seed: int = 0) -> Rows:
    """Rows of prompts of these lengths with completions of these, in any order."""
    pairs = [
        ([number + 1] * prompt, [9] * completion)
        for number, (prompt, completions) in enumerate(groups)
        for completion in completions
    ]
    random.Random(seed).shuffle(pairs)
    return tiny.rows_of_pairs(pairs, more_left=2)


def cost(rows: Rows, parts: list[torch.Tensor], *, even_length: float) -> float:
    """Tokens to compute, written out."""
    total = 0.0
    for part in parts:
        pairs = read_back(rows.take(part))
        prompts = {tuple(prompt) for prompt, _ in pairs}
        total += sum(map(len, prompts)) + sum(len(completion) for _, completion in pairs)
        width = max(len(prompt) + len(completion) for prompt, completion in pairs)
        total += len(pairs) * width**2 / even_length
    return total


@given(GROUPS, st.integers(1, 6), st.one_of(st.none(), st.integers(1, 90)), st.floats(1, 1e4))
@settings(max_examples=100, deadline=None)
def test_cutting_keeps_the_limits_and_never_costs_more_than_cutting_by_length(
    groups: list[tuple[int, list[int]]], size: int, tokens: int | None, even_length: float
) -> None:
    rows = rows_in_groups(groups)
    count = len(rows.mask)
    index = torch.arange(count - 1, -1, -1)[: max(1, count - 1)]
    parts = cut_rows(rows, index, size=size, max_tokens=tokens, even_length=even_length)
    assert sorted(torch.cat(parts).tolist()) == sorted(index.tolist())
    lengths = rows.prompt_mask.sum(dim=1) + rows.mask.sum(dim=1)
    for part in parts:
        fits = tokens is None or int(lengths[part].sum()) <= tokens
        assert len(part) == 1 or (len(part) <= size and fits)
    plain = cut_rows(rows, index, size=size, max_tokens=tokens)
    expected = micro_batches(lengths[index], size=size, max_tokens=tokens)
    assert [p.tolist() for p in plain] == [index[local].tolist() for local in expected]
    assert cost(rows, parts, even_length=even_length) <= cost(
        rows, plain, even_length=even_length
    ) * (1 + 1e-9)


def test_rows_of_a_prompt_come_together_unless_attention_is_what_costs() -> None:
    rows = rows_in_groups([(20, [1, 2, 3, 4]), (20, [1, 2, 3, 4])])
    every = torch.arange(8)
    owners = prompt_owners(rows)
    near = cut_rows(rows, every, size=4, even_length=1e4)
    assert [len(set(owners[part].tolist())) for part in near] == [1, 1]
    far = cut_rows(rows, every, size=4, even_length=1.0)
    lengths = rows.prompt_mask.sum(dim=1) + rows.mask.sum(dim=1)
    assert [sorted(lengths[part].tolist()) for part in far] == [[23, 23, 24, 24], [21, 21, 22, 22]]


def test_a_prompt_is_owned_by_the_first_row_that_has_it() -> None:
    pairs = [([1, 2], [5]), ([3], [6]), ([1, 2], [7, 8]), ([2], [9]), ([3], [1])]
    assert prompt_owners(tiny.rows_of_pairs(pairs, more_left=3)).tolist() == [0, 1, 0, 3, 1]
    # What stands in padding is no part of a prompt.
    rows = tiny.rows_of_pairs(pairs)
    rows.prompt_ids[~rows.prompt_mask] = torch.tensor([4, 5, 6])
    assert prompt_owners(rows).tolist() == [0, 1, 0, 3, 1]


def test_the_share_of_shared_prompts_is_arithmetic() -> None:
    rows = rows_in_groups([(10, [2, 2, 2]), (10, [2])])
    assert shared_share(rows, size=4, even_length=1e4) == pytest.approx(20 / 48)
    assert shared_share(rows, size=1, even_length=1e4) == 0.0
