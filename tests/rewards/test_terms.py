"""Rewards that are added up from terms: what applies, what judges, what is refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from dgpo_cli.config.checks import check_trainable
from dgpo_cli.config.load import resolve
from dgpo_cli.core.codec import encoded
from dgpo_cli.core.errors import ConfigError, DataError
from dgpo_cli.core.formats import PENDING, ROLLOUT, PendingGroup
from dgpo_cli.core.types import Completion, Message, Prompt, ScoredGroup, Verdict
from dgpo_cli.rewards.grader import GradeItem, Grader, check_judged
from dgpo_cli.rewards.settings import ChoiceReward, IntegerReward, PythonReward, TermsReward
from dgpo_cli.runs.rollouts import rollout_lines
from tests.rewards import functions

RETURNS = f"{functions.PATH}:returns"
ITEM = GradeItem("7", r"\boxed{7}")


def terms(*tables: dict[str, Any], **settings: Any) -> TermsReward:
    return TermsReward.model_validate({"terms": tables, "workers": 1, **settings})


def test_a_reward_is_the_weighted_sum_of_the_terms_that_apply() -> None:
    reward = terms(
        {"kind": "integer", "weight": 2.0, "correct": 3.0, "wrong": -1.0, "sources": ["sums"]},
        {"kind": "choice", "weight": 0.5, "wrong": 0.25},
        {"kind": "choice", "name": "other", "sources": ["quiz"]},
    )
    item = GradeItem("B", r"\boxed{C}", part="quiz")
    with Grader(reward) as grader:
        found = grader.grade([item, replace(item, part="essays"), replace(item, text="no")])
        with pytest.raises(DataError, match="answer='B' is not an integer"):
            grader.grade([replace(item, part="sums")])
    assert found[0] == Verdict(
        "wrong",
        "C",
        0.125,
        None,
        (
            ("integer", pytest.approx(math.nan, nan_ok=True)),  # type: ignore[arg-type]
            ("choice", 0.25),
            ("other", 0.0),
        ),
    )
    assert [each.reward for each in found] == [0.125, 0.125, 0.125]
    assert math.isnan(dict(found[1].terms)["other"])
    assert found[2].outcome == "no_answer"


def test_the_first_term_that_judges_gives_the_outcome() -> None:
    texts = [r"\boxed{7}", r"\boxed{8}"]
    score = {"kind": "python", "path": f"{functions.PATH}:misbehaves"}
    for tables, outcomes in (
        ([score, {"kind": "integer"}], ["correct", "wrong"]),
        ([{**score, "correct_at": 1.0}, {"kind": "integer"}], ["correct", "correct"]),
        ([score], ["scored", "scored"]),
    ):
        with Grader(terms(*tables)) as grader:
            found = grader.grade([replace(ITEM, text=text) for text in texts])
        assert [each.outcome for each in found] == outcomes


def test_a_checker_of_answers_that_is_late_is_wrong_and_a_function_is_unscored() -> None:
    tables = [{"kind": "integer"}, {"kind": "python", "path": RETURNS, "weight": 0.5}]
    with Grader(terms(*tables)) as grader:
        (found,) = grader.grade([replace(ITEM, text="nan")])
    assert (found.outcome, found.note) == ("error", "returns: returned nan")
    assert math.isnan(found.reward) and found.terms[0] == ("integer", 0.0)


def test_two_terms_have_two_names() -> None:
    own = {"kind": "python", "path": "a.py:score"}
    assert list(terms(own, {**own, "name": "again", "weight": -1.0}).weights.items()) == [
        ("score", 1.0),
        ("again", -1.0),
    ]
    with pytest.raises(ValidationError, match="two terms are named 'score'; set the name of one"):
        terms(own, {"kind": "python", "path": "b.py:score"})


def test_a_term_is_reached_by_its_name_and_tables_of_terms_imply_the_kind(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(
        '[[reward.terms]]\nkind = "integer"\n[[reward.terms]]\nkind = "python"\n'
        'path = "mine.py:style"\nweight = 0.1\n'
    )
    found = resolve(config=file, overrides=["reward.terms.style.weight=0.5"]).settings.reward
    assert isinstance(found, TermsReward)
    assert found.weights == {"integer": 1.0, "style": 0.5}
    with pytest.raises(ConfigError, match=r"reward\.terms\.0\.correct=1: must be greater than"):
        resolve(config=file, overrides=["reward.terms.integer.wrong=1"])


def test_an_evaluation_asks_the_term_that_judges_and_no_other() -> None:
    style = {"kind": "python", "path": "mine.py:style"}
    group = {"kind": "python", "path": "mine.py:rank", "group": True, "correct_at": 1.0}
    integer = {"kind": "integer", "weight": 3.0, "maximum": 99, "sources": ["sums"]}
    reward = terms(group, integer, style, timeout_s=9.0)
    assert reward.judge() == IntegerReward(maximum=99, workers=1, timeout_s=9.0)
    assert terms({"kind": "choice", "choices": 3}).judge() == ChoiceReward(choices=3, workers=1)
    assert terms(style, {"kind": "math"}).judge().kind == "math"
    sure = {**style, "name": "sure", "correct_at": 0.5, "weight": 0.1, "sources": ["sums"]}
    may = terms(style, sure, integer).judge()
    assert isinstance(may, TermsReward) and may.weights == {"sure": 1.0}
    assert may.terms[0].sources == ()
    assert terms(style, group).judge().weights == {"style": 1.0}
    with pytest.raises(ConfigError, match="no term says what is correct, which an evaluation nee"):
        terms(group).judge()
    assert IntegerReward().judge() == IntegerReward()


def test_a_score_that_judges_nothing_is_refused_in_an_evaluation() -> None:
    verdict = Verdict("scored", None, 0.5, None, (("a", 0.5), ("b", math.nan)))
    with pytest.raises(DataError, match=r"reward a: gave 0\.5 and not whether that is correct"):
        check_judged([Verdict("correct", None, 1.0), verdict])


def test_workers_are_those_of_every_term_that_has_some() -> None:
    own = {"kind": "python", "path": "a.py:score"}
    assert terms({"kind": "integer"}, own, workers=3).processes == 6
    own = ["reward.kind=python", "reward.path=a.py:f", "reward.workers=5"]
    assert resolve(preset="tiny", overrides=own).settings.reward.processes == 5


def test_the_deadline_of_an_answer_is_not_taken_for_that_of_a_call() -> None:
    found = resolve(preset="tiny", overrides=["reward.kind=python", "reward.path=mine.py:score"])
    assert isinstance(found.settings.reward, PythonReward)
    assert found.settings.reward.timeout_s == 60.0
    note = "reward.timeout_s from preset tiny is dropped: kind python has its own"
    assert note in found.notes
    given = ["reward.kind=python", "reward.path=mine.py:score", "reward.timeout_s=7"]
    assert resolve(preset="tiny", overrides=given).settings.reward.timeout_s == 7.0


def test_every_source_of_a_mixture_has_a_term() -> None:
    sources = '[{kind = "sums", name = "easy"}, {kind = "sums", name = "hard"}]'
    mixture = ["prompts.kind=mixture", f"prompts.sources={sources}", "reward.kind=terms"]
    own = 'reward.terms=[{kind = "integer", sources = ["easy"]}]'
    settings = resolve(preset="tiny", overrides=[*mixture, own]).settings
    with pytest.raises(ConfigError, match="no term is for the source hard of the prompts"):
        check_trainable(settings)


def test_terms_and_notes_come_back_from_a_checkpoint_and_from_rollouts() -> None:
    verdict = Verdict("error", None, math.nan, "b: \udcff", (("a", 0.1), ("b", math.nan)))
    completion = Completion((5,), (-0.5,), "t", "stop", 0, 0)
    prompt = Prompt("p", (Message("user", "?"),), "7", "s", columns={"x": [1]}, part="easy")
    group = ScoredGroup(prompt, (1,), (completion,), (verdict,), (0.0,))
    text = encoded(PENDING.dump((PendingGroup(group, ((-0.5,),)),)))
    (again,) = PENDING.read(json.loads(text), where="f")
    assert repr(again.group) == repr(group)  # NaN is not NaN
    (line,) = rollout_lines([group], temperature=1.0)
    record = ROLLOUT.read(json.loads(encoded(line)), where="f")
    assert repr((record.reward, record.note, record.terms)) == repr(
        (verdict.reward, verdict.note, verdict.terms)
    )
    plain = replace(group, verdicts=(Verdict("correct", "7", 1.0),))
    (line,) = rollout_lines([plain], temperature=1.0)
    assert "terms" not in line and "note" not in line
