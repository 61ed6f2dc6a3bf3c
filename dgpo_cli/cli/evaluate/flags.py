"""What the flags of dgpo eval say: numbers with their units, and what they ask for together."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from dgpo_cli.core.errors import ConfigError

MANY = 32
_MARGIN = re.compile(r"(?:±|\+/?-)?\s*(\d+\.?\d*|\.\d+)\s*%?")


def samples_of(k: int | None, *, temperature: float, by_error: Mapping[str, str | None]) -> int:
    """Return --k, by default 32, or 1 where samples of a problem are all alike.

    by_error: flags that go by the error over reruns, with their values.

    Raises:
        ConfigError: greedy decoding leaves nothing to what a flag asks for.
    """
    if temperature > 0:
        return MANY if k is None else k
    if k is not None and k > 1:
        raise ConfigError(
            f"--k {k}: greedy samples of a problem (rollout.temperature=0) are all alike; give "
            "--k 1, or leave it out"
        )
    for flag, text in by_error.items():
        if text is not None:
            raise ConfigError(
                f"{flag} {text}: greedy decoding has no error over reruns; leave it out"
            )
    return 1


def least_score(text: str | None, *, k: int) -> float | None:
    least = parse_share(text)
    if least is not None and k < 2:
        raise ConfigError(f"--min-score {text}: --k 1 has no error to go by; give --k 2 or more")
    return least


def parse_share(text: str | None) -> float | None:
    """Read --min-score: a share from 0 to 1, or percent with the sign.

    Raises:
        ConfigError: it is neither.
    """
    if text is None:
        return None
    percent = text.rstrip().endswith("%")
    try:
        value = float(text.rstrip().removesuffix("%"))
    except ValueError:
        value = math.nan
    share = value / 100 if percent else value
    if not 0 <= share <= 1:  # NaN too
        raise ConfigError(f"--min-score {text}: give a share from 0 to 1, or percent, as in 60%")
    return share


def stop_margin(text: str | None, *, k: int) -> float | None:
    from dgpo_cli.stats.stopping import LEAST_ROUNDS

    margin = parse_margin(text)
    if margin is not None and k < LEAST_ROUNDS:
        raise ConfigError(
            f"--stop-when {text}: --k {k} leaves nothing to stop; give --k {LEAST_ROUNDS} or more"
        )
    return margin


def parse_margin(text: str | None) -> float | None:
    """Read --stop-when: percentage points, as in 1.5, ±1.5, +-1.5 or 1.5%; return a share.

    Raises:
        ConfigError: it is not of that form, or not between 0 and 50.
    """
    if text is None:
        return None
    found = _MARGIN.fullmatch(text.strip())
    points = float(found[1]) if found else 0.0
    if not 0 < points < 50:
        raise ConfigError(
            f"--stop-when {text}: give percentage points above 0 and below 50, as in 1.5"
        )
    return points / 100


def parse_columns(text: str | None) -> dict[str, str] | None:
    """Read problem=NAME,answer=NAME, one of them or both.

    Raises:
        ConfigError: it is not of that form.
    """
    if text is None:
        return None
    pairs = [part.partition("=") for part in text.split(",")]
    found = {key.strip(): name.strip() for key, _, name in pairs}
    good = set(found) <= {"problem", "answer"} and all(found.values())
    if not good or len(found) < len(pairs):
        raise ConfigError(
            f"--columns {text}: give problem=NAME,answer=NAME, one of them or both, once each"
        )
    return found
