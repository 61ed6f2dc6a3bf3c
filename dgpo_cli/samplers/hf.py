"""Samples with the policy itself through transformers' own forward pass and cache.

transformers' `generate` is not used: it prefills each prompt once per completion, keeps computing
rows that have ended, draws from one global generator (so completions depend on their neighbours)
and applies the checkpoint's default top_k.
`benchmarks/sampling.py` compares the two.

On CUDA the step of a token is a graph on a cache at fixed addresses where the model's layers are
all of full attention, and the host waits for the device only every few tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import torch

from dgpo_cli.core.events import Observer, phase, tell
from dgpo_cli.core.types import Advance, Completion, FinishReason
from dgpo_cli.samplers.base import Row, Share, in_order
from dgpo_cli.samplers.draw import UniformStreams, draw_tokens
from dgpo_cli.samplers.steps import FixedLines, Generator, GraphRunner, GrowingLines, Runner
from dgpo_cli.samplers.stopping import StopStrings, Watch

if TYPE_CHECKING:
    from torch import Tensor

    from dgpo_cli.samplers.base import SamplingParams


# Share of ended rows at which they are dropped from a cache that grows.
_COMPACT_SHARE = 0.2
# Tokens between two looks at what has ended, where looking means to wait for a GPU.
_UNSEEN = 8


class HfSampler:
    """The sampler of `rollout.backend.kind = "hf"`."""

    def __init__(
        self,
        generator: Generator,
        *,
        batch_size: int,
        runner: Runner | None = None,
        unseen: int | None = None,
    ) -> None:
        """Take a model.

        Args:
            runner: of steps at fixed addresses; None: a graph's on CUDA, else none.
            unseen: tokens that are drawn between two looks at what has ended; None: as fits.

        Raises:
            ConfigError: it cannot be sampled from here.
        """
        cuda = torch.device(generator.device).type == "cuda"
        self._generator = generator
        self._runner = GraphRunner() if runner is None and cuda else runner
        self._unseen = unseen or (_UNSEEN if cuda else 1)
        self._batch_size = batch_size
        self._pads = generator.pads_prompts
        self._policy_version = 0
        self._told = False

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
        problem = None if self._runner is None else self._runner.problem
        if problem is not None and not self._told:
            tell(observer, f"sampling without CUDA graphs, which takes longer: {problem}")
            self._told = True
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
        strings = StopStrings(params.stop, spell=self._generator.spell) if params.stop else None
        found: dict[Row, Completion] = {}
        lines = self._lines()
        try:
            while (number := share.take()) < len(chunks):
                chunk = chunks[number]
                sampled = _Rollout(
                    self._generator,
                    lines=lines,
                    prompts=[prompts[i] for i, _ in chunk],
                    seeds=[seeds[i][j] for i, j in chunk],
                    params=params,
                    strings=strings,
                    unseen=self._unseen,
                ).run(advance)
                for row, each in zip(chunk, sampled, strict=True):
                    found[row] = self._completion(each, seed=seeds[row[0]][row[1]])
        finally:
            lines.release()
        return found

    def _lines(self) -> FixedLines | GrowingLines:
        """Return where rows are decoded; parts of a round share it, and so its graphs."""
        if self._runner is not None:
            fixed = self._generator.fixed_rows()
            if fixed is not None:
                return FixedLines(self._generator, fixed=fixed, runner=self._runner)
        return GrowingLines(self._generator, dropped=_COMPACT_SHARE)

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

    def _completion(self, row: _Row, *, seed: int) -> Completion:
        ids = row.ids
        at_end = bool(ids) and ids[-1] in self._generator.stop_ids
        reason: FinishReason = "stop" if at_end or row.by_string else "length"
        return Completion(
            token_ids=ids,
            sampling_logprobs=row.logprobs,
            text=self._generator.decode(ids[:-1] if at_end else ids),
            finish_reason=reason,
            policy_version=self._policy_version,
            seed=seed,
        )


@dataclass(frozen=True, slots=True)
class _Row:
    """A finished row. by_string: a stop string ended it."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    by_string: bool


class _Rollout:
    """One batch of rows from prompts to the end of the last completion."""

    def __init__(
        self,
        generator: Generator,
        *,
        lines: FixedLines | GrowingLines,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        params: SamplingParams,
        strings: StopStrings | None,
        unseen: int,
    ) -> None:
        self._generator = generator
        self._lines = lines
        self._prompts = prompts
        self._params = params
        self._unseen = unseen
        self._uniforms = UniformStreams(seeds)
        self._stop = torch.tensor(sorted(generator.stop_ids), device=generator.device)
        self._rows = torch.arange(len(prompts))  # row of each line
        self._rooms = [params.room(prompt) for prompt in prompts]
        # Tokens left for each line; None: as many for all.
        self._left = (
            torch.tensor(self._rooms, device=generator.device)
            if len(set(self._rooms)) > 1
            else None
        )
        self._watch = (
            None
            if strings is None
            else Watch(strings, rows=len(prompts), stop_ids=generator.stop_ids)
        )

    @torch.inference_mode()
    def run(self, advance: Advance) -> list[_Row]:
        """Return each row, EOS included.

        What a row gets after its EOS, a stop string or its last token, until it is dropped, is cut
        off at the end.
        """
        limit = max(self._rooms)
        columns: list[_Column] = []
        running = len(self._prompts)  # rows that had not ended at the last look
        alive = torch.ones(running, dtype=torch.bool, device=self._generator.device)
        logits = self._prefill()
        for position in range(limit):
            turn = position % self._unseen
            if turn == 0:
                uniforms = self._next_uniforms(position, count=min(self._unseen, limit - position))
            tokens, logprobs = draw_tokens(logits, uniforms=uniforms[turn], params=self._params)
            columns.append((self._rows, tokens, logprobs))
            alive = alive & ~torch.isin(tokens, self._stop)
            if self._left is not None:
                alive = alive & (self._left > position + 1)
            if position + 1 == limit:
                self._look(columns[-turn - 1 :])
                advance(running)
            elif turn + 1 == self._unseen:
                seen: list[bool] = alive.tolist()
                if found := self._look(columns[-turn - 1 :]):
                    alive[found] = False
                    seen = [is_alive and line not in found for line, is_alive in enumerate(seen)]
                advance(running - sum(seen))
                running = sum(seen)
                if not running:
                    break
                tokens, alive = self._compact(tokens, alive, seen=seen)
            if position + 1 < limit:
                logits = self._lines.step(tokens)
        ends = {} if self._watch is None else self._watch.ends
        return _gather(columns, rooms=self._rooms, stop=self._stop, ends=ends)

    def _look(self, columns: Sequence[_Column]) -> list[int]:
        """Return the lines on which a stop string was completed in the columns since last time."""
        if self._watch is None:
            return []
        tokens = torch.stack([column[1] for column in columns]).tolist()
        return self._watch.see(self._rows.tolist(), tokens)

    def _prefill(self) -> Tensor:
        """Run each distinct prompt once; return the first logits of every row, float32 [B, V]."""
        distinct = list(dict.fromkeys(map(tuple, self._prompts)))
        place = {prompt: i for i, prompt in enumerate(distinct)}
        ids, mask = left_pad(distinct, pad_id=self._generator.pad_id)
        device = self._generator.device
        rows = torch.tensor([place[tuple(p)] for p in self._prompts], device=device)
        return self._lines.prefill(ids.to(device), mask=mask.to(device).long(), rows=rows)

    def _next_uniforms(self, position: int, *, count: int) -> Tensor:
        """Return the uniforms of the next positions for each line, float64 [count, B]."""
        block = [self._uniforms.at(position + i)[self._rows] for i in range(count)]
        # Apple's GPUs have no float64: there, the draw is on the CPU.
        cuda = self._stop.is_cuda
        return torch.stack(block).to(self._stop.device) if cuda else torch.stack(block)

    def _compact(
        self, tokens: Tensor, alive: Tensor, *, seen: Sequence[bool]
    ) -> tuple[Tensor, Tensor]:
        """Drop the lines of rows that have ended, if they are many enough."""
        wanted = self._lines.wanted(sum(seen), of=len(seen))
        if wanted == len(seen):
            return tokens, alive
        # Ended rows make up the number, if any.
        kept = sorted(sorted(range(len(seen)), key=lambda line: not seen[line])[:wanted])
        self._rows = self._rows[kept]
        lines = torch.tensor(kept, device=tokens.device)
        self._lines.keep(lines)
        if self._left is not None:
            self._left = self._left[lines]
        return tokens[lines], alive[lines]


def left_pad(prompts: Sequence[Sequence[int]], *, pad_id: int) -> tuple[Tensor, Tensor]:
    """Return ids int64 [P, L] and mask bool [P, L], padded on the left to the longest prompt."""
    longest = max(map(len, prompts))
    ids = torch.full((len(prompts), longest), pad_id)
    mask = torch.zeros(len(prompts), longest, dtype=torch.bool)
    for i, prompt in enumerate(prompts):
        ids[i, longest - len(prompt) :] = torch.tensor(prompt)
        mask[i, longest - len(prompt) :] = True
    return ids, mask


_Column = tuple["Tensor", "Tensor", "Tensor"]  # rows, tokens, logprobs of one position


def _gather(
    columns: list[_Column], *, rooms: Sequence[int], stop: Tensor, ends: Mapping[int, int]
) -> list[_Row]:
    """Turn the columns, one per position, into rows, each up to its first stop token.

    rooms: the most tokens of each row. ends: number of tokens of rows that a stop string ended.
    """
    count = len(rooms)
    ids = torch.zeros(count, len(columns), dtype=torch.long, device=stop.device)
    logprobs = torch.zeros(count, len(columns), device=stop.device)
    start = 0
    for _, same in groupby(columns, key=lambda column: id(column[0])):
        rows, tokens, values = zip(*same, strict=True)
        end = start + len(tokens)
        ids[rows[0], start:end] = torch.stack(tokens, dim=1)
        logprobs[rows[0], start:end] = torch.stack(values, dim=1)
        start = end
    ended = torch.isin(ids, stop)
    first = ended.int().argmax(dim=1) + 1
    lengths = torch.where(ended.any(dim=1), first, len(columns)).tolist()
    lengths = [min(ends.get(row, length), rooms[row]) for row, length in enumerate(lengths)]
    return [
        _Row(tuple(own[:end]), tuple(values[:end]), by_string=ends.get(row) == end)
        for row, (own, values, end) in enumerate(
            zip(ids.tolist(), logprobs.tolist(), lengths, strict=True)
        )
    ]
