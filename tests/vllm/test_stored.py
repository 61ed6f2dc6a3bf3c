"""Models that dgpo does not load: vLLM has the weights that their files have, and no others."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from dgpo_cli.core.errors import BackendError
from dgpo_cli.core.types import Completion
from dgpo_cli.engine.setup import make_sampler
from dgpo_cli.engine.stored import load_stored
from dgpo_cli.policy.load_policy import load_policy
from dgpo_cli.samplers.vllm.sampler import VllmSampler
from tests.inspect.looks import look
from tests.processes import left_behind
from tests.train.test_train import run_tiny
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


FIRST = """
def first(completion):
    return completion.token_ids[0] % 2
"""


def test_values_of_a_run_are_estimated_by_an_engine_of_its_own(
    load: Load, small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first token decides this reward: from there on every continuation must have it."""
    (tmp_path / "mine.py").write_text(FIRST)
    own = (f"model.path={small_model}", "rollout.max_completion_tokens=12", *LORA)
    reward = ("reward.kind=python", f"reward.path={tmp_path}/mine.py:first")
    kept = ("train.checkpoint_every=1", "train.rollouts_every=1", "optim.lr=1e-2")
    run_tiny(tmp_path / "run", *own, *reward, *kept, "rollout.temperature=0.7", steps=2)
    asked: list[Sequence[int]] = []
    drawn: list[tuple[Completion, ...]] = []

    def sampling(self: VllmSampler, prompts: Any, **options: Any) -> Any:
        found = sample_of(self, prompts, **options)
        asked.extend(prompts)
        drawn.extend(found)
        return found

    sample_of = VllmSampler.sample
    mark = f"DGPO_VLLM_TEST=values-{os.getpid()}"
    with monkeypatch.context() as patched:
        patched.setenv(*mark.split("="))
        patched.setattr(VllmSampler, "sample", sampling)
        options = (*MEMORY, "rollout.backend.max_num_seqs=4")
        found = look(source=tmp_path / "run", group=0, value=4, settings=options)
    assert left_behind(mark, within_s=10) == []
    for shown in found.completions:
        assert shown.values is not None
        start, *points = shown.values.points
        assert [point.at for point in points] == [*range(1, len(shown.tokens) + 1)]
        assert {point.value for point in points} == {float(shown.tokens[0].id % 2)}
        assert start.count == 4 + len(found.completions)
    # The engine continued the prefixes, with the weights of the checkpoint.
    settings, untrained = load(*MEMORY, *LORA)
    checkpoint = tmp_path / "run/checkpoints/step-000001"
    lora = {"adapter": settings.adapter, "seed": 0, "with_reference": False}
    trained = load_policy(settings.model, **lora, checkpoint=checkpoint)
    assert largest_gap(trained, drawn, temperature=0.7, prompts=asked) < CLOSE
    assert largest_gap(untrained, drawn, temperature=0.7, prompts=asked) > 10 * CLOSE


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
