"""A run in progress: its parts, its progress, and what it saves before it ends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dgpo_cli.core.errors import CalledOff, CheckpointError, DgpoError, NonFiniteError
from dgpo_cli.core.events import Checkpointed, Credited, Observer, tell
from dgpo_cli.core.types import Batch, ScoredGroup, StepMetrics
from dgpo_cli.diagnosis.health import CreditHealth, RewardHealth, TauHealth
from dgpo_cli.engine.engine import Engine
from dgpo_cli.runs.rollouts import training_lines, write_lines
from dgpo_cli.runs.run_folder import RunFolder, step_of
from dgpo_cli.runs.token_texts import TokenTexts
from dgpo_cli.samplers.base import RemoteSampler
from dgpo_cli.train.collect import Collector
from dgpo_cli.train.interrupt import Interrupt
from dgpo_cli.train.prefetch import Pipeline
from dgpo_cli.train.train_eval import RunEvaluations

MAX_BAD_STEPS = 3


class TrainingRun:
    """The state of the loop. step: finished steps; trained: those of this process."""

    def __init__(
        self,
        engine: Engine,
        *,
        folder: RunFolder,
        batches: Pipeline,
        collector: Collector,
        evaluations: RunEvaluations | None,
        observer: Observer,
    ) -> None:
        self.engine, self.settings = engine, engine.settings
        self.folder, self.observer = folder, observer
        self.batches, self.evaluations = batches, evaluations
        self.interrupt = Interrupt(
            self, ranks=engine.ranks, stop_signal=self.settings.train.stop_signal
        )
        self.step = self.trained = 0
        self.bad_streak = 0
        self._begun: Path | None = None  # a checkpoint that may not be complete
        self._collector = collector
        self._health = CreditHealth(), TauHealth(self.settings.credit)
        self._rewards = RewardHealth()

    def wait_no_more(self) -> None:
        """Stop waiting for servers; a signal handler may call this."""
        if isinstance(self.engine.sampler, RemoteSampler):
            self.engine.sampler.wait_no_more()

    def note_rewards(self, number: int, groups: Sequence[ScoredGroup]) -> None:
        """Note once that the rewards of many completions of step `number` failed."""
        line = self._rewards.line(groups)
        if line is not None:
            tell(self.observer, f"step {number}: {line}")

    def note_credit(self, number: int, metrics: StepMetrics) -> None:
        """Note once that the credit of step `number` is GRPO's, or that its tau is limited."""
        for health in self._health:
            line = health.line(metrics, noise_floor=self.engine.noise_floor)
            if line is not None:
                tell(self.observer, f"step {number}: {line}")

    def show_credit(self, number: int, groups: Sequence[ScoredGroup], batch: Batch) -> None:
        """Let observers read the credit of each token of step `number`."""
        completions = [completion for group in groups for completion in group.completions]
        texts = TokenTexts.of_model(self.engine.policy.tokenizer)

        def tokens(row: int, most: int) -> tuple[tuple[str, float], ...]:
            ids = completions[row].token_ids
            weights = batch.credit.weights[row, : len(ids)].tolist()
            return tuple(zip(texts.texts(ids[-most:]), weights[-most:], strict=True))

        self.observer.on(Credited(number, tuple(groups), tokens))

    def finish_step(
        self, metrics: StepMetrics, groups: Sequence[ScoredGroup], batch: Batch, *, shown: bool
    ) -> None:
        """Count a trained step; write its rollouts if `shown`, or if it was not finite."""
        number = self.step + 1
        self.bad_streak = self.bad_streak + 1 if metrics["optim/skipped_nonfinite"] else 0
        if self.bad_streak:
            path = self.folder.bad_batches_dir / f"step-{number:06d}.jsonl"
            self._write_rollouts(path, groups, batch)
            tell(
                self.observer,
                f"step {number}: loss or gradient is not finite; the weights are unchanged, "
                f"the batch is in {path}",
            )
        if shown:
            self._write_rollouts(self.folder.rollout_file(number), groups, batch)
        self.step, self.trained = number, self.trained + 1

    def end_after_bad_steps(self) -> None:
        """Raise NonFiniteError after several steps in a row that were not finite."""
        if self.bad_streak >= MAX_BAD_STEPS:
            self.complete_checkpoint()
            raise NonFiniteError(
                f"loss or gradient was not finite in {MAX_BAD_STEPS} steps in a row, the last is "
                f"step {self.step}; they left the weights unchanged. The batches are in "
                f"{self.folder.bad_batches_dir}; a lower optim.lr is the usual fix"
            )

    def evaluate(self) -> None:
        """Evaluate the weights if it is due. An interrupt ends the run between two batches."""
        if self.evaluations is None or not self.evaluations.due(self.step):
            return
        with self.checkpoint_on_failure():
            self.evaluations.run(self.engine, step=self.step, interrupt=self.interrupt)
        if self.interrupt.requested:
            self.stop(f"while evaluating after step {self.step}")

    def checkpoint(self) -> None:
        """Write the checkpoint of the last step, if it is missing; that of a sharded model is
        only begun."""
        target = self.folder.checkpoint_dir(self.step)
        if target.exists():
            self._prune()
            return
        if target != self._begun:
            self.complete_checkpoint()
            self.folder.sync()
            self.engine.save(
                target,
                state=self._collector.state(step=self.step, bad_streak=self.bad_streak),
                texts=self.batches.texts(),
            )
            self._begun = target
        self.look_after_checkpoint()

    def look_after_checkpoint(self) -> None:
        """Report a begun checkpoint if it is complete by now."""
        if not self.engine.is_saving:
            self.complete_checkpoint()

    def complete_checkpoint(self) -> None:
        """Wait until a begun checkpoint, if there is one, is complete; then delete old ones."""
        begun, self._begun = self._begun, None
        if begun is not None:
            self.engine.finish_saving()
            self.observer.on(Checkpointed(step_of(begun), begun))
            self._prune()

    def _prune(self) -> None:
        self.folder.prune_checkpoints(keep=self.settings.train.keep_checkpoints)

    @contextmanager
    def checkpoint_on_failure(self, metrics: StepMetrics | None = None) -> Iterator[None]:
        """Write a checkpoint of the last step before a failure inside ends the run.

        The failure is one of sampling, scoring or syncing: the policy's weights are whole.

        metrics: of the last step, if they are not written yet.
        """
        try:
            yield
        except DgpoError as failure:
            if metrics is not None:
                self.folder.write_metrics(self.step, metrics)
            if self.step > 0:
                try:
                    self.checkpoint()
                    self.complete_checkpoint()
                except CheckpointError as error:  # the first failure is the one to report
                    tell(self.observer, str(error))
                else:
                    if isinstance(failure, CalledOff):
                        raise
                    tell(
                        self.observer,
                        f"trained up to step {self.step}; checkpoint "
                        f"{self.folder.checkpoint_dir(self.step)}; run the same command to resume",
                    )
            raise

    def stop(self, where: str) -> None:
        """End the process as the user's signal would, with a checkpoint of what is trained."""
        saved = ""
        if self.step > 0:
            self.checkpoint()
            self.complete_checkpoint()
            saved = f"checkpoint {self.folder.checkpoint_dir(self.step)}; "
        self.interrupt.end(f"stopped {where}; {saved}run the same command to resume")

    def stopped_at_once(self) -> str:
        """Return the last line of a run that was interrupted twice."""
        checkpoints = self.folder.checkpoints()
        how = f"resume from {checkpoints[-1]}" if checkpoints else "start over"
        return f"stopped at once in step {self.step + 1}; run the same command to {how}"

    def _write_rollouts(self, path: Path, groups: Sequence[ScoredGroup], batch: Batch) -> None:
        lines = training_lines(
            groups,
            batch,
            temperature=self.settings.rollout.temperature,
            credit=self.settings.credit.model_dump(mode="json"),
            vocab_size=self.engine.policy.vocab_size,
            advantages=self.settings.advantage.of_step(
                groups, mask_truncated=self.settings.loss.mask_truncated
            ),
        )
        write_lines(path, lines)
