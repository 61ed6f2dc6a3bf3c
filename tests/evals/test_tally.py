"""Laws of what a report takes from stored samples: disagreements and repetitions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from dgpo_cli.evals.samples import Sample, verdict_of
from dgpo_cli.evals.tally import are_odd, disagreements, duplicates


def sample(name: str = "p", index: int = 0, **fields: Any) -> Sample:
    given: dict[str, Any] = {"outcome": "wrong", "second": None, "fingerprint": 1, **fields}
    return Sample(
        prompt_id=name,
        index=index,
        tokens=given.get("tokens", 3),
        fingerprint=given["fingerprint"],
        answer="204",
        verdict=verdict_of(given["outcome"], "5"),
        checker="1",
        second=given["second"],
        starts_in_thought=None,
        logprob=given.get("logprob"),
    )


@pytest.mark.parametrize(
    ("outcome", "second", "disagree"),
    [
        ("correct", "correct", False),
        ("correct", "wrong", True),
        ("correct", "no_answer", True),
        ("wrong", "correct", True),
        ("truncated", "correct", True),
        ("wrong", "no_answer", False),
        ("out_of_range", "wrong", False),
        ("correct", "timeout", False),
        ("correct", "crash", False),
        ("timeout", "correct", False),
        ("crash", "correct", False),
        ("correct", None, False),
        ("wrong", None, False),
    ],
)
def test_only_right_against_not_right_is_a_disagreement(
    outcome: str, second: str | None, disagree: bool
) -> None:
    found = disagreements([[sample(outcome=outcome, second=second)]])
    assert len(found) == disagree
    for each in found:
        assert (each.problem_id, each.index, each.gold, each.extracted) == ("p", 0, "204", "5")
        assert (each.outcome, each.second) == (outcome, second)


def test_repetitions_count_within_a_problem_and_leave_the_first_out() -> None:
    a = [sample("a", n, fingerprint=mark) for n, mark in enumerate((1, 2, 1, 1, 3))]
    b = [sample("b", n, fingerprint=mark) for n, mark in enumerate((1, 2, 3, 3))]
    assert (duplicates([a, b]), duplicates([a]), duplicates([[]])) == (3, 2, 0)


def drawn(
    rng: np.random.Generator, *, k: int, concentration: float, problems: int = 30
) -> list[list[Sample]]:
    """Samples of problems with 200 texts each; a small concentration leaves few of them likely."""
    found = []
    for number in range(problems):
        chances = rng.dirichlet(np.full(200, concentration)).clip(1e-12)
        texts = rng.choice(200, k, p=chances / chances.sum())
        found.append(
            [
                sample(str(number), at, fingerprint=int(text), logprob=math.log(chances[text]))
                for at, text in enumerate(texts)
            ]
        )
    return found


@pytest.mark.parametrize("k", [2, 32])
@pytest.mark.parametrize("concentration", [0.002, 0.05, 1.0, 100.0])
def test_repetitions_of_independent_samples_are_not_odd(k: int, concentration: float) -> None:
    """However many there are: 900 of 960 samples with the smallest concentration."""
    rng = np.random.default_rng(7)
    runs = [drawn(rng, k=k, concentration=concentration) for _ in range(40)]
    assert not any(are_odd(run, top_p=1.0, top_k=0) for run in runs)
    if k == 32 and concentration < 0.05:
        assert min(map(duplicates, runs)) > 800


@pytest.mark.parametrize("concentration", [0.05, 1.0])
def test_a_sampler_that_gives_samples_twice_is_odd(concentration: float) -> None:
    rng = np.random.default_rng(8)
    for _ in range(10):
        run = drawn(rng, k=32, concentration=concentration)
        again = [own[:16] + own[:16] for own in run]
        assert are_odd(again, top_p=1.0, top_k=0)
        assert are_odd([own[:1] * 32 for own in run], top_p=1.0, top_k=0)  # one seed for all


def test_a_nucleus_makes_repetitions_likelier_and_not_odd() -> None:
    rng = np.random.default_rng(9)
    for _ in range(10):
        # texts of 3 tokens: their chances are of all the texts, but only the likeliest come
        run = drawn(rng, k=32, concentration=0.3)
        keep = [sorted(own, key=lambda each: -(each.logprob or 0.0))[:22] for own in run]
        kept = [[*own, *own[:10]] for own in keep]
        assert not are_odd(kept, top_p=0.7, top_k=0)
        assert are_odd(kept, top_p=1.0, top_k=0)


def test_what_is_not_known_is_not_odd() -> None:
    twice = [[sample("p", at, fingerprint=1, logprob=-90.0) for at in range(32)] for _ in range(9)]
    assert are_odd(twice, top_p=1.0, top_k=0) and are_odd(twice, top_p=0.95, top_k=0)
    assert not are_odd(twice, top_p=1.0, top_k=20)
    assert not are_odd(twice, top_p=None, top_k=None)
    twice[3][0] = sample("p", 0, fingerprint=1)
    assert not are_odd(twice, top_p=1.0, top_k=0)
