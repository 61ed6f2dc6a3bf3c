"""Draws the groups of a training step: once, or with dynamic sampling until there are enough.

Dynamic sampling (DAPO, arXiv 2503.14476, section 3.2): an all-correct or all-wrong group teaches
nothing, so a group of the next prompts replaces it. Correct answers decide, not rewards: a length
penalty makes the rewards of an all-wrong group differ, and such a group still does not count.

A round draws prompts_per_step prompts, so it may end with more groups than a step takes. The rest
are pending and come first in the next step: no group waits for longer than a step. Their
old_logprobs are measured under the weights that sampled them before those are updated, so the
clipped ratio of the loss is exact and not assumed to be 1. After max_rounds the step trains on the
groups that it has; the loss is normalised over those.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from dgpo_cli.core.errors import ConfigError
from dgpo_cli.core.events import Observer, tell
from dgpo_cli.core.formats import PendingGroup, Position, TrainerState
from dgpo_cli.core.schema import Change
from dgpo_cli.engine.checkpoint import load_state
from dgpo_cli.engine.engine import Measured
from dgpo_cli.engine.setup import completion_seeds
from dgpo_cli.runs.pending import PENDING_FILE, SELECTED_FILE, pending_text, read_pending
from dgpo_cli.train.curriculum import Curriculum, starting_curriculum

if TYPE_CHECKING:
    from dgpo_cli.config.changes import SettingDifference
    from dgpo_cli.core.types import ScoredGroup, StepMetrics
    from dgpo_cli.engine.engine import Engine
    from dgpo_cli.prompts.datasets import PromptStream


# Sections that decide how a group is sampled and scored; of rollout, settings that only count.
_SAMPLED = ("seed", "model", "prompts", "rollout", "reward", "advantage")
_COUNTED = (
    "rollout.prompts_per_step",
    "rollout.dynamic_sampling",
    "rollout.max_rounds",
    "rollout.overlap",
)


@dataclass(frozen=True, slots=True)
class Collected:
    """The groups of a step.

    groups: to train on; the pending ones come first.
    old: of the completions of the groups that were pending.
    sampled: all that were drawn in this step.
    moves: of the completions of the groups, for a credit rule that needs them.
    """

    groups: list[ScoredGroup]
    old: Measured
    sampled: list[ScoredGroup]
    metrics: StepMetrics
    moves: list[list[float]] | None = None


class Collector:
    """The position of a run in its prompts, and its pending groups.

    `draw` does not touch the policy, so another thread may train it meanwhile; `measure` does.
    """

    def __init__(
        self,
        engine: Engine,
        stream: PromptStream,
        *,
        position: Position,
        pending: Sequence[PendingGroup] = (),
        stale: bool = False,
        curriculum: Curriculum | None = None,
        observer: Observer,
    ) -> None:
        """
        Args:
            pending: the groups of a checkpoint.
            stale: whether those were sampled or judged under other settings.
        """
        self.position = position
        self.pending = tuple(pending)
        self.unmeasured: list[ScoredGroup] = []  # of the last draw, not measured yet
        self._engine = engine
        self._stream = stream
        self._curriculum = curriculum
        self._data = stream.digest()
        self._observer = observer
        off = not engine.settings.rollout.dynamic_sampling
        if self.pending and (off or stale):
            why = (
                "rollout.dynamic_sampling is off now"
                if off
                else "they were sampled with the old settings"
            )
            tell(observer, f"{len(self.pending)} pending groups are dropped: {why}")
            self.pending = ()

    def state(self, *, step: int, bad_streak: int) -> TrainerState:
        """Return the counters of a checkpoint after `step` steps."""
        return TrainerState(
            step=step,
            policy_version=self._engine.policy_version,
            bad_streak=bad_streak,
            draws=self.position.draws,
            prompts=self.position.prompts,
            data=self._data,
            noise_floor=self._engine.noise_floor,
        )

    def texts(self) -> dict[str, str]:
        """Return the other files of a checkpoint, by name."""
        found = {PENDING_FILE: pending_text(self.pending)} if self.pending else {}
        if self._curriculum is not None:
            found[SELECTED_FILE] = self._curriculum.text()
        return found

    def collect(self, number: int) -> Collected:
        """Draw the groups of step `number` (from 1) and measure the pending ones."""
        found = self.draw(number)
        self.measure()
        return found

    def measure(self) -> None:
        """Measure the pending groups of the last draw, while the policy has its weights."""
        if self.unmeasured:
            self.pending = (*self.pending, *self._measured(self.unmeasured))
            self.unmeasured = []

    def rewind(self, position: Position) -> None:
        """Draw from `position` again, and drop what was drawn since."""
        self.position, self.pending = position, ()

    def draw(self, number: int) -> Collected:
        """Draw the groups of step `number` (from 1); the position moves by every prompt drawn.

        A failed draw does not move it.
        """
        before, curriculum = self.position, self._curriculum
        known = None if curriculum is None else curriculum.known()
        try:
            if curriculum is not None:
                curriculum.begin()
            if self._engine.settings.rollout.dynamic_sampling:
                found = self._dynamic(number)
            else:
                groups = self._round(number, drawn=0)
                moves = self._engine.value_moves(groups)
                self._engine.rest()  # here: if it fails, the position has not moved
                found = Collected(groups, Measured([], []), groups, metrics={}, moves=moves)
        except BaseException:
            self.position = before
            if curriculum is not None and known is not None:
                curriculum.restore(known)
            raise
        if curriculum is None:
            return found
        return replace(found, metrics={**found.metrics, **curriculum.record(found.sampled)})

    def _round(self, number: int, *, drawn: int) -> list[ScoredGroup]:
        """Sample and score the next prompts; this step has already drawn `drawn`."""
        settings = self._engine.settings
        count = settings.rollout.prompts_per_step
        if self._curriculum is None:
            prompts = self._stream.take(self.position, count=count)
            self.position = self.position.after(count)
        else:
            prompts, self.position = self._curriculum.take(self._stream, self.position, count=count)
        seeds = completion_seeds(
            settings.seed,
            scope=f"train step {number}",
            ids=[f"{i} {prompt.id}" for i, prompt in enumerate(prompts, start=drawn)],
            count=settings.rollout.group_size,
        )
        return self._engine.score(self._engine.sample(prompts, seeds=seeds))

    def _dynamic(self, number: int) -> Collected:
        rollout = self._engine.settings.rollout
        wanted = rollout.prompts_per_step
        before = self.pending
        fresh: list[ScoredGroup] = []
        sampled: list[ScoredGroup] = []
        rounds = 0
        while len(before) + len(fresh) < wanted and rounds < rollout.max_rounds:
            drawn = self._round(number, drawn=len(sampled))
            sampled += drawn
            fresh += [group for group in drawn if group.is_mixed]
            rounds += 1
        used = before[:wanted]
        chosen = fresh[: wanted - len(used)]
        groups = [*(each.group for each in used), *chosen]
        moves = self._engine.value_moves(groups) if groups else None
        self._engine.rest()
        self.unmeasured = fresh[len(chosen) :]
        self.pending = before[wanted:]
        if len(groups) < wanted:
            tell(
                self._observer,
                f"step {number}: only {len(groups)} of {wanted} groups have both correct and wrong "
                f"answers after {rounds} rounds (rollout.max_rounds)",
            )
        metrics = {
            "dynamic/rounds": float(rounds),
            "dynamic/groups_sampled": float(len(sampled)),
            "dynamic/groups_dropped": float(len(sampled) - len(fresh)),
            "dynamic/groups_carried_in": float(len(used)),
            "dynamic/groups_trained": float(len(groups)),
            "dynamic/groups_kept_over": float(len(self.pending) + len(self.unmeasured)),
            "dynamic/prompts_repeated": float(_repeated(sampled)),
        }
        return Collected(
            groups=groups or _without_advantages(sampled[-wanted:]),
            old=Measured(
                [row for each in used for row in each.old_logprobs],
                [row for each in used for row in each.kept],
            ),
            sampled=sampled or groups,
            metrics=metrics,
            moves=moves,
        )

    def _measured(self, groups: Sequence[ScoredGroup]) -> list[PendingGroup]:
        measured = self._engine.logprobs(groups)
        logprobs, kept = iter(measured.logprobs), iter(measured.kept)
        found = []
        for group in groups:
            count = len(group.completions)
            own = tuple(islice(logprobs, count))
            found.append(PendingGroup(group, own, kept=tuple(islice(kept, count))))
        return found


def starting_collector(
    engine: Engine,
    stream: PromptStream,
    *,
    checkpoint: Path | None,
    found: Sequence[SettingDifference],
) -> Collector:
    """Return a collector at the start of the prompts, or at the position of a checkpoint.

    found: how the settings differ from those that the checkpoint was written under.

    Raises:
        ConfigError: the prompts are not those of the checkpoint's position.
        CheckpointError: the checkpoint cannot be read.
    """
    select = getattr(engine.settings.prompts, "select", None)
    curriculum = starting_curriculum(select, checkpoint=checkpoint)
    if checkpoint is None:
        return Collector(
            engine, stream, position=Position(), curriculum=curriculum, observer=engine.observer
        )
    state, data = load_state(checkpoint), stream.digest()
    # Checkpoints of earlier versions have neither draws nor data.
    if state.draws is not None and state.data != data:
        raise ConfigError(
            f"prompts: the data are not those that {checkpoint} was trained on "
            f"({_named(data)}, there {_named(state.data)}), so its position in them means nothing; "
            "restore the data and the settings under prompts, or give another --out"
        )
    position = Position(state.step, state.step * engine.settings.rollout.prompts_per_step)
    if state.draws is not None and state.prompts is not None:
        position = Position(state.draws, state.prompts)
    return Collector(
        engine,
        stream,
        position=position,
        pending=read_pending(checkpoint),
        stale=is_stale(found),
        curriculum=curriculum,
        observer=engine.observer,
    )


def is_stale(found: Sequence[SettingDifference]) -> bool:
    """Whether these differences make groups useless that were sampled and scored before."""
    return any(
        each.change != Change.FREE
        and each.setting.partition(".")[0] in _SAMPLED
        and each.setting not in _COUNTED
        for each in found
    )


def _named(data: str | None) -> str:
    return "generated problems" if data is None else f"sha256 {data[:12]}…"


def _repeated(groups: Sequence[ScoredGroup]) -> int:
    """Return how many prompts were drawn twice in a step, because the data ran out in it."""
    return len(groups) - len({group.prompt.id for group in groups})


def _without_advantages(groups: Sequence[ScoredGroup]) -> list[ScoredGroup]:
    """Return groups without signal, for a step that has no others."""
    return [replace(group, advantages=(0.0,) * len(group.advantages)) for group in groups]
