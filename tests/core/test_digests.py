"""A checkpoint that is not as it was written is noticed, and by whoever loads it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from dgpo_cli.core.errors import CheckpointError
from dgpo_cli.engine.checkpoint import check_checkpoint
from dgpo_cli.engine.stored import load_stored
from dgpo_cli.policy.load import load_model
from dgpo_cli.policy.load_policy import load_for_sampling
from dgpo_cli.policy.settings import ModelSettings
from tests.engine.checkpoints import load, save, trained


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0b1000000
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def empty(path: Path) -> None:
    path.write_bytes(b"")


DAMAGES: dict[str, Callable[[Path], None]] = {
    "flipped": flip_a_bit,
    "cut": cut,
    "empty": empty,
    "missing": Path.unlink,
}


@pytest.fixture(scope="module", params=["full", "lora"])
def whole(
    request: pytest.FixtureRequest, model_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "c"
    save(folder, *trained(model_folder, request.param))
    return folder


def earlier(folder: Path) -> Path:
    """Make a checkpoint one of a version that wrote no digests."""
    (folder / "SHA256SUMS").unlink()
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps({**state, "format": 1}))
    return folder


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_whatever_happens_to_any_file_is_noticed_and_named(
    whole: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    assert check_checkpoint(whole)
    names = sorted(path.name for path in whole.iterdir())
    assert {"trainer.pt", "state.json", "SHA256SUMS", "tokenizer.json"} < set(names)
    for name in names:
        copy = tmp_path / name
        shutil.copytree(whole, copy)
        damage(copy / name)
        with pytest.raises(CheckpointError, match=name) as caught:
            check_checkpoint(copy)
        assert "\n" not in str(caught.value)


def test_the_digests_are_those_of_sha256sum(whole: Path) -> None:
    command = ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"]
    assert subprocess.run(command, cwd=whole, check=False).returncode == 0


def test_a_file_that_came_later_is_no_damage(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "c")
    (tmp_path / "c" / "notes.txt").write_text("the good one")
    assert check_checkpoint(tmp_path / "c")


@pytest.mark.parametrize("name", ["trainer.pt", "weights", "config", "state.json"])
@pytest.mark.parametrize("damage", [cut, empty, Path.unlink], ids=["cut", "empty", "missing"])
def test_without_digests_a_file_must_be_whole(
    whole: Path, tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    shutil.copytree(whole, tmp_path / "c")
    folder = earlier(tmp_path / "c")
    assert not check_checkpoint(folder)
    adapter = (folder / "adapter_config.json").exists()
    if name == "weights":
        name = "adapter_model.safetensors" if adapter else "model.safetensors"
    if name == "config":
        if damage is cut or adapter:
            return  # JSON that is cut does not load; an adapter is known by its configuration
        name = "config.json"
    damage(folder / name)
    with pytest.raises(CheckpointError, match=name):
        check_checkpoint(folder)


def test_a_missing_shard_is_noticed_without_digests(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "c")
    folder = earlier(tmp_path / "c")
    if (folder / "adapter_config.json").exists():
        return
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"model-2\.safetensors: is missing"):
        check_checkpoint(folder)


@pytest.mark.parametrize("content", [b"", b"\xff\n", b"abc\n", b"abc  state.json\n"])
def test_digests_that_cannot_be_read_are_damage(
    whole: Path, tmp_path: Path, content: bytes
) -> None:
    shutil.copytree(whole, tmp_path / "c")
    (tmp_path / "c" / "SHA256SUMS").write_bytes(content)
    with pytest.raises(CheckpointError, match="SHA256SUMS"):
        check_checkpoint(tmp_path / "c")


def test_no_door_loads_changed_weights(model_folder: Path, tmp_path: Path) -> None:
    save(tmp_path / "full", *trained(model_folder, "full"))
    save(tmp_path / "lora", *trained(model_folder, "lora"))
    flip_a_bit(tmp_path / "full" / "model.safetensors")
    flip_a_bit(tmp_path / "lora" / "adapter_model.safetensors")
    changed = ModelSettings(path=str(tmp_path / "full"), device="cpu")
    base = ModelSettings(path=str(model_folder), device="cpu")
    for door in (
        lambda: load_model(changed),
        lambda: load_model(base, folder=tmp_path / "full"),
        lambda: load_for_sampling(base, adapter=tmp_path / "lora"),
        lambda: load_for_sampling(base, reference=changed),
        lambda: load_stored(changed, adapter=None),
        lambda: load_stored(base, adapter=tmp_path / "lora"),
        lambda: load(model_folder, "full", checkpoint=tmp_path / "full"),
        lambda: load(model_folder, "lora", checkpoint=tmp_path / "lora"),
    ):
        with pytest.raises(CheckpointError, match="has changed since it was written"):
            door()


def test_a_model_is_loaded_whatever_became_of_the_optimiser(
    model_folder: Path, tmp_path: Path
) -> None:
    save(tmp_path / "c", *trained(model_folder, "full"))
    flip_a_bit(tmp_path / "c" / "trainer.pt")
    load_model(ModelSettings(path=str(tmp_path / "c"), device="cpu"))
    assert check_checkpoint(tmp_path / "c", optimizer=False)
    with pytest.raises(CheckpointError, match=r"trainer\.pt"):
        check_checkpoint(tmp_path / "c")
