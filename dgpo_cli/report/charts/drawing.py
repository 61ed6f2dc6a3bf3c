"""Charts as SVG: a pure function of their contents, without a script or a style.

Colours, dashes and letters come from the classes in assets/charts.css (`s1` to `s8` for series),
so that a page in light and dark and a picture of its own share one drawing.

A live drawing also has what the script only has to move: the grids and ticks of every axis that can
be chosen, and the crosshair. The script reads the numbers of a curve from its path. See
assets/report.js.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from dgpo_cli.core.numbers import round_duration
from dgpo_cli.core.text import escaped
from dgpo_cli.report.charts.sampling import Values, runs_of, smoothed
from dgpo_cli.report.charts.ticks import Axis, axis

LOOKS = 8  # classes of series
DENSE = 120  # points above which edges would hide the areas
_LETTER = 7.2  # units of a bold character of 11 px
_DIGIT = 6.6  # and of a digit
_ROW = 12.0  # units between labels
_HIDDEN, _LOG, _STACKED = ' hidden=""', ' data-log=""', ' data-stacked=""'


@dataclass(frozen=True, slots=True)
class Line:
    """A curve: a number, or None for a gap, at each x.

    look: 1 to LOOKS, or 0 for grey. span: points that it is smoothed over; above 1 the raw numbers
    are drawn faintly behind it. low, high: a band. whiskers: (inner low, inner high, outer low,
    outer high) at each point, which gets a mark. costs: seconds and tokens up to each x. points,
    texts: the script's names of its x and of the texts of its numbers. seeds: the script's name of
    the seeds that it is a mean of and that it smooths; `ends` are then what the y axis has to
    contain, of the curve as it is drawn and of one that is not smoothed. hollow: the script draws
    it.
    """

    label: str
    look: int
    xs: Sequence[float]
    ys: Values
    span: float = 1.0
    low: Values = ()
    high: Values = ()
    whiskers: Sequence[tuple[float, float, float, float] | None] = ()
    costs: tuple[Sequence[float], ...] = ()
    points: str = ""
    texts: str = ""
    seeds: str = ""
    ends: tuple[tuple[float, ...], ...] = ()
    hollow: bool = False

    @property
    def shown(self) -> Values:
        return smoothed(self.ys, span=self.span) if self.span > 1 else self.ys

    def known_at(self, x_axis: int) -> list[float]:
        """Return its known points on an x axis: 0 is the step, then come the costs."""
        xs = self.costs[x_axis - 1] if x_axis else self.xs
        return [x for x, y in zip(xs, self.ys, strict=True) if y is not None]


@dataclass(frozen=True, slots=True)
class Level:
    """A number to compare a curve with, as a dotted line."""

    label: str
    value: float


@dataclass(frozen=True, slots=True)
class Chart:
    """The contents of a chart. stacked: the curves are added up, the first at the bottom."""

    title: str
    lines: Sequence[Line]
    x_label: str = "step"
    stacked: bool = False
    log: bool = False
    floor: float | None = None
    ceiling: float | None = None
    levels: Sequence[Level] = ()
    labelled: bool = True

    @property
    def has_labels(self) -> bool:
        return self.labelled and len(self.lines) > 1 and not self.stacked


@dataclass(frozen=True, slots=True)
class Frame:
    """The plot inside a drawing of width x height units.

    xs: the x axes, the step first. ys: the y axes, each with the sets of hidden curves that it is
    for; in a set, bit n stands for curve n. The first y axis is for none hidden.
    """

    width: float
    height: float
    xs: tuple[Axis, ...]
    ys: tuple[tuple[Axis, tuple[str, ...]], ...]
    live: bool

    @property
    def x(self) -> Axis:
        return self.xs[0]

    @property
    def y(self) -> Axis:
        return self.ys[0][0]

    @property
    def digits(self) -> int:
        """Return the digits after the point that suffice to draw every y axis from the first."""
        reaches = [math.log10(y.high / y.low) if y.log else y.high - y.low for y, _ in self.ys]
        return min(5, 1 + math.ceil(math.log10(max(1.0, reaches[0] / min(reaches)))))


def frame(chart: Chart, *, width: float, height: float, live: bool = False) -> Frame:
    """Lay out the axes, with room for the labels of the curves and the numbers of the y axes."""
    labels = [line.label for line in chart.lines] if chart.has_labels else []
    right = 10.0 + max((_LETTER * len(label) + 4 for label in labels), default=0.0)
    ys = _y_axes(chart, height=height, live=live)
    longest = max((len(label) for y in ys for label in y.labels), default=0)
    left = max(46.0, _DIGIT * longest + 7.0)
    count = 5 if width < 480 else 8
    xs = []
    for at in range(1 + (len(chart.lines[0].costs) if live and chart.lines else 0)):
        held = [x for line in chart.lines for x in line.known_at(at)]
        whole = all(float(x).is_integer() for x in held)
        xs.append(axis(held, start=left, end=width - right, count=count, tight=True, whole=whole))
    return Frame(width, height, tuple(xs), tuple((y, tuple(sets)) for y, sets in ys.items()), live)


def _y_axes(chart: Chart, *, height: float, live: bool) -> dict[Axis, list[str]]:
    """Return each y axis with the sets of hidden curves that it is for; a still drawing has one."""
    found: dict[tuple[float, ...], Axis] = {}
    axes: dict[Axis, list[str]] = {}
    for name, held in _held(chart):
        if held not in found:
            found[held] = axis(
                held,
                start=height - 24.0,
                end=8.0,
                log=chart.log,
                floor=chart.floor,
                ceiling=chart.ceiling,
            )
        axes.setdefault(found[held], []).append(name)
        if not live:
            break
    return axes


def _held(chart: Chart) -> Iterator[tuple[str, tuple[float, ...]]]:
    """Yield the range of the y axis for each set of hidden curves but that of all.

    A smoothed stack is lower than a raw one, whose name is "raw" and the set. So are means over
    seeds, of which none is hidden.
    """
    count = len(chart.lines)
    sets = range(max(1, 2**count - 1))
    if chart.stacked:
        shown = _tops([line.shown for line in chart.lines], sets=sets)
        raw = _tops([line.ys for line in chart.lines], sets=sets)
        yield from ((f"{hidden}", (0.0, top)) for hidden, top in zip(sets, shown, strict=True))
        yield from ((f"raw{hidden}", (0.0, top)) for hidden, top in zip(sets, raw, strict=True))
        return
    levels = [level.value for level in chart.levels]
    if any(line.ends for line in chart.lines):
        for name, which in (("0", 0), ("raw0", 1)):
            ends = [end for line in chart.lines if line.ends for end in line.ends[which]]
            yield name, _ends(levels + ends)
        return
    extents = [_extent(line) for line in chart.lines]
    for hidden in sets:
        seen = [extents[at] for at in range(count) if not hidden >> at & 1]
        yield f"{hidden}", _ends(levels + [value for extent in seen for value in extent])


def _tops(columns: Sequence[Values], *, sets: Iterable[int]) -> Iterator[float]:
    """Yield for each set of hidden columns the largest sum of the others."""
    sums = {0: [0.0] * max(map(len, columns), default=0)}
    for seen in range(1, 2 ** len(columns)):
        least = seen & -seen  # one column more than in a known set
        ys = columns[least.bit_length() - 1]
        sums[seen] = [a + (y or 0.0) for a, y in zip(sums[seen ^ least], ys, strict=True)]
    whole = 2 ** len(columns) - 1
    return (max(sums[whole ^ hidden], default=0.0) for hidden in sets)


def _extent(line: Line) -> tuple[float, ...]:
    parts = (*line.ys, *line.low, *line.high)
    values = [value for value in parts if value is not None]
    return _ends(values + [end for whisker in line.whiskers for end in whisker or ()])


def _ends(values: Sequence[float]) -> tuple[float, ...]:
    """Return the least, the largest and the least positive: all that an axis needs."""
    if not values:
        return ()
    least, most = min(values), max(values)
    return least, most, min((value for value in values if value > 0.0), default=most)


def stacked(lines: Sequence[Line]) -> list[tuple[Values, Values]]:
    """Return the edges of every layer; unknown where any value is."""
    if not lines:
        return []
    columns = [line.shown for line in lines]
    known = [all(column[at] is not None for column in columns) for at in range(len(columns[0]))]
    below: list[float | None] = [0.0 if each else None for each in known]
    layers: list[tuple[Values, Values]] = []
    for column in columns:
        above = [
            None if base is None or value is None else base + value
            for base, value in zip(below, column, strict=True)
        ]
        layers.append((below, above))
        below = above
    return layers


def svg(chart: Chart, *, width: float, height: float) -> str:
    """Return the live drawing for a page: the same chart gives the same bytes.

    Every known point lies inside the plot; one between two gaps is drawn as a dot.
    """
    place = frame(chart, width=width, height=height, live=True)
    x, y = place.x, place.y
    ends = " ".join(f"{each.low:.12g} {each.high:.12g}" for each in place.xs)
    here = "".join(f'<circle class="here s{line.look}" r="3.5"/>' for line in chart.lines)
    return (
        f'<svg class="plot" viewBox="0 0 {number(width)} {number(height)}" role="img"'
        f' aria-label="{escaped(f"{chart.title}, by {chart.x_label}")}"'
        f' data-x="{number(x.start)} {number(x.end)} {ends}"'
        f' data-y="{number(y.start)} {number(y.end)}"'
        f"{_LOG * chart.log}{_STACKED * chart.stacked}>"
        f'{drawing(chart, place=place)}<g class="cross" hidden="">'
        f'<path class="hair" d="M0,{number(y.end)}V{number(y.start)}"/>'
        f"{here}</g></svg>"
    )


def drawing(chart: Chart, *, place: Frame) -> str:
    """Return the content of the svg element."""
    parts = [*_grids(place), *_ticks(place), *(_level(each, place=place) for each in chart.levels)]
    if chart.stacked:
        for line, layer in zip(chart.lines, stacked(chart.lines), strict=True):
            kind = "area" if len(line.xs) <= DENSE else "area dense"
            own = path("own", *polyline(line.xs, line.ys, place=place)) if place.live else ""
            area = path(kind, *band(line.xs, *layer, place=place))
            parts.append(_series(line, (area, own), place=place))
        return "".join(parts)
    labels = _labels(chart, place=place)
    for line, label in zip(chart.lines, labels, strict=True):
        parts.append(_series(line, (*_curve(line, place=place), label), place=place))
    return "".join(parts)


def _series(line: Line, parts: Iterable[str], *, place: Frame) -> str:
    values = f'data-seeds="{line.seeds}"' if line.seeds else f'data-texts="{line.texts}"'
    keys = f' data-points="{line.points}" {values}' if place.live else ""
    return f'<g class="series s{line.look}"{keys}>{"".join(parts)}</g>'


def _grids(place: Frame) -> Iterator[str]:
    """Yield the lines and numbers of every y axis; only the first is visible."""
    start, end = number(place.x.start), number(place.x.end)
    for at, (y, hidden) in enumerate(place.ys):
        lines = "".join(
            f'<line x1="{start}" x2="{end}" y1="{number(y.at(tick))}" y2="{number(y.at(tick))}"/>'
            for tick in y.ticks
        )
        texts = "".join(
            f'<text x="{number(place.x.start - 6)}" y="{number(y.at(tick) + 3.8)}"'
            f' text-anchor="end">{text}</text>'
            for tick, text in zip(y.ticks, y.labels, strict=True)
        )
        size, digits, unit = y.form
        sets = (
            f' data-ends="{y.low:.12g} {y.high:.12g}" data-form="{size:g} {digits} {unit}"'
            f' data-sets=" {" ".join(hidden)} "'
        )
        keys = sets + _HIDDEN * (at > 0) if place.live else ""
        yield f'<g class="y"{keys}><g class="grid">{lines}</g><g class="ticks">{texts}</g></g>'


def _ticks(place: Frame) -> Iterator[str]:
    """Yield the numbers of every x axis; only the step is visible. The second is a time."""
    for axis_at, x in enumerate(place.xs):
        labels = [round_duration(tick) for tick in x.ticks]
        texts = []
        for tick, text in zip(x.ticks, labels if axis_at == 1 else x.labels, strict=True):
            centre, anchor = x.at(tick), "middle"
            if centre + len(text) * 3.5 > place.width:
                centre, anchor = place.width - 1, "end"
            texts.append(
                f'<text x="{number(centre)}" y="{number(place.height - 9)}"'
                f' text-anchor="{anchor}">{text}</text>'
            )
        yield f'<g class="x ticks"{_HIDDEN * (axis_at > 0)}>{"".join(texts)}</g>'


def _curve(line: Line, *, place: Frame) -> Iterator[str]:
    if line.hollow:
        yield '<path class="band"/><path class="line"/>'
        yield from _dots(line, place=place)
        return
    area = ""
    if line.low and line.high:
        area = path("band", *band(line.xs, line.low, line.high, place=place))
    yield area or ('<path class="band"/>' if line.seeds else "")
    if line.span > 1:
        yield path("raw", *polyline(line.xs, line.ys, place=place))
    elif place.live and not line.whiskers and not line.seeds:
        yield '<path class="raw"/>'  # where a script puts it
    for at, whisker in enumerate(line.whiskers):
        if whisker is not None:
            inner, outer = whisker[:2], whisker[2:]
            yield _whisker("outer", at, outer, line=line, place=place)
            yield _whisker("inner", at, inner, line=line, place=place)
    yield path("line", *polyline(line.xs, line.shown, place=place))
    yield from _dots(line, place=place)


def _dots(line: Line, *, place: Frame) -> Iterator[str]:
    """Yield a mark at single points, at every point with whiskers, and at a coloured end."""
    ys = line.shown
    known = [at for at, y in enumerate(ys) if y is not None]
    alone = {start for start, stop in runs_of(ys) if stop - start == 1}
    for at in known if line.whiskers else sorted({*alone, *known[-1:]} if line.look else alone):
        y = ys[at]
        assert y is not None
        keys = f' data-at="{at}"' if place.live else ""
        yield mark(line.look, place.x.at(line.xs[at]), place.y.at(y), keys=keys)


_MARKS = (
    "M-3,0a3,3 0 1 0 6,0a3,3 0 1 0 -6,0",
    "M-3,-3h6v6h-6z",
    "M0,-4L3.6,3H-3.6z",
    "M0,-4L4,0L0,4L-4,0z",
    "M0,4L3.6,-3H-3.6z",
    "M-3.5,-1h7v2h-7z",
    "M-1,-3.5h2v7h-2z",
    "M-3,-2.5L3,2.5M-3,2.5L3,-2.5",
)


def mark(look: int, x: float, y: float, *, keys: str = "") -> str:
    """Return a small shape, different for each look."""
    shape = _MARKS[max(0, look - 1) % len(_MARKS)]
    at = f"translate({number(x)} {number(y)})"
    return f'<path class="dot"{keys} transform="{at}" d="{shape}"/>'


def path(kind: str, data: str, runs: str) -> str:
    """Return a path; runs: the places of its points in the curve, as "start+count ..."."""
    keys = f' data-runs="{runs}"' if runs else ""
    return f'<path class="{kind}"{keys} d="{data}"/>' if data else ""


def polyline(xs: Sequence[float], ys: Values, *, place: Frame) -> tuple[str, str]:
    """Return a line through known points, broken at gaps, and the runs of its points.

    A live drawing also has single points, which are not visible.
    """
    strokes, runs = [], []
    for start, stop in runs_of(ys):
        if stop - start > 1 or place.live:
            strokes.append(_stroke(_points(xs, ys, range(start, stop), place=place), place=place))
            runs.append(f"{start}+{stop - start}")
    return "".join(strokes), " ".join(runs) if place.live else ""


def band(xs: Sequence[float], low: Values, high: Values, *, place: Frame) -> tuple[str, str]:
    """Return the area between two edges, closed at gaps; a single point is a thin bar."""
    both = [None if a is None or b is None else a for a, b in zip(low, high, strict=True)]
    areas, runs = [], []
    for start, stop in runs_of(both):
        there = _points(xs, high, range(start, stop), place=place)
        back = _points(xs, low, range(stop - 1, start - 1, -1), place=place)
        if stop - start == 1:
            there = [(x + side, y) for (x, y) in there for side in (-1.0, 1.0)]
            back = [(x + side, y) for (x, y) in back for side in (1.0, -1.0)]
        areas.append(f"{_stroke([*there, *back], place=place)}z")
        runs.append(f"{start}+{stop - start}")
    return "".join(areas), " ".join(runs) if place.live else ""


def _points(
    xs: Sequence[float], ys: Values, places: range, *, place: Frame
) -> list[tuple[float, float]]:
    x, y = place.x, place.y
    return [(x.at(xs[at]), y.at(value)) for at in places if (value := ys[at]) is not None]


def _stroke(points: Sequence[tuple[float, float]], *, place: Frame) -> str:
    """Return points as a path of differences, which is short.

    Differences are of rounded coordinates, so that errors do not add up.
    """
    digits = place.digits
    unit = 10**digits
    rounded = [(round(x * unit), round(y * unit)) for x, y in points]
    steps = [
        _decimal(b - a, digits) for p, q in pairwise(rounded) for a, b in zip(p, q, strict=True)
    ]
    first = ",".join(_decimal(each, digits) for each in rounded[0])
    rest = "".join(  # a sign starts a number, and so does a second point
        each if each[0] == "-" or (each[0] == "." and "." in before) else f" {each}"
        for before, each in pairwise(["", *steps])
    )
    return f"M{first}{'l' * bool(rest)}{rest.removeprefix(' ')}"


@lru_cache(maxsize=100_000)
def _decimal(units: int, digits: int) -> str:
    """Return a number of 10**-digits in as few characters as SVG needs: .5 and -3."""
    text = f"{units / 10**digits:.{digits}f}".rstrip("0").rstrip(".")
    return text.replace("0.", ".", 1) if abs(units) < 10**digits and units else text or "0"


def _whisker(kind: str, at: int, ends: Sequence[float], *, line: Line, place: Frame) -> str:
    foot, top = (number(place.y.at(end)) for end in ends)
    keys = f' data-at="{at}"' if place.live else ""
    return (
        f'<path class="{kind}"{keys} transform="translate({number(place.x.at(line.xs[at]))} 0)"'
        f' d="M-3,{top}h6M-3,{foot}h6M0,{top}V{foot}"/>'
    )


def _level(level: Level, *, place: Frame) -> str:
    y = place.y.at(level.value)
    start, end = number(place.x.start), number(place.x.end)
    above = y - 3 if y > 20 else y + 11
    return (
        f'<g class="level" data-y="{number(y)}"><path d="M{start},{number(y)}H{end}"/>'
        f'<text x="{start}" dx="3" y="{number(above)}">{escaped(level.label)}</text></g>'
    )


def _labels(chart: Chart, *, place: Frame) -> list[str]:
    """Return the name of each curve next to its last point, without overlaps.

    Where there is no room for all, grey curves have spare names, which are seen when they are not.
    """
    labels = [""] * len(chart.lines)
    if not chart.has_labels:
        return labels
    lasts = [next((y for y in reversed(line.shown) if y is not None), None) for line in chart.lines]
    wanted = {at: place.y.at(last) for at, last in enumerate(lasts) if last is not None}
    top, foot = place.y.end + 2, place.y.start
    fits = _ROW * len(wanted) <= foot - top + _ROW
    seen = [at for at in wanted if fits or chart.lines[at].look]
    heights = wanted | dict(
        zip(seen, spread([wanted[at] for at in seen], gap=_ROW, low=top, high=foot), strict=True)
    )
    for at, y in heights.items():
        x, label = number(place.x.end + 7), escaped(chart.lines[at].label)
        spare = " spare" * (at not in seen)
        labels[at] = f'<text class="name{spare}" x="{x}" y="{number(y + 4)}">{label}</text>'
    return labels


def spread(heights: Sequence[float], *, gap: float, low: float, high: float) -> list[float]:
    """Move heights apart to at least `gap`, in their order."""
    order = sorted(range(len(heights)), key=lambda at: heights[at])
    moved = list(heights)
    for before, at in zip([None, *order], order, strict=False):
        least = low if before is None else moved[before] + gap
        moved[at] = max(moved[at], least)
    for after, at in zip([None, *reversed(order)], reversed(order), strict=False):
        most = high if after is None else moved[after] - gap
        moved[at] = min(moved[at], most)
    return moved


def number(value: float) -> str:
    """Return a coordinate with at most one digit after the point."""
    text = f"{value:.1f}"
    return text[:-2] if text.endswith(".0") else text
