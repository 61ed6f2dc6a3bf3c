"""The training loop: sample, score, make_batch, step; then what a run leaves behind."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dgpo_cli.config.changes import Difference
from dgpo_cli.config.dump import dump_toml
from dgpo_cli.config.load import Resolved
from dgpo_cli.core import io
from dgpo_cli.core.errors import CalledOff, CheckpointError, DgpoError, NonFiniteError
from dgpo_cli.core.events import (
    Checkpointed,
    Diagnosed,
    Ended,
    Observer,
    Observers,
    Sampled,
    StepDone,
    tell,
)
from dgpo_cli.core.schema import Change
from dgpo_cli.core.types import Batch, ScoredGroup, StepMetrics
from dgpo_cli.diagnosis.health import CreditHealth, TauHealth
from dgpo_cli.diagnosis.stored_run import Watch
from dgpo_cli.engine.checkpoint import (
    load_state,
    load_trainer,
    save_checkpoint,
)
from dgpo_cli.engine.engine import Engine
from dgpo_cli.engine.optimizers import build_optimizer
from dgpo_cli.engine.setup import (
    make_sampler,
    seed_everything,
    set_threads,
)
from dgpo_cli.evals.request import Save
from dgpo_cli.policy.policy import load_policy
from dgpo_cli.rewards.grader import Grader
from dgpo_cli.runs.history import record_changes
from dgpo_cli.runs.rollouts import training_lines, write_lines
from dgpo_cli.runs.run_folder import RunFolder
from dgpo_cli.samplers.base import RemoteSampler
from dgpo_cli.train.collect import starting_collector
from dgpo_cli.train.data import open_training_prompts
from dgpo_cli.train.interrupt import Interrupt
from dgpo_cli.train.overlap import starting_pipeline
from dgpo_cli.train.resume import Resume, look, starting_point
from dgpo_cli.train.tracking import Tracking
from dgpo_cli.train.train_eval import RunEvaluations

MAX_BAD_STEPS = 3


@dataclass(frozen=True, slots=True)
class TrainResult:
    """Where the run ended. `first` and `last` are the metrics of its first and last step.

    trained: steps that were done now; 0 where all were done already.
    curve: the lines of its evaluations, oldest first.
    """

    out: Path
    steps: int
    trained: int
    checkpoint: Path
    first: StepMetrics
    last: StepMetrics
    curve: tuple[dict[str, Any], ...]


def run(
    resolved: Resolved,
    *,
    out: Path,
    resume: Resume,
    allow_change: bool = False,
    observer: Observer,
    save_eval: Save = lambda out, evaluation, card: None,
) -> TrainResult:
    """Train until `train.steps`, from the newest whole checkpoint of `out` if `resume` allows.

    Args:
        allow_change: go on with other settings than the run's even if they affect what is learnt;
            each change is recorded.
        save_eval: writes the report of an evaluation into its folder.

    Raises:
        RunFolderBusy: another process holds `out`.
        ConfigError: `out` holds a run and resume is "never", or another run than these settings'.
        CheckpointError: resume asks for a checkpoint that is not there, or none can be read.
        NonFiniteError: three steps in a row were not finite.
    """
    folder = RunFolder(out)
    observers = Observers([observer])
    # Before the lock nothing is written: what is refused, or done already, is left as it is.
    standing = look(
        folder, resolved=resolved, resume=resume, allow_change=allow_change, observer=observers
    )
    resolved, found = standing.resolved, standing.found
    if standing.done:
        return _result(folder, steps=resolved.settings.train.steps, trained=0)
    with folder.lock():
        checkpoint = starting_point(folder, resume=resume, found=found, observer=observers)
        evaluations = None
        if resolved.settings.eval.every:
            evaluations = RunEvaluations(
                resolved, folder=folder, save=save_eval, observer=observers
            )
        loop = _Loop(
            resolved, folder=folder, checkpoint=checkpoint, found=found, observer=observers
        )
        # The grader is closed before the pipeline: what is being scored ahead ends then.
        with (
            loop.pipeline,
            loop.grader,
            evaluations or nullcontext(),
            loop.interrupt() as interrupt,
            _telling_the_end(observers),
        ):
            observers.add(Tracking(resolved, folder=folder, step=loop.step, observer=observers))
            loop.run(interrupt=interrupt, evaluations=evaluations)
        return _result(folder, steps=loop.step, trained=loop.trained)


@contextmanager
def _telling_the_end(observer: Observer) -> Iterator[None]:
    """Tell how what is inside ended, however it did."""
    try:
        yield
    except BaseException as error:
        observer.on(Ended("failed" if isinstance(error, Exception) else "stopped"))
        raise
    observer.on(Ended("done"))


def _result(folder: RunFolder, *, steps: int, trained: int) -> TrainResult:
    lines = [
        {k: float("nan") if v is None else v for k, v in line.items()}
        for line in folder.read_metrics()
    ]
    return TrainResult(
        out=folder.path,
        steps=steps,
        trained=trained,
        checkpoint=folder.checkpoints()[-1],
        first=lines[0] if lines else {},
        last=lines[-1] if lines else {},
        curve=tuple(folder.read_evals()),
    )


class _Loop:
    """A run in progress."""

    def __init__(
        self,
        resolved: Resolved,
        *,
        folder: RunFolder,
        checkpoint: Path | None,
        found: Sequence[Difference],
        observer: Observer,
    ) -> None:
        settings = self.settings = resolved.settings
        self.folder = folder
        self.observer = observer
        set_threads(settings.train.threads)
        seed_everything(settings.seed)
        self.grader = Grader(settings.reward, observer=observer)
        policy = load_policy(
            settings.model,
            adapter=settings.adapter,
            seed=settings.seed,
            with_reference=settings.credit.needs_reference,
            checkpoint=checkpoint,
        )
        optim = settings.optim
        sampler = self.sampler = make_sampler(settings, policy=policy)
        self.engine = Engine(
            settings,
            policy=policy,
            sampler=sampler,
            grader=self.grader,
            optimizer=build_optimizer(
                policy,
                kind=optim.kind,
                lr=optim.lr,
                betas=(optim.beta1, optim.beta2),
                eps=optim.eps,
                weight_decay=optim.weight_decay,
            ),
            observer=observer,
        )
        prompts = open_training_prompts(
            settings,
            prompt_length=self.engine.prompt_length,
            observer=observer,
        )
        self.collector = starting_collector(
            self.engine, prompts, checkpoint=checkpoint, found=found, observer=observer
        )
        self.pipeline = starting_pipeline(
            self.engine,
            self.collector,
            sampler=sampler,
            checkpoint=checkpoint,
            found=found,
            observer=observer,
        )
        self.health = CreditHealth(), TauHealth(settings.credit)
        self.step = 0
        self.trained = 0
        self.bad_streak = 0
        self._begin(resolved, checkpoint=checkpoint, found=found)
        self.watch = Watch(settings, folder=folder)

    def _begin(
        self, resolved: Resolved, *, checkpoint: Path | None, found: Sequence[Difference]
    ) -> None:
        """Write what a run starts with, or take up the state of a checkpoint."""
        counts = self.engine.policy.parameter_counts()
        packed = self.engine.policy.packed_count()
        in_4_bits = f" ({packed:,} in 4 bits)" if packed else ""
        for note in self.engine.policy.notes:
            tell(self.observer, note)
        tell(
            self.observer,
            f"{self.settings.model.path}: {counts['held']:,} parameters held{in_4_bits}, "
            f"{counts['trained']:,} trained, on {self.engine.policy.device}",
        )
        if checkpoint is not None:
            assert self.engine.optimizer is not None
            state = load_state(checkpoint)
            load_trainer(checkpoint, optimizer=self.engine.optimizer)
            self.step, self.bad_streak = state.step, state.bad_streak
            self.engine.resume_at(policy_version=state.policy_version)
            if not any(each.learnt and each.setting.startswith("model.") for each in found):
                self.engine.noise_floor = state.noise_floor  # else measured again
            tell(self.observer, f"resumed from {checkpoint} at step {state.step}")
        # An evaluation of the weights at the start counts only if the settings are still its own.
        anew = checkpoint is None and any(each.change != Change.FREE for each in found)
        for note in self.folder.forget_after(-1 if anew else self.step):
            tell(self.observer, note)
        record_changes(self.folder.path, step=self.step, found=found, resolved=resolved)
        io.write(self.folder.settings_file, dump_toml(resolved))
        shutil.rmtree(self.folder.tokenizer_dir, ignore_errors=True)
        with io.atomic_folder(self.folder.tokenizer_dir) as folder:
            self.engine.policy.tokenizer.save_pretrained(str(folder))

    def interrupt(self) -> Interrupt:
        """Return what catches signals. From the first one on no server is waited for."""

        def wait_no_more() -> None:
            if isinstance(self.sampler, RemoteSampler):
                self.sampler.wait_no_more()

        return Interrupt(self.observer, at_once=self.stopped_at_once, on_first=wait_no_more)

    def run(self, *, interrupt: Interrupt, evaluations: RunEvaluations | None) -> None:
        """Run the steps that are left, or those until the user interrupts.

        The weights are evaluated before the first step, and after a step when its checkpoint, if
        there is one, is written.
        """
        try:
            self._run(interrupt=interrupt, evaluations=evaluations)
        except CalledOff:
            interrupt.end(self._stopped(f"while waiting for vLLM, after step {self.step}"))

    def _run(
        self,
        *,
        interrupt: Interrupt,
        evaluations: RunEvaluations | None,
    ) -> None:
        total = self.settings.train.steps
        self._evaluate(evaluations, interrupt=interrupt)
        while self.step < total:
            started = time.perf_counter()
            metrics = self._one_step()
            metrics |= self.engine.take_times()
            seconds = metrics["time/step_s"] = time.perf_counter() - started
            metrics["throughput/tokens_per_s"] = metrics["completion/tokens"] / seconds
            self.folder.write_metrics(self.step, metrics)
            self.observer.on(StepDone(self.step, metrics))
            for note in self.watch.add(self.step, metrics).notes:
                tell(self.observer, note)
            self.observer.on(Diagnosed(self.step, self.watch.current))
            if self.bad_streak >= MAX_BAD_STEPS:
                raise NonFiniteError(
                    f"loss or gradient was not finite in {MAX_BAD_STEPS} steps in a row, the last "
                    f"is step {self.step}; the weights were not touched by them. The batches are "
                    f"in {self.folder.bad_batches_dir}; a lower optim.lr is the usual cure"
                )
            due = self.step % self.settings.train.checkpoint_every == 0 or self.step == total
            if due or interrupt.requested:
                self._checkpoint()
            if interrupt.requested and self.step < total:
                interrupt.end(self._stopped(f"at step {self.step}"))
            self._evaluate(evaluations, interrupt=interrupt)

    def _evaluate(self, evaluations: RunEvaluations | None, *, interrupt: Interrupt) -> None:
        """Evaluate the weights if it is time to. An interrupt ends the run between two batches."""
        if evaluations is None or not evaluations.due(self.step):
            return
        with self._keeping_what_is_trained():
            evaluations.run(self.engine, step=self.step, should_stop=lambda: interrupt.requested)
        if interrupt.requested:
            if self.step > 0:
                self._checkpoint()
            interrupt.end(self._stopped(f"while evaluating after step {self.step}"))

    def stopped_at_once(self) -> str:
        """The last line of a run that was interrupted twice."""
        checkpoints = self.folder.checkpoints()
        goes_on = f"continues from {checkpoints[-1]}" if checkpoints else "starts anew"
        return f"stopped at once in step {self.step + 1}; the same command {goes_on}"

    def _stopped(self, where: str) -> str:
        """The last line of a run that was interrupted."""
        saved = f"checkpoint {self.folder.checkpoint_dir(self.step)}; " if self.step > 0 else ""
        return f"stopped {where}; {saved}the same command continues"

    def _one_step(self) -> StepMetrics:
        engine, number = self.engine, self.step + 1
        with self._keeping_what_is_trained():
            found = self.pipeline.begin(number)
        scored = found.groups
        self.observer.on(Sampled(number, tuple(found.sampled)))
        every = self.settings.train.rollouts_every
        kept = number == 1 or number % every == 0 or number == self.settings.train.steps
        noise = engine.measure_noise(scored, number=number)
        # What is written down is looked at: there the distance of every completion is wanted.
        batch = engine.make_batch(scored, every_distance=kept, carried=found.old_logprobs)
        metrics = engine.metrics(scored, batch=batch, sampled=found.sampled) | found.metrics | noise
        for health in self.health:
            if (said := health.line(metrics, noise_floor=engine.noise_floor)) is not None:
                tell(self.observer, f"step {number}: {said}")
        metrics |= engine.update(batch, step=self.step)
        if metrics["optim/skipped_nonfinite"]:
            self.bad_streak += 1
            self._keep_bad_batch(scored, batch)
        else:
            self.bad_streak = 0
        if kept:
            self._write_rollouts(self.folder.rollout_file(number), scored, batch)
        self.step += 1
        self.trained += 1
        with self._keeping_what_is_trained(metrics):
            return metrics | self.pipeline.end()

    @contextmanager
    def _keeping_what_is_trained(self, metrics: StepMetrics | None = None) -> Iterator[None]:
        """Write a checkpoint of the last step before a failure inside ends the run.

        What fails is sampling, scoring or handing over weights: the policy's are whole.

        metrics: of the last step, where they are not written down yet.
        """
        try:
            yield
        except DgpoError as failure:
            if metrics is not None:
                self.folder.write_metrics(self.step, metrics)
            if self.step > 0:
                try:
                    self._checkpoint()
                except CheckpointError as error:  # the first failure is the one to tell
                    tell(self.observer, str(error))
                else:
                    if isinstance(failure, CalledOff):
                        raise
                    saved = self.folder.checkpoint_dir(self.step)
                    tell(
                        self.observer,
                        f"trained up to step {self.step}; checkpoint {saved}; "
                        "the same command continues",
                    )
            raise

    def _write_rollouts(self, path: Path, scored: list[ScoredGroup], batch: Batch) -> None:
        lines = training_lines(
            scored,
            batch,
            temperature=self.settings.rollout.temperature,
            credit=self.settings.credit.model_dump(mode="json"),
            vocab_size=self.engine.policy.vocab_size,
        )
        write_lines(path, lines)

    def _keep_bad_batch(self, scored: list[ScoredGroup], batch: Batch) -> None:
        path = self.folder.bad_batches_dir / f"step-{self.step + 1:06d}.jsonl"
        self._write_rollouts(path, scored, batch)
        tell(
            self.observer,
            f"step {self.step + 1}: loss or gradient is not finite; the weights are as they were, "
            f"the batch is in {path}",
        )

    def _checkpoint(self) -> None:
        assert self.engine.optimizer is not None
        target = self.folder.checkpoint_dir(self.step)
        if not target.exists():
            self.folder.sync()
            save_checkpoint(
                target,
                policy=self.engine.policy,
                optimizer=self.engine.optimizer,
                state=self.collector.state(step=self.step, bad_streak=self.bad_streak),
                texts=self.pipeline.texts(),
            )
            self.observer.on(Checkpointed(self.step, target))
        self.folder.prune_checkpoints(keep=self.settings.train.keep_checkpoints)
