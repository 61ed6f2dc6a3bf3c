r"""Real outputs of today's models: only what follows the thought is judged.

The forms are those of the models' chat templates and of the parsers for them in vLLM and SGLang.
`%T` stands for a thought, `%A` for an answer. `prompt` is the end of the rendered prompt.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from dgpo_cli.core.thinking import after_thinking, ends_in_thought
from dgpo_cli.core.types import FinishReason, Outcome
from dgpo_cli.rewards.answer import check_integer
from dgpo_cli.rewards.choice import check_choice
from dgpo_cli.rewards.grader import GradeItem


@dataclass(frozen=True)
class Form:
    name: str
    text: str
    prompt: str = ""


START, END, FINAL = "<|start|>assistant", "<|end|>", "<|channel|>final<|message|>"
ANALYSIS = "<|channel|>analysis<|message|>"
PREAMBLE = "<|channel|>commentary<|message|>"
BUDGET = (
    "<seed:cot_budget_reflect>I have used 129 tokens, and there are 383 tokens remaining for use."
    "</seed:cot_budget_reflect>"
)
THOUGHTS = [
    Form("gpt-oss", f"{ANALYSIS}%T{END}{START}{FINAL}%A<|return|>", START),
    Form(
        "gpt-oss, preamble", f"{ANALYSIS}%T{END}{START}{PREAMBLE}%T{END}{START}{FINAL}%A<|return|>"
    ),
    Form(
        "gpt-oss, two finals", f"{ANALYSIS}%T{END}{START}{FINAL}%T{END}{START}{FINAL}%A<|return|>"
    ),
    Form(
        "gpt-oss, typed final",
        f"{ANALYSIS}%T{END}{START}<|channel|>final <|constrain|>x<|message|>%A",
    ),
    Form("gpt-oss, marks kept alone", "<|channel|>analysis%Tassistant<|channel|>final%A"),
    Form("gpt-oss, analysis opened", f"%T{END}{START}{FINAL}%A<|return|>", f"{START}{ANALYSIS}"),
    Form("gpt-oss, no special tokens", "analysisWe need it. %Tassistantfinal%A"),
    Form("gpt-oss, no special tokens 2", "analysis(a) %Tassistantcommentary %Tassistantfinal %A"),
    Form("Qwen3", "<think>\n%T\n</think>\n\n%A<|im_end|>", "<|im_start|>assistant\n"),
    Form("Qwen3-Thinking-2507", "%T\n</think>\n\n%A", "<|im_start|>assistant\n<think>\n"),
    Form("QwQ, opened twice", "<think>\n%T\n</think>\n\n%A", "<|im_start|>assistant\n<think>\n"),
    Form("DeepSeek-R1", "%T\n</think>\n\n%A", "<｜Assistant｜><think>\n"),
    Form("DeepSeek-R1-0528", "<think>\n%T\n</think>\n\n%A", "<｜Assistant｜>"),
    Form("DeepSeek-V3.1", "%T</think>%A<｜end▁of▁sentence｜>", "<｜Assistant｜><think>"),
    Form("GLM-4.5", "\n<think>%T</think>\n%A", "<|assistant|>"),
    Form("GLM-4.7", "%T</think>%A", "<|assistant|><think>"),
    Form(
        "Kimi K2 Thinking",
        "<think>%T</think>%A<|im_end|>",
        "<|im_assistant|>assistant<|im_middle|>",
    ),
    Form(
        "Kimi K3",
        "%T<|close|>think<|sep|><|open|>response<|sep|>%A<|close|>response<|sep|>",
        "<|open|>think<|sep|>",
    ),
    Form("Kimi K3, thought not closed", "<|open|>think<|sep|>%T<|open|>response<|sep|>%A"),
    Form("Kimi-VL", "◁think▷%T◁/think▷%A"),
    Form("MiniMax-M2", "%T\n</think>\n\n%A", "]~b]ai\n<think>\n"),
    Form("MiniMax-M3", "<mm:think>%T</mm:think>%A"),
    Form("Magistral", "[THINK]%T[/THINK]%A</s>"),
    Form(
        "Command A",
        "<|START_THINKING|>%T<|END_THINKING|><|START_RESPONSE|>%A<|END_RESPONSE|>",
        "<|CHATBOT_TOKEN|>",
    ),
    Form(
        "Command A, opened", "%T<|END_THINKING|><|START_TEXT|>%A<|END_TEXT|>", "<|START_THINKING|>"
    ),
    Form("Seed-OSS", f"<seed:think>%T{BUDGET}%T</seed:think>%A<seed:eos>"),
    Form("ERNIE 4.5", "%T\n</think>\n\n<response>\n%A\n</response>\n", "<think>\n"),
    Form("Hunyuan A13B", "<think>\n%T\n</think>\n<answer>\n%A\n</answer>"),
    Form("Hunyuan 3", "<think:v>%T</think:v>%A"),
    Form("Hunyuan 3, opened", "%T</think:v>%A", "<think:v>"),
    Form("Nemotron Nano", "%T\n</think>\n\n%A", "<SPECIAL_11>Assistant\n<think>\n"),
    Form("SmolLM3", "<think>\n%T\n</think>\n%A", "<|im_start|>assistant\n"),
    Form("Olmo 3 Think", "%T</think>%A", "<|im_start|>assistant\n<think>"),
    Form("EXAONE 4", "%T\n</think>\n\n%A", "[|assistant|]\n<think>\n"),
    Form("EXAONE Deep", "%T\n</thought>\n\n%A", "[|assistant|]<thought>\n"),
    Form("Gemma 4", "<|channel>thought\n%T<channel|>%A<turn|>"),
    Form("Granite 3.3", "<think>%T</think><response>%A</response>"),
    Form(
        "Inkling",
        "<|message_model|><|content_thinking|>%T<|end_message|><|message_model|><|content_text|>%A"
        "<|end_message|>",
    ),
    Form("Solar Open 2", "%T<|think:end|>%A", "<|think:start|>"),
    Form("openPangu", "[unused16]%T[unused17]%A[unused10]"),
    Form("K2 Horizon", "<ifm|think_fast>%T</ifm|think_fast>%A"),
    Form("K2 Horizon, low", "%T</ifm|think_faster>%A", "<ifm|think_faster>"),
    Form("LongCat", "<longcat_think>%T</longcat_think>%A"),
    Form(
        "Apriel",
        "%T\n\n[BEGIN FINAL RESPONSE]\n%A\n[END FINAL RESPONSE]",
        "<|begin_assistant|>\nHere are my reasoning steps:\n",
    ),
    Form(
        "Seed-OSS, budget 0 and yet a thought",
        "%T</seed:cot_budget_reflect></seed:think>%A",
        "<seed:bos>assistant\n<seed:think><seed:cot_budget_reflect>",
    ),
    Form("Apertus", "<|inner_prefix|>%T<|inner_suffix|>%A"),
    Form("HyperCLOVA X", "%T</think>\n\n%A", "<|im_start|>assistant\n<think>\n"),
    Form("a closing tag is quoted in the thought", "<think>Then `</think>` ends it. %T</think>%A"),
    Form("an opening tag is quoted in the answer", "<think>%T</think>I left `<think>` out. %A"),
    Form("both are quoted", '%T "</think>" \'<think>\' %T</think>"<think>" %A', "<think>"),
]
# Words that other models use too: a thought only where both are there.
IN_WORDS = [
    Form("Granite 3.2", "Here is my thought process: %T\n\nHere is my response: %A"),
    Form("Granite 3.2, quantized", "Here's my thought process:%T Here's my response:%A"),
]
NO_THOUGHT = [
    Form("Qwen3, enable_thinking=false", "%A", "<|im_start|>assistant\n<think>\n\n</think>\n\n"),
    Form("Qwen3-Instruct-2507", "%A<|im_end|>", "<|im_start|>assistant\n"),
    Form("Qwen3, empty thought", "<think>\n\n</think>\n\n%A"),
    Form("DeepSeek-V3.1, not thinking", "%A", "<｜Assistant｜></think>"),
    Form("GLM-4.5, /nothink", "\n%A", "<|assistant|>\n<think></think>"),
    Form("gpt-oss, final alone", f"{FINAL}%A<|return|>", START),
    Form("SmolLM3, /no_think", "%A", "<|im_start|>assistant\n<think>\n\n</think>\n"),
    Form("Seed-OSS, budget 0", f"<seed:think>{BUDGET}</seed:think>%A"),
    Form("Gemma 4, not thinking", "%A", "<|turn>model\n<|channel>thought\n<channel|>"),
    Form("Kimi K3, not thinking", "%A<|close|>response<|sep|>", "<|open|>response<|sep|>"),
    Form("Nemotron Nano, /no_think", "%A", "<SPECIAL_11>Assistant\n<think></think>"),
    Form("a thought process in words", "Here is my thought process:\n1. We add.\n\n%A"),
    Form("reasoning steps in words", "Here are my reasoning steps:\n1. We add.\n\n%A"),
    Form("Magistral, no effort", "%A</s>"),
    Form("MiniMax-M3, stray closer", "</mm:think>%A"),
    Form("an analysis in words", "analysis of the sum\n\n%A"),
    Form("analysis as a heading", "Analysis: we add.\n\n%A"),
]
INTEGER = (r"no, so \boxed{3}.", r"So it is \boxed{204}.")
LETTER = ("\nAnswer: B\n", "\nAnswer: C\n")


def judged(
    form: Form, *, words: tuple[str, str], upto: str | None = None
) -> tuple[Outcome, Outcome]:
    """What a completion gets if the right answer is the answer's, and if it is the thought's.

    upto: its limit of tokens ended it after the first of these.
    """
    text = form.text
    if upto is not None:
        text = text[: text.index(upto) + len(upto)]
    text = text.replace("%T", words[0]).replace("%A", words[1])
    reason: FinishReason = "stop" if upto is None else "length"
    item = GradeItem("", text, reason, starts_in_thought=ends_in_thought(form.prompt))
    if words == INTEGER:
        first, second = (
            check_integer(gold, item.judged, finish_reason=reason, where="boxed-or-answer-line")
            for gold in ("204", "3")
        )
    else:
        first, second = (
            check_choice(
                gold, item.judged, finish_reason=reason, where="boxed-or-answer-line", choices=4
            )
            for gold in "CB"
        )
    return first[0], second[0]


def named(forms: list[Form]) -> list[object]:
    return [pytest.param(form, id=form.name) for form in forms]


@pytest.mark.parametrize("words", [INTEGER, LETTER], ids=["integer", "letter"])
@pytest.mark.parametrize("form", named([*THOUGHTS, *IN_WORDS, *NO_THOUGHT]))
def test_the_answer_is_judged_and_never_the_thought(form: Form, words: tuple[str, str]) -> None:
    assert judged(form, words=words) == ("correct", "wrong")


@pytest.mark.parametrize("words", [INTEGER, LETTER], ids=["integer", "letter"])
@pytest.mark.parametrize("form", named(THOUGHTS))
def test_a_thought_that_its_limit_ended_has_no_answer(form: Form, words: tuple[str, str]) -> None:
    assert judged(form, words=words, upto="%T") == ("truncated", "truncated")


@pytest.mark.parametrize("form", named(THOUGHTS))
def test_a_thought_without_an_answer_after_it_is_not_judged(form: Form) -> None:
    silent = (INTEGER[0], "I cannot tell.")
    text = form.text.replace("%T", silent[0]).replace("%A", silent[1])
    inside = ends_in_thought(form.prompt)
    judged_text = GradeItem("", text, "stop", starts_in_thought=inside).judged
    said = check_integer("3", judged_text, finish_reason="stop", where="boxed-or-answer-line")
    assert said in (("no_answer", None), ("wrong", silent[1]))  # the latter in answer tags


@pytest.mark.parametrize("form", named([form for form in THOUGHTS + NO_THOUGHT if form.prompt]))
def test_a_prompt_tells_whether_its_template_left_a_thought_open(form: Form) -> None:
    assert ends_in_thought(form.prompt) or not form.text.startswith("%T")
    if form in NO_THOUGHT:
        assert not ends_in_thought(form.prompt)


def test_marks_that_are_only_quoted_cost_no_more_than_others() -> None:
    text = "`<think>`" * 200_000 + r"\boxed{204}"
    assert after_thinking(text) == 0
    assert after_thinking("<think>" + text) is None
