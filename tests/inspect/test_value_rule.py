"""Weights below 0, which credit by values gives, are shown as they trained, with their sign."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dgpo_cli.core.errors import DataError
from dgpo_cli.core.text import UNICODE
from dgpo_cli.inspect.as_json import to_json
from dgpo_cli.inspect.page import inspect_page
from dgpo_cli.inspect.views import heatmap, step_table, token_detail
from dgpo_cli.inspect.views.header import rule_name
from dgpo_cli.report import report
from dgpo_cli.report.run_page import report_page
from dgpo_cli.ui.scale import Scale
from tests.inspect.looks import look, stored_lines
from tests.samples import printed
from tests.train.test_train import run_tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("value") / "run"
    asked = ("credit.rule=value", "credit.continuations=0", "train.rollouts_every=1")
    run_tiny(folder, *asked, "rollout.max_completion_tokens=48", "rollout.group_size=16", steps=1)
    return folder


def lowest(run: Path) -> int:
    """The place, among the lines of the last step, of the completion with the lowest weight."""
    lines = stored_lines(run)
    return min(range(len(lines)), key=lambda at: min(lines[at]["weights"]))


def test_the_weights_that_trained_are_shown_and_add_up(run: Path) -> None:
    found = look(source=run)
    assert rule_name(found, tau=None, glyphs=UNICODE) == "value, 0 continuations"
    for shown, line in zip(found.completions, stored_lines(run), strict=True):
        weights = [token.weight for token in shown.tokens]
        assert weights == pytest.approx(line["weights"], rel=1e-6)
        assert sum(weights) == pytest.approx(len(weights), rel=1e-3)
        assert 0 < shown.effective_fraction <= 1


def test_a_weight_below_zero_has_its_sign_in_every_view(run: Path) -> None:
    found = look(source=run)
    shown = found.completions[lowest(run)]
    least = min(token.weight for token in shown.tokens)
    at = [token.weight for token in shown.tokens].index(least)
    assert least < -1
    number = Scale.of([token.weight for token in shown.tokens], steps=1).number(least)
    text = printed(
        heatmap.render(shown, inspection=found, top=99, width=100, color="none"), width=100
    )
    assert f" {number} " in text and "below 0: as the lowest" in text
    assert ", not " not in text  # both sums hold
    scores = heatmap.render(shown, inspection=found, top=9, width=100, color="none", what="score")
    assert f"score {-1:+.4f}"[:7] in printed(scores, width=100)
    printed(step_table.render(shown, inspection=found, width=100, color="truecolor"), width=100)
    (own,) = [c for c in to_json(found)["completions"] if c["tokens"][at]["weight"] == least]
    assert all(0 <= share <= 1 for share in own["shares"].values())
    assert inspect_page(found)


def test_a_token_tells_how_its_weight_comes_of_its_move(run: Path) -> None:
    group, sample = divmod(lowest(run), 16)
    shown = look(source=run, group=group, sample=sample, at=3)
    text = printed(token_detail.render(shown, width=100, color="none"), width=100)
    assert "s, move of V" in text and "w = s / mean s" in text


def test_other_rules_are_shown_beside_the_weights_that_trained(run: Path) -> None:
    found = look(source=run, rule="entropy")
    assert {c.stored.rule for c in found.completions if c.stored} == {"value"}
    shown = found.completions[lowest(run)]
    assert shown.stored is not None and min(shown.stored.weights) < -1
    printed(heatmap.render(shown, inspection=found, top=9, width=100, color="none"), width=100)


def test_weights_of_continuations_that_are_not_there_are_refused(run: Path, trained: Path) -> None:
    for asked in ({"source": trained}, {"source": run, "overrides": ("credit.continuations=4",)}):
        with pytest.raises(
            DataError, match=r"the rule value weighs by .* give --value K to sample some"
        ):
            look(rule="value", **asked)
    same = look(source=run, rule="value")
    for shown, line in zip(same.completions, stored_lines(run), strict=True):
        assert [t.weight for t in shown.tokens] == pytest.approx(line["weights"], rel=1e-6)


def test_a_report_draws_a_run_with_weights_below_zero(run: Path) -> None:
    page = report_page(report.run([run]))
    assert "Credit weight w" in page
    (line,) = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
    assert line["credit/weight_p50"] <= 0 < line["values/moved"] < 1
