"""The page of an inspection in headless Chromium: it computes, colours and answers as promised."""

from __future__ import annotations

import math
import random
import re
import time
from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import pytest
import torch

from dgpo_cli.algo.credit import DgpoCredit
from dgpo_cli.core.numbers import UNKNOWN, fraction, probability, signed, small, worth
from dgpo_cli.core.types import InspectedCompletion, StoredCredit, TokenStats
from dgpo_cli.inspect.page import inspect_page
from dgpo_cli.inspect.token_html import STEPS, shown_pieces
from dgpo_cli.inspect.values.moves import Along, value_words
from dgpo_cli.inspect.views.header import share_of_top
from dgpo_cli.inspect.views.legend import ends
from dgpo_cli.inspect.views.linear import Linear
from dgpo_cli.inspect.views.measure import What, gate, measure_of, pieces
from dgpo_cli.inspect.views.ranking import ranked_by
from dgpo_cli.inspect.views.step_table import totals_of
from dgpo_cli.inspect.views.what_if import moved
from dgpo_cli.ui.scale import Scale
from tests.algo.twins import dgpo_weights
from tests.browser import Visit
from tests.inspect.test_token_html import fragment
from tests.inspect.test_turns import inspection as turns_of_two
from tests.samples import VALUES_BY, completion, hostile, inspection, reasoning, solution, valued

Open = Callable[..., Visit]
SETTINGS = [(0.5, 1.0), (0.02, 1.0), (1e-4, 0.0), (3.0, 2.5), (0.1, 0.05)]
TOKENS = "#text .line > span"


def measured(count: int = 300, seed: int = 0) -> InspectedCompletion:
    """Statistics over many orders of magnitude, with zeros and a full gate among them."""
    draw = random.Random(seed)
    shown = completion(["x "] * count, [0.0] * count, tau=1.0, advantage=-1.25)
    tokens = tuple(
        replace(
            token,
            entropy=draw.choice([0.0, math.log(1024), 7.0 * draw.random() ** 3]),
            hellinger_sq=draw.choice([0.0, 10.0 ** draw.uniform(-9, 0)]),
        )
        for token in shown.tokens
    )
    return replace(shown, tokens=tokens)


def opened(visit: Open, *shown: InspectedCompletion, **settings: object) -> Visit:
    return visit(inspect_page(inspection(*shown)), **settings)


def quiet(found: Visit) -> bool:
    """Nothing on the console, and nothing asked for but the page itself."""
    return found.complaints == [] and len(found.requests) == 1


def recomputed(found: Visit) -> None:
    """A slider has moved: waits for the frame in which the page computes the credit under it."""
    found.page.wait_for_function("() => view.isWhatIf && !isWaiting")


def token(found: Visit) -> int:
    """The token that has the focus, by its place among the spans."""
    place = found(
        "[...document.querySelectorAll('#text .line > span')].indexOf(document.activeElement)"
    )
    assert isinstance(place, int)
    return place


def test_the_page_computes_the_rule_of_the_paper(visit: Open) -> None:
    shown = measured()
    entropy = [token.entropy for token in shown.tokens]
    d = [token.hellinger_sq for token in shown.tokens]
    gates = [gate(value, vocab_size=1024) for value in entropy]
    columns = [torch.tensor([column]) for column in (entropy, d)]
    stats = TokenStats(old_logprobs=columns[0], entropy=columns[0], hellinger_sq=columns[1])
    mask = torch.ones_like(columns[0], dtype=torch.bool)
    page = opened(visit, solution())
    for tau, kappa in SETTINGS:
        found = page(
            "([h, d, rest]) => { const found = dgpoCredit(h, d, rest);"
            " return [Array.from(found.scores), Array.from(found.weights)]; }",
            [entropy, d, {"tau": tau, "kappa": kappa, "vocabSize": 1024}],
        )
        scores, weights = dgpo_weights(d, gates, tau=tau, kappa=kappa)
        assert found[0] == pytest.approx(scores, rel=1e-9, abs=0.0)
        assert found[1] == pytest.approx(weights, rel=1e-9, abs=1e-300)
        assert math.fsum(found[1]) == pytest.approx(len(d), rel=1e-12)
        credit = DgpoCredit(tau=tau, kappa=kappa).credit(stats, mask, vocab_size=1024)
        lost = 3e-7 * max(scores) / tau  # by float32 in s / tau, and so relatively in w
        trainer = credit.weights[0].tolist()
        assert found[1] == pytest.approx(trainer, rel=1e-5 + 10 * lost, abs=1e-30)


def test_scales_and_numbers_are_the_terminals(visit: Open) -> None:
    draw = random.Random(1)
    rows = [[math.exp(draw.gauss(0, size)) for _ in range(40)] for size in (1e-8, 1e-4, 0.05, 1, 4)]
    rows += [[1.0] * 5, [0.0, 2.0], [1.0 + 2**-20, 1.0]]
    rows += [[-12.5, 40.25, 0.0, -0.004, -0.0004, -130.7, 110.0]]
    values = [0.0, 1.0, 9.99996, 10.0, 123.456, 12345.6, 1e-3, 9.99e-4, 4.1e-5, 1e-300, -0.5]
    values += [draw.uniform(0, 1) ** 5 for _ in range(200)]
    logprobs = [0.0, -0.5, -7.0, -8.0, -40.0, -800.0, 0.1]
    linear = [[0.0], [1.0, 3.1], [7.1], [9.99e-7, 1e-9], [15.0], [1e-320]]
    found = opened(visit, solution())(
        """([rows, values, logprobs, linear]) => ({
            rows: rows.map((row) => {
              const factor = factorOf(row);
              const fitted = row.map((w) => weightLevel(w, factor, Math.pow(factor, 0.5 / STEPS)));
              const fixed = row.map((w) => (factor === 1 ? 0 : weightLevel(w, 2, NEUTRAL)));
              return [factor, fitted, fixed, row.map((w) => weightText(w, factor)),
                fraction(effectiveFraction(row)),
                sharesOfTop(row, [0.01, 0.05, 0.1]),
                [weightEnd(1 / factor, factor), weightEnd(factor, factor)]];
            }),
            ends: linear.map(endOf),
            written: linear.map((values) => [true, false].map((s) => linearEnd(endOf(values), s))),
            small: values.map(small),
            probability: logprobs.map(probability),
        })""",
        [rows, values, logprobs, linear],
    )
    assert found["small"] == [small(value) for value in values]
    assert found["probability"] == [probability(value) for value in logprobs]
    assert found["ends"] == pytest.approx([Linear.of(row, steps=STEPS).end for row in linear])
    for row, (factor, *levels, texts, effective, shares, both) in zip(
        rows, found["rows"], strict=True
    ):
        scale = Scale.of(row, steps=STEPS)
        assert factor == pytest.approx(scale.fitted, rel=1e-12)
        for fit, found_levels in zip((True, False), levels, strict=True):
            each = Scale.of(row, steps=STEPS, fit=fit)
            assert found_levels == [each.level(weight) for weight in row]
        assert texts == [scale.number(weight) for weight in row]
        squares = math.fsum(weight * weight for weight in row)
        assert effective == fraction(math.fsum(row) ** 2 / (len(row) * squares))
        assert shares == pytest.approx([share_of_top(row, s) for s in (0.01, 0.05, 0.1)], rel=1e-12)
        fitted = Scale.of(row, steps=STEPS, fit=True)
        if not fitted.is_uniform:
            assert both == [each.removeprefix("<= ").removeprefix(">= ") for each in ends(fitted)]
    for values, written in zip(linear, found["written"], strict=True):
        scales = [Linear.of(values, steps=STEPS, signed=signs) for signs in (True, False)]
        assert written == [each.number(each.end, short=True) for each in scales]


def test_the_script_shows_what_python_wrote(visit: Open) -> None:
    found = opened(visit, solution(), hostile())
    for at, shown in enumerate((solution(), hostile())):
        found("(at) => openAt(at)", at)
        spans = found(
            "[...document.querySelectorAll('#text .line')].map((line) => [...line.children].map("
            "(span) => [span.className.replace(/ ?listed/, ''), span.textContent]))"
        )
        written = fragment(shown).lines
        assert spans == [[[look, text] for look, _, text in line] for line in written]
        parts = [range(piece.start, piece.stop) for piece in pieces(shown.tokens)]
        for what in (what for what in get_args(What) if what != "value"):
            found.page.locator("#what").select_option(what)
            measure = measure_of(shown, what=what, steps=STEPS)
            levels = [measure.piece_level(piece) for piece in pieces(shown.tokens)]
            assert found("view.pieceLevels") == levels, what
            underlined = found("[...document.querySelectorAll('.listed')].map((s) => s.piece)")
            positions = ranked_by(measure, shown.tokens, top=10)
            assert set(underlined) == {
                at for at, part in enumerate(parts) for position in positions if position in part
            }
        found.page.locator("#what").select_option("weight")
    assert quiet(found)


def test_without_a_script_the_text_is_there_and_nothing_that_does_not_work(visit: Open) -> None:
    from playwright.sync_api import expect

    shown = solution()
    page = opened(visit, shown, hostile(), java_script_enabled=False).page

    # Lines have their text once the browser has found them to be in view.
    expect(page.locator("#text .line").last).to_have_text("<|endoftext|>", use_inner_text=True)
    assert page.locator("#text").inner_text().replace("\n", "") == "".join(
        text for _, text, _ in shown_pieces(shown.tokens)
    )
    assert page.get_by_text("Without JavaScript").is_visible()
    for control in ("#tau", "#what", "#chooser", "#theme", "#strip", "#top", "#reset"):
        assert not page.locator(control).is_visible(), control
    painted = page.locator("#text .u12").first.evaluate(
        "(e) => getComputedStyle(e).backgroundColor"
    )
    assert painted not in ("rgba(0, 0, 0, 0)", "")


def test_tau_moves_by_keys_and_by_mouse_and_goes_back(visit: Open) -> None:
    shown = measured()
    found = opened(visit, shown)
    page = found.page

    def holds(tau: float) -> None:
        gates = [gate(token.entropy, vocab_size=1024) for token in shown.tokens]
        d = [token.hellinger_sq for token in shown.tokens]
        _, weights = dgpo_weights(d, gates, tau=tau, kappa=1.0)
        squares = math.fsum(weight * weight for weight in weights)
        expected = fraction(len(weights) / squares)
        page.wait_for_function(
            "(text) => document.getElementById('fraction').firstChild.data === text", arg=expected
        )
        assert found("Array.from(view.w)") == pytest.approx(weights, rel=1e-8)
        assert page.locator("#tau-value").inner_text() == f"{tau:g}"

    before = page.locator("#fraction").inner_text()
    assert page.locator("#reset").is_disabled()
    page.locator("#tau").focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    holds(0.955)
    page.keyboard.press("Home")
    holds(1e-4)
    assert "as computed" in page.locator("#fraction").inner_text()
    assert page.locator("#range").input_value() == "2"
    box = page.locator("#tau").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.5, box["y"] + box["height"] / 2)
    holds(found("view.tau"))
    assert 0.01 < found("view.tau") < 0.1
    page.locator("#reset").click()
    assert page.locator("#fraction").inner_text() == before
    assert found("view.w === view.shown.w") and quiet(found)


def test_kappa_moves_and_zero_takes_the_gate_away(visit: Open) -> None:
    found = opened(visit, measured())
    found.page.locator("#kappa").focus()
    found.page.keyboard.press("Home")
    recomputed(found)
    assert found("view.kappa === 0 && view.s[0] === view.shown.d[0]")
    assert found("Array.from(view.s)") == found("Array.from(view.shown.d)")


def test_tokens_are_one_stop_of_the_tab_key_and_arrows_move_among_them(visit: Open) -> None:
    words = [f"w{at} " for at in range(400)]
    found = opened(visit, completion(words, [0.001 * (at % 7) for at in range(400)], tau=0.1))
    page = found.page
    assert found("document.querySelectorAll('#text [tabindex]').length") == 1
    for _ in range(30):
        page.keyboard.press("Tab")
        if token(found) >= 0:
            break
    assert token(found) == 0
    assert (
        page.locator("#text :focus").evaluate("(e) => getComputedStyle(e).outlineStyle") == "solid"
    )
    for key, place in (
        ("ArrowRight", 1),
        ("ArrowRight", 2),
        ("ArrowLeft", 1),
        ("Home", 0),
        ("ArrowLeft", 0),
    ):
        page.keyboard.press(key)
        assert token(found) == place
    assert "token 0" in page.locator("#detail").inner_text()
    left = "(at) => view.spans[at].getBoundingClientRect().left"
    page.keyboard.press("ArrowDown")
    below = token(found)
    assert below > 5 and abs(found(left, below) - found(left, 0)) < 20
    page.keyboard.press("End")
    end = token(found)
    assert end > below and found(left, end + 1) < found(left, end)
    page.keyboard.press("ArrowUp")
    assert token(found) < below
    page.keyboard.press("Control+End")
    assert token(found) == 399
    page.keyboard.press("Tab")
    assert token(found) == -1
    assert quiet(found)


def test_enter_keeps_a_token_and_escape_lets_it_go(visit: Open) -> None:
    found = opened(visit, solution())
    page = found.page
    found("choose(7, { focus: true })")
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowRight")
    assert [found("view.kept"), token(found)] == [7, 8]
    assert page.locator(".kept").count() == 1
    page.keyboard.press("Escape")
    assert found("view.kept") == -1 and page.locator(".kept").count() == 0
    assert token(found) == 8


def test_a_token_pointed_at_shows_its_numbers(visit: Open) -> None:
    shown = solution()
    page = opened(visit, shown).page
    page.locator(TOKENS).nth(21).hover()
    text = page.locator("#detail").inner_text()
    given = shown.tokens[21]
    scale = Scale.of([token.weight for token in shown.tokens], steps=STEPS)
    for number in (
        scale.number(given.weight),
        small(given.score),
        small(given.hellinger_sq),
        small(gate(given.entropy, vocab_size=1024)),
        small(given.entropy),
        probability(given.logprob),
        signed(given.weight * shown.advantage),
        "token 21",
        "3 of 36",
    ):
        assert number in text, number


def test_on_a_phone_a_tap_opens_the_numbers_and_close_closes_them(visit: Open) -> None:
    found = opened(visit, solution(), width=390, has_touch=True, is_mobile=True)
    page = found.page
    assert not page.locator("#detail").is_visible()
    page.locator(TOKENS).nth(5).tap()
    assert "token 5" in page.locator("#detail").inner_text()
    page.get_by_role("button", name="Close").tap()
    assert not page.locator("#detail").is_visible()
    assert quiet(found)


def test_a_phone_never_scrolls_sideways(visit: Open) -> None:
    wide = ["x" * 300, "\t" * 50, "漢字" * 90]
    long = completion(wide, [0.1, 0.2, 0.3], tau=0.2, prompt_id="p" * 200)
    found = opened(visit, hostile(), long, solution(), width=390, has_touch=True)
    for width in (390, 320):
        found.page.set_viewport_size({"width": width, "height": 800})
        for at in range(3):
            found("(at) => openAt(at)", at)
            found.page.locator(TOKENS).first.tap()
            assert found("document.documentElement.scrollWidth") == width
    assert quiet(found)


def test_the_theme_follows_the_system_until_the_button_is_pressed(visit: Open) -> None:
    light, dark = "rgb(255, 255, 255)", "rgb(22, 23, 27)"
    card = "getComputedStyle(document.querySelector('.card')).backgroundColor"
    found = opened(visit, solution(), color_scheme="dark")
    button = found.page.locator("#theme")
    assert (found(card), button.inner_text()) == (dark, "Light")
    button.focus()
    found.page.keyboard.press("Enter")
    assert (found(card), button.inner_text()) == (light, "Dark")

    def reloaded_to(colour: str) -> bool:
        """What a page stores reaches the next one through other processes, soon but not at once."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            found.page.reload()
            if found(card) == colour:
                return True
        return False

    assert reloaded_to(light)
    found("localStorage.clear()")
    for scheme, expected in (("dark", dark), ("light", light)):
        found.page.emulate_media(color_scheme=scheme)
        assert reloaded_to(expected)
    assert found.complaints == []


def test_hostile_texts_stay_text_whatever_is_done(visit: Open) -> None:
    attack = '</script><script>alert(1)</script><img src=x onerror="alert(1)"><a href="http://a.b">'
    texts = [attack, *(token.text for token in hostile().tokens)]
    nasty = completion(texts, [0.01 * at for at in range(len(texts))], tau=0.1, prompt=attack)
    nasty = replace(nasty, prompt_id=attack, answer=attack)
    found = opened(visit, nasty, hostile())
    page = found.page
    elements = "document.querySelectorAll('img, a, iframe, object, embed, link').length"
    for at in (0, 1, 0):
        found("(at) => openAt(at)", at)
        for what in ("weight", "advantage", "score", "hellinger", "entropy", "logprob"):
            page.locator("#what").select_option(what)
        for place in range(found("view.spans.length")):
            found("(at) => choose(at, { keep: true })", place)
        assert found(elements) == 0 and found("document.scripts.length") == 2
    assert page.locator("#prompt").inner_text() == attack
    assert page.locator(TOKENS).first.inner_text() == attack
    assert not re.search(
        "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u2028\u202e\ud800]", found("document.body.textContent")
    )
    assert quiet(found)


def test_everything_on_the_page_can_be_used_in_silence(visit: Open) -> None:
    words = [f"Word {at}. " for at in range(130)]
    long = completion(words, [0.01 * (at % 11) for at in range(130)], tau=0.1, index=1)
    found = opened(visit, solution(), long)
    page = found.page
    assert page.locator("#before").is_enabled() != page.locator("#after").is_enabled()
    page.locator("#chooser").select_option("1")
    assert page.locator("#name").inner_text().endswith("completion 1")
    for column in ("token", "advantage", "score", "hellinger", "gate", "entropy", "prob", "weight"):
        page.locator(f"[data-sort={column}]").click()
        assert page.locator("th[aria-sort]").count() == 1
    page.locator("#more").click()
    assert page.locator("#top tbody tr").count() == 100
    page.locator("#more-steps").click()
    assert page.locator("#steps tbody tr").count() == 130
    page.locator("#top [data-piece]").nth(3).click()
    assert token(found) == found("view.kept") >= 0
    page.locator("#strip").click(position={"x": 2, "y": 10})
    assert token(found) == 0
    for scale in ("2", "5", "20", "fit"):
        page.locator("#range").select_option(scale)
    page.locator("#before").click()
    assert page.locator("#name").inner_text().endswith("completion 3")
    assert quiet(found)


def test_a_completion_without_tokens_or_without_numbers_is_shown(visit: Open) -> None:
    broken = replace(
        solution(), tokens=(replace(solution().tokens[0], entropy=math.nan, weight=math.nan),)
    )
    found = opened(visit, completion([], [], tau=1.0, index=0), broken)
    for at in (0, 1, 0):
        found("(at) => openAt(at)", at)
        found.page.locator("#tau").focus()
        found.page.keyboard.press("ArrowLeft")
    assert "no tokens" in found.page.locator("#words").inner_text()
    assert quiet(found)


def test_step_totals_add_up_to_the_whole(visit: Open) -> None:
    shown = solution()
    found = opened(visit, shown)
    rows = found(
        "[...document.querySelectorAll('#steps tbody tr')]"
        ".map((row) => [...row.cells].map((cell) => cell.innerText))"
    )
    assert [row[0] for row in rows] == ["0", "8", "16", "24", "35"]
    assert [row[1] for row in rows][:4] == ["12+7=19;", "19*4=76;", "76-8=68;", "\\boxed{68}↵"]
    assert sum(int(row[2]) for row in rows) == len(shown.tokens)
    assert sum(float(row[3].rstrip("%")) for row in rows) == pytest.approx(100.0, abs=0.3)
    moved = sum(float(row[6]) for row in rows)
    assert moved == pytest.approx(len(shown.tokens) * shown.advantage, abs=0.1)


def test_what_is_not_known_is_never_zero_or_wrong(visit: Open) -> None:
    unknown = replace(solution(), outcome=None, reward=math.nan, advantage=math.nan, index=0)
    found = opened(visit, unknown, solution())
    found("openAt(0)")
    page = found.page
    for place in ("outcome", "reward", "advantage", "sum"):
        assert page.locator(f"#{place}").inner_text() == "unknown", place
    assert page.locator("#outcome .bad, #outcome .good").count() == 0
    page.locator("#what").select_option("advantage")
    assert "not known" in page.locator("#legend").inner_text()
    assert found("view.levels.every((level) => level === 0)")
    assert page.locator("#top tbody tr").first.locator("td").nth(4).inner_text() == UNKNOWN
    assert page.locator("#steps tbody tr").first.locator("td").nth(6).inner_text() == UNKNOWN
    page.locator(TOKENS).nth(3).click()
    text = page.locator("#detail").inner_text()
    assert re.search(r"token advantage\s+unknown", text) and "NaN" not in text
    found("openAt(1)")
    assert page.locator("#advantage").inner_text() == "+0.750"
    assert page.locator("#sum").inner_text().startswith("✓")
    assert quiet(found)


def test_a_colour_that_is_a_sum_is_said_to_be_one(visit: Open) -> None:
    found = opened(visit, solution(), hostile())  # the second has a character of two tokens
    legend = found.page.locator("#legend")
    for what in ("weight", "entropy"):
        found.page.locator("#what").select_option(what)
        said = [found("(at) => openAt(at)", at) or legend.inner_text() for at in range(2)]
        assert ["several tokens: their sum" in text for text in said] == [False, True], what


def test_a_what_if_is_told_from_what_trained(visit: Open) -> None:
    shown = solution(tau=0.02)
    before = solution(tau=0.5)
    weights = tuple(token.weight for token in before.tokens)
    stored = StoredCredit("dgpo", {"kappa": 1.0}, 0.5, before.effective_fraction, weights)
    asked = inspection(replace(shown, stored=stored), tau=0.02)
    found = visit(inspect_page(asked))
    page = found.page
    share = moved(weights, [token.weight for token in shown.tokens])
    told = page.locator("#what-if").inner_text()
    assert told.startswith("What if: dgpo, tau 0.02, kappa 1. Trained with: dgpo, tau 0.5, kappa 1")
    assert f"Credit that moves: {100 * share:.1f}%" in told
    assert (
        f"as trained {fraction(before.effective_fraction)}"
        in page.locator("#fraction").inner_text()
    )
    page.locator(TOKENS).nth(3).click()
    assert "w that trained" in page.locator("#detail").inner_text()
    assert found("view.tau") == 0.02 and page.locator("#reset").is_disabled()
    page.locator("#tau").focus()
    page.keyboard.press("End")
    recomputed(found)
    assert found("view.tau") == 10
    assert "Trained with: dgpo, tau 0.5" in page.locator("#what-if").inner_text()
    assert "as trained" in page.locator("#fraction").inner_text()
    assert quiet(found)


def test_of_another_rule_the_page_says_what_its_sliders_show(visit: Open) -> None:
    tokens = tuple(replace(token, weight=1.0) for token in solution().tokens)
    even = replace(solution(), tokens=tokens, tau=None, effective_fraction=1.0)
    blind = replace(even, tokens=tuple(replace(token, hellinger_sq=0.0) for token in tokens))
    uniform = {"rule": "uniform", "tau": None, "kappa": None}
    found = visit(inspect_page(inspection(even, **uniform)))
    page = found.page
    assert "As computed: uniform. Move a slider" in page.locator("#what-if").inner_text()
    assert "under the rule dgpo instead" in page.locator("#what-if").inner_text()
    assert found("view.tau") == 0.5 and page.locator("#tau").is_enabled()
    page.locator("#tau").focus()
    page.keyboard.press("Home")
    recomputed(found)
    assert found("view.factor") > 2
    found = visit(inspect_page(inspection(blind, **uniform)))
    assert "No distances were measured" in found.page.locator("#what-if").inner_text()
    assert found.page.locator("#tau").is_disabled() and found.page.locator("#kappa").is_disabled()
    assert quiet(found)


def test_where_the_sign_leaves_the_weights_alone_the_sliders_rest(visit: Open) -> None:
    parameters = {"tau": 0.5, "kappa": 1.0, "sign": "negative"}
    each = [replace(solution(), advantage=value) for value in (0.7, -0.7)]
    found = visit(inspect_page(inspection(*each, parameters=parameters)))
    for at, rests in enumerate((True, False)):
        found("(at) => openAt(at)", at)
        assert found.page.locator("#tau").is_disabled() == rests
        told = "the advantage is positive, so the rule leaves every weight at 1"
        assert (told in found.page.locator("#what-if").inner_text()) == rests
        assert "negative advantages only" in found.page.locator("#rule").inner_text()
    found.page.locator("#tau").focus()
    found.page.keyboard.press("Home")
    recomputed(found)
    assert found("view.ruleName").endswith(", negative advantages only")
    assert quiet(found)


def test_sliders_start_at_the_tau_and_the_kappa_that_are_shown(visit: Open) -> None:
    each = [replace(solution(tau=tau), index=at) for at, tau in enumerate((0.03, 0.25))]
    settings = {"tau": None, "kappa": 2.0, "parameters": {"target_ess": 0.8, "kappa": 2.0}}
    found = visit(inspect_page(inspection(*each, **settings)))
    for at, tau in enumerate((0.03, 0.25)):
        found("(at) => openAt(at)", at)
        assert found("[view.tau, view.kappa]") == [tau, 2.0]
        assert 10 ** float(found.page.locator("#tau").input_value()) == pytest.approx(tau, rel=0.02)
        assert found.page.locator("#rule").inner_text().startswith(f"dgpo, tau {tau} for")


def test_tokens_of_an_environment_have_no_credit_under_any_settings(visit: Open) -> None:
    """The sliders spread the credit over the policy's tokens alone."""
    found = visit(inspect_page(turns_of_two()))
    looks = found("[...document.querySelectorAll('#text .line > span')].map((e) => e.className)")
    assert [at for at, look in enumerate(looks) if "env" in look.split()] == [4, 5]
    found.page.locator("#tau").focus()
    found.page.keyboard.press("ArrowLeft")
    recomputed(found)
    weights = found("[...view.w]")
    assert weights[4:6] == [0, 0] and sum(weights) == pytest.approx(6.0)
    own = [at for at in range(8) if at not in (4, 5)]
    d = [turns_of_two().completions[0].tokens[at].hellinger_sq for at in own]
    gates = [gate(1.0, vocab_size=50)] * 6
    _, expected = dgpo_weights(d, gates, tau=found("view.tau"), kappa=1.0)
    assert [weights[at] for at in own] == pytest.approx(expected, rel=1e-6)
    assert found.page.locator("#sum").inner_text().startswith("✓ 12.0000")
    assert found.page.locator("#count").inner_text() == "6 and 2 of the environment"
    assert sorted(found("view.order")) == own
    assert found("view.stepRows.map((row) => row.count)") == [4, 0, 2]
    parts = found("view.stepRows.map((row) => row.cells[0].textContent)")
    assert parts[1] == "" and sum(float(parts[at].rstrip("%")) for at in (0, 2)) == 100.0
    assert "NaN" not in found.page.locator("#steps").inner_text()
    assert quiet(found)


def test_terms_and_note_are_those_of_the_completion_that_is_chosen(visit: Open) -> None:
    one = replace(solution(), terms=(("exact", 1.0), ("steps", math.nan)), note="<b>off</b>")
    other = replace(solution(), index=4, terms=(("exact", 0.0), ("steps", 0.5)))
    found = visit(inspect_page(inspection(one, other)))
    for place, terms, note in (
        ("1", "exact 0, steps 0.5", ""),
        ("0", "exact 1, steps none", "<b>off</b>"),
    ):
        found.page.locator("#chooser").select_option(place)
        assert found.page.locator("#terms").inner_text() == terms
        assert found.page.locator("#note").inner_text() == note
    assert quiet(found)


def valued_page(visit: Open, *shown: InspectedCompletion, **settings: object) -> Visit:
    return visit(inspect_page(inspection(*shown, values=VALUES_BY)), **settings)


def test_the_curve_is_pythons_and_belongs_to_the_completion_that_is_chosen(visit: Open) -> None:
    shown = valued(reasoning(sentences=6), every=3)
    assert shown.values is not None
    found = valued_page(visit, shown, solution())
    found("openAt(0)")
    along = Along.of(shown.values)
    for name in ("value", "low", "high"):
        assert found(f"Array.from(view.along.{name})") == pytest.approx(getattr(along, name))
    page = found.page
    assert page.locator("#value-words span").all_inner_texts() == [*value_words(shown)]
    points = found("document.querySelector('#curve .value').getAttribute('points').split(' ')")
    assert len(points) == len(shown.values.points)
    x, y = map(float, points[-1].split(","))
    assert (x, y) == (1000, 98)  # it ends with a reward of 0
    assert page.locator("#curve .lost").count() == 1
    page.locator("#what").select_option("value")
    measure = measure_of(shown, what="value", steps=STEPS)
    levels = [measure.piece_level(piece) for piece in pieces(shown.tokens)]
    assert found("view.pieceLevels") == levels
    cells = found(
        "[...document.querySelectorAll('#steps tbody tr')].map((row) =>"
        " [...row.children].slice(-2).map((cell) => cell.textContent))"
    )
    totals = totals_of(shown)
    assert cells == [[worth(total.value), signed(total.move, worth)] for total in totals]
    best = ranked_by(measure, shown.tokens, top=1)[0]
    assert found("view.order[0]") == best
    found("openAt(1)")
    assert page.locator("#curve-box").is_hidden() and not page.locator("#value-words span").count()
    assert quiet(found)


def test_a_token_shows_its_value_by_keyboard_and_pointer(visit: Open) -> None:
    shown = valued(solution(), levels=((0.0, 0.875), (0.5, 0.125)))
    found = valued_page(visit, shown)
    page, at = found.page, len(shown.tokens) // 2
    assert shown.values is not None
    along = Along.of(shown.values)

    def told(token: int) -> str:
        low, high = worth(along.low[token + 1]), worth(along.high[token + 1])
        return f"V after it\n{worth(along.value[token + 1])}\nits 95% interval\n{low} to {high}"

    page.locator(TOKENS).first.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert told(3) in page.locator("#detail").inner_text()
    assert f"V after it {worth(along.value[4])}" in page.locator("#live").inner_text()
    box = page.locator("#curve").bounding_box()
    page.mouse.move(box["x"] + box["width"] * (at + 0.5) / len(shown.tokens), box["y"] + 5)
    assert told(at) in page.locator("#detail").inner_text()
    page.mouse.click(box["x"] + box["width"] * (at + 0.5) / len(shown.tokens), box["y"] + 5)
    assert token(found) == at
    assert quiet(found)


def test_without_values_the_page_has_no_sign_of_them(visit: Open) -> None:
    found = opened(visit, solution())
    assert not found.page.locator("#curve").count()
    assert not found.page.locator("#what option[value=value]").count()
    assert "V after" not in found.page.locator("#detail").inner_text()
    assert quiet(found)
