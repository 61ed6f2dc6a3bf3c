"""What is gathered from a sharded model is what transformers writes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file

from dgpo_cli.parallel.gathered import Gathered
from dgpo_cli.parallel.sharding import make_mesh
from dgpo_cli.policy.load_sharded import load_sharded
from dgpo_cli.policy.settings import ModelSettings
from tests.policy.tiny import build_model
from tests.ranks import on_ranks

if TYPE_CHECKING:
    from dgpo_cli.parallel.ranks import TorchRanks

FAMILIES = ("qwen2-tied", "gpt_neox", "minimax", "mixtral", "qwen3_moe", "kimi_linear")


def _gathered(ranks: TorchRanks, folders: list[Path]) -> dict[str, list[str]]:
    mesh = make_mesh("hybrid", device_type="cpu", node_size=2)
    wrong: dict[str, list[str]] = {}
    for folder in folders:
        settings = ModelSettings(path=str(folder), device="cpu", attention="eager")
        gathered = Gathered(load_sharded(settings, ranks=ranks, mesh=mesh))
        written = load_file(folder / "model.safetensors")
        found = dict(gathered)
        wrong[folder.name] = list(written.keys() ^ found.keys())
        wrong[folder.name] += [n for n in written if not torch.equal(written[n], found[n])]
        described = {
            each.name: (each.shape, each.dtype, each.nbytes) for each in gathered.described
        }
        real = {n: (tuple(t.shape), t.dtype, t.nbytes) for n, t in found.items()}
        if described != real or len(gathered) != len(found):
            wrong[folder.name].append("description")
        if len(gathered.units) < 2:
            wrong[folder.name].append("all at once")
        halves = Gathered(load_sharded(settings, ranks=ranks, mesh=mesh), dtype=torch.bfloat16)
        wrong[folder.name] += [
            n for n, t in halves if not torch.equal(t, written[n].to(torch.bfloat16))
        ]
    return wrong


def test_gathered_tensors_are_those_of_a_checkpoint(tmp_path: Path) -> None:
    for family in FAMILIES:
        build_model(family).save_pretrained(tmp_path / family)
    for wrong in on_ranks(_gathered, 4, [tmp_path / family for family in FAMILIES]):
        assert not any(wrong.values()), wrong
