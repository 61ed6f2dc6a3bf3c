"""The credit view shows true numbers, in every mode, and sends nothing that it should not."""

from __future__ import annotations

import math
import re
import unicodedata
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from dgpo_cli.core.types import InspectedCompletion, InspectedToken
from dgpo_cli.inspect.views.heatmap import render
from dgpo_cli.inspect.views.ranking import probability, ranked, small
from dgpo_cli.ui.ramp import Depth
from tests.samples import (
    HOSTILE,
    SGR,
    check_snapshot,
    completion,
    hostile,
    inspection,
    printed,
    solution,
)

MODES: tuple[Depth, ...] = ("truecolor", "256", "16", "none")


def view(
    shown: InspectedCompletion,
    *,
    width: int = 80,
    color: Depth = "none",
    top: int = 6,
    encoding: str = "utf-8",
    fit: bool = False,
) -> str:
    renderable = render(
        shown, inspection=inspection(shown), width=width, top=top, color=color, fit=fit
    )
    return printed(renderable, width=width, color=color, encoding=encoding)


@pytest.mark.parametrize("color", MODES)
@pytest.mark.parametrize("width", [40, 80])
def test_snapshot_of_a_solution(color: Depth, width: int) -> None:
    check_snapshot(f"heatmap-{color}-{width}.txt", view(solution(), color=color, width=width))


@pytest.mark.parametrize("color", ["truecolor", "none"])
def test_snapshot_of_hostile_text(color: Depth) -> None:
    check_snapshot(f"heatmap-hostile-{color}.txt", view(hostile(), color=color))


def test_snapshot_in_ascii() -> None:
    check_snapshot("heatmap-ascii.txt", view(hostile(), encoding="ascii"))


def test_snapshot_of_nearly_uniform_weights() -> None:
    check_snapshot("heatmap-nearly-uniform.txt", view(solution(tau=60.0)))


def body(output: str) -> str:
    """The running text: between the caption of the strip and the legend."""
    caption = output.index("each bar")
    legend = re.search(r"\n(?:\x1b\[2m)?weight ", output)
    assert legend
    return output[output.index("\n\n", caption) : legend.start()]


def only_safe(output: str, *, color: Depth) -> None:
    rest = output if color == "none" else SGR.sub("", output)
    assert {unicodedata.category(char) for char in rest.replace("\n", "")}.isdisjoint(
        {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
    )


@pytest.mark.parametrize("color", MODES)
@pytest.mark.parametrize("width", [24, 40, 80, 200])
def test_hostile_text_reaches_no_terminal(color: Depth, width: int) -> None:
    only_safe(view(hostile(), color=color, width=width, top=len(HOSTILE)), color=color)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.text(max_size=12), min_size=1, max_size=12),
    st.text(max_size=40),
    st.sampled_from(MODES),
    st.integers(24, 90),
)
def test_random_text_sends_only_colours_and_newlines(
    texts: list[str], name: str, color: Depth, width: int
) -> None:
    shown = completion(
        texts, [0.1 * at for at in range(len(texts))], tau=0.3, prompt=name, prompt_id=name
    )
    output = view(shown, color=color, width=width)
    only_safe(output, color=color)
    for line in SGR.sub("", output).split("\n"):
        assert sum(cell_len(char) for char in line) <= width


@pytest.mark.parametrize("color", MODES)
@pytest.mark.parametrize("width", [40, 80, 200])
def test_every_line_fits_the_width(color: Depth, width: int) -> None:
    for shown in (solution(), hostile(), solution(tau=60.0), solution(tau=0.01)):
        for line in SGR.sub("", view(shown, color=color, width=width, top=30)).split("\n"):
            assert cell_len(line) <= width, line


@pytest.mark.parametrize("color", ["truecolor", "256", "16"])
def test_a_token_of_about_grpos_weight_keeps_the_terminals_own_colours(color: Depth) -> None:
    shown = completion(["even", "heavy", *"." * 12], [0.1, 0.5, *[0.1] * 12], tau=0.4)
    assert 0.8 < shown.tokens[0].weight < 0.9 and shown.tokens[1].weight > 2.0
    found = body(view(shown, color=color, top=0))
    assert re.search(r"^even\x1b", found.strip("\n"))
    assert re.search(r"\x1b\[[0-9;]*4[0-9;]*mheavy", found)


def test_markup_in_a_token_stays_text() -> None:
    output = view(hostile(), color="truecolor", top=len(HOSTILE))
    assert "[red]" in output and "[/]" in output and "<script>alert(1)</script>" in output


def test_equal_weights_have_no_colour_at_all() -> None:
    output = view(completion("abcd", [0.3] * 4, tau=0.5), color="truecolor")
    assert not re.search(r"\x1b\[[0-9;]*(38|48|3[0-7]|4[0-7]);?", output)
    assert "Every token has weight 1" in output


def test_nearly_uniform_weights_are_said_to_be_so_and_only_a_fitted_scale_colours_them() -> None:
    shown = solution(tau=60.0)
    output = view(shown, color="truecolor")
    weights = [token.weight for token in shown.tokens]
    low, high = min(weights), max(weights)
    assert 1.0 < high < 1.005 and low > 0.999
    plain = SGR.sub("", output)
    assert "nearly uniform" in plain and "credit is close to" in " ".join(plain.split())
    assert re.search(r"weight  0\.5 +1 +2", plain) and "0.8 to 1.25: no colour" in plain
    assert f"weights {low:.4f} to {high:.4f}" in plain
    assert "48;2;" not in body(output)
    fitted = view(shown, color="truecolor", fit=True)
    assert re.search(r"weight  0\.995 +1 +1\.005", SGR.sub("", fitted))
    assert len(set(re.findall(r"48;2;\d+;\d+;\d+", body(fitted)))) == 2


def test_an_effective_fraction_below_one_never_reads_as_one() -> None:
    shown = replace(solution(tau=60.0), effective_fraction=1.0 - 2e-8)
    assert "0.99999998" in view(shown)


def test_invariants_are_computed_from_the_weights_that_are_shown() -> None:
    # T tokens of mean weight 1: the token advantages A * w sum to T * A
    shown = solution()
    count = len(shown.tokens)
    good = view(shown)
    assert "mean weight               ✓ 1.000000" in good
    assert f"sum of advantages = T×A   ✓ {count * 0.75:.4f}" in good
    blamed = view(replace(shown, advantage=-0.5))
    assert f"sum of advantages = T×A   ✓ {count * -0.5:.4f}" in blamed
    heavier = replace(shown.tokens[0], weight=shown.tokens[0].weight + 1.0)
    bad = view(replace(shown, tokens=(heavier, *shown.tokens[1:])))
    assert f"✗ {1.0 + 1.0 / count:.6f}, not 1" in bad
    assert f"✗ {(count + 1) * 0.75:.4f}, not {count * 0.75:.4f}" in bad


def test_the_sentence_gives_the_share_of_the_top_tenth() -> None:
    # weights 10 * (e^2, 1 x 9) / (e^2 + 9); the top 10% is one token
    shown = completion("abcdefghij", [2.0] + [0.0] * 9, tau=1.0)
    share = math.exp(2.0) / (math.exp(2.0) + 9.0)
    assert f"hold {100 * share:.0f}% of the credit" in view(shown)


def test_the_table_lists_tokens_by_weight_with_their_numbers() -> None:
    tokens = (
        InspectedToken(5, "a", math.log(0.25), 0.5, 0.125, 0.0625, 0.5),
        InspectedToken(6, "b", math.log(0.5), 1.5, 0.25, 0.125, 1.75),
        InspectedToken(7, "c", 0.0, 0.0, 1e-6, 1e-7, 0.75),
    )
    shown = replace(solution(), tokens=tokens)
    rows = [line.split() for line in view(shown, top=2).split("\n")]
    start = next(at for at, row in enumerate(rows) if row[:2] == ["#", "token"])
    h = f"{1.5 / math.log(1024):.4f}"  # the gate of b; the vocabulary has 1024
    assert rows[start + 1] == ["1", "1", "1.75", "0.2500", h, "0.1250", "0.500", "a[b]c"]
    assert rows[start + 2] == ["2", "2", "0.75", "1.0e-06", "0", "1.0e-07", "1.000", "ab[c]"]


def test_ranking_breaks_ties_by_score_then_d_then_position() -> None:
    def token(weight: float, score: float, d: float) -> InspectedToken:
        return InspectedToken(0, "x", 0.0, 0.0, d, score, weight)

    tokens = [token(1, 0, 0), token(1, 0, 0.5), token(1, 0.1, 0), token(2, 0, 0), token(1, 0, 0)]
    assert ranked(tokens, top=9) == (3, 2, 1, 0, 4)
    assert ranked(tokens, top=0) == ()
    assert ranked([token(math.nan, 0, 0), token(0.5, 0, 0)], top=1) == (1,)


def test_a_character_of_several_tokens_is_shown_once_with_its_sum() -> None:
    shown = completion(["a", "", "", "😀", "b"], [0.0, 0.4, 0.4, 0.4, 0.0], tau=0.2)
    output = view(shown, top=3)
    text = body(output)
    assert "a😀b" in text and "∅" not in text
    assert "[😀(1/3)]" in output and "[😀(3/3)]" in output
    assert "the sum of their weights" in " ".join(output.split())


def test_a_completion_without_tokens_says_so() -> None:
    output = view(completion([], [], tau=0.5))
    assert "This completion has no tokens." in output and "mean weight" not in output


def test_a_console_that_shows_no_colour_gets_glyphs_whatever_was_asked() -> None:
    shown = solution()
    asked = render(shown, inspection=inspection(shown), width=80, top=6, color="truecolor")
    assert printed(asked, color="none") == view(shown, color="none")


def test_every_level_without_colour_has_its_own_glyph_and_number() -> None:
    output = view(solution())
    assert re.search(r"≡ <= [\d.]+ +[=] <= [\d.]+ +- <= [\d.]+", output)
    assert re.search(r"▂ >= [\d.]+ +▅ >= [\d.]+ +█ >= [\d.]+", output)


def test_weights_that_are_not_finite_are_shown_and_not_painted() -> None:
    shown = solution()
    broken = replace(shown.tokens[0], weight=math.nan, score=math.inf, logprob=-math.inf)
    output = view(replace(shown, tokens=(broken, *shown.tokens[1:])), top=99)
    assert "nan" in output and "✗" in output


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.0123, "0.0123"), (4.1e-5, "4.1e-05"), (12.34, "12.3"), (2.5e7, "2.5e+07")],
)
def test_small_numbers_fit_seven_cells(value: float, text: str) -> None:
    assert small(value) == text and len(text) <= 7


def test_probabilities_are_exponentials_of_logprobs() -> None:
    assert probability(math.log(0.25)) == "0.250"
    assert probability(math.log(3e-5)) == "3e-05"
    assert probability(0.0) == "1.000"
