"""The attention that a model is left with computes what eager computes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from dgpo_cli.core.errors import ConfigError
from dgpo_cli.policy import attention
from dgpo_cli.policy.load import load_model
from dgpo_cli.policy.load_policy import load_for_sampling
from tests.policy import adapters, families, tiny

WRONG = {"gemma2", "vaultgemma"}  # of those that run sdpa unless told otherwise
IDS = torch.randint(2, tiny.VOCAB, (2, 20), generator=torch.Generator().manual_seed(0))


def logprobs(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS, use_cache=False).logits.log_softmax(dim=-1)
    return found


def eager_logprobs(model: Any) -> torch.Tensor:
    twin = copy.deepcopy(model)
    twin.set_attn_implementation("eager")
    return logprobs(twin)


@pytest.mark.parametrize("family", families.ALL)
def test_chosen_attention_equals_eager(family: str) -> None:
    model = tiny.build_model(family)
    before = (logprobs(model) - eager_logprobs(model)).abs().max()
    note = attention.settle(model, chosen="auto")
    assert (note is not None) == (family in WRONG) == (float(before) > 0.1)
    torch.testing.assert_close(logprobs(model), eager_logprobs(model), rtol=0, atol=2e-4)


@pytest.mark.parametrize("family", families.ATTENTION)
def test_rounding_to_16_bits_is_not_taken_for_another_attention(family: str) -> None:
    model = tiny.build_model(family).to(torch.bfloat16)
    assert (attention.settle(model, chosen="auto") is not None) == (family in WRONG)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
@pytest.mark.parametrize("softcap", [1.0, 50.0])
def test_a_lost_softcap_is_seen_whatever_the_weights(
    softcap: float, scale: float, dtype: torch.dtype
) -> None:
    """Also where logits are so small now that it does nothing yet: training may enlarge them."""
    model = tiny.build_model("gemma2", attn_logit_softcapping=softcap).to(dtype)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.q_proj.weight.mul_(scale)
    assert attention.settle(model, chosen="auto") is not None
    plain = tiny.build_model("gemma2", attn_logit_softcapping=None).to(dtype)
    assert attention.settle(plain, chosen="auto") is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [-6.0, 0.0, 3.0])
def test_lost_sinks_are_seen_whatever_their_size(
    size: float, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny.build_model("gpt_oss").to(dtype)
    monkeypatch.setattr(type(model), "_supports_sdpa", True)  # as if transformers let it through
    model.set_attn_implementation("sdpa")
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.sinks.fill_(size)
    assert attention.settle(model, chosen="auto") is not None
    assert model.config._attn_implementation == "eager"


@pytest.mark.parametrize("family", ["mistral", "gemma3_text", "llama4_text"])
def test_a_lost_window_is_seen_though_it_is_longer_than_what_is_compared(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.masking_utils import AttentionMaskInterface

    name = "attention_chunk_size" if family == "llama4_text" else "sliding_window"
    model = tiny.build_model(family, **{name: 4096})
    assert attention.settle(model, chosen="auto") is None
    assert getattr(model.config, name) == 4096
    masks = dict(AttentionMaskInterface._global_mapping) | {"sdpa": lambda *_, **__: None}
    monkeypatch.setattr(AttentionMaskInterface, "_global_mapping", masks)
    assert attention.settle(model, chosen="auto") is not None
    assert getattr(model.config, name) == 4096


@pytest.fixture
def gemma2(tmp_path: Path) -> Path:
    tiny.build_model("gemma2").save_pretrained(tmp_path / "m")
    tiny.char_tokenizer().save_pretrained(tmp_path / "m")
    return tmp_path / "m"


def test_an_explicit_attention_that_is_wrong_is_refused(gemma2: Path) -> None:
    told = (
        r"model\.attention=sdpa: sdpa computes the attention of Gemma2ForCausalLM wrongly "
        r"\(log-probabilities up to \d[\d.]* nats off\); set model\.attention=eager"
    )
    with pytest.raises(ConfigError, match=told):
        load_model(adapters.settings_of(gemma2, attention="sdpa"))
    right = load_model(adapters.settings_of(gemma2, attention="eager"))
    assert right.config._attn_implementation == "eager"


def test_the_choice_of_eager_is_told(gemma2: Path) -> None:
    [note] = load_for_sampling(adapters.settings_of(gemma2)).notes
    assert note.startswith(
        "model.attention=auto uses eager, because sdpa computes the attention of"
    )
    assert not load_for_sampling(adapters.settings_of(gemma2, attention="eager")).notes
