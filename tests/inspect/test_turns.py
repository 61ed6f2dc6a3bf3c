"""Completions of several turns: the environment's tokens are shown as such, and count nowhere."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dgpo_cli.core.types import InspectedCompletion, InspectedToken, Inspection
from dgpo_cli.inspect.as_json import to_json
from dgpo_cli.inspect.page import inspect_page
from dgpo_cli.inspect.token_html import token_lines
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
