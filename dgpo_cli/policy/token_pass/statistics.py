"""Computes log-probability, entropy and distance to the reference in one walk over the logits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch

from dgpo_cli.policy.token_pass.gradient import MeanRow, cap_slope, with_gradient
from dgpo_cli.policy.token_pass.kept import Cover, Support, kept_tokens
from dgpo_cli.policy.token_pass.moments import Ledger
from dgpo_cli.policy.token_pass.reduce import fused_on, reduce_fused, reduce_two
from dgpo_cli.policy.token_pass.tiles import (
    LOG_ZERO,
    HalfLogits,
    Tiles,
    check_heads,
    chosen_in,
    logprobs_of,
)

if TYPE_CHECKING:
    from torch import Tensor

    from dgpo_cli.core.types import KeptTokens
    from dgpo_cli.policy.head import Head


@dataclass(frozen=True, slots=True)
class TokenColumns:
    """Statistics of N tokens under policy and reference; float32 [N] each."""

    logprobs: Tensor  # nats; the one that may have a gradient
    entropy: Tensor  # nats, the policy's
    hellinger_sq: Tensor  # in [0, 1]
    reference_logprobs: Tensor | None  # nats
    kept: KeptTokens | None = None  # what log-probabilities are over; None: the vocabulary


def token_pass(
    policy_hidden: Tensor,  # [N, D], any floating dtype
    reference_hidden: Tensor | None,  # [N, D'] of the same tokens
    *,
    head: Head,
    reference_head: Head | None,
    ids: Tensor,  # int64 [N], in [0, V)
    temperature: float,
    want_reference_logprobs: bool = False,
    support: Support | None = None,
    tiles: Tiles | None = None,
) -> TokenColumns:
    """Compute log-probability, entropy and squared Hellinger distance of N chosen tokens.

    Exact, in one walk over both models' logits, one tile at a time: memory beyond inputs and
    outputs does not depend on N or V. Without a reference the distance is 0. Equal inputs have a
    distance of exactly 0.

    If gradients are on and `policy_hidden` or the head requires one, the log-probabilities are
    differentiable once, like those of `token_logprobs`; the other numbers are not.

    Args:
        reference_head: None if the reference has the policy's head.
        support: of a truncated sampler: log-probabilities are over the tokens that it keeps.
            Entropy and distance, which say how sure the policy is and how far it has moved, are
            over the whole vocabulary all the same.
        tiles: by default those for the device.

    Raises:
        ModelError: the two heads have different vocabularies.

    Source: quantities 2 and 3 of DGPO, arXiv 2605.03327; the sums are derived in moments.py.
    """
    if support is not None:
        return _truncated(
            policy_hidden,
            reference_hidden,
            heads=(head, reference_head or head),
            ids=ids,
            temperature=temperature,
            support=support,
            want_reference_logprobs=want_reference_logprobs,
            tiles=tiles,
        )
    mine = HalfLogits(head, temperature=temperature)
    other = None
    if reference_hidden is not None:
        shared = reference_head is None or reference_head is head
        other = mine if shared else HalfLogits(reference_head or head, temperature=temperature)
        check_heads(head, other.head)
    width = policy_hidden.shape[1]
    if reference_hidden is not None:
        width = max(width, reference_hidden.shape[1])
    tiles = tiles or Tiles.fitting(width, device=policy_hidden.device)

    def walk(slopes: Tensor | None) -> tuple[Tensor, Tensor]:
        buffers = _Buffers(
            len(ids), tiles, pair=other is not None, entropy=True, like=policy_hidden
        )
        return _walk(
            policy_hidden, reference_hidden, ids, mine, other, buffers=buffers, slopes=slopes
        )

    logprobs, others = with_gradient(policy_hidden, ids=ids, logits=mine, tiles=tiles, walk=walk)
    entropy, distance, reference_logprobs = others.unbind(dim=0)
    want = want_reference_logprobs and reference_hidden is not None
    return TokenColumns(logprobs, entropy, distance, reference_logprobs if want else None)


def token_logprobs(
    hidden: Tensor,  # [N, D], any floating dtype
    *,
    head: Head,
    ids: Tensor,  # int64 [N], in [0, V)
    temperature: float,
    support: Support | None = None,
    tiles: Tiles | None = None,
) -> Tensor:
    """Return the log-probabilities of `token_pass` alone, to the bit, with their gradient."""
    tiles = tiles or Tiles.fitting(hidden.shape[1], device=hidden.device)
    logits = HalfLogits(head, temperature=temperature)
    cover = None
    if support is not None:
        kept = kept_tokens(hidden, head=head, ids=ids, temperature=temperature, support=support)
        cover = Cover(kept, device=hidden.device)

    def walk(slopes: Tensor | None) -> tuple[Tensor, Tensor]:
        buffers = _Buffers(len(ids), tiles, pair=False, entropy=False, like=hidden, cover=cover)
        return _walk(hidden, None, ids, logits, None, buffers=buffers, slopes=slopes)

    return with_gradient(hidden, ids=ids, logits=logits, tiles=tiles, walk=walk, cover=cover)[0]


def _truncated(
    policy_hidden: Tensor,  # [N, D]
    reference_hidden: Tensor | None,  # [N, D']
    *,
    heads: tuple[Head, Head],  # the policy's, the reference's
    ids: Tensor,  # int64 [N]
    temperature: float,
    support: Support,
    want_reference_logprobs: bool,
    tiles: Tiles | None,
) -> TokenColumns:
    """Compute what `token_pass` does for tokens of a truncated sampler, in two walks.

    Source: the sampling mask of DeepSeek-V3.2, arXiv 2512.02556, section 3.1.
    """
    head, reference_head = heads
    kept = kept_tokens(policy_hidden, head=head, ids=ids, temperature=temperature, support=support)
    own = partial(
        token_logprobs,
        ids=ids,
        temperature=temperature,
        support=Support(support.truncation, kept),
        tiles=tiles,
    )
    with torch.no_grad():
        whole = token_pass(
            policy_hidden,
            reference_hidden,
            head=head,
            reference_head=reference_head,
            ids=ids,
            temperature=temperature,
            tiles=tiles,
        )
        other = None
        if want_reference_logprobs and reference_hidden is not None:
            other = own(reference_hidden, head=reference_head)
    return TokenColumns(
        logprobs=own(policy_hidden, head=head),
        entropy=whole.entropy,
        hellinger_sq=whole.hellinger_sq,
        reference_logprobs=other,
        kept=kept,
    )


def _walk(
    policy_hidden: Tensor,  # [N, D]
    reference_hidden: Tensor | None,  # [N, D']
    ids: Tensor,  # int64 [N]
    mine: HalfLogits,
    other: HalfLogits | None,
    *,
    buffers: _Buffers,
    slopes: Tensor | None,  # float32 [N, D], to be filled
) -> tuple[Tensor, Tensor]:
    """Return the four columns, float32 [4, N], and the log of each sum, float64 [N]."""
    count = len(ids)
    columns = torch.zeros(4, count, device=policy_hidden.device)
    log_total = torch.zeros(count, dtype=torch.float64, device=policy_hidden.device)
    for rows in buffers.tiles.row_blocks(count):
        block = _Block(
            mine.prepare(policy_hidden[rows]),
            None
            if other is None or reference_hidden is None
            else other.prepare(reference_hidden[rows]),
            ids[rows],
            None if slopes is None else slopes[rows],
            rows,
        )
        log_total[rows] = _fill(columns[:, rows], block, mine, other, buffers=buffers)
    return columns, log_total


@dataclass(frozen=True, slots=True)
class _Block:
    """The tokens of one row block, as HalfLogits.tile takes them."""

    hidden: Tensor  # [R, D]
    reference_hidden: Tensor | None  # [R, D']
    ids: Tensor  # int64 [R]
    slopes: Tensor | None  # float32 [R, D]: room for the gradient of each log-probability
    rows: slice  # which they are of all N


class _Buffers:
    """The buffers of a pass over N tokens: tiles of half logits, and a slice of scratch."""

    def __init__(
        self,
        count: int,
        tiles: Tiles,
        *,
        pair: bool,
        entropy: bool,
        like: Tensor,
        cover: Cover | None = None,
    ) -> None:
        """pair: with a reference. entropy: with scratch, which it needs. cover: of the policy."""
        self.tiles, self.cover = tiles, cover
        rows = min(tiles.rows, count)

        def room(size: int) -> Tensor:
            return torch.empty(size * tiles.columns, device=like.device)

        self.x, self.z = room(rows), room(rows if pair else 0)
        self.scratch = room(min(rows, tiles.slice_rows)) if entropy else None


def _first(buffer: Tensor, rows: int, columns: int) -> Tensor:
    return buffer[: rows * columns].view(rows, columns)


def _fill(
    columns: Tensor,  # [4, R]: logprobs, entropy, distance, reference's logprobs
    block: _Block,
    mine: HalfLogits,
    other: HalfLogits | None,
    *,
    buffers: _Buffers,
) -> Tensor:
    """Compute the four numbers of a block of R tokens; return the log of each sum, float64 [R]."""
    count, tiles, scratch = len(block.ids), buffers.tiles, buffers.scratch
    mean = None if block.slopes is None else MeanRow(block.slopes)
    ledger = Ledger(count, device=columns.device)
    chosen, reference_chosen = columns.new_full((2, count), LOG_ZERO).unbind(dim=0)
    fused = fused_on(columns)
    for part in tiles.column_blocks(mine.head.vocab_size):
        size = part.stop - part.start
        weights = mine.weights(part)
        x = mine.tile(block.hidden, weights, part, out=_first(buffers.x, count, size), bare=fused)
        bent = None if mean is None else cap_slope(x, mine.cap)
        if buffers.cover is not None:
            scale = mine.bare if fused else 1.0
            buffers.cover.hide(x, rows=block.rows, columns=part, scale=scale)
        z = None
        if other is not None and block.reference_hidden is not None:
            own = weights if other is mine else other.weights(part)
            z = _first(buffers.z, count, size)
            other.tile(block.reference_hidden, own, part, out=z, bare=fused)
        numbers = ledger.next_tile()
        powers = mine.powers_like(x) if fused else x
        if fused:
            reduce_fused(
                x,
                z,
                scale=mine.bare,
                reference_scale=1.0 if other is None else other.bare,
                ids=block.ids,
                start=part.start,
                numbers=numbers,
                chosen=chosen,
                reference_chosen=reference_chosen,
                powers=None if mean is None else powers,
            )
        else:
            chosen_in(x, block.ids, part, found=chosen)
            if z is not None:
                chosen_in(z, block.ids, part, found=reference_chosen)
            for rows in tiles.slices(count):
                room = None if scratch is None else _first(scratch, rows.stop - rows.start, size)
                reduce_two(
                    x[rows],
                    None if z is None else z[rows],
                    scratch=room,
                    numbers=numbers[:, rows],
                    keep_powers=mean is not None,
                )
        if mean is not None:
            mean.add(powers if bent is None else powers.mul_(bent), weights, top=numbers[0])
    sums = ledger.result()
    if mean is not None:
        mean.finish(mine, block.ids, chosen, total=sums.total)
    columns[0] = logprobs_of(chosen, sums.log_total())
    columns[1] = sums.entropy()
    columns[2] = sums.hellinger_sq()
    columns[3] = logprobs_of(reference_chosen, sums.reference_log_total())
    return sums.log_total()
