"""A checkpoint restores everything, and the ecosystem's own tools load it."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from dgpo_cli.engine.checkpoint import load_state, load_trainer
from tests.engine import updates
from tests.engine.checkpoints import ADAPTERS, STATE, adamw_of, load, save, trained


def draws() -> list[float]:
    """A number from each of the global generators, Gaussian ones too: those keep a spare."""
    return [
        random.random(),
        random.gauss(0, 1),
        float(np.random.random()),
        float(np.random.standard_normal()),
        float(torch.rand(())),
    ]


@pytest.mark.parametrize("kind", ADAPTERS)
def test_a_round_trip_restores_everything(model_folder: Path, tmp_path: Path, kind: str) -> None:
    """Weights, optimiser, generators, counters; the next update is the same to the bit."""
    policy, optimizer = trained(model_folder, kind)
    draws()
    save(tmp_path / "c", policy, optimizer)
    expected = draws()
    again = load(model_folder, kind, checkpoint=tmp_path / "c")
    restored = adamw_of(again)
    load_trainer(tmp_path / "c", optimizer=restored)
    assert draws() == expected
    assert load_state(tmp_path / "c") == STATE
    for (name, p), (other, q) in zip(policy.trainable(), again.trainable(), strict=True):
        assert name == other and torch.equal(p, q)
    for (name, a), (other, b) in zip(updates.bits(optimizer), updates.bits(restored), strict=True):
        assert name == other and torch.equal(a, b)
    batches = updates.make_batch(policy), updates.make_batch(again)
    assert torch.equal(batches[0].stats.hellinger_sq, batches[1].stats.hellinger_sq)
    assert batches[0].stats.hellinger_sq.any()  # the reference is the initial model, not this one
    results = [
        updates.run_update(*pair)
        for pair in ((policy, optimizer, batches[0]), (again, restored, batches[1]))
    ]
    assert results[0] == results[1] and results[0].applied
    for (_, p), (_, q) in zip(policy.trainable(), again.trainable(), strict=True):
        assert torch.equal(p, q)


def test_a_full_checkpoint_loads_with_transformers(model_folder: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    policy, optimizer = trained(model_folder, "full")
    save(tmp_path / "c", policy, optimizer)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "c")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "c")
    ids = tokenizer("12+3?", return_tensors="pt")["input_ids"]
    assert ids.tolist() == [[6, 7, 15, 8, 23]]
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, policy.model(input_ids=ids).logits)


def test_an_adapter_checkpoint_loads_with_peft(model_folder: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    policy, optimizer = trained(model_folder, "lora")
    save(tmp_path / "c", policy, optimizer)
    assert not (tmp_path / "c" / "model.safetensors").exists()
    base = AutoModelForCausalLM.from_pretrained(model_folder)
    ids = torch.arange(5, 15)[None]
    with torch.no_grad():
        plain = base(input_ids=ids).logits
        model = PeftModel.from_pretrained(base, tmp_path / "c")
        found = model(input_ids=ids).logits
        assert torch.equal(found, policy.model(input_ids=ids).logits)
    assert not torch.equal(found, plain)


def test_the_folder_holds_what_its_documentation_says(model_folder: Path, tmp_path: Path) -> None:
    save(tmp_path / "c", *trained(model_folder, "full"))
    names = {path.name for path in (tmp_path / "c").iterdir()}
    assert names >= {
        "model.safetensors",
        "config.json",
        "tokenizer_config.json",
        "trainer.pt",
        "SHA256SUMS",
    }
    assert json.loads((tmp_path / "c" / "state.json").read_text()) == {
        "step": 7,
        "policy_version": 5,
        "bad_streak": 2,
        "format": 2,
        "draws": 9,
        "prompts": 36,
        "data": "0a",
        "noise_floor": 3e-13,
    }
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
