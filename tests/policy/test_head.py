"""The head gives the model's own logits, or the model is refused."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from dgpo_cli.core.errors import ModelError
from dgpo_cli.policy.head import Head, check_head, decoder_of, head_of
from tests.policy import tiny

FAMILIES = ("qwen2-tied", "qwen2-untied", "gemma2-softcap", "granite-scaled", "cohere-scaled")


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_the_head_gives_the_models_own_logits(family: str) -> None:
    model = tiny.build_model(family)
    ids = torch.arange(2, 22).reshape(2, 10)
    hidden = decoder_of(model)(input_ids=ids, use_cache=False).last_hidden_state
    torch.testing.assert_close(
        head_of(model).logits(hidden), model(input_ids=ids).logits, rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize(
    ("family", "scale", "softcap"),
    [
        ("qwen2-untied", 1.0, None),
        ("gemma2-softcap", 1.0, 2.0),
        ("granite-scaled", 0.25, None),  # logits_scaling = 4 divides
        ("cohere-scaled", 0.5, None),  # logit_scale = 0.5 multiplies
    ],
)
def test_scale_and_softcap_are_read_from_the_config(
    family: str, scale: float, softcap: float | None
) -> None:
    head = head_of(tiny.build_model(family))
    assert (head.scale, head.softcap) == (scale, softcap)
    assert head.vocab_size == tiny.VOCAB


def test_logits_are_arithmetic() -> None:
    head = Head(
        weight=torch.tensor([[1.0, 2.0], [-3.0, 0.5]]),
        bias=torch.tensor([0.25, -1.0]),
        scale=0.5,
        softcap=3.0,
    )
    found = head.logits(torch.tensor([2.0, -1.0]))
    # 1*2 + 2*-1 + 0.25 = 0.25; -3*2 + 0.5*-1 - 1 = -7.5
    expected = [3 * math.tanh(0.5 * 0.25 / 3), 3 * math.tanh(0.5 * -7.5 / 3)]
    assert found.tolist() == pytest.approx(expected, abs=1e-6)


@torch.no_grad()
def test_logits_of_bfloat16_weights_are_taken_in_float32() -> None:
    model = tiny.build_model("qwen2-untied").to(torch.bfloat16)
    hidden = torch.randn(5, 32, generator=torch.Generator().manual_seed(0)).bfloat16()
    logits = head_of(model).logits(hidden)
    assert logits.dtype == torch.float32
    exact = hidden.double() @ model.lm_head.weight.double().T
    torch.testing.assert_close(logits.double(), exact, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_known_family_passes_the_check(family: str, dtype: torch.dtype) -> None:
    model = tiny.build_model(family).to(dtype)
    check_head(model, head=head_of(model))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("change", ["scale", "softcap", "bias", "permuted"])
def test_a_model_whose_logits_are_not_the_heads_is_refused(change: str, dtype: torch.dtype) -> None:
    """As if a family scaled, capped, shifted or permuted its logits without saying so."""
    model = tiny.build_model("qwen2-untied").to(dtype)
    plain = model.forward

    def forward(**arguments: object) -> object:
        output = plain(**arguments)
        logits = output.logits
        output.logits = {
            "scale": logits * 1.1,
            "softcap": (logits / 4).tanh() * 4,
            "bias": logits + torch.arange(tiny.VOCAB) / tiny.VOCAB,
            "permuted": logits.roll(1, dims=-1),
        }[change]
        return output

    model.forward = forward
    with pytest.raises(ModelError, match="Qwen2ForCausalLM computes its logits"):
        check_head(model, head=head_of(model))


def test_a_head_narrower_than_the_logits_is_refused() -> None:
    model = tiny.build_model("qwen2-untied")
    head = head_of(model)
    narrow = Head(weight=head.weight[:-1], bias=None, scale=1.0, softcap=None)
    with pytest.raises(ModelError, match="does not support"):
        check_head(model, head=narrow)


def test_the_check_leaves_the_model_as_it_was() -> None:
    model = tiny.build_model()
    before = copy.deepcopy(model.state_dict())
    check_head(model, head=head_of(model))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_an_adapter_on_the_head_is_refused() -> None:
    from peft import LoraConfig, get_peft_model

    model = tiny.build_model("qwen2-untied")
    get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["lm_head"]))
    with pytest.raises(ModelError, match="leave lm_head out"):
        head_of(model)


def test_a_model_without_a_head_is_refused() -> None:
    with pytest.raises(ModelError, match="Qwen2Model has no output embedding"):
        head_of(tiny.build_model().model)
