"""Charts as SVG: a pure function of what they show, without a script and without a style.

Colours, dashes and letters come from the classes in assets/charts.css (`s1` to `s8` for series),
so that a page in light and dark and a picture of its own share one drawing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dgpo_cli.report.charts.sampling import Values, runs_of
from dgpo_cli.report.charts.ticks import Axis, axis
from dgpo_cli.report.document import escaped

LOOKS = 8  # classes of series
DENSE = 120  # points from which edges between areas would hide them
_LETTER = 7.2  # units of a bold character of 11 px
_DIGIT = 6.6  # and of a digit
_ROW = 12.0  # units between labels


@dataclass(frozen=True, slots=True)
class Line:
    """A curve: a number, or None for a gap, at each x.

    look: 1 to LOOKS. raw: what it smooths, drawn faintly. low, high: a band around it.
    whiskers: (inner low, inner high, outer low, outer high) at each point, which gets a mark.
    """

    label: str
    look: int
    xs: Sequence[float]
    ys: Values
    raw: Values = ()
    low: Values = ()
    high: Values = ()
    whiskers: Sequence[tuple[float, float, float, float] | None] = ()


@dataclass(frozen=True, slots=True)
class Level:
    """A number to compare a curve with, as a dotted line."""

    label: str
    value: float


@dataclass(frozen=True, slots=True)
class Chart:
    """What a chart shows. Stacked: the curves are added up, lowest first, each fills its part."""

    title: str
    lines: Sequence[Line]
    x_label: str = "step"
    stacked: bool = False
    log: bool = False
    floor: float | None = None
    ceiling: float | None = None
    levels: Sequence[Level] = ()
    labelled: bool = True


@dataclass(frozen=True, slots=True)
class Frame:
    """The plot inside a drawing of width x height units."""

    width: float
    height: float
    x: Axis
    y: Axis


def frame(chart: Chart, *, width: float, height: float) -> Frame:
    """Lay out the axes; there is room on the right for the labels of the curves, on the left for
    the numbers of the y axis."""
    labels = [line.label for line in chart.lines] if _has_labels(chart) else []
    right = 10.0 + max((_LETTER * len(label) + 4 for label in labels), default=0.0)
    xs = [x for line in chart.lines for x, y in zip(line.xs, line.ys, strict=True) if y is not None]
    y = axis(
        list(_heights(chart)),
        start=height - 24.0,
        end=8.0,
        log=chart.log,
        floor=chart.floor,
        ceiling=chart.ceiling,
    )
    left = max(46.0, _DIGIT * max(map(len, y.labels), default=0) + 7.0)
    whole = all(float(x).is_integer() for x in xs)
    count = 5 if width < 480 else 8
    x = axis(xs, start=left, end=width - right, count=count, tight=True, whole=whole)
    return Frame(width=width, height=height, x=x, y=y)


def _has_labels(chart: Chart) -> bool:
    return chart.labelled and len(chart.lines) > 1 and not chart.stacked


def _heights(chart: Chart) -> Iterator[float]:
    """All numbers that the y axis holds."""
    if chart.stacked:
        yield 0.0
        for layer in stacked(chart.lines)[-1:]:
            yield from (value for value in layer[1] if value is not None)
        return
    for line in chart.lines:
        for values in (line.ys, line.raw, line.low, line.high):
            yield from (value for value in values if value is not None)
        for whisker in line.whiskers:
            yield from whisker or ()
    yield from (level.value for level in chart.levels)


def stacked(lines: Sequence[Line]) -> list[tuple[Values, Values]]:
    """Lower and upper edge of every layer; where one is unknown, all of them are."""
    if not lines:
        return []
    columns = [line.ys for line in lines]
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


def svg(chart: Chart, *, width: float, height: float, inner: bool = False) -> str:
    """The drawing; `inner` leaves out the svg element around it. The same chart, the same bytes.

    Every known point lies inside the plot; a point between two gaps is drawn as a dot.
    """
    place = frame(chart, width=width, height=height)
    parts = [*_axes(place, chart=chart)]
    layers = stacked(chart.lines) if chart.stacked else []
    for line, (low, high) in zip(chart.lines, layers, strict=False):
        kind = "area" if len(line.xs) <= DENSE else "area dense"
        parts.append(path(kind, line.look, band(line.xs, low, high, place=place)))
    if not chart.stacked:
        for level in chart.levels:
            parts.extend(_level(level, place=place))
        for line in chart.lines:
            parts.extend(_curve(line, place=place))
        if _has_labels(chart):
            parts.extend(_labels(chart.lines, place=place))
    drawn = "".join(parts)
    if inner:
        return drawn
    name = escaped(f"{chart.title}, by {chart.x_label}")
    return (
        f'<svg class="plot" viewBox="0 0 {number(width)} {number(height)}" role="img" '
        f'aria-label="{name}">{drawn}</svg>'
    )


def _axes(place: Frame, *, chart: Chart) -> Iterator[str]:
    x, y = place.x, place.y
    yield '<g class="grid">'
    for tick in y.ticks:
        at = number(y.at(tick))
        yield f'<line x1="{number(x.start)}" x2="{number(x.end)}" y1="{at}" y2="{at}"/>'
    yield '</g><g class="ticks">'
    for tick, text in zip(y.ticks, y.labels, strict=True):
        edge, base = number(x.start - 6), number(y.at(tick) + 3.8)
        yield f'<text x="{edge}" y="{base}" text-anchor="end">{text}</text>'
    foot = number(place.height - 9)
    for tick, text in zip(x.ticks, x.labels, strict=True):
        centre, anchor = x.at(tick), "middle"
        if centre + len(text) * 3.5 > place.width:
            centre, anchor = place.width - 1, "end"
        yield f'<text x="{number(centre)}" y="{foot}" text-anchor="{anchor}">{text}</text>'
    yield "</g>"


def _curve(line: Line, *, place: Frame) -> Iterator[str]:
    if line.low and line.high:
        yield path("band", line.look, band(line.xs, line.low, line.high, place=place))
    if line.raw:
        yield path("raw", line.look, polyline(line.xs, line.raw, place=place))
    for x, whisker in zip(line.xs, line.whiskers, strict=False):
        if whisker is not None:
            inner, outer = whisker[:2], whisker[2:]
            yield path("outer", line.look, _whisker(x, *outer, place=place))
            yield path("inner", line.look, _whisker(x, *inner, place=place))
    yield path("line", line.look, polyline(line.xs, line.ys, place=place))
    yield from _dots(line, place=place)


def _dots(line: Line, *, place: Frame) -> Iterator[str]:
    """A mark where no line would show a point, at every point with whiskers, and at the end."""
    known = [at for at, y in enumerate(line.ys) if y is not None]
    alone = {start for start, stop in runs_of(line.ys) if stop - start == 1}
    for at in known if line.whiskers else sorted({*alone, *known[-1:]}):
        y = line.ys[at]
        assert y is not None
        yield mark(line.look, place.x.at(line.xs[at]), place.y.at(y))


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


def mark(look: int, x: float, y: float) -> str:
    """A small shape, another for each look."""
    shape = _MARKS[(look - 1) % len(_MARKS)]
    return f'<path class="dot s{look}" transform="translate({number(x)} {number(y)})" d="{shape}"/>'


def path(kind: str, look: int, data: str) -> str:
    return f'<path class="{kind} s{look}" d="{data}"/>' if data else ""


def polyline(xs: Sequence[float], ys: Values, *, place: Frame) -> str:
    """A line through what is known, broken at gaps."""
    strokes = []
    for start, stop in runs_of(ys):
        if stop - start > 1:
            strokes.append("M" + "L".join(_points(xs, ys, range(start, stop), place=place)))
    return "".join(strokes)


def band(xs: Sequence[float], low: Values, high: Values, *, place: Frame) -> str:
    """The area between two edges, closed at gaps; a single point is a thin bar."""
    both = [None if a is None or b is None else a for a, b in zip(low, high, strict=True)]
    areas = []
    for start, stop in runs_of(both):
        there = _points(xs, high, range(start, stop), place=place)
        back = _points(xs, low, range(stop - 1, start - 1, -1), place=place)
        if stop - start == 1:
            left, right = number(place.x.at(xs[start]) - 1), number(place.x.at(xs[start]) + 1)
            top, foot = there[0].partition(",")[2], back[0].partition(",")[2]
            areas.append(f"M{left},{top}H{right}V{foot}H{left}Z")
        else:
            areas.append("M" + "L".join([*there, *back]) + "Z")
    return "".join(areas)


def _points(xs: Sequence[float], ys: Values, places: range, *, place: Frame) -> list[str]:
    found = []
    for at in places:
        y = ys[at]
        assert y is not None
        found.append(f"{number(place.x.at(xs[at]))},{number(place.y.at(y))}")
    return found


def _whisker(x: float, low: float, high: float, *, place: Frame) -> str:
    at, top, foot = place.x.at(x), place.y.at(high), place.y.at(low)
    ends = "".join(f"M{number(at - 3)},{number(y)}h6" for y in (top, foot))
    return f"{ends}M{number(at)},{number(top)}V{number(foot)}"


def _level(level: Level, *, place: Frame) -> Iterator[str]:
    y = place.y.at(level.value)
    start, end = number(place.x.start), number(place.x.end)
    yield f'<path class="level" d="M{start},{number(y)}H{end}"/>'
    above = y - 3 if y > 20 else y + 11
    label = escaped(level.label)
    yield f'<text class="level-name" x="{start}" dx="3" y="{number(above)}">{label}</text>'


def _labels(lines: Sequence[Line], *, place: Frame) -> Iterator[str]:
    """The name of each curve beside its last point, none on another."""
    wanted = []
    for line in lines:
        last = next((y for y in reversed(line.ys) if y is not None), None)
        if last is not None:
            wanted.append((place.y.at(last), line))
    heights = spread([y for y, _ in wanted], gap=_ROW, low=place.y.end + 2, high=place.y.start)
    for y, (_, line) in zip(heights, wanted, strict=True):
        yield (
            f'<text class="name s{line.look}" x="{number(place.x.end + 7)}" '
            f'y="{number(y + 4)}">{escaped(line.label)}</text>'
        )


def spread(heights: Sequence[float], *, gap: float, low: float, high: float) -> list[float]:
    """Heights moved apart to at least `gap`, in their order, moved little."""
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
    """A coordinate with one digit after the point, no more than it needs."""
    text = f"{value:.1f}"
    return text[:-2] if text.endswith(".0") else text
