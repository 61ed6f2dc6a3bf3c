"""The embedded model learns, evaluated by the commands that a user types."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.train.test_kill import run_command


def evaluate(*subject: str, out: Path) -> dict[str, float]:
    text = run_command(
        "eval", "--bench", "sums", "--k", "32", *subject, "--out", str(out), "--json"
    )
    report: dict[str, float] = json.loads(text)
    return report


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_first_command_of_the_readme_lifts_the_base_by_thirty_points(tmp_path: Path) -> None:
    before = evaluate("--preset", "tiny", out=tmp_path / "before")
    assert 0.35 <= before["avg_at_k"] <= 0.60
    assert before["pass_at_k"]["32"] > 0.95  # type: ignore[index]
    run = tmp_path / "run"
    run_command("train", "--preset", "tiny", "--out", str(run))
    after = evaluate("--run", str(run), out=tmp_path / "after")
    assert after["avg_at_k"] >= max(0.80, before["avg_at_k"] + 0.30)
    shown = json.loads(run_command("inspect", str(run), "--json"))
    tokens = [token for completion in shown["completions"] for token in completion["tokens"]]
    assert max(token["hellinger_sq"] for token in tokens) > 0.01
