"""Packs several sequences into one row, without padding, with attention that does not cross them.

Linear layers, norms and the head process the tokens of a micro-batch in one row of S tokens; a
prefix that several sequences share, the prompt of a group, is in it once. Attention gathers them
into a rectangle, one whole sequence per line, runs torch's causal kernel, which needs no mask
there, and scatters them back: padding and shared prefixes cost only in attention, and padded keys
follow every real query of their line, where causality hides them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch

from dgpo_cli.core.errors import ConfigError
from dgpo_cli.core.types import KeptTokens
from dgpo_cli.parallel.sequence import Lane
from dgpo_cli.policy.batching import Rows, prompt_owners
from dgpo_cli.policy.cache import GrowingLayer, folds, growing_cache
from dgpo_cli.policy.head import alike, class_name, decoder_of, dtype_of
from dgpo_cli.policy.shape import key_repeats, sharing_problem
from dgpo_cli.policy.token_pass.kept import Support, joined, taken

if TYPE_CHECKING:
    from torch import Tensor

    from dgpo_cli.algo.truncation import Truncation
    from dgpo_cli.policy.token_pass import TokenColumns


@dataclass(frozen=True, slots=True)
class Packed:
    """R sequences of S tokens in total; the longest has W. Shared prefixes count once in S.

    lane: the ranks that share the row, a chunk of C tokens each; None: this one has all.
    """

    ids: Tensor  # int64 [S]
    positions: Tensor  # int64 [S], from 0 in each sequence
    slots: Tensor  # int64 [S], ascending: line * W + position, the token's (first) place
    sources: Tensor  # int64 [R * W]: the token in each place of the rectangle; 0 in padding
    lines: int
    width: int
    lane: Lane | None = None

    def own(self, values: Tensor) -> Tensor:
        """Return what this rank computes of the values [S, ...]: its chunk [C, ...], or all."""
        return values if self.lane is None else self.lane.cut(values)

    @property
    def full(self) -> bool:
        """Whether row and rectangle are the same: equal lengths, and nothing shared.

        A compiled graph does not ask: it would need another for the answer yes.
        """
        if torch.compiler.is_compiling():
            return False
        return len(self.ids) == self.lines * self.width

    def rectangle(self, values: Tensor) -> Tensor:
        """Return [R, W, ...] with the values [S, ...] in place, and arbitrary ones in padding."""
        spread = values if self.full else values.index_select(0, self.sources)
        return spread.reshape(self.lines, self.width, *values.shape[1:])

    def take(self, rectangle: Tensor) -> Tensor:
        """Return the values [S, ...] of a rectangle [R, W, ...]."""
        row = rectangle.reshape(-1, *rectangle.shape[2:])
        return row if self.full else row.index_select(0, self.slots)


@dataclass(frozen=True, slots=True)
class Shared:
    """For each of R sequences: the first one with the same prefix, and its length."""

    owners: Tensor  # int64 [R], at most the sequence's own number
    lengths: Tensor  # int64 [R], equal for sequences of one owner


# Whether a packed forward pass runs: it needs no mask. Attention itself has an argument for that,
# because gradient checkpointing runs it again in backward, when this is reset.
_PACKING: ContextVar[bool] = ContextVar("packing", default=False)
# Calls of attention on packed rows.
_CALLS: ContextVar[int] = ContextVar("calls", default=0)


@functools.cache
def attach() -> None:
    """Extend transformers' sdpa by packed rows; everything else stays the same.

    It keeps its name: some families behave differently for an unknown name of attention.
    """
    from transformers import AttentionInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    sdpa, sdpa_mask = ALL_ATTENTION_FUNCTIONS["sdpa"], ALL_MASK_ATTENTION_FUNCTIONS["sdpa"]

    def attention(
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        packed: Packed | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        if packed is None:
            if folds(query, key):
                return _folded(sdpa, query, key, value, mask, **kwargs)
            found: tuple[Tensor, None] = sdpa(module, query, key, value, mask, **kwargs)
            return found
        if not torch.compiler.is_compiling():
            _CALLS.set(_CALLS.get() + 1)
        rows = [x[0].transpose(0, 1) for x in (query, key, value)]  # [S or C, heads, size]
        if packed.lane is not None:
            rows, module = _own_heads(rows, packed.lane, tokens=len(packed.ids))
        # To [R, heads, W, size]; sdpa gives [R, W, heads, size].
        lines = [packed.rectangle(x).transpose(1, 2) for x in rows]
        # Autocast rounds them first: rotated queries may be in float32 there, too.
        plain = lines[0].dtype == torch.float32 and not torch.is_autocast_enabled("cuda")
        if lines[0].is_cuda and plain:
            row = packed.take(_float32_attention(lines, **kwargs))
        else:
            out, _ = sdpa(module, *lines, None, **{**kwargs, "is_causal": True})
            row = packed.take(out)
        return (row if packed.lane is None else packed.lane.by_tokens(row))[None], None

    def mask(*args: Any, **kwargs: Any) -> Any:
        return None if _PACKING.get() else sdpa_mask(*args, **kwargs)

    AttentionInterface.register("sdpa", attention)
    AttentionMaskInterface.register("sdpa", mask)


def _folded(
    sdpa: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Return attention [B, 1, heads, size] of one query a row and head.

    The queries of a key head become tokens of it: with a mask, sdpa would repeat all keys and
    values for them.
    """
    batch, heads, _, size = query.shape
    groups = query.reshape(batch, key.shape[1], -1, size)
    module = SimpleNamespace(num_key_value_groups=1)
    found, _ = sdpa(module, groups, key, value, mask, **{**kwargs, "is_causal": False})
    return found.transpose(1, 2).reshape(batch, 1, heads, found.shape[-1]), None


def _own_heads(rows: list[Tensor], lane: Lane, *, tokens: int) -> tuple[list[Tensor], Any]:
    """Exchange a chunk of queries, keys and values for all tokens of this rank's heads, and return
    what sdpa reads of the module that has these heads."""
    query, key, value = rows
    if torch.is_autocast_enabled(query.device.type):  # what sdpa does first; it halves what moves
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    times = key_repeats(key.shape[1], ranks=lane.count)
    if times > 1:
        key, value = (x.repeat_interleave(times, dim=1) for x in (key, value))
    module = SimpleNamespace(num_key_value_groups=query.shape[1] // key.shape[1])
    return lane.by_heads([query, key, value], tokens=tokens), module


def _float32_attention(
    lines: list[Tensor],  # queries [R, heads, W, size], keys and values [R, fewer heads, W, size]
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> Tensor:
    """Return causal attention [R, W, heads, size] with keys and values repeated for their queries.

    By default, grouped queries in float32 take CUDA's kernel that writes all W x W logits.
    """
    query, key, value = lines
    groups = query.shape[1] // key.shape[1]
    found = torch.nn.functional.scaled_dot_product_attention(
        query,
        key.repeat_interleave(groups, dim=1),
        value.repeat_interleave(groups, dim=1),
        dropout_p=dropout,
        is_causal=True,
        scale=scaling,
    )
    return found.transpose(1, 2)


def pack(ids: Tensor, mask: Tensor, *, shared: Shared | None = None) -> Packed:
    """Pack the tokens on the mask.

    Args:
        ids: int64 [R, W]; mask: bool [R, W]. Each line's tokens are contiguous, anywhere in it.
        shared: prefixes to compute once.
    """
    lengths = mask.sum(dim=1)
    width = int(lengths.max())
    positions = (mask.long().cumsum(dim=1) - 1)[mask]
    line = torch.arange(len(ids), device=ids.device)[:, None].expand_as(ids)[mask]
    places = line * width + positions
    sources = torch.zeros(len(ids) * width, dtype=torch.int64, device=ids.device)
    if shared is None:
        sources[places] = torch.arange(len(places), device=ids.device)
        return Packed(ids[mask], positions, places, sources, len(ids), width)
    owners = shared.owners[line]
    own = (owners == line) | (positions >= shared.lengths[line])
    sources[places[own]] = torch.arange(int(own.sum()), device=ids.device)
    sources[places[~own]] = sources[(owners * width + positions)[~own]]
    return Packed(ids[mask][own], positions[own], places[own], sources, len(ids), width)


def can_pack(model: Any) -> bool:
    """Whether packing gives the same hidden states as each sequence alone.

    Not for models with sliding windows, states, another attention, or layers that do not get the
    argument `packed`; the others are tried with two short sequences that share a prefix.
    """
    if model.config.get_text_config()._attn_implementation != "sdpa":
        return False
    attach()
    layers = growing_cache(model.config).layers
    if any(type(layer) is not GrowingLayer for layer in layers):
        return False
    before = _CALLS.get()
    return _as_alone(model, packed_hidden, shared=2) and _CALLS.get() - before >= len(layers)


def check_share(model: Any, *, lane: Lane, packs: bool) -> None:
    """Check that ranks that share a packed row compute the hidden states that one computes.

    Collective. It is tried with two short sequences.

    Raises:
        ConfigError: they do not, or the heads cannot be shared equally.
    """
    name, heads = class_name(model), model.config.get_text_config().num_attention_heads
    problem = sharing_problem(heads, ranks=lane.count, name=name) if packs else None
    if problem is not None:
        raise ConfigError(problem)

    def shared(decoder: Any, packed: Packed) -> Tensor:
        """Return the hidden states [S, D] of all ranks."""
        hidden = packed_hidden(decoder, replace(packed, lane=lane))
        tokens = torch.arange(len(packed.ids), device=hidden.device)
        own, places = lane.places(tokens, of=len(tokens))
        return lane.completed(hidden[places].t(), own).t()

    if not (packs and _as_alone(model, shared, shared=2)):
        raise ConfigError(
            f"parallel.sequence={lane.count}: {name} needs a whole row on one device (attention is "
            "not plain sdpa, or tokens meet elsewhere too); set parallel.sequence=1"
        )


def can_pad(model: Any) -> bool:
    """Whether a padded batch gives the same hidden states as each sequence alone."""
    return _as_alone(model, padded_hidden, shared=0)


def _as_alone(model: Any, forward: Callable[[Any, Packed], Tensor], *, shared: int) -> bool:
    """Compare one pass over two short sequences with a shared prefix with each alone."""
    decoder = decoder_of(model)
    device = next(model.parameters()).device
    vocab_size = model.config.get_text_config().vocab_size
    ids = torch.tensor([[1, 2, 3, 4, 5, 6], [1, 2, 7, 0, 0, 0]], device=device) % vocab_size
    mask = torch.tensor([[True] * 6, [True] * 3 + [False] * 3], device=device)
    begin = Shared(torch.zeros_like(ids[:, 0]), torch.full_like(ids[:, 0], shared))
    packed = pack(ids, mask, shared=begin if shared else None)
    with torch.no_grad():
        first, second = lone_hidden(decoder, pack(ids, mask)).split([6, 3])
        together = forward(decoder, packed)
    expected = torch.cat([first, second[shared:]])
    return alike(together, expected, dtype=dtype_of(decoder))


def packed_hidden(decoder: Any, packed: Packed) -> Tensor:
    """Return the final hidden states [S, D] of the packed tokens, or of this rank's chunk."""
    token = _PACKING.set(True)
    try:
        output = decoder(
            input_ids=packed.own(packed.ids)[None],
            position_ids=packed.own(packed.positions)[None],
            attention_mask=None,
            use_cache=False,
            packed=packed,
        )
    finally:
        _PACKING.reset(token)
    hidden: Tensor = output.last_hidden_state[0]
    return hidden


def padded_hidden(decoder: Any, packed: Packed) -> Tensor:
    """Return the same from a padded batch, for models that cannot be packed."""
    places = torch.arange(packed.lines * packed.width, device=packed.ids.device)
    # A token is in its own place; padding refers to another token.
    filled = packed.slots[packed.sources] == places
    assert int(filled.sum()) == len(packed.ids)  # a shared token has one place, but several lines
    output = decoder(
        input_ids=packed.rectangle(packed.ids),
        position_ids=packed.rectangle(packed.positions),
        attention_mask=filled.view(packed.lines, packed.width).long(),
        use_cache=False,
    )
    return packed.take(output.last_hidden_state)


def lone_hidden(decoder: Any, packed: Packed) -> Tensor:
    """Return the same, one sequence at a time, for models that cannot be padded."""
    ends = (packed.slots // packed.width).bincount(minlength=packed.lines).tolist()
    outputs = [decoder(input_ids=ids[None], use_cache=False) for ids in packed.ids.split(ends)]
    return torch.cat([output.last_hidden_state[0] for output in outputs])


def pack_rows(rows: Rows, *, shares: bool, lane: Lane | None = None) -> tuple[Packed, Tensor]:
    """Return prompts and completions as packed sequences, and the indices of the tokens that
    predict the N tokens that the policy wrote, int64 [N], in the order of the mask.

    The last token of a completion is left out: it predicts nothing.

    Args:
        shares: compute a prompt once for all its completions; its last token then predicts several.
        lane: the ranks that share the row.
    """
    ids = torch.cat([rows.prompt_ids, rows.completion_ids], dim=1)[:, :-1]
    lengths = rows.prompt_mask.sum(dim=1)
    # A completion's last token is the last of its row, wherever the row ends.
    kept = rows.filled & (rows.filled.cumsum(dim=1) < rows.lengths[:, None])
    mask = torch.cat([rows.prompt_mask, kept], dim=1)[:, :-1]
    owners = prompt_owners(rows) if shares else None
    packed = pack(ids, mask, shared=None if owners is None else Shared(owners, lengths))
    line, place = torch.nonzero(rows.mask, as_tuple=True)
    predicting = packed.sources[line * packed.width + lengths[line] - 1 + place]
    return replace(packed, lane=lane), predicting


@dataclass(frozen=True, slots=True)
class Predicted:
    """The completion tokens of packed rows: those n of all N that this rank computes.

    They are those that its chunk of the row predicts; without a lane, all.
    """

    packed: Packed
    places: Tensor  # int64 [n], of the hidden states that predict them, among this rank's
    ids: Tensor  # int64 [n]
    own: Tensor | None  # bool [N], which they are; None: all
    known: KeptTokens | None = None  # what sampling kept in place of the n, as far as it is known

    @classmethod
    def of(cls, rows: Rows, *, shares: bool, lane: Lane | None = None) -> Predicted:
        """Pack rows; see `pack_rows`. The tokens are in the order of the mask."""
        packed, places = pack_rows(rows, shares=shares, lane=lane)
        ids = rows.completion_ids[rows.mask]
        known = None if rows.kept is None else joined(rows.kept, rows.mask)
        if lane is None:
            return cls(packed, places, ids, None, known)
        own, places = lane.places(places, of=len(packed.ids))
        return cls(packed, places, ids[own], own, None if known is None else taken(known, own))

    def support(self, truncation: Truncation | None) -> Support | None:
        """Return what decides the sets of the n tokens under a sampler's truncation, if any."""
        return None if truncation is None else Support(truncation, self.known)

    def all_columns(self, columns: TokenColumns) -> TokenColumns:
        """Return the statistics of the n tokens as those of all N; see `completed`."""
        lane, own, kept = self.packed.lane, self.own, columns.kept
        if lane is None or own is None:
            return columns
        names = ("logprobs", "entropy", "hellinger_sq", "reference_logprobs")
        there = {n: getattr(columns, n) for n in names if getattr(columns, n) is not None}
        whole = self.completed(*there.values())
        if kept is not None:
            counts, outside = lane.completed(torch.stack([kept.counts, kept.outside.int()]), own)
            (ids,) = lane.completed(kept.ids[None], own.repeat_interleave(counts))
            kept = KeptTokens(counts, ids, outside.bool())
        return replace(columns, **dict(zip(there, whole, strict=True)), kept=kept)

    def completed(self, logprobs: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        """Return columns [n] as those of all N tokens. Collective in a lane.

        Each rank of a lane has the gradient of its own log-probabilities, so that the gradient of
        any function of all is the sum of what the ranks have. The other columns have none.
        """
        lane, own = self.packed.lane, self.own
        if lane is None or own is None:
            return logprobs, *others
        columns = torch.stack([logprobs.detach(), *others])
        found, *rest = lane.completed(columns, own)
        with_gradient = torch.zeros_like(found).masked_scatter(own, logprobs)
        return torch.where(own, with_gradient, found), *rest
