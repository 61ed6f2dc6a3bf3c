"""Fake vLLM servers for the tests of the protocol with them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dgpo_cli.backends import dispatch
from dgpo_cli.backends.weight_stream import BACKEND
from tests.backends.fake_vllm import FakeVllm, fake_servers


@pytest.fixture
def server() -> Iterator[FakeVllm]:
    with fake_servers() as (server,):
        yield server


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_LONGEST_BACKOFF_S", 0.01)


@pytest.fixture
def adapter(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the policy has an adapter; without one, servers get all weights in two ways."""
    monkeypatch.setattr(FakeVllm, "transfer", BACKEND if request.param == "tcp" else None)
    return bool(request.param == "adapter")


@pytest.fixture
def over_tcp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeVllm, "transfer", BACKEND)
