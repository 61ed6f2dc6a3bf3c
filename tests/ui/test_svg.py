"""The picture is one valid file that asks no network and shows what the terminal shows."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

from dgpo_cli.inspect.views.heatmap import render
from dgpo_cli.ui.svg import export_svg
from tests.samples import check_snapshot, completion, hostile, inspection, printed, solution

NAMESPACE = "{http://www.w3.org/2000/svg}"


def picture(*, title: str = "dgpo inspect") -> str:
    shown = solution()
    view = render(shown, inspection=inspection(shown), width=80, top=6, color="truecolor")
    return export_svg(view, title=title, width=80)


def test_the_picture_asks_no_network_for_anything() -> None:
    svg = picture()
    assert set(re.findall(r"https?://[^\"'\s]+", svg)) == {"http://www.w3.org/2000/svg"}
    assert "@import" not in svg and "@font-face" not in svg
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", svg))


def test_the_picture_is_valid_xml_and_every_reference_exists() -> None:
    svg = picture()
    root = ET.fromstring(svg)
    ids = {element.get("id") for element in root.iter() if element.get("id")}
    assert set(re.findall(r"url\(#([^)]+)\)", svg)) <= ids


def test_the_picture_holds_the_text_and_the_colours_of_the_terminal() -> None:
    root = ET.fromstring(picture())
    texts = "".join(element.text or "" for element in root.iter(f"{NAMESPACE}text"))
    shown = solution()
    view = render(shown, inspection=inspection(shown), width=80, top=6, color="truecolor")
    terminal = printed(view, color="truecolor")
    for words in ("Most weighted tokens", "effective token fraction", "68;\\boxed{68}"):
        assert words.replace(" ", "\xa0") in texts
    fills = {element.get("fill") for element in root.iter(f"{NAMESPACE}rect")}
    painted = {
        "#" + "".join(f"{int(value):02x}" for value in match)
        for match in re.findall(r"48;2;(\d+);(\d+);(\d+)", terminal)
    }
    assert painted and painted <= fills


def test_snapshot_of_the_picture() -> None:
    shown = completion("ab", [0.1, 0.3], tau=0.25)
    view = render(shown, inspection=inspection(shown), width=60, top=1, color="truecolor")
    check_snapshot("picture.txt", export_svg(view, title="dgpo inspect", width=60))


def test_the_same_input_gives_the_same_picture() -> None:
    assert picture() == picture()


def test_hostile_text_and_title_stay_text() -> None:
    shown = hostile()
    view = render(shown, inspection=inspection(shown), width=60, top=9, color="truecolor")
    svg = export_svg(view, title="<script>\x1b[31m", width=60)
    root = ET.fromstring(svg)
    assert not list(root.iter(f"{NAMESPACE}script"))
    assert "\x1b" not in svg and "&lt;script&gt;\\x1b[31m" in svg
