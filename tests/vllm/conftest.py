"""One vLLM server for all tests of this folder, on a tiny model with random weights.

A start takes most of a minute, so that there are as few as can be: one of `dgpo serve`, and those
that the tests of a process's end are about.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dgpo_cli.samplers.http_json import Address
from dgpo_cli.samplers.vllm.client import VllmClient
from dgpo_cli.samplers.vllm.gate import key_file, read_key
from tests.processes import left_behind

if TYPE_CHECKING:
    from dgpo_cli.policy.policy import Policy

MARK = f"DGPO_VLLM_TEST=session-{os.getpid()}"
SMALL = {  # the smallest heads that vLLM has kernels for
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 512,
}
SETTINGS = (
    "model.device=cpu",
    "prompts.max_prompt_tokens=64",
    "rollout.max_completion_tokens=24",
    "rollout.backend.max_num_seqs=4",
    "reward.workers=1",
    "train.threads=1",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.vllm)
            item.add_marker(pytest.mark.timeout(900))
            if find_spec("vllm") is None:
                item.add_marker(pytest.mark.skip(reason="vLLM is not installed"))


def client_of(url: str) -> VllmClient:
    """A client with the key that the server has left."""
    return VllmClient(Address(url, partial(read_key, key_file(url))))


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tied Qwen2 model, as transformers writes it, in a folder of weights for servers."""
    from tests.policy import tiny

    folder = tmp_path_factory.mktemp("served") / "model"
    tiny.build_model("qwen2-tied", **SMALL).save_pretrained(folder)
    tiny.char_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def load(small_model: Path) -> Callable[..., tuple[Any, Policy]]:
    """Return settings and a policy of the model, with an adapter or without."""

    def load(*overrides: str) -> tuple[Any, Policy]:
        from dgpo_cli.config.load import resolve
        from dgpo_cli.policy.load_policy import load_policy

        every = [f"model.path={small_model}", *SETTINGS, *overrides]
        if "rollout.backend.kind=vllm-server" in overrides:
            every.append(f"rollout.backend.sync_dir={small_model.parent}")
        settings = resolve(overrides=every).settings
        policy = load_policy(settings.model, adapter=settings.adapter, seed=0, with_reference=False)
        return settings, policy

    return load


@contextmanager
def serving(model: str, *options: str) -> Iterator[str]:
    """Yield the address of a server that `dgpo serve` has started; it must leave nothing behind."""
    name, value = MARK.split("=")
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "dgpo_cli", "serve", "--model", model, "--port", "0"),
            *("--dtype", "float32", "--cache-gib", "0.25", "--enforce-eager", *options),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {name: value},
    )
    assert process.stdout is not None and process.stderr is not None
    log: list[str] = []
    import threading

    drain = threading.Thread(target=lambda: log.extend(process.stderr), daemon=True)
    drain.start()
    line = process.stdout.readline()
    if not line.startswith("serving"):
        process.wait()
        drain.join()
        raise AssertionError("".join(log)[-4000:])
    url = line.split()[-1]
    yield url
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 143
    assert not key_file(url).exists()


@pytest.fixture(scope="session")
def served(small_model: Path) -> Iterator[str]:
    """The address of a server of the small model, which takes weights."""
    options = ("--lora-rank", "8", "--max-num-seqs", "4", "--max-model-len", "128")
    with serving(str(small_model), *options, "--sync-dir", str(small_model.parent)) as url:
        yield url
    assert left_behind(MARK, within_s=10) == []
