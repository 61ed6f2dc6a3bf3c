"""What the page of an inspection has in sight at the width of a desk and of a phone."""

from __future__ import annotations

import pytest

from tests.inspect.test_inspect_browser import TOKENS, Open, opened, quiet
from tests.samples import completion, reasoning, solution


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_the_first_screen_holds_question_numbers_sliders_and_coloured_text(
    visit: Open, width: int, height: int
) -> None:
    words = [f"w{at} " for at in range(3000)]
    asked = "How many ordered pairs of integers have the property that is meant? " * 8
    shown = completion(words, [0.01 * (at % 9) for at in range(3000)], tau=0.1, prompt=asked)
    found = opened(visit, shown, solution(), width=width, has_touch=width < 1000)
    page = found.page
    page.set_viewport_size({"width": width, "height": height})
    found("openAt(0)")

    def box(what: str) -> tuple[float, float]:
        place = page.locator(what).first.bounding_box()
        return place["y"], place["y"] + place["height"]

    for what in ("#name", "#outcome", "#prompt", "#rule", "#words", "#tau", "#kappa", "#strip"):
        assert 0 <= box(what)[0] < box(what)[1] <= height, what
    assert box("#text")[0] + 75 <= height  # some lines of the text
    found("view.spans[2000].scrollIntoView({ block: 'center' })")
    top, bottom = box("#tau")  # the sliders stay where what they change is read
    assert 0 <= top < bottom <= 100
    over = "(at) => { const box = view.spans[at].getBoundingClientRect(); return"
    over += " document.elementFromPoint(box.left + 3, box.top + box.height / 2).piece; }"
    assert found(over, 2000) == 2000
    assert quiet(found)


def test_a_token_that_is_tapped_stays_in_sight_above_its_numbers(visit: Open) -> None:
    words = [f"w{at} " for at in range(400)]
    shown = completion(words, [0.01 * (at % 9) for at in range(400)], tau=0.1)
    found = opened(visit, shown, width=390, has_touch=True, is_mobile=True)
    seen = "(at) => { const box = view.spans[at].getBoundingClientRect(); return"
    seen += " document.elementFromPoint(box.left + 3, box.top + box.height / 2)?.piece; }"
    last = max(at for at in range(60) if found(seen, at) == at)
    found.page.locator(TOKENS).nth(last).tap()
    assert f"token {last}" in found.page.locator("#detail").inner_text()
    assert found(seen, last) == last


def test_the_tables_show_weight_and_share_on_a_phone(visit: Open) -> None:
    found = opened(visit, solution(), reasoning(sentences=6), width=390, has_touch=True)
    for at in range(2):
        found("(at) => openAt(at)", at)
        for cell in ("#top tbody td:nth-child(3)", "#steps tbody td:nth-child(4)"):
            box = found.page.locator(cell).first.bounding_box()
            assert box["x"] + box["width"] <= 390, cell
    assert "weight" in found.page.locator("#top th").nth(2).inner_text()
