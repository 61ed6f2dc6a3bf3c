"""Laws of fingerprints: equal for equal content wherever it lies, and for nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dgpo_cli.core.errors import ModelError
from dgpo_cli.policy import fingerprint
from dgpo_cli.policy.fingerprint import (
    adapter_fingerprint,
    model_folder,
    text_fingerprint,
    tokenizer_fingerprint,
    weights_fingerprint,
)
from tests.policy import tiny


@pytest.fixture
def folder(model_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model_folder, tmp_path / "model"))


def change_weight(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    name = sorted(tensors)[len(tensors) // 2]
    tensors[name].view(-1)[7] += 1.0
    save_file(tensors, path, metadata={"format": "pt"})


def rename_weight(folder: Path) -> None:
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b"model.norm.weight", b"model.morn.weight"))


def change_config(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "rms_norm_eps": 0.1}))


def test_a_copy_has_the_same_fingerprint(folder: Path, model_folder: Path) -> None:
    found = weights_fingerprint(folder)
    assert found == weights_fingerprint(model_folder)
    assert (found["method"], len(found["sha256"])) == ("whole files", 64)


@pytest.mark.parametrize("change", [change_weight, rename_weight, change_config])
def test_any_change_is_another_fingerprint(folder: Path, change: Callable[[Path], None]) -> None:
    before = weights_fingerprint(folder)
    change(folder)
    assert weights_fingerprint(folder) != before


@pytest.mark.parametrize("change", [rename_weight, change_config])
def test_large_weights_are_known_by_headers_heads_and_tails(
    folder: Path, change: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprint, "FULL_BYTES", 1)
    monkeypatch.setattr(fingerprint, "_EDGE_BYTES", 64)
    before = weights_fingerprint(folder)
    assert before["method"] == "headers, heads and tails"
    path = folder / "model.safetensors"
    raw = bytearray(path.read_bytes())
    seen = set()
    for place in (len(raw) - 1, len(raw) - 64, 8 + int.from_bytes(raw[:8], "little")):
        raw[place] ^= 1
        path.write_bytes(raw)
        seen.add(weights_fingerprint(folder)["sha256"])
    assert len(seen | {before["sha256"]}) == 4
    change(folder)
    assert weights_fingerprint(folder)["sha256"] not in seen


def test_a_cut_file_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "FULL_BYTES", 1)
    (folder / "model.safetensors").write_bytes(b"\xff\xff\0\0\0\0\0\0{}")
    with pytest.raises(ModelError, match=r"model\.safetensors: not a safetensors file"):
        weights_fingerprint(folder)


def test_sharded_weights_count_every_shard(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    (folder / "model.safetensors").unlink()
    shards = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, own in shards.items():
        save_file({name: tensors[name] for name in own}, folder / file)
    index = {"weight_map": {name: file for file, own in shards.items() for name in own}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    before = weights_fingerprint(folder)
    last = shards["model-2.safetensors"]
    tensors[last[-1]] = tensors[last[-1]] + 1
    save_file({name: tensors[name] for name in last}, folder / "model-2.safetensors")
    assert weights_fingerprint(folder) != before


def test_a_folder_without_weights_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="no safetensors files"):
        weights_fingerprint(tmp_path)


def test_an_adapter_is_its_weights_and_its_settings(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no adapter_model\.safetensors"):
        adapter_fingerprint(tmp_path)
    seen = set()
    for scale, rank in ((1.0, 1), (2.0, 1), (1.0, 2)):
        save_file({"a": torch.ones(3) * scale}, tmp_path / "adapter_model.safetensors")
        (tmp_path / "adapter_config.json").write_text(json.dumps({"r": rank}))
        seen.add(adapter_fingerprint(tmp_path)["sha256"])
    assert len(seen) == 3


def test_a_tokenizer_is_known_by_its_file_or_else_its_vocabulary(folder: Path) -> None:
    tokenizer = tiny.char_tokenizer()
    with_file = tokenizer_fingerprint(tokenizer, folder=folder)
    (folder / "tokenizer.json").write_text("{}")
    assert tokenizer_fingerprint(tokenizer, folder=folder) != with_file
    (folder / "tokenizer.json").unlink()
    vocabulary = tokenizer_fingerprint(tokenizer, folder=folder)
    assert vocabulary == text_fingerprint(tokenizer.get_vocab()) != with_file


def test_no_text_has_no_fingerprint() -> None:
    assert text_fingerprint(None) is None
    # printf 'abc' | sha256sum
    assert text_fingerprint("abc") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


def test_a_model_is_found_in_its_folder_or_in_the_cache(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    assert model_folder(str(folder), revision=None) == folder
    asked = []

    def cached(*arguments: object, **named: object) -> str | None:
        asked.append((arguments, named))
        return str(folder / "config.json") if arguments[0] == "some/model" else None

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cached)
    assert model_folder("some/model", revision="abc") == folder
    assert asked == [(("some/model", "config.json"), {"revision": "abc"})]
    with pytest.raises(ModelError, match=r"model\.path=other/model"):
        model_folder("other/model", revision=None)
