"""A mixture of experts learns as any model does; what it computes is in test_update.py."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests import engines
from tests.policy import tiny

IDS = torch.tensor([[3, 8, 9, 12, 20]])


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_experts_and_router_learn_and_what_is_saved_is_what_was_learnt(
    kind: str, tmp_path: Path
) -> None:
    make = tiny.make_policy if kind == "full" else tiny.make_lora_policy
    policy = make("qwen3_moe")
    before = {name: p.detach().clone() for name, p in policy.trainable()}
    engine = engines.make_engine(policy)
    for step in (1, 2):
        found = engine.update(engine.make_batch(engines.rollout(engine)), step=step)
        assert math.isfinite(found["loss/value"])
        assert 0 < found["optim/grad_norm"] < math.inf
    moved = [name for name, p in policy.trainable() if not torch.equal(p, before[name])]
    assert moved == list(before)
    assert any("experts" in name for name in moved) and any(".gate." in name for name in moved)
    policy.save(tmp_path)
    if kind == "full":
        again = AutoModelForCausalLM.from_pretrained(tmp_path)
    else:
        again = PeftModel.from_pretrained(tiny.build_model("qwen3_moe"), str(tmp_path))
    with torch.no_grad():
        logits = [model(IDS).logits for model in (policy.model, again.eval())]
        base = copy.deepcopy(tiny.build_model("qwen3_moe"))(IDS).logits
    assert torch.equal(*logits)
    assert not torch.equal(logits[0], base)
