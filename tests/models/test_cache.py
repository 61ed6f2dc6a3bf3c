"""The growing cache holds what transformers' own cache holds, whatever is done to it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.cache_utils import DynamicCache

from dgpo_cli.models.cache import GrowingLayer, growing_cache
from tests.models import tiny

# Append this many tokens, or (as rows 0 to 3, kept modulo the present rows) select rows.
ACTIONS = st.lists(
    st.one_of(
        st.sampled_from([1, 2, 30, 70, 200]), st.lists(st.integers(0, 3), min_size=1, max_size=4)
    ),
    min_size=1,
    max_size=12,
)


@given(ACTIONS)
@settings(max_examples=20, deadline=None)
def test_it_equals_transformers_cache(actions: list[int | list[int]]) -> None:
    config = tiny.config_of("qwen2-tied")
    ours, theirs = growing_cache(config), DynamicCache(config=config)
    generator, rows = torch.Generator().manual_seed(0), 3
    for action in [5, *actions]:
        if isinstance(action, list):
            index = torch.tensor(action) % rows
            ours.batch_select_indices(index)
            theirs.batch_select_indices(index)
            rows = len(index)
            continue
        for layer in range(2):
            keys, values = torch.randn(2, rows, 2, action, 8, generator=generator)
            found = ours.update(keys, values, layer)
            expected = theirs.update(keys, values, layer)
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
        assert ours.get_seq_length() == theirs.get_seq_length()


def test_tokens_are_appended_in_place() -> None:
    cache = growing_cache(tiny.config_of("qwen2-tied"))
    one = torch.ones(4, 2, 1, 8)
    addresses = {cache.update(one, one, 0)[0].data_ptr() for _ in range(50)}
    assert len(addresses) == 1


def test_a_parents_method_that_replaces_the_tensors_is_noticed() -> None:
    config = tiny.config_of("qwen2-tied")
    ours, theirs = growing_cache(config), DynamicCache(config=config)
    first, second = torch.randn(2, 1, 2, 3, 8, generator=torch.Generator().manual_seed(0))
    for cache in (ours, theirs):
        cache.update(first, first, 0)
        cache.batch_repeat_interleave(2)
    pair = second.expand(2, -1, -1, -1)
    assert torch.equal(ours.update(pair, pair, 0)[0], theirs.update(pair, pair, 0)[0])


@pytest.mark.parametrize(
    ("family", "growing"), [("qwen2-tied", [True, True]), ("gemma2-softcap", [False, True])]
)
def test_only_layers_of_full_attention_grow(family: str, growing: list[bool]) -> None:
    cache = growing_cache(tiny.build_model(family).config)
    assert [isinstance(layer, GrowingLayer) for layer in cache.layers] == growing
