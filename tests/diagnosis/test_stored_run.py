"""Every diagnosis, found in a real run with its fault planted; and none in runs that are well."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

import dgpo_cli.engine.learn as learn_module
from dgpo_cli.config.checks import check_trainable
from dgpo_cli.config.load import resolve
from dgpo_cli.core.errors import NonFiniteError
from dgpo_cli.core.events import Diagnosed, Event, Note, StepDone
from dgpo_cli.core.types import Completion, Diagnosis, StepMetrics
from dgpo_cli.diagnosis.diagnose import KEYS
from dgpo_cli.diagnosis.history import FIRST, LAST
from dgpo_cli.diagnosis.stored_run import (
    CLEAR_STEPS,
    Watch,
    appeared_text,
    diagnose_run,
    gone_text,
    unread_example,
)
from dgpo_cli.engine import setup
from dgpo_cli.rewards.protocol import Check
from dgpo_cli.rewards.settings import IntegerReward
from dgpo_cli.runs.run_folder import RunFolder
from dgpo_cli.train import train
from dgpo_cli.ui import console
from tests.recorder import Recorder
from tests.rewards import functions
from tests.train.test_train import SMALL

Plant = Callable[[pytest.MonkeyPatch], None]


def _nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings are the fault."""


def _slow_checker(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"where": "boxed", "minimum": None, "maximum": None}
    slow = Check("tests.train.slow_check:sometimes", options)
    monkeypatch.setattr(IntegerReward, "check", lambda self: slow)


def _lottery(monkeypatch: pytest.MonkeyPatch) -> None:
    check = Check("tests.train.lottery:every_second", {})
    monkeypatch.setattr(IntegerReward, "check", lambda self: check)


class _Unsure:
    """A sampler that says of every token that it was less likely than it was."""

    def __init__(self, sampler: Any) -> None:
        self._sampler = sampler

    def sample(self, *args: Any, **kwargs: Any) -> list[tuple[Completion, ...]]:
        return [
            tuple(_less_sure(completion) for completion in group)
            for group in self._sampler.sample(*args, **kwargs)
        ]

    def sync(self, *, policy_version: int) -> None:
        self._sampler.sync(policy_version=policy_version)


def _less_sure(completion: Completion) -> Completion:
    lower = tuple(x - 0.01 for x in completion.sampling_logprobs)
    return replace(completion, sampling_logprobs=lower)


def _unsure_sampler(monkeypatch: pytest.MonkeyPatch) -> None:
    real = setup.make_sampler
    monkeypatch.setattr(setup, "make_sampler", lambda *a, **k: _Unsure(real(*a, **k)))


def _nan(monkeypatch: pytest.MonkeyPatch) -> None:
    real = learn_module.on_grid

    def poisoned(*args: Any, **kwargs: Any) -> torch.Tensor:
        return real(*args, **kwargs) * math.nan

    monkeypatch.setattr(learn_module, "on_grid", poisoned)


@dataclass(frozen=True)
class Fault:
    steps: int
    overrides: tuple[str, ...] = ()
    plant: Plant = _nothing
    advice: str = ""  # how it begins


def _terms(other: str) -> str:
    return f'reward.terms=[{{kind="integer"}}, {other}]'


LORA = ("adapter.kind=lora", "adapter.rank=4")
LONG = "rollout.max_completion_tokens=128"
FAULTS = {
    "nonfinite": Fault(6, (), _nan, "--set optim.lr=2e-05"),
    "sampler_disagrees": Fault(6, (), _unsure_sampler, "--set off_policy.correction=token"),
    "ratio_exploding": Fault(
        7, ("optim.updates_per_step=4", "optim.micro_batch_size=4", "optim.lr=3e-3"),
        advice="--set optim.lr=0.0003",
    ),
    "reward_fails": Fault(
        6, ("reward.kind=python", f"reward.path={functions.PATH}:flaky"),
        advice="see those completions in the rollouts (outcome error)",
    ),
    "length_outweighs": Fault(
        6, (_terms('{kind="length", shape="cosine", weight=50}'),),
        advice="--set reward.terms.length.weight=5:",
    ),
    "term_constant": Fault(
        6, (_terms('{kind="format", pattern="no such words"}'),),
        advice="--set reward.terms.format=:",
    ),
    "term_idle": Fault(
        6, (_terms(f'{{kind="python", path="{functions.PATH}:echoes", weight=0.1}}'),),
        advice="--set reward.terms.echoes.weight=1:",
    ),
    "verifier_timeout": Fault(
        6, ("reward.timeout_s=0.5", "reward.workers=4"), _slow_checker, "--set reward.timeout_s=2:"
    ),
    "foreign_template": Fault(
        3, ("prompts.kind=file", f"prompts.path={Path(__file__).parent / 'words.jsonl'}"),
        advice="--set 'prompts.template={problem} Put the answer into",
    ),
    # A reward that is all length: the policy is certain of a short text, and of no answer.
    "entropy_collapsed": Fault(
        44, ("reward.overlong.buffer_tokens=47", "reward.overlong.penalty=20", "optim.lr=1e-3"),
        advice="--set reward.overlong.buffer_tokens=0",
    ),
    "reward_fell": Fault(7, ("optim.lr=3e-3",), advice="--set optim.lr=0.0003"),
    "truncated": Fault(
        6, ("rollout.max_completion_tokens=4",), advice="--set rollout.max_completion_tokens=8:"
    ),
    "no_answer": Fault(6, ("reward.extract=answer-line",), advice="--set reward.extract=boxed:"),
    "too_easy": Fault(
        6, ("prompts.operations=[1]", "rollout.temperature=0.1"),
        advice="--set 'prompts.operations=[2]'",
    ),
    "too_hard": Fault(6, ("prompts.operations=[6]", LONG), advice="--set 'prompts.operations=[5]'"),
    "no_signal": Fault(
        6, ("prompts.operations=[2, 6]", "rollout.temperature=0.02", LONG),
        advice="--set rollout.temperature=1.0",
    ),
    # This adapter wants 2e-3, and learns with 2e-4; 2e-5 suits full training.
    "update_too_small": Fault(22, (*LORA, "optim.lr=2e-5"), advice="--set optim.lr=0.0001"),
    "grad_clipped": Fault(11, ("optim.max_grad_norm=1e-3",), advice="--set optim.max_grad_norm="),
    # Nobody reads the texts: they may be short.
    "reward_flat": Fault(
        62, ("rollout.max_completion_tokens=16",), _lottery,
        advice="check with dgpo inspect --pair",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Ran:
    """A run as it was told: its folder, its events, and what was wrong after every step."""

    folder: RunFolder
    events: list[str] = field(default_factory=list)
    told: list[tuple[Diagnosis, ...]] = field(default_factory=list)
    metrics: list[StepMetrics] = field(default_factory=list)

    def on(self, event: Event) -> None:
        match event:
            case Note(text):
                self.events.append(text)
            case StepDone(_, metrics):
                self.metrics.append(metrics)
            case Diagnosed(_, diagnoses):
                self.told.append(diagnoses)


def run(out: Path, overrides: Sequence[str], *, steps: int) -> Ran:
    ran = Ran(RunFolder(out))
    small = ("optim.micro_batch_size=16", "rollout.prompts_per_step=4", "rollout.group_size=4")
    with suppress(NonFiniteError):  # what such a run leaves behind is diagnosed all the same
        train.run(
            resolve(preset="tiny", overrides=[*SMALL, *small, f"train.steps={steps}", *overrides]),
            out=out,
            resume="auto",
            observer=ran,
        )
    return ran


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Ran]:
    """Run with the fault of a key, once for all tests that ask for it."""
    runs: dict[str, Ran] = {}

    def give(key: str) -> Ran:
        if key not in runs:
            fault = FAULTS[key]
            with pytest.MonkeyPatch.context() as monkeypatch:
                fault.plant(monkeypatch)
                runs[key] = run(tmp_path_factory.mktemp(key), fault.overrides, steps=fault.steps)
        return runs[key]

    return give


def settings_in(advice: str) -> list[str]:
    """What an advice tells to --set, as the shell would hand it over."""
    return [
        shlex.split(f"--set {part}")[1].rstrip(":;,") for part in advice.split("--set ")[1:] if part
    ]


def test_there_is_a_fault_for_every_diagnosis() -> None:
    assert FAULTS.keys() == set(KEYS)


@pytest.mark.parametrize("key", FAULTS)
def test_a_planted_fault_is_found_and_no_other(planted: Callable[[str], Ran], key: str) -> None:
    ran = planted(key)
    (found,) = diagnose_run(ran.folder)
    assert found.key == key
    assert found.advice.startswith(FAULTS[key].advice)
    assert [each.key for each in ran.told[-1]] == [key]
    if key != "entropy_collapsed":  # there the right answers go first
        assert {each.key for told in ran.told for each in told} == {key}
        assert ran.told[0] == ()
        (event,) = [event for event in ran.events if found.headline in event]
        assert found.advice.partition("=")[0] in event
    if key == "reward_fails":  # mended in the user's function
        return
    # What is advised can be set on this very run.
    changed = resolve(config=ran.folder.settings_file, overrides=settings_in(found.advice))
    check_trainable(changed.settings)
    assert changed.settings != resolve(config=ran.folder.settings_file).settings


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("optim.updates_per_step=4", "optim.micro_batch_size=4"),
        ("adapter.kind=lora", "adapter.rank=4", "optim.lr=2e-3"),
        ("rollout.dynamic_sampling=true",),
    ],
    ids=["full", "updates", "lora", "dynamic"],
)
def test_a_short_run_that_is_well_raises_none(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    ran = run(tmp_path, overrides, steps=8)
    assert ran.told == [()] * 8
    assert diagnose_run(ran.folder) == ()
    splits = [{k: v for k, v in m.items() if k.startswith("split/")} for m in ran.metrics]
    assert all(math.isclose(math.fsum(split.values()), 1.0) for split in splits)
    assert any(split["split/signal"] > 0 for split in splits)


@pytest.mark.slow
def test_the_preset_as_it_is_raises_none(tmp_path: Path) -> None:
    """Its entropy falls to a fifth while it learns, which is as it should be."""
    recorder = Recorder()
    train.run(
        resolve(preset="tiny", overrides=["train.steps=30", "eval.every=0"]),
        out=tmp_path,
        resume="auto",
        observer=recorder,
    )
    assert [told.diagnoses for told in recorder.of(Diagnosed)] == [()] * 30
    first, *_, last = RunFolder(tmp_path).read_metrics()
    assert (last["policy/entropy"] or 1) < 0.3 * (first["policy/entropy"] or 0)


@pytest.mark.slow
@pytest.mark.parametrize(("lr", "found"), [("2e-4", set()), ("2e-5", {"update_too_small"})])
def test_a_rate_is_too_small_where_a_whole_run_learns_nothing_with_it(
    tmp_path: Path, lr: str, found: set[str]
) -> None:
    """A tenth of the best rate learns in 100 steps, a hundredth does not: that is told early."""
    more = ("rollout.prompts_per_step=8", "rollout.group_size=8", "optim.micro_batch_size=64")
    ran = run(tmp_path, (*LORA, f"optim.lr={lr}", *more), steps=100)
    assert {each.key for told in ran.told for each in told} == found
    right = [metrics["outcome/correct"] for metrics in ran.metrics]
    assert (sum(right[-20:]) - sum(right[:20]) > 20 * 0.1) != bool(found)
    assert bool(ran.told[20]) == bool(found)


def test_the_end_of_an_unread_completion_is_shown_and_a_form_that_reads_it(
    planted: Callable[[str], Ran],
) -> None:
    ran = planted("no_answer")
    example = unread_example(ran.folder)
    assert example is not None
    assert example.ending.endswith("}") and r"\boxed{" in example.ending
    assert example.readable_as == "boxed"
    assert example.ending in diagnose_run(ran.folder)[0].evidence


def test_what_a_model_wrote_is_not_obeyed_where_an_event_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder(tmp_path)
    folder.rollouts_dir.mkdir()
    line = {"outcome": "no_answer", "completion": "x" * 500 + "so \x1b]0;owned\x07[bold]it\n7"}
    folder.rollout_file(1).write_text(json.dumps(line) + "\n")
    example = unread_example(folder)
    assert example is not None and example.ending.endswith("so \x1b]0;owned\x07[bold]it\n7")
    assert len(example.ending) == 80
    console.note(appeared_text(Diagnosis("no_answer", 1, "head", example.ending, "advice")))
    told = capsys.readouterr().err
    assert "\x1b" not in told and "\x07" not in told
    assert "[bold]it" in told.replace("\n", "")


def test_a_resumed_run_goes_on_with_its_window(tmp_path: Path) -> None:
    """Three steps and two are five, the first window that is whole."""
    fault = ("rollout.max_completion_tokens=4",)
    first = run(tmp_path, fault, steps=3)
    assert first.told == [()] * 3
    second = run(tmp_path, fault, steps=6)
    assert [[each.key for each in told] for told in second.told] == [
        [],
        ["truncated"],
        ["truncated"],
    ]
    assert sum("truncated before" in event for event in second.events) == 1


def watch(tmp_path: Path) -> Watch:
    folder = RunFolder(tmp_path)
    return Watch(resolve(preset="tiny").settings, folder=folder)


WELL = {"reward/mean": 0.5, "outcome/truncated": 0.0, "outcome/correct": 0.5}
CUT = {"reward/mean": 0.0, "outcome/truncated": 1.0, "outcome/correct": 0.5}


def test_a_diagnosis_is_told_when_it_appears_and_when_it_has_gone(tmp_path: Path) -> None:
    watched = watch(tmp_path)
    changes = {n: watched.add(n, CUT) for n in range(1, 8)}
    changes |= {n: watched.add(n, WELL) for n in range(8, 30)}
    (told,) = [(n, c.appeared[0]) for n, c in changes.items() if c.appeared]
    assert (told[0], told[1].key) == (5, "truncated")
    ((when, change),) = [(n, c) for n, c in changes.items() if c.gone]
    last_seen = change.gone[0].step
    assert when == last_seen + CLEAR_STEPS and 7 <= last_seen <= 12
    assert change.notes == (gone_text(change.gone[0]),)
    assert watched.current == ()


def test_a_diagnosis_on_the_edge_is_told_once(tmp_path: Path) -> None:
    watched = watch(tmp_path)
    notes = [
        note
        for n in range(1, 60)
        for note in watched.add(n, CUT if n % 4 else {**WELL, "outcome/truncated": 0.3}).notes
    ]
    assert len(notes) == 1
    assert [each.key for each in watched.current] == ["truncated"]


@pytest.mark.parametrize("count", [0, 1, 4, 5, 6, FIRST, FIRST + LAST, FIRST + LAST + 1, 3000])
@pytest.mark.parametrize("cut", [False, True])
def test_the_ends_of_the_metrics_are_its_first_and_last_lines(
    tmp_path: Path, count: int, cut: bool
) -> None:
    folder = RunFolder(tmp_path)
    for step in range(1, count + 1):
        folder.write_metrics(step, {"reward/mean": 0.5, "padding": 0.123456789 * step})
    if cut:
        with folder.metrics_file.open("a") as file:
            file.write('{"step": 99')
    whole = folder.read_metrics() if count or cut else []
    ends = folder.metric_ends(first=FIRST, last=LAST)
    room = LAST - 1 if cut and count >= FIRST else LAST
    expected = whole if count <= FIRST + room else whole[:FIRST] + whole[-room:]
    assert ends == expected


def test_a_run_of_a_hundred_thousand_steps_is_read_from_its_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The middle is not looked at: it could not even be parsed."""
    folder = RunFolder(tmp_path)
    whole = resolve(preset="tiny", overrides=["train.steps=200000"])
    from dgpo_cli.config.dump import dump_toml

    folder.settings_file.write_text(dump_toml(whole))
    for step in range(1, FIRST + 1):
        folder.write_metrics(step, {**CUT, "outcome/truncated": 1.0})
    with folder.metrics_file.open("a") as file:
        file.write("no JSON\n" * 100_000)
    for step in range(100_000, 100_000 + LAST):
        folder.write_metrics(step, {**CUT})
    (found,) = diagnose_run(folder)
    assert (found.key, found.step) == ("truncated", 100_000 + LAST - 1)


def test_what_its_cause_covers_is_not_told_to_have_gone(tmp_path: Path) -> None:
    watched = watch(tmp_path)
    well = {**WELL, "outcome/timeout": 0.0, "outcome/crash": 0.0}
    fell = {**well, "outcome/correct": 0.05}
    late = {**fell, "outcome/timeout": 0.5}
    notes = [watched.add(n, well).notes for n in range(1, 6)]
    notes += [watched.add(n, fell).notes for n in range(6, 20)]
    assert [each.key for each in watched.current] == ["reward_fell"]
    notes += [watched.add(n, late).notes for n in range(20, 40)]
    assert [each.key for each in watched.current] == ["verifier_timeout"]
    assert len([note for told in notes for note in told]) == 2
    notes = [watched.add(n, fell).notes for n in range(40, 60)]
    assert [each.key for each in watched.current] == ["reward_fell"]
    told, gone = [note for each in notes for note in each]
    assert "worse than at the start" in told and gone.startswith("resolved since")
