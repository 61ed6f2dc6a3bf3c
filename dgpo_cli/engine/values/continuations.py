"""Rewards of what the policy writes after a prefix."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from dgpo_cli.core.events import Event, Observer, Progress, phase
from dgpo_cli.core.seeds import derive_seed
from dgpo_cli.core.types import Advance, Completion, FinishReason, Group
from dgpo_cli.engine.values.prefixes import Key, Prefixes
from dgpo_cli.samplers.stopping import StopStrings

if TYPE_CHECKING:
    from dgpo_cli.engine.sampling import SamplingEngine
    from dgpo_cli.engine.values.store import ValueStore

# What is sampled and judged at once, which bounds the memory, and what Ctrl-C can lose.
_SLICE_ROWS = 2048
_SLICE_TOKENS = 1 << 21


@dataclass(frozen=True, slots=True)
class Prefix:
    """The first `at` tokens of a completion of a group."""

    group: Prefixes
    row: int
    at: int


@dataclass(frozen=True, slots=True)
class Judged:
    """A whole completion, a prefix and its continuation, with its reward; NaN: unscored."""

    token_ids: tuple[int, ...]
    reward: float


@dataclass(frozen=True, slots=True)
class _Draw:
    """Continuation number k of a prefix."""

    key: Key
    k: int
    seed: int


class Continuations:
    """Draws continuations, each once, and remembers their rewards."""

    def __init__(self, engine: SamplingEngine, *, seed: int, store: ValueStore | None) -> None:
        self._engine = engine
        self._seed = seed
        self._store = store
        self._known: dict[Key, dict[int, float]] = {}
        strings = engine.settings.rollout.stop
        self._strings = StopStrings(strings, spell=engine.subject.spell) if strings else None

    def rewards(self, prefixes: Mapping[Key, Prefix], *, count: int) -> None:
        """Make the rewards of the first `count` continuations of each prefix known.

        A slice is stored as soon as it is judged. Prefixes of a completion are drawn one after the
        other, so that a server whose cache is small computes them once; `HfSampler` sorts a slice
        by length. Measured, neither has a faster order.
        """
        if self._store is not None:
            for key in prefixes:
                self._known.setdefault(key, {}).update(self._store.rewards(key, seed=self._seed))
        missing = [
            (key, k) for key in prefixes for k in range(count) if k not in self._known.get(key, {})
        ]
        for key, found in self.drawn(missing, prefixes):
            self._known.setdefault(key, {}).update({k: each.reward for k, each in found.items()})

    def drawn(
        self, wanted: Sequence[tuple[Key, int]], prefixes: Mapping[Key, Prefix]
    ) -> Iterator[tuple[Key, dict[int, Judged]]]:
        """Sample continuations of prefixes; yield them by number, each prefix in one or more parts.

        wanted: prefix and number of each, those of a prefix one after the other.
        """
        draws = [
            _Draw(key, k, derive_seed("value", self._seed, key.prompt_id, key.digest, k))
            for key, k in wanted
        ]
        if not draws:
            return
        observer = self._engine.observer
        with phase(observer, "values", total=len(draws), unit="continuations") as advance:
            watched = _Inner(observer, advance)
            for part in self._slices(draws):
                yield from self._draw(part, prefixes, observer=watched)

    def known(self, key: Key, *, count: int) -> list[float]:
        """Return the rewards of the first `count` continuations of a prefix; NaN: unscored."""
        return [self._known[key][k] for k in range(count)]

    def _slices(self, draws: Sequence[_Draw]) -> Iterator[Sequence[_Draw]]:
        limit = self._engine.settings.rollout.max_completion_tokens
        size = max(1, min(_SLICE_ROWS, _SLICE_TOKENS // limit))
        for start in range(0, len(draws), size):
            yield draws[start : start + size]

    def _draw(
        self, part: Sequence[_Draw], prefixes: Mapping[Key, Prefix], *, observer: Observer
    ) -> list[tuple[Key, dict[int, Judged]]]:
        """Sample, judge and store a slice."""
        rounds = [(key, list(draws)) for key, draws in groupby(part, key=lambda draw: draw.key)]
        limit = self._engine.settings.rollout.max_completion_tokens
        own = [prefixes[key] for key, _ in rounds]
        drawn = self._engine.complete(
            [each.group.ids(each.row, each.at) for each in own],
            seeds=[[draw.seed for draw in draws] for _, draws in rounds],
            max_total_tokens=limit + max(len(each.group.group.prompt_ids) for each in own),
            observer=observer,
        )
        groups = [
            Group(
                each.group.group.prompt,
                each.group.group.prompt_ids,
                tuple(self._whole(each, continuation) for continuation in continuations),
            )
            for each, continuations in zip(own, drawn, strict=True)
        ]
        results = []
        for (key, draws), group, rewards in zip(
            rounds, groups, self._engine.rewards(groups), strict=True
        ):
            wholes = zip(draws, group.completions, rewards, strict=True)
            judged = {draw.k: Judged(whole.token_ids, reward) for draw, whole, reward in wholes}
            results.append((key, judged))
        if self._store is not None:
            for key, found in results:
                rewards_of = {k: each.reward for k, each in found.items()}
                self._store.add(key, rewards_of, seed=self._seed)
            self._store.flush()
        return results

    def _whole(self, prefix: Prefix, drawn: Completion) -> Completion:
        """Return a prefix and its continuation as the completion that sampling would have made.

        A stop string may begin in the prefix, and no completion is longer than another.
        """
        engine, first = self._engine, prefix.group.group.completions[prefix.row]
        room = engine.settings.rollout.max_completion_tokens - prefix.at
        ids = (*first.token_ids[: prefix.at], *drawn.token_ids[:room])
        reason: FinishReason = drawn.finish_reason if len(drawn.token_ids) <= room else "length"
        end = None if self._strings is None else self._strings.end(ids, start=prefix.at)
        if end is not None:
            ids, reason = ids[:end], "stop"
        at_end = ids[-1] in engine.subject.stop_ids
        return Completion(
            token_ids=ids,
            sampling_logprobs=(),
            text=engine.subject.decode(ids[:-1] if at_end else ids),
            finish_reason=reason,
            policy_version=drawn.policy_version,
            seed=drawn.seed,
            starts_in_thought=first.starts_in_thought,
        )


class _Inner:
    """Hears what a sampler tells; the progress of sampling is that of the continuations."""

    def __init__(self, observer: Observer, advance: Advance) -> None:
        self._observer = observer
        self._advance = advance
        self._done: dict[int, int] = {}

    def on(self, event: Event) -> None:
        """See Observer."""
        if not isinstance(event, Progress) or event.name != "sampling":
            self._observer.on(event)
            return
        new = event.done - self._done.get(event.key, 0)
        self._done[event.key] = event.done
        if new:
            self._advance(new)
