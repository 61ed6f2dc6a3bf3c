"""The pair is of one prompt, right and wrong, and parts as late as any."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgpo_cli.core.errors import DataError
from dgpo_cli.core.types import Completion, Message, Outcome, Prompt, Verdict
from dgpo_cli.inspect import pairing
from dgpo_cli.runs.rollouts import RolloutLine

FILE = Path("x.jsonl")
IDS = st.lists(st.integers(0, 1), min_size=1, max_size=6).map(tuple)
OUTCOME = st.sampled_from(["correct", "wrong", "truncated", "crash"])


def line(prompt: str, outcome: Outcome, ids: tuple[int, ...], *, index: int = 0) -> RolloutLine:
    return RolloutLine(
        prompt=Prompt(prompt, (Message("user", prompt),), "1", "test"),
        index=index,
        prompt_ids=(1,),
        completion=Completion(ids, tuple(0.0 for _ in ids), "", "stop", 0, 0),
        temperature=1.0,
        verdict=Verdict(outcome, None, float(outcome == "correct")),
        reward=float(outcome == "correct"),
        advantage=None,
        stats=None,
    )


def pair_of(lines: list[RolloutLine], *, path: Path) -> tuple[RolloutLine, RolloutLine]:
    first, second = pairing.pair_of(lines, path=path)
    return lines[first], lines[second]


def common(a: RolloutLine, b: RolloutLine) -> int:
    first, second = a.completion.token_ids, b.completion.token_ids
    return max(n for n in range(len(first) + 1) if first[:n] == second[:n])


@given(st.lists(st.tuples(st.sampled_from("ab"), OUTCOME, IDS), max_size=10))
def test_it_is_the_longest_start_in_common_of_a_right_and_a_wrong_one(drawn) -> None:  # type: ignore[no-untyped-def]
    lines = [line(*each, index=at) for at, each in enumerate(drawn)]
    right = [each for each in lines if each.verdict.outcome == "correct"]
    others = [each for each in lines if each.verdict.outcome in ("wrong", "truncated")]
    both = [(a, b) for a in right for b in others if a.prompt.id == b.prompt.id]
    if not both:
        with pytest.raises(DataError, match=r"x\.jsonl: no prompt"):
            pair_of(lines, path=FILE)
        return
    first, second = pair_of(lines, path=FILE)
    assert any(first is a and second is b for a, b in both)
    rivals = [
        (a, b)
        for a, b in both
        if a.prompt.id == first.prompt.id and b.verdict.outcome == second.verdict.outcome
    ]
    assert common(first, second) == max(common(a, b) for a, b in rivals)
    has_wrong = any(b.verdict.outcome == "wrong" for _, b in both)
    assert (second.verdict.outcome == "wrong") == has_wrong


def test_of_several_prompts_the_most_evenly_mixed_one_is_taken() -> None:
    lopsided = [line("a", "correct", (1, 2, 3, 4))] + [line("a", "wrong", (1, 2, 3, 5))] * 3
    even = [line("b", "correct", (1, 2)), line("b", "wrong", (1, 3))]
    right, _ = pair_of([*lopsided, *even], path=FILE)
    assert right.prompt.id == "b"
    longer = [line("c", "correct", (1, 2, 3)), line("c", "wrong", (1, 2, 4))]
    right, _ = pair_of([*lopsided, *even, *longer], path=FILE)
    assert right.prompt.id == "c"


def test_unknown_outcomes_are_not_wrong() -> None:
    lines = [line("a", "correct", (1,)), line("a", "crash", (1,)), line("a", "timeout", (1,))]
    with pytest.raises(DataError, match="correct and a wrong"):
        pair_of(lines, path=FILE)


def test_a_completion_without_a_verdict_is_in_no_pair() -> None:
    lines = [line("a", "correct", (1,)), replace(line("a", "wrong", (1,)), verdict=None)]
    with pytest.raises(DataError, match="correct and a wrong"):
        pair_of(lines, path=FILE)
