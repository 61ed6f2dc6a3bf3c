"""Laws of the examples: each runs as a script, and what it defines works in settings."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dgpo_cli.config.load import load_settings
from dgpo_cli.core.types import TokenStats

ROOT = Path(__file__).parents[1]


def run(name: str) -> list[str]:
    """Run an example and return the lines that it printed."""
    ended = subprocess.run(
        [sys.executable, f"examples/{name}"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


def test_the_example_of_an_own_rule_and_loss_trains() -> None:
    first, second, *rows = run("own_credit_rule.py")
    assert first.startswith("step 1: ") and second.startswith("step 2: ")
    assert all(float(line.rpartition("gradient ")[2]) > 0 for line in (first, second))
    weights = [float(line.split()[-1]) for line in rows]
    assert sum(weights) / len(weights) == pytest.approx(1.0, abs=1e-3) and max(weights) > 2


def test_the_rule_of_the_example_is_what_its_words_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    rule = "examples/own_credit_rule.py:Surprise"
    settings = load_settings(overrides={"credit.rule": rule, "credit.power": 2.0})
    logprobs = torch.tensor([[-1.0, -2.0, -3.0, 0.0]])
    stats = TokenStats(logprobs, torch.zeros(1, 4), torch.zeros(1, 4))
    mask = torch.tensor([[True, True, True, False]])
    found = settings.credit.credit_for(stats, mask, torch.ones(1), vocab_size=9).weights
    torch.testing.assert_close(found, torch.tensor([[3 / 14, 12 / 14, 27 / 14, 0.0]]))


def test_the_loss_of_the_example_is_what_its_words_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    loss = "examples/own_credit_rule.py:Unclipped"
    settings = load_settings(overrides={"loss.kind": loss, "loss.cap": 2.0})
    logprobs = torch.log(torch.tensor([[0.5, 0.9]])).requires_grad_()
    losses, ratio, clipped = settings.loss.token_losses(
        logprobs,
        old_logprobs=torch.log(torch.tensor([[0.25, 0.3]])) + 0.0,
        token_advantages=torch.tensor([[1.0, -1.0]]),
        mask=torch.ones(1, 2, dtype=torch.bool),
    )
    torch.testing.assert_close(losses.detach(), torch.tensor([[-2.0, 2.0]]))
    torch.testing.assert_close(ratio, torch.tensor([[2.0, 3.0]]))
    assert clipped.tolist() == [[False, True]]
