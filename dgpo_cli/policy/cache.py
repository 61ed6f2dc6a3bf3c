"""Caches of sampled rows: keys and values, states of recurrent layers.

Keys and values grow in blocks: one copy per block, where `torch.cat` copies the whole cache for
every token.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from dgpo_cli.policy.head import alike, dtype_of
from dgpo_cli.policy.shape import room_for

# Names of the argument, and output field, of the cache. Families with the second one have no
# attention: their mask covers only the tokens that are fed.
_ARGUMENTS = ("past_key_values", "cache_params")
# Errors of a family's code that does not support a use of its cache.
_UNSUPPORTED = (AttributeError, LookupError, RuntimeError, TypeError, ValueError)


class GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """Full-attention keys and values in buffers with room for the next tokens.

    `keys` and `values` are views of the filled part, [B, heads, tokens, size].
    """

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append the new tokens; return all keys and values so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            shape = (*key_states.shape[:2], 0, key_states.shape[-1])
            self.keys = self._keys = key_states.new_empty(shape)
            shape = (*value_states.shape[:2], 0, value_states.shape[-1])
            self.values = self._values = value_states.new_empty(shape)
        filled = self.keys.shape[-2]
        total = filled + key_states.shape[-2]
        # Another storage: a method of the parent has replaced the views.
        moved = self._keys.data_ptr() != self.keys.data_ptr()
        if moved or self._keys.shape[-2] < total:
            self._keys = _grown(self.keys, tokens=total)
            self._values = _grown(self.values, tokens=total)
        self._keys[:, :, filled:total] = key_states
        self._values[:, :, filled:total] = value_states
        self.keys, self.values = self._keys[:, :, :total], self._values[:, :, :total]
        return self.keys, self.values

    def reorder_cache(self, indices: Tensor) -> None:
        """Keep the rows `indices` (int64), which may repeat."""
        if self.is_initialized:
            # Several times faster than keys[indices]: it copies whole rows.
            self.keys = self._keys = self.keys.index_select(0, indices)
            self.values = self._values = self.values.index_select(0, indices)

    batch_select_indices = reorder_cache


def _grown(filled: Tensor, *, tokens: int) -> Tensor:
    """Return a buffer with room for `tokens` and a block or a quarter more, filled as `filled`."""
    batch, heads, used, size = filled.shape
    buffer = filled.new_empty(batch, heads, room_for(tokens), size)
    buffer[:, :, :used] = filled
    return buffer


def growing_cache(config: Any) -> DynamicCache:
    """Return an empty cache for a model; layers with sliding windows or states keep their kind.

    It writes in place: for inference only.
    """
    cache = DynamicCache(config=config)
    cache.layers = [
        GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers
    ]
    return cache


class RowCache:
    """The cache of a batch of rows, for any family."""

    def __init__(self, argument: str, *, content: Any | None) -> None:
        """content: an empty cache; None: the model makes its own."""
        self._argument = argument
        self._content = content

    def feed(self, decoder: Any, ids: Tensor, *, mask: Tensor, positions: Tensor) -> Tensor:
        """Run the next tokens; return the last final hidden state of each row, [B, D].

        Args:
            ids: int64 [B, T]; mask: int64 [B, L], of all tokens so far.
            positions: int64 [B, T], from 0 at the first token on the mask.
        """
        if self._argument == "cache_params":
            mask = mask[:, -ids.shape[1] :]
        output = decoder(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            use_cache=True,
            **{self._argument: self._content},
        )
        self._content = getattr(output, self._argument)
        hidden: Tensor = output.last_hidden_state[:, -1]
        return hidden

    def select(self, indices: Tensor) -> None:
        """Keep the rows `indices` (int64), which may repeat."""
        content = self._content
        assert content is not None
        for layer in content.layers:
            layer.reorder_cache(indices)
        # MiniMax keeps its states outside the layers.
        states = getattr(content, "linear_cache", [])
        states[:] = [s.index_select(0, indices) if isinstance(s, Tensor) else s for s in states]

    def is_clean(self, lengths: Tensor) -> bool:
        """Whether the states of convolutions are exactly 0 before each row's tokens.

        Anything else means that a bias has turned padding into a value.

        lengths: int64 [B]
        """
        layers = getattr(self._content, "layers", [])
        states = [s for x in layers for s in getattr(x, "conv_states", {}).values()]
        return not any(
            row[:, : max(0, row.shape[-1] - length)].any()
            for state in states
            if state is not None
            for row, length in zip(state, lengths.tolist(), strict=True)
        )


@dataclass(frozen=True, slots=True)
class CacheKind:
    """How to make a model's caches and pass them to it."""

    argument: str
    config: Any | None  # of a growing cache; None: the model makes its own

    def new(self) -> RowCache:
        """Return an empty cache."""
        content = None if self.config is None else growing_cache(self.config)
        return RowCache(self.argument, content=content)


def cache_kind(decoder: Any) -> CacheKind | None:
    """Return the kind of a model's caches; None if their rows cannot be selected."""
    known = inspect.signature(decoder.forward).parameters
    argument = next((name for name in _ARGUMENTS if name in known), None)
    if argument is None:
        return None
    token = torch.ones(1, 1, dtype=torch.int64, device=next(decoder.parameters()).device)
    try:
        with torch.no_grad():
            own = getattr(decoder(input_ids=token, use_cache=True), argument, None)
    except torch.OutOfMemoryError:
        raise
    except _UNSUPPORTED:
        return None
    if not isinstance(own, Cache):
        return None
    return CacheKind(argument, decoder.config if type(own) is DynamicCache else None)


# Rows kept after each step of the check: some move, one is doubled, one dropped.
_KEPT = ([0, 1], [1, 0, 1], [2, 1], [0])
_PROMPT = 5  # tokens


def cache_is_right(decoder: Any, kind: CacheKind, *, padded: bool) -> bool:
    """Whether tokens fed one by one, with rows selected in between, give the same hidden states as
    whole sequences.

    padded: try prompts of different lengths, padded on the left.
    """
    device = next(decoder.parameters()).device
    width = _PROMPT + len(_KEPT) - 1
    ids = (torch.arange(2 * width, device=device).view(2, -1) + 1) % decoder.config.vocab_size
    starts = torch.tensor([0, 3 if padded else 0], device=device)
    mask = torch.arange(width, device=device)[None] >= starts[:, None]
    with torch.no_grad():
        wholes = [line[kept][None] for line, kept in zip(ids, mask, strict=True)]
        states = [decoder(input_ids=x, use_cache=False).last_hidden_state[0] for x in wholes]
        expected = torch.stack([found[-len(_KEPT) :] for found in states])
        try:
            return _fed_alike(decoder, kind.new(), ids, mask=mask, expected=expected)
        except torch.OutOfMemoryError:
            raise
        except _UNSUPPORTED:
            return False


def _fed_alike(
    decoder: Any, cache: RowCache, ids: Tensor, *, mask: Tensor, expected: Tensor
) -> bool:
    """Feed a prompt, then token by token; compare with the states `expected` [2, 4, D]."""
    positions = (mask.long().cumsum(dim=1) - 1).clamp_min(0)
    rows, begin = torch.arange(2, device=ids.device), 0
    for step, kept in enumerate(_KEPT):
        end = _PROMPT + step
        hidden = cache.feed(
            decoder,
            ids[rows, begin:end],
            mask=mask[rows, :end].long(),
            positions=positions[rows, begin:end],
        )
        if not alike(hidden, expected[rows, step], dtype=dtype_of(decoder)):
            return False
        if step == 0 and not cache.is_clean(mask[:, :end].sum(dim=1)):
            return False
        cache.select(torch.tensor(kept, device=ids.device))
        rows, begin = rows[kept], end
    return True
