"""Laws of the training loop, on short runs of the embedded model."""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import dgpo_cli.engine.learn as learn_module
from dgpo_cli.config.load import resolve
from dgpo_cli.core.errors import CheckpointError, ConfigError, NonFiniteError
from dgpo_cli.core.events import Observers
from dgpo_cli.core.types import StepMetrics
from dgpo_cli.runs.run_folder import RunFolder
from dgpo_cli.train import train
from tests.recorder import Notes, Recorder

SMALL = (
    "rollout.prompts_per_step=4",
    "rollout.group_size=4",
    "rollout.max_completion_tokens=48",
    "optim.micro_batch_size=8",
    "reward.workers=1",
    "train.rollouts_every=2",
    "eval.every=0",
)


def run_tiny(
    out: Path,
    *overrides: str,
    steps: int = 3,
    resume: train.Resume = "auto",
    allow_change: bool = False,
    events: list[str] | None = None,
) -> tuple[train.TrainResult, list[StepMetrics]]:
    recorder = Recorder()
    result = train.run(
        resolve(preset="tiny", overrides=[*SMALL, f"train.steps={steps}", *overrides]),
        out=out,
        resume=resume,
        allow_change=allow_change,
        observer=Observers([recorder, Notes([] if events is None else events)]),
    )
    return result, recorder.lines


def numbers(lines: Sequence[StepMetrics]) -> list[StepMetrics]:
    """The metrics without the times, which no two runs share."""
    return [
        {k: v for k, v in line.items() if not k.startswith(("time/", "throughput/"))}
        for line in lines
    ]


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return dict(AutoModelForCausalLM.from_pretrained(str(checkpoint)).state_dict())


def test_same_seed_gives_the_same_run_and_another_seed_another(tmp_path: Path) -> None:
    first, first_lines = run_tiny(tmp_path / "a")
    second, second_lines = run_tiny(tmp_path / "b")
    assert numbers(first_lines) == numbers(second_lines)
    one, two = weights(first.checkpoint), weights(second.checkpoint)
    assert all(torch.equal(one[name], two[name]) for name in one)
    _, other = run_tiny(tmp_path / "c", "seed=1", steps=1)
    assert numbers(other)[0] != numbers(first_lines)[0]


def test_a_run_in_two_parts_is_the_run_in_one(tmp_path: Path) -> None:
    whole, whole_lines = run_tiny(tmp_path / "whole", steps=4)
    run_tiny(tmp_path / "parts", steps=2)
    parts, part_lines = run_tiny(tmp_path / "parts", steps=4, resume="must")
    assert [line["step"] for line in part_lines] == [3, 4]
    assert numbers(part_lines) == numbers(whole_lines[2:])
    one, two = weights(whole.checkpoint), weights(parts.checkpoint)
    assert all(torch.equal(one[name], two[name]) for name in one)
    on_disk = RunFolder(tmp_path / "parts").read_metrics()
    assert [line["step"] for line in on_disk] == [1, 2, 3, 4]


def test_a_micro_batch_that_is_larger_than_the_batch_is_the_batch(tmp_path: Path) -> None:
    runs = [
        run_tiny(
            tmp_path / str(size),
            "optim.updates_per_step=2",
            f"optim.micro_batch_size={size}",
            steps=2,
        )
        for size in (16, 1000, 0)
    ]
    one, *others = runs
    for other in others:
        assert numbers(one[1]) == numbers(other[1])
        first, last = weights(one[0].checkpoint), weights(other[0].checkpoint)
        assert all(torch.equal(first[name], last[name]) for name in first)


def test_run_leaves_the_interface_behind(tmp_path: Path) -> None:
    result, lines = run_tiny(tmp_path / "run")
    names = {
        "reward/mean",
        "loss/value",
        "credit/effective_fraction",
        "credit/weight_max",
        "policy/entropy",
        "policy/hellinger_sq_mean",
        "optim/grad_norm",
        "time/step_s",
        "loss/clip_frac",
        "loss/ratio_max",
        "groups/no_signal",
        "outcome/correct",
        "completion/length_mean",
        "time/sample_s",
        "time/update_s",
        "throughput/tokens_per_s",
    }
    stored = [json.loads(line) for line in (result.out / "metrics.jsonl").read_text().splitlines()]
    assert all(line.keys() >= names for line in stored)
    assert stored == json.loads(json.dumps(lines))
    folder = RunFolder(result.out)
    assert [path.name for path in folder.rollouts()] == [
        "step-000001.jsonl",
        "step-000002.jsonl",
        "step-000003.jsonl",
    ]
    assert (result.steps, result.checkpoint.name) == (3, "step-000003")
    assert resolve(config=folder.settings_file).settings.train.steps == 3


def test_the_cpu_time_of_a_step_is_that_of_the_process_not_of_the_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = itertools.accumulate(itertools.cycle([1.0, 0.25]))  # 0.25 in a step, 1 between two
    monkeypatch.setattr(time, "process_time", lambda: next(seen))
    _, lines = run_tiny(tmp_path / "run")
    assert [line["time/cpu_s"] for line in lines] == [0.25, 0.25, 0.25]


def test_first_step_has_weights_of_one_and_later_steps_have_not(tmp_path: Path) -> None:
    _, lines = run_tiny(tmp_path / "run", "optim.lr=1e-3")
    assert lines[0]["policy/hellinger_sq_max"] == 0.0
    assert lines[0]["credit/weight_max"] == 1.0
    assert lines[0]["credit/effective_fraction"] == 1.0
    assert lines[2]["policy/hellinger_sq_mean"] > 0.0
    assert lines[2]["credit/weight_max"] > 1.0


def test_sampler_and_trainer_agree_on_every_logprob(tmp_path: Path) -> None:
    _, lines = run_tiny(tmp_path / "run", "optim.lr=1e-3", "rollout.temperature=1.3")
    assert all(line["sampler/logprob_gap_max"] < 1e-4 for line in lines)


def test_resume_never_refuses_a_run_and_must_refuses_none(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"--resume must: no checkpoint in .*; leave --resume out"
    ):
        run_tiny(tmp_path / "run", resume="must")
    assert not (tmp_path / "run").exists()
    run_tiny(tmp_path / "run", steps=1)
    with pytest.raises(ConfigError, match=r"--resume never: .* already holds a run"):
        run_tiny(tmp_path / "run", resume="never")


def test_a_run_of_an_earlier_version_lacks_later_settings_and_goes_on(tmp_path: Path) -> None:
    first, _ = run_tiny(tmp_path / "run", "adapter.kind=lora", "adapter.rank=2", steps=1)
    path = first.out / "settings.toml"
    lines = path.read_text().splitlines()
    later = ("dora = ", "rslora = ", 'kind = "adamw"')
    kept = [line for line in lines if not line.startswith(later)]
    assert len(lines) - len(kept) == 3
    path.write_text("\n".join(kept) + "\n")
    _, again = run_tiny(tmp_path / "run", "adapter.kind=lora", "adapter.rank=2", steps=2)
    assert [line["step"] for line in again] == [2]


def test_a_run_from_before_model_compute_goes_on_in_the_dtype_of_its_weights(
    tmp_path: Path,
) -> None:
    first, _ = run_tiny(tmp_path / "run", steps=1)
    path = first.out / "settings.toml"
    lines = path.read_text().splitlines()
    kept = [line for line in lines if not line.startswith("compute = ")]
    assert len(lines) - len(kept) == 1
    path.write_text("\n".join(kept) + "\n")
    for steps in (2, 3):  # the second time its settings name it
        _, again = run_tiny(tmp_path / "run", steps=steps)
        assert [line["step"] for line in again] == [steps]
        assert resolve(config=path).settings.model.compute == "stored"
    with pytest.raises(ConfigError, match=r"model\.compute: stored in .*, now bfloat16"):
        run_tiny(tmp_path / "run", "model.compute=bfloat16", steps=4)


def test_fewer_steps_than_done_is_refused(tmp_path: Path) -> None:
    run_tiny(tmp_path / "run", steps=2)
    with pytest.raises(ConfigError, match=r"is at step 2, beyond train\.steps=1"):
        run_tiny(tmp_path / "run", steps=1)


def test_broken_checkpoint_is_an_error_and_not_a_new_run(tmp_path: Path) -> None:
    result, _ = run_tiny(tmp_path / "run", steps=1)
    (result.checkpoint / "trainer.pt").write_bytes(b"garbage")
    with pytest.raises(CheckpointError, match=r"trainer\.pt: has changed"):
        run_tiny(tmp_path / "run", steps=2)


def _poison(monkeypatch: pytest.MonkeyPatch, *, calls: set[int]) -> None:
    """Make the log-probabilities of the micro-batches `calls` (from 0) NaN."""
    real = learn_module.on_grid
    seen = [-1]

    def poisoned(*args: Any, **kwargs: Any) -> torch.Tensor:
        seen[0] += 1
        found = real(*args, **kwargs)
        return found * math.nan if seen[0] in calls else found

    monkeypatch.setattr(learn_module, "on_grid", poisoned)


def test_three_bad_steps_in_a_row_end_the_run_and_touch_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, _ = run_tiny(tmp_path / "start", "train.checkpoint_every=1", steps=1)
    folder = RunFolder(start.out)
    _poison(monkeypatch, calls=set(range(1000)))
    with pytest.raises(NonFiniteError, match="3 steps in a row, the last is step 4"):
        run_tiny(
            tmp_path / "start", "train.checkpoint_every=1", "train.keep_checkpoints=9", steps=9
        )
    bad = sorted(path.name for path in folder.bad_batches_dir.iterdir())
    assert bad == ["step-000002.jsonl", "step-000003.jsonl", "step-000004.jsonl"]
    assert len((folder.bad_batches_dir / bad[0]).read_text().splitlines()) == 16
    stored = folder.read_metrics()
    assert [line["optim/skipped_nonfinite"] for line in stored] == [0, 1, 1, 1]
    assert stored[-1]["loss/value"] is None
    before, after = weights(folder.checkpoint_dir(1)), weights(folder.checkpoint_dir(3))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_one_bad_step_is_counted_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _poison(monkeypatch, calls={0})
    events: list[str] = []
    _, lines = run_tiny(tmp_path / "run", steps=3, events=events)
    assert [line["optim/skipped_nonfinite"] for line in lines] == [1, 0, 0]
    assert any("step 1: loss or gradient is not finite" in event for event in events)
    assert lines[1]["policy/hellinger_sq_max"] == 0.0  # the weights were not touched by step 1


@pytest.mark.parametrize("rule", ["uniform", "entropy", "surprisal", "dgpo"])
def test_every_rule_trains_and_uniform_holds_no_reference(tmp_path: Path, rule: str) -> None:
    events: list[str] = []
    _, lines = run_tiny(tmp_path / "run", f"credit.rule={rule}", steps=2, events=events)
    held = next(event for event in events if "parameters held" in event)
    twice = held.split(": ")[1].split(" ")[0] != held.split(" trained")[0].split(" ")[-1]
    assert twice == (rule == "dgpo")
    assert ("policy/hellinger_sq_mean" in lines[0]) == (rule == "dgpo")
    assert (lines[1]["credit/weight_max"] == 1.0) == (rule == "uniform")


TARGET = ("optim.lr=1e-3", "credit.target_ess=0.9", "credit.noise_every=3")


def test_a_target_is_kept_from_the_second_step_on(tmp_path: Path) -> None:
    _, lines = run_tiny(tmp_path / "run", *TARGET)
    assert lines[0]["credit/effective_fraction"] == 1.0
    for line in lines[1:]:
        free = 1 - sum(line[f"credit/held_by_{name}"] for name in ("noise", "cap", "ties"))
        assert free > 0.5
        assert 0.9 - 1e-3 <= line["credit/effective_fraction"] < 0.97
        assert line["credit/weight_max"] <= 10 * (1 + 1e-4)
    assert ["noise/floor" in line for line in lines] == [True, False, True]


@pytest.mark.parametrize("over", ["completion", "batch"])
def test_a_run_with_a_target_in_two_parts_is_the_run_in_one(tmp_path: Path, over: str) -> None:
    """The noise floor of the first part is the second's, until it is measured again."""
    target = (*TARGET, f"credit.target_ess_over={over}")
    whole, whole_lines = run_tiny(tmp_path / "whole", *target, steps=4)
    first, _ = run_tiny(tmp_path / "parts", *target, steps=1)
    state = json.loads((first.checkpoint / "state.json").read_text())
    assert state["noise_floor"] == whole_lines[0]["noise/floor"] > 0
    parts, part_lines = run_tiny(tmp_path / "parts", *target, steps=4, resume="must")
    assert repr(numbers(part_lines)) == repr(numbers(whole_lines[1:]))
    one, two = weights(whole.checkpoint), weights(parts.checkpoint)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_even_credit_is_told_once(tmp_path: Path) -> None:
    events: list[str] = []
    run_tiny(tmp_path / "even", "optim.lr=1e-3", steps=4, events=events)
    told = [event for event in events if "credit is GRPO's" in event]
    assert len(told) == 1
    assert told[0].startswith("step 2: ") and told[0].endswith("a smaller credit.tau moves it")
    events.clear()
    run_tiny(tmp_path / "uneven", *TARGET, events=events)
    assert not [event for event in events if "GRPO" in event]


def test_a_refreshed_run_tells_and_stores_the_credit_that_was_trained_on(tmp_path: Path) -> None:
    asked = ("credit.refresh=update", "optim.updates_per_step=2", "credit.tau=1e-3")
    run_tiny(tmp_path / "run", "optim.lr=1e-3", *asked, "train.rollouts_every=1", steps=2)
    folder = RunFolder(tmp_path / "run")
    for step, told in enumerate(map(json.loads, folder.metrics_file.open()), start=1):
        lines = [json.loads(line) for line in folder.rollout_file(step).open()]
        trained = [line for line in lines if line["advantage"]]
        weights = [weight for line in trained for weight in line["weights"]]
        assert told["credit/weight_max"] == pytest.approx(max(weights), rel=1e-6)
        fractions = [
            sum(own) ** 2 / (len(own) * sum(w * w for w in own))
            for own in (line["weights"] for line in trained)
        ]
        mean = sum(fractions) / len(fractions)
        assert told["credit/effective_fraction"] == pytest.approx(mean, rel=1e-5)
        # Even in the first step: the second update begins with weights that have moved.
        second = [line for line in trained if lines.index(line) >= len(lines) // 2]
        assert any(max(line["weights"]) > 1.01 for line in second)
