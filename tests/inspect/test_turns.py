"""Completions of several turns: the environment's tokens are shown as such, and count nowhere."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from dgpo_cli.core.errors import ConfigError
from dgpo_cli.core.types import (
    InspectedCompletion,
    InspectedToken,
    Inspection,
    StoredCredit,
    TokenDetail,
)
from dgpo_cli.inspect.as_json import to_json
from dgpo_cli.inspect.page import inspect_page
from dgpo_cli.inspect.token_detail import check_position
from dgpo_cli.inspect.token_html import token_lines
from dgpo_cli.inspect.views import pair_view, step_table, token_detail, what_if
from dgpo_cli.inspect.views.heatmap import render
from dgpo_cli.inspect.views.ranking import ranked
from dgpo_cli.ui.ramp import Depth
from tests.samples import printed

TEXTS = ["7", "+", "5", "<|end|>", "<|user|>", "go", "1", "2"]
WEIGHTS = [0.5, 1.5, 1.0, 1.0, 0.0, 0.0, 0.25, 1.75]  # of the policy's six the mean is 1
FOREIGN = (4, 5)


def inspection() -> Inspection:
    tokens = tuple(
        InspectedToken(
            id=at,
            text=text,
            logprob=-0.5 if at not in FOREIGN else 0.0,
            entropy=1.0 if at not in FOREIGN else 0.0,
            hellinger_sq=weight / 100,
            score=weight / 200,
            weight=weight,
            environment=at in FOREIGN,
        )
        for at, (text, weight) in enumerate(zip(TEXTS, WEIGHTS, strict=True))
    )
    shown = InspectedCompletion(
        prompt_id="relay-1",
        index=0,
        prompt="7+5?",
        answer="12",
        outcome="correct",
        finish_reason="stop",
        reward=1.0,
        advantage=2.0,
        effective_fraction=0.8,
        tau=0.5,
        tokens=tokens,
    )
    return Inspection("policy", "initial", "dgpo", 0.5, 1.0, 50, (shown,))


def drawn(depth: Depth) -> str:
    found = inspection()
    view = render(found.completions[0], inspection=found, width=100, top=8, color=depth, whole=True)
    return printed(view)


def test_the_sums_of_the_head_are_over_the_policys_tokens() -> None:
    text = drawn("none")
    assert "mean weight               ✓ 1.000000" in text
    assert "✓ 12.0000" in text  # T A, T = 6
    assert "turns" in text and "env. tokens" in text


def test_the_environments_tokens_are_marked_and_have_no_bar_and_no_rank() -> None:
    lines = drawn("none").splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("7+5<|end|><|user|>go12"))
    start = len("7+5<|end|>")
    assert lines[at + 1][start : start + len("<|user|>go")] == "·" * len("<|user|>go")
    strip = next(line for line in lines if line.startswith(("▁", "▂", "▃")))
    assert strip[4:6] == "  " and " " not in strip[:4]
    assert any("written by the environment" in line for line in lines)
    assert ranked(inspection().completions[0].tokens, top=9) == (7, 1, 2, 3, 0, 6)


def test_a_completion_of_one_turn_says_nothing_of_an_environment() -> None:
    found = inspection()
    tokens = tuple(token for token in found.completions[0].tokens if not token.environment)
    own = InspectedCompletion(**{**fields_of(found.completions[0]), "tokens": tokens})
    text = printed(render(own, inspection=found, width=100, top=8, color="none", whole=True))
    assert "environment" not in text and "env." not in text and "turns" not in text


def fields_of(shown: InspectedCompletion) -> dict[str, Any]:
    return {name: getattr(shown, name) for name in shown.__slots__}


def test_the_json_ranks_the_others_alone() -> None:
    (found,) = to_json(inspection())["completions"]
    assert [token["rank"] for token in found["tokens"]] == [5, 2, 3, 4, None, None, 6, 1]
    assert found["invariants"]["mean_weight"] == pytest.approx(1.0)
    assert found["invariants"]["advantage_sum_expected"] == pytest.approx(12.0)


def test_the_page_dims_them() -> None:
    shown = inspection().completions[0]
    (line,) = token_lines(shown.tokens, vocab_size=50)
    assert [look for look, _, _ in line][4:6] == ["env", "env"]
    assert line[4][1] == "token 4: written by the environment"
    page = inspect_page(inspection())
    data = json.loads(page.split('id="data"', 1)[1].split(">", 1)[1].split("</script>", 1)[0])
    assert data["completions"][0]["env"] == [4, 5]


def test_a_step_is_of_the_policy_or_of_the_environment_and_totals_are_over_the_first() -> None:
    first, told, last = step_table.totals_of(inspection().completions[0])
    assert (told.step.start, told.step.stop, told.tokens) == (4, 6, 0)
    assert (first.tokens, last.tokens) == (4, 2)
    assert (first.token_share, last.token_share) == pytest.approx((4 / 6, 2 / 6))
    assert (first.share, last.share) == pytest.approx((4 / 6, 2 / 6))
    assert (first.mean, last.mean) == pytest.approx((1.0, 1.0))
    assert (first.peak, last.peak) == (1, 7)


@pytest.mark.parametrize("color", ["none", "truecolor"])
def test_the_table_of_steps_counts_and_numbers_the_policys(color: Depth) -> None:
    found = inspection()
    view = step_table.render(found.completions[0], inspection=found, width=100, color=color)
    text = printed(view, width=100, color=color)
    assert "2 steps" in text
    if color == "none":
        lines = [line.split() for line in text.splitlines()]
        at = lines.index(["2", "steps"]) + 2
        assert [line[0] for line in lines[at : at + 6 : 2]] == ["1", "environment", "2"]
        assert lines[at + 3] == ["<|user|>go"]  # no token of it is the peak
        assert lines[at][1:3] == ["4", "66.7%"] and lines[at + 4][1:3] == ["2", "33.3%"]


def test_a_pair_counts_the_policys_tokens_and_parts_at_the_environments() -> None:
    found = inspection()
    right = found.completions[0]
    other = [replace(t, id=20 + at) if at == 4 else t for at, t in enumerate(right.tokens)]
    wrong = replace(right, index=1, outcome="wrong", advantage=-2.0, tokens=tuple(other))
    view = pair_view.render(right, wrong, inspection=found, width=100, color="none")
    lines = [" ".join(line.split()) for line in printed(view).splitlines()]
    assert "tokens 6 6" in lines
    assert "same start 66.7% of w 66.7% of w" in lines
    assert "parts with environment [<|user|>] environment [<|user|>]" in lines


def test_a_what_if_compares_the_policys_weights() -> None:
    found = inspection()
    trained = (1.5, 0.5, 1.0, 1.0, 0.0, 0.0, 0.25, 1.75)
    stored = StoredCredit("dgpo", {}, 0.5, 0.8, trained)
    shown = replace(found.completions[0], stored=stored)
    places, before, after = what_if.compared(shown, stored)
    assert places == [0, 1, 2, 3, 6, 7]
    assert what_if.moved(before, after) == pytest.approx(1 / 6)
    text = printed(what_if.render(shown, inspection=found, width=80, top=8, color="none"))
    assert " 16.7%" in text
    order = what_if.rank_correlation([trained[at] for at in places], [WEIGHTS[at] for at in places])
    assert f"{order:+.3f}" in text


def test_one_token_is_ranked_and_averaged_among_the_policys_and_no_other_is_shown() -> None:
    found = replace(inspection(), rule="entropy", detail=TokenDetail(position=7, hint="dgpo"))
    text = printed(token_detail.render(found, width=100, color="none"))
    assert "1 of 6 by weight" in text
    last = replace(found.completions[0].tokens[7], weight=1.0)  # H is 1 for each of the six
    tokens = (*found.completions[0].tokens[:7], last)
    even = replace(found, completions=(replace(found.completions[0], tokens=tokens),))
    (line,) = [
        line
        for line in printed(token_detail.render(even, width=100, color="none")).splitlines()
        if line.startswith("w = H / mean H")
    ]
    assert line.endswith("= 1.0000 / 1.0000, the mean H")
    with pytest.raises(ConfigError, match=r"--at 4: the environment wrote .* token is 6$"):
        check_position(4, found.completions[0])
