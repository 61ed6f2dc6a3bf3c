"""The tokens that a truncated sampler could have drawn, and log-probabilities over them alone.

top_p and top_k make a token's action space smaller than the vocabulary. The weights that sampled
decide it once; under any weights the log-probability is then that of the softmax over this set. In
the walk over the vocabulary everything else is a logit of -inf.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from dgpo_cli.core.errors import CheckpointError
from dgpo_cli.core.types import KeptTokens
from dgpo_cli.policy.token_pass.tiles import LOG_ZERO, HalfLogits, Tiles

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from dgpo_cli.algo.truncation import Truncation
    from dgpo_cli.policy.head import Head

# Logits of whole rows that are held at a time: sorted, they take no more than a walk's tiles do.
_MOST_ON_CPU, _MOST = 1 << 20, 1 << 23


@dataclass(frozen=True, slots=True)
class Support:
    """What decides the sets of N tokens.

    known: those that are known already; others have a count of 0 and are found by the present
        weights. None: all are found.
    """

    truncation: Truncation
    known: KeptTokens | None = None


@torch.no_grad()
def kept_tokens(
    hidden: Tensor,  # [N, D]
    *,
    head: Head,
    ids: Tensor,  # int64 [N]
    temperature: float,
    support: Support,
) -> KeptTokens:
    """Return what sampling by these weights keeps in place of each token.

    A drawn token is in its set: the sampler's logits, rounded otherwise, kept it.
    """
    known, device = support.known, ids.device
    missing = torch.ones_like(ids, dtype=torch.bool)
    if known is not None:
        missing = known.counts.to(device) == 0
        if not bool(missing.any()):
            return known
    logits = HalfLogits(head, temperature=temperature)
    counts, found, outside = [], [], []
    rows = torch.nonzero(missing)[:, 0]
    most = _MOST_ON_CPU if hidden.device.type == "cpu" else _MOST
    for part in rows.split(max(1, most // head.vocab_size)):
        kept = support.truncation.kept(_probs(hidden[part], logits))
        drawn = ids[part].unsqueeze(1)
        outside.append(~kept.gather(1, drawn)[:, 0])
        kept.scatter_(1, drawn, True)
        counts.append(kept.sum(dim=1, dtype=torch.int32))
        found.append(kept.nonzero()[:, 1].int())
    fresh = KeptTokens(torch.cat(counts), torch.cat(found), torch.cat(outside))
    return fresh if known is None else _merged(known, fresh, missing)


def _probs(hidden: Tensor, logits: HalfLogits) -> Tensor:
    """Return the probabilities of whole rows, float32 [R, V]."""
    x = torch.empty(len(hidden), logits.head.vocab_size, device=hidden.device)
    prepared = logits.prepare(hidden)
    tiles = Tiles.fitting(hidden.shape[1], device=hidden.device)
    for part in tiles.column_blocks(x.shape[1]):
        tile = torch.empty(len(x), part.stop - part.start, device=x.device)
        x[:, part] = logits.tile(prepared, logits.weights(part), part, out=tile)
    return x.mul_(2).softmax(dim=1)


def _merged(known: KeptTokens, fresh: KeptTokens, missing: Tensor) -> KeptTokens:
    """Return `known` with the sets of the tokens `missing` (bool [N])."""
    device = missing.device
    counts, outside = known.counts.to(device).clone(), known.outside.to(device).clone()
    counts[missing], outside[missing] = fresh.counts, fresh.outside
    new = missing.repeat_interleave(counts)
    ids = torch.empty(len(new), dtype=torch.int32, device=device)
    ids[new], ids[~new] = fresh.ids, known.ids.to(device)
    return KeptTokens(counts, ids, outside)


def joined(sets: Sequence[KeptTokens | None], mask: Tensor) -> KeptTokens | None:
    """Return the sets of the tokens on a mask (bool [M, T]) from those of its rows; a row without
    has counts of 0. None if no row has any."""
    if all(each is None for each in sets):
        return None
    none = torch.zeros(mask.shape[1], dtype=torch.int32)
    lengths = mask.sum(dim=1).tolist()
    rows = [
        each or KeptTokens(none[:length], none[:0], none[:length].bool())
        for each, length in zip(sets, lengths, strict=True)
    ]
    columns = ("counts", "ids", "outside")
    whole = (torch.cat([getattr(row, name) for row in rows]).to(mask.device) for name in columns)
    return KeptTokens(*whole)


def split(kept: KeptTokens, mask: Tensor) -> list[KeptTokens]:
    """Return the sets of each row of a mask (bool [M, T]), in the host's memory; see `joined`."""
    lengths = mask.sum(dim=1).tolist()
    counts, outside = kept.counts.cpu().split(lengths), kept.outside.cpu().split(lengths)
    ids = kept.ids.cpu().split([int(each.sum()) for each in counts])
    # Copies: a row that stays must not keep those of its whole micro-batch.
    return [
        KeptTokens(*(part.clone() for part in parts))
        for parts in zip(counts, ids, outside, strict=True)
    ]


def taken(kept: KeptTokens, own: Tensor) -> KeptTokens:
    """Return the sets of the tokens `own` (bool [N])."""
    ids = kept.ids[own.repeat_interleave(kept.counts)]
    return KeptTokens(kept.counts[own], ids, kept.outside[own])


def kept_text(kept: KeptTokens) -> str:
    """Write sets as text: base64 of their number, counts (negative: outside) and ids, each an
    integer of 32 bits, least byte first."""
    counts = torch.where(kept.outside, -kept.counts, kept.counts)
    whole = torch.cat([torch.tensor([len(counts)], dtype=torch.int32), counts, kept.ids])
    return base64.b64encode(whole.numpy().astype("<i4").tobytes()).decode("ascii")


def kept_from(text: str) -> KeptTokens:
    """Read what `kept_text` wrote.

    Raises:
        CheckpointError: it is something else.
    """
    import numpy as np

    try:
        numbers = torch.from_numpy(np.frombuffer(base64.b64decode(text), "<i4").copy())
        length = int(numbers[0])
        counts, ids = numbers[1 : length + 1], numbers[length + 1 :]
        if len(counts) != length or int(counts.abs().sum()) != len(ids):
            raise ValueError
    except (ValueError, IndexError) as error:
        raise CheckpointError(
            "the kept tokens of a pending group are unreadable; resume from another checkpoint"
        ) from error
    return KeptTokens(counts.abs(), ids, counts < 0)


class Cover:
    """Hides the entries of tiles of half logits that are in no set."""

    def __init__(self, kept: KeptTokens, *, device: torch.device) -> None:
        counts = kept.counts.to(device)
        self._ids = kept.ids.to(device).long()
        self._lines = torch.arange(len(counts), device=device).repeat_interleave(counts)
        self._starts = [0, *kept.counts.cumsum(dim=0).tolist()]

    def hide(self, x: Tensor, *, rows: slice, columns: slice, scale: float = 1.0) -> None:
        """Overwrite what is hidden in the tile `x` [R, C] of these rows and columns.

        scale: the factor that `x` lacks.
        """
        count, width = x.shape
        part = slice(self._starts[rows.start], self._starts[rows.stop])
        local = self._ids[part] - columns.start
        # Entries of other tiles go to one column more.
        local = torch.where((local >= 0) & (local < width), local, width)
        hidden = torch.ones(count, width + 1, dtype=torch.bool, device=x.device)
        places = (self._lines[part] - rows.start) * (width + 1) + local
        hidden.view(-1).index_fill_(0, places, False)
        x.masked_fill_(hidden[:, :width], LOG_ZERO / scale)
