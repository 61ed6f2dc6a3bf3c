"""Evaluations as they lie in folders, for tests of what is published of them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from dgpo_cli.core.types import Card, Evaluation
from dgpo_cli.evals.eval_folder import EvalFolder
from tests.samples import evaluation

DAY = 1767225600  # 2026-01-01, UTC
AIME = {
    "name": "boxed",
    "changed": {},
    "bench": "aime2026",
    "dataset": "math-ai/aime26",
    "revision": "79037aebdb6580008fb960d17cb21fd3099083e3",
    "n_problems": 30,
    "temperature": 0.6,
    "top_p": 0.95,
    "max_completion_tokens": 32768,
}
OWN = AIME | {"bench": "mine", "dataset": "mine.jsonl", "revision": None, "n_problems": 2}


def card_of(protocol: Mapping[str, Any], **subject: Any) -> Card:
    return Card(protocol=dict(protocol), subject=subject, environment={"backend": "hf"})


def aime() -> Evaluation:
    """Twelve of thirty problems solved in half of the samples: 20%."""
    return evaluation([4] * 12 + [0] * 18, k=8, bench="aime2026", truncated=0.125)


def own() -> Evaluation:
    return evaluation([1, 2], k=4, bench="mine")


def stored(folder: Path, found: Evaluation, card: Card) -> Path:
    """Write an evaluation's folder, with a sample file of the first day of 2026."""
    folder.mkdir(parents=True)
    files = EvalFolder(folder)
    files.write_card(card)
    files.write_report(found, card)
    files.samples.path.write_text("")
    os.utime(files.samples.path, (DAY, DAY))
    return folder


def aime_folder(folder: Path, *, k: int | None = None, **changes: Any) -> Path:
    subject = changes.pop("subject", {})
    found = aime() if k is None else replace(aime(), avg_at_k=0.5)
    return stored(folder, found, card_of(AIME | changes, **subject))
