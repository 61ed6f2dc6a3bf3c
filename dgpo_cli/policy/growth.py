"""How much room a growing key-value cache takes; apart from the cache so that a plan can ask."""

from __future__ import annotations

_BLOCK = 64


def room_for(tokens: int) -> int:
    """Return the tokens that a buffer is made for when it must hold `tokens`."""
    return tokens + max(_BLOCK, tokens // 4)


def final_room(*, prompt: int, fed: int) -> int:
    """Return the tokens that a buffer has room for at the end.

    Args:
        prompt: tokens that it starts with, exactly filled.
        fed: tokens that are added, one by one.
    """
    room = prompt
    while room < prompt + fed:
        room = room_for(room + 1)
    return room
