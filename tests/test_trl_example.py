"""The example that gives TRL's GRPOTrainer the credit of DGPO, against TRL and the engine."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dgpo_cli.algo.credit import CreditRule, DgpoCredit, UniformCredit
from dgpo_cli.algo.losses import ClipLoss
from dgpo_cli.core.types import Batch
from dgpo_cli.policy.policy import Policy
from tests.engine import updates
from tests.policy import tiny

ROOT = Path(__file__).parents[1]
pytest.importorskip("trl", reason="TRL is in the development extra")


def load_example() -> Any:
    spec = importlib.util.spec_from_file_location("trl_dgpo", ROOT / "examples/trl_dgpo.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


EXAMPLE = load_example()
GROUP = 3


def make_trainer(
    folder: Path, kind: type, *, model: Any, peft: Any = None, reward: Any = None, **changes: Any
) -> Any:
    from datasets import Dataset
    from trl import GRPOConfig

    rule = {"rule": changes.pop("rule")} if "rule" in changes else {}
    given: dict[str, Any] = {
        "output_dir": str(folder),
        "loss_type": "dapo",
        "temperature": updates.TEMPERATURE,
        "epsilon": 0.2,
        "epsilon_high": 0.28,
        "beta": 0.0,
        "num_generations": GROUP,
        "per_device_train_batch_size": len(updates.PAIRS),
        "max_completion_length": updates.MAX_TOKENS,
        "gradient_checkpointing": False,
        "bf16": False,
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        **changes,
    }
    trainer = kind(
        model=model,
        reward_funcs=reward or (lambda completions, **_: [0.0] * len(completions)),
        args=GRPOConfig(**given),
        train_dataset=Dataset.from_dict({"prompt": ["1+1?", "2+2?", "3+3?"] * 3}),
        processing_class=tiny.char_tokenizer(),
        peft_config=peft,
        **rule,
    )
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def columns_of(batch: Batch) -> dict[str, Any]:
    """What TRL has of the completions of a batch before its loss."""
    return {
        "prompt_ids": batch.prompt_ids,
        "prompt_mask": batch.prompt_mask.long(),
        "completion_ids": batch.completion_ids,
        "completion_mask": batch.mask.long(),
        "advantages": batch.advantages.clone(),
        "old_per_token_logps": batch.stats.old_logprobs,
        "num_items_in_batch": batch.mask.sum(),
    }


def loss_and_gradient(
    trainer: Any, batch: Batch, monkeypatch: pytest.MonkeyPatch, **more: Any
) -> tuple[float, dict[str, Tensor]]:
    """TRL's, of completions that it seems to have sampled."""
    from trl import GRPOTrainer

    monkeypatch.setattr(
        GRPOTrainer,
        "_generate_and_score_completions",
        lambda *_: columns_of(batch) | more,
    )
    inputs = trainer._generate_and_score_completions([])
    model = trainer.model.train()
    model.zero_grad()
    loss = trainer._compute_loss(model, inputs)
    loss.backward()
    named = model.named_parameters()
    return float(loss.detach()), {n: p.grad.clone() for n, p in named if p.grad is not None}


def moved_batch(policy: Policy, rule: CreditRule) -> Batch:
    """Completions whose old_logprobs are of other weights: ratios lie beyond both bounds."""
    return updates.make_batch(policy, shifts=updates.random_shifts(), credit=rule)


OPTIONS: list[dict[str, Any]] = [
    {},
    {"beta": 0.05},
    {"loss_type": "grpo"},
    {"loss_type": "dr_grpo"},
    {"importance_sampling_level": "sequence", "loss_type": "grpo"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_with_uniform_credit_it_is_trls_own_loss_and_gradient(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = tiny.make_policy(apart=0.05)
    batch = moved_batch(policy, UniformCredit())
    more = {"ref_per_token_logps": batch.stats.old_logprobs - 0.1}
    if options.get("beta"):
        monkeypatch.setattr(
            "trl.trainer.grpo_trainer.create_model_from_path", lambda *_, **__: policy._reference
        )
    own = make_trainer(tmp_path, EXAMPLE.GRPOTrainer, model=policy.model, **options)
    expected = loss_and_gradient(own, batch, monkeypatch, **more)
    ours = make_trainer(
        tmp_path, EXAMPLE.DgpoTrainer, model=policy.model, rule=UniformCredit(), **options
    )
    found = loss_and_gradient(ours, batch, monkeypatch, **more)
    assert found[0] == expected[0] != 0
    assert found[1].keys() == expected[1].keys()
    assert all(torch.equal(found[1][name], expected[1][name]) for name in expected[1])


@pytest.mark.parametrize(
    ("loss_type", "aggregation"), [("dapo", "token-mean"), ("grpo", "sequence-mean")]
)
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_with_dgpo_it_is_the_engines_loss_and_gradient(
    kind: str,
    loss_type: str,
    aggregation: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy = tiny.make_lora_policy(apart=0.05) if kind == "lora" else tiny.make_policy(apart=0.05)
    batch = moved_batch(policy, updates.CREDIT)
    assert float(batch.credit.weights.max()) > 1.5
    capture = updates.Capture(policy)
    result = updates.run_update(policy, capture, batch, loss=ClipLoss(aggregation=aggregation))
    assert result.clipped_tokens > 3
    trainer = make_trainer(
        tmp_path, EXAMPLE.DgpoTrainer, model=policy.model, rule=updates.CREDIT, loss_type=loss_type
    )
    trainer.meter._policy._reference = policy._reference  # a copy of the model is no distance apart
    trainer.meter._policy._reference_head = policy._reference_head
    loss, gradient = loss_and_gradient(trainer, batch, monkeypatch)
    assert loss == pytest.approx(result.loss, abs=3e-6)
    scale = max(float(each.abs().max()) for each in capture.gradients.values())
    assert gradient.keys() == capture.gradients.keys() and scale > 1e-3
    for name, own in capture.gradients.items():
        assert float((gradient[name] - own).abs().max()) <= 3e-6 * scale, name


@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora"])
def test_it_trains_and_weighs_once_for_all_iterations(
    adapter: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the policy that sampled, against the initial one: the first weights are all 1."""
    from peft import LoraConfig

    weights: list[Tensor] = []
    trainer = make_trainer(
        tmp_path,
        EXAMPLE.DgpoTrainer,
        model=tiny.build_model("qwen2-untied"),
        peft=LoraConfig(r=4, target_modules="all-linear") if adapter else None,
        reward=lambda completions, **_: [float(len(set(text)) % 3) for text in completions],
        rule=DgpoCredit(tau=1e-4),
        num_iterations=2,
        max_steps=4,
        learning_rate=2e-2,
    )
    plain = trainer.meter.weights

    def watched(**columns: Any) -> Tensor:
        weights.append(plain(**columns))
        return weights[-1]

    trainer.meter.weights = watched
    trainer.train()
    assert len(weights) == 2
    assert set(weights[0].unique().tolist()) <= {0.0, 1.0}
    assert float(weights[1].max()) > 1.01
    assert trainer.model.training


def test_the_example_runs_in_a_script(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, str(ROOT / "examples/trl_dgpo.py")],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("'grad_norm': ") == 2
