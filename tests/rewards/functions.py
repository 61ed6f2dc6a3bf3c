"""Reward functions as users write them; workers import this file by its path."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

from dgpo_cli import RewardCompletion

PATH = __file__


class Odd:
    """A number of another library."""

    def __init__(self, value: object) -> None:
        self.value = value

    def item(self) -> object:
        return self.value


RETURNED: dict[str, Any] = {
    "number": 0.25,
    "whole": 3,
    "true": True,
    "false": False,
    "none": None,
    "pair": (0.5, "wrong"),
    "triple": (1.0, "correct", "well done"),
    "noted": (0.5, None, "half"),
    "scalar": Odd(1.5),
    "truth": Odd(True),
    "nan": float("nan"),
    "infinite": float("inf"),
    "huge": 10**400,
    "text": "1.0",
    "list": [1.0],
    "outcome": (1.0, "fine"),
    "four": (1.0, "correct", "a", "b"),
}


def returns(completion: RewardCompletion) -> Any:
    return RETURNED[completion.text]


def misbehaves(completion: RewardCompletion) -> float:
    print("printed for", completion.text)  # noqa: T201
    match completion.text:
        case "hang":
            time.sleep(60)
        case "leave":
            os._exit(7)
        case "raise":
            raise ZeroDivisionError("division\nby zero")
        case "exit":
            raise SystemExit("bye")
        case "eat":
            bytearray(1 << 40)
    return 1.0


def batch(completions: list[RewardCompletion], unit: list[str], scale: Any = None) -> list[Any]:
    assert scale is None, "no row has it"
    return [(each.text == own, None, own) for each, own in zip(completions, unit, strict=True)]


def sizes(completions: list[RewardCompletion], **columns: list[Any]) -> list[Any]:
    note = f"{sorted(columns)} {[each.text for each in completions]}"
    return [(len(completions), None, note) for _ in completions]


def too_few(completions: list[RewardCompletion]) -> list[float]:
    return [1.0] * (len(completions) - 1)


def all_fail(completions: list[RewardCompletion]) -> list[float]:
    return [1 / (each.text != "raise") for each in completions]


def flaky(completion: RewardCompletion) -> bool:
    if sum(completion.token_ids) % 2:
        raise RuntimeError("odd")
    return completion.answer in completion.text


def echoes(completion: RewardCompletion) -> float:
    return float(f"boxed{{{completion.answer}}}" in completion.text)


def everything(completion: RewardCompletion, answer: str, unit: str = "m") -> Any:
    return 1.0, None, f"{completion!r} {answer} {unit}"


async def waits(completion: RewardCompletion) -> float:
    if completion.text == "hang":
        time.sleep(60)
    await asyncio.sleep(60 if completion.text == "late" else 0.4)
    return 2.0


async def waits_for_all(completions: list[RewardCompletion]) -> list[float]:
    await asyncio.sleep(0)
    return [3.0 for _ in completions]


def unnamed(text: str) -> float:
    return 1.0


NOT_A_FUNCTION = 3
