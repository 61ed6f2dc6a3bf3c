"""The head of the page: what was trained, how far it came, what it gained, what to change first."""

from __future__ import annotations

import html
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dgpo_cli.algo.credit.target import IS_NOISE
from dgpo_cli.core.numbers import (
    ABSENT,
    cell,
    counted,
    decimal,
    duration,
    ends,
    error,
    percent,
    short,
)
from dgpo_cli.core.text import escaped, visible
from dgpo_cli.core.types import Interval, RunRecord
from dgpo_cli.report.series import RunSeries, known
from dgpo_cli.stats.student import student_quantile

_STATES = {
    "finished": '<span class="good">✓ finished</span>',
    "running": '<span class="accent">● running</span>',
    "stopped": '<span class="warn">■ stopped before its end</span>',
}


def overview(record: RunRecord, series: RunSeries) -> str:
    """The facts of one run, the numbers that matter large."""
    tiles = "".join(
        f'<div class="tile"><dt>{label}</dt><dd>{big}<span class="sub">{sub}</span></dd></div>'
        for label, big, sub in _tiles(record, series)
    )
    return f'<section class="card" aria-label="Overview"><dl class="tiles">{tiles}</dl></section>'


def _tiles(record: RunRecord, series: RunSeries) -> Iterator[tuple[str, str, str]]:
    done = int(series.steps[-1]) if series.steps else 0
    total = f" of {record.total:,}" if record.total is not None else ""
    yield "Steps", f"{done:,}{total}", _STATES[record.state]
    seconds = series.seconds[-1] if series.seconds else 0.0
    each = f"{duration(seconds / len(record.metrics))} a step" if record.metrics else ""
    timed = series.has("time/step_s")
    yield "Time in steps", cell(seconds if timed else None, duration), each if timed else ""
    tokens = series.tokens[-1] if series.tokens else 0.0
    if series.has("completion/tokens"):
        yield "Tokens sampled", short(tokens), "in completions"
    yield "Reward", *_gain(record)
    if series.evals:
        yield f"Avg@{escaped(str(series.evals[-1].get('k')))}", *_evaluated(series.evals)
        yield "Best checkpoint", *best(record, series)


def _gain(record: RunRecord) -> tuple[str, str]:
    """The reward of the first and the last steps: means with their errors."""
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
    """Mean and standard error of the reward at both ends, and how many steps an end has.

    A tenth of the run, at least 5 steps, never more than half; 0 where there is only one step.
    """
    rewards = [reward for line in record.metrics if (reward := line.get("reward/mean")) is not None]
    if not rewards:
        return None, None, 0
    width = min(len(rewards) // 2, max(5, len(rewards) // 10))
    if width == 0:
        return (rewards[0], math.nan), (rewards[0], math.nan), 0
    return _mean(rewards[:width]), _mean(rewards[-width:]), width


def half_95(stderr: float, count: int) -> float:
    """Half of Student's 95% interval for a mean of `count` values; NaN for one."""
    return student_quantile(0.975, freedom=count - 1) * stderr if count > 1 else math.nan


def _mean(values: Sequence[float]) -> tuple[float, float]:
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return statistics.fmean(values), error


def _evaluated(evals: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    first, last = evals[0], evals[-1]
    scores = [known(line.get("avg_at_k")) for line in (first, last)]
    shown = [cell(score, percent) for score in scores]
    text = shown[1] if len(evals) == 1 else f"{shown[0].removesuffix('%')} → {shown[1]}"
    return text, f"{escaped(str(last.get('bench')))}, step {last['step']}; 95%: {errors(last)}"


def errors(line: Mapping[str, Any]) -> str:
    """Both 95% intervals of an evaluation as text."""
    parts = [
        f"{ends(interval)} {name}"
        for key, name in (("rerun_95", "rerun"), ("problems_95", "problems"))
        if (interval := interval_of(line, key)) is not None
    ]
    return ", ".join(parts) or ABSENT


def interval_of(line: Mapping[str, Any], key: str) -> Interval | None:
    """An interval of a line of evals.jsonl; None where it is not known."""
    found = line.get(key)
    found = found if isinstance(found, Mapping) else {}
    low, high = known(found.get("low")), known(found.get("high"))
    return None if low is None or high is None else Interval(low, high)


def best(record: RunRecord, series: RunSeries) -> tuple[str, str]:
    """The step with the highest Avg@k, whether its checkpoint is there, and how sure that is."""
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
    """After which steps the run changed its settings, in words; empty if it never did."""
    steps = ", ".join(f"{step:,}" for step in sorted({each.step for each in record.changes}))
    return f"settings changed after step {steps}" if steps else ""


def diagnoses(records: Sequence[RunRecord]) -> str:
    """What to change first in each run, or that nothing is wrong; nothing where none is known."""
    known_records = [record for record in records if not _undiagnosed(record)]
    if not known_records:
        return ""
    alarm = " alarm" if any(record.diagnoses for record in known_records) else ""
    parts = [f'<section class="card{alarm}"><h2>What to change first</h2>']
    for record in known_records:
        if len(records) > 1:
            parts.append(f"<h3>{escaped(record.name)}</h3>")
        parts.append(_diagnoses(record))
    return "".join([*parts, "</section>"])


def _diagnoses(record: RunRecord) -> str:
    found = record.diagnoses
    steps = sum(line.get("reward/mean") is not None for line in record.metrics)
    if not found and steps < record.diagnosed_from:
        return (
            f'<p class="muted">Too early to say: it takes {record.diagnosed_from} steps with a '
            f"reward, and there {'is' if steps == 1 else 'are'} {steps or 'none'}.</p>"
        )
    if not found:
        return (
            '<p class="good">✓ Nothing is wrong as far as the metrics of the last steps show.</p>'
        )
    items = "".join(
        f'<li><p class="headline"><strong>{escaped(each.headline)}</strong> '
        f'<span class="muted">step {each.step}</span></p>'
        f"<p>{escaped(each.evidence)}</p>"
        f'<p class="advice"><b>Change</b> {escaped(each.advice)}</p></li>'
        for each in found
    )
    return f'<ol class="diagnoses">{items}</ol>'


def _undiagnosed(record: RunRecord) -> bool:
    """Whether nothing could be said because nothing could be read."""
    return not record.metrics or any(note.startswith("not diagnosed") for note in record.notes)


def events(record: RunRecord, *, series: RunSeries, named: bool = False) -> str:
    """What else a reader has to know: what was not finite, not read, or put together."""
    lines = [*record.notes]
    if record.bad_batches:
        steps = ", ".join(map(str, record.bad_batches[:20]))
        more = " ..." if len(record.bad_batches) > 20 else ""
        lines.append(
            f"loss or gradient was not finite at step {steps}{more}: the weights were not touched "
            "there; the batches are in bad_batches/"
        )
    lines += _gaps(record)
    if series.size > 1:
        lines.append(
            f"{counted(len(record.metrics), 'step')} are more than a curve can show: each point is "
            f"the mean of {series.size} steps, the band around it runs over their extremes"
        )
    if len(series.evals) < len(record.evals):
        lines.append(
            f"{counted(len(record.evals) - len(series.evals), 'evaluation')} of another benchmark "
            "or k are in the table and not in the chart"
        )
    if not lines:
        return ""
    items = "".join(f"<li>{html.escape(visible(line))}</li>" for line in lines)
    of = f" · {escaped(record.name)}" if named else ""
    return f'<section class="card"><h2>Notes{of}</h2><ul class="events">{items}</ul></section>'


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
