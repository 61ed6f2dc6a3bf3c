"""QLoRA on a real model: SmolLM2-135M-Instruct with its base in 4 bits, three steps on a CPU."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dgpo_cli.engine import setup
from dgpo_cli.policy.load import load_model
from dgpo_cli.policy.quantization import packed_count
from dgpo_cli.policy.settings import ModelSettings
from tests.cli.helpers import in_process as dgpo
from tests.slow.test_smollm2 import json_lines, smollm2  # noqa: F401 (a fixture)

pytestmark = pytest.mark.slow

STEPS = 3
SETTINGS = (
    "model.quantization=nf4",
    "optim.kind=adamw8bit",
    "rollout.prompts_per_step=2",
    "rollout.group_size=4",
    "rollout.max_completion_tokens=12",
    "optim.micro_batch_size=4",
    "train.checkpoint_every=1",
    "train.keep_checkpoints=3",
    "train.rollouts_every=1",
    "reward.workers=1",
    # Any digit anywhere is an answer: with 8 completions a step there is signal in most.
    "reward.extract=last-number",
    "model.device=cpu",
    "train.threads=1",
)


@dataclass(frozen=True)
class Finished:
    """A run, its base, and the policy that the command trained with what it was before."""

    out: Path
    base: Path
    policy: Any
    before: dict[str, torch.Tensor]

    def metrics(self) -> list[dict[str, Any]]:
        return json_lines(self.out / "metrics.jsonl")

    @property
    def checkpoint(self) -> Path:
        return self.out / "checkpoints" / f"step-{STEPS:06d}"


@pytest.fixture(scope="module")
def run(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:  # noqa: F811
    from tests.policy.adapters import packed_bytes

    out = tmp_path_factory.mktemp("qlora") / "run"
    held: list[tuple[Any, dict[str, torch.Tensor]]] = []
    load_policy = setup.load_policy

    def watched(*arguments: Any, **others: Any) -> Any:
        policy = load_policy(*arguments, **others)
        held.append((policy, packed_bytes(policy)))
        return policy

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setup, "load_policy", watched)
        overrides = [f"--set={s}" for s in (f"model.path={smollm2}", *SETTINGS)]
        result = dgpo(
            *("train", "--preset", "smollm2-lora", "--steps", str(STEPS), "--out", str(out)),
            *overrides,
        )
    assert result.exit_code == 0, result.output
    [(policy, before)] = held
    yield Finished(out, smollm2, policy, before)
    shutil.rmtree(out)


def test_three_steps_have_a_finite_loss_and_move_the_adapter(run: Finished) -> None:
    lines = run.metrics()
    assert [line["step"] for line in lines] == [1, 2, 3]
    for line in lines:
        assert line["loss/value"] is not None  # what is not finite is written as null
        assert line["optim/skipped_nonfinite"] == 0
        assert line["sampler/logprob_gap_max"] < 1e-3
    assert sum(line["optim/updates"] for line in lines) >= 1, "take another seed: no signal at all"
    assert lines[0].get("policy/hellinger_sq_max", 0.0) in (0.0, None)
    adapter = load_file(run.checkpoint / "adapter_model.safetensors")
    assert all("lora_" in name for name in adapter)
    assert all(tensor.any() for name, tensor in adapter.items() if "lora_B" in name)


def test_the_base_is_packed_and_not_a_byte_of_it_has_changed(run: Finished) -> None:
    from tests.policy.adapters import packed_bytes

    after = packed_bytes(run.policy)
    assert after.keys() == run.before.keys()
    assert all(torch.equal(after[name], run.before[name]) for name in after)
    bytes_ = [t.numel() for n, t in after.items() if t.dtype == torch.uint8 and "absmax" not in n]
    assert len(bytes_) == 30 * 7
    assert 2 * sum(bytes_) == packed_count(run.policy.model) == 106_168_320
    assert run.policy.head.weight.dtype == torch.float32
    assert all("lora_" in name for name, _ in run.policy.trainable())


def test_plain_peft_loads_the_adapter_onto_the_packed_base(run: Finished) -> None:
    from peft import PeftModel

    stored = json.loads((run.checkpoint / "adapter_config.json").read_text())
    assert stored["base_model_name_or_path"] == str(run.base)
    settings = ModelSettings(path=str(run.base), device="cpu", quantization="nf4")
    loaded = PeftModel.from_pretrained(load_model(settings), str(run.checkpoint)).eval()
    line = json_lines(run.out / "rollouts" / f"step-{STEPS:06d}.jsonl")[0]
    ids = torch.tensor([line["prompt_token_ids"] + line["token_ids"]])
    with torch.no_grad():
        expected = run.policy.model(input_ids=ids).logits
        assert torch.equal(loaded(input_ids=ids).logits, expected)


def test_the_merged_run_is_a_plain_model_with_its_logits(run: Finished, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    result = dgpo("merge", str(run.out), "--out", str(tmp_path / "m"), "--dtype", "float32")
    assert result.exit_code == 0, result.output
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype=torch.float32).eval()
    ids = torch.arange(100, 140)[None]
    with torch.no_grad():
        expected = run.policy.model(input_ids=ids).logits
        torch.testing.assert_close(model(input_ids=ids).logits, expected, rtol=0.0, atol=2e-3)
