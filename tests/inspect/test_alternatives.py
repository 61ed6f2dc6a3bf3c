"""The alternatives of a token are a plain softmax of the model's own logits."""

from __future__ import annotations

import pytest
import torch

from dgpo_cli.inspect.alternatives import next_token
from dgpo_cli.policy.policy import Policy
from tests.policy.tiny import make_lora_policy, make_policy

IDS = [7, 30, 12, 9, 22, 41]


CLOSE = {"rtol": 1e-5, "atol": 1e-6}  # of two forward passes in float32


def plain(model: object, *, temperature: float) -> torch.Tensor:
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([IDS])).logits[0, -1].double()  # type: ignore[operator]
    powers = (logits / temperature).exp()
    return powers / powers.sum()


@pytest.mark.parametrize("family", ["qwen2-tied", "gemma2-softcap", "granite-scaled"])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_both_distributions_are_softmaxes_of_the_models_logits(
    family: str, temperature: float
) -> None:
    policy = make_policy(family, apart=0.1)
    found = next_token(policy, IDS, temperature=temperature)
    own, other = policy.model, policy._reference
    torch.testing.assert_close(found.policy.exp(), plain(own, temperature=temperature), **CLOSE)
    torch.testing.assert_close(
        found.reference.exp(), plain(other, temperature=temperature), **CLOSE
    )
    assert float((found.policy - found.reference).abs().max()) > 1e-2


def test_with_an_adapter_the_reference_is_the_model_without_it() -> None:
    policy = make_lora_policy(apart=0.3)
    found = next_token(policy, IDS, temperature=1.0)
    torch.testing.assert_close(found.policy.exp(), plain(policy.model, temperature=1.0), **CLOSE)
    with policy.model.disable_adapter():
        base = plain(policy.model, temperature=1.0)
    torch.testing.assert_close(found.reference.exp(), base, **CLOSE)
    assert float((found.policy - found.reference).abs().max()) > 1e-2


@pytest.fixture
def apart() -> Policy:
    return make_policy(apart=0.1)


def test_the_likeliest_are_the_top_of_either_model_and_the_sampled_one(apart: Policy) -> None:
    found = next_token(apart, IDS, temperature=1.0)
    order = found.policy.argsort(descending=True).tolist()
    shown = found.likeliest(3, sampled=order[-1])
    tops = {*order[:3], *found.reference.argsort(descending=True).tolist()[:3], order[-1]}
    assert set(shown) == tops and len(shown) == len(tops)
    assert shown == sorted(shown, key=order.index)
    assert len(found.likeliest(1000, sampled=0)) == len(order)


def test_ranks_count_the_tokens_that_are_likelier(apart: Policy) -> None:
    found = next_token(apart, IDS, temperature=1.0)
    for rank, token_id in enumerate(found.policy.argsort(descending=True).tolist(), start=1):
        assert found.ranks_of(token_id)[0] == rank
    best = int(found.reference.argmax())
    assert found.ranks_of(best)[1] == 1
