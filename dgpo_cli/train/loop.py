"""The training loop, from top to bottom.

A step samples, scores, makes a batch, updates, syncs the sampler, records, checkpoints and
evaluates. What is written here (metrics, rollouts, checkpoints, evaluations) is the run: if it
cannot be written, the run ends. It is written in this order so that a checkpoint never relies on a
line that is missing. Everybody else is an observer: it may fail, and the run continues.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from dgpo_cli.core.events import Sampled, StepDone

if TYPE_CHECKING:
    from dgpo_cli.train.state import TrainingRun


def train(run: TrainingRun) -> None:
    """Take the remaining steps, until done or interrupted.

    The weights are evaluated before the first step, and after a step once its checkpoint, if it
    has one, is written.

    Raises:
        NonFiniteError: three steps in a row were not finite.
        KeyboardInterrupt, SystemExit: the user interrupted; what is trained is in a checkpoint.
    """
    engine, folder, settings = run.engine, run.folder, run.settings.train
    run.evaluate()
    while run.step < settings.steps:
        number, started, cpu = run.step + 1, time.perf_counter(), time.process_time()

        # Sample and score. With rollout.overlap this batch is prefetched, and the next one begins.
        with run.checkpoint_on_failure():
            drawn = run.batches.begin(number)
        run.observer.on(Sampled(number, tuple(drawn.sampled)))
        run.note_rewards(number, drawn.sampled)

        # Make a batch: statistics and credit of every token, and the gradient of a first update.
        # Rollouts that are written include the distance of every completion.
        shown = number in (1, settings.steps) or number % settings.rollouts_every == 0
        noise = engine.measure_noise(drawn.groups, number=number)
        batch = engine.make_batch(
            drawn.groups, every_distance=shown, old=drawn.old, moves=drawn.moves
        )
        run.show_credit(number, drawn.groups, batch)
        metrics = engine.metrics(drawn.groups, batch=batch, sampled=drawn.sampled)
        metrics |= drawn.metrics | noise

        # Update.
        metrics |= engine.update(batch, step=run.step)
        run.note_credit(number, metrics)
        run.finish_step(metrics, drawn.groups, batch, shown=shown)

        # Sync the sampler.
        with run.checkpoint_on_failure(metrics):
            metrics |= run.batches.end()

        # Record.
        metrics |= engine.take_times() | engine.take_continued()
        metrics["time/step_s"] = time.perf_counter() - started
        metrics["time/cpu_s"] = time.process_time() - cpu
        metrics["throughput/tokens_per_s"] = metrics["completion/tokens"] / metrics["time/step_s"]
        folder.write_metrics(number, metrics)
        run.observer.on(StepDone(number, metrics))
        run.end_after_bad_steps()

        # Checkpoint.
        run.look_after_checkpoint()
        if number % settings.checkpoint_every == 0 or number == settings.steps:
            run.checkpoint()
        if run.interrupt.requested and number < settings.steps:
            run.stop(f"at step {number}")

        # Evaluate.
        run.evaluate()
    run.complete_checkpoint()
