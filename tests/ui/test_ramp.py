"""The ramps read well, at every depth and for colour-blind readers."""

from __future__ import annotations

import io
import math
from itertools import pairwise

import pytest
from rich.color import Color
from rich.console import Console

from dgpo_cli.ui.ramp import (
    GROWING,
    RAMPS,
    Depth,
    Paint,
    Ramp,
    contrast,
    depth_of,
    levels,
    shallower,
)

# The 16 colours of terminals in wide use: xterm, VGA and the Windows Terminal.
PALETTES = {
    "xterm": "000000 cd0000 00cd00 cdcd00 0000ee cd00cd 00cdcd e5e5e5 "
    "7f7f7f ff0000 00ff00 ffff00 5c5cff ff00ff 00ffff ffffff",
    "vga": "000000 aa0000 00aa00 aa5500 0000aa aa00aa 00aaaa aaaaaa "
    "555555 ff5555 55ff55 ffff55 5555ff ff55ff 55ffff ffffff",
    "windows": "0c0c0c c50f1f 13a10e c19c00 0037da 881798 3a96dd cccccc "
    "767676 e74856 16c60c f9f1a5 3b78ff b4009e 61d6d6 f2f2f2",
}
# Linear-light simulation of full colour blindness. Source: Machado et al. 2009.
COLOUR_BLIND = {
    "normal": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protan": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "deutan": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
    "tritan": (
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.303900),
    ),
}
CASES = [("truecolor", "xterm"), ("256", "xterm"), *(("16", name) for name in PALETTES)]


def linear(color: str, palette: str) -> tuple[float, float, float]:
    """Linear-light red, green, blue; the first 16 colours are the terminal's own."""
    parsed = Color.parse(color)
    if parsed.number is not None and parsed.number < 16:
        code = PALETTES[palette].split()[parsed.number]
        values = [int(code[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    else:
        triplet = parsed.get_truecolor()
        values = [triplet.red / 255, triplet.green / 255, triplet.blue / 255]
    red, green, blue = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values)
    return red, green, blue


def luminance(rgb: tuple[float, float, float]) -> float:
    return 0.2126 * rgb[0] + 0.7152 * rgb[1] + 0.0722 * rgb[2]


def paints(ramp: Ramp) -> list[Paint]:
    return [*ramp.above, *ramp.below]


@pytest.mark.parametrize(("depth", "palette"), CASES)
def test_text_on_every_colour_has_a_contrast_of_at_least_4_5(depth: Depth, palette: str) -> None:
    for paint in (*paints(RAMPS[depth]), *paints(GROWING[depth])):
        values = (luminance(linear(c, palette)) for c in (paint.background, paint.text))
        low, high = sorted(values)
        assert (high + 0.05) / (low + 0.05) >= 4.5, paint


def chroma(color: str) -> float:
    _, a, b = lab(color, reader="normal")
    return math.hypot(a, b)


@pytest.mark.parametrize("depth", ["truecolor", "256"])
def test_colour_grows_with_the_distance_from_one(depth: Depth) -> None:
    for arm in (RAMPS[depth].above, RAMPS[depth].below, GROWING[depth].above):
        strengths = [chroma(paint.background) for paint in arm]
        assert all(a < b for a, b in pairwise(strengths)), strengths


@pytest.mark.parametrize("depth", ["truecolor", "256"])
def test_every_colour_of_the_arms_stands_out_from_black_and_from_white(depth: Depth) -> None:
    for paint in paints(RAMPS[depth]):
        for ground in ("#000000", "#ffffff"):
            assert contrast(paint.background, ground) >= 2.0, (paint, ground)


def lab(color: str, *, reader: str) -> tuple[float, float, float]:
    """CIE L*, a*, b* of a colour as this reader sees it."""
    matrix, rgb = COLOUR_BLIND[reader], linear(color, "xterm")
    seen = [max(0.0, sum(m * v for m, v in zip(row, rgb, strict=True))) for row in matrix]
    x = (0.4124 * seen[0] + 0.3576 * seen[1] + 0.1805 * seen[2]) / 0.9505
    y = luminance((seen[0], seen[1], seen[2]))
    z = (0.0193 * seen[0] + 0.1192 * seen[1] + 0.9505 * seen[2]) / 1.089
    f = [t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116 for t in (x, y, z)]
    return 116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])


@pytest.mark.parametrize("reader", COLOUR_BLIND)
@pytest.mark.parametrize("depth", ["truecolor", "256", "16"])
def test_the_arms_stay_apart_for_every_reader(depth: Depth, reader: str) -> None:
    for high, low in zip(RAMPS[depth].above, RAMPS[depth].below, strict=True):
        one, other = (lab(paint.background, reader=reader) for paint in (high, low))
        assert math.dist(one, other) > 20.0, (high, low)


@pytest.mark.parametrize("reader", COLOUR_BLIND)
@pytest.mark.parametrize("depth", ["truecolor", "256", "16"])
def test_the_steps_of_the_growing_arm_stay_apart_for_every_reader(
    depth: Depth, reader: str
) -> None:
    ramp = GROWING[depth]
    assert ramp.below == () and len(ramp.above) == levels(depth)
    seen = [lab(paint.background, reader=reader) for paint in ramp.above]
    assert all(math.dist(a, b) > 4.0 for a, b in pairwise(seen))
    assert all(a[0] < b[0] for a, b in pairwise(seen))


def test_the_arms_are_equally_long_and_equally_light() -> None:
    for depth in ("truecolor", "256", "16"):
        ramp = RAMPS[depth]
        assert len(ramp.above) == len(ramp.below) == levels(depth)
    for high, low in zip(RAMPS["truecolor"].above, RAMPS["truecolor"].below, strict=True):
        assert contrast(high.background, low.background) < 1.25


@pytest.mark.parametrize("depth", ["truecolor", "256", "16"])
def test_nothing_is_said_by_hue_alone(depth: Depth) -> None:
    ramp = RAMPS[depth]
    for level in range(1, levels(depth) + 1):
        above, below = ramp.style(level), ramp.style(-level)
        assert (above.bold, above.underline) != (below.bold, below.underline)
    assert ramp.style(-1, listed=True).underline and not ramp.style(-1).underline


@pytest.mark.parametrize("depth", ["truecolor", "256", "16"])
def test_the_growing_arm_has_no_sign_of_above_one(depth: Depth) -> None:
    for level in range(levels(depth) + 1):
        plain, listed = GROWING[depth].style(level), GROWING[depth].style(level, listed=True)
        assert not plain.bold and not plain.underline and listed.underline


@pytest.mark.parametrize("depth", ["truecolor", "256"])
@pytest.mark.parametrize("ramps", [RAMPS, GROWING], ids=["two arms", "one arm"])
def test_bars_stand_out_from_black_and_from_white(depth: Depth, ramps: dict[Depth, Ramp]) -> None:
    ramp = ramps[depth]
    for sign in (1, -1) if ramp.below else (1,):
        inks = [ramp.ink(sign * level) for level in range(1, levels(depth) + 1)]
        for ink in inks:
            assert ink.color and ink.bgcolor is None
            for ground in ("#000000", "#ffffff"):
                assert contrast(ink.color.name, ground) >= 3.0


@pytest.mark.parametrize("depth", ["truecolor", "256", "16"])
def test_about_one_has_no_colour_of_its_own(depth: Depth) -> None:
    for ramp in (RAMPS[depth], GROWING[depth]):
        for style in (ramp.style(0), ramp.style(0, listed=True), ramp.ink(0)):
            assert style.color is None and style.bgcolor is None


def test_contrast_of_black_and_white_is_21() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.478, abs=1e-3)


@pytest.mark.parametrize(
    ("system", "no_color", "depth"),
    [
        ("truecolor", False, "truecolor"),
        ("256", False, "256"),
        ("standard", False, "16"),
        (None, False, "none"),
        ("truecolor", True, "none"),
    ],
)
def test_the_depth_is_what_the_console_can_show(system, no_color, depth) -> None:  # type: ignore[no-untyped-def]
    console = Console(
        file=io.StringIO(), force_terminal=True, color_system=system, no_color=no_color, _environ={}
    )
    assert depth_of(console) == depth


def test_a_pipe_shows_no_colour() -> None:
    assert depth_of(Console(file=io.StringIO(), _environ={})) == "none"


def test_the_shallower_depth_wins() -> None:
    assert shallower("truecolor", "16") == "16"
    assert shallower("none", "256") == "none"
