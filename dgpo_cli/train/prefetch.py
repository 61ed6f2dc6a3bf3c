"""The batches of a run, one a step; with rollout.overlap the next one is prefetched in a thread.

Let v(k) be the weights after k steps. In step k, on batch k:

    sampler    batch k+1 by v(k-1) ............................ | weights
    trainer    old_logprobs of batch k by v(k-2), update to v(k) | v(k) to the sampler

The sampler gets weights only between two steps, when nothing is being sampled: all tokens of a
batch are of one version. Step 1 waits for its batch; nothing is drawn beyond the last step.

The ratio's old_logprobs are the trainer's own under the weights that sampled, as without prefetch.
Those weights have moved on when the batch is complete, so a copy of their trained part (megabytes
for an adapter) is swapped in for one forward pass at the start of the batch's own step, while the
next one is sampled. The sampler's log-probabilities would save that pass, but the loss would clip
their rounding as if it were learning. This way off_policy corrects for the sampler and the ratio
for the step in between, each once.

With dynamic sampling the pending groups are measured before the next draw, which starts with them;
they are two steps old when they are trained on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from dgpo_cli.core.codec import encoded, filled
from dgpo_cli.core.errors import CheckpointError
from dgpo_cli.core.events import Observer, tell
from dgpo_cli.core.formats import PREFETCHED, Position, PrefetchedBatch
from dgpo_cli.engine.checkpoint import load_state
from dgpo_cli.engine.engine import Measured
from dgpo_cli.runs.pending import PREFETCHED_FILE, read_optional
from dgpo_cli.samplers.base import RemoteSampler
from dgpo_cli.train.collect import Collected, is_stale

if TYPE_CHECKING:
    from dgpo_cli.config.changes import SettingDifference
    from dgpo_cli.core.types import StepMetrics
    from dgpo_cli.engine.engine import Engine
    from dgpo_cli.train.collect import Collector

_POLL_S = 0.5  # how soon Ctrl-C is noticed
_END_S = 10.0  # that a thread may take to end when the run does


@dataclass(frozen=True, slots=True)
class Prefetched:
    """The prefetched batch of step `number` (from 1).

    version: optimiser updates that the sampling weights had seen.
    before: the position in the prompts before it was drawn.
    group_size, temperature: under which it was sampled; a step under others cannot use it.
    measured: whether every completion has its old_logprobs that needs them.
    """

    number: int
    version: int
    before: Position
    group_size: int
    temperature: float
    found: Collected
    measured: bool


def prefetched_text(batch: Prefetched) -> str:
    """Write a measured batch as JSON, exactly; a number that is not finite comes back as NaN.

    The weights that sampled it are gone when a run resumes, so it cannot be drawn again.
    """
    assert batch.measured
    found = batch.found
    stored = filled(
        PrefetchedBatch,
        batch,
        groups=tuple(found.groups),
        old_logprobs=tuple(found.old.logprobs),
        kept=tuple(found.old.kept),
        sampled=None if found.sampled is found.groups else tuple(found.sampled),
        metrics=found.metrics,
    )
    return encoded(PREFETCHED.dump(stored)) + "\n"


def read_prefetched(checkpoint: Path) -> Prefetched | None:
    """Read the prefetched batch of a checkpoint; it may have none.

    Raises:
        CheckpointError: the file is broken, of another format or of another step.
    """
    path = checkpoint / PREFETCHED_FILE
    stored = read_optional(path, PREFETCHED)
    if stored is None:
        return None
    if stored.number != load_state(checkpoint).step + 1:
        raise CheckpointError(f"{path}: cannot be read: is of step {stored.number}")
    groups = list(stored.groups)
    found = Collected(
        groups=groups,
        old=Measured(list(stored.old_logprobs), list(stored.kept)),
        sampled=groups if stored.sampled is None else list(stored.sampled),
        metrics=stored.metrics,
    )
    return filled(Prefetched, stored, found=found, measured=True)


class Pipeline:
    """The batches of a run, in order; as a context it ends the draw in progress.

    For each step: `begin`, then the update of the engine without its sync, then `end`. Between
    two steps nothing is being sampled, so the sampler can be used for something else.
    """

    def __init__(
        self,
        engine: Engine,
        collector: Collector,
        *,
        sampler: RemoteSampler | None,
        total: int,
        prefetched: Prefetched | None = None,
        stale: bool = False,
        observer: Observer,
    ) -> None:
        """
        Args:
            sampler: the engine's, to prefetch with; None: nothing is prefetched.
            total: steps of the run.
            prefetched: the batch that a checkpoint kept for the next step.
            stale: whether it was sampled or judged under other settings.
        """
        self._engine = engine
        self._collector = collector
        self._sampler = sampler
        self._total = total
        self._draw: _Draw | None = None
        self._waited_s = 0.0
        self._prefetched = self._checked(prefetched, stale=stale, observer=observer)

    def begin(self, number: int) -> Collected:
        """Return the groups of step `number` (from 1) and start sampling those of the next."""
        if self._prefetched is None:
            if self._sampler is None:
                return self._collector.collect(number)
            self._launch(number)
            self._meet()
        self._measure(batch=False)  # the next draw begins with the pending groups
        if self._sampler is not None and number < self._total:
            self._launch(number + 1)
        found = self._measure(pending=False).found
        self._prefetched = None
        if self._draw is not None:
            self._engine.keep_weights()  # of that draw, before the update moves them
        return found

    def end(self) -> StepMetrics:
        """Wait for the draw in progress and hand the sampler the new weights."""
        self._meet()
        self._engine.sync()
        if self._sampler is None:
            return {}
        waited, self._waited_s = self._waited_s, 0.0
        # Of the draw that ended in this step; the last step has none.
        return {"time/sample_s": 0.0, "time/score_s": 0.0, "time/wait_s": waited}

    def texts(self) -> dict[str, str]:
        """Return the files of a checkpoint between two steps, by name."""
        assert self._draw is None
        if self._prefetched is None:
            return self._collector.texts()
        batch = prefetched_text(self._measure())  # first: it measures pending groups, too
        return {**self._collector.texts(), PREFETCHED_FILE: batch}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._draw is not None and self._sampler is not None:
            self._sampler.cancel()
            self._draw.wait(_END_S)

    def _launch(self, number: int) -> None:
        assert self._draw is None and self._sampler is not None
        with self._clock():
            self._sampler.prepare(self._engine.observer)
        self._draw = _Draw(self._engine, self._collector, number=number)

    def _meet(self) -> None:
        """Wait for the draw in progress, if any. Raises what it raised."""
        if self._draw is None:
            return
        with self._clock():
            while not self._draw.wait(_POLL_S):
                pass
        draw, self._draw = self._draw, None
        self._prefetched = draw.result()

    @contextmanager
    def _clock(self) -> Iterator[None]:
        """Count the time inside as waited."""
        since = time.perf_counter()
        try:
            yield
        finally:
            self._waited_s += time.perf_counter() - since

    def _measure(self, *, batch: bool = True, pending: bool = True) -> Prefetched:
        """Measure the prefetched batch and the pending groups under the weights that sampled them.

        While those are still the policy's, the batch needs no pass: its first update measures it.

        pending: False while the next batch is drawn: that draw has the pending groups.
        """
        assert self._prefetched is not None
        if self._prefetched.measured:
            return self._prefetched
        if self._prefetched.version == self._engine.policy_version:
            self._collector.measure()
            self._prefetched = replace(self._prefetched, measured=True)
            return self._prefetched
        pending = pending and bool(self._collector.unmeasured)
        if not (batch or pending):
            return self._prefetched
        with self._engine.kept_weights():
            if pending:
                self._collector.measure()
            if batch:
                self._prefetched = self._with_logprobs(self._prefetched)
        return self._prefetched

    def _with_logprobs(self, batch: Prefetched) -> Prefetched:
        found = batch.found
        # Pending groups come first and have theirs.
        fresh = self._engine.logprobs(found.groups[len(found.old.logprobs) // batch.group_size :])
        old = Measured(found.old.logprobs + fresh.logprobs, found.old.kept + fresh.kept)
        return replace(batch, found=replace(found, old=old), measured=True)

    def _checked(
        self, batch: Prefetched | None, *, stale: bool, observer: Observer
    ) -> Prefetched | None:
        """Return a checkpoint's batch, unless it was sampled or judged under other settings."""
        rollout = self._engine.settings.rollout
        now = (rollout.group_size, rollout.temperature)
        if batch is None or (not stale and (batch.group_size, batch.temperature) == now):
            return batch
        tell(
            observer,
            f"{len(batch.found.groups)} prefetched groups are dropped, their prompts are drawn "
            "again: they were sampled with the old settings",
        )
        self._collector.rewind(batch.before)
        return None


def starting_pipeline(
    engine: Engine,
    collector: Collector,
    *,
    checkpoint: Path | None,
    found: Sequence[SettingDifference],
) -> Pipeline:
    """Return the pipeline of a new run, or of one that resumes from a checkpoint.

    found: how the settings differ from those that the checkpoint was written under.

    Raises:
        CheckpointError: the checkpoint cannot be read.
    """
    sampler = None
    if engine.settings.rollout.overlap:
        assert isinstance(engine.sampler, RemoteSampler)
        sampler = engine.sampler
    return Pipeline(
        engine,
        collector,
        sampler=sampler,
        total=engine.settings.train.steps,
        prefetched=None if checkpoint is None else read_prefetched(checkpoint),
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
        # A daemon: an interrupted process does not wait for the samples.
        self._thread = threading.Thread(target=self._run, name="dgpo-sampling", daemon=True)
        self._thread.start()

    def wait(self, timeout_s: float) -> bool:
        """Wait for the end; return whether it came."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def result(self) -> Prefetched:
        """Return the drawn batch. Raises what the thread raised."""
        if self._error is not None:
            raise self._error
        assert self._found is not None
        group_size, temperature = self._of
        return Prefetched(
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
