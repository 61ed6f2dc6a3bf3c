"""Evaluations for tests: a small file of problems, and a sampler that says what it is told to."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dgpo_cli.config.load import Resolved, resolve
from dgpo_cli.core.events import Observer
from dgpo_cli.core.types import Completion
from dgpo_cli.engine import setup
from dgpo_cli.evals import evaluate
from dgpo_cli.evals.request import EvalRequest, EvalResult
from dgpo_cli.samplers.base import SamplingParams
from tests.recorder import Notes

PROBLEMS = {"12+7": "19", "41+8": "49", "3*9": "27"}
SMALL = ("train.threads=1", "reward.workers=1", "rollout.backend.batch_size=4")
Text = Callable[[int], str]


@dataclass
class Asked:
    """A sampler double: the text of a completion follows from its seed alone.

    fail_after: batches after which it raises `failure`.
    """

    text: Text
    fail_after: int | None = None
    failure: BaseException = field(default_factory=KeyboardInterrupt)
    seeds: list[list[list[int]]] = field(default_factory=list)

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        seeds: Sequence[Sequence[int]],
        params: SamplingParams,
        observer: Observer,
    ) -> list[tuple[Completion, ...]]:
        if len(self.seeds) == self.fail_after:
            raise self.failure
        self.seeds.append([list(own) for own in seeds])
        return [tuple(self._completion(seed) for seed in own) for own in seeds]

    def _completion(self, seed: int) -> Completion:
        text = self.text(seed)
        ids = (*(ord(letter) % 256 for letter in text), 1)
        return Completion(ids, (-0.5,) * len(ids), text, "stop", 0, seed)

    def sync(self, *, policy_version: int) -> None:
        pass

    @property
    def batches(self) -> list[int]:
        return [sum(map(len, batch)) for batch in self.seeds]


def boxed(seed: int) -> str:
    """One right answer in three problems, now and then; all texts differ."""
    return rf"thinking of {seed}: \boxed{{{(19, 49, 27, 3)[seed % 4]}}}"


def install(monkeypatch: pytest.MonkeyPatch, sampler: Asked) -> Asked:
    monkeypatch.setattr(setup, "make_sampler", lambda settings, **_: sampler)
    return sampler


def problems(folder: Path, rows: dict[str, str] = PROBLEMS) -> str:
    path = folder / "three.jsonl"
    lines = [{"id": name, "problem": f"{name}?", "answer": gold} for name, gold in rows.items()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def settings(*overrides: str) -> Resolved:
    return resolve(preset="tiny", overrides=[*SMALL, *overrides])


def run(
    bench: str,
    k: int,
    out: Path | None,
    *overrides: str,
    notes: list[str] | None = None,
    **more: Any,
) -> EvalResult:
    return evaluate.run(
        more.pop("resolved", None) or settings(*overrides),
        request=EvalRequest(bench=bench, k=k, name="tiny", out=out, **more),
        observer=Notes([] if notes is None else notes),
    )


def stored(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
