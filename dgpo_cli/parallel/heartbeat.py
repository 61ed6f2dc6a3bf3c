"""What ranks tell each other: a heartbeat every second, and a failure once."""

from __future__ import annotations

import re
from dataclasses import dataclass

# What an exchange of ranks raises when another one is gone: not the cause.
_OF_EXCHANGE = re.compile(
    r"gloo|nccl|connection (?:closed|reset|refused)|broken pipe|timed? ?out|socket", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Failure:
    """What ended a rank. log: the file with its output."""

    rank: int
    host: str
    error: str
    log: str | None = None

    def __str__(self) -> str:
        if re.match(r"rank \d+ \(node ", self.error):  # it ended because of that one
            return self.error
        more = f"; its log: {self.log}" if self.log is not None else ""
        return f"rank {self.rank} (node {self.host}): {self.error}{more}"


@dataclass(slots=True)
class Heartbeat:
    """What a rank writes every second.

    call: what it does. waits: for the others. stop: a signal that it got, and how often. busy_s,
    parts: time spent on so many micro-batches.
    """

    beat: int
    host: str
    call: str = "starting"
    waits: bool = False
    stop: tuple[int, int] | None = None
    busy_s: float = 0.0
    parts: int = 0
    log: str | None = None


def of_exchange(error: Exception) -> bool:
    """Whether an error may only say that another rank is gone."""
    return isinstance(error, RuntimeError | OSError) and (
        "Dist" in type(error).__name__ or bool(_OF_EXCHANGE.search(str(error)))
    )
