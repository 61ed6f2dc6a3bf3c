"""dgpo serve: what is handed to the workflow, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dgpo_cli.cli import options
from dgpo_cli.cli import serve as module
from dgpo_cli.config import checks
from dgpo_cli.core.errors import ConfigError
from dgpo_cli.samplers.vllm import serve as workflow
from tests.cli.helpers import in_process as dgpo


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """vLLM seems to be there; the workflow only notes what it is asked."""
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(checks, "has_vllm", lambda: True)
    monkeypatch.setattr(options, "reach", lambda model: None)

    @contextmanager
    def serving(flags: Any, **rest: Any) -> Iterator[SimpleNamespace]:
        calls.append({"flags": flags} | rest)
        yield SimpleNamespace(url="http://here", key_file=None, wait=lambda: None)

    monkeypatch.setattr(workflow, "serving", serving)
    return calls


def test_without_vllm_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "has_vllm", lambda: False)
    with pytest.raises(ConfigError, match=r"vLLM is not installed; pip install 'dgpo-cli\[vllm\]'"):
        module.serve("m")


@pytest.mark.parametrize(
    ("arguments", "updates"),
    [
        ((), True),
        (("--host", "localhost"), True),
        (("--host", "0.0.0.0"), False),
        (("--host", "0.0.0.0", "--updates-from-anywhere"), True),
    ],
)
def test_weights_are_taken_on_loopback_or_when_asked_for(
    asked: list[dict[str, Any]], arguments: tuple[str, ...], updates: bool
) -> None:
    ended = dgpo("serve", "--model", "m", *arguments)
    assert ended.exit_code == 0, ended.output
    assert asked[0]["flags"].updates is updates
    assert ("accepts no new weights" in ended.output) is not updates


def test_the_key_comes_from_the_environment(
    asked: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "s3cret")
    ended = dgpo("serve", "--model", "m", "--api-key-env", "MY_KEY")
    assert asked[0]["api_key"] == "s3cret" and "s3cret" not in ended.output
    monkeypatch.delenv("MY_KEY")
    with pytest.raises(ConfigError, match="--api-key-env MY_KEY: that variable is not set"):
        module.serve("m", api_key_env="MY_KEY")


def test_the_folder_of_weights_arrives(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    dgpo("serve", "--model", "m", "--sync-dir", str(tmp_path))
    dgpo("serve", "--model", "m")
    assert [call["sync_dir"] for call in asked] == [tmp_path, None]


def test_flags_arrive_as_they_were_given(asked: list[dict[str, Any]]) -> None:
    dgpo(
        *(
            "serve",
            "--model",
            "org/m",
            "--revision",
            "abc",
            "--lora-rank",
            "16",
            "--dtype",
            "float32",
        ),
        *("--max-model-len", "99", "--max-num-seqs", "7", "--cache-gib", "0.5", "--enforce-eager"),
        *("--port", "1234", "--lora-rank", "16"),
    )
    flags = asked[0]["flags"]
    assert (flags.model, flags.revision, flags.lora_rank, flags.dtype) == (
        *("org/m", "abc", 16, "float32"),
    )
    assert (flags.max_model_len, flags.max_num_seqs, flags.cache_gib) == (99, 7, 0.5)
    assert flags.enforce_eager and asked[0]["port"] == 1234
