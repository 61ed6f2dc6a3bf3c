"""Which number of devices is the best use of them."""

from __future__ import annotations

from dataclasses import replace

from dgpo_cli.config.load import Resolved, resolve
from dgpo_cli.planning import plan
from dgpo_cli.planning.budget import Choice, Device
from dgpo_cli.planning.devices import GPUS
from dgpo_cli.planning.memory import GIB


def choices(preset: str, *overrides: str, device: Device = GPUS["h100"]) -> tuple[Choice, ...]:
    def changed(changes: dict[str, object]) -> Resolved:
        flags = {key: ("dgpo plan", value) for key, value in changes.items()}
        return resolve(preset=preset, overrides=overrides, flags=flags)

    found = plan.run(changed, device=device, typical=plan.Typical(), repair=False, compare=True)
    return found.choices


def test_32b_does_not_fit_8_gpus_and_is_compared_up_to_1024() -> None:
    found = {each.gpus: each for each in choices("qwen32b-full")}
    assert list(found) == [8, 16, 32, 64, 128, 256, 512, 1024]
    assert not found[8].fits
    assert found[32].fits and found[32].kind == "shard" and found[32].sequence == 1


def test_the_best_is_the_largest_number_that_is_worth_it() -> None:
    found = choices("qwen32b-full")
    fitting = [each for each in found if each.fits]
    least = min(each.gpu_hours for each in fitting)
    for each in fitting:
        assert each.gpu_hours == each.gpus * each.step_seconds / 3600
        assert each.efficiency == least / each.gpu_hours
    (best,) = [each for each in found if each.best]
    assert best.gpus == max(each.gpus for each in fitting if each.efficiency >= 0.8)


def test_more_devices_than_rows_of_an_update_are_wasted() -> None:
    # 512 completions an update: 1,024 devices compute no more than half of them at a time.
    found = {each.gpus: each for each in choices("qwen7b-full", "optim.micro_batch_size=1")}
    assert found[1024].efficiency < 0.6 * found[512].efficiency
    assert 1.5 * found[16].step_seconds < found[8].step_seconds


def test_completions_too_long_for_one_device_are_shared() -> None:
    longer = ("rollout.max_completion_tokens=43008", "rollout.backend.gpu_memory_utilization=0.6")
    found = {each.gpus: each for each in choices("qwen32b-full", *longer)}
    assert found[32].fits and found[32].sequence == 2


def test_an_adapter_is_replicated_unless_the_model_fits_no_device() -> None:
    kinds = {each.gpus: each.kind for each in choices("qwen7b-lora", "rollout.backend.kind=hf")}
    assert kinds[1] == "single" and kinds[8] == "replicate"
    small = replace(GPUS["h100"], memory=20 * GIB)
    servers = ("rollout.backend.kind=vllm-server",)
    found = {each.gpus: each for each in choices("qwen7b-lora", *servers, device=small)}
    assert not found[1].fits
    assert found[8].fits and found[8].kind in ("shard", "hybrid")
