"""A merged run is a plain model that computes what the policy computed."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch

from dgpo_cli.core.digests import write_digests
from dgpo_cli.core.errors import CheckpointError, ConfigError, ModelError
from dgpo_cli.policy.settings import ModelSettings
from dgpo_cli.publish import merge
from dgpo_cli.publish import merge as models_merge
from tests.policy import tiny
from tests.recorder import Notes
from tests.runs.finished import LORA, make_run

IDS = torch.tensor([[5, 9, 23, 11, 7, 40, 18, 6, 30, 12]])
# What rounding the weights to a dtype, and computing in it, may move a logit of size 10 by.
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.5, "float16": 0.05}
KINDS: dict[str, tuple[str, ...]] = {
    "full": (),
    "lora": LORA,
    "dora": (*LORA, "adapter.dora=true"),
    "rslora": (*LORA, "adapter.rslora=true"),
    "qlora": (*LORA, "model.quantization=nf4"),
    "qdora": (*LORA, "adapter.dora=true", "model.quantization=nf4"),
}


def merged(resolved: Any, run: Path, out: Path, **changes: Any) -> tuple[Any, list[str]]:
    events: list[str] = []
    arguments: dict[str, Any] = {"step": None, "dtype": "float32"} | changes
    return merge.run(resolved, run=run, out=out, observer=Notes(events), **arguments), events


def logits_of(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(input_ids=IDS).logits.float()
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_the_folder_loads_as_a_plain_model_with_the_policys_logits(
    wide_folder: Path, tmp_path: Path, kind: str
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    resolved, policy = make_run(tmp_path / "run", wide_folder, *KINDS[kind])
    expected = logits_of(policy.model)
    base = logits_of(AutoModelForCausalLM.from_pretrained(wide_folder))
    for dtype, tolerance in TOLERANCE.items():
        out = tmp_path / dtype
        result, events = merged(resolved, tmp_path / "run", out, dtype=dtype)
        model = AutoModelForCausalLM.from_pretrained(out, dtype="auto")
        assert {p.dtype for p in model.parameters()} == {getattr(torch, dtype)}
        assert {type(m) for m in model.modules() if "Linear" in type(m).__name__} == {
            torch.nn.Linear
        }
        apart = (logits_of(model) - expected).abs()
        assert float(apart.max()) < tolerance
        assert float((base - expected).abs().max()) > 4 * float(apart.max())
        config = json.loads((out / "config.json").read_text())
        assert config["dtype"] == dtype and "quantization_config" not in config
        assert not [p for p in out.iterdir() if p.name.startswith(("adapter", "trainer"))]
        assert AutoTokenizer.from_pretrained(out)("12+3?")["input_ids"] == [6, 7, 15, 8, 23]
        assert result.size == sum(path.stat().st_size for path in out.iterdir())
        assert len(events) == (1 if "q" in kind else 0)


@pytest.fixture(scope="module")
def tied_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tied-model")
    tiny.build_model("qwen2-tied", hidden_size=64, intermediate_size=128).save_pretrained(folder)
    tiny.char_tokenizer().save_pretrained(folder)
    return folder


EMBEDDING = (*LORA, 'adapter.targets=["embed_tokens","q_proj"]')


@pytest.mark.parametrize("kind", [(), ("adapter.dora=true",), ("model.quantization=nf4",)])
def test_an_adapter_on_an_embedding_that_is_the_head_too_is_merged_into_the_one_alone(
    tied_folder: Path, tmp_path: Path, kind: tuple[str, ...]
) -> None:
    from transformers import AutoModelForCausalLM

    resolved, policy = make_run(tmp_path / "run", tied_folder, *EMBEDDING, *kind)
    result, _ = merged(resolved, tmp_path / "run", tmp_path / "m")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    base = AutoModelForCausalLM.from_pretrained(tied_folder)
    assert not model.config.tie_word_embeddings
    assert torch.equal(model.lm_head.weight, base.lm_head.weight)
    assert not torch.equal(model.model.embed_tokens.weight, base.lm_head.weight)
    assert float((logits_of(model) - logits_of(policy.model)).abs().max()) < 1e-4
    assert result.difference.mean < 1e-5


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("kind", [(), ("model.quantization=nf4",)])
def test_a_merge_that_is_not_the_policy_is_refused_and_leaves_nothing(
    tied_folder: Path,
    tmp_path: Path,
    kind: tuple[str, ...],
    dtype: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As it was when the head got what was meant for the embedding."""
    resolved, _ = make_run(tmp_path / "run", tied_folder, *EMBEDDING, *kind)
    monkeypatch.setattr(models_merge, "_untie", lambda model: None)
    told = r"the merged model is not the policy: .* nats off on average, by rounding alone "
    with pytest.raises(ModelError, match=told):
        merged(resolved, tmp_path / "run", tmp_path / "m", dtype=dtype)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_what_is_written_is_what_is_measured(
    wide_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A weight that goes wrong on its way to the disk is one that the policy does not have."""
    resolved, policy = make_run(tmp_path / "run", wide_folder, *LORA)
    save = type(policy.model.get_base_model()).save_pretrained

    def without_a_layer(self: Any, folder: str, **others: Any) -> None:
        self.model.layers[1].mlp.up_proj.weight.data.zero_()
        save(self, folder, **others)

    monkeypatch.setattr(type(policy.model.get_base_model()), "save_pretrained", without_a_layer)
    with pytest.raises(ModelError, match="not the policy"):
        merged(resolved, tmp_path / "run", tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_the_warning_tells_the_difference_that_there_is(wide_folder: Path, tmp_path: Path) -> None:
    """Measured again here, on the texts and by the definition."""
    from transformers import AutoModelForCausalLM

    resolved, policy = make_run(tmp_path / "run", wide_folder, *KINDS["qlora"])
    result, [event] = merged(resolved, tmp_path / "run", tmp_path / "m", dtype="bfloat16")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype="auto").eval()
    gaps: list[float] = []
    for text in models_merge.PROBES:
        ids = policy.tokenizer(text, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            one, two = (
                m(input_ids=torch.tensor([ids])).logits[0].float().log_softmax(-1)
                for m in (policy.model, model)
            )
        gaps += [abs(float(one[i, t] - two[i, t])) for i, t in enumerate(ids[1:])]
    apart = result.difference
    assert (apart.tokens, apart.largest) == (len(gaps), pytest.approx(max(gaps), rel=1e-3))
    assert apart.mean == pytest.approx(sum(gaps) / len(gaps), rel=1e-3)
    assert apart.largest > 1e-3
    assert f"at most {apart.largest:.2g} and by {apart.mean:.2g} on average" in event
    assert "unpacked and rounded to bfloat16" in event


def test_a_chosen_checkpoint_is_the_one_that_is_merged(wide_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    resolved, _ = make_run(tmp_path / "run", wide_folder)
    for step in (2, 4):
        result, _ = merged(resolved, tmp_path / "run", tmp_path / f"{step}", step=step)
        assert result.checkpoint.name == f"step-{step:06d}"
        one = load_file(tmp_path / f"{step}" / "model.safetensors")
        two = load_file(result.checkpoint / "model.safetensors")
        assert one.keys() == two.keys() and all(torch.equal(one[n], two[n]) for n in one)
    with pytest.raises(CheckpointError, match="no checkpoint of step 3; there are: 2, 4"):
        merged(resolved, tmp_path / "run", tmp_path / "3", step=3)


def test_what_exists_is_not_overwritten(wide_folder: Path, tmp_path: Path) -> None:
    resolved, _ = make_run(tmp_path / "run", wide_folder)
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match="already exists"):
        merged(resolved, tmp_path / "run", tmp_path / "out")


def test_a_disk_without_room_is_told_before_anything_is_loaded(
    wide_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolved, _ = make_run(tmp_path / "run", wide_folder)

    def no_loading(*arguments: Any, **others: Any) -> Any:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(models_merge.load, "load_model", no_loading)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 5_000_000))
    with pytest.raises(
        CheckpointError, match=r"needs 64\.[0-9] MiB and .* has 4\.77 MiB free; make room"
    ):
        merged(resolved, tmp_path / "run", tmp_path / "a" / "b")
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_the_bytes_are_those_of_the_file(wide_folder: Path) -> None:
    settings = ModelSettings(path=str(wide_folder), device="cpu")
    size = (wide_folder / "model.safetensors").stat().st_size
    found = models_merge.model_bytes(settings, dtype="float32")
    assert found <= size <= found + 10_000  # the header of the file
    assert 2 * models_merge.model_bytes(settings, dtype="float16") == found


def test_a_failed_write_leaves_nothing_behind(
    wide_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolved, policy = make_run(tmp_path / "run", wide_folder)

    def full_disk(*arguments: Any, **others: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(policy.tokenizer), "save_pretrained", full_disk)
    with pytest.raises(CheckpointError, match=r"m: cannot be written: no space left .*make room"):
        merged(resolved, tmp_path / "run", tmp_path / "m")
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_weights_too_large_for_float16_are_refused(wide_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    resolved, _ = make_run(tmp_path / "run", wide_folder)
    path = tmp_path / "run" / "checkpoints" / "step-000004" / "model.safetensors"
    weights = load_file(path)
    weights["model.norm.weight"][3] = 1e5
    save_file(weights, path, metadata={"format": "pt"})
    write_digests(path.parent)
    with pytest.raises(ModelError, match=r"--dtype float16: model\.norm\.weight .* bfloat16"):
        merged(resolved, tmp_path / "run", tmp_path / "m", dtype="float16")
    assert not (tmp_path / "m").exists()
