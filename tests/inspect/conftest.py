"""What the tests of several workflows share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.train.test_train import run_tiny


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose last rollout was sampled by the weights of its checkpoint at step 2.

    The weights after step 1, which sampled the rollouts of step 2, are not kept.
    """
    out = tmp_path_factory.mktemp("inspect") / "run"
    run_tiny(out, "optim.lr=1e-3", "train.checkpoint_every=2", "train.rollouts_every=1", steps=3)
    return out
