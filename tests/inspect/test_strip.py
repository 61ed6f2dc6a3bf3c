"""The strip covers the whole completion, and its bars are as high as what they stand for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dgpo_cli.core.text import ASCII, UNICODE
from dgpo_cli.inspect.views.linear import Linear
from dgpo_cli.inspect.views.measure import measure_of
from dgpo_cli.inspect.views.strip import Strip, bar, spans
from dgpo_cli.ui.page import Page
from dgpo_cli.ui.ramp import RAMPS
from dgpo_cli.ui.scale import Scale
from tests.samples import completion, printed, texts


@given(st.integers(0, 3000), st.integers(1, 200))
def test_the_cells_cover_every_token_exactly_once_and_evenly(count: int, cells: int) -> None:
    found = spans(count, cells=cells)
    assert [at for start, stop in found for at in range(start, stop)] == list(range(count))
    assert len(found) == min(count, cells)
    sizes = {stop - start for start, stop in found}
    assert not sizes or (max(sizes) - min(sizes) <= 1 and min(sizes) >= 1)


@given(st.lists(st.floats(0.0, 50.0), min_size=2, max_size=30), st.sampled_from([UNICODE, ASCII]))
def test_a_higher_weight_never_has_a_lower_bar(weights: list[float], glyphs) -> None:  # type: ignore[no-untyped-def]
    scale = Scale.of(weights, steps=12)
    order = bar_order(glyphs)
    heights = [order.index(bar(scale, weight, glyphs=glyphs)) for weight in sorted(weights)]
    assert heights == sorted(heights)


def bar_order(glyphs) -> str:  # type: ignore[no-untyped-def]
    return "_.:-=+*#" if glyphs.ascii_only else "▁▂▃▄▅▆▇█"


def test_on_the_fixed_scale_a_bar_has_the_same_height_whatever_the_other_weights_are() -> None:
    for rest in ([], [0.9999], [0.01, 50.0]):
        scale = Scale.of([1.0012, *rest], steps=12)
        assert bar(scale, 1.0012, glyphs=UNICODE) == "▅"
        shown = [bar(scale, weight, glyphs=UNICODE) for weight in (0.1, 0.5, 1.0, 2.0, 50.0)]
        assert shown == ["▁", "▁", "▅", "█", "█"]


def test_on_a_fitted_scale_the_least_weight_has_the_lowest_bar_and_the_largest_the_highest() -> (
    None
):
    scale = Scale.of([0.5, 1.0, 4.0], steps=12, fit=True)
    # log 1 lies a third of the way from log 0.5 to log 4
    shown = [bar(scale, weight, glyphs=UNICODE) for weight in (0.5, 1.0, 2.0, 4.0)]
    assert shown == ["▁", "▃", "▆", "█"]
    assert bar(Scale.of([1.0, 1.0], steps=12), 1.0, glyphs=UNICODE) == "▄"


def test_bars_of_other_numbers_stand_on_zero() -> None:
    up = Linear.of([3.0, 6.0], steps=12)
    assert [bar(up, value, glyphs=UNICODE) for value in (0.0, 3.0, 6.0)] == ["▁", "▅", "█"]
    down = Linear.of([-3.0, -6.0], steps=12)
    assert [bar(down, value, glyphs=UNICODE) for value in (0.0, -3.0, -6.0)] == ["▁", "▅", "█"]
    signed = Linear.of([-3.0, -6.0], steps=12, signed=True)
    assert bar(signed, -6.0, glyphs=UNICODE) == "█"
    assert bar(Linear.of([0.0], steps=12), 0.0, glyphs=UNICODE) == "▁"


def lines(count: int, *, heavy: int, width: int, positions: list[int]) -> list[str]:
    shown = completion(["x"] * count, [0.5 * (at == heavy) for at in range(count)], tau=0.2)
    measure = measure_of(shown, what="weight", steps=3)
    page = Page(width, depth="none")
    Strip(measure, page, None).draw(positions)
    return texts(page)


def test_a_cell_is_the_mean_of_its_tokens() -> None:
    bars, ranks, *caption = lines(120, heavy=37, width=40, positions=[37, 2])
    # three tokens a cell: the heavy one is in cell 12, the other in cell 0
    # each weight but one is 0.92; a cell with the heavy one has a mean of 3.9
    assert bars == "▄" * 12 + "█" + "▄" * 27
    assert ranks == "2" + " " * 11 + "1"
    assert "the mean weight of 3 tokens" in " ".join(caption)


def test_of_the_ranks_in_one_cell_the_best_is_shown() -> None:
    _, ranks, *_ = lines(400, heavy=5, width=40, positions=[399, 0, 398, 3])
    assert ranks == "2" + " " * 38 + "1"


def test_few_tokens_have_a_cell_each() -> None:
    bars, _, *caption = lines(7, heavy=6, width=40, positions=[6])
    assert bars == "▁" * 6 + "█"  # weights of 0.4 and 4.7
    assert "the weight of a token" in " ".join(caption)


def test_the_strip_has_inks_and_no_background_of_its_own() -> None:
    shown = completion(["x"] * 30, [0.01 * at for at in range(30)], tau=0.2)
    page = Page(80)
    Strip(measure_of(shown, what="weight", steps=12), page, RAMPS["truecolor"]).draw([])
    first = page.lines[0]
    assert len(texts(page)[0]) == 30
    sent = printed(first, color="truecolor")
    assert "38;2;" in sent and "48;" not in sent


def test_two_or_more_sizes_are_said() -> None:
    *_, caption = [" ".join(lines(90, heavy=1, width=40, positions=[]))]
    assert "of 2 or 3 tokens" in caption
