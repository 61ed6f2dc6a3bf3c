"""Fake vLLM servers for the tests of the protocol with them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dgpo_cli.samplers.vllm import dispatch
from dgpo_cli.samplers.vllm.weight_stream import BACKEND
from tests.samplers.fake_vllm import FakeVllm, fake_servers


@pytest.fixture(autouse=True)
def keys_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where servers leave their keys."""
    folder = tmp_path_factory.mktemp("state")
    monkeypatch.setenv("XDG_STATE_HOME", str(folder))
    return folder


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
