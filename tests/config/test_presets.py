"""Every preset validates, is complete and commented, and becomes the methods that it names."""

from __future__ import annotations

import re
import resource
from pathlib import Path

import pytest

from dgpo_cli.config.checks import check_trainable
from dgpo_cli.config.load import resolve
from dgpo_cli.config.presets import copy_preset, list_presets, preset_names, preset_text
from dgpo_cli.config.tree import flatten
from dgpo_cli.core.errors import ConfigError, DgpoError
from dgpo_cli.planning import devices, plan

every_preset = pytest.mark.parametrize("name", preset_names())
METHODS: dict[str, dict[str, object]] = {
    "GRPO": {"std": "group", "aggregation": "sequence-mean", "clip_high": 0.2},
    "DAPO": {"std": "group", "aggregation": "token-mean", "clip_high": 0.28},
    "Dr. GRPO": {"std": "none", "aggregation": "constant", "clip_high": 0.2},
    "GSPO": {"std": "group", "aggregation": "sequence-mean", "sequence_clip_high": 4e-4},
    "CISPO": {"std": "group", "aggregation": "token-mean", "weight_max": 5.0},
}


def test_the_presets_are_these() -> None:
    assert preset_names() == (
        "gpt-oss-20b-lora",
        "gsm8k-0.5b",
        "qwen2.5-1.5b-full",
        "qwen3-4b-lora",
        "qwen3-4b-nothink-lora",
        "qwen32b-full",
        "qwen7b-full",
        "qwen7b-lora",
        "qwen7b-qlora",
        "r1-distill-1.5b-full",
        "smollm2-lora",
        "tiny",
        "tiny-hard",
    )


@every_preset
def test_a_preset_can_be_trained_with(name: str) -> None:
    check_trainable(resolve(preset=name).settings)


@every_preset
def test_a_preset_writes_down_every_setting(name: str) -> None:
    resolved = resolve(preset=name)
    text = preset_text(name)
    for key, value in flatten(resolved.settings).items():
        if value is None:  # TOML has no word for it: a commented line says that it could be set
            leaf = key.rpartition(".")[2]
            assert re.search(rf"^# {leaf} = ", text, re.MULTILINE), key
        else:
            assert resolved.sources[key] == f"preset {name}", key


@every_preset
def test_a_preset_says_what_it_is_for_and_what_it_needs(name: str) -> None:
    (info,) = [info for info in list_presets() if info.name == name]
    header = preset_text(name).split("\n\n")[0]
    assert 20 < len(info.description) < 80
    assert header.startswith(f"# {name}: ")
    assert " GB" in header


@every_preset
@pytest.mark.parametrize("method", METHODS)
def test_the_documented_flags_make_a_preset_another_method(name: str, method: str) -> None:
    (line,) = re.findall(rf"^#   {re.escape(method)} +(--set .*)$", preset_text(name), re.MULTILINE)
    overrides = re.findall(r"--set (\S+)", line)
    settings = resolve(preset=name, overrides=overrides).settings
    check_trainable(settings)
    assert settings.credit.rule == "uniform"
    assert settings.advantage.baseline == "group-mean"
    assert settings.loss.kl == 0.0
    found = flatten(settings.loss) | flatten(settings.advantage)
    assert METHODS[method].items() <= found.items()


def test_the_32b_preset_has_the_published_settings() -> None:
    settings = resolve(preset="qwen32b-full").settings
    published = {
        "rollout.group_size": 16,
        "rollout.max_completion_tokens": 20480,
        "optim.lr": 1e-6,
        "optim.weight_decay": 0.1,
        "credit.tau": 0.5,
        "credit.kappa": 1.0,
        "loss.clip_low": 0.2,
        "loss.clip_high": 0.2,
    }
    assert flatten(settings) | published == flatten(settings)


@every_preset
def test_the_hardware_of_a_preset_is_in_the_table_of_gpus(name: str) -> None:
    hardware = resolve(preset=name).hardware
    assert (
        hardware is None
        if name in ("tiny", "tiny-hard", "smollm2-lora")
        else hardware in devices.GPUS
    )


@pytest.mark.parametrize("name", [each.name for each in list_presets() if each.hardware])
def test_a_preset_fits_the_devices_that_it_is_meant_for(name: str) -> None:
    resolved = resolve(preset=name)
    device = devices.named(resolved.hardware or "")
    found = plan.run(lambda _: resolved, device=device, typical=plan.Typical(), repair=False)
    assert found.fits, found.problems


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"preset tinny: unknown; did you mean tiny\?"):
        preset_text("tinny")


@pytest.mark.parametrize("name", ["../presets/tiny", "/etc/passwd", ""])
def test_a_path_is_no_preset(name: str) -> None:
    with pytest.raises(ConfigError, match="unknown"):
        preset_text(name)


def test_a_copied_preset_resolves_to_equal_settings(tmp_path: Path) -> None:
    target = copy_preset("tiny", tmp_path / "mine.toml")
    assert resolve(config=target).settings == resolve(preset="tiny").settings


def test_a_preset_is_copied_into_a_folder_under_its_own_name(tmp_path: Path) -> None:
    assert copy_preset("tiny", tmp_path) == tmp_path / "tiny.toml"


def test_a_copy_never_replaces_a_file(tmp_path: Path) -> None:
    target = tmp_path / "mine.toml"
    target.write_text("keep me")
    with pytest.raises(ConfigError, match="already exists; give another name"):
        copy_preset("tiny", target)
    assert target.read_text() == "keep me"


def test_a_copy_needs_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no folder"):
        copy_preset("tiny", tmp_path / "absent" / "mine.toml")


def test_a_copy_that_cannot_be_written_whole_is_not_left_behind(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(DgpoError, match=r"mine\.toml: file too large") as caught:
            copy_preset("tiny", tmp_path / "mine.toml")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []
    assert caught.value.exit_code == 1  # as a full disk
