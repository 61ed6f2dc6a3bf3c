"""The colours of a page read well in both schemes, also for colour-blind readers."""

from __future__ import annotations

import math
import re
from itertools import pairwise

import pytest

from dgpo_cli.inspect.token_html import ARMS, STEPS, Scheme, colours, css, level_class
from dgpo_cli.ui.document import asset
from dgpo_cli.ui.ramp import contrast, luminance
from tests.ui.test_ramp import COLOUR_BLIND, lab

SCHEMES: tuple[Scheme, ...] = ("light", "dark")
CARD = {"light": "#ffffff", "dark": "#16171b"}  # --card of base.css


def variables(scheme: Scheme) -> dict[str, str]:
    """The colours of base.css in a scheme."""
    pairs = re.findall(r"--(\w+): light-dark\((#\w+), (#\w+)\)", asset("base.css"))
    return {name: day if scheme == "light" else night for name, day, night in pairs}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_text_on_every_colour_has_a_contrast_of_at_least_4_5(scheme: Scheme) -> None:
    for arm in ARMS:
        assert len(colours(scheme)[arm]) == STEPS
        for colour in colours(scheme)[arm]:
            assert contrast(colour.background, colour.text) >= 4.5


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_text_of_the_page_has_a_contrast_of_at_least_4_5(scheme: Scheme) -> None:
    found = variables(scheme)
    assert found["card"] == CARD[scheme]
    for text in ("fg", "strong", "muted", "accent", "good", "bad", "warn"):
        for ground in ("bg", "card", "raised"):
            assert contrast(found[text], found[ground]) >= 4.5, (text, ground)
    for edge in ("edge", "accent"):  # of controls and of the focus
        for ground in ("bg", "card"):
            assert contrast(found[edge], found[ground]) >= 3.0, (edge, ground)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("arm", ARMS)
def test_lightness_leaves_the_card_step_by_step(scheme: Scheme, arm: str) -> None:
    ramp = [CARD[scheme], *(colour.background for colour in colours(scheme)[arm])]
    lights = [luminance(colour) for colour in ramp]
    assert lights == sorted(lights, reverse=scheme == "light")
    assert all(abs(first - second) > 1e-3 for first, second in pairwise(lights))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_both_arms_are_equally_light(scheme: Scheme) -> None:
    for above, below in zip(colours(scheme)["u"], colours(scheme)["d"], strict=True):
        assert contrast(above.background, below.background) < 1.25


@pytest.mark.parametrize("reader", COLOUR_BLIND)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_arms_stay_apart_for_every_reader(scheme: Scheme, reader: str) -> None:
    ramps = colours(scheme)
    for above, below in zip(ramps["u"], ramps["d"], strict=True):
        one, other = (lab(each.background, reader=reader) for each in (above, below))
        assert math.dist(one, other) > 20.0, (above, below)


@pytest.mark.parametrize("reader", COLOUR_BLIND)
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("arm", ARMS)
def test_neighbouring_steps_stay_apart_for_every_reader(
    scheme: Scheme, arm: str, reader: str
) -> None:
    ramp = [CARD[scheme], *(colour.background for colour in colours(scheme)[arm])]
    seen = [lab(colour, reader=reader) for colour in ramp]
    assert all(math.dist(a, b) > 4.0 for a, b in pairwise(seen))


def test_every_class_has_a_rule_and_every_rule_both_schemes() -> None:
    rules = dict(re.findall(r"^\.(\w+)\{(.*)\}$", css(), re.MULTILINE))
    assert rules.keys() == {f"{arm}{step}" for arm in ARMS for step in range(1, STEPS + 1)}
    for scheme, at in (("light", 0), ("dark", 1)):
        for arm in ARMS:
            for step, colour in enumerate(colours(scheme)[arm], start=1):
                pairs = re.findall(r"(\w+):light-dark\((#\w+),(#\w+)\)", rules[f"{arm}{step}"])
                assert {name: pair[at] for name, *pair in pairs} == {
                    "background": colour.background,
                    "fill": colour.background,
                    "color": colour.text,
                }


def test_levels_have_the_classes_of_the_rules() -> None:
    assert [level_class(level) for level in (-12, -1, 0, 1, 12)] == ["d12", "d1", "", "u1", "u12"]
