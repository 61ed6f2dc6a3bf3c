"""Laws of the examples: each runs as a script, and what it defines works in settings."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dgpo_cli import RewardCompletion
from dgpo_cli.config.load import load_settings, resolve
from dgpo_cli.core.events import NOBODY
from dgpo_cli.core.types import TokenStats
from dgpo_cli.train import train

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


def test_the_example_of_own_rewards_scores_completions() -> None:
    lines = run("own_reward.py")
    assert len(lines) == 8
    for line in lines:
        reward, outcome, *rest = line.split()
        named = {name: float(value) for name, value in zip(rest[:-1:2], rest[1:-1:2], strict=True)}
        total = named["close"] + 0.2 * named["steps"] + 0.1 * named["shortest"]
        assert float(reward) == pytest.approx(total, abs=0.01)
        assert (outcome == "correct") == (named["close"] == 1.0)
    for group in (lines[:4], lines[4:]):
        assert any("shortest 1.00" in line for line in group)


def test_the_functions_of_the_example_are_what_their_words_say() -> None:
    own = runpy.run_path(str(ROOT / "examples" / "own_reward.py"))
    texts = [r"12+7=19;19*4=75;\boxed{75}", "no step"]
    given = [RewardCompletion(text, token_ids=(1,) * n) for n, text in enumerate(texts, start=1)]
    assert [own["steps"](each) for each in given] == [0.5, None]
    assert own["close"](given, ["76", "76"]) == [
        (0.5, "wrong", "off by 1"),
        (0.0, "no_answer", None),
    ]
    assert own["shortest"](given) == [True, False]


def test_the_example_of_two_rewards_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    settings = ["train.steps=1", "train.rollouts_every=1", "reward.workers=1"]
    resolved = resolve(config=Path("examples/two_rewards.toml"), overrides=settings)
    found = train.run(resolved, out=tmp_path / "run", resume="auto", observer=NOBODY).last
    assert found["reward/mean"] == pytest.approx(
        found["reward/integer_mean"] + 0.2 * found["reward/steps_mean"], abs=0.05
    )
    decided = found["reward/integer_decides"] + found["reward/steps_decides"]
    assert 0 < decided <= 1 and found["reward/unscored"] == 0.0
    assert "steps" in (tmp_path / "run" / "rollouts" / "step-000001.jsonl").read_text()
