"""The colours of curves differ for every reader, on light and dark."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence

import pytest

from dgpo_cli.report.charts.drawing import LOOKS
from dgpo_cli.ui.document import asset

# Linear RGB as it is seen without one kind of cone.
# Source: Machado, Oliveira, Fernandes, IEEE Trans. Vis. Comput. Graph. 15 (2009) 1291, severity 1.
VISIONS = {
    "all cones": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "deuteranopia": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
    "tritanopia": (
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.303900),
    ),
}
TO_XYZ = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
WHITE = (0.9505, 1.0, 1.089)


def linear(colour: str) -> list[float]:
    values = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    return [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]


def times(matrix: Sequence[Sequence[float]], vector: Sequence[float]) -> list[float]:
    return [sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix]


def lab(rgb: Sequence[float]) -> tuple[float, float, float]:
    """CIE L*a*b* of linear RGB."""
    xyz = [value / white for value, white in zip(times(TO_XYZ, rgb), WHITE, strict=True)]
    x, y, z = (v ** (1 / 3) if v > 0.008856 else 7.787 * v + 16 / 116 for v in xyz)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def colours(scheme: int) -> list[str]:
    found = re.findall(
        r"\.s([1-9]) \{ color: light-dark\((#\w{6}), (#\w{6})\)", asset("charts.css")
    )
    assert [int(look) for look, *_ in found] == list(range(1, LOOKS + 1))
    return [both[scheme] for _, *both in found]


def card(scheme: int) -> str:
    found = re.search(r"--card: light-dark\((#\w{6}), (#\w{6})\)", asset("base.css"))
    assert found is not None
    return found[1 + scheme]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("vision", VISIONS)
def test_any_two_colours_differ(scheme: int, vision: str) -> None:
    seen = [
        lab([min(1.0, max(0.0, each)) for each in times(VISIONS[vision], linear(colour))])
        for colour in colours(scheme)
    ]
    assert min(math.dist(*pair) for pair in itertools.combinations(seen, 2)) > 15


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_every_colour_has_contrast(scheme: int) -> None:
    def light(colour: str) -> float:
        return times(TO_XYZ, linear(colour))[1] + 0.05

    ground = light(card(scheme))
    for colour in colours(scheme):
        low, high = sorted((light(colour), ground))
        assert high / low > 4
