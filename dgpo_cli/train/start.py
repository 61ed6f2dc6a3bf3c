"""Assembles a run: its parts from the settings, its state from a checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from dgpo_cli.config.dump import dump_toml
from dgpo_cli.config.foreign import template_owner
from dgpo_cli.core import io
from dgpo_cli.core.events import Ended, Observer, Observers, tell
from dgpo_cli.core.formats import Position
from dgpo_cli.core.own_code import own_code_of
from dgpo_cli.core.schema import Change
from dgpo_cli.diagnosis.stored_run import Watch
from dgpo_cli.engine.checkpoint import load_state
from dgpo_cli.engine.engine import Engine
from dgpo_cli.engine.follow import BUILD
from dgpo_cli.engine.setup import training_engine
from dgpo_cli.parallel.ranks import Ranks
from dgpo_cli.policy.quantization import packed_count
from dgpo_cli.rewards.grader import check_columns, check_own
from dgpo_cli.runs.history import record_changes
from dgpo_cli.runs.run_folder import RunFolder
from dgpo_cli.train.collect import starting_collector
from dgpo_cli.train.data import open_training_prompts
from dgpo_cli.train.prefetch import starting_pipeline
from dgpo_cli.train.resume import Standing
from dgpo_cli.train.state import TrainingRun
from dgpo_cli.train.tracking import Tracking
from dgpo_cli.train.train_eval import RunEvaluations


@contextmanager
def started(
    standing: Standing,
    *,
    folder: RunFolder,
    checkpoint: Path | None,
    ranks: Ranks,
    observers: Observers,
) -> Iterator[TrainingRun]:
    """Open a run at its start or at a checkpoint; report how it ended.

    ranks: this one leads.
    """
    settings = standing.resolved.settings
    evaluations = None
    told = check_own(settings.reward, observer=observers)
    if settings.eval.every:  # its benchmark is loaded before anything large
        evaluations = RunEvaluations(standing.resolved, folder=folder, observer=observers)
    with ranks.call(BUILD, settings, checkpoint):
        engine = training_engine(
            settings,
            checkpoint=checkpoint,
            ranks=ranks,
            reward_log=folder.reward_log,
            observer=observers,
        )
    prompts = open_training_prompts(
        settings, prompt_length=engine.prompt_length, observer=observers
    )
    check_columns(prompts.prompts or prompts.take(Position(), count=1), told=told)
    found = standing.found
    collector = starting_collector(engine, prompts, checkpoint=checkpoint, found=found)
    run = TrainingRun(
        engine,
        folder=folder,
        collector=collector,
        batches=starting_pipeline(engine, collector, checkpoint=checkpoint, found=found),
        evaluations=evaluations,
        observer=observers,
    )
    _restore(run, standing=standing, checkpoint=checkpoint)
    # The engine ends before the batches: what is being scored for the next one ends with it.
    with run.batches, engine, evaluations or nullcontext(), run.interrupt, _end_of(observers):
        owner = template_owner(standing.resolved)
        watch = Watch(settings, folder=folder, template_owner=owner, observer=observers)
        observers.add(watch)
        observers.add(Tracking(standing.resolved, folder=folder, step=run.step, observer=observers))
        yield run


def _restore(run: TrainingRun, *, standing: Standing, checkpoint: Path | None) -> None:
    """Restore the state of a checkpoint, and write the files that a run starts with."""
    engine, folder, found = run.engine, run.folder, standing.found
    _describe(engine, observer=run.observer)
    if checkpoint is not None:
        state = load_state(checkpoint)
        run.step, run.bad_streak = state.step, state.bad_streak
        engine.resume(checkpoint, policy_version=state.policy_version)
        if not any(each.learnt and each.setting.startswith("model.") for each in found):
            engine.noise_floor = state.noise_floor  # else measured again
        tell(run.observer, f"resumed from {checkpoint} at step {state.step}")
    # An evaluation before the first step counts only under the settings that it was made with.
    restarts = checkpoint is None and any(each.change != Change.FREE for each in found)
    for note in folder.forget_after(-1 if restarts else run.step):
        tell(run.observer, note)
    # Nothing else deletes them if no checkpoint is left to write.
    folder.prune_checkpoints(keep=run.settings.train.keep_checkpoints)
    record_changes(folder.path, step=run.step, found=found, resolved=standing.resolved)
    io.write(
        folder.settings_file,
        dump_toml(standing.resolved, code=own_code_of(standing.resolved.settings)),
    )
    shutil.rmtree(folder.tokenizer_dir, ignore_errors=True)
    with io.atomic_folder(folder.tokenizer_dir) as target:
        engine.policy.tokenizer.save_pretrained(str(target))


def _describe(engine: Engine, *, observer: Observer) -> None:
    """Note the number of parameters and the device."""
    policy = engine.policy
    counts, packed = policy.parameter_counts(), packed_count(policy.model)
    in_4_bits = f" ({packed:,} in 4 bits)" if packed else ""
    tell(
        observer,
        f"{engine.settings.model.path}: {counts['held']:,} parameters held{in_4_bits}, "
        f"{counts['trained']:,} trained, on {policy.device}",
    )


@contextmanager
def _end_of(observer: Observer) -> Iterator[None]:
    """Report how the body ended, however it did."""
    try:
        yield
    except BaseException as error:
        observer.on(Ended("failed" if isinstance(error, Exception) else "stopped"))
        raise
    observer.on(Ended("done"))
