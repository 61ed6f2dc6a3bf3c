"""Laws of thoughts: whatever opens one, nothing in it is an answer before it is closed."""

from __future__ import annotations

import pytest

from dgpo_cli.core.events import NOBODY
from dgpo_cli.core.thinking import MARKS, after_thinking, ends_in_thought, is_part_of_mark
from dgpo_cli.core.token_texts import completion_text
from dgpo_cli.core.types import Verdict
from dgpo_cli.rewards.answer import check_integer
from dgpo_cli.rewards.grader import GradeItem, Grader
from dgpo_cli.rewards.second_opinion import second_opinions
from dgpo_cli.rewards.settings import IntegerReward, MathReward

NOISE = ("", "x < y, " * 99, "[1] ◁ |> think> ")


@pytest.mark.parametrize("noise", NOISE)
@pytest.mark.parametrize(("opener", "closer"), MARKS)
def test_the_last_mark_says_whether_the_answer_has_begun(
    opener: str, closer: str, noise: str
) -> None:
    closed = f"{noise}{opener}3{closer}"
    assert after_thinking(f"{closed}4{noise}") == len(closed)
    assert after_thinking(f"{closed}{opener}5{noise}") is None
    assert after_thinking(noise) == 0


@pytest.mark.parametrize(("opener", "closer"), MARKS)
def test_a_prompt_that_ends_with_an_opened_thought_is_told(opener: str, closer: str) -> None:
    assert ends_in_thought(f"<|user|>1+1?<|assistant|>{opener}\n")
    assert not ends_in_thought(f"<|user|>1+1?<|assistant|>{opener}\n\n{closer}\n\n")
    assert not ends_in_thought(f"Think between {opener} and {closer}.<|assistant|>")
    assert not ends_in_thought(f"Begin with {opener}, please.<|assistant|>")


def test_words_that_the_template_puts_into_the_thought_do_not_hide_it() -> None:
    assert ends_in_thought("<|user|>1+1?<|assistant|><think>\nOkay, let me", problem="1+1?")
    assert ends_in_thought("<|start|>assistant<|channel|>analysis<|message|>")
    assert not ends_in_thought("<|user|>Use <think>.<|assistant|>", problem="Use <think>.")
    assert not ends_in_thought("<|user|>1+1?<|assistant|><think></think>So", problem="1+1?")


TEXTS = [
    # text, finish_reason, outcome where the prompt left a thought open, and where it did not
    (r"maybe \boxed{204}, but wait", "length", "truncated", "correct"),
    (r"it is \boxed{204}", "stop", "no_answer", "correct"),
    (r"no \boxed{3}</think> so \boxed{204}", "stop", "correct", "correct"),
    (r"it is \boxed{204}</think> \boxed{3}", "stop", "wrong", "wrong"),
    (r"a</think>b<think>\boxed{204}", "length", "truncated", "truncated"),
]


@pytest.mark.parametrize("settings", [IntegerReward(workers=1), MathReward(workers=1)])
def test_what_a_prompt_opened_is_a_thought_for_every_checker(
    settings: IntegerReward | MathReward,
) -> None:
    items = [
        GradeItem("204", text, reason, starts_in_thought=inside)  # type: ignore[arg-type]
        for text, reason, *_ in TEXTS
        for inside in (True, False)
    ]
    with Grader(settings) as grader:
        verdicts = grader.grade(items)
    assert [v.outcome for v in verdicts] == [outcome for row in TEXTS for outcome in row[2:]]
    assert [v.reward for v in verdicts] == [float(v.outcome == "correct") for v in verdicts]


def test_the_second_opinion_does_not_look_into_an_open_thought() -> None:
    items = [
        GradeItem("5", text, "stop", starts_in_thought=True)
        for text in (r"\boxed{5}", "it is 5.", r"x</think> \boxed{5}", "x</think> it is 5.")
    ]
    verdicts = [
        Verdict(*check_integer("5", item.judged, finish_reason="stop", where="boxed"), 0.0)
        for item in items
    ]
    seconds = second_opinions(
        items,
        verdicts=verdicts,
        where="boxed",
        timeout_s=60,
        workers=1,
        observer=NOBODY,
    )
    assert [verdict.outcome for verdict in verdicts] == [
        "no_answer",
        "no_answer",
        "correct",
        "no_answer",
    ]
    assert seconds == ["no_answer", "no_answer", "correct", "correct"]


def test_a_text_keeps_the_special_tokens_that_mark_thoughts() -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    words = ["<end>", "[THINK]", "[/THINK]", "<|channel|>", "<|message|>", "analysis", "5", "<b>"]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="5"))
    inner.decoder = decoders.Fuse()
    inner.add_special_tokens([AddedToken(w, special=True) for w in words[:5]])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>")
    assert completion_text(tokenizer, [1, 6, 2, 6, 0]) == "[THINK]5[/THINK]5"
    assert completion_text(tokenizer, [3, 5, 4, 6]) == "<|channel|>analysis5"
    assert completion_text(tokenizer, [6, 7, 0, 4]) == "5<b>"
    assert not is_part_of_mark("<") and not is_part_of_mark("<|end|>")
