"""Laws of the words of an OpenAI-compatible API."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from dgpo_cli.core.errors import ConfigError
from dgpo_cli.core.types import Message, Prompt
from dgpo_cli.samplers.endpoint.waits import wait_told
from dgpo_cli.samplers.endpoint.wire import (
    Asking,
    Dialect,
    NotAnAnswer,
    learnt,
    parameters,
    reply_of,
    request_body,
)

ASKING = Asking("m", "chat", temperature=1.0, top_p=1.0, top_k=0, max_completion_tokens=100)
PROMPT = Prompt("p", (Message("system", "Be brief."), Message("user", "1+1?")), "2", "test")


def answer(message: dict[str, Any], finish: str | None = "stop", **usage: int) -> dict[str, Any]:
    return {"choices": [{"message": message, "finish_reason": finish}], "usage": usage}


def refused(
    asking: Asking, message: str, *, param: str | None = None, dialect: Dialect | None = None
) -> Dialect | None:
    known = dialect or Dialect()
    body = {**parameters(asking, known), "seed": 0, "messages": [], "model": "m"}
    return learnt(known, asking=asking, body=body, message=message, param=param)


def test_every_parameter_of_the_protocol_is_sent_because_servers_have_other_defaults() -> None:
    body = request_body(PROMPT, seed=2**31 + 5, asking=ASKING, dialect=Dialect())
    assert body == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "1+1?"},
        ],
        "max_tokens": 100,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": -1,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "seed": 5,
    }


def test_completions_get_the_texts_with_a_blank_line_between() -> None:
    asking = replace(ASKING, api="completions")
    body = request_body(PROMPT, seed=1, asking=asking, dialect=Dialect())
    assert body["prompt"] == "Be brief.\n\n1+1?" and "messages" not in body


# Words of OpenAI, Google, Mistral, vLLM and SGLang.
@pytest.mark.parametrize(
    ("message", "param", "expected"),
    [
        (
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
            "'max_completion_tokens' instead.",
            "max_tokens",
            Dialect(limit="max_completion_tokens"),
        ),
        (
            "Unrecognized request arguments supplied: min_p, repetition_penalty",
            None,
            Dialect(refused=frozenset({"min_p", "repetition_penalty"})),
        ),
        ("top_k must be -1 or 0 or at least 1", None, Dialect(all_tokens=0)),
        ('Invalid JSON payload: Unknown name "seed"', None, Dialect(refused=frozenset({"seed"}))),
        (
            "[{'type': 'extra_forbidden', 'loc': ['body', 'min_p'], 'msg': 'Extra inputs'}]",
            None,
            Dialect(refused=frozenset({"min_p"})),
        ),
        ("Unsupported value: 'temperature'", "temperature", Dialect(refused={"temperature"})),  # type: ignore[arg-type]
        ("max_tokens must be at least 16", "max_tokens", Dialect(least=16)),
        ("the planting of a seedling will stop", None, None),
    ],
)
def test_a_refusal_teaches_what_the_endpoint_takes(
    message: str, param: str | None, expected: Dialect | None
) -> None:
    assert refused(ASKING, message, param=param) == expected


def test_a_top_k_that_no_number_unsets_is_left_out() -> None:
    once = refused(ASKING, "unknown top_k")
    assert once is not None
    twice = refused(ASKING, "unknown top_k", dialect=once)
    assert twice is not None and "top_k" not in parameters(ASKING, twice)


@pytest.mark.parametrize(
    ("asking", "name"),
    [
        (replace(ASKING, temperature=0.6), "temperature"),
        (replace(ASKING, top_p=0.95), "top_p"),
        (replace(ASKING, top_k=20), "top_k"),
        (replace(ASKING, stop=("\n\n",)), "stop"),
        (replace(ASKING, reasoning_effort="low"), "reasoning_effort"),
        (replace(ASKING, chat_template={"thinking": True}), "chat_template_kwargs"),
        (replace(ASKING, prefix="<think>"), "continue_final_message"),
        (replace(ASKING, extra={"min_p": 0.1}), "min_p"),
    ],
)
def test_a_refused_part_of_the_protocol_is_an_error_that_names_the_setting(
    asking: Asking, name: str
) -> None:
    with pytest.raises(ConfigError, match=name) as caught:
        refused(asking, f"Unsupported parameter: '{name}'", param=name)
    assert "rollout." in str(caught.value) or "prompts." in str(caught.value)


def test_the_fix_for_a_refused_temperature_is_named() -> None:
    with pytest.raises(ConfigError, match=r"--set rollout\.temperature=1 "):
        refused(replace(ASKING, temperature=0.6), "no", param="temperature")


@pytest.mark.parametrize(
    ("message", "text", "reasoning"),
    [
        ({"content": "4"}, "4", None),
        ({"content": "4", "reasoning_content": "2+2"}, "4", "2+2"),
        ({"content": "4", "reasoning": "2+2"}, "4", "2+2"),
        ({"content": None, "reasoning_content": "2+"}, "", "2+"),
        ({"content": "<think>2+2</think>4"}, "<think>2+2</think>4", None),
        ({"content": None, "refusal": "I cannot."}, "I cannot.", None),
        (
            {
                "content": [
                    {"type": "thinking", "thinking": [{"type": "text", "text": "2+2"}]},
                    {"type": "text", "text": "4"},
                ]
            },
            "4",
            "2+2",
        ),
    ],
)
def test_content_and_reasoning_are_read_from_every_place(
    message: dict[str, Any], text: str, reasoning: str | None
) -> None:
    reply = reply_of(answer(message), asking=ASKING, seed=7)
    assert (reply.text, reply.reasoning, reply.seed) == (text, reasoning, 7)


@pytest.mark.parametrize(
    ("word", "tokens", "expected"),
    [
        ("stop", 5, ("stop", None)),
        ("eos", 5, ("stop", None)),
        ("length", 100, ("length", None)),
        ("max_tokens", 100, ("length", None)),
        ("content_filter", 5, ("stop", "content_filter")),
        (None, 100, ("length", None)),
        (None, 5, ("stop", "none")),
    ],
)
def test_every_word_for_the_end_is_kept(
    word: str | None, tokens: int, expected: tuple[str, str | None]
) -> None:
    said = answer({"content": "x"}, word, prompt_tokens=3, completion_tokens=tokens)
    reply = reply_of(said, asking=ASKING, seed=0)
    assert (reply.finish_reason, reply.finish) == expected


def test_thoughts_that_are_only_in_the_total_are_counted() -> None:
    said = answer({"content": "x"}, prompt_tokens=3, completion_tokens=5, total_tokens=50)
    assert reply_of(said, asking=ASKING, seed=0).completion_tokens == 47


def test_a_completion_keeps_the_string_that_ended_it() -> None:
    asking = replace(ASKING, stop=("</answer>", "X"))
    body = parameters(asking, Dialect())
    assert body["stop"] == ["</answer>", "X"] and body["include_stop_str_in_output"] is True
    for word, text in (("</answer>", "4"), ("</answer>", "4</answer>")):
        choice = {"message": {"content": text}, "finish_reason": "stop", "stop_reason": word}
        assert reply_of({"choices": [choice]}, asking=asking, seed=0).text == "4</answer>"
    choice = {"message": {"content": "4"}, "finish_reason": "stop", "stop_reason": "EOS"}
    assert reply_of({"choices": [choice]}, asking=asking, seed=0).text == "4"
    dropped = refused(asking, "Unrecognized argument: include_stop_str_in_output")
    assert dropped is not None and "stop" in parameters(asking, dropped)


def test_tokens_that_nobody_counted_are_unknown() -> None:
    reply = reply_of({"choices": [{"message": {"content": "x"}}]}, asking=ASKING, seed=0)
    assert (reply.prompt_tokens, reply.completion_tokens) == (None, None)


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"choices": []},
        {"choices": None},
        {"choices": [{"text": "x"}]},
        answer({"content": "x"}, "error"),
        {"choices": [{"message": {"content": [7]}}]},
    ],
)
def test_what_is_no_completion_is_no_answer(broken: Any) -> None:
    with pytest.raises(NotAnAnswer):
        reply_of(broken, asking=ASKING, seed=0)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:30 GMT"}, 30.0),
        ({"Retry-After": "Wed, 21 Oct 2015 07:00:00 GMT"}, 0.0),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        (
            {"x-ratelimit-remaining-requests": "9", "x-ratelimit-reset-requests": "6m0s"},
            None,
        ),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "1m2.5s"}, 62.5),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "12ms"}, 0.012),
        ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1445412520000"}, 40.0),
        ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1445412520"}, 40.0),
        (
            {
                "anthropic-ratelimit-tokens-remaining": "0",
                "anthropic-ratelimit-tokens-reset": "2015-10-21T07:28:05Z",
            },
            5.0,
        ),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-3"}, None),
    ],
)
def test_every_way_to_ask_for_patience_is_understood(
    headers: dict[str, str], seconds: float | None
) -> None:
    now = 1445412480.0  # Wed, 21 Oct 2015 07:28:00 GMT
    assert wait_told(headers, now=now) == (None if seconds is None else pytest.approx(seconds))
