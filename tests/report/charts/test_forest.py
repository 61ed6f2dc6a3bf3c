"""A forest plot shows each effect where its numbers are."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from dgpo_cli.report.charts.forest import NARROW, ROW, TALL_ROW, Effect, forest

EFFECTS = (
    Effect("surprisal", 2, 0.01, 0.004, 0.016, (0.003, 0.02), "+0.010 (+0.004 to +0.016)", "B"),
    Effect("one seed <b>", 0, -0.02, None, None, (-0.02,), "-0.020", "C"),
    Effect("an outlier", 3, 0.0, -0.001, 0.001, (-5.0, 0.0, 5.0), "0", "D"),
)


def places(width: float) -> tuple[dict[float, float], list[ElementTree.Element]]:
    """The places of the ticks by their numbers, and the rows."""
    tree = ElementTree.fromstring(forest(EFFECTS, title="x", width=width))
    ticks = {float(t.text or "nan"): float(t.get("x", 0)) for t in tree[1].iter("text")}
    return ticks, [each for each in tree if "series" in str(each.get("class"))]


def at(ticks: dict[float, float], value: float) -> float:
    """Where a number stands by the first and the last tick."""
    (low, start), (high, end) = min(ticks.items()), max(ticks.items())
    return start + (value - low) / (high - low) * (end - start)


@pytest.mark.parametrize("width", [760.0, 384.0])
def test_mean_interval_and_seeds_are_where_the_axis_has_them(width: float) -> None:
    ticks, rows = places(width)
    first, single, _ = rows
    seeds = [float(each.get("cx", 0)) for each in first.iter("circle")]
    assert seeds == pytest.approx([at(ticks, 0.003), at(ticks, 0.02)], abs=0.2)
    (bar,) = (str(each.get("d")) for each in first.iter("path") if each.get("class") == "inner")
    ends = [float(each) for each in re.findall(r"^M([\d.]+),[\d.]+H([\d.]+)", bar)[0]]
    assert ends == pytest.approx([at(ticks, 0.004), at(ticks, 0.016)], abs=0.2)
    (dot,) = (
        str(each.get("transform")) for each in first.iter("path") if each.get("class") == "dot"
    )
    assert float(re.findall(r"[\d.]+", dot)[0]) == pytest.approx(at(ticks, 0.01), abs=0.2)
    assert not [each for each in single.iter("path") if each.get("class") == "inner"]


def test_zero_is_marked_and_always_seen() -> None:
    far = [Effect("a", 1, 5.0, 4.9, 5.1, (), "5")]
    tree = ElementTree.fromstring(forest(far, title="x", width=760))
    (zero,) = (each for each in tree.iter("line") if each.get("class") == "zero")
    assert float(zero.get("x1", 0)) > 0


def test_a_seed_far_away_does_not_squeeze_the_others() -> None:
    ticks, rows = places(760.0)
    assert max(ticks) < 0.1
    out = [each for each in rows[2].iter("circle") if each.get("class") == "seed out"]
    assert [float(each.get("cx", 0)) for each in out] == [min(ticks.values()), max(ticks.values())]


def test_a_narrow_plot_has_the_name_above_the_row_and_cuts_it_before_the_numbers() -> None:
    name = "a very long name of a variant that goes on and on and on and on"
    effects = [Effect(name, 1, 0.0, -1.0, 1.0, (), "+0.0000 (-1.0000 to +1.0000), p = 0.5")]
    tree = ElementTree.fromstring(forest(effects, title="x", width=NARROW - 1))
    texts = [each for each in tree.iter("text") if each.get("class") in ("label", "effect")]
    assert str(texts[0].text).endswith("…") and texts[1].text == "+0.0000, p = 0.5"
    assert texts[0].get("y") == texts[1].get("y")
    heights = [
        float(forest(EFFECTS, title="x", width=width).split('"')[3].split()[3])
        for width in (NARROW, NARROW - 1)
    ]
    assert heights[1] - heights[0] == len(EFFECTS) * (TALL_ROW - ROW)


def test_names_are_text() -> None:
    assert "one seed &lt;b&gt;" in forest(EFFECTS, title="<i>", width=760)
