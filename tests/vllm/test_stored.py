"""Models that dgpo does not load: vLLM has the weights that their files have, and no others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dgpo_cli.core.errors import BackendError
from dgpo_cli.engine.setup import make_sampler
from dgpo_cli.engine.stored import load_stored
from dgpo_cli.samplers.vllm.sampler import VllmSampler
from tests.vllm.conftest import client_of
from tests.vllm.test_process import MEMORY
from tests.vllm.test_server import CLOSE, LORA, Load, largest_gap, lora_or_full, move, sample


@lora_or_full
def test_what_a_checkpoint_holds_reaches_a_server(
    load: Load, served: str, small_model: Path, adapter: tuple[str, ...], tmp_path: Path
) -> None:
    client_of(served).reload_weights(small_model)
    backend = ("rollout.backend.kind=vllm-server", f'rollout.backend.urls=["{served}"]')
    settings, policy = load(*backend, *adapter)
    with torch.no_grad():
        move(policy)
    folder = tmp_path / "step-1"
    policy.save(folder)
    (folder / "state.json").write_text("{}")
    own = folder if policy.has_adapter else None
    if own is None:
        model = settings.model.model_copy(update={"path": str(folder)})
        settings = settings.model_copy(update={"model": model})
    sampler = make_sampler(settings, policy=load_stored(settings.model, adapter=own))
    found = sample(sampler)
    assert largest_gap(policy, found, temperature=0.7) < CLOSE
    with torch.no_grad():
        move(policy, seed=6)
    assert largest_gap(policy, found, temperature=0.7) > 100 * CLOSE  # the test can fail


def test_a_base_of_another_name_gets_no_weights_and_no_adapter(
    load: Load, served: str, tmp_path: Path
) -> None:
    backend = ("rollout.backend.kind=vllm-server", f'rollout.backend.urls=["{served}"]')
    settings, policy = load(*backend, "adapter.kind=none")
    folder = tmp_path / "another"
    policy.save(folder)
    other = settings.model.model_copy(update={"path": str(folder)})
    settings = settings.model_copy(update={"model": other})
    sampler = make_sampler(settings, policy=load_stored(other, adapter=None))
    with pytest.raises(BackendError, match=rf"serves .*model, not {folder}; start it with"):
        sample(sampler)


def test_an_engine_of_its_own_samples_with_an_adapter_from_its_folder(
    load: Load, tmp_path: Path
) -> None:
    settings, policy = load(*MEMORY, *LORA)
    with torch.no_grad():
        move(policy)
    policy.save(tmp_path / "a")
    sampler = make_sampler(settings, policy=load_stored(settings.model, adapter=tmp_path / "a"))
    assert isinstance(sampler, VllmSampler)
    try:
        assert largest_gap(policy, sample(sampler), temperature=0.7) < CLOSE
    finally:
        sampler.close()
