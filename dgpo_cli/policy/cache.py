"""Caches of sampled rows: keys and values, states of recurrent layers.

Keys and values grow in blocks: one copy per block, where `torch.cat` copies the whole cache for
every token. On a GPU they are decoded at fixed addresses instead, so that a CUDA graph can repeat
the step of a token.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from dgpo_cli.policy.head import alike, dtype_of
from dgpo_cli.policy.shape import capacity_for, room_for

# Names of the argument, and output field, of the cache. Families with the second one have no
# attention: their mask covers only the tokens that are fed.
_ARGUMENTS = ("past_key_values", "cache_params")
# Attention that adds a mask of any content.
_MASKED = ("sdpa", "eager")
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

    def drained(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Give away the keys and values of one layer after the other."""
        content, self._content = self._content, None
        assert content is not None
        while content.layers:
            layer = content.layers.pop(0)
            yield layer.keys, layer.values

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


# Whether attention has one query a row, whose heads may be folded; see packing.attach.
_FOLDING: ContextVar[bool] = ContextVar("folding", default=False)


def folds(query: Tensor, key: Tensor) -> bool:
    """Whether attention is asked for one token a row, with several queries for a key head."""
    return _FOLDING.get() and query.shape[2] == 1 and query.shape[1] > key.shape[1]


@contextmanager
def _folding() -> Iterator[None]:
    token = _FOLDING.set(True)
    try:
        yield
    finally:
        _FOLDING.reset(token)


class _FixedLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values of all rows and places, [B, heads, capacity, size], filled or not."""

    def __init__(self, place: Tensor, *, dtype: torch.dtype | None) -> None:
        """place: int64 [1], where the next token goes."""
        super().__init__()
        self._place, self._dtype = place, dtype
        self._buffers = [torch.empty(0), torch.empty(0)]

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write a token's keys and values, [B, heads, 1, size]; return all places."""
        self.keys.index_copy_(2, self._place, key_states.to(self.keys.dtype))
        self.values.index_copy_(2, self._place, value_states.to(self.values.dtype))
        return self.keys, self.values

    def put(self, keys: Tensor, values: Tensor, *, rows: Tensor, capacity: int) -> bool:
        """Take rows of keys and values [B, heads, tokens, size]; whether an address has changed.

        They may be views of this layer's own.
        """
        kept = [buffer.data_ptr() for buffer in self._buffers]
        self.keys = self._placed(0, keys.index_select(0, rows), capacity=capacity)
        self.values = self._placed(1, values.index_select(0, rows), capacity=capacity)
        self.is_initialized = True
        return kept != [buffer.data_ptr() for buffer in self._buffers]

    def _placed(self, number: int, states: Tensor, *, capacity: int) -> Tensor:
        """Write states [B, heads, tokens, size] into a flat buffer, or into a larger one; return
        its view [B, heads, capacity, size].

        The rest is zeroed: a NaN that another row left there would pass through the mask.
        """
        batch, heads, filled, size = states.shape
        count = batch * heads * capacity * size
        if len(self._buffers[number]) < count:
            self._buffers[number] = states.new_empty(count, dtype=self._dtype or states.dtype)
        view = self._buffers[number][:count].view(batch, heads, capacity, size)
        view[:, :, :filled] = states
        view[:, :, filled:] = 0
        return view


class FixedRows:
    """Rows that are decoded token by token, in tensors whose addresses change only if they do not
    suffice: the same work on the same `shape` is the same kernels on the same memory.

    Only for layers of full attention.
    """

    def __init__(self, layers: int, *, device: torch.device, dtype: torch.dtype | None) -> None:
        """dtype: of keys and values, what attention rounds them to; None: that of the layers'."""
        self._place = torch.zeros(1, dtype=torch.int64, device=device)
        self._layers = [_FixedLayer(self._place, dtype=dtype) for _ in range(layers)]
        self._cache = Cache(layers=self._layers)
        self._flat = [torch.empty(0, dtype=torch.int64, device=device) for _ in range(2)]
        self._hidden = torch.empty(0)  # what attention adds for a place, flat
        self._filled = 0
        self.shape = (0, 0)  # rows, capacity
        self.addresses = 0  # how often an address has changed

    @property
    def tokens(self) -> Tensor:
        """The tokens to feed, int64 [B], to be written."""
        return self._flat[0][: self.shape[0]]

    @property
    def _positions(self) -> Tensor:
        return self._flat[1][: self.shape[0]]

    @property
    def _mask(self) -> Tensor:
        """0 or -inf, [B, 1, 1, capacity]."""
        rows, capacity = self.shape
        return self._hidden[: rows * capacity].view(rows, 1, 1, capacity)

    def load(self, cache: RowCache, *, rows: Tensor, mask: Tensor) -> None:
        """Take rows of a cache that holds the prompts, which is emptied.

        Args:
            rows: int64 [B], of the cache; mask: int64 [P, L], of its tokens.
        """
        self._filled = mask.shape[1]
        hidden, positions = mask[rows] == 0, mask.sum(dim=1)[rows]
        self._put(cache.drained(), rows=rows, hidden=hidden, positions=positions)

    def select(self, rows: Tensor) -> None:
        """Keep the rows `rows` (int64)."""
        hidden = self._mask[rows, 0, 0, : self._filled] < 0
        self._put(self._own(), rows=rows, hidden=hidden, positions=self._positions[rows])

    def make_room(self) -> None:
        """Let the next token have a place."""
        rows, capacity = self.shape
        if self._filled == capacity:
            self.select(torch.arange(rows, device=self._place.device))

    def feed(self, decoder: Any) -> Tensor:
        """Run `tokens`; return the final hidden states [B, D].

        Everything that it reads and writes is on the device: it can be captured. An error leaves
        the rows as they were.
        """
        self._mask.index_fill_(3, self._place, 0.0)
        with _folding():
            output = decoder(
                input_ids=self.tokens[:, None],
                attention_mask=self._mask,
                position_ids=self._positions[:, None],
                use_cache=True,
                past_key_values=self._cache,
            )
        self._positions.add_(1)
        self._place.add_(1)
        hidden: Tensor = output.last_hidden_state[:, -1]
        return hidden

    def fed(self) -> None:
        """Note that a step has run, captured or not."""
        self._filled += 1

    def free(self) -> None:
        """Drop all tensors."""
        self._cache.layers.clear()
        self._flat.clear()
        self._hidden = torch.empty(0)

    def _own(self) -> Iterator[tuple[Tensor, Tensor]]:
        for layer in self._layers:
            yield layer.keys[:, :, : self._filled], layer.values[:, :, : self._filled]

    def _put(
        self,
        states: Iterable[tuple[Tensor, Tensor]],
        *,
        rows: Tensor,
        hidden: Tensor,
        positions: Tensor,
    ) -> None:
        """Take rows of keys and values, their hidden places [B, filled] and next positions [B]."""
        count, capacity = len(rows), capacity_for(self._filled + 1)
        moved = False
        for layer, (keys, values) in zip(self._layers, states, strict=True):
            moved |= layer.put(keys, values, rows=rows, capacity=capacity)
        if len(self._flat[0]) < count:
            self._flat = [x.new_zeros(count) for x in self._flat]
            moved = True
        if len(self._hidden) < count * capacity:
            self._hidden = self._layers[0].keys.new_empty(count * capacity)
            moved = True
        self.addresses += moved
        self.shape = (count, capacity)
        self._positions.copy_(positions)
        self._place.fill_(self._filled)
        self._mask.fill_(float("-inf"))
        self._mask[:, 0, 0, : self._filled].masked_fill_(~hidden, 0.0)


@dataclass(frozen=True, slots=True)
class CacheKind:
    """How to make a model's caches and pass them to it."""

    argument: str
    config: Any | None  # of a growing cache; None: the model makes its own

    def new(self) -> RowCache:
        """Return an empty cache."""
        content = None if self.config is None else growing_cache(self.config)
        return RowCache(self.argument, content=content)

    def fixed(self, decoder: Any, *, dtype: torch.dtype | None) -> FixedRows | None:
        """Return tensors for rows at fixed addresses; None if a layer is not full attention."""
        if self.config is None or self.argument != _ARGUMENTS[0]:
            return None
        layers = growing_cache(self.config).layers
        if any(type(layer) is not GrowingLayer for layer in layers):
            return None
        if self.config.get_text_config()._attn_implementation not in _MASKED:
            return None
        device = next(decoder.parameters()).device
        return FixedRows(len(layers), device=device, dtype=dtype)


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


def fixed_is_right(
    decoder: Any, kind: CacheKind, *, dtype: torch.dtype | None, padded: bool
) -> bool:
    """Whether rows at fixed addresses give the same hidden states as the kind's own cache.

    padded: try prompts of different lengths, padded on the left.
    """
    fixed = kind.fixed(decoder, dtype=dtype)
    if fixed is None:
        return False
    with torch.no_grad():
        try:
            return _fixed_alike(decoder, kind, fixed, dtype=dtype, start=3 if padded else 0)
        except torch.OutOfMemoryError:
            raise
        except _UNSUPPORTED:
            return False


def _fixed_alike(
    decoder: Any, kind: CacheKind, fixed: FixedRows, *, dtype: torch.dtype | None, start: int
) -> bool:
    """Feed a prompt, whose second row begins at `start`, then token by token to both."""
    device = next(decoder.parameters()).device
    ids = (torch.arange(2 * _PROMPT, device=device).view(2, -1) + 1) % decoder.config.vocab_size
    mask, cache, held = torch.ones_like(ids), kind.new(), kind.new()
    mask[1, :start] = 0
    positions = (mask.cumsum(dim=1) - 1).clamp_min(0)
    for each in (cache, held):
        each.feed(decoder, ids, mask=mask, positions=positions)
    fixed.load(held, rows=torch.arange(2, device=device), mask=mask)
    for step, kept in enumerate(_KEPT):
        rows = torch.tensor(kept, device=device)
        cache.select(rows)
        fixed.select(rows)
        ids, mask = ids[rows], torch.nn.functional.pad(mask[rows], (0, 1), value=1)
        tokens, at = ids[:, step], mask.sum(dim=1) - 1
        expected = cache.feed(decoder, tokens[:, None], mask=mask, positions=at[:, None])
        fixed.tokens.copy_(tokens)
        if not alike(fixed.feed(decoder), expected, dtype=dtype or dtype_of(decoder)):
            return False
        fixed.fed()
    return True
