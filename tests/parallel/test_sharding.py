"""Sharded models compute what whole ones do: passes, gradients, adapters, unequal lengths."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
import torch

from dgpo_cli.parallel.sharding import layers_of, make_mesh, root_of, run_inside, shard, whole
from dgpo_cli.policy.head import decoder_of
from dgpo_cli.policy.load import add_adapter, without_dropout
from dgpo_cli.policy.settings import LoraAdapter
from tests.policy.tiny import build_model, nudge
from tests.ranks import on_ranks

if TYPE_CHECKING:
    from torch import Tensor

    from dgpo_cli.parallel.ranks import TorchRanks

# Tied and untied, all bias, shared blocks, experts, and rows that 4 ranks cannot share evenly.
FAMILIES = ("qwen2-tied", "qwen2-untied", "gpt2", "zamba2", "qwen3_moe", "mixtral")


def _model(family: str) -> Any:
    if family != "lora":
        model = build_model(family)
        without_dropout(model)
        return model
    base = build_model("qwen2-untied").to(torch.bfloat16).requires_grad_(False)
    model = add_adapter(base, adapter=LoraAdapter(rank=3, alpha=6.0), seed=3)
    nudge((p for p in model.parameters() if p.requires_grad), scale=0.1)
    model.enable_input_require_grads()
    return model


def _ids(rank: int, *, width: int = 7) -> Tensor:
    return (torch.arange(3 * width).view(3, width) * (rank + 2)) % 40


def _loss(model: Any, ids: Tensor) -> Tensor:
    """A sum over the tokens, from decoder and head apart, as the policy has them."""

    def work() -> Tensor:
        root = root_of(model)
        hidden = decoder_of(root)(input_ids=ids, use_cache=False).last_hidden_state
        logits = torch.nn.functional.linear(
            hidden.float(), root.get_output_embeddings().weight.float()
        )
        return logits.log_softmax(-1)[..., 5].sum()

    return run_inside(model, work)


def _full(tensor: Any) -> Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def _named(tensors: Any) -> dict[str, Tensor]:
    return {name: _full(tensor).clone() for name, tensor in tensors}


def _grads(model: Any) -> dict[str, Tensor]:
    return {n: _full(p.grad) for n, p in model.named_parameters() if p.grad is not None}


def _apart(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    assert found.keys() == expected.keys()
    total = sum(float(expected[n].double().square().sum()) for n in expected) ** 0.5
    gap = sum(float((found[n] - expected[n]).double().square().sum()) for n in expected) ** 0.5
    return gap / total


def _compared(ranks: TorchRanks, kind: Any, node_size: int) -> dict[str, float]:
    """Return how far a sharded model is from a whole one, family by family."""
    mesh = make_mesh(kind, device_type="cpu", node_size=node_size)
    found: dict[str, float] = {}
    for family in (*FAMILIES, "lora"):
        single, model = _model(family), _model(family)
        shard(model, mesh=mesh, compute=None)
        for each in (single, model):
            each.train()
            each.gradient_checkpointing_enable({"use_reentrant": False})
        for rank in range(ranks.count):
            _loss(single, _ids(rank)).backward()
        _loss(model, _ids(ranks.number)).backward()
        found[f"{family} gradient"] = _apart(_grads(model), _grads(single))
        for each in (single, model):
            with torch.no_grad():
                _loss(each, _ids(0))  # what it gathers must not outlive the step
            trained = [p for p in each.parameters() if p.requires_grad]
            torch.optim.AdamW(trained, lr=0.03).step()
        with torch.no_grad():
            losses = [float(_loss(each, _ids(0))) for each in (single, model)]
        found[f"{family} next loss"] = abs(losses[0] - losses[1]) / abs(losses[0])
        single.eval(), model.eval()
        found[f"{family} whole"] = _decoded_apart(single, model, ranks.number)
        tied = root_of(model)
        found[f"{family} untied"] = float(
            tied.get_input_embeddings().weight is tied.get_output_embeddings().weight
        ) - float(root_of(single).config.tie_word_embeddings)
    return found


def _decoded_apart(single: Any, model: Any, rank: int) -> float:
    """Compare passes whose lengths and number differ from rank to rank."""
    worst = 0.0
    with whole(model), torch.no_grad():
        for width in range(3, 6 + rank):
            ids = _ids(rank, width=width)
            decoders = [decoder_of(root_of(each)) for each in (model, single)]
            one, other = (d(input_ids=ids, use_cache=False).last_hidden_state for d in decoders)
            worst = max(worst, float((one - other).abs().max() / other.abs().max()))
    return worst


@pytest.mark.parametrize(("count", "kind", "node_size"), [(2, "shard", 2), (4, "hybrid", 2)])
def test_a_sharded_model_computes_what_a_whole_one_does(
    count: int, kind: str, node_size: int
) -> None:
    for found in on_ranks(_compared, count, kind, node_size):
        for name, apart in found.items():
            assert abs(apart) <= (2e-3 if name.startswith("lora") else 2e-6), (name, apart)


def _in_bfloat16(ranks: TorchRanks) -> tuple[float, set[torch.dtype], set[torch.dtype]]:
    mesh = make_mesh("shard", device_type="cpu", node_size=2)
    model, single = build_model("llama"), build_model("llama").to(torch.bfloat16)
    shard(model, mesh=mesh, compute=torch.bfloat16)
    seen: set[torch.dtype] = set()

    def work() -> Tensor:
        seen.update(p.dtype for p in (model.get_input_embeddings().weight, model.lm_head.weight))
        return model(input_ids=_ids(0), use_cache=False).logits.sum()

    run_inside(model, work).backward()
    loss = single(input_ids=_ids(0), use_cache=False).logits.sum()
    (2.0 * loss).backward()  # the sum over two ranks
    return _apart(_grads(model), _grads(single)), seen, {p.dtype for p in model.parameters()}


def test_weights_are_gathered_in_the_compute_dtype_and_kept_in_their_own() -> None:
    for apart, gathered, kept in on_ranks(_in_bfloat16, 2):
        assert apart < 0.02
        assert gathered == {torch.bfloat16} and kept == {torch.float32}


def _learnt_after_sampling(ranks: TorchRanks) -> float:
    """Sample on one rank alone, then compare a gradient of both."""
    single, model = build_model("llama"), build_model("llama")
    shard(model, mesh=make_mesh("shard", device_type="cpu", node_size=2), compute=None)
    with whole(model):
        for _ in range(2 if ranks.leads else 0):
            decoder_of(root_of(model))(input_ids=_ids(0), use_cache=False)
    for rank in range(ranks.count):
        _loss(single, _ids(rank)).backward()
    _loss(model, _ids(ranks.number)).backward()  # waits for ever if ranks fetch other layers
    return _apart(_grads(model), _grads(single))


def test_ranks_that_sampled_unequally_learn_together() -> None:
    for apart in on_ranks(_learnt_after_sampling, 2):
        assert apart < 2e-6


def test_layers_that_share_weights_stay_with_the_root() -> None:
    model = build_model("qwen2-tied")
    assert layers_of(model) == list(model.model.layers)
    shared = copy.deepcopy(model)
    shared.model.layers[1].mlp = shared.model.layers[0].mlp
    assert layers_of(shared) == []
    moe = build_model("mixtral")
    assert layers_of(moe) == list(moe.model.layers)


def test_a_model_that_is_not_sharded_just_runs() -> None:
    model = build_model("qwen2-tied")
    with whole(model):
        assert run_inside(model, lambda: 3) == 3
