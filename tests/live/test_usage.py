"""Memory as the panel shows it."""

from __future__ import annotations

import mmap

import pytest

from dgpo_cli.live import usage


@pytest.mark.parametrize("now", [5, 2**40])
def test_the_peak_is_never_below_what_is_used_now(
    monkeypatch: pytest.MonkeyPatch, now: int
) -> None:
    """The kernel's own peak lags behind by some pages."""
    monkeypatch.setattr(usage, "_resident", lambda: now)
    monkeypatch.setattr(usage, "_peak", lambda: 2**30)
    found = usage.memory()
    assert (found.now, found.peak) == (now, max(now, 2**30))


def test_what_is_held_is_counted() -> None:
    text = b"x" * 2**25
    before = usage.memory().now
    with mmap.mmap(-1, len(text)) as held:  # the allocator may have as much that is free already
        held.write(text)
        assert before is not None and usage.memory().now - before > 2**24
