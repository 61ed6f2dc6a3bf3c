"""Token statistics of completions, measured without gradient in micro-batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from dgpo_cli.core.events import NOBODY, Observer, phase
from dgpo_cli.core.types import TokenStats
from dgpo_cli.policy.batching import Rows, cut_rows

if TYPE_CHECKING:
    from torch import Tensor

    from dgpo_cli.policy.policy import Policy
    from dgpo_cli.policy.token_pass import TokenColumns


class StatsTable:
    """Token statistics of B completions that are filled in row by row; 0 until then."""

    def __init__(self, rows: Rows, *, noise_floor: float | None = None) -> None:
        shape, device = rows.mask.shape, rows.mask.device
        self.stats = TokenStats(
            old_logprobs=torch.zeros(shape, device=device),
            entropy=torch.zeros(shape, device=device),
            hellinger_sq=torch.zeros(shape, device=device),
            noise_floor=noise_floor,
        )

    def put(self, index: Tensor, mask: Tensor, columns: TokenColumns) -> None:
        """Write the numbers of the tokens on `mask` (bool [M, t]) of the rows `index` [M]."""
        own = (columns.logprobs.detach(), columns.entropy, columns.hellinger_sq)
        tables = (self.stats.old_logprobs, self.stats.entropy, self.stats.hellinger_sq)
        for table, values in zip(tables, own, strict=True):
            padded = torch.zeros(mask.shape, device=mask.device)
            padded[mask] = values
            table[index, : mask.shape[1]] = padded

    def take(self, index: Tensor) -> TokenStats:
        """Return the rows `index` [M] at the full width, [M, T]."""
        stats = self.stats
        return TokenStats(
            old_logprobs=stats.old_logprobs[index],
            entropy=stats.entropy[index],
            hellinger_sq=stats.hellinger_sq[index],
            noise_floor=stats.noise_floor,
        )


@torch.no_grad()
def token_stats(
    policy: Policy,
    rows: Rows,
    *,
    temperature: float,
    micro_batch_size: int,
    micro_batch_tokens: int | None = None,
    with_reference: bool,
    needs_reference: Tensor | None = None,  # bool [B]
    only: Tensor | None = None,  # int64 [M]
    into: StatsTable | None = None,
    observer: Observer = NOBODY,
) -> TokenStats:
    """Compute log-probability, entropy and squared Hellinger distance of every completion token.

    Policy and reference run with the same layout, so that equal weights give a distance of
    exactly 0. Without the reference `hellinger_sq` is 0.

    Args:
        needs_reference: rows to run the reference on; None for all. The others have a distance
            of 0 and are batched apart, so that the micro-batches of the rows of an update are
            those of the update.
        only: the rows to compute; None for all.
        into: where to write what was found; the rows left out stay as they are.
    """
    table = into or StatsTable(rows)
    if only is None:
        only = torch.arange(len(rows.mask), device=rows.mask.device)
    wanted = torch.full(rows.mask.shape[:1], with_reference, device=rows.mask.device)
    if needs_reference is not None:
        wanted &= needs_reference
    total = int(rows.mask[only].sum())
    with phase(observer, "statistics", total=total, unit="tokens") as advance:
        for reference in (True, False):
            for index in cut_rows(
                rows,
                only[wanted[only] == reference],
                size=micro_batch_size,
                max_tokens=micro_batch_tokens,
                even_length=policy.even_length,
            ):
                part = rows.take(index)
                columns = policy.token_columns(part, temperature=temperature, reference=reference)
                table.put(index, part.mask, columns)
                advance(int(part.mask.sum()))
    return table.stats
