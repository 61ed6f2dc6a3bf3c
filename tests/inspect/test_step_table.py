"""The totals of the steps are those of the completion, and the table says them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgpo_cli.core.types import InspectedCompletion
from dgpo_cli.inspect.views import step_table
from dgpo_cli.inspect.views.step_table import totals_of
from tests.samples import SGR, completion, hostile, inspection, printed, reasoning


@given(
    st.lists(st.sampled_from(["a", " B", ".", ";", "\n", " 3", ".14", "", "é", "。"]), max_size=40),
    st.floats(-2, 2),
    st.integers(0, 20),
)
def test_totals_add_up_to_the_completion(texts: list[str], advantage: float, start: int) -> None:
    scores = [0.4 * math.sin(at) ** 2 for at in range(len(texts))]
    shown = completion(texts, scores, tau=0.2, advantage=advantage)
    totals = totals_of(shown)
    count = len(texts)
    assert sum(total.tokens for total in totals) == count
    if count:
        assert math.fsum(total.share for total in totals) == pytest.approx(1.0)
        assert math.fsum(total.token_share for total in totals) == pytest.approx(1.0)
    weight = math.fsum(total.mean * total.tokens for total in totals)
    assert weight == pytest.approx(count, abs=1e-9)
    summed = math.fsum(total.advantage for total in totals)
    assert summed == pytest.approx(count * advantage, abs=1e-9)
    rest = totals_of(shown, start=start)
    assert sum(total.tokens for total in rest) == max(0, count - start)


def test_the_peak_is_the_most_weighted_token_of_its_step() -> None:
    shown = reasoning()
    for total in totals_of(shown):
        own = range(total.step.start, total.step.stop)
        weights = {at: shown.tokens[at].weight for at in own}
        assert total.peak in own
        assert total.peak_weight == weights[total.peak] == max(weights.values())


def view(shown: InspectedCompletion, *, width: int = 80, color: str = "none") -> list[str]:
    picture = step_table.render(
        shown,
        inspection=inspection(shown),
        width=width,
        color=color,  # type: ignore[arg-type]
    )
    return printed(picture, width=width, color=color).split("\n")


def test_a_row_has_the_numbers_of_its_step() -> None:
    # weights 4 * (e, 1, 1, 1) / (e + 3); two steps of two tokens
    shown = completion(["a", ";", "b", "c"], [1.0, 0.0, 0.0, 0.0], tau=1.0, advantage=-0.5)
    lines = view(shown)
    at = lines.index("2 steps") + 2
    total = math.e + 3
    first, second = (math.e + 1) / total, 2 / total
    for line, share in ((lines[at], first), (lines[at + 2], second)):
        cells = line.replace("━", " ").replace("┃", " ").split()
        numbers = [f"{100 * share:.1f}%", f"{2 * share:.2f}", f"{-0.5 * 4 * share:+#.3g}"]
        assert cells[1:5] == ["2", *numbers]
    assert lines[at].split()[-1] == f"{4 * math.e / total:.2f}"
    assert lines[at + 1].strip() == "[a];" and lines[at + 3].strip() == "[b]c"


def test_the_bar_is_the_share_of_the_weight_and_its_mark_that_of_the_tokens() -> None:
    # one step holds 3/4 of the weight with half of the tokens, the other the rest
    shown = completion(["a", ";", "b", "c"], [math.log(5), 0, 0, 0], tau=1.0)
    lines = view(shown)
    at = lines.index("2 steps") + 2
    first, second = lines[at], lines[at + 2]
    full, mark = first.count("━") + 1, first.index("┃") - first.index("━")
    assert mark / full == pytest.approx(0.5 / 0.75, abs=0.05)
    assert second.count("━") / full == pytest.approx(0.25 / 0.75, abs=0.05)
    assert second.index("┃") == first.index("┃")


def test_a_long_step_is_cut_around_its_peak() -> None:
    texts = [f" word{at}" for at in range(60)]
    shown = completion(texts, [0.5 * (at == 40) for at in range(60)], tau=0.1)
    line = next(line for line in view(shown) if "[ word40]" in line)
    assert line.strip().startswith("…") and line.endswith("…")
    assert " word39" in line and " word41" in line and len(line) == 80


@pytest.mark.parametrize("color", ["truecolor", "256", "16"])
def test_the_text_of_each_step_is_one_line_that_fits(color: str) -> None:
    for shown in (reasoning(sentences=9), hostile()):
        lines = [SGR.sub("", line) for line in view(shown, color=color)]
        steps = len(totals_of(shown))
        at = lines.index(f"{steps} steps") + 2
        assert {len(line) for line in lines[at : at + 2 * steps : 2]} == {80}
        assert all(0 < sum(map(_cells, line)) <= 80 for line in lines[at + 1 : at + 2 * steps : 2])


def _cells(char: str) -> int:
    from rich.cells import cell_len

    return cell_len(char)
