"""The numbers of a study: a row a variant, compared with the baseline seed by seed. No torch.

Seeds are the unit in which rules are compared, so every difference is paired by seed and its error
is over seeds. Only finished runs count.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from dgpo_cli.algo.grad_noise import noise_scale
from dgpo_cli.core.codec import Format, filled
from dgpo_cli.core.errors import ConfigError
from dgpo_cli.core.numbers import counted
from dgpo_cli.core.schema import Count, Object, Real, Text
from dgpo_cli.core.types import Evaluation, Interval, StudyRecord, StudyRun, Variant
from dgpo_cli.core.types.evaluation import Ends
from dgpo_cli.stats.comparison import over_problems
from dgpo_cli.stats.estimators import stderr_problems
from dgpo_cli.stats.paired import (
    PairedDifference,
    SeedMean,
    adjusted,
    area_mean,
    last_mean,
    mean_over_seeds,
    paired_difference,
    steps_to,
    whole_curve,
)
from dgpo_cli.study.fields import meant

WINDOW = 10  # steps over which a curve is averaged where a single step would be noise
GAIN = 0.9  # share of the baseline's gain at the level that is to be reached
REWARD, GRAD_NORM = "reward/mean", "optim/grad_norm"
SECONDS, CPU_SECONDS = "time/step_s", "time/cpu_s"
EFFECTIVE = "credit/effective_fraction"
_UNKNOWN = Interval(math.nan, math.nan)


@dataclass(frozen=True)
class Measure(SeedMean):
    """A number of a variant: by seed, its mean, and the difference to the baseline if it has one.

    difference: null for the baseline, and for numbers that are not compared.
    """

    by_seed: dict[Text, Real]
    difference: PairedDifference | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Avg@k of a variant, from 0 to 1; null is unknown.

    before: of the base model. before_rerun: its standard error over reruns of the same problems;
        before_problems: over other problems of the kind.
    after: by seed; its errors are over seeds, which includes that of the samples.
    after_rerun: standard error of the mean over seeds if only the samples were drawn again;
        after_problems: over other problems, with these trained models.
    difference_problems_95: of the difference after training, over other problems of this kind, with
        these trained models; the problems are paired, the seeds averaged.
    """

    bench: Text
    k: Count
    n_problems: Count
    before: Real
    before_rerun: Real
    before_problems: Real
    after: Measure
    after_rerun: Real
    after_problems: Real
    difference_problems_95: Ends


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyRow:
    """A variant. settings, tuned: what sets it apart, and what its search chose.

    planned, finished: its runs. steps: of a finished run; null if they differ or none is.
    reward: mean reward over all steps, the area under the curve divided by its steps.
    last: mean reward over the last steps. to_level: steps to the level, of the seeds that reached
        it; the difference is known only where all seeds reached it. reached: their number.
    grad_norm: before it is limited. noise_scale: of the gradient, over all seeds, in completions;
        null if it was not measured, or if noise is all there is. effective_fraction: of the tokens.
    seconds, cpu_seconds: of the steps of a run; those of the CPU are of its main process.
    """

    variant: Text
    settings: Object
    tuned: Object
    planned: Count
    finished: Count
    steps: Count | None
    reward: Measure
    last: Measure
    to_level: Measure
    reached: Count
    score: Score | None
    grad_norm: Measure
    noise_scale: Real
    effective_fraction: Measure
    seconds: Measure
    cpu_seconds: Measure

    @property
    def score_after(self) -> Measure | None:
        """Avg@k after training, if there are evaluations."""
        return None if self.score is None else self.score.after


@dataclass(frozen=True, slots=True)
class StudyTable:
    """A study: the baseline's row first, then the others in the order of the file.

    level: the reward that to_level is about. window: steps over which a curve is averaged there and
    at its end. notes: what was left out, and what could not be read.
    """

    name: Text
    description: Text
    baseline: Text
    level: Real
    window: Count
    rows: tuple[StudyRow, ...]
    notes: tuple[Text, ...]

    def row(self, variant: str) -> StudyRow:
        """The row of a variant."""
        return next(each for each in self.rows if each.variant == variant)


STUDY = Format(
    StudyTable, name="study", what="dgpo report --format json of a study", stamp="version"
)


def summarise(
    record: StudyRecord, *, baseline: str | None = None, level: float | None = None
) -> StudyTable:
    """Return the table of a study.

    baseline: a variant, by default the study's. level: a reward; by default that at which the
    baseline has made nine tenths of its gain, the mean over its seeds.

    Raises:
        ConfigError: there is no such variant.
    """
    first = _named(baseline, record) if baseline is not None else record.baseline
    order = sorted(record.variants, key=lambda each: each.name != first)
    curves = {each.name: _curves(record, each.name) for each in order}
    window = min((WINDOW, *(len(c) for own in curves.values() for c in own.values())))
    if level is None:
        level = _usual_level(curves[first], window=window)
    kind = _kind_of(record)
    rows = [
        _row(record, each, curves[each.name], level=level, window=window, kind=kind)
        for each in order
    ]
    return StudyTable(
        name=record.name,
        description=record.description,
        baseline=first,
        level=level,
        window=window,
        rows=tuple(_compared(rows, record, kind=kind)),
        notes=(*record.notes, *_left_out(record, order, curves, kind=kind)),
    )


def _named(name: str, record: StudyRecord) -> str:
    names = [each.name for each in record.variants]
    if name in names:
        return name
    hint = meant(name, names)
    raise ConfigError(f"--baseline={name}: no such variant of {record.name}; {hint}")


def finished_runs(record: StudyRecord, variant: str) -> list[StudyRun]:
    """Return the finished runs of a variant, by seed."""
    return [run for run in record.runs if run.variant == variant and run.state == "finished"]


def _curves(record: StudyRecord, variant: str) -> dict[int, list[float]]:
    """Return the reward of every step of the finished runs, by seed; without those with gaps."""
    found = {}
    for run in finished_runs(record, variant):
        curve = whole_curve(_points(run, REWARD), steps=_last_step(run))
        if curve is not None:
            found[run.seed] = curve
    return found


def _points(run: StudyRun, metric: str) -> Iterator[tuple[float, float | None]]:
    for line in run.steps:
        yield line.get("step") or 0.0, line.get(metric)


def _last_step(run: StudyRun) -> int:
    return run.total or int(max((line.get("step") or 0 for line in run.steps), default=0))


def _usual_level(curves: Mapping[int, Sequence[float]], *, window: int) -> float:
    """Return the reward at which the mean curve has made nine tenths of its gain."""
    if not curves:
        return math.nan
    start = math.fsum(area_mean(curve[:window]) for curve in curves.values()) / len(curves)
    end = math.fsum(last_mean(curve, window=window) for curve in curves.values()) / len(curves)
    return start + GAIN * (end - start) if end > start else end


def _row(
    record: StudyRecord,
    variant: Variant,
    curves: Mapping[int, Sequence[float]],
    *,
    level: float,
    window: int,
    kind: _Kind | None,
) -> StudyRow:
    runs = finished_runs(record, variant.name)
    steps = {_last_step(run) for run in runs}
    reached = {seed: steps_to(level, curve, window=window) for seed, curve in curves.items()}
    to_level = {seed: math.nan if at is None else float(at) for seed, at in reached.items()}
    noise = noise_scale(line for run in runs for line in run.steps)

    def mean_of(metric: str) -> Measure:
        return measure({run.seed: _mean_of(run, metric) for run in runs})

    return StudyRow(
        variant=variant.name,
        settings=dict(variant.settings),
        tuned=dict(variant.tuned),
        planned=sum(run.variant == variant.name for run in record.runs),
        finished=len(runs),
        steps=steps.pop() if len(steps) == 1 else None,
        reward=measure({seed: area_mean(curve) for seed, curve in curves.items()}),
        last=measure({seed: last_mean(curve, window=window) for seed, curve in curves.items()}),
        to_level=measure(to_level),
        reached=sum(at is not None for at in reached.values()),
        score=None if kind is None else _score(runs, kind),
        grad_norm=mean_of(GRAD_NORM),
        noise_scale=math.nan if noise is None else noise,
        effective_fraction=mean_of(EFFECTIVE),
        seconds=measure({run.seed: _sum_of(run, SECONDS) for run in runs}),
        cpu_seconds=measure({run.seed: _sum_of(run, CPU_SECONDS) for run in runs}),
    )


def measure(by_seed: Mapping[int, float]) -> Measure:
    """Return the measure of a number by seed, not compared with anything."""
    named = {str(seed): value for seed, value in by_seed.items()}
    return filled(Measure, mean_over_seeds(by_seed), by_seed=named)


def _known(run: StudyRun, metric: str) -> list[float]:
    found = (line.get(metric) for line in run.steps)
    return [value for value in found if value is not None and math.isfinite(value)]


def _mean_of(run: StudyRun, metric: str) -> float:
    found = _known(run, metric)
    return area_mean(found) if found else math.nan


def _sum_of(run: StudyRun, metric: str) -> float:
    """Return the sum over all steps; those that lack a number have the mean of the others."""
    return _mean_of(run, metric) * _last_step(run)


@dataclass(frozen=True, slots=True)
class _Kind:
    """What evaluations must share to be compared."""

    bench: str
    k: int
    problems: tuple[str, ...]

    @classmethod
    def of(cls, found: Evaluation) -> _Kind:
        return cls(found.bench, found.k, tuple(each.id for each in found.problems))


def _kind_of(record: StudyRecord) -> _Kind | None:
    """Return the kind of evaluation that most runs have."""
    found = Counter(_Kind.of(run.after) for run in record.runs if run.after is not None)
    return found.most_common(1)[0][0] if found else None


def _evaluated(runs: Sequence[StudyRun], kind: _Kind) -> dict[int, Evaluation]:
    """Return the evaluations after training that can be compared, by seed."""
    return {
        run.seed: run.after for run in runs if run.after is not None and _Kind.of(run.after) == kind
    }


def _score(runs: Sequence[StudyRun], kind: _Kind) -> Score:
    after = _evaluated(runs, kind)
    base = next((run.before for run in runs if run.before is not None), None)
    before = base if base is not None and _Kind.of(base) == kind else None
    n = len(after)
    reruns = [each.stderr_rerun for each in after.values()]
    return Score(
        bench=kind.bench,
        k=kind.k,
        n_problems=len(kind.problems),
        before=math.nan if before is None else before.avg_at_k,
        before_rerun=math.nan if before is None else before.stderr_rerun,
        before_problems=math.nan if before is None else before.stderr_problems,
        after=measure({seed: each.avg_at_k for seed, each in after.items()}),
        after_rerun=math.hypot(*reruns) / n if n else math.nan,
        after_problems=stderr_problems(_summed(after), k=kind.k * n) if n else math.nan,
        difference_problems_95=_UNKNOWN,
    )


def _summed(found: Mapping[int, Evaluation]) -> list[int]:
    """Return how many samples of each problem are correct, over all seeds."""
    counts = zip(*([each.correct for each in own.problems] for own in found.values()), strict=True)
    return [sum(each) for each in counts]


def _compared(
    rows: Sequence[StudyRow], record: StudyRecord, *, kind: _Kind | None
) -> Iterator[StudyRow]:
    """Yield the rows with their differences to the first, each adjusted for all rows."""
    first, *others = rows
    reward = _differences(rows, lambda row: row.reward)
    last = _differences(rows, lambda row: row.last)
    to_level = _differences(rows, _steps_of_all)
    score = _differences(rows, lambda row: row.score_after)
    yield first
    for at, row in enumerate(others):
        yield replace(
            row,
            reward=replace(row.reward, difference=reward[at]),
            last=replace(row.last, difference=last[at]),
            to_level=replace(row.to_level, difference=_in_steps(to_level[at])),
            score=_compared_score(row, first, record, kind=kind, difference=score[at]),
        )


def _in_steps(difference: PairedDifference | None) -> PairedDifference | None:
    """Return a difference of steps, of which no point is told."""
    return None if difference is None else replace(difference, seeds_for_point=None)


def _steps_of_all(row: StudyRow) -> Measure | None:
    """Return the steps to the level if every seed reached it: others are cut off by the end."""
    return row.to_level if row.reached == row.reward.seeds else None


def _differences(
    rows: Sequence[StudyRow], of: Callable[[StudyRow], Measure | None]
) -> list[PairedDifference | None]:
    """Return the differences of all rows but the first to it; None where there is no pair."""
    first, *others = map(of, rows)
    if first is None:
        return [None] * len(others)
    found = {
        at: difference
        for at, each in enumerate(others)
        if each is not None
        and (difference := paired_difference(_by_number(first), _by_number(each))).seeds
    }
    both = dict(zip(found, adjusted(list(found.values())), strict=True))
    return [both.get(at) for at in range(len(others))]


def _by_number(found: Measure) -> dict[int, float]:
    return {int(seed): value for seed, value in found.by_seed.items()}


def _compared_score(
    row: StudyRow,
    first: StudyRow,
    record: StudyRecord,
    *,
    kind: _Kind | None,
    difference: PairedDifference | None,
) -> Score | None:
    if row.score is None or kind is None or difference is None:
        return row.score
    old, new = (_evaluated(finished_runs(record, each.variant), kind) for each in (first, row))
    pairs = old.keys() & new.keys()
    size = kind.k * len(pairs)
    shares = [
        [count / size for count in _summed({seed: own[seed] for seed in pairs})]
        for own in (old, new)
    ]
    return replace(
        row.score,
        after=replace(row.score.after, difference=difference),
        difference_problems_95=over_problems(*shares).interval(),
    )


def _left_out(
    record: StudyRecord,
    variants: Sequence[Variant],
    curves: Mapping[str, Mapping[int, Sequence[float]]],
    *,
    kind: _Kind | None,
) -> Iterator[str]:
    """Yield a note on every run that does not count, or not everywhere."""
    for variant in variants:
        name = variant.name
        own = [run for run in record.runs if run.variant == name]
        done = finished_runs(record, name)
        unfinished = [run.seed for run in own if run.state != "finished"]
        if unfinished:
            yield (
                f"{name}: {len(unfinished)} of {counted(len(own), 'run')} not finished and left "
                f"out: {seeds_named(unfinished)}"
            )
        gaps = [run.seed for run in done if run.seed not in curves[name]]
        if gaps:
            yield f"{name}: the reward of many steps is missing: {seeds_named(gaps)} left out"
        if kind is not None and done:
            there = _evaluated(done, kind)
            without = [run.seed for run in done if run.seed not in there]
            if without:
                yield f"{name}: not evaluated on {kind.bench}, k={kind.k}: {seeds_named(without)}"
    lengths = {_last_step(run) for run in record.runs if run.state == "finished"}
    if len(lengths) > 1:
        said = ", ".join(map(str, sorted(lengths)))
        yield f"runs have different lengths ({said} steps): mean rewards are over each run's own"


def seeds_named(seeds: Sequence[int]) -> str:
    """Return seeds in words: seed 3; seeds 1, 2, 5."""
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
