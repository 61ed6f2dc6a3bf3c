"""What is shown of a step: one completion of each outcome first, the same for equal groups."""

from __future__ import annotations

from dgpo_cli.core.events import Credited, Sampled
from dgpo_cli.core.types import (
    Completion,
    Glimpse,
    Message,
    Outcome,
    Prompt,
    ScoredGroup,
    Shown,
    Verdict,
)
from dgpo_cli.live import glimpse as view


def group(name: str, *outcomes: Outcome) -> ScoredGroup:
    return ScoredGroup(
        prompt=Prompt(name, (Message("user", f"{name}?"),), "1", "test"),
        prompt_ids=(1,),
        completions=tuple(
            Completion((1,), (0.0,), f"{name} {at}", "stop", 0, at) for at in range(len(outcomes))
        ),
        verdicts=tuple(Verdict(outcome, None, float(outcome == "correct")) for outcome in outcomes),
        advantages=(0.0,) * len(outcomes),
    )


def glimpse(step: int, groups: list[ScoredGroup]) -> Glimpse:
    return view.glimpse(Sampled(step, tuple(groups)))


def test_the_first_of_each_outcome_is_shown() -> None:
    found = glimpse(7, [group("a", "wrong", "wrong"), group("b", "truncated", "correct")])
    assert (found.step, found.completions, found.groups) == (7, 4, 2)
    assert found.shown[:3] == (
        Shown("b?", "b 1", "correct", 1.0),
        Shown("a?", "a 0", "wrong", 0.0),
        Shown("b?", "b 0", "truncated", 0.0),
    )


def test_where_all_ended_alike_others_fill_up() -> None:
    found = glimpse(1, [group("a", "wrong", "wrong"), group("b", "wrong", "wrong")])
    assert [shown.text for shown in found.shown] == ["a 0", "b 1", "a 1", "b 0"]


def test_each_turn_shows_other_completions_until_all_were_shown() -> None:
    groups = tuple(group(name, *["wrong"] * 8) for name in "abcde")
    event = Sampled(1, groups)
    seen = [{shown.text for shown in view.glimpse(event, turn=turn).shown} for turn in range(4)]
    assert all(len(texts) == view.MOST for texts in seen)
    assert set.union(*seen) == {f"{name} {at}" for name in "abcde" for at in range(8)}


def test_credit_is_read_for_what_is_shown_alone() -> None:
    asked = []

    def tokens(row: int, most: int) -> tuple[tuple[str, float], ...]:
        asked.append(row)
        return (("x", 1.5),)

    groups = tuple(group(name, *["wrong"] * 8) for name in "abcde")
    found = view.glimpse(Credited(1, groups, tokens))
    assert len(asked) == view.MOST
    assert {shown.credit for shown in found.shown} == {(("x", 1.5),)}


def test_fewer_completions_than_places_are_all_shown_once() -> None:
    assert [s.text for s in glimpse(1, [group("a", "correct", "correct")]).shown] == ["a 0", "a 1"]
