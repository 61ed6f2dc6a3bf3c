"""Token statistics of completions without gradient, and credit by them for other trainers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from dgpo_cli.algo.credit import CreditRule, DgpoCredit
from dgpo_cli.core.events import NOBODY, Observer, phase
from dgpo_cli.core.types import KeptTokens, TokenStats
from dgpo_cli.parallel.ranks import ALONE, Ranks
from dgpo_cli.policy.batching import Rows, cut_rows
from dgpo_cli.policy.policy import Policy
from dgpo_cli.policy.token_pass.kept import split
from dgpo_cli.policy.token_pass.moments import Ledger
from dgpo_cli.policy.token_pass.reduce import reduce_two
from dgpo_cli.policy.token_pass.tiles import LOG_ZERO

if TYPE_CHECKING:
    from torch import Tensor

    from dgpo_cli.algo.truncation import Truncation
    from dgpo_cli.policy.token_pass import TokenColumns


_MOST = 1 << 22  # logits that are reduced at a time


class StatsTable:
    """Token statistics of B completions, filled in row by row; 0 until then."""

    def __init__(
        self,
        rows: Rows,
        *,
        noise_floor: float | None = None,
        truncated: bool = False,
        kept_of: Tensor | None = None,  # bool [B]
        reference_logprobs: bool = False,
        value_moves: Tensor | None = None,  # float32 [B, T]
    ) -> None:
        """
        Args:
            truncated: the sampler keeps a part of the vocabulary, which is measured too.
            kept_of: rows whose sets later passes need, if they are not known yet; None: all.
            reference_logprobs: whether the reference's are kept, too.
            value_moves: see TokenStats; no pass of the policy fills them in.
        """
        shape, device = rows.mask.shape, rows.mask.device
        known = [None] * len(rows.mask) if rows.kept is None else rows.kept
        self.kept: list[KeptTokens | None] | None = list(known) if truncated else None  # by row
        later = [True] * len(known) if kept_of is None else kept_of.tolist()
        self._later = [own is None and keep for own, keep in zip(known, later, strict=True)]
        self.stats = TokenStats(
            old_logprobs=torch.zeros(shape, device=device),
            entropy=torch.zeros(shape, device=device),
            hellinger_sq=torch.zeros(shape, device=device),
            noise_floor=noise_floor,
            kept=torch.zeros(shape, device=device) if truncated else None,
            outside=torch.zeros(shape, device=device) if truncated else None,
            reference_logprobs=torch.zeros(shape, device=device) if reference_logprobs else None,
            value_moves=value_moves,
        )

    @classmethod
    def again(cls, stats: TokenStats, index: Tensor) -> StatsTable:
        """Return a table that measures the rows `index` [M] anew into `stats`.

        Its log-probabilities are its own: those of `stats` stay.
        """
        table = cls.__new__(cls)
        table.stats = replace(stats, old_logprobs=torch.zeros_like(stats.old_logprobs))
        table.kept = None  # the sets of the rows are known
        for values in table._tables[1:]:
            values[index] = 0.0
        return table

    @property
    def _tables(self) -> list[Tensor]:
        stats = self.stats
        tables = (stats.old_logprobs, stats.entropy, stats.hellinger_sq, stats.kept, stats.outside)
        found = [*tables, stats.reference_logprobs]
        return [table for table in found if table is not None]

    def put(self, index: Tensor, mask: Tensor, columns: TokenColumns) -> None:
        """Write the numbers of the tokens on `mask` (bool [M, t]) of the rows `index` [M]."""
        own = [columns.logprobs.detach(), columns.entropy, columns.hellinger_sq]
        if columns.kept is not None:
            own += [columns.kept.counts.float(), columns.kept.outside.float()]
        if columns.reference_logprobs is not None:
            own.append(columns.reference_logprobs)
        tables = self._tables
        mask = mask.to(tables[0].device)
        for table, values in zip(tables, own, strict=False):  # the reference did not run on all
            padded = torch.zeros(mask.shape, device=mask.device)
            padded[mask] = values.to(mask.device)
            table[index, : mask.shape[1]] = padded

    def keep(self, index: Tensor, mask: Tensor, columns: TokenColumns) -> None:
        """Write down the sets of the rows `index` [M] that later passes need."""
        if self.kept is None or columns.kept is None:
            return
        for row, own in zip(index.tolist(), split(columns.kept, mask), strict=True):
            if self._later[row]:
                self.kept[row] = own

    def share_kept(self, index: Tensor, mask: Tensor, *, ranks: Ranks) -> None:
        """Fill in the sets that other ranks wrote down, after `make_whole` of the same rows."""
        sizes, outside = self.stats.kept, self.stats.outside
        if ranks.count == 1 or self.kept is None or sizes is None or outside is None:
            return
        rows = [row for row in index.tolist() if self._later[row]]
        counts = [sizes[row][mask[row]].int().cpu() for row in rows]
        flat = torch.zeros(sum(int(own.sum()) for own in counts), dtype=torch.int32)
        parts = flat.split([int(own.sum()) for own in counts])
        for row, part in zip(rows, parts, strict=True):
            mine = self.kept[row]
            if mine is not None and not ranks.number % ranks.sequence:
                part.copy_(mine.ids)
        ranks.sum_([flat])
        for row, own, part in zip(rows, counts, parts, strict=True):
            self.kept[row] = KeptTokens(own, part.clone(), outside[row][mask[row]].bool().cpu())

    def make_whole(self, index: Tensor, mask: Tensor, *, ranks: Ranks) -> None:
        """Fill in what other ranks measured of the rows `index`; here it is 0 so far.

        mask: bool [B, T], of all rows.
        """
        if ranks.count == 1 or not len(index):
            return
        chosen = torch.zeros_like(mask)
        chosen[index] = mask[index]
        tables = self._tables
        flat = [table[chosen] for table in tables]
        if ranks.number % ranks.sequence:  # the first of the lane has the same numbers
            for values in flat:
                values.zero_()
        ranks.sum_(flat)
        for table, values in zip(tables, flat, strict=True):
            table[chosen] = values


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
    truncation: Truncation | None = None,
    into: StatsTable | None = None,
    ranks: Ranks = ALONE,
    observer: Observer = NOBODY,
) -> TokenStats:
    """Compute log-probability, entropy and squared Hellinger distance of every completion token.

    Policy and reference run on the same layout, so that equal weights have a distance of exactly
    0. Without the reference `hellinger_sq` is 0.

    Args:
        needs_reference: rows to run the reference on; None for all. The others have a distance
            of 0 and are batched separately, so that an update's rows keep its micro-batches.
        only: the rows to compute; None for all.
        truncation: the sampler's; see Policy.token_columns.
        into: the table to write to; other rows stay as they are.
        ranks: each computes its share of the micro-batches; all return all statistics.
    """
    table = into or StatsTable(rows, truncated=truncation is not None)
    if only is None:
        only = torch.arange(len(rows.mask), device=rows.mask.device)
    wanted = torch.full(rows.mask.shape[:1], with_reference, device=rows.mask.device)
    if needs_reference is not None:
        wanted &= needs_reference
    parts = [
        (index, reference, counts)
        for reference in (True, False)
        for index, counts in ranks.deal(
            cut_rows(
                rows,
                only[wanted[only] == reference],
                size=micro_batch_size,
                max_tokens=micro_batch_tokens,
                even_length=policy.even_length,
                lanes=ranks.lanes,
            )
        )
    ]
    total = sum(int(rows.mask[index].sum()) for index, _, counts in parts if counts)
    with phase(observer, "statistics", total=total, unit="tokens") as advance:
        for index, reference, counts in parts:
            part = rows.take(index).to(policy.device)
            columns = policy.token_columns(
                part,
                temperature=temperature,
                reference=reference,
                reference_logprobs=table.stats.reference_logprobs is not None,
                truncation=truncation,
            )
            if counts:
                table.put(index, part.mask, columns)
                table.keep(index, part.mask, columns)
                advance(int(part.mask.sum()))
    table.make_whole(only, rows.mask, ranks=ranks)
    table.share_kept(only, rows.mask, ranks=ranks)
    return table.stats


@torch.no_grad()
def credit_weights(
    policy_logits: Tensor,
    reference_logits: Tensor | None,
    mask: Tensor,
    tau: float = 0.5,
    kappa: float = 1.0,
    *,
    temperature: float = 1.0,
) -> Tensor:
    """Return the weight of every token that the advantage of its completion is multiplied by.

    float32 [B, T], without gradient: a mean of 1 over each completion, 0 outside the mask. The
    arithmetic is that of training. A trainer that has no room for logits takes `CreditMeter`.

    Args:
        policy_logits: floating [B, T, V]; those at t are what token t was drawn from. -inf stands
            for a token that cannot be drawn.
        reference_logits: those of the reference, [B, T, V]; None: a distance of 0.
        mask: bool or 0 and 1, [B, T]; True on the tokens of the completion.
        tau: how strongly scores turn into weights; larger is closer to GRPO.
        kappa: power of the entropy gate; 0 switches it off.
        temperature: of the sampling; both sets of logits are divided by it.

    Raises:
        ValueError: shapes do not fit, or tau, kappa or temperature is out of range.

    Source: quantities 2 to 5 of DGPO, arXiv 2605.03327.

    Examples:
        >>> import torch
        >>> from dgpo_cli import credit_weights
        >>> policy, reference = torch.randn(2, 1, 5, 50, generator=torch.manual_seed(0))
        >>> weights = credit_weights(policy, reference, torch.ones(1, 5), tau=0.01)
        >>> weights.shape, round(weights.mean().item(), 4)
        (torch.Size([1, 5]), 1.0)
    """
    rule = DgpoCredit(tau=tau, kappa=kappa)
    stats = stats_of_logits(policy_logits, reference_logits, mask, temperature=temperature)
    return rule.credit(stats, mask.bool(), vocab_size=policy_logits.shape[-1]).weights


def stats_of_logits(
    logits: Tensor, reference_logits: Tensor | None, mask: Tensor, *, temperature: float
) -> TokenStats:
    """Return entropy and distance of every token on the mask, float32 [B, T]; no log-probability.

    Arguments and errors are those of `credit_weights`.
    """
    _check_logits(logits, reference_logits, mask)
    if not temperature > 0:
        raise ValueError(f"temperature={temperature:g}: must be positive")
    columns = torch.zeros(2, *mask.shape, device=logits.device)
    for rows in mask.nonzero().split(max(1, _MOST // logits.shape[-1])):
        where = tuple(rows.unbind(dim=1))
        columns[:, where[0], where[1]] = _columns(
            _halved(logits[where], temperature=temperature),
            None
            if reference_logits is None
            else _halved(reference_logits[where], temperature=temperature),
        )
    entropy, distance = columns.unbind(dim=0)
    return TokenStats(torch.zeros_like(entropy), entropy=entropy, hellinger_sq=distance)


class CreditMeter:
    """Weighs the tokens of completions by the models that another trainer has in memory.

    It runs dgpo's own pass: hidden states without padding, and statistics over tiles of the
    vocabulary, so that no logits of a whole batch are held. The models are used as they are at each
    call, in evaluation mode and without gradient; their mode is restored.

    Weights that are split over processes (FSDP, ZeRO-3) cannot be measured.
    """

    def __init__(
        self,
        model: Any,
        *,
        reference: Any | None = None,
        tokenizer: Any,
        rule: CreditRule | None = None,
        temperature: float = 1.0,
        micro_batch_size: int = 8,
    ) -> None:
        """
        Args:
            model: a causal transformers model; with a PEFT adapter, the reference is the same model
                with the adapter off.
            reference: a second model, which nobody trains; None: the adapter off, or a distance of
                0 without an adapter.
            rule: by default `DgpoCredit()`, with the paper's tau and kappa.
            temperature: of the sampling.
            micro_batch_size: completions of a pass.

        Raises:
            ModelError: a model's logits are not supported, or the vocabularies differ.
        """
        self.rule = rule or DgpoCredit()
        self._temperature, self._size = temperature, micro_batch_size
        self._model = model
        has_adapter = hasattr(model, "peft_config")
        self._measures = self.rule.needs_reference and (has_adapter or reference is not None)
        self._policy = Policy(
            model,
            tokenizer=tokenizer,
            reference=None if has_adapter else reference,
            has_adapter=has_adapter,
        )

    def weights(
        self,
        *,
        prompt_ids: Tensor,
        prompt_mask: Tensor,
        completion_ids: Tensor,
        completion_mask: Tensor,
        advantages: Tensor,
    ) -> Tensor:
        """Return the weight of every token, float32 [B, T] on the device of `advantages`.

        Args:
            prompt_ids: int64 [B, L], padded on the left. prompt_mask: bool or 0 and 1, [B, L].
            completion_ids: int64 [B, T], padded on the right. completion_mask: [B, T].
            advantages: [B], of the completions; the reference runs where they are not 0.
        """
        mask = completion_mask.bool()
        rows = Rows(prompt_ids, prompt_mask.bool(), completion_ids, mask, mask)
        training = self._model.training
        self._model.eval()
        try:
            stats = token_stats(
                self._policy,
                rows,
                temperature=self._temperature,
                micro_batch_size=self._size,
                with_reference=self._measures,
                needs_reference=advantages != 0,
            )
        finally:
            self._model.train(training)
        vocab_size = self._policy.vocab_size
        return self.rule.credit_for(stats, mask, advantages, vocab_size=vocab_size).weights


def _halved(logits: Tensor, *, temperature: float) -> Tensor:
    return (logits.float() * (0.5 / temperature)).clamp(min=LOG_ZERO)


def _columns(x: Tensor, z: Tensor | None) -> Tensor:
    """Return entropy and distance, float32 [2, N], of half logits [N, V]."""
    ledger = Ledger(len(x), device=x.device)
    reduce_two(x, z, scratch=torch.empty_like(x), numbers=ledger.next_tile())
    sums = ledger.result()
    return torch.stack((sums.entropy(), sums.hellinger_sq())).float()


def _check_logits(logits: Tensor, reference_logits: Tensor | None, mask: Tensor) -> None:
    """Raise ValueError unless logits are floating [B, T, V], and the mask [B, T] without halves."""
    shape = tuple(logits.shape)
    if len(shape) != 3 or not logits.is_floating_point():
        raise ValueError(f"policy_logits: {logits.dtype} {list(shape)}; must be floating [B, T, V]")
    if reference_logits is not None and tuple(reference_logits.shape) != shape:
        raise ValueError(
            f"reference_logits: {list(reference_logits.shape)}; must be those of policy_logits, "
            f"{list(shape)}"
        )
    if tuple(mask.shape) != shape[:2] or not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError(
            f"mask: {mask.dtype} {list(mask.shape)}; must be 0 and 1, {list(shape[:2])}"
        )
