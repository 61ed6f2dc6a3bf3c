"""Dynamic sampling loses no prompt, repeats none in silence and stops; what it keeps is exact."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dgpo_cli.config.settings import Settings
from dgpo_cli.core.errors import CheckpointError
from dgpo_cli.core.formats import PendingGroup, Position
from dgpo_cli.core.types import Completion, Group, Message, Prompt, ScoredGroup, Verdict
from dgpo_cli.engine.engine import Measured
from dgpo_cli.policy.policy import Policy
from dgpo_cli.prompts.datasets import FileStream
from dgpo_cli.runs.pending import PENDING_FILE as FILE
from dgpo_cli.runs.pending import pending_text, read_pending
from dgpo_cli.samplers.settings import RolloutSettings
from dgpo_cli.train.collect import Collected, Collector
from tests import engines
from tests.policy import twins
from tests.recorder import Notes

G = 2


class ScriptedEngine:
    """Groups of the prompts in `mixed` have a right and a wrong answer; of others all are wrong.

    Log-probabilities are the number of updates so far.
    """

    def __init__(self, mixed: set[str], **rollout: Any) -> None:
        self.settings = Settings(
            rollout=RolloutSettings(group_size=G, dynamic_sampling=True, **rollout)
        )
        self.mixed = mixed
        self.policy_version = 0
        self.drawn: list[list[str]] = []
        self.seeds: list[int] = []
        self.rests: list[int] = []  # draws before each
        self.valued: list[tuple[int, list[str]]] = []  # rests before it, and the groups

    def rest(self) -> None:
        self.rests.append(len(self.drawn))

    def value_moves(self, groups: Sequence[ScoredGroup]) -> list[list[float]]:
        self.valued.append((len(self.rests), ids(groups)))
        return [[0.5, -0.25] for group in groups for _ in group.completions]

    def sample(self, prompts: Sequence[Prompt], *, seeds: Sequence[Sequence[int]]) -> list[Group]:
        self.drawn.append([prompt.id for prompt in prompts])
        self.seeds += [seed for own in seeds for seed in own]
        return [
            Group(
                prompt,
                (1,),
                tuple(
                    Completion((7, 8), (-0.5, -0.25), "x", "stop", self.policy_version, seed)
                    for seed in own
                ),
            )
            for prompt, own in zip(prompts, seeds, strict=True)
        ]

    def score(self, groups: Sequence[Group]) -> list[ScoredGroup]:
        found = []
        for group in groups:
            right = group.prompt.id in self.mixed
            verdicts = (Verdict("correct" if right else "wrong", None, float(right)),)
            verdicts += (Verdict("wrong", None, 0.0),)
            advantages = (1.0, -1.0) if right else (0.5, -0.5)  # as a shaped reward may give
            found.append(
                ScoredGroup(
                    group.prompt, (1,), group.completions, verdicts, advantages, (0.0, -0.1)
                )
            )
        return found

    def logprobs(self, groups: Sequence[ScoredGroup]) -> Measured:
        rows = [f"{self.policy_version}" for g in groups for _ in g.completions]
        return Measured([(float(row),) * 2 for row in rows], rows)


def stream(count: int) -> FileStream:
    prompts = [Prompt(f"p{n}", (Message("user", f"{n}?"),), "1", "test") for n in range(count)]
    return FileStream(tuple(prompts), seed=0)


def order(count: int, *, start: int = 0, size: int = 100) -> list[str]:
    return [p.id for p in stream(size).take(Position(0, start), count=count)]


def collector(engine: Any, *, size: int = 100, events: list[str] | None = None) -> Collector:
    own = events if events is not None else []
    return Collector(engine, stream(size), position=Position(), observer=Notes(own))


def ids(groups: Sequence[ScoredGroup]) -> list[str]:
    return [group.prompt.id for group in groups]


def test_groups_without_signal_are_replaced_by_those_of_the_next_prompts() -> None:
    names = order(12)
    engine = ScriptedEngine({names[0], names[2], names[5], names[9], names[10]}, prompts_per_step=4)
    own = collector(engine)
    found = own.collect(1)
    assert engine.drawn == [names[:4], names[4:8], names[8:12]]
    assert ids(found.groups) == [names[0], names[2], names[5], names[9]]
    assert ids(found.sampled) == names
    assert [each.group.prompt.id for each in own.pending] == [names[10]]
    assert own.position == Position(draws=3, prompts=12)
    assert found.metrics == {
        "dynamic/rounds": 3.0,
        "dynamic/groups_sampled": 12.0,
        "dynamic/groups_dropped": 7.0,
        "dynamic/groups_carried_in": 0.0,
        "dynamic/groups_trained": 4.0,
        "dynamic/groups_kept_over": 1.0,
        "dynamic/prompts_repeated": 0.0,
    }


@pytest.mark.parametrize("dynamic", [True, False])
def test_the_sampler_rests_once_a_step_however_many_draws_it_takes(dynamic: bool) -> None:
    names = order(12)
    engine = ScriptedEngine({*names[3:7]}, prompts_per_step=4)
    rollout = engine.settings.rollout.model_copy(update={"dynamic_sampling": dynamic})
    engine.settings = engine.settings.model_copy(update={"rollout": rollout})
    collector(engine).collect(1)
    assert engine.rests == ([2] if dynamic else [1])


@pytest.mark.parametrize("dynamic", [True, False])
def test_moves_are_those_of_the_groups_that_train_and_measured_before_the_sampler_rests(
    dynamic: bool,
) -> None:
    names = order(12)
    engine = ScriptedEngine({*names[3:8]}, prompts_per_step=4)
    rollout = engine.settings.rollout.model_copy(update={"dynamic_sampling": dynamic})
    engine.settings = engine.settings.model_copy(update={"rollout": rollout})
    found = collector(engine).collect(1)
    assert engine.valued == [(0, ids(found.groups))]
    assert ids(found.groups) == (names[3:7] if dynamic else names[:4])
    assert found.moves == [[0.5, -0.25]] * 4 * G


def test_the_surplus_is_first_in_the_next_step_with_the_logprobs_of_its_own_weights() -> None:
    names = order(16)
    mixed = {*names[1:8], names[12]}
    engine = ScriptedEngine(mixed, prompts_per_step=4)
    own = collector(engine)
    first = own.collect(1)
    assert (ids(first.groups), first.old) == ([*names[1:5]], ([], []))
    assert [each.group.prompt.id for each in own.pending] == names[5:8]
    engine.policy_version = 1  # the update of the step
    second = own.collect(2)
    assert ids(second.groups) == [*names[5:8], names[12]]
    assert second.old == ([(0.0, 0.0)] * 3 * G, ["0"] * 3 * G)
    assert {c.policy_version for g in second.groups[:3] for c in g.completions} == {0}
    assert own.pending == ()


def conserved(found: Collected, *, before: int) -> None:
    m = found.metrics
    came = before + m["dynamic/groups_sampled"]
    went = m["dynamic/groups_dropped"] + m["dynamic/groups_trained"] + m["dynamic/groups_kept_over"]
    assert came == went


@pytest.mark.parametrize("every", [1, 2, 3, 7])
def test_over_many_steps_every_prompt_is_drawn_once_and_every_group_goes_somewhere(
    every: int,
) -> None:
    names = order(400, size=1000)
    mixed = set(names[::every])
    engine = ScriptedEngine(mixed, prompts_per_step=4, max_rounds=9)
    own = collector(engine, size=1000)
    trained: list[str] = []
    for number in range(1, 15):
        before = len(own.pending)
        found = own.collect(number)
        conserved(found, before=before)
        trained += ids(found.groups)
        assert len(found.groups) == 4 and len(own.pending) < 4
    drawn = [name for batch in engine.drawn for name in batch]
    assert drawn == names[: len(drawn)]
    kept = [each.group.prompt.id for each in own.pending]
    assert trained + kept == [name for name in drawn if name in mixed]
    assert len(set(engine.seeds)) == len(engine.seeds)


def test_after_the_last_round_the_batch_is_smaller_and_said_so() -> None:
    names = order(12)
    events: list[str] = []
    engine = ScriptedEngine({names[3], names[6]}, prompts_per_step=4, max_rounds=3)
    found = collector(engine, events=events).collect(5)
    assert ids(found.groups) == [names[3], names[6]]
    assert events == [
        "step 5: only 2 of 4 groups have both correct and wrong answers after 3 rounds "
        "(rollout.max_rounds)"
    ]


def test_a_step_without_any_mixed_group_learns_nothing() -> None:
    engine = ScriptedEngine(set(), prompts_per_step=4, max_rounds=2)
    found = collector(engine).collect(1)
    assert found.metrics["dynamic/groups_trained"] == 0.0
    assert found.groups and not any(group.has_signal for group in found.groups)
    assert len(found.sampled) == 8


def test_prompts_that_return_within_a_step_are_counted() -> None:
    engine = ScriptedEngine(set(), prompts_per_step=4, max_rounds=3)
    found = collector(engine, size=6).collect(1)
    assert found.metrics["dynamic/prompts_repeated"] == 6.0


def test_without_dynamic_sampling_a_step_is_one_draw() -> None:
    names = order(8)
    engine = ScriptedEngine(set(), prompts_per_step=4)
    rollout = engine.settings.rollout.model_copy(update={"dynamic_sampling": False})
    engine.settings = engine.settings.model_copy(update={"rollout": rollout})
    own = collector(engine)
    for number in (1, 2):
        found = own.collect(number)
        assert ids(found.groups) == names[4 * number - 4 : 4 * number]
        assert (found.metrics, found.old) == ({}, ([], []))
        assert all(group.advantages == (0.5, -0.5) for group in found.groups)


def test_groups_kept_by_a_run_that_has_switched_it_off_are_told_of() -> None:
    engine = ScriptedEngine(set(order(8)), prompts_per_step=4)
    groups = engine.score(engine.sample(stream(4).prompts, seeds=[[1, 2]] * 4))
    pending = [PendingGroup(group, ((0.0, 0.0),) * G) for group in groups]
    rollout = engine.settings.rollout.model_copy(update={"dynamic_sampling": False})
    engine.settings = engine.settings.model_copy(update={"rollout": rollout})
    events: list[str] = []
    anything: Any = engine
    own = Collector(
        anything, stream(9), position=Position(), pending=pending, observer=Notes(events)
    )
    assert own.pending == ()
    assert "4 pending groups are dropped" in events[0]


def test_a_checkpoint_gives_the_kept_groups_back_bit_by_bit(tmp_path: Path) -> None:
    logprobs = tuple(torch.randn(3, generator=torch.Generator().manual_seed(1)).tolist())
    odd = Completion((1, 2, 3), logprobs, "half a pair \ud83d", "length", 4, 2**62)
    group = ScoredGroup(
        Prompt("é", (Message("system", "s"), Message("user", "1/3?")), "1", "src"),
        (4, 5),
        (odd, replace(odd, seed=9)),
        (Verdict("truncated", None, 0.1), Verdict("correct", "1", 1.0)),
        (1 / 3, -2 / 3),
        (-0.7, 0.0),
    )
    pending = (
        PendingGroup(group, (logprobs, logprobs)),
        PendingGroup(group, (logprobs, logprobs), kept=("AAAA", "")),
    )
    assert read_pending(tmp_path) == ()
    (tmp_path / FILE).write_text(pending_text(pending))
    assert read_pending(tmp_path) == pending
    (tmp_path / FILE).write_text(json.dumps([{"group": {}}]))
    with pytest.raises(CheckpointError, match=r"carried\.json: cannot be read"):
        read_pending(tmp_path)


@pytest.mark.parametrize("top_p", [1.0, 0.7])
def test_the_ratio_of_a_pending_group_is_that_of_two_weights_and_not_1(
    policy: Policy, top_p: float
) -> None:
    """Against log-probabilities of a slow twin, before and after the update in between. With
    top_p both are over the tokens that the weights before it kept."""
    engine = engines.make_engine(policy, top_p=top_p)
    sets: list[list[int]] = []
    groups = [group for group in engines.rollout(engine) if group.has_signal]
    fresh, kept = groups[:2], groups[2:]

    def slow() -> list[list[float]]:
        model = twins.widened(policy.model)
        found, known = [], iter(list(sets))
        for pair in [(g.prompt_ids, c.token_ids) for g in kept for c in g.completions]:
            own = []
            logits = twins.completion_logits(model, pair, temperature=0.8).detach()
            for row, token in zip(logits, pair[1], strict=True):
                allowed = next(known, None)
                if allowed is None:
                    probs = row.softmax(-1)
                    order = probs.argsort(descending=True).tolist()
                    before = [sum(float(probs[i]) for i in order[:n]) for n in range(len(order))]
                    allowed = [i for i, held in zip(order, before, strict=True) if held < top_p]
                    allowed += [] if token in allowed else [token]  # it was drawn
                    sets.append(allowed)
                own.append(float(row[token] - row[allowed].logsumexp(-1)))
            found.append(own)
        return found

    old, before = engine.logprobs(kept), slow()
    assert (min(map(len, sets)) < 50) == (top_p < 1)
    for row, expected in zip(old.logprobs, before, strict=True):
        assert row == pytest.approx(expected, abs=1e-5)
    engine.update(engine.make_batch(fresh), step=0)
    after = slow()
    batch = engine.make_batch([*kept, *fresh], old=old)
    rows = len(old.logprobs)
    for row, expected in enumerate(before):
        assert batch.stats.old_logprobs[row, : len(expected)].tolist() == pytest.approx(
            expected, abs=1e-5
        )
    metrics = engine.update(batch, step=1)
    ratios = [
        torch.tensor(a).sub(torch.tensor(b)).exp()
        for a, b, r in zip(after, before, range(rows), strict=True)
        if batch.advantages[r] != 0
    ]
    flat = torch.cat([*ratios, torch.ones(1)])  # the fresh groups start at 1
    assert metrics["loss/ratio_max"] == pytest.approx(float(flat.max()), rel=1e-4)
    assert metrics["loss/ratio_min"] == pytest.approx(float(flat.min()), rel=1e-4)
    assert float(flat.max()) > 1.01
