"""Completions, evaluations and consoles that the report tests share, and the snapshot check.

Snapshots are text files in tests/report/snapshots with ESC written as ␛. After a wanted change of
the output write them anew with `DGPO_UPDATE_SNAPSHOTS=1 pytest tests/report` and read the diff.
"""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType

from dgpo_cli.algo.estimators import ProblemSamples, summarise
from dgpo_cli.types import (
    Card,
    Evaluation,
    InspectedCompletion,
    InspectedToken,
    Inspection,
    Outcome,
    Verdict,
)

SNAPSHOTS = Path(__file__).parent / "snapshots"
SYSTEMS = {"truecolor": "truecolor", "256": "256", "16": "standard", "none": None}
SGR = re.compile(r"\x1b\[[0-9;]*m")

HOSTILE = (
    "[red]",
    "\x1b[31m",
    "\x1b]0;owned\x07",
    "<script>alert(1)</script>",
    "שלום",
    " مرحبا",
    "",
    "🎉",
    "\ufffd",
    "\ufffd",
    "你好世界",
    "\t",
    "  \n\n",
    "\u202eevil\u2066",
    "a\u200bb\ufeff",
    "e\u0301",
    "\u0301",
    "\x00\x7f\x9b2J\x85\r\b",
    "\u2028\u2029",
    "\ud800",
    "\U000e0041",
    "[/]",
    "z" + "\u0300" * 40,
)


def completion(texts: Sequence[str], scores: Sequence[float], *, tau: float, **changes: Any):
    """A completion whose weights are the softmax of scores / tau, written out."""
    powers = [math.exp(score / tau) for score in scores]
    weights = [len(powers) * power / math.fsum(powers) for power in powers]
    tokens = tuple(
        InspectedToken(
            id=position,
            text=text,
            logprob=-0.125 * (position % 9),
            entropy=0.25 * (position % 5),
            hellinger_sq=min(1.0, 2.0 * score),
            score=score,
            weight=weight,
        )
        for position, (text, score, weight) in enumerate(zip(texts, scores, weights, strict=True))
    )
    squares = math.fsum(weight * weight for weight in weights)
    fields: dict[str, Any] = {
        "prompt_id": "sums-17",
        "index": 3,
        "prompt": "(12+7)*4-8?",
        "answer": "68",
        "outcome": "correct",
        "finish_reason": "stop",
        "reward": 1.0,
        "advantage": 0.75,
        "effective_fraction": len(weights) / squares if weights else 1.0,
        "tau": tau,
        "tokens": tokens,
    }
    return InspectedCompletion(**(fields | changes))


def solution(*, tau: float = 0.1) -> InspectedCompletion:
    """A worked sum that is unsure where intermediate results begin."""
    texts = [*"12+7=19;19*4=76;76-8=68;\\boxed{68}", "\n", "<|endoftext|>"]
    scores = [0.25 if at and texts[at - 1] == "=" else 0.01 * (at % 4) for at in range(len(texts))]
    return completion(texts, scores, tau=tau)


def hostile() -> InspectedCompletion:
    """Everything that could upset a terminal, in every field that is not ours."""
    scores = [0.05 * (at % 7) for at in range(len(HOSTILE))]
    nasty = "\x1b[2J[bold]\u202e\nq\x9b"
    return completion(HOSTILE, scores, tau=0.2, prompt_id=nasty, prompt=nasty, answer=nasty)


def inspection(*completions: InspectedCompletion, **changes: Any) -> Inspection:
    fields: dict[str, Any] = {
        "model": "runs/tiny/step-100",
        "reference": "data/tiny",
        "rule": "dgpo",
        "tau": 0.1,
        "kappa": 1.0,
        "vocab_size": 1024,
        "completions": completions,
    }
    return Inspection(**(fields | changes))


OTHERS: tuple[Outcome, ...] = ("wrong", "wrong", "truncated", "no_answer", "wrong", "out_of_range")


def problem(name: str, correct: int, *, k: int = 8, answer: str = "68") -> ProblemSamples:
    """Samples of one problem, the right ones spread among the others; lengths 10 to 10 k."""
    right = {at * k // correct for at in range(correct)} if correct else set()
    outcomes = ["correct" if at in right else OTHERS[at % len(OTHERS)] for at in range(k)]
    verdicts = [
        Verdict(
            outcome, {"correct": answer, "wrong": "7"}.get(outcome), float(outcome == "correct")
        )
        for outcome in outcomes
    ]
    return ProblemSamples(name, answer, verdicts, [10 * (at + 1) for at in range(k)])


def evaluation(
    correct: Sequence[int] = (0, 1, 4, 7, 8, 8), *, k: int = 8, **changes: Any
) -> Evaluation:
    """A result over problems p0, p1, ...; Avg@8 is 28 / 48 for the six of the default."""
    problems = [problem(f"p{at}", count, k=k) for at, count in enumerate(correct)]
    return replace(summarise("sums", problems), **changes)


def card(**protocol: Any) -> Card:
    """A card with something assumed, something unknown, nested entries and a long text."""
    entries = {
        "name": "paper",
        "unknown": ["prompts.template"],
        "template": "Solve the problem.\n\n{problem}\n\nThe last line is: Answer: $Answer.",
        "temperature": 0.6,
        "system": None,
        "checker": {"kind": "integer", "version": "3"},
        "revision": "unknown",
        "seed": 0,
    }
    return Card(
        protocol=entries | protocol,
        subject={"model": "runs/tiny/step-100", "prompt_ids": {"first": [1, 2, 3]}},
        environment={"backend": "hf", "versions": {"torch": "2.9.1"}},
    )


def printed(
    renderable: RenderableType, *, width: int = 80, color: str = "none", encoding: str = "utf-8"
) -> str:
    """What a terminal of this width, depth and encoding is sent."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n")
    console = Console(
        file=stream,
        width=width,
        force_terminal=True,
        color_system=SYSTEMS[color],  # type: ignore[arg-type]
        legacy_windows=False,
        _environ={},
    )
    console.print(renderable)
    stream.flush()
    return stream.buffer.getvalue().decode(encoding)


def check_snapshot(name: str, output: str) -> None:
    """Compare with the stored output, or store it where DGPO_UPDATE_SNAPSHOTS is set."""
    path = SNAPSHOTS / name
    shown = output.replace("\x1b", "␛")
    if os.environ.get("DGPO_UPDATE_SNAPSHOTS"):
        path.write_text(shown, encoding="utf-8")
    assert shown == path.read_text(encoding="utf-8")
