"""Completions as padded tensors, and the cut of a batch into micro-batches."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from dgpo_cli.core.types import Batch, Group, KeptTokens, ScoredGroup
    from dgpo_cli.core.types.rollout import Span

    # Ids of a prompt and of a completion, and which of these an environment wrote.
    Pair = tuple[Sequence[int], Sequence[int]] | tuple[Sequence[int], Sequence[int], Sequence[Span]]


@dataclass(frozen=True, slots=True)
class Rows:
    """B prompts, padded on the left, and their completions, padded on the right.

    A row's first and last completion token are the policy's, so that both masks end together.
    """

    prompt_ids: Tensor  # int64 [B, L]
    prompt_mask: Tensor  # bool [B, L]
    completion_ids: Tensor  # int64 [B, T]
    mask: Tensor  # bool [B, T], the tokens that the policy wrote: those that have statistics
    filled: Tensor  # bool [B, T], all tokens, those of an environment too: what attention sees
    kept: Sequence[KeptTokens | None] | None = None  # see Batch.kept

    @classmethod
    def of(cls, batch: Batch) -> Rows:
        """Return the ids and masks of a batch."""
        filled = batch.mask if batch.filled is None else batch.filled
        return cls(
            batch.prompt_ids,
            batch.prompt_mask,
            batch.completion_ids,
            batch.mask,
            filled,
            batch.kept,
        )

    def to(self, device: torch.device) -> Rows:
        """Return the rows on a device."""
        return Rows(
            prompt_ids=self.prompt_ids.to(device),
            prompt_mask=self.prompt_mask.to(device),
            completion_ids=self.completion_ids.to(device),
            mask=self.mask.to(device),
            filled=self.filled.to(device),
            kept=self.kept,
        )

    def take(self, index: Tensor) -> Rows:
        """Return the rows `index` (int64 [M]), without padding beyond their own longest prompt and
        completion."""
        prompt_mask, filled = self.prompt_mask[index], self.filled[index]
        width = int(prompt_mask.sum(dim=1).max())
        length = int(filled.sum(dim=1).max())
        start = prompt_mask.shape[1] - width
        return Rows(
            prompt_ids=self.prompt_ids[index, start:],
            prompt_mask=prompt_mask[:, start:],
            completion_ids=self.completion_ids[index, :length],
            mask=self.mask[index, :length],
            filled=filled[:, :length],
            kept=None if self.kept is None else [self.kept[row] for row in index.tolist()],
        )

    @property
    def lengths(self) -> Tensor:
        """Completion tokens of each row, those of an environment too, int64 [B]."""
        return self.filled.sum(dim=1)


def pairs_of(groups: Sequence[Group | ScoredGroup]) -> list[Pair]:
    """Return what `pad_rows` takes of every completion, in order."""
    return [
        (group.prompt_ids, each.token_ids, each.environment)
        for group in groups
        for each in group.completions
    ]


def pad_rows(pairs: Sequence[Pair], *, pad_id: int) -> Rows:
    """Pad B pairs of prompt ids and completion ids; neither may be empty.

    They are in the host's memory, whatever the policy's device: a batch may be gigabytes.
    """
    width = max(len(prompt) for prompt, *_ in pairs)
    length = max(len(completion) for _, completion, *_ in pairs)
    prompt_ids = torch.full((len(pairs), width), pad_id)
    prompt_mask = torch.zeros(len(pairs), width, dtype=torch.bool)
    completion_ids = torch.full((len(pairs), length), pad_id)
    filled = torch.zeros(len(pairs), length, dtype=torch.bool)
    mask = filled.clone()
    for row, (prompt, completion, *environment) in enumerate(pairs):
        prompt_ids[row, width - len(prompt) :] = torch.tensor(prompt)
        prompt_mask[row, width - len(prompt) :] = True
        completion_ids[row, : len(completion)] = torch.tensor(completion)
        mask[row, : len(completion)] = filled[row, : len(completion)] = True
        for start, stop in itertools.chain(*environment):
            assert 0 < start < stop < len(completion)
            mask[row, start:stop] = False
    return Rows(prompt_ids, prompt_mask, completion_ids, mask, filled)


def with_kept(rows: Rows, texts: Sequence[str]) -> Rows:
    """Return rows of which the first have what sampling kept; see `kept_from`."""
    from dgpo_cli.policy.token_pass.kept import kept_from

    known = [kept_from(text) for text in texts]
    return replace(rows, kept=[*known, *[None] * (len(rows.mask) - len(known))])


def pad_values(values: Sequence[Sequence[float]], *, mask: Tensor) -> Tensor:
    """Return the numbers of each row's tokens on `mask` (bool [B, T]), 0 elsewhere."""
    flat = torch.tensor([x for row in values for x in row], dtype=torch.float32)
    out = torch.zeros(mask.shape, device=mask.device)
    out[mask] = flat.to(mask.device)
    return out


def on_grid(values: Tensor, mask: Tensor) -> Tensor:
    """Return the values [N] of the tokens on the mask as [M, t], 0 elsewhere; differentiable."""
    return torch.zeros(mask.shape, device=values.device).masked_scatter(mask, values)


def micro_batches(lengths: Tensor, *, size: int, max_tokens: int | None = None) -> Iterator[Tensor]:
    """Yield indices of micro-batches, longest rows first.

    A micro-batch has at most `size` rows and at most `max_tokens` tokens, but always one row.

    Args:
        lengths: tokens of each row, int64 [B].
        size: 0: no limit; padding then counts as tokens, or attention's rectangle would have none.
    """
    order = torch.argsort(lengths, descending=True, stable=True)
    for part in _cut(order.tolist(), lengths.tolist(), size=size, max_tokens=max_tokens):
        yield torch.tensor(part, device=lengths.device)


def _cut(
    order: Sequence[int], lengths: Sequence[int], *, size: int, max_tokens: int | None
) -> Iterator[list[int]]:
    """Cut rows, in this order, into micro-batches as large as both limits allow."""
    part: list[int] = []
    tokens = longest = 0
    for row in order:
        tokens, longest = tokens + lengths[row], max(longest, lengths[row])
        counted = tokens if size else (len(part) + 1) * longest
        many = size and len(part) == size
        if part and (many or (max_tokens is not None and counted > max_tokens)):
            yield part
            part, tokens, longest = [], lengths[row], lengths[row]
        part.append(row)
    if part:
        yield part


def prompt_owners(rows: Rows) -> Tensor:
    """Return for each row the first row with the same prompt, int64 [B]."""
    prompts = rows.prompt_ids.masked_fill(~rows.prompt_mask, -1)
    _, number = torch.unique(prompts, dim=0, return_inverse=True)
    every = torch.arange(len(number), device=number.device)
    first = torch.full_like(number, len(number))
    return first.scatter_reduce(0, number, every, "amin")[number]


def cut_rows(
    rows: Rows,
    index: Tensor,
    *,
    size: int,
    max_tokens: int | None = None,
    even_length: float | None = None,
    lanes: int = 1,
) -> list[Tensor]:
    """Return the micro-batches of the rows `index` (int64 [M]), as row numbers.

    Adjacent rows of one length save padding in attention; adjacent rows of one prompt save that
    prompt. The cheaper order is taken.

    Args:
        even_length: see Policy.even_length; None: nothing is shared.
        lanes: compute a micro-batch each at the same time; the largest are halved until no lane
            is idle, where that is possible.
    """
    prompts = rows.prompt_mask.sum(dim=1)[index]
    lengths = (prompts + rows.lengths[index]).tolist()
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    parts = list(_cut(order, lengths, size=size, max_tokens=max_tokens))
    if even_length is not None and len(parts) > 1:
        cost = _Cost(lengths, prompts.tolist(), prompt_owners(rows)[index].tolist(), even_length)
        by_prompt = list(_cut(cost.by_prompt(order), lengths, size=size, max_tokens=max_tokens))
        parts = min(parts, by_prompt, key=cost.of)
    if lanes > 1:
        parts = _for_lanes(parts, lengths, lanes=lanes)
    return [index[part] for part in parts]


def _for_lanes(parts: list[list[int]], lengths: Sequence[int], *, lanes: int) -> list[list[int]]:
    """Halve the largest parts until their number is a multiple of `lanes`; largest first."""

    def tokens(part: Sequence[int]) -> int:
        return sum(lengths[row] for row in part)

    parts = sorted(parts, key=tokens, reverse=True)
    while len(parts) % lanes:
        large = next((at for at, part in enumerate(parts) if len(part) > 1), None)
        if large is None:
            break
        part = parts.pop(large)
        parts += [part[: len(part) // 2], part[len(part) // 2 :]]
        parts.sort(key=tokens, reverse=True)
    return parts


@dataclass(frozen=True, slots=True)
class _Cost:
    """The cost of micro-batches in tokens to compute. Lengths of rows and prompts in tokens."""

    lengths: list[int]
    prompts: list[int]
    owners: list[int]  # equal for rows of one prompt
    even_length: float

    def by_prompt(self, order: Sequence[int]) -> list[int]:
        """Return the order with rows of one prompt made adjacent."""
        first: dict[int, int] = {}
        for place, row in enumerate(order):
            first.setdefault(self.owners[row], place)
        return sorted(order, key=lambda row: first[self.owners[row]])

    def of(self, parts: Sequence[Sequence[int]]) -> float:
        """Return the cost; attention computes a whole rectangle, shared prompts included."""
        total = 0.0
        for part in parts:
            width = max(self.lengths[row] for row in part)
            shared = {self.owners[row]: self.prompts[row] for row in part}
            total += sum(self.lengths[row] - self.prompts[row] for row in part)
            total += sum(shared.values()) + len(part) * width * width / self.even_length
        return total


def padding_share(rows: Rows, *, size: int, max_tokens: int | None = None) -> float:
    """Return the share of padding in the micro-batches of `rows` as rectangles."""
    prompts, completions = rows.prompt_mask.sum(dim=1), rows.lengths
    filled = places = 0
    for index in micro_batches(prompts + completions, size=size, max_tokens=max_tokens):
        width = int(prompts[index].max()) + int(completions[index].max())
        places += len(index) * width
        filled += int((prompts[index] + completions[index]).sum())
    return 1.0 - filled / places if places else 0.0


def shared_share(
    rows: Rows, *, size: int, max_tokens: int | None = None, even_length: float
) -> float:
    """Return the share of all tokens that shared prompts save."""
    prompts, every = rows.prompt_mask.sum(dim=1), torch.arange(len(rows.mask))
    saved = 0
    for index in cut_rows(
        rows,
        every.to(rows.mask.device),
        size=size,
        max_tokens=max_tokens,
        even_length=even_length,
    ):
        own = prompts[index]
        owners = prompt_owners(rows.take(index))
        saved += int(own[owners != torch.arange(len(owners), device=owners.device)].sum())
    return saved / int(prompts.sum() + rows.filled.sum())


def whole_groups(rows: int, *, group_size: int, pieces: int) -> list[tuple[int, int]]:
    """Cut rows [0, rows) into at most `pieces` runs of whole groups, as evenly as possible."""
    groups = rows // group_size
    pieces = min(pieces, groups)
    edges = [groups * i // pieces * group_size for i in range(pieces + 1)]
    return list(itertools.pairwise(edges))
