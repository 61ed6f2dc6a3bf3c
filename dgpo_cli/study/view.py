"""The table of a study as grids and sentences, and for a terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Literal

from dgpo_cli.config.changes import value_text
from dgpo_cli.core.numbers import (
    ABSENT,
    counted,
    decimal,
    duration,
    error_digits,
    interval_known,
    margin,
    p_value,
    percent,
    points,
    short,
    signed,
    signed_ends,
    with_error,
)
from dgpo_cli.core.text import visible
from dgpo_cli.stats.intervals import NORMAL_95
from dgpo_cli.stats.paired import PairedDifference
from dgpo_cli.study.summary import Measure, Score, StudyRow, StudyTable
from dgpo_cli.ui.grid import Entry, Grid, Row, draw_grid
from dgpo_cli.ui.page import Page, View
from dgpo_cli.ui.ramp import Depth

_NONE = Entry(ABSENT)
_FEW = 5  # seeds below which the spread of differences is hardly known


def grids(table: StudyTable) -> list[Grid]:
    """Return the grids of rewards, of evaluations if there are any, and of training."""
    found = [_reward(table)]
    if any(row.score is not None for row in table.rows):
        found.append(_scores(table))
    return [grid for grid in (*found, _end(table), _training(table)) if grid.heads]


def _grid(
    table: StudyTable,
    title: str,
    note: str,
    columns: Sequence[tuple[str, list[Entry]]],
) -> Grid:
    """Return a grid of columns; those without any number are left out."""
    there = [(head, entries) for head, entries in columns if any(e != _NONE for e in entries)]
    rows = [
        Row(row.variant, tuple(entries[at] for _, entries in there))
        if row.finished
        else Row(row.variant, failure="no finished run")
        for at, row in enumerate(table.rows)
    ]
    return Grid(title, note, tuple(head for head, _ in there), tuple(rows), names="variant")


def _reward(table: StudyTable) -> Grid:
    found = [row.reward for row in table.rows]
    columns = [
        ("seeds", [_seeds(row) for row in table.rows]),
        ("mean", _means(found)),
        ("difference", _differences(found)),
        ("p", [_p(each) for each in found]),
        ("for 0.01", [_needed(each) for each in found]),
    ]
    return _grid(table, "Mean reward", _against(table), columns)


def _end(table: StudyTable) -> Grid:
    found = [row.last for row in table.rows]
    columns = [
        ("mean", _means(found)),
        ("difference", _differences(found)),
        ("p", [_p(each) for each in found]),
        (f"steps to {decimal(table.level)}", [_to_level(row) for row in table.rows]),
    ]
    return _grid(table, f"Last {table.window} steps", _against(table), columns)


def _against(table: StudyTable) -> str:
    return f"against {table.baseline}"


def _scores(table: StudyTable) -> Grid:
    scores = [row.score for row in table.rows]
    kind = next(score for score in scores if score is not None)

    def each(write: Callable[[Score], Entry]) -> list[Entry]:
        return [_NONE if score is None else write(score) for score in scores]

    return _grid(
        table,
        f"Avg@{kind.k} on {kind.bench}",
        f"percent, {_against(table)}",
        [
            ("before", each(_before)),
            ("after", each(_after)),
            ("difference", each(lambda score: _gained(score.after.difference))),
            ("p", each(lambda score: _p(score.after))),
            ("for 1 point", each(lambda score: _needed(score.after))),
            ("on others", each(_on_others)),
        ],
    )


def _training(table: StudyTable) -> Grid:
    rows = table.rows
    return _grid(
        table,
        "Training",
        "means",
        [
            ("grad norm", _means([row.grad_norm for row in rows])),
            ("noise scale", [_number(row.noise_scale) for row in rows]),
            ("effective", [_share(row.effective_fraction.mean) for row in rows]),
            ("time a run", [_time(row.seconds.mean) for row in rows]),
            ("CPU time", [_time(row.cpu_seconds.mean) for row in rows]),
            *((key, [_tuned(row, key) for row in rows]) for key in _tuned_keys(table)),
        ],
    )


def _tuned_keys(table: StudyTable) -> list[str]:
    """Return the settings that the search of a variant chose."""
    return list(dict.fromkeys(key for row in table.rows for key in row.tuned))


def _tuned(row: StudyRow, key: str) -> Entry:
    return Entry(value_text(row.tuned[key])) if key in row.tuned else _NONE


def _seeds(row: StudyRow) -> Entry:
    whole = row.finished == row.planned
    return Entry(str(row.finished) if whole else f"{row.finished}/{row.planned}")


def _means(found: Sequence[Measure]) -> list[Entry]:
    halves = [each.interval_95.half_width for each in found]
    digits = error_digits(halves)
    return [
        Entry(*with_error(each.mean, half, digits=digits)) if each.seeds else _NONE
        for each, half in zip(found, halves, strict=True)
    ]


def _differences(found: Sequence[Measure]) -> list[Entry]:
    there = [each.difference for each in found]
    digits = error_digits(each.interval_95.half_width for each in there if each is not None)
    return [_NONE if each is None else _difference(each, digits=digits) for each in there]


def _difference(each: PairedDifference, *, digits: int) -> Entry:
    half = each.interval_95.half_width
    text, error = with_error(each.mean, half, sign=True, digits=digits)
    return Entry(text, error, "*" * each.shown)


def _gained(each: PairedDifference | None) -> Entry:
    """A difference of shares, in percentage points."""
    if each is None:
        return _NONE
    half = each.interval_95.half_width
    return Entry(points(each.mean), margin(half) if math.isfinite(half) else "", "*" * each.shown)


def _p(found: Measure) -> Entry:
    each = found.difference
    return _NONE if each is None or math.isnan(each.p_holm) else Entry(p_value(each.p_holm))


def _needed(found: Measure) -> Entry:
    each = found.difference
    return (
        _NONE
        if each is None or each.seeds_for_point is None
        else Entry(f"{each.seeds_for_point:,}")
    )


def _before(score: Score) -> Entry:
    if math.isnan(score.before):
        return _NONE
    half = NORMAL_95 * score.before_rerun
    return Entry(_bare(score.before), margin(half) if math.isfinite(half) else "")


def _after(score: Score) -> Entry:
    if not score.after.seeds:
        return _NONE
    half = score.after.interval_95.half_width
    return Entry(_bare(score.after.mean), margin(half) if math.isfinite(half) else "")


def _on_others(score: Score) -> Entry:
    found = score.difference_problems_95
    return Entry(signed_ends(found)) if interval_known(found) else _NONE


def _bare(share: float) -> str:
    return percent(share).removesuffix("%")


def _to_level(row: StudyRow) -> Entry:
    seeds = row.reward.seeds
    if not seeds:
        return _NONE
    if row.reached < seeds:
        return Entry(f"{row.reached}/{seeds} get there")
    half = row.to_level.interval_95.half_width
    return Entry(f"{row.to_level.mean:.1f}", f"{half:.1f}" if math.isfinite(half) else "")


def _number(value: float) -> Entry:
    return _NONE if math.isnan(value) else Entry(short(float(f"{value:.3g}")))


def _share(value: float) -> Entry:
    return _NONE if math.isnan(value) else Entry(percent(value))


def _time(seconds: float) -> Entry:
    return _NONE if math.isnan(seconds) else Entry(duration(seconds))


def sentences(table: StudyTable) -> list[str]:
    """Return what the table shows and what it cannot tell; names in it are untrusted text."""
    found = list(_told(table, "Mean reward", lambda row: row.reward, in_reward, point="0.01"))
    scored = next((row.score for row in table.rows if row.score is not None), None)
    if scored is not None:
        name = f"Avg@{scored.k} on {visible(scored.bench)}"
        found += _told(table, name, lambda row: row.score_after, in_points, point="1 point")
    return found


def _told(
    table: StudyTable,
    what: str,
    of: Callable[[StudyRow], Measure | None],
    write: Callable[[PairedDifference], str],
    *,
    point: str,
) -> Iterator[str]:
    """Yield a sentence for each verdict that some variants share."""
    rows = [(visible(row.variant), own) for row in table.rows if (own := of(row)) is not None]
    pairs = [(name, own.difference) for name, own in rows if own.difference is not None]
    base = visible(table.baseline)

    def those(verdict: _Verdict) -> list[tuple[str, PairedDifference]]:
        return [(name, each) for name, each in pairs if _verdict(each) == verdict]

    def listed(found: Sequence[tuple[str, PairedDifference]]) -> str:
        return "; ".join(f"{name} {write(each)}" for name, each in found)

    for verdict in ("above", "below"):
        if found := those(verdict):
            yield f"{what} {verdict} {base}: {listed(found)}."
    if found := those("undecided"):
        many = sum(not math.isnan(each.p) for _, each in pairs)
        yield (
            f"{what} undecided: {listed(found)}: the interval excludes 0, but p corrected for "
            f"{many} comparisons does not show it."
        )
    if found := those("untold"):
        yield f"{what} not told apart from {base}: {listed(found)}.{_would_show(found, point)}"
    if found := those("same"):
        yield f"{what} the same as {base} in every seed: {_names(found)}."
    if found := those("no error"):
        yield (
            f"{what} has no interval: {_names(found)}: give two seeds at least, whose differences "
            "differ."
        )
    alone = [name for name, each in rows if each.seeds and each.difference is None]
    alone = [name for name in alone if name != base]
    if alone:
        yield f"{what} not compared: {', '.join(alone)}: no finished seed that {base} has too."


def _names(found: Sequence[tuple[str, PairedDifference]]) -> str:
    return ", ".join(name for name, _ in found)


_Verdict = Literal["above", "below", "undecided", "untold", "same", "no error"]


def _verdict(each: PairedDifference) -> _Verdict:
    if math.isnan(each.p):
        return "no error"
    if each.stderr == 0.0:
        return "same"
    if each.shown:
        return "above" if each.mean > 0 else "below"
    return "undecided" if each.excludes_zero else "untold"


def _would_show(found: Sequence[tuple[str, PairedDifference]], point: str) -> str:
    """Say how many seeds would show a point of all these; roughly where a few have shown it."""
    most = max(each.seeds_for_point or 0 for _, each in found)
    rough = "roughly " if min(each.seeds for _, each in found) < _FEW else ""
    return f" To show {point} takes {rough}{counted(most, 'seed')}." if most else ""


def in_reward(each: PairedDifference) -> str:
    """Return a difference of rewards in words, with its interval if that is known."""
    ends = each.interval_95
    if not interval_known(ends):
        return signed(each.mean)
    numbers = (each.mean, ends.low, ends.high)
    mean, low, high = (with_error(value, ends.half_width, sign=True)[0] for value in numbers)
    return f"{mean} ({low} to {high})"


def in_points(each: PairedDifference) -> str:
    """Return a difference of shares in words, in percentage points."""
    ends = f" ({signed_ends(each.interval_95)})" if interval_known(each.interval_95) else ""
    return f"{points(each.mean)}{ends}"


def legend(table: StudyTable) -> list[str]:
    """Return how to read the table, without any text from data."""
    compared = sum(
        row.reward.difference is not None and not math.isnan(row.reward.difference.p)
        for row in table.rows
    )
    found = ["±: half the 95% interval over seeds (Student's t)."]
    if compared:
        times = f", corrected for {compared} comparisons (Holm)" if compared > 1 else ""
        found.append(
            f"p: paired t test over seeds{times}; * below 0.05. "
            "for 0.01: seeds that would show a difference of a point with power 0.8."
        )
    score = next((row.score for row in table.rows if row.score is not None), None)
    if score is not None:
        problems = counted(score.n_problems, "problem")
        found.append(
            f"before ±: a rerun of these {problems}. after, difference: these problems, other "
            "seeds. on others: 95% interval on other problems of this kind, these trained models."
        )
    if not math.isnan(table.level):
        found.append(
            f"steps to {decimal(table.level)}: until the mean of {table.window} steps is there; "
            "without --level nine tenths of the baseline's gain."
        )
    return found


def render(table: StudyTable, *, color: Depth = "truecolor") -> View:
    """The grids below each other, then what they say and how to read them."""
    return View(partial(_draw, table=table), color)


def _draw(page: Page, *, table: StudyTable) -> None:
    page.heading(page.shown(table.name), page.shown(table.description))
    page.blank()
    for grid in grids(table):
        draw_grid(page, grid)
    said = [*sentences(table), *table.notes]
    for line in said:
        page.wrapped(line)
    if said:
        page.blank()
    for line in legend(table):
        page.paragraph(line.replace("±", page.glyphs.plus_minus), "dim")
