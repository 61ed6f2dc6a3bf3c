"""What training data shares with benchmarks is found, and chance likeness is not."""

from __future__ import annotations

import random

import pytest

from dgpo_cli.core.types import Message, Prompt
from dgpo_cli.prompts.contamination import find_contamination

LONG = " ".join(f"word{n}" for n in range(20))
MIDDLE = " ".join(f"term{n}" for n in range(9))
SHORT = "Compute 12+7*4 now"
BENCHMARKS = {"long": [LONG, "something else entirely"], "middle": [MIDDLE], "short": [SHORT]}


def hits(text: str) -> set[str]:
    prompt = Prompt("p", (Message("system", "Be brief."), Message("user", text)), "1", "test")
    return {name for name, ids in find_contamination([prompt], BENCHMARKS).items() if ids == ["p"]}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (LONG, {"long"}),
        (f"Solve this:\n\n{LONG.upper()}\n\nEnd with a box.", {"long"}),
        (LONG.replace(" ", " $\\,$ "), {"long"}),
        (f"Before {' '.join(LONG.split()[3:16])} after", {"long"}),  # 13 words of it
        (f"Before {' '.join(LONG.split()[3:15])} after", set()),  # 12 words of it
        (f"Before {MIDDLE} after", {"middle"}),
        (f"Before {' '.join(MIDDLE.split()[:8])} after", set()),
        (f"{MIDDLE} {LONG}", {"middle", "long"}),
        ("compute  $12 + 7 * 4$ now", {"short"}),
        ("Compute 12-7*4 now", set()),
        (f"Before {SHORT}", set()),
        ("", set()),
    ],
)
def test_what_overlaps(text: str, expected: set[str]) -> None:
    assert hits(text) == expected


def test_ids_come_in_the_order_of_the_prompts_and_once() -> None:
    texts = [LONG, "x", LONG + LONG, LONG]
    prompts = [Prompt(str(n), (Message("user", t),), "1", "") for n, t in enumerate(texts)]
    assert find_contamination(prompts, BENCHMARKS)["long"] == ["0", "2", "3"]


def test_overlap_agrees_with_a_slow_twin_on_random_texts() -> None:
    rng = random.Random(3)

    def text(low: int, high: int) -> list[str]:
        return [rng.choice("ab") for _ in range(rng.randrange(low, high))]

    def shares(tokens: list[str], problem: list[str]) -> bool:
        width = min(13, len(problem))
        parts = [problem[i : i + width] for i in range(len(problem) - width + 1)]
        inside = any(
            tokens[i : i + width] == part for part in parts for i in range(len(tokens) - width + 1)
        )
        return tokens == problem or (len(problem) >= 8 and inside)

    answers = set()
    for _ in range(60):
        problems = [text(1, 18) for _ in range(3)]
        tokens = text(1, 400)
        prompt = Prompt("p", (Message("user", " ".join(tokens)),), "1", "")
        found = find_contamination([prompt], {"b": [" ".join(p) for p in problems]})["b"]
        expected = any(shares(tokens, p) for p in problems)
        assert bool(found) == expected
        answers.add(expected)
    assert answers == {True, False}
