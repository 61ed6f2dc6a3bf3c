"""Runs with credit by values lose nothing when they end in the middle of continuations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from dgpo_cli.core.errors import BackendError
from dgpo_cli.engine.sampling import SamplingEngine
from tests.train.test_train import numbers, run_tiny, weights

VALUES = ("credit.rule=value", "credit.continuations=4", "train.checkpoint_every=100")


class Failing:
    """A sampler that fails in the n-th round of continuations, counted over all steps; 0: never."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, at: int) -> None:
        self._at, self.rounds = at, 0
        self._complete = SamplingEngine.complete
        monkeypatch.setattr(SamplingEngine, "complete", lambda *a, **k: self(*a, **k))

    def __call__(self, engine: SamplingEngine, prefixes: Sequence[Any], **rest: Any) -> Any:
        self.rounds += 1
        if self.rounds == self._at:
            raise BackendError("the server is gone")
        return self._complete(engine, prefixes, **rest)


@pytest.mark.parametrize("dynamic", ["true", "false"])
def test_a_sampler_that_fails_among_continuations_costs_no_update(
    tmp_path: Path, dynamic: str
) -> None:
    settings = (*VALUES, f"rollout.dynamic_sampling={dynamic}")
    with pytest.MonkeyPatch.context() as patch:
        counted = Failing(patch, at=0)
        whole, whole_lines = run_tiny(tmp_path / "whole", *settings, steps=3)
    assert counted.rounds > 3
    assert all(line["values/tokens"] > line["values/continuations"] > 0 for line in whole_lines)
    with pytest.MonkeyPatch.context() as patch:
        Failing(patch, at=counted.rounds)  # the last of the third step
        with pytest.raises(BackendError, match="the server is gone"):
            run_tiny(tmp_path / "run", *settings, steps=3)
    again, lines = run_tiny(tmp_path / "run", *settings, steps=3, resume="must")
    assert len(lines) == 1
    assert numbers(lines) == numbers(whole_lines)[2:]
    one, two = weights(whole.checkpoint), weights(again.checkpoint)
    assert all(torch.equal(one[name], two[name]) for name in one)
