"""Evaluations of several models on several benchmarks, and their table."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from dgpo_cli.core.types import Card, Evaluation
from dgpo_cli.evals.matrix.table import Attempt, Table, make_table
from tests.samples import card, evaluation


def scored(bench: str, chance: float, *, seed: int, n: int = 30, k: int = 16) -> Evaluation:
    """Problems whose chances spread by 20 points around one."""
    own = random.Random(f"{bench} {seed}")
    chances = [min(1.0, max(0.0, chance + own.uniform(-0.2, 0.2))) for _ in range(n)]
    correct = tuple(sum(own.random() < each for _ in range(k)) for each in chances)
    return replace(evaluation(correct, k=k), bench=bench)


def attempt(
    model: str, bench: str, chance: float, *, seed: int = 0, own: Card | None = None, **more: Any
) -> Attempt:
    found = scored(bench, chance, seed=seed, **more)
    return Attempt(model, bench, found, own or card(bench=bench), folder=f"evals/{bench}-{model}")


def shown_table() -> Table:
    """Three models, of which one is the best by far; one costs something and one fails once."""
    found = [
        attempt("tiny", "sums", 0.3),
        attempt("DeepSeek-R1-Distill-Qwen-7B", "sums", 0.7),
        attempt("tiny_[2]&", "sums", 0.32, seed=1),
        attempt("tiny", "a|b.jsonl", 0.4),
        attempt("DeepSeek-R1-Distill-Qwen-7B", "a|b.jsonl", 0.6),
        Attempt("tiny_[2]&", "a|b.jsonl", failure="models/x: no such folder & no <model>"),
    ]
    priced = found[1].evaluation
    assert priced is not None
    found[1] = replace(found[1], evaluation=replace(priced, cost=1.25))
    return make_table(found)
