"""Advantages and metrics of rewards added up from terms, and of completions without a reward."""

from __future__ import annotations

import ast
import inspect
import math
import random
import statistics
import textwrap
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgpo_cli.algo.advantages import AdvantageSettings, scored_group
from dgpo_cli.algo.group_split import part_of, split_metrics
from dgpo_cli.algo.overlong import OverlongSettings
from dgpo_cli.algo.summary import rollout_metrics
from dgpo_cli.core.types import Completion, Group, Message, Outcome, Prompt, ScoredGroup, Verdict

NAN = math.nan
WEIGHTS = {"right": 1.0, "short": 0.25}
EACH = AdvantageSettings(normalize="each")
Row = tuple[float, ...]  # the value of each term; NaN: it does not apply
EVERY_RULE = pytest.mark.parametrize("baseline", ["group-mean", "leave-one-out"])


def verdict(row: Row | None, *, weights: dict[str, float], outcome: Outcome = "scored") -> Verdict:
    """None: unscored, because the second term failed."""
    if row is None:
        terms = tuple((name, 1.0 if name == "right" else NAN) for name in weights)
        return Verdict("error", None, NAN, "short: it failed", terms)
    terms = tuple(zip(weights, row, strict=True))
    reward = math.fsum(weights[name] * value for name, value in terms if not math.isnan(value))
    return Verdict(outcome, None, reward, None, terms)


def group(
    *rows: Row | None,
    rule: AdvantageSettings = EACH,
    weights: dict[str, float] = WEIGHTS,
    lengths: tuple[int, ...] = (),
    overlong: OverlongSettings = OverlongSettings(),  # noqa: B008
    mask: bool = False,
) -> ScoredGroup:
    lengths = lengths or (1,) * len(rows)
    bare = Group(
        prompt=Prompt("p", (Message("user", "1+2?"),), "3", "test"),
        prompt_ids=(3, 6),
        completions=tuple(
            Completion((5,) * n, (-0.1,) * n, "", "length" if n == 9 else "stop", 0, 0)
            for n in lengths
        ),
    )
    return scored_group(
        bare,
        tuple(verdict(row, weights=weights) for row in rows),
        advantage=rule,
        overlong=overlong,
        max_completion_tokens=9,
        mask_truncated=mask,
        weights=weights,
    )


@EVERY_RULE
@given(
    st.lists(st.one_of(st.none(), st.integers(-3, 3).map(float)), min_size=2, max_size=12),
)
def test_an_unscored_completion_changes_nothing_for_the_others(
    baseline: str, rewards: list[float | None]
) -> None:
    rule = AdvantageSettings.model_validate({"baseline": baseline})
    known = rule.advantages([reward for reward in rewards if reward is not None])
    found = rule.advantages([NAN if reward is None else reward for reward in rewards])
    assert [a for a, r in zip(found, rewards, strict=True) if r is not None] == list(known)
    assert {a for a, r in zip(found, rewards, strict=True) if r is None} <= {0.0}


def test_a_group_with_fewer_than_two_scored_completions_has_no_signal() -> None:
    for rule in (EACH, AdvantageSettings()):
        assert not group((1.0, 0.0), None, None, rule=rule).has_signal
        assert not group(None, None, rule=rule).has_signal
        assert group((1.0, 0.0), None, (0.0, 0.0), rule=rule).has_signal


def trl_advantages(
    rewards: list[list[float]], *, weights: list[float], group_size: int, how: str
) -> list[float]:
    """Run the lines of TRL's GRPOTrainer that make advantages of rewards per function."""
    torch = pytest.importorskip("torch")
    trainer = pytest.importorskip("trl.trainer.grpo_trainer")
    source = textwrap.dedent(inspect.getsource(trainer.GRPOTrainer._generate_and_score_completions))
    (choice,) = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.If)
        and ast.unparse(node.test) == "self.multi_objective_aggregation == 'sum_then_normalize'"
    ]
    module = ast.Module(body=[choice], type_ignores=[])
    per_function = torch.tensor(rewards, dtype=torch.float64)
    names = {
        "self": SimpleNamespace(
            multi_objective_aggregation=how,
            reward_funcs=weights,
            reward_weights=torch.tensor(weights, dtype=torch.float64),
            scale_rewards="group",
            num_generations=group_size,
        ),
        "torch": torch,
        "nanstd": trainer.nanstd,
        "mode": "train",
        "device": "cpu",
        "num_generations": group_size,
        "rewards_per_func": per_function,
        "unscorable_mask": per_function.isnan().all(dim=1),
    }
    exec(compile(module, "grpo_trainer.py", "exec"), names)
    found: list[float] = names["advantages"].nan_to_num(nan=0.0).tolist()
    return found


@pytest.mark.parametrize(
    ("normalize", "how"), [("each", "normalize_then_sum"), ("sum", "sum_then_normalize")]
)
def test_the_advantages_of_terms_are_those_of_trl(normalize: str, how: str) -> None:
    """Up to what is beside the deviation: 1e-6 here, 1e-4 there."""
    rng = random.Random(3)
    weights = {"a": 1.0, "b": 0.5, "c": -2.0}
    rows = [(rng.random(), float(rng.randrange(3)), rng.gauss(0, 5)) for _ in range(24)]
    rows[7] = (0.4, NAN, 1.0)  # does not apply
    rows[8:12] = [(0.5, 1.0, 2.0)] * 4  # a group without signal
    rule = AdvantageSettings.model_validate({"normalize": normalize})
    groups = [group(*rows[at : at + 4], rule=rule, weights=weights) for at in range(0, 24, 4)]
    expected = trl_advantages(
        [list(row) for row in rows], weights=list(weights.values()), group_size=4, how=how
    )
    found = rule.of_step(groups, mask_truncated=False)
    assert found == pytest.approx(expected, rel=2e-3, abs=2e-3)
    assert found[8:12] == [0.0] * 4


def test_each_term_weighs_the_same_in_every_group_whatever_its_scale() -> None:
    """What GDPO is for: summed first, these two groups have the same advantages."""
    both = [(1.0, 0.0), (0.0, 0.0)], [(1.0, 100.0), (0.0, 0.0)]
    once, twice = (group(*rows).advantages for rows in both)
    # Of two equally likely values the normalised ones are half the square root of 2.
    assert once == pytest.approx([math.sqrt(0.5), -math.sqrt(0.5)], rel=1e-4)
    assert twice == pytest.approx([1.25 * math.sqrt(0.5), -1.25 * math.sqrt(0.5)], rel=1e-4)
    summed = [group(*rows, rule=AdvantageSettings()).advantages for rows in both]
    assert summed[0] == pytest.approx(summed[1], rel=1e-4)


def test_a_length_penalty_is_a_term_of_its_own_if_each_is_normalised() -> None:
    overlong = OverlongSettings(buffer_tokens=4, penalty=0.001)
    found = group((1.0, 0.0), (1.0, 0.0), lengths=(1, 9), overlong=overlong)
    assert found.advantages == pytest.approx([math.sqrt(0.5), -math.sqrt(0.5)], rel=1e-2)


def test_a_step_of_terms_has_a_standard_deviation_of_one_over_what_the_loss_counts() -> None:
    groups = [
        group((1.0, 2.0), (0.0, 5.0), None, (1.0, 1.0)),
        group((0.0, 2.0), (0.0, 2.0)),
        group((3.0, 2.0), (0.0, 4.0), lengths=(1, 9), mask=True),
    ]
    found = EACH.of_step(groups, mask_truncated=True)
    counted = [value for at, value in enumerate(found) if at not in (2, 7)]
    assert statistics.stdev(counted) == pytest.approx(1.0, abs=1e-5)
    assert [found[at] for at in (2, 4, 5, 7)] == [0.0] * 4
    assert (
        len({round(g / f, 6) for g, f in zip(groups[0].advantages, found, strict=False) if f}) == 1
    )


def test_summed_terms_train_with_the_advantages_of_their_groups() -> None:
    rule = AdvantageSettings()
    groups = [group((1.0, 2.0), (0.0, 5.0), rule=rule), group((0.0, 1.0), (3.0, 2.0), rule=rule)]
    own = [advantage for each in groups for advantage in each.advantages]
    assert rule.of_step(groups, mask_truncated=True) == own


def test_each_term_cannot_be_normalised_without_a_deviation() -> None:
    with pytest.raises(ValueError, match=r"set advantage\.std=group, or advantage\.normalize=sum"):
        AdvantageSettings(normalize="each", std="none")


def test_terms_have_metrics_and_unscored_completions_no_part_in_the_rewards() -> None:
    groups = [
        group((1.0, -4.0), (0.0, 0.0), None),  # right varies by 1, short by 4 * 0.25
        group((1.0, -8.0), (0.0, 0.0), (1.0, NAN)),  # short decides
        group((1.0, 2.0), (1.0, 2.0), (1.0, 2.0)),  # nothing does
    ]
    found = rollout_metrics(groups, weights=WEIGHTS)
    right = [1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0]
    short = [-4.0, 0.0, -8.0, 0.0, 2.0, 2.0, 2.0]
    rewards = [0.0, 0.0, -1.0, 0.0, 1.0, 1.5, 1.5, 1.5]
    expected = {
        "reward/mean": statistics.fmean(rewards),
        "reward/std": statistics.pstdev(rewards),
        "reward/unscored": 1 / 9,
        "reward/right_mean": statistics.fmean(right),
        "reward/right_std": statistics.pstdev(right),
        "reward/right_decides": 0.5 / 3,
        "reward/short_mean": statistics.fmean(short),
        "reward/short_std": statistics.pstdev(short),
        "reward/short_decides": 1.5 / 3,
        "outcome/scored": 8 / 9,
        "outcome/error": 1 / 9,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_a_step_without_a_scored_completion_has_an_unknown_reward() -> None:
    found = rollout_metrics([group(None, None)], weights=WEIGHTS)
    assert math.isnan(found["reward/mean"]) and math.isnan(found["reward/short_std"])
    assert found["reward/unscored"] == 1.0


def test_a_group_of_scores_is_mixed_if_they_differ_and_of_outcomes_if_those_do() -> None:
    assert group((1.0, 0.0), (2.0, 0.0)).is_mixed
    assert not group((1.0, 0.0), (1.0, 0.0), None).is_mixed
    judged = [verdict((0.5, 0.0), weights=WEIGHTS, outcome=name) for name in ("correct", "wrong")]
    base = group((1.0, 0.0), (2.0, 0.0))
    swap = lambda *verdicts: ScoredGroup(  # noqa: E731
        base.prompt, base.prompt_ids, base.completions, verdicts, base.advantages
    )
    assert swap(*judged).is_mixed  # equal rewards
    assert not swap(judged[0], judged[0]).is_mixed
    assert not swap(judged[0], verdict(None, weights=WEIGHTS)).is_mixed  # its answer is unknown


def test_groups_of_equal_scores_and_of_failures_have_their_parts() -> None:
    equal, failed = group((1.0, 0.0), (1.0, 0.0)), group(None, None)
    assert part_of(equal, dynamic_sampling=False) == "all_equal"
    assert part_of(failed, dynamic_sampling=False) == "unjudged"
    shares = split_metrics([equal, failed], dynamic_sampling=False)
    assert (shares["split/all_equal"], shares["split/unjudged"]) == (0.5, 0.5)
