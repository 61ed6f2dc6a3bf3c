"""Laws of prefetching: who samples when, with which weights, and that nothing is lost."""

from __future__ import annotations

import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import dgpo_cli.engine.learn as learn_module
from dgpo_cli.config.load import resolve
from dgpo_cli.core.digests import write_digests
from dgpo_cli.core.errors import BackendError, CalledOff, CheckpointError
from dgpo_cli.core.events import Observers
from dgpo_cli.core.types import StepMetrics
from dgpo_cli.engine import setup
from dgpo_cli.engine.checkpoint import load_state
from dgpo_cli.engine.engine import Engine
from dgpo_cli.inspect.rollout_file import read_rollouts
from dgpo_cli.policy.load_policy import load_policy
from dgpo_cli.policy.policy import Policy
from dgpo_cli.runs.pending import PREFETCHED_FILE as FILE
from dgpo_cli.runs.rollouts import RolloutLine
from dgpo_cli.runs.run_folder import RunFolder
from dgpo_cli.train import train
from dgpo_cli.train.prefetch import Pipeline
from tests.recorder import AtStep, Killed, Notes, Recorder
from tests.train.remote import LIMIT_S, THREAD, TwinSampler, sampling_threads
from tests.train.test_train import numbers, weights

SMALL = (
    "rollout.backend.kind=vllm-server",
    "rollout.prompts_per_step=4",
    "rollout.group_size=4",
    "rollout.max_completion_tokens=48",
    "optim.micro_batch_size=8",
    "optim.lr=1e-3",
    "train.rollouts_every=1",
    "train.keep_checkpoints=9",
    "eval.every=0",
)
SIBLINGS = ("credit.rule=value", "credit.continuations=0")
DYNAMIC = ("rollout.dynamic_sampling=true", "rollout.max_rounds=3")
AHEAD = "rollout.overlap=1"


class Case:
    """Runs of one folder on a TwinSampler of their own each."""

    def __init__(self, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.out = out
        self.on_sample: Callable[[int], None] = lambda number: None
        self.on_step: Callable[[int], None] = lambda step: None
        self.events: list[str] = []
        self.sampler: TwinSampler
        self.engine: Engine
        monkeypatch.setattr(setup, "make_sampler", self._make)

    def _make(self, settings: Any, *, policy: Policy, **_: Any) -> TwinSampler:
        self.sampler = TwinSampler(policy, on_sample=lambda number: self.on_sample(number))
        return self.sampler

    def run(
        self,
        *overrides: str,
        steps: int = 4,
        resume: train.Resume = "auto",
        allow_change: bool = False,
    ) -> tuple[train.TrainResult, list[StepMetrics]]:
        recorder = Recorder()
        at_step = AtStep(lambda step: self.on_step(step))
        grader = () if "reward.kind=environment" in overrides else ("reward.workers=1",)
        result = train.run(
            resolve(preset="tiny", overrides=[*SMALL, *grader, f"train.steps={steps}", *overrides]),
            out=self.out,
            resume=resume,
            allow_change=allow_change,
            observer=Observers([recorder, Notes(self.events), at_step]),
        )
        return result, recorder.lines

    def rollouts(self) -> list[list[RolloutLine]]:
        return [list(read_rollouts(path)) for path in RunFolder(self.out).rollouts()]


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    return Case(tmp_path / "run", monkeypatch)


@pytest.fixture
def other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Case]:
    return lambda name: Case(tmp_path / name, monkeypatch)


def versions(lines: Sequence[RolloutLine]) -> set[int]:
    return {line.completion.policy_version for line in lines}


def ids(lines: Sequence[RolloutLine]) -> list[tuple[str, tuple[int, ...], int]]:
    return [(x.prompt.id, x.completion.token_ids, x.completion.seed) for x in lines]


def test_without_overlap_the_main_thread_samples_each_batch_from_the_newest_weights(
    case: Case,
) -> None:
    _, lines = case.run(steps=3)
    assert [(v, t) for v, t, _ in case.sampler.samples] == [(v, "MainThread") for v in (0, 1, 2)]
    assert [line["rollout/lag"] for line in lines] == [0.0, 0.0, 0.0]
    assert not any("time/wait_s" in line or "off_policy/stale_k3" in line for line in lines)
    assert all(line["loss/ratio_max"] == 1.0 for line in lines)


def test_a_batch_is_of_one_version_one_step_old_and_the_last_step_draws_none(case: Case) -> None:
    _, lines = case.run(AHEAD, steps=4)
    assert [line["optim/updates"] for line in lines] == [1.0] * 4  # else the versions say nothing
    assert case.sampler.samples == [(v, THREAD, 4) for v in (0, 0, 1, 2)]
    assert [versions(batch) for batch in case.rollouts()] == [{0}, {0}, {1}, {2}]
    assert [line["rollout/lag"] for line in lines] == [0.0, 1.0, 1.0, 1.0]
    assert case.sampler.version == 4
    assert sampling_threads() == []


def test_the_next_batch_is_sampled_while_this_one_trains(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each sample ahead ends only after the update beside it was computed: one that was not
    beside it would wait in vain."""
    updated = [threading.Event() for _ in range(5)]
    real = Engine.update

    def update(self: Engine, batch: Any, *, step: int) -> StepMetrics:
        found = real(self, batch, step=step)
        updated[step].set()
        return found

    def wait(number: int) -> None:
        if number > 1:
            assert updated[number - 2].wait(LIMIT_S)

    monkeypatch.setattr(Engine, "update", update)
    case.on_sample = wait
    case.run(AHEAD, steps=4)
    assert len(case.sampler.samples) == 4


def test_without_learning_overlap_changes_no_batch_and_no_loss(
    other: Callable[[str], Case],
) -> None:
    still = ("optim.lr=1e-30", "optim.weight_decay=0")
    apart, ahead = other("apart"), other("ahead")
    _, one = apart.run(*still, steps=3)
    _, two = ahead.run(AHEAD, *still, steps=3)
    assert [ids(a) for a in apart.rollouts()] == [ids(b) for b in ahead.rollouts()]
    assert [line["rollout/lag"] for line in two] == [0.0, 1.0, 1.0]
    for left, right in zip(numbers(one), numbers(two), strict=True):
        for name in left.keys() - {"rollout/lag"}:
            assert right[name] == pytest.approx(left[name], rel=1e-4, abs=1e-5), name
    assert all(line["off_policy/stale_gap_mean"] < 1e-6 for line in two[1:])


def logprobs_of(checkpoint: Path | None, lines: Sequence[RolloutLine]) -> list[list[float]]:
    settings = resolve(preset="tiny").settings
    policy = load_policy(
        settings.model,
        adapter=settings.adapter,
        seed=settings.seed,
        with_reference=False,
        checkpoint=checkpoint,
    )
    return [
        policy.logprobs_of(
            [*line.prompt_ids, *line.completion.token_ids], temperature=line.temperature
        )[-len(line.completion.token_ids) :]
        for line in lines
    ]


def largest(left: Sequence[Sequence[float]], right: Sequence[Sequence[float]]) -> float:
    pairs = zip(left, right, strict=True)
    return max(abs(a - b) for x, y in pairs for a, b in zip(x, y, strict=True))


def test_ratios_start_from_the_weights_that_sampled_and_the_correction_knows_no_step(
    case: Case,
) -> None:
    """old_logprobs against those of the checkpoints, before and after the step in between."""
    _, lines = case.run(AHEAD, "train.checkpoint_every=1", steps=4)
    folder = RunFolder(case.out)
    for number, batch in enumerate(case.rollouts(), start=1):
        stored = [list(line.stats.logprobs) for line in batch if line.stats is not None]
        sampled = max(number - 2, 0)
        of = [folder.checkpoint_dir(n) if n else None for n in (sampled, number - 1)]
        by_sampling, by_trained = (logprobs_of(checkpoint, batch) for checkpoint in of)
        assert largest(stored, by_sampling) < 2e-5
        metrics = lines[number - 1]
        assert metrics["sampler/logprob_gap_max"] < 1e-4  # both sides are of one version
        assert metrics["off_policy/ess"] == pytest.approx(1.0, abs=1e-6)
        assert metrics["off_policy/kept_frac"] == 1.0
        if number == 1:
            continue
        assert largest(stored, by_trained) > 1e-3
        flat = [
            (new - old, line.advantage != 0)
            for line, now, then in zip(batch, by_trained, stored, strict=True)
            for new, old in zip(now, then, strict=True)
        ]
        changes = torch.tensor([change for change, _ in flat], dtype=torch.float64)
        ratios = torch.tensor([c for c, counts in flat if counts], dtype=torch.float64).exp()
        assert metrics["loss/ratio_max"] == pytest.approx(float(ratios.max()), rel=1e-4)
        assert metrics["loss/ratio_min"] == pytest.approx(float(ratios.min()), rel=1e-4)
        assert metrics["off_policy/stale_gap_mean"] == pytest.approx(
            float(changes.abs().mean()), rel=1e-3
        )
        assert metrics["off_policy/stale_k3"] == pytest.approx(
            float((changes.expm1() - changes).mean()), rel=1e-2
        )


@pytest.mark.parametrize("extra", [(), DYNAMIC, SIBLINGS], ids=["plain", "dynamic", "siblings"])
@pytest.mark.parametrize("at", [1, 3, 4])
def test_killed_and_resumed_is_the_run_that_was_not(
    other: Callable[[str], Case], extra: tuple[str, ...], at: int
) -> None:
    every = (AHEAD, "train.checkpoint_every=2", *extra)
    whole = other("whole")
    result, _ = whole.run(*every, steps=6)
    parts = other("parts")

    def die(step: int) -> None:
        if step == at:
            raise Killed

    parts.on_step = die
    with pytest.raises(Killed):
        parts.run(*every, steps=6)
    parts.on_step = lambda step: None
    again, _ = parts.run(*every, steps=6)
    left, right = RunFolder(whole.out), RunFolder(parts.out)
    assert numbers(right.read_metrics()) == numbers(left.read_metrics())  # type: ignore[arg-type]
    for one, two in zip(left.rollouts(), right.rollouts(), strict=True):
        assert one.read_bytes() == two.read_bytes()
    first, second = weights(result.checkpoint), weights(again.checkpoint)
    assert all(torch.equal(first[name], second[name]) for name in first)
    states = [torch.load(r.checkpoint / "trainer.pt", weights_only=True) for r in (result, again)]
    assert torch.equal(states[0]["rng"]["torch"], states[1]["rng"]["torch"])
    positions = [json.loads((r.checkpoint / "state.json").read_text()) for r in (result, again)]
    assert positions[0] == positions[1]


def test_what_a_truncated_sampler_kept_goes_with_a_batch_and_into_its_checkpoint(
    other: Callable[[str], Case],
) -> None:
    """The sampler's log-probabilities, over its own sets, are the trainer's old ones; and a run
    that was killed between the two has the sets of weights that are gone."""
    every = (AHEAD, *DYNAMIC, "rollout.top_p=0.8", "train.checkpoint_every=2")
    whole, parts = other("whole"), other("parts")
    _, lines = whole.run(*every, steps=5)
    for line in lines:
        assert line["sampler/logprob_gap_max"] < 1e-4
        assert 1.0 < line["sampling/kept_mean"] < 60 and line["sampling/outside_kept"] < 1e-2
    assert max(line["off_policy/stale_gap_mean"] for line in lines[1:]) > 1e-4

    def die(step: int) -> None:
        if step == 3:
            raise Killed

    parts.on_step = die
    with pytest.raises(Killed):
        parts.run(*every, steps=5)
    parts.on_step = lambda step: None
    parts.run(*every, steps=5)
    left, right = RunFolder(whole.out), RunFolder(parts.out)
    assert numbers(right.read_metrics()) == numbers(left.read_metrics())  # type: ignore[arg-type]


def test_conversations_with_an_environment_are_sampled_ahead_and_survive_a_kill(
    other: Callable[[str], Case],
) -> None:
    """The thread plays them, all turns by one version; log-probabilities of the policy's tokens
    are over the sampler's sets, those of the environment's are none."""
    relay = Path(__file__).parents[2] / "examples" / "relay.py"
    played = f'{{kind = "environment", env = "{relay}:Relay", max_turn_tokens = 30}}'
    every = (
        AHEAD,
        *DYNAMIC,
        f"prompts={played}",
        "reward.kind=environment",
        "rollout.max_completion_tokens=90",
        "rollout.top_p=0.8",
        "train.checkpoint_every=2",
    )
    whole = other("whole")
    _, lines = whole.run(*every, steps=4)
    for line in lines:
        assert line["env/turns_mean"] > 1 and line["sampler/logprob_gap_max"] < 1e-4
    assert max(line["off_policy/stale_gap_mean"] for line in lines[1:]) > 1e-4
    ahead = [step[1] for step in whole.sampler.samples]
    assert set(ahead) == {THREAD} and len(ahead) > 5
    for line in (line for batch in whole.rollouts() for line in batch):
        own = line.completion.written
        assert line.stats is not None
        for pair in zip(line.stats.logprobs, line.completion.sampling_logprobs, strict=True):
            assert pair[0] == pytest.approx(pair[1], abs=1e-3)
        assert not any(x for x, w in zip(line.stats.logprobs, own, strict=True) if not w)

    def die(step: int) -> None:
        if step == 3:
            raise Killed

    parts = other("parts")
    parts.on_step = die
    with pytest.raises(Killed):
        parts.run(*every, steps=4)
    parts.on_step = lambda step: None
    parts.run(*every, steps=4)
    left, right = RunFolder(whole.out), RunFolder(parts.out)
    assert numbers(right.read_metrics()) == numbers(left.read_metrics())  # type: ignore[arg-type]


def test_a_checkpoint_has_the_batch_of_the_next_step_and_the_last_has_none(case: Case) -> None:
    case.run(AHEAD, "train.checkpoint_every=1", steps=3)
    folder = RunFolder(case.out)
    for step in (1, 2):
        kept = json.loads((folder.checkpoint_dir(step) / FILE).read_text())
        assert (kept["number"], kept["version"]) == (step + 1, step - 1)
        found = [c["token_ids"] for group in kept["groups"] for c in group["completions"]]
        assert found == [list(x.completion.token_ids) for x in case.rollouts()[step]]
        assert len(kept["old_logprobs"]) == len(found)
    assert not (folder.checkpoint_dir(3) / FILE).exists()


def test_more_steps_than_were_meant_begin_with_a_fresh_batch(case: Case) -> None:
    case.run(AHEAD, steps=2)
    _, lines = case.run(AHEAD, steps=4, resume="must")
    assert [line["rollout/lag"] for line in lines] == [0.0, 1.0]
    prompts = [line.prompt.id for batch in case.rollouts() for line in batch]
    assert len(set(prompts)) == 4 * 4  # none twice, none left out of the order


def stop_after(case: Case, step: int, *overrides: str) -> None:
    """Run until Ctrl-C in a step: the run writes a checkpoint and ends as the signal wants."""
    case.on_step = lambda now: os.kill(os.getpid(), signal.SIGINT) if now == step else None
    with pytest.raises(KeyboardInterrupt):
        case.run(*overrides, steps=5)
    case.on_step = lambda now: None
    assert sampling_threads() == []


def test_an_interrupted_run_keeps_what_was_sampled_and_goes_on_as_the_whole_one(
    other: Callable[[str], Case],
) -> None:
    whole, parts = other("whole"), other("parts")
    _, lines = whole.run(AHEAD, steps=5)
    parts = other("parts")
    stop_after(parts, 2, AHEAD)
    assert (RunFolder(parts.out).checkpoint_dir(2) / FILE).exists()
    _, rest = parts.run(AHEAD, steps=5, resume="must")
    assert numbers(rest) == numbers(lines[2:])


def test_switched_off_on_resume_the_kept_batch_is_trained_on_first(case: Case) -> None:
    stop_after(case, 2, AHEAD)
    _, lines = case.run(steps=5, allow_change=True)
    assert "rollout.overlap was 1 until here, now 0" in case.events
    assert [line["rollout/lag"] for line in lines] == [1.0, 0.0, 0.0]
    assert [thread for _, thread, _ in case.sampler.samples] == ["MainThread"] * 2
    prompts = [line.prompt.id for batch in case.rollouts() for line in batch]
    assert len(set(prompts)) == 5 * 4


def test_a_batch_of_another_group_size_is_left_out_and_its_prompts_are_drawn_again(
    case: Case,
) -> None:
    stop_after(case, 2, AHEAD)
    kept = json.loads((RunFolder(case.out).checkpoint_dir(2) / FILE).read_text())
    other = ("rollout.group_size=2", "optim.micro_batch_size=4")
    _, lines = case.run(AHEAD, *other, steps=4, allow_change=True)
    assert any("4 prefetched groups are dropped" in event for event in case.events)
    assert [line["rollout/lag"] for line in lines] == [0.0, 1.0]
    again = list(dict.fromkeys(line.prompt.id for line in case.rollouts()[2]))
    assert again == [group["prompt"]["id"] for group in kept["groups"]]


@pytest.mark.parametrize("damage", ["{", '{"format": 9, "number": 3}', '{"format": 1}'])
def test_a_broken_batch_in_a_checkpoint_is_an_error(case: Case, damage: str) -> None:
    stop_after(case, 2, AHEAD)
    checkpoint = RunFolder(case.out).checkpoint_dir(2)
    (checkpoint / FILE).write_text(damage)
    write_digests(checkpoint)
    with pytest.raises(CheckpointError, match=r"waiting\.json: cannot be read"):
        case.run(AHEAD, steps=5)


def test_an_error_of_the_sampling_thread_ends_the_run_with_it(case: Case) -> None:
    def fail(number: int) -> None:
        if number == 3:
            raise BackendError("planted")

    case.on_sample = fail
    with pytest.raises(BackendError, match="planted"):
        case.run(AHEAD)
    assert len(case.sampler.samples) == 3
    assert sampling_threads() == []


@pytest.mark.parametrize("drawing", [(), DYNAMIC])
def test_an_error_of_the_sampling_thread_costs_no_step_and_no_prompt(
    case: Case, drawing: tuple[str, ...]
) -> None:
    def fail(number: int) -> None:
        if case.sampler.samples[-1][0] == 1:  # ahead, while step 2 trains
            raise BackendError("planted")

    case.on_sample = fail
    with pytest.raises(BackendError, match="planted"):
        case.run(AHEAD, "train.checkpoint_every=100", *drawing)
    folder = RunFolder(case.out)
    (saved,) = folder.checkpoints()
    assert saved == folder.checkpoint_dir(2)
    case.on_sample = lambda number: None
    _, lines = case.run(AHEAD, "train.checkpoint_every=100", *drawing, resume="must")
    assert [line["step"] for line in lines] == [3, 4]
    if not drawing:  # what was drawn in vain is drawn again
        assert load_state(folder.checkpoint_dir(4)).prompts == 16
    assert [line["step"] for line in folder.read_metrics()] == [1, 2, 3, 4]


def test_an_error_in_training_calls_the_sampling_off_and_leaves_no_thread(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = threading.Event()

    def block(number: int) -> None:
        if number == 3:
            begun.set()
            assert case.sampler.cancelled.wait(LIMIT_S)
            raise BackendError("called off")

    def update(self: Engine, batch: Any, *, step: int) -> StepMetrics:
        if step == 1:
            assert begun.wait(LIMIT_S)
            raise MemoryError("planted")
        return real(self, batch, step=step)

    real = Engine.update
    monkeypatch.setattr(Engine, "update", update)
    case.on_sample = block
    with pytest.raises(MemoryError, match="planted"):
        case.run(AHEAD)
    assert sampling_threads() == []


def test_a_second_interrupt_ends_the_run_while_a_batch_is_sampled(case: Case) -> None:
    def twice(number: int) -> None:
        if number == 3:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            while not case.sampler.cancelled.wait(0.05):
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            raise BackendError("called off")

    case.on_sample = twice
    with pytest.raises(KeyboardInterrupt):
        case.run(AHEAD)
    assert sampling_threads() == []
    assert not RunFolder(case.out).checkpoints()


@pytest.mark.parametrize("ahead", [(), (AHEAD,)], ids=["in turns", "ahead"])
@pytest.mark.parametrize("dynamic", [(), DYNAMIC], ids=["plain", "dynamic"])
def test_an_interrupt_while_servers_are_waited_for_keeps_what_is_trained(
    other: Callable[[str], Case], ahead: tuple[str, ...], dynamic: tuple[str, ...]
) -> None:
    """One signal, and the run goes on later as the whole one; what was being sampled ahead is
    sampled by newer weights then, of the same prompts."""
    whole = other("whole")
    _, lines = whole.run(*ahead, *dynamic, steps=5)
    drawn = [version for version, _, _ in whole.sampler.samples]
    parts = other("parts")

    def wait(number: int) -> None:
        if number != drawn.index(2) + 1:
            return
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        deadline = time.monotonic() + LIMIT_S
        while not parts.sampler.waits_no_more and time.monotonic() < deadline:
            time.sleep(0.01)
        raise CalledOff("waited for no more")

    parts.on_sample = wait
    with pytest.raises(KeyboardInterrupt, match="stopped while waiting for vLLM, after step") as e:
        parts.run(*ahead, *dynamic, steps=5)
    assert sampling_threads() == []
    (checkpoint,) = RunFolder(parts.out).checkpoints()
    assert f"; checkpoint {checkpoint}; run the same command to resume" in str(e.value)
    parts.on_sample = lambda number: None
    _, rest = parts.run(*ahead, *dynamic, steps=5, resume="must")
    assert 0 < len(rest) < 5
    if ahead:
        at = 5 - len(rest)
        first, again = whole.rollouts()[at], parts.rollouts()[at]
        assert dynamic or [x.prompt.id for x in first] == [x.prompt.id for x in again]
        assert (rest[0]["rollout/lag"], lines[at]["rollout/lag"]) == (0.0, 1.0)
    else:
        assert numbers(rest) == numbers(lines[-len(rest) :])


def test_evaluations_are_of_the_newest_weights_and_wait_for_no_batch(case: Case) -> None:
    case.run(AHEAD, "eval.every=1", "eval.k=1", "eval.bench=sums-easy", steps=2)
    order = [
        ("eval" if thread == "MainThread" else "batch", version)
        for version, thread, _ in case.sampler.samples
    ]
    merged = [one for one, before in zip(order, [None, *order], strict=False) if one != before]
    assert merged == [("eval", 0), ("batch", 0), ("eval", 1), ("eval", 2)]
    assert order.count(("batch", 0)) == 2


def test_a_batch_is_no_older_for_a_step_that_moved_no_weights(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was sampled by the very weights that are trained needs no measuring: its ratio is 1."""
    real, calls = learn_module.on_grid, []

    def poisoned(*args: Any, **kwargs: Any) -> torch.Tensor:
        calls.append(1)
        return real(*args, **kwargs) * (math.nan if len(calls) == 1 else 1.0)

    monkeypatch.setattr(learn_module, "on_grid", poisoned)
    _, lines = case.run(AHEAD, "train.checkpoint_every=1", steps=3)
    assert [line["optim/updates"] for line in lines] == [0.0, 1.0, 1.0]
    assert [line["rollout/lag"] for line in lines] == [0.0, 0.0, 1.0]
    assert lines[1]["loss/ratio_max"] == 1.0 and "off_policy/stale_k3" not in lines[1]
    assert lines[2]["loss/ratio_max"] > 1.0


def test_dynamic_sampling_keeps_groups_over_that_are_two_steps_old(case: Case) -> None:
    _, lines = case.run(AHEAD, *DYNAMIC, steps=6)
    pending = [line["dynamic/groups_carried_in"] for line in lines]
    assert any(pending)
    # No group is lost between the draw that kept it and the one that builds on it.
    assert pending == [0.0, *(line["dynamic/groups_kept_over"] for line in lines[:-1])]
    for number, (line, batch) in enumerate(zip(lines, case.rollouts(), strict=True), start=1):
        old = int(line["dynamic/groups_carried_in"]) * 4
        assert versions(batch[:old]) <= {max(number - 3, 0)}
        assert versions(batch[old:]) <= {max(number - 2, 0)}
        assert line["sampler/logprob_gap_max"] < 1e-4


def test_a_draw_that_is_over_at_once_changes_nothing(
    other: Callable[[str], Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pending groups are measured under its own weights, not those of the batch before it."""
    whole = other("whole")
    whole.run(AHEAD, *DYNAMIC, steps=6)
    quick = other("quick")
    real = Pipeline._launch

    def launch(self: Pipeline, number: int) -> None:
        real(self, number)
        assert self._draw is not None and self._draw.wait(LIMIT_S)

    monkeypatch.setattr(Pipeline, "_launch", launch)
    quick.run(AHEAD, *DYNAMIC, steps=6)
    left, right = RunFolder(whole.out), RunFolder(quick.out)
    assert numbers(right.read_metrics()) == numbers(left.read_metrics())  # type: ignore[arg-type]


def test_the_trainer_waits_no_longer_than_sampling_takes(case: Case) -> None:
    _, lines = case.run(AHEAD, steps=3)
    assert all(line["time/wait_s"] >= 0 for line in lines)
    assert lines[-1]["time/wait_s"] == 0.0  # nothing was to be waited for
    assert lines[-1]["time/sample_s"] == 0.0
    assert all(line["time/sample_s"] > 0 for line in lines[:-1])
    assert lines[0]["time/wait_s"] > 0
