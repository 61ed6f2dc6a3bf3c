"""Loading: what is set on the way in, and one line for everything that does not load."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from dgpo_cli.core.errors import ModelError
from dgpo_cli.policy.head import head_of
from dgpo_cli.policy.load import (
    add_adapter,
    dropouts,
    load_adapter,
    load_config,
    load_model,
    load_tokenizer,
    model_location,
    pick_device,
    without_dropout,
)
from dgpo_cli.policy.settings import EMBEDDED_TINY, LoraAdapter, ModelSettings
from tests.engine import checkpoints
from tests.policy import families, tiny


def settings_of(path: Path | str, **changes: Any) -> ModelSettings:
    return ModelSettings(path=str(path), device="cpu", **changes)


def edited(folder: Path, target: Path, name: str, **changes: Any) -> Path:
    """Copy a model folder with some keys of one of its JSON files changed."""
    shutil.copytree(folder, target)
    path = target / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return target


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_weights_are_those_of_the_folder_in_the_dtype_asked_for(
    model_folder: Path, dtype: str
) -> None:
    model = load_model(settings_of(model_folder, dtype=dtype))
    expected = dict(tiny.build_model().named_parameters())
    for name, parameter in model.named_parameters():
        assert parameter.dtype == getattr(torch, dtype)
        assert torch.equal(parameter, expected[name].to(parameter.dtype)), name
    assert not model.training


def test_dropout_of_the_base_is_off_even_in_training(model_folder: Path, tmp_path: Path) -> None:
    folder = edited(model_folder, tmp_path / "m", "config.json", attention_dropout=0.5)
    model = load_model(settings_of(folder)).train()
    ids = torch.arange(5, 15)[None]
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, model(input_ids=ids).logits)
        model.model.layers[0].self_attn.attention_dropout = 0.5
        assert not torch.equal(model(input_ids=ids).logits, model(input_ids=ids).logits)


@pytest.mark.parametrize("family", ["bloom", "falcon", "gpt2", "opt"])
def test_no_kind_of_dropout_is_left_on(family: str) -> None:
    """As modules, as numbers of modules at functional calls, and as the configuration's."""
    names = ("attention_dropout", "hidden_dropout", "dropout", "resid_pdrop", "layerdrop")
    known = {name for name in names if hasattr(tiny.config_of(family), name)}
    model = tiny.build_model(family, **dict.fromkeys(known, 0.5)).train()
    ids = torch.arange(5, 15)[None]
    with torch.no_grad():
        assert not torch.equal(model(input_ids=ids).logits, model(input_ids=ids).logits)
        assert dropouts(model)
        without_dropout(model)
        assert not dropouts(model)
        assert torch.equal(model(input_ids=ids).logits, model(input_ids=ids).logits)


def test_the_embedded_model_is_a_folder_of_the_package() -> None:
    location = Path(model_location(EMBEDDED_TINY))
    assert (location.parent.name, location.name) == ("data", "tiny")
    assert model_location("Qwen/Qwen2.5-7B") == "Qwen/Qwen2.5-7B"


def test_a_tokenizer_without_padding_pads_with_its_end_token(
    model_folder: Path, tmp_path: Path
) -> None:
    folder = edited(model_folder, tmp_path / "m", "tokenizer_config.json", pad_token=None)
    assert load_tokenizer(settings_of(folder)).pad_token_id == tiny.END


def test_a_tokenizer_without_an_end_token_is_refused(model_folder: Path, tmp_path: Path) -> None:
    folder = edited(model_folder, tmp_path / "m", "tokenizer_config.json", eos_token=None)
    with pytest.raises(ModelError, match="no EOS token"):
        load_tokenizer(settings_of(folder))


def test_a_checkpoints_own_tokenizer_is_preferred(model_folder: Path, tmp_path: Path) -> None:
    own = edited(model_folder, tmp_path / "m", "tokenizer_config.json", pad_token="<unk>")
    (tmp_path / "bare").mkdir()
    settings = settings_of(model_folder)
    assert load_tokenizer(settings, folder=own).pad_token_id == 2
    assert load_tokenizer(settings, folder=tmp_path / "bare").pad_token_id == 0


@pytest.mark.parametrize("load", [load_model, load_tokenizer])
def test_what_cannot_be_loaded_is_explained_in_one_line(load: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    cases = {
        str(tmp_path / "nowhere"): "no such folder",
        str(tmp_path / "empty"): "no config.json in that folder",
        str(tmp_path / "broken"): "cannot load",
        "nobody/no-such-model": "is the hub reachable, and the id right",
    }
    for path, reason in cases.items():
        with pytest.raises(ModelError) as caught:
            load(settings_of(path))
        message = str(caught.value)
        assert message.startswith(f"model.path={path}: ") and reason in message
        assert "\n" not in message and len(message) < 500


def test_weights_that_could_run_code_are_not_loaded(model_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    shutil.copytree(model_folder, folder)
    (folder / "model.safetensors").unlink()
    torch.save(tiny.build_model().state_dict(), folder / "pytorch_model.bin")
    told = r"model\.path=.*: has only pickled weights \(\.bin\), .*; convert them to safetensors"
    with pytest.raises(ModelError, match=told):
        load_model(settings_of(folder))


def test_a_model_without_a_tokenizer_is_told(model_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    shutil.copytree(model_folder, folder, ignore=shutil.ignore_patterns("tokenizer*"))
    with pytest.raises(ModelError, match=r"m: has no tokenizer; add its tokenizer\.json"):
        load_tokenizer(settings_of(folder))


def with_own_code(folder: Path, target: Path, *, ran: Path, model_type: str) -> Path:
    """Copy a model folder and let it bring code that leaves a file behind when it is imported."""
    names = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    edited(folder, target, "config.json", auto_map=names, model_type=model_type)
    (target / "own.py").write_text(
        f"open({str(ran)!r}, 'w').close()\n"
        "from transformers import Qwen2Config, Qwen2ForCausalLM\n"
        f"class OwnConfig(Qwen2Config):\n    model_type = {model_type!r}\n"
        "class OwnModel(Qwen2ForCausalLM):\n    config_class = OwnConfig\n"
    )
    return target


@pytest.mark.parametrize("load", [load_model, load_config])
def test_code_that_comes_with_a_model_is_not_run(
    model_folder: Path, tmp_path: Path, load: Any
) -> None:
    ran = tmp_path / "ran"
    folder = with_own_code(model_folder, tmp_path / "m", ran=ran, model_type="own-kind")
    with pytest.raises(ModelError) as caught:
        load(settings_of(folder))
    assert str(caught.value) == (
        f"model.path={folder}: needs its own Python code, which is not run; if you trust its "
        "author, set model.trust_remote_code=true"
    )
    assert not ran.exists()


def test_a_known_model_that_brings_code_is_loaded_without_it(
    model_folder: Path, tmp_path: Path
) -> None:
    ran = tmp_path / "ran"
    folder = with_own_code(model_folder, tmp_path / "m", ran=ran, model_type="qwen2")
    assert type(load_model(settings_of(folder))).__name__ == "Qwen2ForCausalLM"
    load_tokenizer(settings_of(folder))
    assert not ran.exists()


def test_code_that_is_trusted_is_run(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers.dynamic_module_utils as dynamic

    monkeypatch.setattr(dynamic, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    ran = tmp_path / "ran"
    folder = with_own_code(model_folder, tmp_path / "m", ran=ran, model_type="own-kind")
    model = load_model(settings_of(folder, trust_remote_code=True))
    assert type(model).__name__ == "OwnModel"
    assert ran.exists()


def test_targets_that_match_nothing_are_refused() -> None:
    adapter = LoraAdapter(targets=("no_such_module",))
    told = r"adapter\.targets=no_such_module: .*; set all-linear, or some of .*down_proj.*v_proj$"
    with pytest.raises(ModelError, match=told):
        add_adapter(tiny.build_model(), adapter=adapter, seed=0)


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ("all-linear", {"q", "k", "v", "o", "gate", "up", "down"}),
        (("q_proj", "v_proj"), {"q", "v"}),
    ],
)
def test_the_adapter_sits_on_its_targets_and_never_on_the_head(
    targets: str | tuple[str, ...], expected: set[str]
) -> None:
    model = add_adapter(
        tiny.build_model("qwen2-untied"), adapter=LoraAdapter(rank=3, targets=targets), seed=0
    )
    named = [name for name, p in model.named_parameters() if p.requires_grad]
    assert {name.split(".")[-4].removesuffix("_proj") for name in named} == expected
    assert all("lora_" in name for name in named)


def test_the_adapter_adds_alpha_over_rank_times_its_product() -> None:
    model = tiny.build_model("qwen2-untied")
    weight = model.model.layers[1].mlp.up_proj.weight.detach().clone()
    adapted = add_adapter(model, adapter=LoraAdapter(rank=3, alpha=12.0), seed=0)
    layer = adapted.get_base_model().model.layers[1].mlp.up_proj
    tiny.nudge((p for p in layer.parameters() if p.requires_grad), scale=0.1)
    product = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    x = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(layer(x), x @ (weight + 4.0 * product).T, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", [*families.ATTENTION, *families.RECURRENT])
def test_all_linear_adapts_every_family_and_trains_as_it_samples(family: str) -> None:
    model = tiny.build_model(family).requires_grad_(False)
    without_dropout(model)
    adapted = add_adapter(model, adapter=LoraAdapter(rank=3), seed=0)
    tiny.nudge((p for p in adapted.parameters() if p.requires_grad), scale=0.1)
    ids = torch.arange(5, 15)[None]
    trained = adapted.train()(input_ids=ids, use_cache=False).logits
    trained.square().sum().backward()
    without = [n for n, p in adapted.named_parameters() if p.requires_grad and p.grad is None]
    assert all("indexer" in name for name in without)  # DeepSeek's choice of keys has no gradient
    with torch.no_grad():
        sampled = adapted.eval()(input_ids=ids, use_cache=False).logits
        with adapted.disable_adapter():
            base = adapted(input_ids=ids, use_cache=False).logits
    torch.testing.assert_close(trained, sampled, rtol=0, atol=1e-5)
    assert (sampled - base).abs().max() > 0.1


@pytest.mark.parametrize(
    ("family", "target"), [("bamba", "out_proj"), ("mamba", "dt_proj"), ("llama4_text", "router")]
)
def test_a_target_that_an_adapter_would_break_is_refused(family: str, target: str) -> None:
    adapter = LoraAdapter(targets=("in_proj", "q_proj", target))
    with pytest.raises(ModelError, match=rf"adapter\.targets includes {target}: .*; leave it out$"):
        add_adapter(tiny.build_model(family), adapter=adapter, seed=0)


@pytest.mark.parametrize("dora", [False, True])
@torch.no_grad()
def test_an_adapter_on_the_embedding_starts_at_the_base_and_leaves_the_tied_head(
    dora: bool,
) -> None:
    model = tiny.build_model("qwen2-tied")
    ids = torch.arange(5, 15)[None]
    before, head = model(input_ids=ids).logits, model.lm_head.weight.clone()
    adapter = LoraAdapter(rank=3, targets=("embed_tokens",), dora=dora)
    adapted = add_adapter(model, adapter=adapter, seed=0)
    assert torch.equal(adapted(input_ids=ids).logits, before)
    tiny.nudge((p for p in adapted.parameters() if p.requires_grad), scale=0.1)
    assert (adapted(input_ids=ids).logits - before).abs().max() > 0.1
    assert torch.equal(head_of(adapted.get_base_model()).weight, head)


def test_what_bitsandbytes_warns_of_at_import_does_not_reach_the_user(
    model_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load_model(ModelSettings(path=str(model_folder), device="cpu"))
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    logger.warning("Failed to load a kernel that nobody asked for")
    logger.error("this is more than a warning")
    assert "Failed to load" not in caplog.text
    assert "more than a warning" in caplog.text


def test_a_folder_that_is_no_adapter_is_refused(model_folder: Path) -> None:
    with pytest.raises(ModelError, match=r"no adapter_config\.json"):
        load_adapter(tiny.build_model(), folder=model_folder, trainable=False)


def test_the_adapter_of_another_model_is_refused(model_folder: Path, tmp_path: Path) -> None:
    checkpoints.save(tmp_path / "c", *checkpoints.trained(model_folder, "lora"))
    wider = tiny.build_model(hidden_size=64)
    with pytest.raises(ModelError, match="cannot load the adapter") as caught:
        load_adapter(wider, folder=tmp_path / "c", trainable=False)
    assert "\n" not in str(caught.value)


def test_a_device_that_is_not_there_is_named() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match=r"model\.device=cuda:1: .* set model\.device=cpu"):
            pick_device("cuda:1")
    if not torch.backends.mps.is_available():
        with pytest.raises(ModelError, match=r"model\.device=mps: .* set model\.device=cpu"):
            pick_device("mps")


@pytest.mark.parametrize(("count", "named"), [(1, "1 CUDA device,"), (2, "2 CUDA devices,")])
def test_a_device_beyond_the_last_is_named_with_the_last(
    count: int, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    with pytest.raises(ModelError) as raised:
        pick_device("cuda:2")
    assert str(raised.value) == (
        f"model.device=cuda:2: torch sees {named} numbered from 0; set "
        f"model.device=cuda:{count - 1}, or show it more with CUDA_VISIBLE_DEVICES"
    )
    assert pick_device(f"cuda:{count - 1}").index == count - 1


@pytest.mark.parametrize(("device", "used"), [("cuda:1", [torch.device("cuda", 1)]), ("cuda", [])])
def test_a_numbered_device_is_the_process_s_before_anything_lies_there(
    model_folder: Path, device: str, used: list[torch.device], monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[Any] = []
    model = tiny.build_model()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", events.append)
    monkeypatch.setattr("dgpo_cli.policy.load.from_pretrained", lambda *_, **__: model)

    def to(self: Any, place: torch.device) -> Any:
        events.append(f"to {place}")
        return self

    monkeypatch.setattr(type(model), "to", to)
    load_model(ModelSettings(path=str(model_folder), device=device))
    assert events == [*used, f"to {device}"]
