"""Completions, evaluations and consoles that the report tests share, and the snapshot check.

Snapshots are text files in tests/report/snapshots with ESC written as ␛. After a wanted change of
the output write them anew with `DGPO_UPDATE_SNAPSHOTS=1 pytest tests/report` and read the diff.
"""

from __future__ import annotations

import io
import math
import os
import random
import re
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.text import Text

from dgpo_cli.core.types import (
    Card,
    Evaluation,
    InspectedCompletion,
    InspectedToken,
    Inspection,
    Outcome,
    ValueCurve,
    ValuePoint,
    ValueSource,
    Verdict,
)
from dgpo_cli.stats.estimators import ProblemSamples, summarise
from dgpo_cli.stats.intervals import wilson
from dgpo_cli.ui.page import Page

SNAPSHOTS = Path(__file__).parent / "snapshots"
SYSTEMS = {"truecolor": "truecolor", "256": "256", "16": "standard", "none": None}
SGR = re.compile(r"\x1b\[[0-9;]*m")

SENTENCES = (
    "We need to find the sum of all integer bases",
    "Let me denote the number by $n$",
    "So $17_b = b + 7$ and $97_b = 9b + 7$",
    "Wait, that is not right because $b > 9$ is required",
    "Hmm... is 3.14 relevant here",
    "The divisors of 56 are 1, 2, 4, 7, 8, 14, 28, 56",
    "Alternatively, consider the case $b = 21$",
    "Therefore the answer is $\\boxed{70}$",
)
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


def reasoning(
    *, seed: int = 0, sentences: int = 40, alike: int = 12, tau: float = 0.3, **changes: Any
) -> InspectedCompletion:
    """A long completion of many sentences; the first `alike` are the same for every seed.

    Tokens are words and signs, equal texts have equal ids; sentences end in one of three ways.
    """
    common, own = random.Random(99), random.Random(seed)
    texts: list[str] = []
    for number in range(sentences):
        draw = common if number < alike else own
        text = draw.choice(SENTENCES) + draw.choice([". ", ".\n", ".\n\n"])
        texts += re.findall(r"\s?[A-Za-z]+|\s?\d|\s?[^\w\s]|\s+", text)
    hot = {"Wait", "Alternatively", "not", "Hmm", "Therefore"}
    scores = [own.uniform(0.5, 0.9) if text.strip() in hot else own.random() / 20 for text in texts]
    shown = completion(texts, scores, tau=tau, **changes)
    tokens = tuple(replace(token, id=zlib.crc32(token.text.encode())) for token in shown.tokens)
    return replace(shown, tokens=tokens)


def pair(**changes: Any) -> tuple[InspectedCompletion, InspectedCompletion]:
    """A right and a wrong completion that begin with the same sentences."""
    wrong = {"index": 6, "outcome": "wrong", "reward": 0.0, "advantage": -0.5}
    first, second = {"seed": 1, **changes}, {"seed": 2, **changes, **wrong}
    return reasoning(**first), reasoning(**second)


def hostile_pair() -> tuple[InspectedCompletion, InspectedCompletion]:
    """Two hostile completions that part in the middle of a character."""
    first = hostile()
    at = HOSTILE.index("") + 1
    other = replace(first.tokens[at], id=-1, text="🎊")
    tokens = (*first.tokens[:at], other, *reversed(first.tokens[at + 1 :]))
    return first, replace(first, index=9, outcome="wrong", advantage=-0.75, tokens=tokens)


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


VALUES_BY = ValueSource(16, "runs/tiny/checkpoints/step-000010", 1)


def valued(
    shown: InspectedCompletion,
    *,
    levels: Sequence[tuple[float, float]] = ((0.0, 0.875), (0.4, 0.0625)),
    count: int = 16,
    every: int = 1,
) -> InspectedCompletion:
    """A completion with values: from each share of its tokens on, the value beside it.

    count: continuations behind each. every: tokens from one point to the next. The last is 0.
    """
    length = len(shown.tokens)
    points = []
    for at in range(0, length, every):
        value = next(value for share, value in reversed(levels) if at >= share * length)
        found = wilson(value, size=count)
        points.append(ValuePoint(at, value, found.low, found.high, count))
    return replace(shown, values=ValueCurve((*points, ValuePoint(length, 0.0, 0.0, 0.0, 0))))


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


def texts(page: Page) -> list[str]:
    """The lines of a page without their colours."""
    return [line.plain for line in page.lines if isinstance(line, Text)]


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
