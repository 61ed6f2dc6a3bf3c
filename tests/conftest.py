"""What all tests share: nothing is fetched, one thread a process, and models of a few thousand
parameters with random weights."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

from tests.browser import chromium, visit  # noqa: F401

if TYPE_CHECKING:
    from dgpo_cli.policy.policy import Policy

# Read when huggingface_hub and torch are imported, so they are set before anything else.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
DEVICE = os.environ.get("DGPO_TEST_DEVICE", "")  # see tests/devices.py
if not DEVICE.startswith("cuda"):
    os.environ["TRITON_INTERPRET"] = "1"  # its kernels run on a CPU
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

# How long an example takes says more about the machine than about the code.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


def _default_signals_for_children() -> None:
    """Let what the tests start take SIGINT and SIGHUP as usual.

    A run in the background starts with both ignored, children inherit that, and a test that
    interrupts one would wait for ever. What has a handler here is back at its default there.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda number, frame: None)


_default_signals_for_children()


@pytest.fixture(autouse=bool(DEVICE))
def on_device() -> Iterator[None]:
    """Make the tensors of the tests on another device."""
    from tests.devices import OnDevice

    with OnDevice(DEVICE):
        yield


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """One token a character, with a chat template, a padding and an end token."""
    from tests.policy import tiny

    return tiny.char_tokenizer()


@pytest.fixture
def policy() -> Policy:
    """A tied Qwen2 policy whose reference has been moved, so that distances are not zero."""
    from tests.policy import tiny

    return tiny.make_policy(apart=0.05)


@pytest.fixture
def lora_policy() -> Policy:
    """An untied Qwen2 policy with a LoRA adapter that is not zero."""
    from tests.policy import tiny

    return tiny.make_lora_policy(apart=0.05)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and its tokenizer, as transformers writes them."""
    from tests.policy import tiny

    folder = tmp_path_factory.mktemp("tiny-model")
    tiny.build_model("qwen2-tied").save_pretrained(folder)
    tiny.char_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def wide_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for an untied model whose matrices have whole blocks of 64 numbers, as NF4 takes
    them, and more than the 4096 numbers from which AdamW's state is kept in 8 bits."""
    from tests.policy import tiny

    folder = tmp_path_factory.mktemp("wide-model")
    tiny.build_model("qwen2-untied", hidden_size=64, intermediate_size=128).save_pretrained(folder)
    tiny.char_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose last rollout was sampled by the weights of its checkpoint at step 2.

    The weights after step 1, which sampled the rollouts of step 2, are not kept.
    """
    from tests.train.test_train import run_tiny

    out = tmp_path_factory.mktemp("inspect") / "run"
    run_tiny(out, "optim.lr=1e-3", "train.checkpoint_every=2", "train.rollouts_every=1", steps=3)
    return out
