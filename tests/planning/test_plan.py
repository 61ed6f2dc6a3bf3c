"""A plan of a run: what it says of the presets, what makes them fit, and what it writes down."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dgpo_cli.config.checks import check_trainable
from dgpo_cli.config.load import Resolved, resolve
from dgpo_cli.core.errors import ConfigError
from dgpo_cli.engine.values.estimate import EVERY
from dgpo_cli.planning import devices, plan
from dgpo_cli.planning.budget import Device, Plan
from dgpo_cli.planning.cost import PLACES
from dgpo_cli.planning.memory import GIB
from tests.cli.helpers import in_process
from tests.policy.configs import SMALL


def changer(preset: str, overrides: Sequence[str] = ()) -> plan.Changed:
    def changed(changes: dict[str, object]) -> Resolved:
        flags: dict[str, tuple[str, Any]] = {k: ("dgpo plan", v) for k, v in changes.items()}
        return resolve(preset=preset, overrides=overrides, flags=flags)

    return changed


def gpu(gib: float) -> Device:
    return replace(devices.GPUS["h100"], memory=int(gib * GIB))


def planned(preset: str, device: Device, *overrides: str) -> Plan:
    return plan.run(changer(preset, overrides), device=device, typical=plan.Typical())


def keys(found: Plan) -> list[str]:
    return [next(iter(change.settings)) for change in found.changes]


HF = ("rollout.backend.kind=hf", "rollout.backend.batch_size=64")


def test_a_run_that_fits_is_left_alone() -> None:
    found = planned("qwen7b-lora", devices.GPUS["h200"])
    assert found.fits
    assert found.changes == ()


def test_changes_make_it_fit_and_say_what_they_save() -> None:
    found = planned("qwen7b-lora", gpu(48), *HF)
    assert not found.fits
    assert found.fits_after
    assert found.after is not None
    assert found.after.peak <= found.device.room
    assert found.memory.peak - sum(c.saves for c in found.changes) == found.after.peak


def test_the_least_harm_comes_first_and_only_as_much_as_is_needed() -> None:
    few = (HF[0], "rollout.backend.batch_size=4", "model.gradient_checkpointing=full")
    for rows, first in ((0, "optim.micro_batch_tokens"), (3, "optim.micro_batch_size")):
        limited = (*few, f"optim.micro_batch_size={rows}")
        need = planned("qwen7b-lora", gpu(500), *limited).memory.peak / GIB
        assert keys(planned("qwen7b-lora", gpu(need - 1), *limited)) == [first]
    order = (
        "optim.micro_batch",
        "model.gradient_checkpointing",
        "optim.kind",
        "rollout.backend",
        "adapter.kind",
        "model.dtype",
        "model.quantization",
        "rollout.max_completion_tokens",
    )
    for gib in (8, 12, 16, 20, 24, 32, 40):
        found = keys(
            planned("qwen7b-full", gpu(gib), *HF, "parallel.kind=single", "parallel.gpus=1")
        )
        places = [next(i for i, start in enumerate(order) if k.startswith(start)) for k in found]
        assert places == sorted(places)


def test_activations_are_computed_again_no_further_than_is_needed() -> None:
    one = (*HF[:1], "rollout.backend.batch_size=1", "optim.micro_batch_tokens=1")
    kinds = ("none", "selective", "full", "offload")

    def at(kind: str, device: Device) -> Plan:
        return planned("qwen7b-lora", device, *one, f"model.gradient_checkpointing={kind}")

    needs = [at(kind, gpu(500)).memory.during("training") / GIB for kind in kinds]
    assert needs == sorted(needs, reverse=True)
    setting = "model.gradient_checkpointing"
    for need, kind in zip(needs[1:], kinds[1:], strict=True):
        device = gpu(need + 0.01)
        (change,) = at("none", device).changes
        assert change.settings == {setting: kind}
    # auto has tried the first three; a CPU's own memory is the host's.
    device = gpu(needs[3] + 0.01)
    (change,) = at("auto", device).changes
    assert change.settings == {setting: "offload"}
    for kind, other in (("offload", device), ("auto", replace(device, kind="cpu"))):
        assert all(setting not in change.settings for change in at(kind, other).changes)


def test_no_change_can_be_left_out_again() -> None:
    change = changer("qwen7b-full", (*HF, "parallel.kind=single", "parallel.gpus=1"))
    device = gpu(24)
    found = plan.run(change, device=device, typical=plan.Typical())
    assert found.fits_after
    assert len(found.changes) > 1
    for left_out in found.changes:
        rest = {k: v for c in found.changes if c is not left_out for k, v in c.settings.items()}
        try:
            settings = change(rest)
        except ConfigError:
            continue
        try:
            check_trainable(settings.settings)
        except ConfigError:
            continue
        again = plan.run(
            lambda more, rest=rest: change({**rest, **more}),
            device=device,
            typical=plan.Typical(),
            repair=False,
        )
        assert not again.fits


def test_what_cannot_be_made_to_fit_is_said() -> None:
    found = planned("qwen32b-full", gpu(2), *HF)
    assert not found.fits_after
    assert found.after is not None


def test_a_share_of_vllm_that_is_too_small_is_raised() -> None:
    found = planned("qwen7b-lora", gpu(80), "rollout.backend.gpu_memory_utilization=0.15")
    assert not found.fits
    assert "gpu_memory_utilization=0.15" in found.problems[0]
    assert keys(found) == ["rollout.backend.gpu_memory_utilization"]
    assert found.fits_after


def test_heads_that_devices_cannot_share_equally_are_a_problem(tmp_path: Path) -> None:
    heads = {"hidden_size": 96, "num_attention_heads": 6, "num_key_value_heads": 2}
    (tmp_path / "config.json").write_text(json.dumps(SMALL | {"model_type": "llama", **heads}))
    path = f"model.path={tmp_path}"
    four = planned("tiny", gpu(80), *HF, path, "parallel.gpus=4", "parallel.sequence=4")
    assert four.problems == (
        "parallel.sequence=4: this llama model has 6 attention heads, which 4 ranks cannot share "
        "equally; set parallel.sequence=2",
    )
    two = planned("tiny", gpu(80), *HF, path, "parallel.gpus=4", "parallel.sequence=2")
    assert not two.problems and two.fits and not four.fits


def test_auto_is_settled_for_a_device_and_says_why(tmp_path: Path) -> None:
    def chosen(device: Device, *overrides: str) -> tuple[str, str]:
        settings = changer("qwen7b-lora", overrides)({}).settings
        return plan.chosen_checkpointing(settings, device=device)

    h100 = devices.GPUS["h100"]
    found = planned("qwen7b-lora", h100)
    kind, why = chosen(h100)
    assert kind == found.checkpointing == "selective"
    assert any(f"auto takes {kind}: it {why}" in note for note in found.notes)
    assert "GiB with none; the device has 79.6 GiB, of which 8% are kept free" in why
    assert chosen(gpu(500))[0] == "none" and chosen(gpu(40))[0] == "full"
    assert chosen(h100, "model.gradient_checkpointing=offload") == ("offload", "")
    # What is not counted takes no risk on a GPU, and no time on a CPU.
    eager, cpu = "model.attention=eager", devices.cpu(measure=False)
    assert [chosen(device, eager)[0] for device in (gpu(500), cpu)] == ["full", "none"]
    other = {"model_type": "deepseek_v3", "n_routed_experts": 4}
    (tmp_path / "config.json").write_text(json.dumps(SMALL | other))
    assert chosen(gpu(500), f"model.path={tmp_path}")[0] == "full"
    assert "not counted" in chosen(gpu(500), f"model.path={tmp_path}")[1]


def test_a_mixture_of_experts_is_planned_with_all_weights_and_its_active_ones() -> None:
    model, device = "model.path=Qwen/Qwen3-30B-A3B", devices.GPUS["h200"]
    found = planned("qwen7b-lora", device, model, "adapter.rank=8")
    assert (found.parameters, found.active) == (30_532_122_624, 3_353_032_704)
    assert found.memory.part("weights") == 2 * found.parameters
    page = in_process(*("plan", "--preset", "qwen7b-lora", "--gpu", "h200", "--set", model)).stdout
    assert "30.5B parameters, 3.35B active, " in page
    dense = planned("qwen7b-lora", device)
    assert dense.active == dense.parameters
    seconds = {p.name: p.seconds for p in found.times}
    assert seconds["reference"] < {p.name: p.seconds for p in dense.times}["reference"]


def test_applied_changes_are_settings_that_fit(tmp_path: Path) -> None:
    change, device, file = changer("qwen7b-lora", HF), gpu(40), tmp_path / "fits.toml"
    found = plan.run(change, device=device, typical=plan.Typical())
    plan.apply(found, change, to=file)

    def written(changes: dict[str, object]) -> Resolved:
        return resolve(config=file)

    again = plan.run(written, device=device, typical=plan.Typical())
    assert again.fits
    assert found.after is not None
    assert again.memory == found.after
    assert "# from dgpo plan" in file.read_text()
    with pytest.raises(ConfigError, match="already exists"):
        plan.apply(found, change, to=file)


def test_typical_lengths_move_times_and_not_memory() -> None:
    device = devices.GPUS["h100"]
    change = changer("qwen7b-lora")
    long = plan.run(change, device=device, typical=plan.Typical())
    short = plan.run(change, device=device, typical=plan.Typical(completion=1000))
    assert short.memory == long.memory
    assert short.step_seconds < long.step_seconds
    assert short.step_tokens == short.step_samples * 1000


def test_the_disk_holds_the_checkpoints_that_are_kept_and_the_one_being_written() -> None:
    found = planned("tiny", gpu(8), "train.steps=100", "train.checkpoint_every=10")
    (part,) = [part for part in found.disk if part.name == "checkpoints"]
    assert part.bytes == 3 * 460_800 * (4 + 8)


def test_a_gpu_that_is_not_in_the_table_is_refused_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match=r"--gpu=h1000.*h100"):
        devices.named("h1000")


def test_the_cpu_is_measured() -> None:
    found = devices.cpu()
    assert found.flops["float32"] > 1e8
    assert found.bandwidth > 1e8
    assert 0 < found.room <= found.memory


def test_a_step_with_overlap_takes_as_long_as_the_longer_of_sampling_and_the_rest() -> None:
    device = devices.GPUS["h200"]
    servers = ("rollout.backend.kind=vllm-server",)
    apart = planned("qwen7b-lora", device, *servers)
    ahead = planned("qwen7b-lora", device, *servers, "rollout.overlap=1")
    sampling = next(p.seconds for p in ahead.times if p.name == "sampling")
    rest = sum(p.seconds for p in ahead.times if p.name != "sampling")
    assert ahead.step_seconds == max(sampling, rest)
    assert apart.step_seconds > ahead.step_seconds
    assert any("the longer of sampling and the rest" in note for note in ahead.notes)
    here = planned("qwen7b-lora", device, "rollout.overlap=1")
    assert here.step_seconds == sum(p.seconds for p in here.times)
    assert any("assumed to save no time" in note for note in here.notes)


def test_credit_by_values_costs_the_continuations_that_it_may_sample() -> None:
    """And none costs nothing."""
    device = devices.GPUS["h200"]
    found = {
        count: planned("qwen7b-lora", device, "credit.rule=value", f"credit.continuations={count}")
        for count in (0, 4, 8)
    }
    spent = {count: {each.name: each.seconds for each in own.times} for count, own in found.items()}
    assert "values" not in spent[0] and not any("continu" in note for note in found[0].notes)
    assert any("continuations=8: 10% of the continuations" in note for note in found[8].notes)
    assert found[8].step_seconds - found[0].step_seconds == pytest.approx(spent[8]["values"])
    # Half of it is decoding, which doubles; prompts are prefilled once however many continue them.
    assert 1.3 < spent[8]["values"] / spent[4]["values"] <= 2
    # 64 places of that many tokens each: nearly all leave a long completion in between.
    gap = resolve(preset="qwen7b-lora").settings.rollout.max_completion_tokens / PLACES
    most = found[0].step_samples * PLACES * 8
    (limit,) = [each.limit for each in found[8].times if each.name == "values"]
    counted = int(limit.split()[1].replace(",", ""))
    assert counted == pytest.approx(most * (1 - 0.9**gap), rel=1e-3)


def test_the_places_that_are_counted_are_those_that_are_estimated() -> None:
    assert PLACES == EVERY


@pytest.mark.parametrize(
    ("family", "softcap", "problem", "note"),
    [
        ("recurrent_gemma", None, "rollout.backend.kind=hf: cannot sample from recurrent", None),
        ("gemma2", 50.0, None, "eager attention keeps the whole matrix"),
        ("llama", None, None, None),
    ],
)
def test_what_a_family_cannot_do_is_said(
    tmp_path: Path, family: str, softcap: float | None, problem: str | None, note: str | None
) -> None:
    config = SMALL | {"model_type": family, "attn_logit_softcapping": softcap}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = planned("tiny", gpu(80), *HF, f"model.path={tmp_path}")
    assert [problem in line for line in found.problems if problem] == ([True] if problem else [])
    assert found.fits == (problem is None)
    assert any("keeps the whole matrix" in line for line in found.notes) == (note is not None)
    assert bool(found.memory.part("attention matrices")) == (note is not None)
