"""Samples with the policy itself through transformers' own forward pass and cache.

transformers' `generate` is not used: it prefills each prompt once per completion, keeps computing
rows that have ended, draws from one global generator (so completions depend on their neighbours)
and applies the checkpoint's default top_k.
`benchmarks/sampling.py` compares the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch

from dgpo_cli.core.events import Observer, phase
from dgpo_cli.core.types import Advance, Completion, FinishReason
from dgpo_cli.samplers.base import Row, Share, in_order
from dgpo_cli.samplers.draw import UniformStreams, draw_tokens

if TYPE_CHECKING:
    from torch import Tensor

    from dgpo_cli.samplers.base import SamplingParams


class Generator(Protocol):
    """A causal language model with a cache and a tokenizer."""

    @property
    def device(self) -> Any: ...

    @property
    def pad_id(self) -> int: ...

    @property
    def stop_ids(self) -> frozenset[int]:
        """Token ids that end a completion."""
        ...

    @property
    def pads_prompts(self) -> bool:
        """Whether prompts of different lengths can be sampled together.

        Raises:
            ConfigError: the model cannot be sampled from here.
        """
        ...

    def new_cache(self) -> Any:
        """Return an empty cache; its `select` keeps rows by number."""
        ...

    def next_logits(self, ids: Tensor, *, mask: Tensor, positions: Tensor, cache: Any) -> Tensor:
        """Return the logits after the last token of each row, float32 [B, V].

        Args:
            ids: the next tokens, int64 [B, T]; mask: int64 [B, L], of all tokens so far.
            positions: int64 [B, T].
        """
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of a completion without special tokens."""
        ...


# Share of ended rows at which they are dropped from the cache. Dropping copies the cache: doing it
# for every row would cost more than it saves.
_COMPACT_SHARE = 0.2


class HfSampler:
    """The sampler of `rollout.backend.kind = "hf"`."""

    def __init__(self, generator: Generator, *, batch_size: int) -> None:
        """Take a model.

        Raises:
            ConfigError: it cannot be sampled from here.
        """
        self._generator = generator
        self._batch_size = batch_size
        self._pads = generator.pads_prompts
        self._policy_version = 0

    def sync(self, *, policy_version: int) -> None:
        """Set the version: the sampler uses the policy itself."""
        self._policy_version = policy_version

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        seeds: Sequence[Sequence[int]],
        params: SamplingParams,
        observer: Observer,
    ) -> list[tuple[Completion, ...]]:
        """See Sampler.sample. Longest prompts first, `batch_size` completions at a time."""
        total = sum(map(len, seeds))
        with phase(observer, "sampling", total=total, unit="completions") as advance:
            found = self.draw(
                prompts, seeds=seeds, params=params, advance=advance, share=Share.all()
            )
        return in_order(found, seeds=seeds)

    def draw(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        seeds: Sequence[Sequence[int]],
        params: SamplingParams,
        advance: Advance,
        share: Share,
    ) -> dict[Row, Completion]:
        """See SharedSampler.draw. A part is a batch, which is smaller if ranks would get none."""
        size = min(self._batch_size, share.rows(seeds))
        chunks = self._chunks(prompts, seeds=seeds, size=size)
        stop_ids = self._generator.stop_ids
        found: dict[Row, Completion] = {}
        while (number := share.take()) < len(chunks):
            chunk = chunks[number]
            sampled = _Rollout(
                self._generator,
                prompts=[prompts[i] for i, _ in chunk],
                seeds=[seeds[i][j] for i, j in chunk],
                params=params,
            ).run(advance)
            for row, (ids, logprobs) in zip(chunk, sampled, strict=True):
                seed = seeds[row[0]][row[1]]
                found[row] = self._completion(ids, logprobs, seed=seed, stop_ids=stop_ids)
        return found

    def _chunks(
        self, prompts: Sequence[Sequence[int]], *, seeds: Sequence[Sequence[int]], size: int
    ) -> list[list[Row]]:
        """Cut the rows into batches, of equal prompt lengths if the model cannot be padded."""
        rows = [(i, j) for i in range(len(prompts)) for j in range(len(seeds[i]))]
        rows.sort(key=lambda row: -len(prompts[row[0]]))
        lengths = [len(prompts[i]) for i, _ in rows]
        chunks: list[list[Row]] = []
        start = 0
        while start < len(rows):
            stop = min(start + size, len(rows))
            if not self._pads:
                stop = start + lengths[start:stop].count(lengths[start])
            chunks.append(rows[start:stop])
            start = stop
        return chunks

    def _completion(
        self,
        ids: tuple[int, ...],
        logprobs: tuple[float, ...],
        *,
        seed: int,
        stop_ids: frozenset[int],
    ) -> Completion:
        stopped = bool(ids) and ids[-1] in stop_ids
        reason: FinishReason = "stop" if stopped else "length"
        return Completion(
            token_ids=ids,
            sampling_logprobs=logprobs,
            text=self._generator.decode(ids[:-1] if stopped else ids),
            finish_reason=reason,
            policy_version=self._policy_version,
            seed=seed,
        )


class _Rollout:
    """One batch of rows from prompts to the end of the last completion."""

    def __init__(
        self,
        generator: Generator,
        *,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        params: SamplingParams,
    ) -> None:
        self._generator = generator
        self._prompts = prompts
        self._params = params
        self._uniforms = UniformStreams(seeds)
        self._stop = torch.tensor(sorted(generator.stop_ids), device=generator.device)
        self._rows = torch.arange(len(prompts), device=generator.device)  # row of each cache line
        self._cache: Any = None
        self._mask = torch.empty(0)
        self._positions = torch.empty(0)

    @torch.inference_mode()
    def run(self, advance: Advance) -> list[tuple[tuple[int, ...], tuple[float, ...]]]:
        """Return the token ids and log-probabilities of each row, EOS included."""
        count, limit = len(self._prompts), self._params.max_completion_tokens
        device = self._generator.device
        lengths = torch.full((count,), limit, device=device)
        columns: list[tuple[Tensor, Tensor, Tensor]] = []  # rows, tokens, logprobs of one position
        alive = torch.ones(count, dtype=torch.bool, device=device)  # of the cache lines
        logits = self._prefill()
        for position in range(limit):
            uniforms = self._uniforms.at(position)[self._rows.cpu()]
            tokens, logprobs = draw_tokens(logits, uniforms=uniforms, params=self._params)
            columns.append((self._rows, tokens, logprobs))
            ended = alive & torch.isin(tokens, self._stop)
            if position + 1 == limit:
                ended = alive
            lengths[self._rows[ended]] = position + 1
            alive = alive & ~ended
            advance(int(ended.sum()))
            if not bool(alive.any()):
                break
            if 1.0 - float(alive.float().mean()) >= _COMPACT_SHARE:
                tokens, alive = self._compact(tokens, alive=alive)
            logits = self._decode(tokens)
        return _gather(columns, lengths=lengths)

    def _prefill(self) -> Tensor:
        """Run each distinct prompt once; return the first logits of every row, float32 [B, V]."""
        distinct = list(dict.fromkeys(map(tuple, self._prompts)))
        place = {prompt: i for i, prompt in enumerate(distinct)}
        ids, mask = left_pad(distinct, pad_id=self._generator.pad_id)
        ids, mask = ids.to(self._generator.device), mask.to(self._generator.device)
        positions = (mask.long().cumsum(dim=1) - 1).clamp_min(0)
        self._cache = self._generator.new_cache()
        logits = self._generator.next_logits(
            ids, mask=mask.long(), positions=positions, cache=self._cache
        )
        spread = torch.tensor([place[tuple(p)] for p in self._prompts], device=logits.device)
        self._cache.select(spread)
        self._mask = mask.long()[spread]
        self._positions = positions[spread, -1:]
        return logits[spread]

    def _decode(self, tokens: Tensor) -> Tensor:
        """Feed one token a row; return the next logits, float32 [B, V]."""
        self._mask = torch.nn.functional.pad(self._mask, (0, 1), value=1)
        self._positions = self._positions + 1
        return self._generator.next_logits(
            tokens[:, None], mask=self._mask, positions=self._positions, cache=self._cache
        )

    def _compact(self, tokens: Tensor, *, alive: Tensor) -> tuple[Tensor, Tensor]:
        """Drop the cache lines of rows that have ended."""
        keep = alive.nonzero()[:, 0]
        self._cache.select(keep)
        self._mask, self._positions = self._mask[keep], self._positions[keep]
        self._rows = self._rows[keep]
        return tokens[keep], alive[keep]


def left_pad(prompts: Sequence[Sequence[int]], *, pad_id: int) -> tuple[Tensor, Tensor]:
    """Return ids int64 [P, L] and mask bool [P, L], padded on the left to the longest prompt."""
    longest = max(map(len, prompts))
    ids = torch.full((len(prompts), longest), pad_id)
    mask = torch.zeros(len(prompts), longest, dtype=torch.bool)
    for i, prompt in enumerate(prompts):
        ids[i, longest - len(prompt) :] = torch.tensor(prompt)
        mask[i, longest - len(prompt) :] = True
    return ids, mask


def _gather(
    columns: list[tuple[Tensor, Tensor, Tensor]], *, lengths: Tensor
) -> list[tuple[tuple[int, ...], tuple[float, ...]]]:
    """Turn the columns, one per position, into rows of their own lengths."""
    shape = (len(lengths), len(columns))
    ids = torch.zeros(shape, dtype=torch.long, device=lengths.device)
    logprobs = torch.zeros(shape, device=lengths.device)
    for position, (rows, tokens, values) in enumerate(columns):
        ids[rows, position] = tokens
        logprobs[rows, position] = values
    id_rows, logprob_rows, ends = ids.tolist(), logprobs.tolist(), lengths.tolist()
    return [
        (tuple(row[:end]), tuple(values[:end]))
        for row, values, end in zip(id_rows, logprob_rows, ends, strict=True)
    ]
