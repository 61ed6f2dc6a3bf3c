"""Laws of the curriculum: what is out of bounds is passed over, measured again, and never lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from dgpo_cli.core.errors import CheckpointError
from dgpo_cli.core.formats import Position
from dgpo_cli.core.types import Prompt, ScoredGroup, Verdict
from dgpo_cli.prompts.settings import SelectSettings
from dgpo_cli.runs.pending import SELECTED_FILE as FILE
from dgpo_cli.train.collect import Collector
from dgpo_cli.train.curriculum import Curriculum, starting_curriculum
from tests.recorder import Notes
from tests.train.test_collect import ScriptedEngine, order, stream
from tests.train.test_train import numbers, run_tiny, weights
from tests.train.test_train_data import file_of, sums

HALF = SelectSettings(low=0.25, high=0.75, window=1, again_every=3)


def group(prompt: Prompt, right: int, of: int = 4) -> ScoredGroup:
    verdicts = tuple(Verdict("correct" if n < right else "wrong", None, 1.0) for n in range(of))
    return ScoredGroup(prompt, (1,), (), verdicts, (0.0,) * of)


def played(
    own: Curriculum, rights: dict[str, int], *, size: int, count: int
) -> Iterator[list[str]]:
    """Draw step after step; `rights` has how many of four are right, by prompt."""
    at, data = Position(), stream(size)
    while True:
        own.begin()
        prompts, at = own.take(data, at, count=count)
        own.record([group(prompt, rights[prompt.id]) for prompt in prompts])
        yield [prompt.id for prompt in prompts]


def test_every_prompt_is_drawn_until_it_is_measured() -> None:
    steps = played(Curriculum(HALF), dict.fromkeys(order(12, size=12), 0), size=12, count=4)
    assert [next(steps) for _ in range(3)] == [order(12, size=12)[n : n + 4] for n in (0, 4, 8)]


def test_what_is_out_of_bounds_is_drawn_at_every_third_of_its_turns() -> None:
    names = order(12, size=12)
    rights = {name: 2 if n < 6 else (0, 4)[n % 2] for n, name in enumerate(names)}
    own = Curriculum(HALF)
    steps = played(own, rights, size=12, count=3)
    drawn: Counter[str] = Counter()
    while sum(drawn.values()) < 12:
        drawn.update(next(steps))  # all are measured
    drawn.clear()
    for _ in range(96):  # of 36 turns of the hard and easy prompts, 12 draw them
        drawn.update(next(steps))
    inside = [drawn[name] for name in names[:6]]
    outside = [drawn[name] for name in names[6:]]
    assert max(inside) - min(inside) <= 2 and max(outside) - min(outside) <= 2
    assert 2.5 < sum(inside) / sum(outside) < 3.5


def test_a_prompt_that_is_within_bounds_again_is_drawn_as_before() -> None:
    rights = dict.fromkeys(order(4, size=4), 2)
    hard = order(4, size=4)[0]
    rights[hard] = 0
    steps = played(Curriculum(HALF), rights, size=4, count=2)
    for _ in range(5):
        next(steps)
    rights[hard] = 2
    found = Counter(name for _ in range(40) for name in next(steps))
    assert found[hard] > 15  # of 80 draws of four prompts


def test_a_step_is_full_even_where_nothing_is_within_bounds() -> None:
    own = Curriculum(SelectSettings(low=0.5, high=0.6, again_every=1000))
    steps = played(own, dict.fromkeys(order(6, size=6), 0), size=6, count=4)
    found = [next(steps) for _ in range(12)]
    assert all(len(set(step)) == 4 for step in found[1:])
    assert min(Counter(name for step in found for name in step).values()) >= 4  # none starves
    own.begin()
    prompts, _ = own.take(stream(6), Position(), count=4)
    metrics = own.record([group(prompt, 0) for prompt in prompts])
    assert metrics["select/forced"] == 4.0 and metrics["select/passed_over"] == 1.0
    assert (metrics["select/within"], metrics["select/measured"]) == (0.0, 6.0)


def test_the_window_holds_the_newest_draws() -> None:
    own = Curriculum(SelectSettings(low=0.3, high=0.7, window=2, again_every=2))
    (prompt,) = stream(1).prompts
    for right, rates in ((4, (1.0,)), (0, (1.0, 0.0)), (0, (0.0, 0.0))):
        own.begin()
        own.take(stream(1), Position(), count=1)
        own.record([group(prompt, right)])
        assert own.known().rates[prompt.id] == rates


def test_a_reward_that_judges_nothing_measures_nothing() -> None:
    own = Curriculum(HALF)
    own.begin()
    (prompt,), _ = own.take(stream(1), Position(), count=1)
    verdicts = (Verdict("scored", None, 0.3), Verdict("error", None, float("nan")))
    own.record([ScoredGroup(prompt, (1,), (), verdicts, (0.0, 0.0))])
    assert own.known().rates == {}


def test_a_draw_that_fails_leaves_position_and_measurements_as_they_were() -> None:
    class Failing(ScriptedEngine):
        def rest(self) -> None:
            if len(self.drawn) == 3:
                raise OSError
            super().rest()

    engine = Failing(set(order(4, size=4)), prompts_per_step=4)
    rollout = engine.settings.rollout.model_copy(update={"dynamic_sampling": False})
    engine.settings = engine.settings.model_copy(update={"rollout": rollout})
    own = Curriculum(HALF)
    collector = Collector(
        engine, stream(8), position=Position(), curriculum=own, observer=Notes([])
    )  # type: ignore[arg-type]
    collector.collect(1)
    collector.collect(2)
    before = own.known(), collector.position
    with pytest.raises(OSError):
        collector.collect(3)
    assert (own.known(), collector.position) == before


def test_bounds_without_room_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"low=0\.8 is above high=0\.2"):
        SelectSettings(low=0.8, high=0.2)
    assert not SelectSettings().is_on and SelectSettings(high=0.9).is_on


def test_a_run_in_two_parts_draws_what_the_run_in_one_draws(tmp_path: Path) -> None:
    settings = (
        *file_of(tmp_path, sums(10, 22)),
        *("prompts.select.low=0.2", "prompts.select.high=0.8", "prompts.select.window=1"),
        *("optim.lr=1e-3", "rollout.prompts_per_step=4"),
    )
    whole, whole_lines = run_tiny(tmp_path / "whole", *settings, steps=6)
    first, _ = run_tiny(tmp_path / "parts", *settings, steps=4)
    assert starting_curriculum(HALF, checkpoint=first.checkpoint).known().rates  # type: ignore[union-attr]
    parts, lines = run_tiny(tmp_path / "parts", *settings, steps=6, resume="must")
    assert sum(line["select/passed_over"] for line in whole_lines) > 0  # or the test shows nothing
    assert numbers(lines) == numbers(whole_lines[4:])
    one, two = weights(whole.checkpoint), weights(parts.checkpoint)
    assert all((one[name] == two[name]).all() for name in one)
    assert (whole.checkpoint / FILE).read_bytes() == (parts.checkpoint / FILE).read_bytes()
    (parts.checkpoint / FILE).write_text("{")
    with pytest.raises(CheckpointError, match=FILE):
        starting_curriculum(HALF, checkpoint=parts.checkpoint)
