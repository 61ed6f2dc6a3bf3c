"""The page of an inspection, without a browser: what it holds, and that it is one harmless file."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import pytest

from dgpo_cli.core.text import visible
from dgpo_cli.core.types import InspectedCompletion, StoredCredit
from dgpo_cli.inspect import page as module
from dgpo_cli.inspect.page import chosen, inspect_page, most_telling
from dgpo_cli.inspect.views.measure import pieces
from tests.samples import completion, hostile, inspection, solution
from tests.ui.test_document import Elements


def data_of(page: str) -> dict[str, object]:
    (text,) = [text for attrs, text in Elements(page).named("script") if attrs.get("id") == "data"]
    found = json.loads(text)
    assert isinstance(found, dict)
    return found


def uneven(prompt: str, index: int, *, tau: float, advantage: float = 1.0) -> InspectedCompletion:
    return completion(
        "abcd", [0.0, 0.0, 0.1, 0.3], tau=tau, prompt_id=prompt, index=index, advantage=advantage
    )


def test_the_page_names_no_address_but_the_papers_number() -> None:
    page = inspect_page(inspection(solution(), hostile()))
    assert not re.search(r"https?:|url\(|@import|src=|href=|srcset|<link|<iframe|<form", page)
    assert "arXiv 2605.03327" in page


def test_the_same_inspection_gives_the_same_bytes() -> None:
    first, second = (inspect_page(inspection(solution(), hostile())) for _ in range(2))
    assert first.encode("utf-8") == second.encode("utf-8")


def test_hostile_texts_make_no_element_and_no_attribute() -> None:
    nasty = replace(
        hostile(),
        prompt='"><script>alert(1)</script><img src=x onerror=alert(1)>\n\u2028',
        answer="</script></style></textarea>$name${theme}",
        prompt_id="' onmouseover='alert(1)",
    )
    tame = replace(nasty, prompt="p", answer="a", prompt_id="i")
    texts = ["\n".join(map(visible, token.text.split("\n"))) for token in nasty.tokens]
    pairs = zip(nasty.tokens, texts, strict=True)
    tame = replace(tame, tokens=tuple(replace(token, text=text) for token, text in pairs))
    found, expected = (
        [(tag, *attrs) for tag, attrs, _ in Elements(inspect_page(inspection(each))).found]
        for each in (nasty, tame)
    )
    assert found == expected
    assert "alert(1)" in inspect_page(inspection(nasty))


def test_the_data_holds_every_number_of_every_token() -> None:
    shown = (solution(), hostile())
    data = data_of(inspect_page(inspection(*shown, tau=0.2, kappa=2.0)))
    assert (data["tau"], data["kappa"], data["vocabSize"]) == (0.2, 2.0, 1024)
    for given, found in zip(shown, data["completions"], strict=True):  # type: ignore[call-overload]
        assert found["ids"] == [token.id for token in given.tokens]
        for column, name in (
            ("logprob", "logprob"),
            ("entropy", "entropy"),
            ("d", "hellinger_sq"),
            ("s", "score"),
            ("w", "weight"),
        ):
            expected = [getattr(token, name) for token in given.tokens]
            assert found[column] == pytest.approx(expected, rel=1e-11)
        assert found["starts"] == [piece.start for piece in pieces(given.tokens)]
        assert (found["tau"], found["advantage"]) == (given.tau, given.advantage)


def test_a_number_that_is_none_is_null_and_never_breaks_the_page() -> None:
    token = replace(solution().tokens[0], entropy=float("nan"), weight=float("inf"))
    shown = replace(solution(), tokens=(token, *solution().tokens[1:]))
    (found,) = data_of(inspect_page(inspection(shown)))["completions"]  # type: ignore[misc]
    assert (found["entropy"][0], found["w"][0]) == (None, None)


def test_the_most_telling_completion_is_the_least_even_one_that_moves_the_policy() -> None:
    each = [
        uneven("a", 0, tau=0.5),
        uneven("a", 1, tau=0.05),
        uneven("b", 0, tau=0.01, advantage=0.0),
    ]
    assert most_telling(each) == 1
    assert most_telling(each[:1]) == 0


def test_the_first_completion_shown_and_its_group_stay_on_a_full_page(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    each = [uneven(prompt, index, tau=1.0) for prompt in "abc" for index in range(2)]
    each[4] = uneven("c", 0, tau=0.05)
    monkeypatch.setattr(module, "MAX_TOKENS", 12)  # of 24
    found = chosen(each)
    kept = [(shown.prompt_id, shown.index) for shown in found.completions]
    assert kept == [("a", 0), ("c", 0), ("c", 1)]
    assert (found.first, found.left_out) == (1, 3)
    assert "3 more completions not on this page" in inspect_page(inspection(*each))
    monkeypatch.setattr(module, "MAX_TOKENS", 1)
    assert [shown.tau for shown in chosen(each).completions] == [0.05]


def test_the_chooser_names_outcome_reward_and_advantage_of_each() -> None:
    wrong = replace(solution(), index=1, outcome="wrong", reward=0.0, advantage=-0.5)
    options = [
        text
        for attrs, text in Elements(inspect_page(inspection(solution(), wrong))).named("option")
    ]
    assert options[0].startswith("3: ✓ correct, reward 1, A +0.750, effective 0.32")
    assert options[1].startswith("1: ✗ wrong, reward 0, A -0.500, effective")


def test_a_page_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one completion"):
        inspect_page(inspection())


def test_what_is_not_known_is_said_and_takes_no_side() -> None:
    shown = replace(solution(), outcome=None, reward=math.nan, advantage=math.nan, answer="")
    page = inspect_page(inspection(shown))
    elements = Elements(page)
    facts = {
        attrs["id"]: text
        for tag in ("b", "dd")
        for attrs, text in elements.named(tag)
        if attrs.get("id")
    }
    assert facts["reward"] == facts["advantage"] == facts["answer"] == "unknown"
    (option,) = [text for attrs, text in elements.named("option") if attrs.get("value") == "0"]
    assert option.startswith("3: unknown, reward unknown, A unknown, effective")
    (found,) = data_of(page)["completions"]  # type: ignore[misc]
    assert (found["verdict"], found["look"], found["answer"]) == ("unknown", "", "unknown")
    assert (found["reward"], found["advantage"]) == (None, None)


def test_a_what_if_stands_beside_what_trained() -> None:
    weights = tuple(1.0 + at / 64 for at in range(len(solution().tokens)))
    stored = StoredCredit("dgpo", {"tau": 0.5, "kappa": 1.0}, 0.5, 0.9, weights)
    shown = replace(solution(tau=0.02), stored=stored)
    (found,) = data_of(inspect_page(inspection(shown, tau=0.02)))["completions"]  # type: ignore[misc]
    assert found["ruleName"] == "dgpo, tau 0.02, kappa 1"
    assert found["stored"] == {"name": "dgpo, tau 0.5, kappa 1", "w": pytest.approx(weights)}


def test_a_what_if_shows_the_same_completion_as_what_trained() -> None:
    even = StoredCredit("uniform", {}, None, 1.0, (1.0,) * 4)
    each = [uneven("a", 0, tau=0.5), uneven("a", 1, tau=0.05)]
    assert most_telling(each) == 1
    assert most_telling([each[0], replace(each[1], stored=even)]) == 0


def test_each_completion_has_the_tau_that_was_found_for_it() -> None:
    each = [replace(uneven("a", at, tau=tau), tau=tau) for at, tau in enumerate((0.03, 0.25))]
    page = inspect_page(inspection(*each, tau=None, parameters={"target_ess": 0.8, "kappa": 1.0}))
    names = [found["ruleName"] for found in data_of(page)["completions"]]  # type: ignore[attr-defined]
    assert names == [f"dgpo, tau {tau} for target_ess 0.8, kappa 1" for tau in (0.03, 0.25)]
