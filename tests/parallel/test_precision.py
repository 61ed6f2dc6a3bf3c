"""bfloat16 products over float32 shards: what one device does by autocast."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from dgpo_cli.algo.credit import DgpoCredit
from dgpo_cli.algo.losses import ClipLoss
from dgpo_cli.engine.learn import Learner
from dgpo_cli.engine.optimizers import build_adamw
from dgpo_cli.engine.piece import Recipe
from dgpo_cli.parallel.sharding import local_of, make_mesh
from dgpo_cli.policy.load_policy import load_policy
from dgpo_cli.policy.load_sharded import Spread
from dgpo_cli.policy.settings import ModelSettings, NoAdapter
from tests.policy import tiny
from tests.ranks import on_ranks

if TYPE_CHECKING:
    from pathlib import Path

    from dgpo_cli.parallel.ranks import TorchRanks

RECIPE = Recipe(
    rule=DgpoCredit(tau=0.05),
    loss=ClipLoss(),
    temperature=1.0,
    max_completion_tokens=20,
    group_size=2,
    micro_batch_size=2,
)
PAIRS = tiny.random_pairs([(4, 9), (4, 6), (7, 12), (7, 3), (5, 8), (5, 11)])
ADVANTAGES = torch.tensor([1.0, -1.0, 0.5, -0.5, 0.8, -0.8])


def _steps(ranks: TorchRanks | None, folder: Path) -> dict[str, Any]:
    """Take two steps; return distances, the norms of the gradients and what is stored how."""
    from dgpo_cli.parallel.ranks import ALONE

    spread = None
    if ranks is not None:
        mesh = make_mesh("shard", device_type="cpu", node_size=ranks.count)
        spread = Spread(ranks, mesh, offload=True)
    settings = ModelSettings(path=str(folder), compute="bfloat16", device="cpu")
    policy = load_policy(settings, adapter=NoAdapter(), seed=0, with_reference=True, spread=spread)
    optimizer = build_adamw(policy, lr=1e-3, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.0)
    learner = Learner(policy, optimizer, ranks=ranks or ALONE)
    found: dict[str, Any] = {"distance": [], "norm": [], "loss": []}
    for _ in range(2):
        batch = learner.measure(tiny.rows_of_pairs(PAIRS), ADVANTAGES, recipe=RECIPE)
        (update,) = learner.update(batch, recipe=RECIPE)
        found["distance"].append(float(batch.stats.hellinger_sq.max()))
        found["norm"].append(update.grad_norm)
        found["loss"].append(update.loss)
    states = [state["exp_avg"].dtype for state in optimizer.state.values()]
    found["stored"] = {local_of(p).dtype for _, p in policy.trainable()} | set(states)
    reference = policy._reference
    assert reference is not None
    found["reference"] = {local_of(p).dtype for p in reference.parameters()}
    return found


def test_shards_multiply_in_bfloat16_and_keep_float32(tmp_path: Path) -> None:
    tiny.build_model("qwen2-tied").to(torch.bfloat16).save_pretrained(tmp_path)
    tiny.char_tokenizer().save_pretrained(tmp_path)
    expected = _steps(None, tmp_path)
    for found in on_ranks(_steps, 2, tmp_path, collective=True):
        assert found["stored"] == {torch.float32}
        assert found["reference"] == {torch.bfloat16}
        assert found["distance"][0] == 0.0  # equal weights, rounded alike
        assert 0.0 < found["distance"][1] < 0.5
        for ours, theirs in zip(found["norm"], expected["norm"], strict=True):
            assert abs(ours - theirs) < 0.05 * theirs
        for ours, theirs in zip(found["loss"], expected["loss"], strict=True):
            assert abs(ours - theirs) < 0.01
