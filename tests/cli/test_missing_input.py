"""An input that is not there, or is none, is exit code 2 and one line, whatever the command."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cli.helpers import in_process as dgpo

COMMANDS = (
    ("train", "--config", "X"),
    ("train", "--preset", "tiny", "--out", "o", "--set", "model.path=X"),
    ("rollout", "--preset", "tiny", "--prompts", "X", "--out", "o.jsonl"),
    ("rollout", "--model", "X", "--prompts", "sums", "--out", "o.jsonl"),
    ("rollout", "--preset", "tiny", "--adapter", "X", "--prompts", "sums", "--out", "o.jsonl"),
    ("eval", "--bench", "X", "--preset", "tiny"),
    ("eval", "--bench", "sums", "--run", "X"),
    ("eval", "--bench", "sums", "--model", "X"),
    ("eval", "--bench", "sums", "--preset", "tiny", "--adapter", "X"),
    ("eval", "--bench", "aime2024", "--preset", "tiny", "--data", "X"),
    ("compare", "X", "X"),
    ("check", "X"),
    ("regrade", "X"),
    ("plan", "--config", "X"),
    ("inspect", "X"),
    ("inspect", "--model", "X", "--reference", "X", "--prompt", "a", "--completion", "b"),
    ("report", "X"),
    ("merge", "X", "--out", "m"),
    ("push", "X", "me/x", "--dry-run"),
)


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("kind", ["absent", "a folder", "an empty file"])
def test_a_missing_input_is_usage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], kind: str
) -> None:
    if kind == "an empty file" and "--config" in arguments:
        return  # no setting is changed
    monkeypatch.chdir(tmp_path)
    if kind == "a folder":
        (tmp_path / "input").mkdir()
    if kind == "an empty file":
        (tmp_path / "input").write_bytes(b"")
    ended = dgpo(*(word.replace("X", "./input") for word in arguments))
    assert ended.exit_code == 2, ended.stderr
    errors = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert errors and ("input" in errors[0] or "different problems" in errors[0])
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("report", "X"), "path 'X' is not readable; see dgpo report --help"),
        (
            ("eval", "--bench", "sums", "--run", "X"),
            "--run: path 'X' is not readable; see dgpo eval --help",
        ),
    ],
)
def test_a_folder_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], told: str
) -> None:
    (tmp_path / "X").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may read everything
    ended = dgpo(*arguments)
    assert (ended.exit_code, ended.stderr) == (2, f"error: {told}\n")


@pytest.mark.parametrize(
    ("arguments", "fix"),
    [
        (("report", "X"), "name a run folder"),
        (("merge", "X", "--out", "m"), "name a run folder"),
        (("regrade", "X"), "name the folder of an evaluation"),
    ],
)
def test_a_folder_that_is_absent_is_said_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], fix: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert dgpo(*arguments).stderr == f"error: X: no such folder; {fix}\n"


@pytest.mark.parametrize("out", ["taken", "taken/r.jsonl", "folder"])
def test_rollout_tries_its_file_before_it_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    monkeypatch.setattr("dgpo_cli.evals.rollout.sampling_engine", _no_engine)
    ended = dgpo("rollout", "--preset", "tiny", "--prompts", "sums", "--out", out)
    if out == "taken":  # a file is replaced
        assert "sampled" in ended.stderr
    else:
        assert ended.exit_code == 2
        assert ended.stderr.startswith(f"error: --out {out}: ")
        assert ended.stderr.endswith("name a file that you can write to\n")


def _no_engine(*args: object, **more: object) -> None:
    raise RuntimeError("sampled")
