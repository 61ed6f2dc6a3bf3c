"""The policy and its reference: what is held, what is trained, what is saved, what ends a text."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import transformers

from dgpo_cli.core.errors import ModelError
from dgpo_cli.policy.batching import Rows
from dgpo_cli.policy.load_policy import load_for_sampling, load_policy
from dgpo_cli.policy.packing import pack
from dgpo_cli.policy.policy import Policy
from dgpo_cli.policy.scoring import token_stats
from dgpo_cli.policy.settings import LoraAdapter, ModelSettings, NoAdapter
from tests.engine import checkpoints, updates
from tests.policy import tiny

ROWS = tiny.rows_of_pairs(tiny.random_pairs([(4, 9), (6, 5)]))


def settings_of(folder: Path, **changes: Any) -> ModelSettings:
    return ModelSettings(path=str(folder), device="cpu", **changes)


def hellinger_sq(policy: Policy, rows: Rows = ROWS) -> torch.Tensor:
    stats = token_stats(policy, rows, temperature=1.0, micro_batch_size=2, with_reference=True)
    return stats.hellinger_sq


def size(model: Any) -> int:
    return sum(p.numel() for p in model.parameters())


def test_a_tied_head_is_counted_once_and_a_reference_is_a_second_copy() -> None:
    policy, one = tiny.make_policy(), size(tiny.build_model())
    assert policy.parameter_counts() == {"held": 2 * one, "trained": one}
    assert len(tiny.build_model().state_dict()) > len(list(tiny.build_model().parameters()))


def test_without_a_reference_one_copy_is_held(model_folder: Path) -> None:
    policy = load_policy(
        settings_of(model_folder), adapter=NoAdapter(), seed=0, with_reference=False
    )
    assert policy.parameter_counts()["held"] == size(tiny.build_model())
    assert not policy.has_reference


def test_a_completion_ends_on_the_tokenizers_end_and_on_the_models() -> None:
    policy = tiny.make_policy()
    assert policy.stop_ids == {tiny.END}
    policy.model.generation_config.eos_token_id = [9, 12]
    assert policy.stop_ids == {tiny.END, 9, 12}
    policy.model.generation_config.eos_token_id = 7
    assert policy.stop_ids == {tiny.END, 7}
    policy.model.generation_config.eos_token_id = None
    assert policy.stop_ids == {tiny.END}


def test_training_mode_ends_with_the_block_even_by_an_error(policy: Policy) -> None:
    with pytest.raises(ZeroDivisionError), policy.training():
        assert policy.model.training
        _ = 1 / 0
    assert not any(module.training for module in policy.model.modules())


def test_dropout_of_an_adapter_acts_in_training_alone() -> None:
    from dgpo_cli.policy.load import add_adapter

    base = tiny.build_model("qwen2-untied").requires_grad_(False)
    model = add_adapter(base, adapter=LoraAdapter(rank=3, dropout=0.5), seed=0)
    tiny.nudge((p for p in model.parameters() if p.requires_grad), scale=0.2)
    policy = Policy(model.eval(), tokenizer=tiny.char_tokenizer(), reference=None, has_adapter=True)
    packed = pack(torch.arange(5, 15)[None], torch.ones(1, 10, dtype=torch.bool))

    def hidden() -> torch.Tensor:
        return policy.hidden(packed).detach()

    assert torch.equal(hidden(), hidden())
    with policy.training():
        assert not torch.equal(hidden(), hidden())
    assert torch.equal(hidden(), hidden())


@torch.no_grad()
def test_the_adapter_is_on_again_after_the_reference(lora_policy: Policy) -> None:
    packed = pack(torch.arange(5, 15)[None], torch.ones(1, 10, dtype=torch.bool))
    before = lora_policy.hidden(packed)
    reference = lora_policy.reference_hidden(packed)
    after = lora_policy.hidden(packed)
    assert torch.equal(before, after)
    assert not torch.equal(before, reference)


@pytest.mark.parametrize("kind", checkpoints.ADAPTERS)
def test_a_fresh_policy_is_its_reference(model_folder: Path, kind: str) -> None:
    policy = checkpoints.load(model_folder, kind)
    assert torch.count_nonzero(hellinger_sq(policy)) == 0
    updates.run_update(policy, checkpoints.adamw_of(policy), updates.make_batch(policy))
    assert torch.count_nonzero(hellinger_sq(policy)) == int(ROWS.mask.sum())


def test_the_seed_decides_the_adapter_and_touches_no_global_generator(model_folder: Path) -> None:
    def adapter(seed: int) -> list[torch.Tensor]:
        policy = load_policy(
            settings_of(model_folder), adapter=LoraAdapter(), seed=seed, with_reference=True
        )
        return [p.detach() for _, p in policy.trainable()]

    adapter(1)  # what peft and transformers do when they are first imported is not meant here
    before = torch.get_rng_state()
    one, again, other = adapter(1), adapter(1), adapter(2)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("kind", checkpoints.ADAPTERS)
def test_gradient_checkpointing_changes_no_gradient(model_folder: Path, kind: str) -> None:
    gradients = []
    for on in ("none", "full"):
        policy = load_policy(
            settings_of(model_folder, gradient_checkpointing=on),
            adapter=checkpoints.ADAPTERS[kind],
            seed=0,
            with_reference=True,
        )
        tiny.nudge((p for _, p in policy.trainable()), scale=0.02)
        gradients.append(updates.gradient_of(policy, updates.make_batch(policy)))
        assert policy.layers.checkpointing == on
    updates.assert_same_gradient(gradients[1], gradients[0], error=1e-6)


def test_a_policy_to_sample_from_trains_nothing(model_folder: Path, tmp_path: Path) -> None:
    policy, optimizer = checkpoints.trained(model_folder, "lora")
    checkpoints.save(tmp_path / "c", policy, optimizer)
    settings = settings_of(model_folder)
    plain = load_for_sampling(settings)
    with_adapter = load_for_sampling(settings, adapter=tmp_path / "c")
    beside = load_for_sampling(settings, reference=settings)
    assert [p.parameter_counts()["trained"] for p in (plain, with_adapter, beside)] == [0, 0, 0]
    assert [p.has_reference for p in (plain, with_adapter, beside)] == [False, True, True]
    assert torch.equal(hellinger_sq(with_adapter), hellinger_sq(policy))
    assert not hellinger_sq(beside).any()


def test_a_reference_of_another_vocabulary_is_refused() -> None:
    other = tiny.build_model("qwen2-untied", vocab_size=tiny.VOCAB + 3)
    with pytest.raises(
        ModelError, match=f"{tiny.VOCAB} logits and the reference {other.vocab_size}"
    ):
        Policy(
            tiny.build_model(), tokenizer=tiny.char_tokenizer(), reference=other, has_adapter=False
        )


def test_a_reference_whose_logits_are_not_the_heads_is_refused() -> None:
    model = tiny.build_model()
    reference = copy.deepcopy(model)
    plain = reference.forward

    def forward(**arguments: Any) -> Any:
        output = plain(**arguments)
        output.logits = output.logits * 2
        return output

    reference.forward = forward
    with pytest.raises(ModelError, match="computes its logits"):
        Policy(model, tokenizer=tiny.char_tokenizer(), reference=reference, has_adapter=False)


def mixture() -> Any:
    """A mixture of experts: transformers keeps them in one tensor, a checkpoint each in its own."""
    torch.manual_seed(0)
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    config = transformers.Qwen3MoeConfig(**tiny.SIZES, **experts, head_dim=8)
    return transformers.Qwen3MoeForCausalLM(config)


@pytest.mark.parametrize("loaded", [False, True], ids=["made", "loaded"])
@pytest.mark.parametrize("family", ["qwen2-tied", "qwen2-untied", "gemma2-softcap", "mixture"])
def test_tensors_are_what_a_checkpoint_has(family: str, loaded: bool, tmp_path: Path) -> None:
    model = mixture() if family == "mixture" else tiny.build_model(family)
    if loaded:
        model.save_pretrained(tmp_path / "before")
        model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "before")
    policy = Policy(model, tokenizer=tiny.char_tokenizer(), reference=None, has_adapter=False)
    policy.save(tmp_path / "after")
    saved = safetensors.torch.load_file(tmp_path / "after" / "model.safetensors")
    found = dict(policy.tensors())
    assert found.keys() == saved.keys() and len(policy.tensors()) == len(saved)
    assert all(torch.equal(found[name], saved[name]) for name in saved)


def test_tensors_are_the_policys_own_memory() -> None:
    policy = Policy(
        tiny.build_model("qwen2-tied"),
        tokenizer=tiny.char_tokenizer(),
        reference=None,
        has_adapter=False,
    )
    with torch.no_grad():
        policy.model.model.embed_tokens.weight.add_(1.0)
        name, first = policy.tensors()[0]
        assert name == "model.embed_tokens.weight"
        assert first.data_ptr() == policy.model.model.embed_tokens.weight.data_ptr()
