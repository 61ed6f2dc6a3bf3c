"""The words of an OpenAI-compatible API: what is sent, and what an answer says.

Sources: OpenAI's reference of chat completions and completions; the extra parameters of vLLM,
SGLang and llama.cpp's server; the answers of DeepSeek, Mistral, OpenRouter and Together.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from dgpo_cli.core.errors import ConfigError
from dgpo_cli.core.thinking import ends_in_thought
from dgpo_cli.core.types import FinishReason, Prompt, Reply

Api = Literal["chat", "completions"]
LIMITS = ("max_tokens", "max_completion_tokens")
# A server may have other defaults, such as vLLM those of the model's generation_config.json.
NEUTRAL = {"min_p": 0.0, "repetition_penalty": 1.0}
_SEEDS = 2**31  # some servers hold a seed in 32 bits
_LENGTH = frozenset({"length", "max_tokens", "model_length"})
_STOP = frozenset({"stop", "eos", "end_turn", "stop_sequence", "eos_token"})
# Refused, these would change what is measured; the setting that says them.
_SETTINGS = {
    "temperature": "rollout.temperature",
    "top_p": "rollout.top_p",
    "top_k": "rollout.top_k",
    "stop": "rollout.stop",
    "reasoning_effort": "rollout.backend.reasoning_effort",
    "chat_template_kwargs": "prompts.chat_template",
    "continue_final_message": "prompts.assistant_prefix",
    "add_generation_prompt": "prompts.assistant_prefix",
}
_COMMON_WORDS = frozenset({"stop", "seed"})  # a message may have them by chance


@dataclass(frozen=True, slots=True)
class Asking:
    """What every request of an evaluation asks for.

    prefix: what the assistant's turn begins with, as the last message of a prompt.
    extra: added to the body as it is.
    """

    model: str
    api: Api
    temperature: float
    top_p: float
    top_k: int
    max_completion_tokens: int
    stop: tuple[str, ...] = ()
    reasoning_effort: str | None = None
    chat_template: Mapping[str, Any] = field(default_factory=dict)
    prefix: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Dialect:
    """What an endpoint calls things, as it has shown by refusing others.

    limit: the parameter that limits a completion. all_tokens: the top_k that keeps every token.
    refused: parameters that it does not take. least: the smallest limit that it takes.
    """

    limit: str = LIMITS[0]
    all_tokens: int = -1
    refused: frozenset[str] = frozenset()
    least: int = 1


def parameters(asking: Asking, dialect: Dialect) -> dict[str, Any]:
    """Return the body of a request without prompt and seed."""
    body: dict[str, Any] = {
        "model": asking.model,
        dialect.limit: asking.max_completion_tokens,
        "temperature": asking.temperature,
        "top_p": asking.top_p,
        "top_k": asking.top_k or dialect.all_tokens,
        **NEUTRAL,
    }
    if asking.stop:
        body |= {"stop": list(asking.stop), "include_stop_str_in_output": True}
    if asking.reasoning_effort is not None:
        body["reasoning_effort"] = asking.reasoning_effort
    if asking.chat_template:
        body["chat_template_kwargs"] = dict(asking.chat_template)
    if asking.prefix is not None and asking.api == "chat":
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    kept = {name: value for name, value in body.items() if name not in dialect.refused}
    return {**kept, **asking.extra}


def request_body(prompt: Prompt, *, seed: int, asking: Asking, dialect: Dialect) -> dict[str, Any]:
    """Return the body of the request for one sample."""
    body = parameters(asking, dialect)
    if asking.api == "chat":
        body["messages"] = [
            {"role": turn.role, "content": turn.content} for turn in prompt.messages
        ]
    else:
        body["prompt"] = "\n\n".join(turn.content for turn in prompt.messages)
    if "seed" not in dialect.refused:
        body["seed"] = seed % _SEEDS
    return body


def learnt(
    dialect: Dialect,
    *,
    asking: Asking,
    body: Mapping[str, Any],
    message: str,
    param: str | None,
) -> Dialect | None:
    """Return what a refused request says of the endpoint; None if it names no parameter.

    Raises:
        ConfigError: it refuses a parameter without which the score would be another one.
    """
    named = _named(body, message=message, param=param)
    if not named:
        return None
    if dialect.limit in named:
        return _other_limit(dialect, message=message)
    if "top_k" in named and not asking.top_k and dialect.all_tokens:
        return replace(dialect, all_tokens=0)
    for name in named:
        if name in asking.extra:
            raise ConfigError(
                f"rollout.backend.extra_body: the endpoint refuses {name}: {message}; take it out"
            )
        if _matters(name, asking):
            raise ConfigError(_refusal(name, asking=asking, message=message))
    return replace(dialect, refused=dialect.refused | named)


def _named(body: Mapping[str, Any], *, message: str, param: str | None) -> frozenset[str]:
    """Return the parameters of the body that a refusal names."""
    known = [name for name in body if name not in ("model", "messages", "prompt")]
    if param is not None and (inner := re.split(r"[.\[]", param)[0]) in known:
        return frozenset({inner})
    found = set()
    for name in known:
        quoted = rf"[\"'`]{name}[\"'`]"
        listed = rf"(?:supplied|permitted|unsupported|unrecognized)\b.*\b{name}\b"
        bare = "(?!)" if name in _COMMON_WORDS else rf"(?<![\w.-]){name}(?![\w-])"
        if re.search(f"{quoted}|{listed}|{bare}", message, re.IGNORECASE):
            found.add(name)
    return frozenset(found)


def _other_limit(dialect: Dialect, *, message: str) -> Dialect | None:
    other = LIMITS[1] if dialect.limit == LIMITS[0] else None
    if dialect.least == 1 and re.search(r"minimum|at least|greater|>=|too small", message, re.I):
        return replace(dialect, least=16)
    return None if other is None else replace(dialect, limit=other)


def _matters(name: str, asking: Asking) -> bool:
    match name:
        case "temperature":
            return asking.temperature != 1
        case "top_p":
            return asking.top_p != 1
        case "top_k":
            return asking.top_k != 0
    return name in _SETTINGS


def _refusal(name: str, *, asking: Asking, message: str) -> str:
    setting = _SETTINGS[name]
    value = getattr(asking, name, None)
    given = f"{setting}={value:g}" if isinstance(value, int | float) else setting
    unset = {"temperature": "1", "top_p": "1", "top_k": "0"}.get(name, "")
    return (
        f"{given}: the endpoint refuses it: {message}; the score would be that of another "
        f"protocol; --set {setting}={unset} evaluates without it"
    )


class NotAnAnswer(Exception):
    """A body that is not a completion: cut short, not JSON, without choices, or an error inside."""


def reply_of(answer: Any, *, asking: Asking, seed: int) -> Reply:
    """Return what an answer says of the only completion in it.

    Raises:
        NotAnAnswer: it is none.
    """
    try:
        choice = answer["choices"][0]
        message = choice["message"] if asking.api == "chat" else choice
        text, thought = _texts(message, asking.api)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise NotAnAnswer("an answer without choices") from error
    word = choice.get("finish_reason")
    if word == "error":
        raise NotAnAnswer("an answer that broke off with an error")
    for name in ("stop_reason", "matched_stop"):  # of vLLM and SGLang, which may cut it off
        found = choice.get(name)
        if isinstance(found, str) and found in asking.stop and not text.endswith(found):
            text += found
    prompt, completion = usage_of(answer)
    ended, own = _finish(word, completion=completion, limit=asking.max_completion_tokens)
    return Reply(
        token_ids=(),
        sampling_logprobs=(),
        text=text,
        finish_reason=ended,
        policy_version=0,
        seed=seed,
        reasoning=thought,
        prompt_tokens=prompt,
        completion_tokens=completion,
        finish=own,
        starts_in_thought=asking.prefix is not None and ends_in_thought(asking.prefix),
    )


def filtered(seed: int) -> Reply:
    """Return the sample of a prompt that the endpoint's content filter refused to answer."""
    return Reply(
        token_ids=(),
        sampling_logprobs=(),
        text="",
        finish_reason="stop",
        policy_version=0,
        seed=seed,
        prompt_tokens=0,
        completion_tokens=0,
        finish="content_filter",
    )


def _finish(word: Any, *, completion: int | None, limit: int) -> tuple[FinishReason, str | None]:
    if word in _LENGTH or (word is None and completion is not None and completion >= limit):
        return "length", None
    return "stop", None if word in _STOP else str(word or "none")


def _texts(message: Mapping[str, Any], api: Api) -> tuple[str, str | None]:
    """Return the content, and the reasoning if it has a field of its own."""
    if api == "completions":
        return str(message["text"]), _text(message.get("reasoning")) or None
    content = message.get("content")
    text, thought = (_text(content), "") if not isinstance(content, list) else _parts(content)
    for name in ("reasoning_content", "reasoning"):
        thought = thought or _text(message.get(name))
    if content is None and isinstance(message.get("refusal"), str):
        text = message["refusal"]
    return text, thought or None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _parts(parts: list[Any]) -> tuple[str, str]:
    """Return the text and the thought of a content that comes in parts."""
    text: list[str] = []
    thought: list[str] = []
    for part in parts:
        if isinstance(part, str):
            text.append(part)
            continue
        kind = part.get("type")
        inner = part.get("thinking", part.get("reasoning", part.get("text", "")))
        words = inner if isinstance(inner, str) else _parts(inner)[0]
        (thought if kind in ("thinking", "reasoning") else text).append(words)
    return "".join(text), "".join(thought)


def usage_of(answer: Any) -> tuple[int | None, int | None]:
    """Return the tokens of prompt and completion; thoughts count, even where only in the total."""
    usage = answer.get("usage") if isinstance(answer, dict) else None
    if not isinstance(usage, dict):
        return None, None
    prompt, completion, total = (
        value if type(value := usage.get(name)) is int and value >= 0 else None
        for name in ("prompt_tokens", "completion_tokens", "total_tokens")
    )
    if prompt is not None and completion is not None and total is not None:
        completion = max(completion, total - prompt)
    return prompt, completion
