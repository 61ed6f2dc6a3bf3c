"""Values of prefixes under the embedded model, which its own sampler continues."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest

from dgpo_cli.config.load import load_settings
from dgpo_cli.core.events import NOBODY, Progress
from dgpo_cli.core.seeds import derive_seed
from dgpo_cli.core.types import Message, Prompt, ScoredGroup
from dgpo_cli.engine.setup import sampling_engine
from dgpo_cli.engine.values.estimate import estimate
from dgpo_cli.engine.values.prefixes import Prefixes
from dgpo_cli.rewards.grader import GradeItem
from dgpo_cli.samplers.base import SamplingParams
from tests.recorder import Recorder

LIMIT = 40


def engine_of(**overrides: Any) -> Any:
    limit = {"rollout.max_completion_tokens": LIMIT, "reward.workers": 1}
    settings = load_settings("tiny", overrides={**limit, **overrides})
    return sampling_engine(settings)


def sampled(engine: Any, *, prefix: str = "") -> list[ScoredGroup]:
    asked: list[Message] = [Message("user", "(37+25)*4=?")]
    if prefix:
        asked.append(Message("assistant", prefix))
    prompt = Prompt("a sum", tuple(asked), "248", "test")
    groups: list[ScoredGroup] = engine.score(engine.sample([prompt], seeds=[range(3)]))
    return groups


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    with engine_of() as made:
        yield made


def test_values_are_those_of_continuations_sampled_one_by_one(engine: Any) -> None:
    (group,) = groups = sampled(engine, prefix="(3")
    curve = estimate(engine, groups, of=[(0, 1)], continuations=4, seed=9, siblings=False)[0, 1]
    ids = group.completions[1].token_ids
    assert [point.at for point in curve.points] == [*range(len(ids) + 1)]
    tree = Prefixes(group)
    for point in curve.points[:-1:5]:
        rewards = []
        for k in range(4):
            digest = tree.key(1, point.at).digest
            ((drawn,),) = engine.sampler.sample(
                [[*group.prompt_ids, *ids[: point.at]]],
                seeds=[[derive_seed("value", 9, "a sum", digest, k)]],
                params=SamplingParams(1.0, 1.0, 0, LIMIT - point.at),
                observer=NOBODY,
            )
            text = engine.subject.decode([*ids[: point.at], *drawn.token_ids])
            item = GradeItem("248", text, drawn.finish_reason, prefix="(3")
            rewards.append(engine.grader.grade([item])[0].reward)
        assert point.value == math.fsum(rewards) / 4
        assert point.count == 4


def test_values_of_a_greedy_completion_are_its_reward() -> None:
    with engine_of(**{"rollout.temperature": 0.0}) as greedy:
        groups = sampled(greedy)
        curves = estimate(greedy, groups, continuations=1, seed=0)
    for (_, row), curve in curves.items():
        assert {point.value for point in curve.points} == {groups[0].rewards[row]}


def test_a_penalty_for_length_is_part_of_the_value() -> None:
    overlong = {"reward.overlong.buffer_tokens": LIMIT - 1, "reward.overlong.penalty": 0.5}
    with engine_of(**{"rollout.temperature": 0.0, **overlong}) as greedy:
        groups = sampled(greedy)
        curve = estimate(greedy, groups, continuations=1, seed=0)[0, 0]
    assert groups[0].penalties[0] < 0
    expected = groups[0].rewards[0] + groups[0].penalties[0]
    assert [point.value for point in curve.points] == pytest.approx([expected] * len(curve.points))


def test_progress_is_told_in_continuations(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = sampled(engine)
    recorder = Recorder()
    monkeypatch.setattr(engine, "observer", recorder)
    estimate(engine, groups, of=[(0, 0)], continuations=3, seed=0)
    told = [event for event in recorder.events if isinstance(event, Progress)]
    total = 3 * len(groups[0].completions[0].token_ids)
    assert {(event.name, event.unit, event.total) for event in told} == {
        ("values", "continuations", total)
    }
    done = [event.done for event in told]
    assert done == sorted(done)
    assert (done[0], done[-1], told[-1].over) == (0, total, True)
    assert len(set(done)) > 2
