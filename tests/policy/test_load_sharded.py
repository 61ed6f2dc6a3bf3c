"""Sharded loading gives the weights and buffers that transformers loads, to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dgpo_cli.parallel.sharding import make_mesh, root_of, run_inside
from dgpo_cli.policy import load
from dgpo_cli.policy.load_sharded import _files, load_sharded, reference_settings
from dgpo_cli.policy.settings import LoraAdapter, ModelSettings
from tests.policy.tiny import build_model, char_tokenizer
from tests.ranks import on_ranks

if TYPE_CHECKING:
    from dgpo_cli.parallel.ranks import TorchRanks

# Plain ones; names that transformers changes; experts that it stacks; buffers of several kinds.
FAMILIES = (
    *("llama", "qwen2-tied", "gemma3_text", "gpt2", "falcon_h1", "zamba2"),
    *("gpt_neox", "nemotron_h", "mixtral", "qwen3_moe", "lfm2_moe"),
)


def _saved(folder: Path, family: str, *, dtype: torch.dtype = torch.float32) -> Path:
    build_model(family).to(dtype).save_pretrained(folder, max_shard_size="20KB")
    char_tokenizer().save_pretrained(folder)
    return folder


def _full(tensor: Any) -> torch.Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def _state(model: Any) -> dict[str, torch.Tensor]:
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {name: _full(tensor.detach()) for name, tensor in tensors}


def _wrong(found: Any, expected: Any) -> list[str]:
    """Return the names of tensors that differ, in anything."""
    ours, theirs = _state(found), _state(expected)
    if ours.keys() != theirs.keys():
        return sorted(ours.keys() ^ theirs.keys())
    return [
        name
        for name, tensor in theirs.items()
        if ours[name].dtype != tensor.dtype or not torch.equal(ours[name], tensor)
    ]


def _compare(ranks: TorchRanks, folders: list[Path], dtype: str) -> dict[str, list[str]]:
    mesh = make_mesh("shard", device_type="cpu", node_size=ranks.count)
    found = {}
    for folder in folders:
        settings = ModelSettings(path=str(folder), dtype=dtype, device="cpu")
        expected = load.load_model(settings)
        model = load_sharded(settings, ranks=ranks, mesh=mesh)
        found[folder.name] = _wrong(model, expected)
        found[folder.name] += _other_words(model, expected)
    return found


def _other_words(found: Any, expected: Any) -> list[str]:
    tied = [
        m.get_input_embeddings().weight is m.get_output_embeddings().weight
        for m in (found, expected)
    ]
    same = {
        "tied": len(set(tied)) == 1,
        "generation": found.generation_config.to_dict() == expected.generation_config.to_dict(),
        "config": found.config.to_dict() == expected.config.to_dict(),
        "attention": found.config._attn_implementation == expected.config._attn_implementation,
    }
    return [name for name, is_same in same.items() if not is_same]


def test_every_family_loads_as_transformers_loads_it(tmp_path: Path) -> None:
    folders = [_saved(tmp_path / family, family) for family in FAMILIES]
    for found in on_ranks(_compare, 2, folders, "float32"):
        assert not any(found.values()), found


@pytest.mark.parametrize(("stored", "wanted"), [("bfloat16", "float32"), ("float32", "bfloat16")])
def test_dtypes_are_converted_as_transformers_converts_them(
    tmp_path: Path, stored: str, wanted: str
) -> None:
    families = "gemma3_text", "qwen3_moe"
    folders = [_saved(tmp_path / f, f, dtype=getattr(torch, stored)) for f in families]
    for found in on_ranks(_compare, 2, folders, wanted):
        assert not any(found.values()), found


def test_a_tied_weight_that_is_stored_twice_stays_tied_only_if_it_is_equal(tmp_path: Path) -> None:
    folders = []
    for name, factor in (("equal", 1.0), ("other", 2.0)):
        build_model("qwen2-tied").save_pretrained(tmp_path / name)
        file = tmp_path / name / "model.safetensors"
        state = load_file(file)
        state["lm_head.weight"] = state["model.embed_tokens.weight"] * factor
        save_file(state, file, metadata={"format": "pt"})
        folders.append(tmp_path / name)
    for found in on_ranks(_compare, 2, folders, "float32"):
        assert not any(found.values()), found


def _adapted(ranks: TorchRanks, folder: Path, dora: bool) -> tuple[list[str], set[str]]:
    settings = ModelSettings(path=str(folder), dtype="bfloat16", device="cpu", attention="eager")
    adapter = LoraAdapter(rank=3, alpha=6.0, dora=dora)

    def adapt(base: Any) -> Any:
        return load.add_adapter(base.requires_grad_(False), adapter=adapter, seed=7)

    expected = adapt(load.load_model(settings))
    mesh = make_mesh("shard", device_type="cpu", node_size=ranks.count)
    model = load_sharded(settings, ranks=ranks, mesh=mesh, adapt=adapt)
    trained = {str(p.dtype) for p in model.parameters() if p.requires_grad}
    return _wrong(root_of(model), root_of(expected)), trained


def test_a_fresh_adapter_is_that_of_one_device(tmp_path: Path) -> None:
    folder = _saved(tmp_path / "model", "qwen2-untied")
    for wrong, trained in on_ranks(_adapted, 2, folder, False):
        assert wrong == [] and trained == {"torch.float32"}


def _offloaded(ranks: TorchRanks, folder: Path) -> tuple[list[str], float]:
    mesh = make_mesh("shard", device_type="cpu", node_size=ranks.count)
    settings = ModelSettings(path=str(folder), device="cpu", attention="eager")
    model = load_sharded(
        settings,
        ranks=ranks,
        mesh=mesh,
        offload=True,
        adapt=lambda base: base.requires_grad_(False),
    )
    expected, ids = load.load_model(settings), torch.arange(12)[None]
    with torch.no_grad():
        found = run_inside(model, lambda: model(input_ids=ids).logits)
        apart = float((found - expected(input_ids=ids).logits).abs().max())
    return _wrong(model, expected), apart


def test_an_offloaded_model_computes_the_same(tmp_path: Path) -> None:
    folder = _saved(tmp_path / "model", "qwen2-tied")
    for wrong, apart in on_ranks(_offloaded, 2, folder):
        assert wrong == [] and apart == 0


def test_a_reference_is_stored_in_the_dtype_it_computes_in() -> None:
    settings = ModelSettings(dtype="float32", compute="bfloat16")
    assert reference_settings(settings).dtype == "bfloat16"
    assert reference_settings(settings.model_copy(update={"compute": "stored"})).dtype == "float32"


@pytest.mark.parametrize("revision", [None, "v2", "b" * 40])
def test_the_files_of_a_hub_model_are_those_of_its_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, revision: str | None
) -> None:
    from huggingface_hub import constants

    repository = tmp_path / "models--some--model"
    (repository / "refs").mkdir(parents=True)
    for name, commit in (("main", "a" * 40), ("v2", "b" * 40)):
        (repository / "refs" / name).write_text(commit)
        folder = repository / "snapshots" / commit
        build_model("llama").save_pretrained(folder, max_shard_size="20KB")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    files = _files("some/model", revision=revision)
    commit = ("b" if revision else "a") * 40
    assert len(files) > 1 and {file.parent.name for file in files} == {commit}
    files[0].unlink()
    assert _files("some/model", revision=revision) == []


def _peak_of_loading(ranks: TorchRanks, small: Path, large: Path) -> float:
    """Return what loading adds to the process at its peak, in bytes."""
    mesh = make_mesh("shard", device_type="cpu", node_size=ranks.count)
    peak = 0.0
    for folder in (small, large):  # the first load imports what it needs
        settings = ModelSettings(path=str(folder), device="cpu", attention="eager")
        before = _status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak is that of now
        kept = load_sharded(settings, ranks=ranks, mesh=mesh)
        peak = _status("VmHWM") - before
        del kept
    return peak


def _status(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) * 1024 for line in lines if line.startswith(field))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_a_rank_never_holds_much_more_than_its_share(tmp_path: Path) -> None:
    small, large = _saved(tmp_path / "small", "qwen2-tied"), tmp_path / "large"
    sizes = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 6}
    build_model("qwen2-tied", **sizes).to(torch.bfloat16).save_pretrained(
        large, max_shard_size="20MB"
    )
    whole = 2 * sum(path.stat().st_size for path in large.glob("*.safetensors"))  # in float32
    assert whole > 150e6
    for peak in on_ranks(_peak_of_loading, 4, small, large):
        assert 0.2 * whole < peak < 0.4 * whole
