"""An answer checker whose verdicts have nothing to do with the answers, for workers to import."""

from __future__ import annotations

from itertools import count
from typing import Any

_calls = count()


def every_second(gold: str, text: str, **options: Any) -> tuple[str, str]:
    """Call every second text right, whatever it says: no group is all alike, nothing is learnt."""
    return ("correct" if next(_calls) % 2 else "wrong"), text[-8:]
