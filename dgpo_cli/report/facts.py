"""The words and numbers of the page of runs, as text: what was trained, how far, with what gain,
and how several runs differ. The template makes the HTML."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dgpo_cli.algo.credit.target import IS_NOISE
from dgpo_cli.config.changes import parts_of, value_text
from dgpo_cli.core.numbers import (
    ABSENT,
    cell,
    counted,
    decimal,
    duration,
    ends,
    error,
    fraction,
    moment,
    percent,
    points,
    scientific,
    short,
    signed,
    size,
    tokens,
)
from dgpo_cli.core.text import UNICODE
from dgpo_cli.core.types import InspectedCompletion, RunRecord, StoredSamples
from dgpo_cli.inspect.token_html import TokenLine, token_lines
from dgpo_cli.inspect.views.header import outcome, term_values
from dgpo_cli.report.curves import RunSeries, interval_of, kind_of, known
from dgpo_cli.stats.intervals import student_quantile

UNSET = "(unset)"
Cell = tuple[str, str]  # text, and its difference from the first run
Row = tuple[str, list[Cell]]
_STATES = {
    "finished": ("✓ finished", "good"),
    "running": ("● running", "accent"),
    "stopped": ("■ stopped before its end", "warn"),
}


@dataclass(frozen=True, slots=True)
class Tile:
    """A fact of the overview: a large number, the rest below, and the class `state`."""

    label: str
    big: str
    sub: str
    state: str = ""


@dataclass(frozen=True, slots=True)
class ShownSample:
    """A completion as the page shows it.

    length: of the whole completion. note: of the reward, if it says something.
    """

    completion: InspectedCompletion
    length: int
    outcome: str
    facts: str
    note: str
    lines: Sequence[TokenLine]


def subject(record: RunRecord) -> str:
    """Return what was trained and how, as far as the settings say."""
    values = {each.key: each.value for each in record.settings}
    parts = [values.get("model.path", "")]
    if values.get("adapter.kind", "none") != "none":
        parts.append(f"{values['adapter.kind']} r={values.get('adapter.rank', '?')}")
    rule = values.get("credit.rule")
    if rule:
        tau = f", tau {values['credit.tau']}" if rule == "dgpo" and "credit.tau" in values else ""
        parts.append(f"credit {rule}{tau}")
    if "rollout.prompts_per_step" in values and "rollout.group_size" in values:
        parts.append(
            f"{values['rollout.prompts_per_step']} × {values['rollout.group_size']} a step"
        )
    if "optim.lr" in values:
        parts.append(f"lr {values['optim.lr']}")
    parts.append(changed_after(record))
    return " · ".join(part for part in parts if part)


def tiles(record: RunRecord, series: RunSeries) -> Iterator[Tile]:
    """Yield the facts of one run."""
    done = int(series.steps[-1]) if series.steps else 0
    total = f" of {record.total:,}" if record.total is not None else ""
    yield Tile("Steps", f"{done:,}{total}", *_STATES[record.state])
    seconds = series.seconds[-1] if series.seconds else 0.0
    each = f"{duration(seconds / len(record.metrics))} a step" if record.metrics else ""
    timed = series.has("time/step_s")
    yield Tile("Time in steps", cell(seconds if timed else None, duration), each if timed else "")
    tokens = series.tokens[-1] if series.tokens else 0.0
    if series.has("completion/tokens"):
        yield Tile("Tokens sampled", short(tokens), "in completions")
    yield Tile("Reward", *_gain(record))
    if series.evals:
        yield Tile(f"Avg@{series.evals[-1].get('k')}", *_evaluated(series.evals))
        yield Tile("Best checkpoint", *best(record, series))


def _gain(record: RunRecord) -> tuple[str, str]:
    """Return the reward of the first and the last steps: means with 95% intervals."""
    first, last, width = reward_ends(record)
    if first is None or last is None:
        return ABSENT, "no reward in metrics.jsonl"
    if width == 0:
        return decimal(last[0]), "of one step"
    many = "first and last step" if width == 1 else f"means of the first and last {width} steps"
    if width > 1:
        half = max(half_95(stderr, width) for _, stderr in (first, last))
        many += f", each ± {error(half)} (95%)"
    return f"{decimal(first[0])} → {decimal(last[0])}", many


def reward_ends(
    record: RunRecord,
) -> tuple[tuple[float, float] | None, tuple[float, float] | None, int]:
    """Return mean and standard error of the reward at both ends, and the number of steps of an end.

    It is a tenth of the run, at least 5 steps, at most half; 0 if there is only one step.
    """
    rewards = [reward for line in record.metrics if (reward := line.get("reward/mean")) is not None]
    if not rewards:
        return None, None, 0
    width = min(len(rewards) // 2, max(5, len(rewards) // 10))
    if width == 0:
        return (rewards[0], math.nan), (rewards[0], math.nan), 0
    return _mean(rewards[:width]), _mean(rewards[-width:]), width


def half_95(stderr: float, count: int) -> float:
    """Return half of Student's 95% interval for a mean of `count` values; NaN for one."""
    return student_quantile(0.975, freedom=count - 1) * stderr if count > 1 else math.nan


def _mean(values: Sequence[float]) -> tuple[float, float]:
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return statistics.fmean(values), error


def _evaluated(evals: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    first, last = evals[0], evals[-1]
    scores = [known(line.get("avg_at_k")) for line in (first, last)]
    shown = [cell(score, percent) for score in scores]
    text = shown[1] if len(evals) == 1 else f"{shown[0].removesuffix('%')} → {shown[1]}"
    return text, f"{last.get('bench')}, step {last['step']}; 95%: {errors(last)}"


def errors(line: Mapping[str, Any]) -> str:
    """Return both 95% intervals of an evaluation as text."""
    parts = [
        f"{ends(interval)} {name}"
        for key, name in (("rerun_95", "rerun"), ("problems_95", "problems"))
        if (interval := interval_of(line, key)) is not None
    ]
    return ", ".join([*parts, *(["greedy"] if line.get("greedy") else [])]) or ABSENT


def best(record: RunRecord, series: RunSeries) -> tuple[str, str]:
    """Return the step with the highest Avg@k, whether its checkpoint exists, and its rivals."""
    scored = [
        (score, line) for line in series.evals if (score := known(line.get("avg_at_k"))) is not None
    ]
    if not scored:
        return ABSENT, "no Avg@k known"
    score, line = max(scored, key=lambda each: (each[0], -float(each[1]["step"])))
    step = int(line["step"])
    kept = any(each.step == step for each in record.checkpoints)
    where = "kept" if kept else "the untrained model" if step == 0 else "not kept"
    rerun = interval_of(line, "rerun_95")
    least = score if rerun is None else rerun.low
    rivals = sum(other >= least for other, _ in scored)
    sure = "" if rivals < 2 else f"; {counted(rivals - 1, 'other')} within its rerun interval"
    return f"step {step}", f"{percent(score)}, {where}{sure}"


def changed_after(record: RunRecord) -> str:
    """Return after which steps the run changed its settings, in words; empty if it never did."""
    steps = ", ".join(f"{step:,}" for step in sorted({each.step for each in record.changes}))
    return f"settings changed after step {steps}" if steps else ""


def rewarded(record: RunRecord) -> int:
    """Return the number of steps with a reward."""
    return sum(line.get("reward/mean") is not None for line in record.metrics)


def is_diagnosed(record: RunRecord) -> bool:
    """Return whether the run could be diagnosed."""
    return bool(record.metrics) and not any(
        note.startswith("not diagnosed") for note in record.notes
    )


def notes(record: RunRecord, *, series: RunSeries) -> list[str]:
    """Return what else a reader has to know: what was not finite, not read, or averaged."""
    lines = [*record.notes]
    if record.bad_batches:
        steps = ", ".join(map(str, record.bad_batches[:20]))
        more = " ..." if len(record.bad_batches) > 20 else ""
        lines.append(
            f"loss or gradient was not finite at step {steps}{more}: the weights did not change "
            "there; the batches are in bad_batches/"
        )
    lines += _gaps(record)
    if series.size > 1:
        lines.append(
            f"{counted(len(record.metrics), 'step')} are more than a curve can show: each point is "
            f"the mean of {series.size} steps, the band around it their range"
        )
    if len(series.evals) < len(record.evals):
        lines.append(
            f"{counted(len(record.evals) - len(series.evals), 'evaluation')} of another benchmark "
            "or k are in the table and not in the chart"
        )
    return lines


def _gaps(record: RunRecord) -> Iterator[str]:
    steps = [int(line["step"] or 0) for line in record.metrics]
    if not steps:
        yield "no step is in metrics.jsonl yet"
        return
    missing = steps[-1] - steps[0] + 1 - len(steps)
    if missing:
        yield f"metrics.jsonl lacks {counted(missing, 'step')} between {steps[0]} and {steps[-1]}"
    noisy = [int(line["step"] or 0) for line in record.metrics if line.get(IS_NOISE) == 1.0]
    if noisy:
        yield (
            f"d was noise in {counted(len(noisy), 'step')}, the last of them step {noisy[-1]}: "
            "rounding alone makes about as much"
        )
    skipped = sum(line.get("optim/skipped_no_signal") == 1.0 for line in record.metrics)
    if skipped:
        yield f"{counted(skipped, 'step')} moved nothing: no group had signal"


def compared(records: Sequence[RunRecord], runs: Sequence[RunSeries]) -> Iterator[Row]:
    """Yield the runs and their final numbers, with the differences from the first run."""
    yield "run", _plain(record.name for record in records)
    yield "state", _plain(record.state for record in records)
    steps = [run.steps[-1] if run.steps else None for run in runs]
    yield "steps", _against_first(steps, short)
    spent = [run.seconds[-1] if run.has("time/step_s") else None for run in runs]
    yield "time in steps", _plain(cell(each, duration) for each in spent)
    firsts, lasts, widths = zip(*map(reward_ends, records), strict=True)
    yield "reward, first steps", _against_first([each and each[0] for each in firsts], decimal)
    yield "reward, last steps", _against_first([each and each[0] for each in lasts], decimal)
    errors = [each and half_95(each[1], width) for each, width in zip(lasts, widths, strict=True)]
    yield "± of it, 95%", _plain(cell(each, error) for each in errors)
    for metric, name, write in (
        ("outcome/correct", "correct, last step", percent),
        ("completion/length_mean", "length, last step", tokens),
        ("policy/entropy", "entropy, last step", decimal),
        ("credit/effective_fraction", "effective token fraction, last step", fraction),
        ("policy/hellinger_sq_mean", "mean d, last step", scientific),
    ):
        if any(run.has(metric) for run in runs):
            cells = _against_first([_last(record, metric) for record in records], write)
            if metric == "policy/hellinger_sq_mean":
                noisy = [_last(record, IS_NOISE) == 1.0 for record in records]
                cells = [
                    (f"{text} (noise)" if noise else text, apart)
                    for (text, apart), noise in zip(cells, noisy, strict=True)
                ]
            yield name, cells
    if any(run.evals for run in runs):
        kinds = [kind_of(run.evals[-1]) if run.evals else None for run in runs]
        scores = [known(run.evals[-1].get("avg_at_k")) if run.evals else None for run in runs]
        same = [kind == kinds[0] for kind in kinds]
        yield "last Avg@k", _against_first(scores, percent, comparable=same)
        yield "of", _plain(f"{kind[0]}, k = {kind[1]}" if kind else ABSENT for kind in kinds)


def _plain(texts: Iterable[str]) -> list[Cell]:
    return [(text, "") for text in texts]


def _last(record: RunRecord, metric: str) -> float | None:
    """Return the last known value; a point of the curve may be the mean of several steps."""
    known_values = (line.get(metric) for line in reversed(record.metrics))
    return next((each for each in known_values if each is not None), None)


def _against_first(
    numbers: Sequence[float | None],
    written: Callable[[float], str],
    *,
    comparable: Sequence[bool] | None = None,
) -> list[Cell]:
    """Return each number, those after the first with their difference from it."""
    first = numbers[0]
    cells: list[Cell] = []
    for at, number in enumerate(numbers):
        text = cell(number, written)
        apart = ""
        if at and number is not None and first is not None:
            apart = (
                points(number - first) if written is percent else signed(number - first, written)
            )
        shown = apart and (comparable is None or comparable[at])
        cells.append((text, apart if shown else ""))
    return cells


def warned(records: Sequence[RunRecord]) -> Iterator[str]:
    """Yield what makes these runs hard to compare."""
    for record in records:
        if text := changed_after(record):
            yield f"{record.name}: {text}, so its curves are not of one method."
    kinds = {kind_of(line) for record in records for line in record.evals}
    benches, ks = {kind[0] for kind in kinds}, {str(kind[1]) for kind in kinds}
    if len(benches) > 1:
        yield f"Benchmarks differ ({', '.join(sorted(benches))}): their Avg@k are not comparable."
    if len(ks) > 1:
        yield (
            f"k differs ({', '.join(sorted(ks))}): Avg@k has the same mean for every k, but not "
            "the same error; pass@k and maj@k are not comparable."
        )
    for key, what in (("model.path", "models"), ("prompts.kind", "prompts")):
        values = {setting.value for r in records for setting in r.settings if setting.key == key}
        if len(values) > 1:
            yield f"The {what} differ: rewards are not comparable."
    rewards = {
        tuple((s.key, s.value) for s in record.settings if s.key.startswith("reward."))
        for record in records
        if record.settings
    }
    if len(rewards) > 1:
        yield "The reward settings differ: rewards are not comparable."


def differing(records: Sequence[RunRecord]) -> list[list[str]]:
    """Return the settings that differ between runs, each with its values."""
    columns = [{each.key: each.value for each in record.settings} for record in records]
    keys = dict.fromkeys(key for column in columns for key in column)
    rows = [[key, *(column.get(key, UNSET) for column in columns)] for key in keys]
    return [row for row in rows if len(set(row[1:])) > 1]


def changes(record: RunRecord) -> list[list[str]]:
    """Return the settings that the run changed, a row each."""
    return [
        [name, value_text(old), value_text(new), f"{each.step:,}"]
        for each in record.changes
        for name, old, new in parts_of(each.setting, each.old, each.new)
    ]


def evaluations(record: RunRecord) -> list[list[str]]:
    """Return every evaluation with both 95% intervals."""

    def share(line: object) -> str:
        return cell(known(line), percent)

    return [
        [
            str(int(line["step"])),
            str(line.get("bench")),
            str(line.get("k")),
            share(line.get("avg_at_k")),
            errors(line),
            share(line.get("pass_at_k")),
            share(line.get("maj_at_k")),
            share(line.get("truncated")),
            cell(known(line.get("length_mean")), tokens),
        ]
        for line in record.evals
    ]


def samples(found: StoredSamples | None) -> list[ShownSample]:
    """Return the newest completions, coloured by credit weight."""
    if found is None:
        return []
    return [
        ShownSample(
            completion=shown,
            length=length,
            outcome=outcome(shown, glyphs=UNICODE),
            facts=(
                f"reward {short(shown.reward)}{_terms(shown)}, advantage "
                f"{signed(shown.advantage)}, {length:,} tokens, effective token fraction "
                f"{fraction(shown.effective_fraction)}, gold {shown.answer}"
            ),
            note=shown.note or "",
            lines=list(token_lines(shown.tokens, vocab_size=found.inspection.vocab_size)),
        )
        for shown, length in zip(found.inspection.completions, found.lengths, strict=True)
    ]


def _terms(shown: InspectedCompletion) -> str:
    return f" ({term_values(shown)})" if shown.terms else ""


def checkpoints(record: RunRecord) -> list[list[str]]:
    """Return the checkpoints, newest first."""
    return [
        [f"step-{each.step:06d}", moment(each.written), size(each.size)]
        for each in reversed(record.checkpoints)
    ]


def settings(record: RunRecord) -> list[tuple[str, list[list[str]]]]:
    """Return all settings: first those set by hand, then other than the defaults, then the rest."""
    groups: dict[str, list[list[str]]] = {
        "Set by hand": [],
        "Other than the defaults": [],
        "Defaults": [],
    }
    by_hand, other, rest = groups.values()
    for each in record.settings:
        is_by_hand = each.source and not each.source.startswith("preset ")
        is_changed = each.value != each.default
        default = "" if each.default is None or not is_changed else each.default
        row = [each.key, each.value, default, each.source or "default"]
        (by_hand if is_by_hand else other if is_changed else rest).append(row)
    return list(groups.items()) if record.settings else []


def summary(run: RunSeries, name: str) -> tuple[str, ...]:
    """Return the first, last, smallest and largest value of a metric."""
    column = run.columns[name]
    mean, low, high = (
        [each for each in values if each is not None]
        for values in (column.mean, column.low or column.mean, column.high or column.mean)
    )
    return tuple(map(short, (mean[0], mean[-1], min(low), max(high))))
