"""Hands the training loop the batch of each step and, with rollout.overlap, samples the next one
meanwhile, in a thread of its own.

Let v(k) be the weights after k steps. In step k, on batch k:

    sampler    batch k+1 by v(k-1) ............................ | weights
    trainer    old_logprobs of batch k by v(k-2), update to v(k) | v(k) go over

The sampler gets weights only between two steps, when nothing is under way: all tokens of a batch
are of one version. Batch 1 is waited for; nothing is drawn beyond the last step.

The ratio's old_logprobs are the trainer's own under the weights that sampled, as without overlap.
Those weights have moved on by the time the batch is complete, so their trained part is kept (for
an adapter a few megabytes) and put back for one forward pass at the start of the batch's own step,
beside the sampling of the next. The sampler's log-probabilities would save that pass, but their
rounding would then be clipped as if it were learning, and nobody could tell the two apart. This
way off_policy corrects for the sampler and the ratio for the step in between, each once.

With dynamic sampling the groups that are kept over are measured before the next draw begins, which
builds on them; they are two steps old when they are trained on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Self

from dgpo_cli.core.events import Observer, tell
from dgpo_cli.runs.carried import WAITING_FILE
from dgpo_cli.samplers.base import RemoteSampler
from dgpo_cli.train.collect import is_stale
from dgpo_cli.train.waiting import Waiting, read_waiting, waiting_text

if TYPE_CHECKING:
    from pathlib import Path

    from dgpo_cli.config.changes import Difference
    from dgpo_cli.core.types import StepMetrics
    from dgpo_cli.engine.engine import Engine
    from dgpo_cli.train.collect import Collected, Collector
    from dgpo_cli.train.snapshot import Snapshot

_POLL_S = 0.5  # how soon Ctrl-C is noticed
_END_S = 10.0  # that a thread may take to end when the run does


class Pipeline:
    """The batches of a run, in order; a context that ends what is under way.

    For each step: `begin`, then the update of the engine without its sync, then `end`. Between
    two steps nothing is under way, so that the sampler can be used for something else.
    """

    def __init__(
        self,
        engine: Engine,
        collector: Collector,
        *,
        sampler: RemoteSampler | None,
        total: int,
        waiting: Waiting | None = None,
        stale: bool = False,
        observer: Observer,
    ) -> None:
        """
        Args:
            sampler: the engine's, to sample ahead with; None: nothing is sampled ahead.
            total: steps of the run.
            waiting: the batch that a checkpoint kept for the next step.
            stale: whether that was sampled or judged under other settings.
        """
        self._engine = engine
        self._collector = collector
        self._sampler = sampler
        self._total = total
        self._draw: _Draw | None = None
        self._snapshot: Snapshot | None = None
        self._waited_s = 0.0
        self._waiting = self._checked(waiting, stale=stale, observer=observer)

    def begin(self, number: int) -> Collected:
        """Return the groups of step `number` (from 1) and begin to sample those of the next."""
        if self._waiting is None:
            if self._sampler is None:
                return self._collector.collect(number)
            self._launch(number)
            self._meet()
        self._measure(only_surplus=True)
        if self._sampler is not None and number < self._total:
            self._launch(number + 1)
        found = self._measure().found
        self._waiting = None
        if self._draw is not None:
            self._keep_weights()
        return found

    def end(self) -> StepMetrics:
        """Wait for what is being sampled and hand the sampler the new weights."""
        self._meet()
        self._engine.sync()
        if self._sampler is None:
            return {}
        waited, self._waited_s = self._waited_s, 0.0
        # Of the draw that has ended in this step; in the last there is none.
        return {"time/sample_s": 0.0, "time/score_s": 0.0, "time/wait_s": waited}

    def texts(self) -> dict[str, str]:
        """Return what a checkpoint between two steps keeps, by the name of the file."""
        assert self._draw is None
        waiting = {} if self._waiting is None else {WAITING_FILE: waiting_text(self._measure())}
        return self._collector.texts() | waiting

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._draw is not None and self._sampler is not None:
            self._sampler.cancel()
            self._draw.wait(_END_S)

    def _launch(self, number: int) -> None:
        assert self._draw is None and self._sampler is not None
        with self._clock():
            self._sampler.prepare(self._engine.observer)
        self._draw = _Draw(self._engine, self._collector, number=number)

    def _meet(self) -> None:
        """Wait for the draw that is under way, if any. Raises what it raised."""
        if self._draw is None:
            return
        with self._clock():
            while not self._draw.wait(_POLL_S):
                pass
        draw, self._draw = self._draw, None
        self._waiting = draw.result()

    @contextmanager
    def _clock(self) -> Iterator[None]:
        """Count the time inside as waited."""
        since = time.perf_counter()
        try:
            yield
        finally:
            self._waited_s += time.perf_counter() - since

    def _keep_weights(self) -> None:
        """Keep the weights that the draw under way is of, before the update moves them."""
        from dgpo_cli.train.snapshot import Snapshot

        if self._snapshot is None:
            self._snapshot = Snapshot(self._engine.policy)
        self._snapshot.take()

    def _measure(self, *, only_surplus: bool = False) -> Waiting:
        """Measure the waiting batch, and what is kept over, under the weights that sampled them.

        Where they are the policy's still, the batch needs no measuring: its first update does it.
        """
        assert self._waiting is not None
        if self._waiting.measured:
            return self._waiting
        if self._waiting.version == self._engine.policy_version:
            self._collector.measure()
            self._waiting = replace(self._waiting, measured=True)
            return self._waiting
        assert self._snapshot is not None
        if only_surplus and not self._collector.surplus:
            return self._waiting
        with self._snapshot.as_it_was():
            self._collector.measure()
            if not only_surplus:
                self._waiting = self._with_logprobs(self._waiting)
        return self._waiting

    def _with_logprobs(self, waiting: Waiting) -> Waiting:
        found = waiting.found
        # Groups that were kept over come first and have theirs.
        fresh = found.groups[len(found.old_logprobs) // waiting.group_size :]
        logprobs = [*found.old_logprobs, *self._engine.logprobs(fresh)]
        return replace(waiting, found=replace(found, old_logprobs=logprobs), measured=True)

    def _checked(
        self, waiting: Waiting | None, *, stale: bool, observer: Observer
    ) -> Waiting | None:
        """Return a checkpoint's batch, unless it was sampled or judged under other settings."""
        rollout = self._engine.settings.rollout
        now = (rollout.group_size, rollout.temperature)
        if waiting is None or (not stale and (waiting.group_size, waiting.temperature) == now):
            return waiting
        tell(
            observer,
            f"{len(waiting.found.groups)} groups that were sampled ahead are left out, their "
            "prompts are drawn again: they were sampled with the old settings",
        )
        self._collector.rewind(waiting.before)
        return None


def starting_pipeline(
    engine: Engine,
    collector: Collector,
    *,
    checkpoint: Path | None,
    found: Sequence[Difference],
) -> Pipeline:
    """Return the pipeline of a run at its start, or with what a checkpoint keeps for its next step.

    found: how the settings differ from those that the checkpoint was written under.

    Raises:
        CheckpointError: the checkpoint cannot be read.
    """
    ahead = None
    if engine.settings.rollout.overlap:
        assert isinstance(engine.sampler, RemoteSampler)
        ahead = engine.sampler
    return Pipeline(
        engine,
        collector,
        sampler=ahead,
        total=engine.settings.train.steps,
        waiting=None if checkpoint is None else read_waiting(checkpoint),
        stale=is_stale(found),
        observer=engine.observer,
    )


class _Draw:
    """One draw of the collector, in a thread."""

    def __init__(self, engine: Engine, collector: Collector, *, number: int) -> None:
        rollout = engine.settings.rollout
        self._collector = collector
        self._number = number
        self._version = engine.policy_version
        self._before = collector.position
        self._of = (rollout.group_size, rollout.temperature)
        self._found: Collected | None = None
        self._error: BaseException | None = None
        # A daemon: whoever interrupts the process does not wait for what is being sampled.
        self._thread = threading.Thread(target=self._run, name="dgpo-sampling", daemon=True)
        self._thread.start()

    def wait(self, timeout_s: float) -> bool:
        """Wait for the end; return whether it has come."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def result(self) -> Waiting:
        """Return what was drawn. Raises what the thread has raised."""
        if self._error is not None:
            raise self._error
        assert self._found is not None
        group_size, temperature = self._of
        return Waiting(
            number=self._number,
            version=self._version,
            before=self._before,
            group_size=group_size,
            temperature=temperature,
            found=self._found,
            measured=False,
        )

    def _run(self) -> None:
        try:
            self._found = self._collector.draw(self._number)
        except BaseException as error:  # everything: the main thread raises it
            self._error = error
