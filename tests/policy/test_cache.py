"""The growing cache holds what transformers' own cache holds, whatever is done to it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.cache_utils import DynamicCache, LinearAttentionLayer

from dgpo_cli.policy.cache import GrowingLayer, cache_is_right, cache_kind, growing_cache
from dgpo_cli.policy.head import decoder_of
from tests.policy import families, tiny

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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_padding_that_a_bias_makes_something_of_is_seen_whatever_its_size(
    dtype: torch.dtype,
) -> None:
    for scale, clean in ((1.0, False), (1e-3, False), (0.0, True)):
        model = tiny.build_model("lfm2").to(dtype)
        with torch.no_grad():
            model.model.layers[0].conv.in_proj.bias.mul_(scale)
        decoder = model.get_decoder()
        kind = cache_kind(decoder)
        assert kind is not None and cache_is_right(decoder, kind, padded=False)
        assert cache_is_right(decoder, kind, padded=True) == clean


@pytest.mark.parametrize("family", [*families.ATTENTION, *families.RECURRENT])
def test_rounding_to_16_bits_is_not_taken_for_a_wrong_cache(family: str) -> None:
    decoder = decoder_of(tiny.build_model(family).bfloat16())
    kind = cache_kind(decoder)
    assert kind is not None and cache_is_right(decoder, kind, padded=False)
    assert cache_is_right(decoder, kind, padded=True) == (family not in ("lfm2", "minimax"))


@pytest.mark.parametrize("layer", [GrowingLayer, LinearAttentionLayer])
def test_a_cache_whose_rows_go_to_the_wrong_place_is_seen(
    layer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = decoder_of(tiny.build_model("qwen3_next"))
    kind = cache_kind(decoder)
    assert kind is not None and cache_is_right(decoder, kind, padded=False)
    right = layer.reorder_cache
    monkeypatch.setattr(layer, "reorder_cache", lambda x, rows: right(x, rows.sort().values))
    assert not cache_is_right(decoder, kind, padded=False)
