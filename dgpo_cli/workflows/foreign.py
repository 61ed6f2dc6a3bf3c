"""Completions that another program wrote, or the user typed, as lines of rollouts.

What a line does not say is assumed, and every assumption is kept as a sentence for the user.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

# Fields that other programs name otherwise; ours comes first.
NAMES: Mapping[str, Sequence[str]] = {
    "prompt": ("prompt", "problem", "question", "instruction", "query", "input"),
    "completion": ("completion", "response", "generation", "output"),
    "answer": ("answer", "gold", "ground_truth", "target"),
    "reward": ("reward", "score"),
    "prompt_token_ids": ("prompt_token_ids", "prompt_ids"),
    "token_ids": (
        "token_ids",
        "completion_token_ids",
        "completion_ids",
        "response_ids",
        "output_ids",
    ),
    "finish_reason": ("finish_reason", "stop_reason"),
}
_ENDED = {"length": "length", "max_tokens": "length", "max_length": "length"}


def adapted(line: dict[str, Any], assumed: dict[str, None]) -> dict[str, Any]:
    """Return a line under our names; what had to be assumed is added to `assumed`.

    prompt_id and index are left out where the line has none.

    Raises:
        KeyError: it has no prompt, or no completion.
        ValueError: a conversation does not end with the assistant's turn.
    """
    if isinstance(line.get("completion"), str) and "prompt_id" in line and "messages" in line:
        return line
    own = dict(line)
    for name, value, other in _renamed(line):
        own[name] = value
        assumed[f'"{name}" is taken from "{other}"'] = None
    _split_conversation(own)
    if "token_ids" in own and "version" not in own:
        own.setdefault("completion", "")
    if own.get("completion") is None:
        raise KeyError("completion")
    if not own.get("messages") and not isinstance(own.get("prompt"), str):
        raise KeyError("prompt")
    _check_numbers(own, assumed)
    return own


def _renamed(line: Mapping[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """Yield our name, the value and the line's own name of fields that are named otherwise."""
    for name, others in NAMES.items():
        if line.get(name) is not None or (name == "prompt" and line.get("messages")):
            continue
        for other in others[1:]:
            if line.get(other) is not None:
                yield name, line[other], other
                break


def _split_conversation(own: dict[str, Any]) -> None:
    """Take lists of turns apart: those of the prompt, and the assistant's last."""
    if isinstance(own.get("prompt"), list):
        own["messages"] = own["prompt"]
    if isinstance(own.get("completion"), list):
        own["completion"] = "".join(_text(turn["content"]) for turn in own["completion"])
    if not own.get("messages"):
        return
    turns = [{"role": turn["role"], "content": _text(turn["content"])} for turn in own["messages"]]
    if own.get("completion") is None and "token_ids" not in own:
        if len(turns) < 2 or turns[-1]["role"] != "assistant":
            raise ValueError("no completion, and messages do not end with the assistant's turn")
        own["completion"] = turns.pop()["content"]
    own["messages"] = turns


def _text(content: Any) -> str:
    """Return the text of a turn, which may come in parts."""
    if isinstance(content, list):
        return "".join(str(part["text"]) for part in content if part.get("type") == "text")
    return str(content)


def _check_numbers(own: dict[str, Any], assumed: dict[str, None]) -> None:
    """Drop what is null, and note what nobody said."""
    for name in ("reward", "temperature", "finish_reason", "advantage", "policy_version", "seed"):
        if own.get(name) is None:
            own.pop(name, None)
    if "prompt_id" not in own:
        assumed["prompts are told apart by their text"] = None
    if "reward" not in own and "advantage" not in own:
        assumed["rewards and advantages are not known"] = None
    if "temperature" not in own:
        assumed["sampled at temperature 1"] = None
    reason = own.get("finish_reason")
    if reason is None:
        assumed["every completion ended by itself"] = None
    elif reason not in ("stop", "length"):
        own["finish_reason"] = _ENDED.get(str(reason).lower(), "stop")
        assumed[f'finish_reason "{reason}" means {own["finish_reason"]}'] = None


def typed(prompt: str, completion: str) -> dict[str, Any]:
    """Return the line of a completion that the user gave in so many words."""
    return {"prompt_id": "prompt", "index": 0, "prompt": prompt, "completion": completion}
