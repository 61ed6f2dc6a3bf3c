"""An input that is not there, or is none, is exit code 2 and one line, whatever the command."""

from __future__ import annotations

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
