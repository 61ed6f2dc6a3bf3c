r"""CPU time to judge answers: `python benchmarks/answers.py [CHARS]`.

The goals are under 100 microseconds for a verdict of the integer checker on completions of 32 KB,
and a few milliseconds at most for text that is made to be slow. The checker of letters also reads
the sentences of the last 8 KB, in milliseconds. The math checker is measured on
the cases of its tests. Second opinions are measured over 960 completions, with the workers' start
and import counted.
"""

from __future__ import annotations

import json
import random
import resource
import sys
import time
from pathlib import Path

from dgpo_cli.core.events import NOBODY
from dgpo_cli.core.types import Verdict
from dgpo_cli.rewards.answer import check_integer
from dgpo_cli.rewards.choice import check_choice
from dgpo_cli.rewards.grader import GradeItem
from dgpo_cli.rewards.integer import read_integer
from dgpo_cli.rewards.math import check_math, warm_up
from dgpo_cli.rewards.protocol import ChoiceExtract
from dgpo_cli.rewards.second_opinion import second_opinions

WHERE: ChoiceExtract = "boxed-or-answer-line"
MATH_CASES = Path(__file__).parents[1] / "tests" / "rewards" / "cases" / "math_cases.jsonl"
COMMON = (
    "so", "we", "have", "that", "the", "triangle", "$x^2 + y^2 = 25$", "and", r"\frac{1}{2}",
    "let", r"$\angle ABC = 60^\circ$", "which", "is", "therefore", r"\[ n = 12 \]", "wait,", "3",
    r"\text{or}", "cases.\n", r"\{1, 2\}", "check",
)  # fmt: skip
WORDS = COMMON * 50 + ("answer", "box", "$a < b$")
CONTRIVED = {
    "boxes": r"\boxed{1} ",
    "open boxes": r"\boxed{",
    "empty boxes": r"\boxed{}",
    "braces": "{}",
    "open braces": "{",
    "less-than signs": "<",
    "thinking": "<think></think>",
    "answers": "answer ",
    "answer lines": "Answer:\n",
    "digits": "7",
    "backslashes": "\\",
}  # fmt: skip


def prose(chars: int, *, seed: int) -> str:
    """`chars` characters that look like a solution."""
    draw = random.Random(seed)
    words: list[str] = []
    length = 0
    while length < chars:
        words.append(draw.choice(WORDS))
        length += len(words[-1]) + 1
    return " ".join(words)[:chars].replace("}{", "} {")


def typical(chars: int) -> dict[str, str]:
    """Completions as models write them."""
    text = prose(chars, seed=0)
    return {
        "thinking, then a box": rf"<think>{text}</think> so \boxed{{204}}",
        "a box at the end": rf"{text} so $\boxed{{204}}$.",
        "a box with units": rf"{text} so $\boxed{{x = 100 + 104 = 204\text{{ cm}}^2}}$.",
        "two boxes": rf"\boxed{{3}} {text} so $\boxed{{204}}$.",
        "a box at the start": rf"$\boxed{{204}}$. {text}",
        "an answer line": f"{text}\nAnswer: 204",
        "no answer": text,
        "thinking without end": f"<think>{text}",
        "a box that is open": rf"{text} so $\boxed{{20",
        "beyond Latin": rf"{text} → so $\boxed{{204}}$.",
    }


def microseconds(text: str, *, rounds: int) -> float:
    """CPU time of one verdict, the least of five measurements; nothing is remembered between."""
    best = float("inf")
    for _ in range(5):
        start = time.process_time()
        for _ in range(rounds):
            read_integer.cache_clear()
            check_integer("204", text, finish_reason="stop", where=WHERE, minimum=0, maximum=999)
        best = min(best, time.process_time() - start)
    return best / rounds * 1e6


def letter_microseconds(text: str) -> float:
    """CPU time of one verdict on a letter, the least of five."""
    best = float("inf")
    for _ in range(5):
        start = time.process_time()
        check_choice("C", text, finish_reason="stop", where=WHERE, choices=10)
        best = min(best, time.process_time() - start)
    return best * 1e6


def math_milliseconds() -> list[float]:
    """CPU time of each of the math checker's cases, in ascending order."""
    warm_up()
    took = []
    for line in MATH_CASES.read_text(encoding="utf-8").splitlines():
        case = json.loads(line)
        start = time.process_time()
        check_math(case["gold"], case["output"], finish_reason="stop", where=WHERE)
        took.append((time.process_time() - start) * 1e3)
    return sorted(took)


def second_opinion_seconds(chars: int) -> float:
    """CPU seconds of second opinions on 960 completions, workers included."""
    draw = random.Random(1)
    answers = ["204", "25", "113", r"204\text{ cm}", "x = 113", r"\frac{408}{2}", "1{,}016"]
    items = [
        GradeItem(
            draw.choice(["204", "25", "113"]),
            rf"{prose(200, seed=index)} \boxed{{{draw.choice(answers)}}}" + " " * chars,
            "stop",
        )
        for index in range(960)
    ]
    verdicts = [
        Verdict(*check_integer(i.gold, i.text, finish_reason="stop", where=WHERE), 0.0)
        for i in items
    ]
    before = cpu_seconds()
    second_opinions(
        items,
        verdicts=verdicts,
        where=WHERE,
        timeout_s=5,
        workers=2,
        observer=NOBODY,
    )
    return cpu_seconds() - before


def cpu_seconds() -> float:
    """CPU seconds of this process and of its children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def main() -> None:
    """Print the CPU time of each kind of text."""
    chars = int(sys.argv[1]) if len(sys.argv) > 1 else 32_000
    for name, text in typical(chars).items():
        print(f"{name:22} {microseconds(text, rounds=200):9.1f} us")
    for name, unit in CONTRIVED.items():
        text = unit * (chars // len(unit))
        print(f"{'contrived: ' + name:26} {microseconds(text, rounds=20):9.1f} us")
    for name, text in typical(chars).items():
        took_us = letter_microseconds(text.replace("204", "C"))
        print(f"{'letter: ' + name:31} {took_us:9.1f} us")
    took = math_milliseconds()
    for share in (0.5, 0.9, 0.99, 1.0):
        print(f"math, {share:4.0%} within {took[round(share * (len(took) - 1))]:8.2f} ms")
    print(f"second opinions on 960: {second_opinion_seconds(chars):.2f} s CPU")


if __name__ == "__main__":
    main()
