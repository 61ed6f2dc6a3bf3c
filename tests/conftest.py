"""What all tests share: nothing is fetched, one thread a process, and models of a few thousand
parameters with random weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from dgpo_cli.models.policy import Policy

# Read when huggingface_hub and torch are imported, so they are set before anything else.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """One token a character, with a chat template, a padding and an end token."""
    from tests.models import tiny

    return tiny.char_tokenizer()


@pytest.fixture
def policy() -> Policy:
    """A tied Qwen2 policy whose reference has been moved, so that distances are not zero."""
    from tests.models import tiny

    return tiny.make_policy(apart=0.05)


@pytest.fixture
def lora_policy() -> Policy:
    """An untied Qwen2 policy with a LoRA adapter that is not zero."""
    from tests.models import tiny

    return tiny.make_lora_policy(apart=0.05)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and its tokenizer, as transformers writes them."""
    from tests.models import tiny

    folder = tmp_path_factory.mktemp("tiny-model")
    tiny.build_model("qwen2-tied").save_pretrained(folder)
    tiny.char_tokenizer().save_pretrained(folder)
    return folder
