"""The page of dgpo view in headless Chromium: it filters, sorts, opens and compares as promised."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dgpo_cli.core.events import NOBODY
from dgpo_cli.evals.page import stored
from dgpo_cli.evals.page.page import view_page
from tests.browser import Visit
from tests.evals.stored_evaluations import EVIL, evaluation, line

Open = Callable[..., Visit]
A = {"easy": "cccc", "hard": "wtnw", "even": "cwcw"}
B = {"easy": "cccc", "hard": "cccw", "even": "wwwt"}


@pytest.fixture
def two(tmp_path: Path) -> str:
    first = evaluation(tmp_path / "a", A, lines=[line("easy", 0, "c", second="wrong")])
    return html(first.path, evaluation(tmp_path / "b", B).path)


def html(*paths: Path) -> str:
    return view_page(stored.run(paths, observer=NOBODY))


def quiet(page: Visit) -> bool:
    """Nothing on the console, and nothing asked for but the page itself."""
    return page.complaints == [] and len(page.requests) == 1


def ids(page: Visit) -> list[str]:
    # Not inner_text, which is empty while content-visibility has not drawn the problem.
    return page.page.locator("#problems .id").all_text_contents()  # type: ignore[no-any-return]


def pick(page: Visit, box: str, value: str) -> list[str]:
    page.page.locator(f"#{box}").select_option(value)
    return ids(page)


def awaited(page: Visit, what: str, text: str) -> None:
    """Wait until an element has this text."""
    page.page.locator(what).filter(has_text=text).first.wait_for()


def panes(page: Visit) -> list[str]:
    awaited(page, ".pane", "sample")
    return page.page.locator(".pane").all_inner_texts()  # type: ignore[no-any-return]


def test_filters_keep_the_problems_with_such_a_sample(visit: Open, two: str) -> None:
    page = visit(two)
    assert ids(page) == ["easy", "hard", "even"]
    assert pick(page, "only", "wrong") == ["hard", "even"]
    assert "2 of 3 problems, 8 samples" in page.page.locator("#count").inner_text()
    assert page.page.locator(".squares i:not(.off)").count() == 8
    assert pick(page, "only", "truncated") == ["hard", "even"]
    assert pick(page, "only", "none") == ["hard"]
    assert pick(page, "only", "disputed") == ["easy"]
    assert pick(page, "only", "flips") == ["hard"]
    assert pick(page, "only", "all") == ["easy", "hard", "even"]
    page.page.locator("#find").fill("AR")
    assert ids(page) == ["hard"]
    assert quiet(page)


def test_orders_are_by_difficulty_and_by_difference(visit: Open, two: str) -> None:
    page = visit(two)
    assert pick(page, "sort", "hard") == ["even", "hard", "easy"]  # 2, 3 and 8 of 8
    assert pick(page, "sort", "easy") == ["easy", "hard", "even"]
    assert pick(page, "sort", "difference") == ["hard", "even", "easy"]


def test_a_click_opens_the_sample_beside_the_other_model(visit: Open, two: str) -> None:
    page = visit(two)
    page.page.locator(".problem").nth(1).locator(".squares").first.locator("i").nth(2).click()
    left, right = panes(page)
    assert "so hard is 2" in left and "no answer" in left and "30" in left
    assert "so hard is 2" in right and "correct" in right
    assert "thinking of hard, 2" not in left  # folded
    assert "How much is hard?" in page.page.locator("#asked").inner_text()
    page.page.locator("#thoughts").click()
    awaited(page, ".pane details[open]", "thinking of hard, 2")
    assert "thinking of hard, 2" in panes(page)[0]
    assert quiet(page)


def test_each_model_keeps_its_side_whichever_is_chosen(visit: Open, two: str) -> None:
    page = visit(two)
    page("openReader({ e: 1, p: 1, s: 3 })")
    assert [("no answer" in each, "wrong" in each) for each in panes(page)] == [(False, True)] * 2
    page.page.locator(".strip").first.locator("button").nth(2).click()
    awaited(page, ".pane.here", "no answer")
    assert page("[state.at.e, state.at.s, other]") == [0, 2, 1]
    page.page.locator(".pane select").nth(1).select_option(label="none")
    awaited(page, "#panes:not(.two)", "no answer")
    page.page.locator(".pane select").first.select_option(label="beside B")
    awaited(page, "#panes.two", "no answer")
    page.page.locator(".pane select").first.select_option(label="B b")
    awaited(page, ".pane:nth-child(2).here", "sample 2")
    assert page("[state.at.e, state.at.s, other]") == [1, 2, 0]
    assert quiet(page)


def test_the_expected_answer_is_hidden_until_it_is_asked_for(visit: Open, two: str) -> None:
    page = visit(two)
    page.page.get_by_role("button", name="hard").click()
    panes(page)
    assert "gold of hard" not in page.page.locator("#reader").inner_text()
    page.page.locator("#gold").click()
    awaited(page, "#answer", "gold of hard")


def test_keys_go_through_what_the_filter_shows(visit: Open, two: str) -> None:
    page = visit(two)
    pick(page, "only", "truncated")
    page.page.locator("h1").click()
    at = "state.at && [data.evals[state.at.e].letter, state.at.p, state.at.s]"
    places = []
    for key in ("j", "j", "j", "k", "ArrowRight", "ArrowUp"):
        page.page.keyboard.press(key)
        places.append(page(at))
    # hard: A's sample 1; even: B's sample 3, the last one
    assert places[:4] == [["A", 1, 1], ["B", 2, 3], ["B", 2, 3], ["A", 1, 1]]
    assert places[4] == ["A", 1, 2]
    page.page.keyboard.press("Enter")
    assert "sample 2" in panes(page)[0]
    page.page.keyboard.press("j")
    awaited(page, "#asked-id", "even")  # the next one that is shown, from one that is not
    page.page.keyboard.press("k")
    awaited(page, "#asked-id", "hard")
    page.page.keyboard.press("Escape")
    assert not page("$('reader').open")
    assert quiet(page)


def test_hostile_text_is_shown_and_never_obeyed(visit: Open, tmp_path: Path) -> None:
    evil = line(EVIL, 0, "w", text=EVIL, reasoning=EVIL, answer=EVIL, extracted=EVIL)
    page = visit(
        html(evaluation(tmp_path / EVIL[-8:-3], {EVIL: "w"}, bench=EVIL, lines=[evil]).path)
    )
    page.page.locator("#problems .id").click()
    panes(page)
    page.page.locator("#gold").click()
    awaited(page, "#answer", "evil")
    assert page("window.evil") is None
    assert page.page.locator(".pane img, .pane script").count() == 0
    shown = page.page.locator("#reader").inner_text()
    assert shown.count("</script><script>window.evil = 1</script>") >= 4
    assert not set(shown) & set("\x1b\u202e\0")
    assert quiet(page)


def test_samples_that_are_not_stored_leave_a_gap(visit: Open, tmp_path: Path) -> None:
    folder = evaluation(tmp_path / "a", {"p": "cw", "q": "c"}, wanted=9, report=False)
    page = visit(html(folder.path))
    assert page.page.locator(".problem").nth(1).locator("i.gone").count() == 1
    assert page.page.locator("td").nth(5).inner_text() == "2 of 9"
    page.page.locator(".problem").nth(1).locator("i").nth(1).click()
    assert not page("$('reader').open")
    assert quiet(page)


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_window(
    visit: Open, tmp_path: Path, width: int, scheme: str
) -> None:
    long = "unbroken" * 60
    rows = {long: "cw" * 16, "b": "wt" * 16}
    paths = [
        evaluation(tmp_path / name, rows, lines=[line(long, 0, "c", text=long)]).path
        for name in ("a" * 90, "b", "c")
    ]
    page = visit(html(*paths), width=width, color_scheme=scheme, has_touch=width < 1000)
    wide = "document.documentElement.scrollWidth - innerWidth"
    assert page(wide) <= 0
    page("openReader({ e: 0, p: 0, s: 0 })")
    panes(page)
    assert page(wide) <= 0
    parts = "[...document.querySelectorAll('.pane, .bar button')]"
    assert page(f"Math.max(...{parts}.map((b) => b.getBoundingClientRect().right))") <= width
    assert quiet(page)


def test_a_row_of_32_samples_is_one_line_on_a_desk(visit: Open, tmp_path: Path) -> None:
    page = visit(html(evaluation(tmp_path / "a", {"p": "cw" * 16, "q": "cw" * 16}).path))
    tops = "new Set([...document.querySelector('.squares').children].map((i) => i.offsetTop)).size"
    assert page(tops) == 1


def test_a_print_has_the_problems_names_and_the_samples_that_are_read(
    visit: Open, two: str
) -> None:
    page = visit(two, width=720)
    page.page.emulate_media(media="print")
    assert page.page.locator(".problem .id").first.is_visible()
    assert not page.page.locator(".tools").is_visible()
    assert page("document.documentElement.scrollWidth - innerWidth") <= 0
    page("openReader({ e: 0, p: 1, s: 2 })")
    assert "no answer" in panes(page)[0]
    assert page.page.locator(".strip button").first.is_visible()
    assert not page.page.locator("#problems").is_visible()


def test_without_a_script_the_scores_are_there(visit: Open, two: str) -> None:
    page = visit(two, java_script_enabled=False)
    assert "66.7%" in page.page.locator("table").inner_text()
    assert page.page.locator("#no-script").is_visible()
    assert not page.page.locator("#reader").is_visible()
