"""Laws of the what-ifs: they are arithmetic on the stored numbers, beside what trained."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from dgpo_cli.core.errors import ConfigError, DataError
from dgpo_cli.core.text import UNICODE
from dgpo_cli.inspect.views import heatmap, token_detail
from dgpo_cli.inspect.views.header import rule_name, sign_note
from dgpo_cli.runs.run_folder import RunFolder
from tests.inspect.looks import look, stored_lines
from tests.samples import printed
from tests.train.test_train import run_tiny


@pytest.mark.parametrize("asked", [{"tau": 0.5}, {"kappa": 1.0}, {"rule": "dgpo"}])
def test_the_parameters_that_trained_change_nothing(trained: Path, asked: dict[str, Any]) -> None:
    for shown, plain, line in zip(
        look(source=trained, **asked).completions,
        look(source=trained).completions,
        stored_lines(trained),
        strict=True,
    ):
        assert shown.tokens == plain.tokens
        assert shown.stored is not None and plain.stored is None
        assert list(shown.stored.weights) == line["weights"]
        assert [t.weight for t in shown.tokens] == pytest.approx(line["weights"], rel=1e-6)
        assert shown.stored.effective_fraction == pytest.approx(shown.effective_fraction, rel=1e-5)


def test_the_rules_are_written_out(trained: Path) -> None:
    uniform, entropy = (look(source=trained, rule=r).completions for r in ("uniform", "entropy"))
    for even, unsure, line in zip(uniform, entropy, stored_lines(trained), strict=True):
        assert {t.weight for t in even.tokens} == {1.0} and even.tau is None
        mean = sum(line["entropy"]) / len(line["entropy"])
        weights = [h / mean for h in line["entropy"]]
        assert [t.weight for t in unsure.tokens] == pytest.approx(weights, rel=1e-4, abs=1e-9)
        for shown in (even, unsure):
            assert shown.stored is not None
            assert (shown.stored.rule, shown.stored.tau) == ("dgpo", 0.5)
            assert shown.stored.parameters["kappa"] == 1.0


def test_tau_keeps_the_kappa_that_trained_and_the_other_way_round(trained: Path) -> None:
    colder = look(source=trained, tau=0.01, group=0, sample=0)
    gateless = look(source=trained, kappa=0.0, group=0, sample=0)
    assert (colder.tau, colder.kappa) == (0.01, 1.0)
    assert (gateless.tau, gateless.kappa) == (0.5, 0.0)
    (token, *_), line = gateless.completions[0].tokens, stored_lines(trained)[0]
    assert token.score == pytest.approx(line["hellinger_sq"][0])


def test_what_if_shows_the_completion_that_is_shown_without(trained: Path) -> None:
    (plain,) = look(source=trained, one=True).completions
    for asked in ({"tau": 1e-4}, {"rule": "uniform"}, {"rule": "entropy"}):
        (shown,) = look(source=trained, one=True, **asked).completions
        assert (shown.prompt_id, shown.index) == (plain.prompt_id, plain.index)


def test_settings_of_another_rule_are_refused(trained: Path) -> None:
    with pytest.raises(ConfigError, match=r"\(--tau\): rule uniform has no tau"):
        look(source=trained, rule="uniform", tau=0.1)


def _trained_with(trained: Path, tmp_path: Path, **credit: Any) -> Path:
    """The run's last rollouts, as if a rule had trained that measures no distance."""
    run = tmp_path / "uniform"
    (run / "rollouts").mkdir(parents=True)
    (run / "tokenizer").symlink_to(trained / "tokenizer")
    with RunFolder(run).rollout_file(3).open("w") as file:
        for line in stored_lines(trained):
            length = len(line["weights"])
            same = {"scores": [0.0] * length, "weights": [1.0] * length}
            none = {"hellinger_sq": [0.0] * length, "credit": credit}
            file.write(json.dumps(line | same | none) + "\n")
    return run


def test_without_distances_dgpo_is_refused_and_entropy_is_not(
    trained: Path, tmp_path: Path
) -> None:
    run = _trained_with(trained, tmp_path, rule="uniform")
    assert look(source=run).rule == "uniform"
    assert look(source=run, rule="entropy").rule == "entropy"
    for asked in ({"tau": 0.1}, {"rule": "dgpo"}):
        with pytest.raises(DataError, match=r"measures no distance .* give --model"):
            look(source=run, **asked)


def test_statistics_computed_afresh_are_weighed_by_the_rule_that_trained(
    trained: Path, tmp_path: Path
) -> None:
    run = _trained_with(trained, tmp_path, rule="dgpo", tau=0.03, kappa=0.5)
    models = {"model": str(RunFolder(trained).checkpoint_dir(2)), "reference": "embedded:tiny"}
    shown = look(source=run, group=0, sample=0, **models)
    (one,) = shown.completions
    assert (shown.tau, shown.kappa, shown.computed, one.stored) == (0.03, 0.5, True, None)
    gate = [token.entropy / math.log(shown.vocab_size) for token in one.tokens]
    scores = [t.hellinger_sq * h**0.5 for t, h in zip(one.tokens, gate, strict=True)]
    powers = [math.exp(score / 0.03) for score in scores]
    for token, power in zip(one.tokens, powers, strict=True):
        assert token.weight == pytest.approx(len(powers) * power / sum(powers), rel=1e-4)


def test_target_ess_finds_the_tau_of_each_completion(trained: Path) -> None:
    shown = look(source=trained, target_ess=0.8)
    assert (shown.tau, shown.parameters["target_ess"]) == (None, 0.8)
    reached = [each for each in shown.completions if each.tau is not None]
    assert len(reached) > len(shown.completions) // 2
    for each, line in zip(shown.completions, stored_lines(trained), strict=True):
        assert each.stored is not None
        assert (each.stored.tau, list(each.stored.weights)) == (0.5, line["weights"])
        if each.tau is None:
            continue
        powers = [math.exp(token.score / each.tau) for token in each.tokens]
        weights = [len(powers) * power / sum(powers) for power in powers]
        assert [t.weight for t in each.tokens] == pytest.approx(weights, rel=1e-3)
        assert each.effective_fraction >= 0.8 - 1e-3
        if max(weights) < shown.parameters["max_weight"] - 1e-3:  # else the cap held it up
            assert each.effective_fraction == pytest.approx(0.8, abs=2e-3)


@pytest.mark.parametrize("over", ["completion", "batch"])
def test_the_target_that_trained_changes_nothing(tmp_path: Path, over: str) -> None:
    run = tmp_path / "run"
    asked = ("credit.target_ess=0.9", f"credit.target_ess_over={over}", "train.rollouts_every=1")
    run_tiny(run, "optim.lr=1e-3", *asked, steps=2)
    for shown in look(source=run, target_ess=0.9).completions:
        assert shown.stored is not None and shown.stored.parameters["target_ess"] == 0.9
        assert shown.tau == shown.stored.tau
        weights = [token.weight for token in shown.tokens]
        assert weights == pytest.approx(shown.stored.weights, rel=1e-5)


@pytest.mark.parametrize("target", [(), ("credit.target_ess=0.9", "credit.target_ess_over=batch")])
def test_the_sign_that_trained_holds_in_every_what_if(
    tmp_path: Path, target: tuple[str, ...]
) -> None:
    run = tmp_path / "run"
    asked = ("credit.sign=positive", "credit.tau=0.01", *target, "train.rollouts_every=1")
    run_tiny(run, "optim.lr=1e-3", *asked, steps=2)
    lines = stored_lines(run)
    negative = [line["advantage"] < 0 for line in lines]
    assert any(negative) and any(line["advantage"] > 0 for line in lines)
    for what_if in ({}, {"tau": 1e-3}, {"rule": "entropy"}):
        shown = look(source=run, **what_if)
        assert shown.parameters["sign"] == "positive"
        for each, line, other in zip(shown.completions, lines, negative, strict=True):
            weights = [token.weight for token in each.tokens]
            note = sign_note(each, inspection=shown)
            if other:
                assert set(weights) == {1.0} == set(line["weights"]) and note is not None
                continue
            assert note is None
            if not what_if:
                assert weights == pytest.approx(line["weights"], rel=1e-5)
    assert rule_name(shown, tau=None, glyphs=UNICODE) == "entropy, positive advantages only"


@pytest.mark.parametrize("rule", ["top-entropy", "proportional", "surprisal"])
def test_other_rules_are_shown_with_the_weights_that_trained(tmp_path: Path, rule: str) -> None:
    """Those of a whole batch too, though one completion is all that is seen here."""
    run = tmp_path / "run"
    asked = (f"credit.rule={rule}", "credit.refresh=update", "optim.updates_per_step=2")
    run_tiny(run, "optim.lr=1e-3", *asked, "train.rollouts_every=1", steps=2)
    lines = stored_lines(run)
    shown = look(source=run)
    assert shown.rule == rule and shown.tau is None
    uneven = 0
    for each, line in zip(shown.completions, lines, strict=True):
        weights = [token.weight for token in each.tokens]
        assert weights == pytest.approx(line["weights"], rel=1e-5, abs=1e-6)
        uneven += max(weights) > 1.5
    assert uneven > 2
    other = look(source=run, rule="top-entropy" if rule == "proportional" else "uniform")
    over = other.parameters.get("share_over")
    assert over == ("completion" if rule == "proportional" else None)


def test_surprisal_is_that_of_the_truncated_policy(tmp_path: Path) -> None:
    """A token that was the only one kept has none, however unsure the whole vocabulary is."""
    run = tmp_path / "run"
    run_tiny(run, "credit.rule=surprisal", "rollout.top_p=0.8", "train.rollouts_every=1", steps=1)
    alone = drawn = 0
    for line in stored_lines(run):
        numbers = zip(line["logprobs"], line["scores"], line["entropy"], strict=True)
        for logprob, score, entropy in numbers:
            assert score == pytest.approx(max(0.0, -logprob), abs=1e-9)
            alone += score < 1e-6 and entropy > 0.1
            drawn += score > 0.1
    assert alone > 3 and drawn > 3


@pytest.mark.parametrize(("at", "changes"), [(None, {}), (0, {}), (0, {"mix": 0.2, "cap": 50.0})])
def test_surprisal_is_written_out_for_a_token(  # type: ignore[no-untyped-def]
    trained: Path, at: int | None, changes
) -> None:
    """The token of the largest weight has the cap; another what is left over by it."""
    overrides = tuple(f"credit.{name}={value}" for name, value in changes.items())
    asked = {"source": trained, "rule": "surprisal", "overrides": overrides, "group": 0}
    (own,) = look(sample=0, **asked).completions
    weights = [token.weight for token in own.tokens]
    place = weights.index(max(weights)) if at is None else at
    shown = look(sample=0, at=place, **asked)
    text = printed(token_detail.render(shown, width=100, color="none"), width=100)
    assert "s = -log p" in text
    mix, cap = changes.get("mix", 0.5), changes.get("cap", 4.0)
    assert f"surprisal, mix {mix:g}, cap {cap:g}" in text
    if at is None:
        assert "= 4, the cap" in text
    elif not changes:
        assert "; the cap of others" in text
    else:
        assert "= 0.2 + 0.8" in text and "the mean s" in text


def test_a_rule_in_proportion_is_written_out_for_a_token(trained: Path) -> None:
    for rule, named in (("proportional", "s = d"), ("top-entropy", "H in top 0.2")):
        shown = look(source=trained, rule=rule, group=0, sample=0, at=3)
        (own,) = shown.completions
        assert shown.detail is not None
        text = printed(token_detail.render(shown, width=100, color="none"), width=100)
        mean = sum(token.score for token in own.tokens) / len(own.tokens)
        assert named in text and "w = s / mean s" in text
        assert own.tokens[3].weight == pytest.approx(own.tokens[3].score / mean, rel=1e-4)


@pytest.mark.parametrize(
    ("rule", "source"),
    [("dgpo", "d and h"), ("entropy", "the entropy"), ("surprisal", "log p")],
)
def test_a_score_is_said_to_be_of_what_its_rule_uses(trained: Path, rule: str, source: str) -> None:
    shown = look(source=trained, rule=rule, group=0, sample=0)
    view = heatmap.render(
        shown.completions[0], inspection=shown, width=200, top=3, color="none", what="score"
    )
    text = printed(view, width=200)
    assert f"what the credit rule makes of {source}\n" in text
    assert f"score: the credit rule's, of {source};" in text
