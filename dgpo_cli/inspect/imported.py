"""Imported and typed completions as lines of rollouts.

What a line lacks is assumed; every assumption is kept as a sentence for the user.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dgpo_cli.core.codec import shown
from dgpo_cli.core.errors import DataError

# Names of fields in other programs, after our own.
NAMES: Mapping[str, Sequence[str]] = {
    "prompt": ("prompt", "problem", "question", "instruction", "query", "input"),
    "completion": ("completion", "response", "generation", "output"),
    "answer": (
        *("answer", "gold", "ground_truth", "target"),
        *("expected_answer", "gts", "solution"),
    ),
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


def adapted(
    line: dict[str, Any], assumed: dict[str, None], *, where: str
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return a line under our names, and the line's own names by ours.

    Nulls are left out, assumptions added to `assumed`. prompt_id and index may be missing.

    Raises:
        DataError: it has no prompt, or no completion.
    """
    own = {name: value for name, value in line.items() if value is not None}
    if own.keys() >= {"prompt_id", "messages", "completion", "version"}:
        return own, {}
    named = dict(_renamed(own))
    for name, other in named.items():
        own[name] = own[other]
        assumed[f'"{name}" is taken from "{other}"'] = None
    if isinstance(own.get("prompt"), list):  # of turns
        named["messages"] = named.pop("prompt", "prompt")
        own["messages"] = own.pop("prompt")
    _split_conversation(own, where=where)
    if "token_ids" in own and "version" not in own:
        own.setdefault("completion", "")
    for name in ("completion", "prompt"):
        if name not in own and not (name == "prompt" and own.get("messages")):
            raise DataError(f"{where}: the field {name} is missing")
    _assume(own, assumed)
    return own, named


def _renamed(own: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield our name and the line's own name of fields whose names differ."""
    for name, others in NAMES.items():
        if name in own or (name == "prompt" and own.get("messages")):
            continue
        other = next((other for other in others[1:] if other in own), None)
        if other is not None:
            yield name, other


def _split_conversation(own: dict[str, Any], *, where: str) -> None:
    """Take the completion from the assistant's turn at the end of the messages."""
    turns = own.get("messages")
    if "completion" in own or "token_ids" in own or not turns or not isinstance(turns, list):
        return
    last = turns[-1]
    if not isinstance(last, dict) or len(turns) < 2 or last.get("role") != "assistant":
        raise DataError(
            f"{where}: no completion, and messages do not end with a turn of the assistant"
        )
    own["completion"] = last.get("content") or ""
    own["messages"] = turns[:-1]


def _assume(own: dict[str, Any], assumed: dict[str, None]) -> None:
    """Note what the line lacks."""
    if "prompt_id" not in own:
        assumed["prompts are told apart by their text"] = None
    if "reward" not in own and "advantage" not in own:
        assumed["rewards and advantages are not known"] = None
    if "temperature" not in own:
        assumed["sampled at temperature 1"] = None
    reason = own.get("finish_reason")
    if reason is None:
        assumed["every completion ended by itself"] = None
    elif isinstance(reason, str) and reason not in ("stop", "length"):
        own["finish_reason"] = _ENDED.get(reason.lower(), "stop")
        assumed[f"finish_reason {shown(reason)} means {own['finish_reason']}"] = None


def typed(prompt: str, completion: str) -> dict[str, Any]:
    """Return the line of a completion that the user typed."""
    return {"prompt_id": "prompt", "index": 0, "prompt": prompt, "completion": completion}
