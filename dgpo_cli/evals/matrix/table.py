"""Many models on many benchmarks as one table: scores with errors, and which model is best."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from dgpo_cli.core.codec import Format
from dgpo_cli.core.schema import Count, Flag, Real, Text
from dgpo_cli.core.types import Card, Evaluation, Interval
from dgpo_cli.core.types.evaluation import Ends
from dgpo_cli.evals.compare import common_problems, obstacles
from dgpo_cli.evals.request import EvalResult
from dgpo_cli.stats.comparison import LEVEL, NamedEvaluation, compare_runs

MEAN = "mean"
Best = Literal["these", "all"]
_UNKNOWN = Interval(math.nan, math.nan)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One model on one benchmark: its evaluation, or why there is none.

    folder: where its samples are. failure: also why an evaluation has fewer samples than asked.
    """

    model: str
    bench: str
    evaluation: Evaluation | None = None
    card: Card | None = None
    folder: str | None = None
    failure: str | None = None


def finished(result: EvalResult, *, model: str, bench: str | None = None) -> Attempt:
    """Return a finished evaluation as a cell of the table. bench: its name if not the card's."""
    found = result.evaluation
    return Attempt(model, bench or found.bench, found, result.card, folder=str(result.out))


@dataclass(frozen=True, slots=True, kw_only=True)
class TableCell:
    """A model on a benchmark. Shares and scores are from 0 to 1, null is unknown.

    k, n_problems: samples of each problem, and problems; null where there is no evaluation, and
        in a mean.
    rerun_95, stderr_rerun: error over reruns with the same problems; null if greedy.
    problems_95, stderr_problems: error over other problems of the kind.
    pass_at_j: pass@j for the table's j. mean_tokens: of a completion. cost: of all samples.
    stop_when: the half width of rerun_95 at which sampling stopped, if that was asked for.
    best: the difference to every other model, problems paired, excludes 0 on these problems
        (these), and also on others of this kind (all).
    failure: why there is no evaluation, or why it has fewer samples than were asked for.
    """

    model: Text
    bench: Text
    folder: Text | None = None
    failure: Text | None = None
    k: Count | None = None
    n_problems: Count | None = None
    avg_at_k: Real = math.nan
    stderr_rerun: Real = math.nan
    rerun_95: Ends = _UNKNOWN
    stderr_problems: Real = math.nan
    problems_95: Ends = _UNKNOWN
    pass_at_j: Real = math.nan
    maj_at_k: Real = math.nan
    mean_tokens: Real = math.nan
    truncated: Real = math.nan
    no_answer: Real = math.nan
    cost: Real = math.nan
    greedy: Flag = False
    stop_when: Real = math.nan
    best: Best | None = None

    @property
    def known(self) -> bool:
        return not math.isnan(self.avg_at_k)

    @property
    def margin(self) -> float:
        """Half the width of the rerun interval; NaN if greedy."""
        return self.rerun_95.half_width


@dataclass(frozen=True, slots=True)
class Table:
    """Every model on every benchmark.

    pass_j: the j of pass@j: the smallest k of the evaluations.
    cells: benchmark by benchmark, the models in order.
    means: of the models, over the benchmarks; empty for one benchmark. A model that lacks one
        has no mean.
    notes: what else a reader has to know. They may contain untrusted text.
    """

    models: tuple[Text, ...]
    benchmarks: tuple[Text, ...]
    pass_j: Count
    cells: tuple[TableCell, ...]
    means: tuple[TableCell, ...]
    notes: tuple[Text, ...]

    def column(self, bench: str) -> list[TableCell]:
        """The cells of a benchmark, a model each."""
        return [cell for cell in self.cells if cell.bench == bench]


TABLE = Format(Table, name="table", what="dgpo eval --json of several evaluations", stamp="version")


class _Lead(NamedTuple):
    """How far one model is ahead of another: by how much, with both intervals.

    sure: the test on these problems rejects 0, and so does the one over others.
    greedy: there is no error over reruns, so only other problems can say anything.
    """

    difference: float
    rerun: Interval
    problems: Interval
    sure: tuple[bool, bool]
    greedy: bool

    @property
    def best(self) -> Best | None:
        """What the lead shows; nothing where the other model may be as good."""
        these = self.sure[0] and self.rerun.low > 0
        others = self.sure[1] and self.problems.low > 0
        if others and (these or self.greedy):
            return "all"
        return "these" if these and not self.greedy else None


def make_table(
    attempts: Sequence[Attempt], *, models: Sequence[str] = (), benchmarks: Sequence[str] = ()
) -> Table:
    """Return the table of evaluations.

    models, benchmarks: what is in it also without an evaluation, in order; others come behind.

    The best of a column is marked where its difference to each other model excludes 0; one that
    was not evaluated, or under another protocol, leaves that open. All of
    these differences must exclude it at once, so their p-values need no adjustment for the number
    of models: where several are equally good, one is marked in at most 5% of the columns.
    Sources: Gutmann and Maymin, Ann. Stat. 15 (1987) 456; Berger, Technometrics 24 (1982) 295.
    """
    models = tuple(dict.fromkeys([*models, *(attempt.model for attempt in attempts)]))
    benchmarks = tuple(dict.fromkeys([*benchmarks, *(attempt.bench for attempt in attempts)]))
    found = {(attempt.bench, attempt.model): attempt for attempt in attempts}
    pass_j = min((o.evaluation.k for o in attempts if o.evaluation is not None), default=1)
    cells: list[TableCell] = []
    runs: list[dict[str, NamedEvaluation]] = []
    notes: list[str] = []
    for bench in benchmarks:
        column = [found.get((bench, name), Attempt(name, bench)) for name in models]
        own = {o.model: _named(o) for o in column if o.evaluation is not None}
        blocked = _incomparable(list(own.values()))
        if blocked is not None:
            notes.append(f"{bench}: no model is marked, {blocked}")
        whole = blocked is None and len(own) == len(models)
        best = _best_of([own], models) if whole else {}
        notes += [
            f"{each.model} on {bench}: {each.failure}"
            for each in column
            if each.evaluation is not None and each.failure is not None
        ]
        cells += [replace(_cell(o, pass_j=pass_j), best=best.get(o.model)) for o in column]
        runs.append(own if whole else {})
    means = _means(cells, models=models, runs=runs) if len(benchmarks) > 1 else ()
    return Table(models, benchmarks, pass_j, tuple(cells), tuple(means), tuple(notes))


def table_of(runs: Sequence[NamedEvaluation]) -> Table:
    """Return the table of evaluations of one benchmark; each is a row under its own name."""
    bench = runs[0].evaluation.bench
    return make_table(
        [Attempt(run.name, bench, run.evaluation, run.card, folder=run.name) for run in runs]
    )


def _named(attempt: Attempt) -> NamedEvaluation:
    assert attempt.evaluation is not None
    return NamedEvaluation(attempt.model, attempt.evaluation, attempt.card)


def _incomparable(runs: Sequence[NamedEvaluation]) -> str | None:
    """Return why models cannot be compared on a benchmark, if they cannot."""
    for other in runs[1:]:
        found = obstacles(runs[0], other)
        if found:
            more = f" and {len(found) - 1} more" if len(found) > 1 else ""
            return f"{runs[0].name} and {other.name} differ in {found[0]}{more}"
    return None


def _best_of(
    runs: Sequence[Mapping[str, NamedEvaluation]], models: Sequence[str]
) -> dict[str, Best | None]:
    """Return the best of the models, and what shows it; empty where nothing does.

    runs: the evaluations of each benchmark, by model; their mean is compared.
    """
    if len(models) < 2:
        return {}
    score = {
        name: math.fsum(own[name].evaluation.avg_at_k for own in runs) / len(runs)
        for name in models
    }
    first, *others = sorted(models, key=lambda name: -score[name])
    shown = set()
    for name in others:  # the closest first: mostly it settles that nothing is shown
        best = _lead([own[first] for own in runs], [own[name] for own in runs]).best
        if best is None:
            return {}
        shown.add(best)
    return {first: "all" if shown == {"all"} else "these"}


def _lead(ahead: Sequence[NamedEvaluation], behind: Sequence[NamedEvaluation]) -> _Lead:
    """Compare two models on each benchmark, and the means of their scores."""
    pairs = list(zip(behind, ahead, strict=True))
    found = [compare_runs(*zip(*common_problems(old, new), strict=True)) for old, new in pairs]
    both = [each.evaluation.greedy is True for pair in pairs for each in pair]
    differences = [each.difference for each in found]
    one = len(found) == 1  # intervals of a mean are its test; its p-value is not known
    return _Lead(
        difference=math.fsum(differences) / len(found),
        rerun=mean_interval(differences, [each.rerun_95 for each in found]),
        problems=mean_interval(differences, [each.problems_95 for each in found]),
        sure=(
            not one or found[0].p_rerun < LEVEL,
            not one or found[0].p_problems < LEVEL,
        ),
        greedy=any(both),
    )


def mean_interval(values: Sequence[float], intervals: Sequence[Interval]) -> Interval:
    """Return the interval of the mean of independent estimates; NaN if one is unknown.

    The distances from each value to the ends of its own interval add up as squares.
    Source: Zou, Huang and Zhang, Comput. Stat. Data Anal. 53 (2009) 1080.
    """
    n = len(values)
    mean = math.fsum(values) / n
    pairs = list(zip(values, intervals, strict=True))
    low = math.hypot(*(value - each.low for value, each in pairs))
    high = math.hypot(*(each.high - value for value, each in pairs))
    return Interval(mean - low / n, mean + high / n)


def _cell(attempt: Attempt, *, pass_j: int) -> TableCell:
    found = attempt.evaluation
    own = TableCell(
        model=attempt.model, bench=attempt.bench, folder=attempt.folder, failure=attempt.failure
    )
    if found is None:
        return own
    greedy = found.greedy is True
    return replace(
        own,
        k=found.k,
        n_problems=found.n_problems,
        avg_at_k=found.avg_at_k,
        stderr_rerun=math.nan if greedy else found.stderr_rerun,
        rerun_95=_UNKNOWN if greedy else found.rerun_95,
        stderr_problems=found.stderr_problems,
        problems_95=found.problems_95,
        pass_at_j=found.pass_at_k[pass_j],
        maj_at_k=found.maj_at_k,
        mean_tokens=found.lengths.mean,
        truncated=found.truncated,
        no_answer=found.no_answer,
        cost=_real(found.cost),
        greedy=greedy,
        stop_when=_real(found.stop_when),
    )


def _means(
    cells: Sequence[TableCell],
    *,
    models: Sequence[str],
    runs: Sequence[Mapping[str, NamedEvaluation]],
) -> Iterator[TableCell]:
    """Yield the mean of every model over the benchmarks, which count the same each."""
    best = _best_of(runs, models) if all(runs) else {}
    for name in models:
        row = [cell for cell in cells if cell.model == name]
        if all(cell.known for cell in row):
            yield replace(_mean(name, row), best=best.get(name))
        else:
            yield TableCell(model=name, bench=MEAN, failure="not evaluated on every benchmark")


def _mean(model: str, row: Sequence[TableCell]) -> TableCell:
    n = len(row)

    def mean(name: str) -> float:
        return math.fsum(getattr(cell, name) for cell in row) / n

    scores = [cell.avg_at_k for cell in row]
    ks = {cell.k for cell in row}
    return TableCell(
        model=model,
        bench=MEAN,
        k=ks.pop() if len(ks) == 1 else None,
        avg_at_k=mean("avg_at_k"),
        stderr_rerun=math.hypot(*(cell.stderr_rerun for cell in row)) / n,
        rerun_95=mean_interval(scores, [cell.rerun_95 for cell in row]),
        stderr_problems=math.hypot(*(cell.stderr_problems for cell in row)) / n,
        problems_95=mean_interval(scores, [cell.problems_95 for cell in row]),
        pass_at_j=mean("pass_at_j"),
        maj_at_k=mean("maj_at_k"),
        mean_tokens=mean("mean_tokens"),
        truncated=mean("truncated"),
        no_answer=mean("no_answer"),
        cost=mean("cost"),
        greedy=all(cell.greedy for cell in row),
    )


def _real(value: float | None) -> float:
    return math.nan if value is None else value
