"""The table of a study: what was planted in its runs is found, and nothing else is."""

from __future__ import annotations

import json
import math
import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from dgpo_cli.core.codec import parsed
from dgpo_cli.core.errors import ConfigError
from dgpo_cli.core.types import StudyRecord, StudyRun, Variant
from dgpo_cli.stats.comparison import over_problems
from dgpo_cli.study.read import read_study
from dgpo_cli.study.summary import STUDY, Measure, StudyTable, summarise
from tests.samples import evaluation
from tests.study.samples import write_study

NAN = math.nan
VARIANTS = ("uniform", "entropy", "surprisal", "dgpo")


def noisy(variant: str, seed: int, step: int, *, effects: Mapping[str, float]) -> float:
    """Rewards that rise; a seed's runs share most of their noise, as paired seeds do."""
    shared, own = random.Random(f"{seed} {step}"), random.Random(f"{variant} {seed} {step}")
    return 0.3 + 0.01 * step + effects.get(variant, 0) + shared.gauss(0, 0.05) + own.gauss(0, 0.01)


def record_of(
    rewards: Mapping[str, Mapping[int, Sequence[float | None]]], **changes: object
) -> StudyRecord:
    """A study in memory; the first variant is the baseline."""
    runs = tuple(
        StudyRun(
            variant=variant,
            seed=seed,
            folder=f"s/runs/{variant}/seed-{seed}",
            state="finished",
            total=len(curve),
            steps=tuple({"step": at, "reward/mean": x} for at, x in enumerate(curve, start=1)),
            before=None,
            after=None,
        )
        for variant, own in rewards.items()
        for seed, curve in own.items()
    )
    found = StudyRecord(
        name="s",
        path="s",
        description="",
        baseline=next(iter(rewards)),
        seeds=tuple(sorted({run.seed for run in runs})),
        variants=tuple(Variant(name, {"credit.rule": name}) for name in rewards),
        runs=runs,
        notes=(),
    )
    return replace(found, **changes)


def planted(effects: Mapping[str, float], *, seeds: range, steps: int = 30) -> StudyTable:
    names = ("uniform", *effects)
    return summarise(
        record_of(
            {
                name: {
                    seed: [noisy(name, seed, at, effects=effects) for at in range(1, steps + 1)]
                    for seed in seeds
                }
                for name in names
            }
        )
    )


def test_a_planted_difference_is_found_with_its_size(tmp_path: Path) -> None:
    effects = {"entropy": -0.02, "surprisal": 0.01}

    def reward(variant: str, seed: int, step: int) -> float:
        return noisy(variant, seed, step, effects=effects)

    write_study(tmp_path / "s", reward=reward, variants=VARIANTS, seeds=range(8), steps=30)
    table = summarise(read_study(tmp_path / "s"))
    assert [row.variant for row in table.rows] == list(VARIANTS)
    assert table.row("uniform").reward.difference is None
    for name in VARIANTS[1:]:
        found = table.row(name).reward.difference
        assert found is not None and found.seeds == 8
        assert found.interval_95.low < effects.get(name, 0.0) < found.interval_95.high
        assert found.shown == (name in effects)
    # Pairs share the large noise of their seed: unpaired intervals are far wider.
    mean = table.row("surprisal").reward
    assert mean.difference is not None
    assert mean.interval_95.half_width > 2 * mean.difference.interval_95.half_width


def test_no_planted_difference_is_rarely_found() -> None:
    """The chance of any * in a study of six equal rules is at most 5%."""
    found = 0
    for study in range(200):
        names = [f"{study}-{at}" for at in range(6)]
        table = planted(dict.fromkeys(names, 0.0), seeds=range(4), steps=6)
        found += any(row.reward.difference.shown for row in table.rows[1:])  # type: ignore[union-attr]
    assert found <= 19  # of 200: 10 and three standard deviations


def test_the_mean_reward_is_the_area_under_the_curve_by_its_steps() -> None:
    table = summarise(record_of({"a": {0: [0.0, 0.5, 1.0, 0.7], 1: [0.5] * 4}}))
    assert table.rows[0].reward.by_seed == {"0": 0.55, "1": 0.5}
    assert table.rows[0].reward.mean == pytest.approx(0.525)
    assert math.isnan(table.rows[0].reward.by_seed.get("2", NAN))


def test_times_of_a_run_are_those_of_all_its_steps_and_unknown_in_older_runs() -> None:
    record = record_of({"a": {0: [0.5] * 4}, "b": {0: [0.5] * 4}})
    new, old = record.runs
    # A run that began before there was such a number: two of four steps have it.
    times = ({"time/step_s": 2.0}, {"time/step_s": 2.0}, *[{"time/cpu_s": 0.5}] * 2)
    steps = tuple({**line, **each} for line, each in zip(new.steps, times, strict=True))
    table = summarise(replace(record, runs=(replace(new, steps=steps), old)))
    assert (table.rows[0].seconds.mean, table.rows[0].cpu_seconds.mean) == (8.0, 2.0)
    assert math.isnan(table.rows[1].cpu_seconds.mean)


def test_unfinished_runs_do_not_count_and_are_told(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "s", reward=lambda v, s, t: 0.1 * s + 0.01 * t, seeds=range(4))
    shutil.rmtree(folder.run("entropy", 2) / "checkpoints")
    shutil.rmtree(folder.run("uniform", 0))
    table = summarise(read_study(tmp_path / "s"))
    uniform, entropy = table.rows
    assert (uniform.finished, uniform.planned, entropy.finished) == (3, 4, 3)
    assert set(entropy.reward.by_seed) == {"0", "1", "3"}
    difference = entropy.reward.difference
    assert difference is not None
    assert (difference.seeds, difference.left_out) == (2, (0, 2))
    assert table.notes == (
        "uniform: 1 of 4 runs not finished and left out: seed 0",
        "entropy: 1 of 4 runs not finished and left out: seed 2",
    )


def test_a_run_without_most_of_its_rewards_does_not_count_and_is_told() -> None:
    rewards = {"a": {0: [0.5] * 20, 1: [0.5] * 20}, "b": {0: [0.5] * 20, 1: [0.6] * 20}}
    rewards["b"][1] = [None] * 5 + [0.6] * 15  # type: ignore[list-item]
    table = summarise(record_of(rewards))
    assert list(table.row("b").reward.by_seed) == ["0"]
    assert table.notes == ("b: the reward of many steps is missing: seed 1 left out",)


def test_runs_of_different_lengths_are_told() -> None:
    table = summarise(record_of({"a": {0: [0.5] * 4}, "b": {0: [0.5] * 6}}))
    assert (table.rows[0].steps, table.rows[1].steps) == (4, 6)
    (note,) = table.notes
    assert note == "runs have different lengths (4, 6 steps): mean rewards are over each run's own"


def test_steps_to_a_level_are_compared_only_if_all_seeds_get_there() -> None:
    rise = [0.05 * at for at in range(1, 21)]
    slow = [0.04 * at for at in range(1, 21)]
    rewards = {"a": {0: rise, 1: rise}, "b": {0: slow, 1: [0.1] * 20}, "c": {0: slow, 1: slow}}
    table = summarise(record_of(rewards), level=0.5)
    assert (table.window, table.level) == (10, 0.5)
    # The mean of ten steps up to t is 0.05 (t - 4.5).
    assert table.row("a").to_level.by_seed == {"0": 15.0, "1": 15.0}
    assert (table.row("a").reached, table.row("b").reached) == (2, 1)
    assert table.row("b").to_level.difference is None
    difference = table.row("c").to_level.difference
    assert difference is not None and difference.mean == 2.0
    assert difference.seeds_for_point is None


def test_the_level_is_where_the_baseline_has_made_nine_tenths_of_its_gain() -> None:
    table = summarise(record_of({"a": {0: [0.2] * 10 + [0.6] * 10, 1: [0.4] * 10 + [0.8] * 10}}))
    assert table.level == pytest.approx(0.3 + 0.9 * 0.4)
    falling = summarise(record_of({"a": {0: [0.6] * 10 + [0.2] * 10}}))
    assert falling.level == pytest.approx(0.2)


def test_another_baseline_turns_the_difference_around() -> None:
    rewards = {"a": {0: [0.5] * 3, 1: [0.6] * 3}, "b": {0: [0.6] * 3, 1: [0.9] * 3}}
    one, other = summarise(record_of(rewards)), summarise(record_of(rewards), baseline="b")
    assert [row.variant for row in other.rows] == ["b", "a"] and other.baseline == "b"
    first, second = one.row("b").reward.difference, other.row("a").reward.difference
    assert first is not None and second is not None
    assert first.mean == pytest.approx(0.2) and second.mean == -first.mean
    with pytest.raises(ConfigError, match="--baseline=entropi: no such variant of s; did you mean"):
        summarise(record_of({"entropy": {0: [0.5]}}), baseline="entropi")


def test_one_seed_has_a_difference_without_an_interval() -> None:
    table = summarise(record_of({"a": {3: [0.5] * 3}, "b": {3: [0.75] * 3}}))
    difference = table.row("b").reward.difference
    assert difference is not None and difference.mean == 0.25
    assert math.isnan(difference.p_holm) and not difference.shown


def evaluated(counts: Mapping[str, Mapping[int, Sequence[int]]], *, k: int) -> StudyRecord:
    record = record_of({name: {s: [0.5] * 3 for s in own} for name, own in counts.items()})
    runs = tuple(
        replace(
            run,
            before=evaluation((2, 4, 0), k=k),
            after=evaluation(counts[run.variant][run.seed], k=k),
        )
        for run in record.runs
    )
    return replace(record, runs=runs)


def test_avg_at_k_has_an_error_over_seeds_over_reruns_and_over_problems() -> None:
    counts = {
        "a": {0: (4, 4, 0), 1: (6, 2, 1), 2: (5, 3, 2)},
        "b": {0: (6, 6, 1), 1: (8, 3, 2), 2: (8, 6, 2)},
    }
    table = summarise(evaluated(counts, k=8))
    score = table.row("b").score
    assert score is not None
    assert (score.bench, score.k, score.n_problems, score.before) == ("sums", 8, 3, 0.25)
    assert score.after.by_seed == {"0": 13 / 24, "1": 13 / 24, "2": 16 / 24}
    # Over seeds: the spread of the three means.
    assert score.after.mean == pytest.approx(14 / 24)
    assert score.after.stderr == pytest.approx(1 / 24)
    # Over reruns: sum of p (1 - p) / (k - 1) over all problems of all seeds.
    variance = sum(c / 8 * (1 - c / 8) / 7 for own in counts["b"].values() for c in own)
    assert score.after_rerun == pytest.approx(math.sqrt(variance) / 9)
    # Over problems: the spread of the means over seeds.
    means = [22 / 24, 15 / 24, 5 / 24]
    mean = sum(means) / 3
    spread = sum((x - mean) ** 2 for x in means) / 2
    assert score.after_problems == pytest.approx(math.sqrt(spread / 3))
    # The difference is paired by seed: 5/24, 4/24, 6/24.
    difference = score.after.difference
    assert difference is not None
    assert difference.mean == pytest.approx(5 / 24)
    assert difference.stderr == pytest.approx(1 / 24 / math.sqrt(3))
    pooled = over_problems([15 / 24, 9 / 24, 3 / 24], means).interval()
    assert score.difference_problems_95 == pooled


def test_evaluations_of_other_problems_or_k_do_not_count_and_are_told() -> None:
    record = evaluated({"a": {0: (4, 4, 0), 1: (4, 4, 1)}, "b": {0: (4, 4, 0), 1: (5, 5, 5)}}, k=8)
    other = replace(record.runs[3], after=evaluation((4, 4, 0), k=16))
    missing = replace(record.runs[1], after=None)
    table = summarise(replace(record, runs=(record.runs[0], missing, record.runs[2], other)))
    assert table.notes == (
        "a: not evaluated on sums, k=8: seed 1",
        "b: not evaluated on sums, k=8: seed 1",
    )
    found = [row.score.after.seeds for row in table.rows if row.score is not None]
    assert found == [1, 1]


def test_json_comes_back_as_the_table(tmp_path: Path) -> None:
    def correct(variant: str, seed: int | None) -> Sequence[int]:
        return (1, 2, 3) if seed is None else (2, 3 + seed, 4 + (variant == "entropy"))

    write_study(tmp_path / "s", reward=lambda v, s, t: 0.1 * s + 0.01 * t, correct=correct)
    table = summarise(read_study(tmp_path / "s"))
    score = table.row("entropy").score
    assert score is not None and score.before == 6 / 24
    assert score.after.by_seed["1"] == (2 + 4 + 5) / 24
    data = STUDY.to_json(table)
    again = STUDY.read(parsed(json.dumps(data).encode(), where=""), where="")
    assert STUDY.to_json(again) == data
    assert isinstance(again.rows[0].reward, Measure)


def test_a_study_that_has_not_begun_has_a_table_without_numbers() -> None:
    record = record_of({"a": {0: [0.5] * 3}, "b": {0: [0.5] * 3}})
    runs = tuple(replace(run, state="missing", steps=()) for run in record.runs)
    table = summarise(replace(record, runs=runs))
    assert [row.finished for row in table.rows] == [0, 0]
    assert math.isnan(table.level) and math.isnan(table.rows[0].reward.mean)
    assert table.rows[1].reward.difference is None
