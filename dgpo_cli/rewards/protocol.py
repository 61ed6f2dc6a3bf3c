"""The protocol of the pool and its worker processes: length-prefixed JSON frames.

The first frame to a worker is its check, answered by `{"ready": true, "told": {...}}` or
`{"error": ...}`. Every further frame is a list of tasks, answered by one frame per task, in order.
"""

from __future__ import annotations

import base64
import importlib
import json
import struct
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from dgpo_cli.core.types import Outcome

# Scores are comparable if this is equal: it changes with any verdict, and a test compares a digest
# of the verdicts on all cases.
CHECKER_VERSION = "2"
HEADER = struct.Struct(">I")
CRASH_EXIT_CODE = 173  # of a worker that ran out of memory; few functions end with it

ChoiceExtract = Literal["boxed", "answer-line", "boxed-or-answer-line"]
Extract = Literal[ChoiceExtract, "last-number"]
Task = tuple[Any, ...]  # gold, text, finish_reason; or what the user's code is called with
CheckResult = tuple["Outcome", str | None]


@dataclass(frozen=True, slots=True)
class Check:
    """A function that workers import and call as `f(gold, text, finish_reason=..., **options)`.

    target: "module:function". Each worker calls the module's `warm_up()`, if any, once without a
        deadline.
    options: keyword arguments, as JSON.
    chunk_tasks: most tasks sent to a worker at once; each has its own deadline.
    opens: the user's code. The function is called once, as `f(**options)`, when the worker starts;
        it returns what answers a list of tasks, and what it tells of itself. It may fail.
    """

    target: str
    options: dict[str, Any] = field(default_factory=dict)
    chunk_tasks: int = 64
    opens: bool = False

    @property
    def function(self) -> Callable[..., CheckResult]:
        """The function itself. Its module, with the patterns of all answers, is imported here."""
        module, _, name = self.target.partition(":")
        found: Callable[..., CheckResult] = getattr(importlib.import_module(module), name)
        return found


def encode(message: Any) -> bytes:
    """Return `message` as one frame. Keeps lone surrogates, which models produce."""
    body = json.dumps(message, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return HEADER.pack(len(body)) + body


def decode(body: bytes | bytearray | memoryview) -> Any:
    """Return the message in the body of one frame."""
    return json.loads(str(body, "utf-8", "surrogatepass"))


def packed(token_ids: Sequence[int]) -> str:
    """Return token ids as text: a completion has thousands, and JSON is slow with numbers."""
    return base64.b64encode(array("i", token_ids)).decode("ascii")


def unpacked(text: str) -> tuple[int, ...]:
    """Return the token ids of `packed`."""
    return tuple(array("i", base64.b64decode(text)))


def take_frames(buffer: bytearray) -> list[Any]:
    """Remove all complete frames from the front of `buffer` and return their messages."""
    messages = []
    position = 0
    while len(buffer) - position >= HEADER.size:
        (length,) = HEADER.unpack_from(buffer, position)
        end = position + HEADER.size + length
        if end > len(buffer):
            break
        messages.append(decode(buffer[position + HEADER.size : end]))
        position = end
    del buffer[:position]
    return messages
