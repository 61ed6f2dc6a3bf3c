"""The words and numbers of the page of a study. What they are is decided in study/summary.py."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from dgpo_cli.config.changes import value_text
from dgpo_cli.core.numbers import (
    counted,
    interval_known,
    p_value,
)
from dgpo_cli.core.types import StudyRecord, StudyRun
from dgpo_cli.report.charts.forest import Effect
from dgpo_cli.report.study_series import StudySeries, VariantSeries
from dgpo_cli.stats.paired import PairedDifference
from dgpo_cli.study.summary import Measure, StudyRow, StudyTable
from dgpo_cli.study.view import in_points, in_reward

Of = Callable[[StudyRow], Measure | None]
Write = Callable[[PairedDifference], str]
_NUMBER = re.compile(r"([+-]?[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?) ?([a-z]*)")
_UNITS = {"ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True, slots=True)
class Effects:
    """A forest plot of differences from the baseline."""

    title: str
    effects: tuple[Effect, ...]


def subject(record: StudyRecord) -> str:
    """Return what was compared with what."""
    done = sum(run.state == "finished" for run in record.runs)
    parts = (
        f"{counted(len(record.variants), 'variant')} × {counted(len(record.seeds), 'seed')}",
        f"{done} of {counted(len(record.runs), 'run')} finished",
        f"baseline {record.baseline}",
    )
    return " · ".join(parts)


def effects(table: StudyTable, study: StudySeries, *, lettered: bool) -> Iterator[Effects]:
    """Yield the paired differences of the reward, and those of Avg@k if there are evaluations.

    lettered: with the letters of the page before the names.
    """
    variants = {each.name: each for each in study.variants}

    def rows(of: Of, write: Write) -> tuple[Effect, ...]:
        base = of(table.rows[0])
        return tuple(
            _effect(found, base, variants[row.variant], write=write, lettered=lettered)
            for row in table.rows[1:]
            if base is not None and (found := of(row)) is not None and found.difference is not None
        )

    if reward := rows(lambda row: row.reward, in_reward):
        yield Effects(f"Mean reward over training, minus that of {table.baseline}", reward)
    kind = next((row.score for row in table.rows if row.score is not None), None)
    score = rows(lambda row: row.score_after, in_points)
    if score and kind is not None:
        name = f"Avg@{kind.k} on {kind.bench}"
        title = f"{name} after training, minus that of {table.baseline}, in points"
        yield Effects(title, tuple(map(_times_100, score)))


def _effect(
    found: Measure, base: Measure, variant: VariantSeries, *, write: Write, lettered: bool
) -> Effect:
    difference = found.difference
    assert difference is not None
    pairs = ((value, base.by_seed.get(seed, math.nan)) for seed, value in found.by_seed.items())
    ends = difference.interval_95
    known = interval_known(ends)
    p = p_value(difference.p_holm)
    text = f"{write(difference)}, p {p if p[0] == '<' else f'= {p}'}"
    if not known:
        many = "one seed" if difference.seeds == 1 else "all seeds alike"
        text = f"{write(difference)}, no interval: {many}"
    return Effect(
        label=f"{variant.letter} {variant.name}" if lettered else variant.name,
        look=variant.look,
        mean=difference.mean,
        low=ends.low if known else None,
        high=ends.high if known else None,
        dots=tuple(each for value, other in pairs if math.isfinite(each := value - other)),
        text=text,
        key=variant.letter,
    )


def _times_100(effect: Effect) -> Effect:
    low, high = (None if end is None else 100 * end for end in (effect.low, effect.high))
    dots = tuple(100 * dot for dot in effect.dots)
    return replace(effect, mean=100 * effect.mean, low=low, high=high, dots=dots)


def key_of(text: str) -> float | None:
    """Return the number that a cell of the table is sorted by, of a time in seconds; or None."""
    found = _NUMBER.findall(text.replace(",", ""))
    if not found:
        return None
    timed = [float(number) * _UNITS[unit] for number, unit in found if unit in _UNITS]
    return sum(timed) if timed else float(found[0][0])


def settings(record: StudyRecord) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Return the settings by which variants differ, and each variant's values of them."""
    keys = dict.fromkeys(key for each in record.variants for key in (*each.settings, *each.tuned))
    rows = []
    for each in record.variants:
        texts = []
        for key in keys:
            value = {**each.settings, **each.tuned}.get(key)
            tuned = " (tuned)" if key in each.tuned else ""
            texts.append("" if value is None else f"{value_text(value)}{tuned}")
        rows.append((each.name, texts))
    return list(keys), rows


def runs(record: StudyRecord, *, at: Path) -> Iterator[tuple[str, list[tuple[StudyRun, str]]]]:
    """Yield the runs of each variant, with what they link to from the folder `at`."""
    for variant in record.variants:
        own = [run for run in record.runs if run.variant == variant.name]
        yield variant.name, [(run, _link(run, at=at)) for run in own]


def _link(run: StudyRun, *, at: Path) -> str:
    """Return the address of a run's report, or of its folder; empty if there is none."""
    folder = Path(run.folder)
    if not folder.is_dir():
        return ""
    page = folder / "report.html"
    there = os.path.relpath(page if page.is_file() else folder, at)
    return quote(Path(there).as_posix() + "/" * (not page.is_file()))
