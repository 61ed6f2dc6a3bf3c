"""What a study still costs: its tasks, the time they take, and the hours that it may."""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass

from dgpo_cli.config.load import Resolved
from dgpo_cli.core.errors import DgpoError
from dgpo_cli.planning import plan
from dgpo_cli.planning.budget import Device
from dgpo_cli.planning.devices import here
from dgpo_cli.policy.config_file import is_at_hand
from dgpo_cli.study.agenda import Task
from dgpo_cli.study.file import StudyFile
from dgpo_cli.study.folder import StudyFolder, periods_in, seconds_in, steps_kept
from dgpo_cli.study.search import rungs, trials_of

_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Row:
    """A variant: its runs, how many are finished, and the steps that are left.

    trials: steps of its search that are left at most. step_s: seconds of a step; None if unknown.
    measured: step_s is that of its own runs, loading and checkpoints included.
    """

    variant: str
    runs: int
    finished: int
    steps: int
    trials: int
    step_s: float | None
    measured: bool

    @property
    def seconds(self) -> float | None:
        """How long what is left takes, one run after the other."""
        return None if self.step_s is None else self.step_s * (self.steps + self.trials)


def outlook(study: StudyFile, folder: StudyFolder) -> list[Row]:
    """Return what is left of each variant."""
    measured = {each.name: _measured(each.name, folder) for each in study.variants}
    known = [value for value in measured.values() if value is not None]
    planner = _Planner()
    rows = []
    for variant in study.variants:
        resolved = study.resolve(variant)
        total = resolved.settings.train.steps
        kept = [steps_kept(folder.run(variant.name, seed)) for seed in study.seeds]
        own = measured[variant.name]
        fallback = statistics.fmean(known) if known else planner.step_s(resolved)
        rows.append(
            Row(
                variant=variant.name,
                runs=len(kept),
                finished=sum(steps >= total for steps in kept),
                steps=sum(max(0, total - steps) for steps in kept),
                trials=_trial_steps(study, variant.name, folder, total=total),
                step_s=fallback if own is None else own,
                measured=own is not None,
            )
        )
    return rows


def _measured(variant: str, folder: StudyFolder) -> float | None:
    """Return the seconds of a step of the variant's runs so far."""
    runs = [*folder.path.glob(f"runs/{variant}/seed-*"), *folder.trials(variant).glob("*/seed-*")]
    steps = {run: steps_kept(run) for run in runs}
    ended = [run for run, count in steps.items() if count and seconds_in(folder.log(run))]
    if not ended:
        return None
    return sum(seconds_in(folder.log(run)) for run in ended) / sum(steps[run] for run in ended)


class _Planner:
    """Estimates as `dgpo plan` does; the speed of this machine is measured once."""

    def __init__(self) -> None:
        self._devices: dict[str, Device] = {}

    def step_s(self, resolved: Resolved) -> float | None:
        """Return the seconds of a step; None if they are unknown, or the model is not here."""
        model = resolved.settings.model
        if not is_at_hand(model):
            return None
        try:
            if model.device not in self._devices:
                self._devices[model.device] = here(model.device)
            device = self._devices[model.device]
            found = plan.run(
                lambda changes: resolved, device=device, typical=plan.Typical(), repair=False
            )
        except DgpoError:
            return None
        return found.step_seconds or None


def _trial_steps(study: StudyFile, variant: str, folder: StudyFolder, *, total: int) -> int:
    """Return the steps that the search of a variant still takes at most."""
    if study.search is None or folder.tuned(variant).exists():
        return 0
    trials = trials_of(study.search, study.space)
    steps = before = 0
    for rung in rungs(study.search, trials=len(trials), steps=total):
        steps += rung.trials * (rung.steps - before) * len(study.search.seeds)
        before = rung.steps
    done = sum(steps_kept(run) for run in folder.trials(variant).glob("*/seed-*"))
    return max(0, steps - done)


def left(rows: list[Row], *, jobs: int) -> float | None:
    """Return the seconds that all rows take with so many jobs; None if a row is unknown."""
    each = [row.seconds for row in rows]
    return None if None in each else sum(filter(None, each)) / jobs


def evaluations_left(study: StudyFile, folder: StudyFolder) -> int:
    """Return how many evaluations are left at least: those of base models may be shared."""
    if study.judge is None:
        return 0
    done = sum((each / "report.json").exists() for each in folder.path.glob("evals/after/*/seed-*"))
    bases = not any(folder.path.glob("evals/before/*/report.json"))
    return len(study.variants) * len(study.seeds) - done + bases


def used(folder: StudyFolder) -> float:
    """Return the seconds in which at least one task of the study ran, as the logs have them.

    Tasks that were killed together with the study wrote no time, and do not count.
    """
    total, until = 0.0, -math.inf
    for begin, end in sorted(
        period for log in folder.logs.rglob("*.log") for period in periods_in(log)
    ):
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total


class Budget:
    """The hours that a study may run, all its calls together; without hours it has no end."""

    def __init__(self, study: StudyFile, folder: StudyFolder) -> None:
        self._study, self._folder = study, folder
        self._limit = math.inf if study.hours is None else study.hours * _HOUR
        self._before, self._begun = used(folder), time.monotonic()

    def holds(self, task: Task) -> bool:
        """Whether a task that starts now ends in time, going by what has ended."""
        return math.isinf(self._limit) or self._used() + self._seconds(task) <= self._limit

    def needed(self, *, jobs: int) -> float:
        """Return hours in which the whole study ends, rounded up to two digits."""
        rows = outlook(self._study, self._folder)
        evaluating = evaluations_left(self._study, self._folder) * self._evaluation()
        # Other slots may be idle while the last run and its evaluation take their time.
        last = max(self._step(each.variant) * self._steps(each.variant) for each in rows)
        seconds = ((left(rows, jobs=1) or 0.0) + evaluating) / jobs + last + self._evaluation()
        hours = (self._used() + seconds) / _HOUR
        unit = 10.0 ** (math.floor(math.log10(hours)) - 1)
        return float(f"{math.ceil(hours / unit) * unit:.2g}")

    def _used(self) -> float:
        return self._before + time.monotonic() - self._begun

    def _seconds(self, task: Task) -> float:
        """Return how long a task takes; 0 if nothing like it has ended.

        A run to compare takes the time of its evaluation, too: without it, it is of little use.
        """
        if task.run is None:
            return self._evaluation()
        kind, variant, *_ = task.part.split("/")
        seconds = self._step(variant) * (task.steps - steps_kept(task.run))
        return seconds + (self._evaluation() if kind == "runs" else 0.0)

    def _steps(self, variant: str) -> int:
        return int(self._folder.planned(variant)["train"]["steps"])

    def _step(self, variant: str) -> float:
        """Return the seconds of a step of a variant, or else of the others."""
        own = _measured(variant, self._folder)
        if own is not None:
            return own
        others = (_measured(each.name, self._folder) for each in self._study.variants)
        return statistics.fmean([each for each in others if each is not None] or [0.0])

    def _evaluation(self) -> float:
        """Return the seconds of an evaluation; 0 if there is none, or none has ended."""
        times = [seconds_in(log) for log in (self._folder.logs / "evals").rglob("*.log")]
        return statistics.fmean(times or [0.0])
