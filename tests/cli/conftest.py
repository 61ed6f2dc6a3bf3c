"""What the tests of the commands share: a runner in this process and stand-ins for workflows."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dgpo_cli.cli import options
from dgpo_cli.core.types import Evaluation, Verdict
from dgpo_cli.stats.estimators import ProblemSamples, summarise

ROOMS = {
    "evaluate": "evals",
    "inspect": "inspect",
    "regrade": "evals",
    "rollout": "evals",
    "train": "train",
}

Install = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def workflow(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Replace a workflow; returns the list of the arguments of its calls."""

    def install(name: str, *, returns: object = None, raises: BaseException | None = None) -> list:
        calls: list[dict[str, Any]] = []

        def run(*positional: object, **named: Any) -> object:
            calls.append({"resolved": positional[0] if positional else None, **named})
            if raises is not None:
                raise raises
            return returns

        room = import_module(f"dgpo_cli.{ROOMS[name]}")
        monkeypatch.setattr(room, name, SimpleNamespace(run=run), raising=False)
        monkeypatch.setattr(options, "reach", lambda model: None)
        return calls

    return install


@pytest.fixture
def trained() -> SimpleNamespace:
    return SimpleNamespace(
        out=Path("runs/tiny"),
        steps=3,
        trained=3,
        checkpoint=Path("runs/tiny/checkpoints/step-000003"),
        first={"reward/mean": 0.25},
        last={"reward/mean": 0.5},
        curve=(
            {"step": 0, "bench": "sums", "k": 8, "avg_at_k": 0.25},
            {"step": 3, "bench": "sums", "k": 8, "avg_at_k": 0.5},
        ),
    )


@pytest.fixture
def evaluation() -> Evaluation:
    verdicts = [Verdict("correct", "4", 1.0), Verdict("wrong", "5", 0.0)]
    return summarise("sums", [ProblemSamples("a", "4", verdicts, [6, 8])])
