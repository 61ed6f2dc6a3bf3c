"""What a study still costs: its tasks, and the time they take."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from dgpo_cli.config.load import Resolved
from dgpo_cli.core.errors import DgpoError
from dgpo_cli.planning import plan
from dgpo_cli.planning.budget import Device
from dgpo_cli.planning.devices import here
from dgpo_cli.policy.config_file import is_at_hand
from dgpo_cli.study.file import StudyFile
from dgpo_cli.study.folder import StudyFolder, seconds_in, steps_kept
from dgpo_cli.study.search import rungs, trials_of


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
