"""What is left to do of a study, as its folder shows; asked again after every task."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dgpo_cli.core import io
from dgpo_cli.core.codec import parsed
from dgpo_cli.core.errors import ConfigError, DataError
from dgpo_cli.core.numbers import decimal
from dgpo_cli.core.refusal import shown
from dgpo_cli.core.types import Trial, Tuned, Variant
from dgpo_cli.evals.eval_folder import EvalFolder
from dgpo_cli.runs.run_folder import RunFolder
from dgpo_cli.study.fields import Values, combined, meant
from dgpo_cli.study.file import StudyFile
from dgpo_cli.study.folder import StudyFolder, read_tuned, steps_kept, write_tuned
from dgpo_cli.study.search import Rung, Search, at_edge, best, described, rungs, trials_of

DIVERGED = "was not finite"  # in the error of a run whose loss or gradient was not
_COMPARED = ("runs/", "evals/after/")  # before the name of a variant and its seed


@dataclass(frozen=True, slots=True)
class Task:
    """One command of dgpo. part: its folder within the study, such as runs/uniform/seed-3.

    command: what is after "dgpo". run: its run folder, which then has `steps` steps; None for an
    evaluation.
    """

    part: str
    command: tuple[str, ...]
    log: Path
    run: Path | None
    steps: int

    @property
    def name(self) -> str:
        """What it is called on the screen."""
        return self.part.removeprefix("runs/")


class Agenda:
    """The tasks of a study that are left.

    failed: by part, why a task failed since this agenda was made; it is not tried again.
    news: a line for each search that ended, to be taken from here.
    """

    def __init__(self, study: StudyFile, folder: StudyFolder, *, only: Sequence[str] = ()) -> None:
        """only: parts of the study, as `parts` names them, or variants; empty: all of it.

        Raises:
            ConfigError: there is no such part.
        """
        self.failed: dict[str, str] = {}
        self.news: list[str] = []
        self._study, self._folder = study, folder
        self._chosen: dict[str, Values] = {}
        self._done: set[str] = set()
        self._only = [self._known(each) for each in only]
        self._steps = {
            each.name: folder.planned(each.name)["train"]["steps"] for each in study.variants
        }

    def parts(self) -> list[str]:
        """Return the parts that can be run apart from each other, once all searches are over."""
        return [*map(self._part, self._bases()), *(self._part(run) for _, _, run in self._runs())]

    def searches(self) -> list[str]:
        """Return the parts that are searches; runs of a variant wait for its own."""
        names = [each.name for each in self._study.variants] if self._study.search else []
        return [self._part(self._folder.trials(name)) for name in names]

    def ready(self) -> list[Task]:
        """Return the tasks that can be started: bases, searches, then seed after seed."""
        found = [task for path in self._bases() if (task := self._base_task(path)) is not None]
        for variant in self._study.variants:
            found += self._search(variant)
        found += [
            task
            for variant, seed, run in self._runs()
            if variant.name in self._chosen and (task := self._run_task(variant, seed, run))
        ]
        return [task for task in found if task.part not in self.failed and self._wanted(task.part)]

    def size(self) -> tuple[int, int]:
        """Return how many tasks are done, and how many there are."""
        done = total = 0
        for part, ended, count in self._counted():
            if self._wanted(part):
                done, total = done + ended, total + count
        return done, total

    def waiting(self) -> list[str]:
        """Return the variants whose runs are wanted, but wait for a search that has not ended."""
        return [
            each.name
            for each in self._study.variants
            if each.name not in self._chosen
            and any(self._wanted(f"{each.name}/seed-{seed}") for seed in self._study.seeds)
        ]

    def _counted(self) -> Iterator[tuple[str, int, int]]:
        """Yield parts: of how many tasks they are, and how many of these are done."""
        for path in self._bases():
            yield self._part(path), self._is_evaluated(path), 1
        for variant in self._study.variants:
            yield self._part(self._folder.trials(variant.name)), *self._trials_done(variant)
        for variant, seed, run in self._runs():
            yield self._part(run), steps_kept(run) >= self._steps[variant.name], 1
            if self._study.judge is not None:
                after = self._folder.after(variant.name, seed)
                yield self._part(after), self._is_evaluated(after), 1

    def _trials_done(self, variant: Variant) -> tuple[int, int]:
        search, done, total = self._study.search, 0, 0
        if search is None:
            return 0, 0
        trials = trials_of(search, self._study.space)
        runs = [
            self._folder.trial(variant.name, combined(trial), seed)
            for trial in trials
            for seed in search.seeds
        ]
        kept = [steps_kept(run) for run in runs]
        for rung in rungs(search, trials=len(trials), steps=self._steps[variant.name]):
            count = rung.trials * len(search.seeds)
            total += count
            done += min(count, sum(each >= rung.steps for each in kept))
        return (total if variant.name in self._chosen else done), total

    def _known(self, wanted: str) -> str:
        """Return a part as it is compared: runs/uniform is uniform."""
        wanted = _shortened(wanted.strip("/"))
        names = [each.name for each in self._study.variants]
        known = [*names]
        if self._study.search is not None:
            known += [f"tune/{name}" for name in names]
        elif wanted.startswith("tune/"):
            raise ConfigError(f"--only {wanted}: {self._study.path} has no [tune]")
        known += [f"{name}/seed-{seed}" for name in names for seed in self._study.seeds]
        known += [self._part(path) for path in self._bases()]
        if wanted in known:
            return wanted
        hint = meant(wanted, known, otherwise=meant("", names))
        raise ConfigError(f"--only {wanted}: no such variant or part of the study; {hint}")

    def _wanted(self, part: str) -> bool:
        name = _shortened(part)
        of_variant = (f"tune/{each}" for each in self._only if "/" not in each)
        wanted = [*self._only, *of_variant, *(f"evals/before/{each}" for each in self._only)]
        return not self._only or any(f"{name}/".startswith(f"{each}/") for each in wanted)

    def _part(self, path: Path) -> str:
        return path.relative_to(self._folder.path).as_posix()

    def _runs(self) -> Iterator[tuple[Variant, int, Path]]:
        """Yield the runs to compare, all variants of a seed before the next seed."""
        for seed in self._study.seeds:
            for variant in self._study.variants:
                yield variant, seed, self._folder.run(variant.name, seed)

    def _run_task(self, variant: Variant, seed: int, run: Path) -> Task | None:
        steps = self._steps[variant.name]
        if self._part(run) not in self._done and steps_kept(run) < steps:
            return self._training(variant, run, seed=seed, more=self._chosen[variant.name])
        self._done.add(self._part(run))
        if self._study.judge is None:
            return None
        after = self._folder.after(variant.name, seed)
        return self._evaluation(after, ["--run", str(run)])

    def _training(
        self, variant: Variant, run: Path, *, seed: int, more: Values, steps: int | None = None
    ) -> Task:
        if steps is not None:
            more = {**more, "train.steps": steps}
        words = ["train", "--config", str(self._folder.settings(variant.name))]
        for key, value in more.items():
            words += ["--set", f"{key}={shown(value)}"]
        words += ["--seed", str(seed), "--out", str(run)]
        steps = steps or self._steps[variant.name]
        return Task(self._part(run), tuple(words), self._folder.log(run), run, steps)

    def _bases(self) -> list[Path]:
        """Return the folder of each evaluation of a base model; equal ones are done once."""
        if self._study.judge is None:
            return []
        found: dict[str, Path] = {}
        for each in self._study.variants:
            base = self._folder.base_of(each.name)
            found.setdefault(base, self._folder.before(each.name))
        return list(found.values())

    def _base_task(self, path: Path) -> Task | None:
        return self._evaluation(path, ["--config", str(self._folder.settings(path.name))])

    def _evaluation(self, out: Path, subject: list[str]) -> Task | None:
        judge = self._study.judge
        assert judge is not None
        if self._is_evaluated(out):
            return None
        words = ["eval", "--bench", judge.bench, "--k", str(judge.k), *subject]
        for name in ("data", "protocol"):
            if (value := getattr(judge, name)) is not None:
                words += [f"--{name}", value]
        return Task(
            self._part(out), (*words, "--out", str(out)), self._folder.log(out), None, judge.k
        )

    def _is_evaluated(self, path: Path) -> bool:
        """Whether an evaluation has ended with as many samples as are asked for."""
        part, file = self._part(path), EvalFolder(path).report_file
        assert self._study.judge is not None
        if part not in self._done and file.exists():
            try:
                report = parsed(io.read_bytes(file), where=str(file))
            except DataError:
                return False
            if isinstance(report, dict) and report.get("k") == self._study.judge.k:
                self._done.add(part)
        return part in self._done

    def _search(self, variant: Variant) -> list[Task]:
        """Return the trials that can be started; take what was chosen if none is left."""
        search, name = self._study.search, variant.name
        if name in self._chosen:
            return []
        if search is None:
            self._chosen[name] = {}
            return []
        tuned = self._stored(name)
        if tuned is not None and tuned.search == described(search, self._study.space):
            self._chosen[name] = dict(tuned.chosen)
            return []
        if not self._wanted(self._part(self._folder.trials(name))) or self._is_blocked(name):
            return []
        return self._halve(variant, search)

    def _halve(self, variant: Variant, search: Search) -> list[Task]:
        """Return the trials that are left of the present round of a search."""
        alive = trials_of(search, self._study.space)
        rounds = rungs(search, trials=len(alive), steps=self._steps[variant.name])
        judged: list[Trial] = []
        for rung in rounds:
            order = best([each.score for each in judged[: len(alive)]], keep=rung.trials)
            alive = [alive[at] for at in order] if judged else alive
            tasks = [task for trial in alive for task in self._trial_tasks(variant, trial, rung)]
            if tasks:
                return tasks
            judged = [*(self._judged(variant.name, trial, rung) for trial in alive), *judged]
        (first,) = best([each.score for each in judged[: len(alive)]], keep=1)
        self._choose(variant.name, judged[first], judged)
        return []

    def _choose(self, variant: str, chosen: Trial, judged: Sequence[Trial]) -> None:
        if math.isnan(chosen.score):
            self.failed[f"tune/{variant}"] = "every trial failed"
            return
        assert self._study.search is not None
        asked = described(self._study.search, self._study.space)
        write_tuned(
            self._folder.tuned(variant),
            Tuned(variant, asked, chosen.settings, tuple(judged)),
        )
        self._chosen[variant] = dict(chosen.settings)
        tried = {combined(each.settings) for each in judged}
        what = ", ".join(f"{key}={shown(value)}" for key, value in chosen.settings.items())
        edge = at_edge(chosen.settings, [each.settings for each in judged])
        self.news.append(
            f"tune/{variant}: {what} is the best of {len(tried)}, mean reward "
            f"{decimal(chosen.score)}{edge and f'; {edge}'}"
        )

    def _stored(self, variant: str) -> Tuned | None:
        try:
            return read_tuned(self._folder.tuned(variant))
        except DataError:
            return None  # it is made again, from the same runs

    def _trial_tasks(self, variant: Variant, trial: Values, rung: Rung) -> Iterator[Task]:
        assert self._study.search is not None
        for seed in self._study.search.seeds:
            run = self._folder.trial(variant.name, combined(trial), seed)
            if self._part(run) not in self.failed and steps_kept(run) < rung.steps:
                yield self._training(variant, run, seed=seed, more=trial, steps=rung.steps)

    def _is_blocked(self, variant: str) -> bool:
        """Whether a trial failed for another reason than its settings, or all did."""
        if f"tune/{variant}" in self.failed:
            return True
        return any(
            part.startswith(f"tune/{variant}/") and DIVERGED not in why
            for part, why in self.failed.items()
        )

    def _judged(self, variant: str, trial: Values, rung: Rung) -> Trial:
        assert self._study.search is not None
        scores = {}
        for seed in self._study.search.seeds:
            run = self._folder.trial(variant, combined(trial), seed)
            failed = self._part(run) in self.failed
            scores[str(seed)] = math.nan if failed else mean_reward(run, steps=rung.steps)
        return Trial(trial, rung.steps, scores, sum(scores.values()) / len(scores))


def _shortened(part: str) -> str:
    for prefix in _COMPARED:
        part = part.removeprefix(prefix)
    return part


def mean_reward(run: Path, *, steps: int) -> float:
    """Return the mean reward over the first steps of a run, NaN if it has none."""
    found = [
        value
        for line in RunFolder(run).read_metrics()
        if (line["step"] or 0) <= steps and (value := line.get("reward/mean")) is not None
    ]
    return sum(found) / len(found) if found else math.nan
