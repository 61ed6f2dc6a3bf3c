"""One sampler over all ranks: every rank that can sample takes parts of a round as it has room.

The leader sends a round to all and gathers their completions, on a channel of its own: followers
serve it in a thread, so that a round may be drawn while the policy trains. Who draws a completion
does not change it.
"""

from __future__ import annotations

import math
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Literal

from dgpo_cli.core.events import NOBODY, Observer, phase
from dgpo_cli.core.types import Advance, Completion
from dgpo_cli.samplers.base import Row, Share, in_order
from dgpo_cli.samplers.lockstep import Failure, patiently

if TYPE_CHECKING:
    from dgpo_cli.parallel.ranks import Ranks
    from dgpo_cli.samplers.base import SamplingParams, SharedRemoteSampler, SharedSampler
    from dgpo_cli.samplers.lockstep import Lockstep

# Calls of the leader.
SYNC, PREPARE, REST = "sync the sampler", "prepare the sampler", "let the sampler rest"
_END_S = 5.0  # that the last word may take to all ranks
_GONE = (RuntimeError, ValueError)  # of an exchange: another rank is gone, or this one closes
_Word = Literal["cancel", "wait no more"]


@dataclass(frozen=True, slots=True)
class _Round:
    """What `Sampler.sample` is asked for, under a name of its own."""

    name: str
    prompts: Sequence[Sequence[int]]
    seeds: Sequence[Sequence[int]]
    params: SamplingParams

    @property
    def rows(self) -> int:
        return sum(map(len, self.seeds))


@dataclass(frozen=True, slots=True)
class _Drawn:
    """What a rank has drawn of a round."""

    found: Mapping[Row, Completion]
    failure: Failure | None = None


class RankedSampler:
    """Draws each round on all ranks that have a sampler. Only the leader samples through it."""

    def __init__(
        self,
        own: SharedSampler | None,
        *,
        ranks: Ranks,
        among: int,
        while_drawing: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """Open the channel. Every rank does it, in the same order.

        Args:
            own: this rank's; None: others sample.
            among: number of ranks that have one.
            while_drawing: a context for drawing, which every rank enters once a round.
        """
        self._own = own
        self._ranks = ranks
        self._among = among
        self._while_drawing = while_drawing
        self._rounds = ranks.channel()
        self._run, self._count = secrets.token_hex(4), 0
        self._drawing = False
        self._server: threading.Thread | None = None
        if not ranks.leads:
            self._server = threading.Thread(target=self._serve, name="dgpo-sampling", daemon=True)
            self._server.start()

    def calls(self) -> dict[str, Callable[..., object]]:
        """Return what a follower runs when the leader calls it, by name."""
        return {SYNC: self._sync}

    def sync(self, *, policy_version: int) -> None:
        """See Sampler.sync."""
        with self._ranks.call(SYNC, policy_version):
            self._sync(policy_version)

    def _sync(self, policy_version: int) -> Exception | None:
        if self._own is not None:
            self._own.sync(policy_version=policy_version)
        return None

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        seeds: Sequence[Sequence[int]],
        params: SamplingParams,
        observer: Observer,
    ) -> list[tuple[Completion, ...]]:
        """See Sampler.sample.

        Raises:
            BackendError: a rank failed; it names the rank.
        """
        order = self._order(prompts)
        name = f"{self._run}/{self._count}"
        asked = _Round(name, [prompts[i] for i in order], [seeds[i] for i in order], params)
        self._count += 1
        with phase(observer, "sampling", total=asked.rows, unit="completions") as advance:
            tally = _Tally(self._ranks.counter(f"sampled/{asked.name}"), advance)
            merged = self._gathered(asked, advance=tally.add)
            tally.end(asked.rows)
        self._note(asked, merged)
        completions = in_order(merged, seeds=asked.seeds)
        place = {i: at for at, i in enumerate(order)}
        return [completions[place[i]] for i in range(len(prompts))]

    def close(self) -> None:
        """End the followers' threads, unless a round is broken off: then this process ends.

        A follower waits a while for the end of its own.
        """
        if self._server is not None:
            self._server.join(_END_S)
        elif not self._drawing:
            with suppress(RuntimeError):  # a rank is gone
                self._rounds.send(None)

    def _gathered(self, asked: _Round, *, advance: Advance) -> dict[Row, Completion]:
        """Draw a round with all ranks. Raises the leader's error, or else that of the first."""
        self._drawing = True
        self._rounds.send(asked)
        found, error = self._drawn(asked, advance=advance)
        everyone = patiently(lambda: self._rounds.gather(_Drawn(found)))
        self._drawing = False
        if error is not None:
            raise error
        merged: dict[Row, Completion] = {}
        for each in everyone or ():
            if each.failure is not None:
                raise each.failure.error()
            merged.update(each.found)
        return merged

    def _order(self, prompts: Sequence[Sequence[int]]) -> list[int]:
        """Return the order in which prompts are taken."""
        return list(range(len(prompts)))

    def _note(self, asked: _Round, found: Mapping[Row, Completion]) -> None:
        """Learn from a finished round."""

    def _serve(self) -> None:
        """Draw for every round that the leader sends."""
        with suppress(*_GONE):  # this process ends soon
            while (asked := self._rounds.receive()) is not None:
                tally = _Tally(self._ranks.counter(f"sampled/{asked.name}"), lambda count: None)
                found, error = self._drawn(asked, advance=tally.add)
                failure = None if error is None else Failure.of(error, rank=self._ranks.number)
                self._rounds.gather(_Drawn(found, failure))

    def _drawn(
        self, asked: _Round, *, advance: Advance
    ) -> tuple[Mapping[Row, Completion], Exception | None]:
        try:
            return self._draw(asked, advance=advance), None
        except Exception as error:
            return {}, error

    def _draw(self, asked: _Round, *, advance: Advance) -> Mapping[Row, Completion]:
        """Draw this rank's share. If that fails, nobody takes another part."""
        take = self._ranks.counter(f"sampling/{asked.name}")
        try:
            with self._while_drawing():
                if self._own is None:
                    return {}
                return self._own.draw(
                    asked.prompts,
                    seeds=asked.seeds,
                    params=asked.params,
                    advance=advance,
                    share=Share(take, self._among),
                )
        except Exception:
            while take() < asked.rows:  # a part has a row at least
                pass
            raise


class RankedRemoteSampler(RankedSampler):
    """The same over samplers with weights of their own. See RemoteSampler.

    What the leader's signal handlers say reaches the other ranks through a channel and thread of
    its own.
    """

    def __init__(
        self, own: SharedRemoteSampler | None, *, ranks: Ranks, among: int, lockstep: Lockstep
    ) -> None:
        """lockstep: the weights of `own`."""
        super().__init__(own, ranks=ranks, among=among)
        self._remote = own
        self._lockstep = lockstep
        self._prepared = self._awake = False
        self._lengths: dict[int, float] = {}  # mean of the completions of each prompt, by its hash
        self._words = ranks.channel()
        self._said: SimpleQueue[_Word | None] = SimpleQueue()
        work = self._speak if ranks.leads else self._listen
        self._speaker = threading.Thread(target=work, name="dgpo-words", daemon=True)
        self._speaker.start()

    def calls(self) -> dict[str, Callable[..., object]]:
        """See RankedSampler.calls."""
        return {SYNC: self._sync, PREPARE: self._prepare, REST: self._rest}

    def prepare(self, observer: Observer) -> None:
        """See RemoteSampler.prepare.

        Raises:
            BackendError: a rank failed; it names the rank.
        """
        if self._awake:
            return
        with self._ranks.call(PREPARE):
            error = self._prepare(observer)
        if error is not None:
            raise error
        self._prepared = self._awake = True

    def sync(self, *, policy_version: int) -> None:
        """See Sampler.sync.

        Raises:
            BackendError: a rank failed; it names the rank.
        """
        with self._ranks.call(SYNC, policy_version):
            error = self._sync(policy_version)
        if error is not None:
            raise error
        self._awake = self._prepared

    def rest(self) -> None:
        """See RemoteSampler.rest, on all ranks.

        Raises:
            BackendError: a rank failed; it names the rank.
        """
        if self._remote is None or not (self._remote.sleeps and self._awake):
            return
        self._awake = False
        with self._ranks.call(REST):
            error = self._rest()
        if error is not None:
            raise error

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        seeds: Sequence[Sequence[int]],
        params: SamplingParams,
        observer: Observer,
    ) -> list[tuple[Completion, ...]]:
        """See Sampler.sample. In another thread than the loop's, after `prepare`."""
        self.prepare(observer)
        return super().sample(prompts, seeds=seeds, params=params, observer=observer)

    def _prepare(self, observer: Observer = NOBODY) -> Exception | None:
        own = self._remote
        return self._lockstep.together(lambda: None if own is None else own.prepare(observer))

    def _sync(self, policy_version: int) -> Exception | None:
        own = self._remote
        return self._lockstep.together(
            lambda: None if own is None else own.sync(policy_version=policy_version)
        )

    def _rest(self) -> Exception | None:
        own = self._remote
        return self._lockstep.together(lambda: None if own is None else own.rest())

    def wait_no_more(self) -> None:
        """See RemoteSampler.wait_no_more, on all ranks."""
        self._tell("wait no more")

    def cancel(self) -> None:
        """See RemoteSampler.cancel, on all ranks."""
        self._tell("cancel")

    def close(self) -> None:
        """See RankedSampler.close."""
        super().close()
        if self._ranks.leads:
            self._said.put(None)
        self._speaker.join(_END_S)

    def _tell(self, word: _Word) -> None:
        self._hear(word)
        self._said.put(word)  # a signal handler may do this

    def _hear(self, word: _Word) -> None:
        if self._remote is None:
            return
        if word == "cancel":
            self._remote.cancel()
        else:
            self._remote.wait_no_more()

    def _speak(self) -> None:
        with suppress(*_GONE):  # this process ends soon
            while True:
                word = self._said.get()
                self._words.send(word)
                if word is None:
                    return

    def _listen(self) -> None:
        with suppress(*_GONE):
            while (word := self._words.receive()) is not None:
                self._hear(word)

    def _order(self, prompts: Sequence[Sequence[int]]) -> list[int]:
        """Return the prompts of unknown length first, then those whose completions were longest:
        what is taken last is to end soon."""
        known = [self._lengths.get(hash(tuple(prompt)), math.inf) for prompt in prompts]
        return sorted(range(len(prompts)), key=lambda i: -known[i])

    def _note(self, asked: _Round, found: Mapping[Row, Completion]) -> None:
        for i, (prompt, own) in enumerate(zip(asked.prompts, asked.seeds, strict=True)):
            total = sum(len(found[i, j].token_ids) for j in range(len(own)))
            self._lengths[hash(tuple(prompt))] = total / max(len(own), 1)


class _Tally:
    """Counts the completions of all ranks, as far as this one has heard."""

    def __init__(self, count: Callable[[], int], advance: Advance) -> None:
        self._count, self._advance = count, advance
        self._told = 0

    def add(self, number: int) -> None:
        """Count some more of this rank's."""
        for _ in range(number):
            known = self._count() + 1
        if number:
            self.end(known)

    def end(self, known: int) -> None:
        """Tell that so many are done."""
        if known > self._told:
            self._advance(known - self._told)
            self._told = known
