"""What a real vLLM server under `dgpo serve` refuses; nothing of it reaches the weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from dgpo_cli.samplers.vllm.gate import key_file, read_key
from tests.policy import tiny
from tests.samplers.gate_cases import Attempt, answer_to, refused, rpc, wrongly_answered
from tests.vllm.conftest import SMALL, client_of

IDS = list(range(2, 20))


@pytest.fixture
def key(served: str) -> str:
    found = read_key(key_file(served))
    assert found is not None
    return found


def scores(served: str, *, salt: str) -> list[float]:
    client = client_of(served)
    return client.score(IDS, model=client.served().model, cache_salt=salt)


def save_other(folder: Path) -> None:
    """Write the same model with other weights."""
    model = tiny.build_model("qwen2-tied", **SMALL)
    tiny.nudge(model.parameters(), scale=0.1, seed=3)
    model.save_pretrained(folder)


def test_what_must_be_refused_is_refused_and_the_weights_stay(
    served: str, small_model: Path, tmp_path: Path, key: str
) -> None:
    client_of(served).reload_weights(small_model)
    before = scores(served, salt="before")
    outside = tmp_path / "outside"
    attempts = refused(small_model.parent, outside=outside)
    # A whole model, so that nothing but the gate is in its way.
    save_other(outside)
    assert wrongly_answered(served, attempts, key=key) == []
    assert scores(served, salt="after") == before


def test_the_key_opens_health_and_what_dgpo_uses(served: str, small_model: Path, key: str) -> None:
    other = small_model.parent / "other"
    save_other(other)
    before = scores(served, salt="own")
    for attempt in (
        Attempt("health", 200, "GET", "/health", key=None),
        Attempt("weights", 200, path="/collective_rpc", body=rpc(other)),
        Attempt("cache", 200),
    ):
        status, text = answer_to(served, attempt, key=key)
        assert status == attempt.status, text
    assert scores(served, salt="other") != before  # the attempts above could have done this
    client_of(served).reload_weights(small_model)
    assert scores(served, salt="again") == before
