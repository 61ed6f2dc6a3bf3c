"""A checkpoint is complete or not there, a broken one is explained, and none runs code."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dgpo_cli.core.errors import CheckpointError
from dgpo_cli.engine.checkpoint import load_state, load_trainer
from dgpo_cli.policy.policy import Policy
from tests.engine.checkpoints import adamw_of, load, save, trained


def full_disk(*arguments: Any, **others: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def torn_zip(*arguments: Any, **others: Any) -> None:
    raise RuntimeError("[enforce fail at inline_container.cc] PytorchStreamWriter failed writing")


def torn_weights(*arguments: Any, **others: Any) -> None:
    from safetensors import SafetensorError

    raise SafetensorError("Error while serializing: I/O error: No space left on device")


def torn_tokenizer(*arguments: Any, **others: Any) -> None:
    raise Exception("No space left on device (os error 28)")  # that is what tokenizers raises


@pytest.mark.parametrize("failure", [full_disk, torn_zip, torn_weights, torn_tokenizer])
@pytest.mark.parametrize("where", ["weights", "trainer", "flush", "rename"])
def test_a_failed_write_leaves_nothing_behind(
    model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure: Callable[..., None],
    where: str,
) -> None:
    policy = load(model_folder, "full")
    target, name = {
        "weights": (policy.tokenizer.__class__, "save_pretrained"),  # after the model's files
        "trainer": (torch, "save"),
        "flush": (os, "fsync"),
        "rename": (os, "rename"),
    }[where]
    monkeypatch.setattr(target, name, failure)
    with pytest.raises(CheckpointError, match=r"c: cannot be written: .*\S"):
        save(tmp_path / "c", policy, adamw_of(policy))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("failure", [full_disk, torn_zip])
def test_a_full_disk_is_told_as_one(
    model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure: Callable[..., None],
) -> None:
    policy = load(model_folder, "full")
    monkeypatch.setattr(torch, "save", failure)
    usage = type(shutil.disk_usage(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 4096))
    told = rf"c: cannot be written: no space left on the disk of {tmp_path}; make room"
    with pytest.raises(CheckpointError, match=told):
        save(tmp_path / "c", policy, adamw_of(policy))


def test_an_interrupt_leaves_nothing_behind_and_stays_an_interrupt(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*arguments: Any, **others: Any) -> None:
        raise KeyboardInterrupt

    policy = load(model_folder, "full")
    monkeypatch.setattr(torch, "save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path / "c", policy, adamw_of(policy))
    assert list(tmp_path.iterdir()) == []


def test_a_partial_folder_of_a_killed_run_is_replaced(model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / ".c.partial").mkdir()
    (tmp_path / ".c.partial" / "stale.txt").write_text("left by a kill")
    policy = load(model_folder, "full")
    save(tmp_path / "c", policy, adamw_of(policy))
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
    assert not (tmp_path / "c" / "stale.txt").exists()


def test_a_checkpoint_that_is_there_is_never_overwritten(
    model_folder: Path, tmp_path: Path
) -> None:
    policy = load(model_folder, "full")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "state.json").write_text("precious")
    with pytest.raises(CheckpointError):
        save(tmp_path / "c", policy, adamw_of(policy))
    assert (tmp_path / "c" / "state.json").read_text() == "precious"
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


@pytest.mark.skipif(sys.platform != "linux", reason="names of open files are read from /proc")
def test_every_file_is_flushed_before_the_rename(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[str] = []
    plain = os.rename

    def note(descriptor: int) -> None:
        flushed.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)

    def rename(source: Path, target: Path) -> None:
        inside = {path.name for path in Path(source).rglob("*")}
        assert inside | {".c.partial"} == set(flushed)
        flushed.clear()
        plain(source, target)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(os, "rename", rename)
    policy = load(model_folder, "full")
    save(tmp_path / "c", policy, adamw_of(policy))
    assert flushed == [tmp_path.name]  # the folder that holds the new name, after the rename


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "{",
        "[]",
        "7",
        '{"step": 7}',
        '{"step": 7, "policy_version": 5, "bad_streak": 2, "format": 1, "more": 0}',
        '{"step": "7", "policy_version": 5, "bad_streak": 2, "format": 1}',
        '{"step": 7, "policy_version": 5, "bad_streak": null, "format": 1}',
        '{"step": -7, "policy_version": 5, "bad_streak": 2, "format": 1}',
        '{"step": 7, "policy_version": -5, "bad_streak": 2, "format": 1}',
        '{"step": 7, "policy_version": 5, "bad_streak": 2, "format": 1, "draws": -1}',
        '{"step": 7, "policy_version": 5, "bad_streak": 2, "format": 1, "prompts": true}',
        '{"step": 7, "policy_version": 5, "bad_streak": 2, "format": 1, "noise_floor": 1e400}',
        "[" * 100_000,
    ],
)
def test_a_broken_state_is_explained(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "state.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"state\.json: cannot be read"):
        load_state(tmp_path)


def test_another_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(
        '{"step": 7, "policy_version": 5, "bad_streak": 2, "format": 3}'
    )
    with pytest.raises(CheckpointError, match="format 3, this dgpo reads 2"):
        load_state(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"not a zip file",
        b"PK\x03\x04 torn",
        [],
        {"optimizer": {}},
        {"optimizer": {"state": {}, "param_groups": []}, "rng": {}},
        {"optimizer": None, "rng": None},
    ],
    ids=repr,
)
def test_a_broken_trainer_file_is_explained(policy: Policy, tmp_path: Path, content: Any) -> None:
    path = tmp_path / "trainer.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"trainer\.pt: cannot be resumed from: .") as caught:
        load_trainer(tmp_path, optimizer=adamw_of(policy))
    assert "\n" not in str(caught.value)


def test_a_torn_trainer_file_is_explained(model_folder: Path, tmp_path: Path) -> None:
    policy, optimizer = trained(model_folder, "lora")
    save(tmp_path / "c", policy, optimizer)
    path = tmp_path / "c" / "trainer.pt"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError, match="cannot be resumed from"):
        load_trainer(tmp_path / "c", optimizer=optimizer)


def test_the_trainer_file_of_another_model_is_refused(
    model_folder: Path, lora_policy: Policy, tmp_path: Path
) -> None:
    save(tmp_path / "c", *trained(model_folder, "full"))
    with pytest.raises(CheckpointError, match="cannot be resumed from"):
        load_trainer(tmp_path / "c", optimizer=adamw_of(lora_policy))


@pytest.mark.parametrize("way", ["torch", "pickle"])
def test_code_in_a_trainer_file_is_refused_and_not_run(
    policy: Policy, tmp_path: Path, way: str
) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "ran",)

    content = {"optimizer": Evil(), "rng": {}}
    if way == "torch":
        torch.save(content, tmp_path / "trainer.pt")
    else:
        (tmp_path / "trainer.pt").write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(CheckpointError, match="cannot be resumed from"):
        load_trainer(tmp_path, optimizer=adamw_of(policy))
    assert not (tmp_path / "ran").exists()
