"""Memory as the panel shows it."""

from __future__ import annotations

import pytest

from dgpo_cli.live import usage


@pytest.mark.parametrize("now", [None, 5, 2**40])
def test_the_peak_is_never_below_what_is_used_now(
    monkeypatch: pytest.MonkeyPatch, now: int | None
) -> None:
    """The kernel's own peak lags behind by some pages."""
    monkeypatch.setattr(usage, "_resident", lambda: now)
    monkeypatch.setattr(usage, "_peak", lambda: 2**30)
    found = usage.memory()
    assert (found.now, found.peak) == (now, max(now or 0, 2**30))
