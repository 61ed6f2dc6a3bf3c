"""An answer checker that hangs on some texts, for workers to import."""

from __future__ import annotations

import time
from typing import Any

from dgpo_cli.rewards.answer import check_integer


def sometimes(gold: str, text: str, **options: Any) -> Any:
    """Judge five of six texts at once, and the sixth not before any deadline."""
    if sum(map(ord, text)) % 6 == 0:
        time.sleep(60)
    return check_integer(gold, text, **options)
