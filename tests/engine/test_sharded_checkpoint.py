"""Checkpoints of sharded models: any number of ranks resumes exactly, nothing half is left."""

from __future__ import annotations

import json
import shutil
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed.tensor import Shard, distribute_tensor

from dgpo_cli.core.errors import CheckpointError
from dgpo_cli.engine.checkpoint import CheckpointWriter, check_checkpoint, load_trainer
from dgpo_cli.engine.optimizers import build_adamw
from dgpo_cli.parallel.gathered import Described, Unit, whole_of
from dgpo_cli.parallel.ranks import ALONE, OneRank, Ranks
from dgpo_cli.parallel.shard_checkpoint import ShardWriter, load_moments, parts_of
from dgpo_cli.parallel.sharding import make_mesh, run_inside
from dgpo_cli.policy import load
from dgpo_cli.policy.load_sharded import load_sharded
from dgpo_cli.policy.settings import LoraAdapter, ModelSettings
from dgpo_cli.runs.run_folder import RunFolder
from dgpo_cli.train.resume import starting_point
from tests.engine.checkpoints import STATE
from tests.policy.tiny import build_model, char_tokenizer
from tests.ranks import on_ranks
from tests.recorder import Notes

if TYPE_CHECKING:
    from dgpo_cli.parallel.ranks import TorchRanks

FAMILIES = ("qwen2-tied", "mixtral", "lora")
ADAPTER = LoraAdapter(rank=3, alpha=6.0)
MOMENTS_OF = "optimizer/shard-{:05d}-model-00001-of-00001.safetensors"
Numbers = dict[str, Tensor]


@dataclass
class Trained:
    """What a checkpoint needs of a policy, and its optimiser."""

    model: Any
    has_adapter: bool
    tokenizer: Any

    def __post_init__(self) -> None:
        self.device = torch.device("cpu")
        policy: Any = self
        self.optimizer = build_adamw(policy, lr=0.03, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)

    def trainable(self) -> list[tuple[str, Any]]:
        return [(n, p) for n, p in self.model.named_parameters() if p.requires_grad]

    def gathered_adapter(self) -> Numbers:
        return {n: whole_of(p) for n, p in self.model.named_parameters() if "lora_" in n}

    def save(self, folder: Path, *, adapter: Numbers | None = None) -> None:
        more = {"save_embedding_layers": False} if self.has_adapter else {}
        self.model.save_pretrained(folder, state_dict=adapter, **more)
        self.tokenizer.save_pretrained(folder)

    def step(self, number: int) -> None:
        ids = (torch.arange(21).view(3, 7) * (number + 2)) % 40
        run_inside(
            self.model, lambda: self.model(input_ids=ids, use_cache=False).logits.square().mean()
        ).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def numbers(self) -> Numbers:
        """Everything that is trained, and what the optimiser remembers of it."""
        found = {}
        for name, weight in self.trainable():
            found[name] = whole_of(weight).clone()
            for key, value in self.optimizer.state[weight].items():
                found[f"{name} {key}"] = whole_of(value).clone()
        return found


def _load(ranks: Ranks, model: Path, family: str, *, checkpoint: Path | None = None) -> Trained:
    """Load to train, sharded if there are several ranks."""
    lora = family == "lora"
    settings = ModelSettings(path=str(model), device="cpu", attention="eager")
    folder = None if lora else checkpoint

    def adapt(base: Any) -> Any:
        if not lora:
            return base
        base.requires_grad_(False)
        if checkpoint is None:
            return load.add_adapter(base, adapter=ADAPTER, seed=3)
        return load.load_adapter(base, folder=checkpoint, trainable=True)

    if ranks.count == 1:
        found = adapt(load.load_model(settings, folder=folder))
    else:
        mesh = make_mesh("hybrid", device_type="cpu", node_size=2)
        found = load_sharded(settings, ranks=ranks, mesh=mesh, folder=folder, adapt=adapt)
    return Trained(found, lora, char_tokenizer())


def _resumed(ranks: Ranks, model: Path, family: str, checkpoint: Path) -> Trained:
    trained = _load(ranks, model, family, checkpoint=checkpoint)
    load_trainer(checkpoint, optimizer=trained.optimizer, ranks=ranks)
    return trained


def _writer(trained: Trained, ranks: Ranks) -> CheckpointWriter:
    policy: Any = trained
    return CheckpointWriter(policy, trained.optimizer, ranks=ranks)


def _train_and_save(ranks: TorchRanks, root: Path) -> dict[str, tuple[Numbers, float]]:
    """Save after two steps, and go on while that is written."""
    found = {}
    for family in FAMILIES:
        trained = _load(ranks, root / family, family)
        writer = _writer(trained, ranks)
        for number in range(2):
            trained.step(number)
        torch.manual_seed(100 + ranks.number)
        numbers = trained.numbers()
        writer.save(root / f"{family}-4", state=STATE if ranks.leads else None)
        draw = float(torch.rand(()))
        trained.step(2)
        if family == "mixtral":  # a run's: the second waits for the first
            for step in (3, 4):
                state = replace(STATE, step=step) if ranks.leads else None
                writer.save(root / f"run/checkpoints/step-{step:06d}", state=state)
        writer.wait()
        ranks.gather(None)
        found[family] = numbers, draw
    return found


def _resume(ranks: Ranks, root: Path, name: str) -> dict[str, tuple[Numbers, float]]:
    found = {}
    for family in FAMILIES:
        trained = _resumed(ranks, root / family, family, root / f"{family}-{name}")
        found[family] = trained.numbers(), float(torch.rand(()))
        trained.step(2)  # it runs
    return found


def _same(found: Numbers, expected: Numbers) -> list[str]:
    assert found.keys() == expected.keys() and len(found) > 8
    return [n for n, t in expected.items() if not torch.equal(found[n].float(), t.float())]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models, and checkpoints that 4 ranks wrote of each."""
    folder = tmp_path_factory.mktemp("sharded")
    for family in FAMILIES:
        build_model("qwen2-untied" if family == "lora" else family).save_pretrained(folder / family)
        char_tokenizer().save_pretrained(folder / family)
    return folder


@pytest.fixture(scope="module")
def saved(root: Path) -> list[dict[str, tuple[Numbers, float]]]:
    return on_ranks(_train_and_save, 4, root, collective=True)


@pytest.mark.parametrize("count", [4, 2, 1])
def test_any_number_of_ranks_resumes_exactly(root: Path, saved: Any, count: int) -> None:
    for found in saved[1:]:
        for family in FAMILIES:
            assert _same(found[family][0], saved[0][family][0]) == []
    again = (
        [_resume(ALONE, root, "4")]
        if count == 1
        else on_ranks(_resume, count, root, "4", collective=True)
    )
    for number, found in enumerate(again):
        for family in FAMILIES:
            assert _same(found[family][0], saved[0][family][0]) == []
            assert found[family][1] == saved[number][family][1]  # its generators


def test_ranks_resume_what_one_device_wrote(root: Path) -> None:
    expected = {}
    for family in FAMILIES:
        trained = _load(ALONE, root / family, family)
        trained.step(0)
        _writer(trained, ALONE).save(root / f"{family}-1", state=STATE)
        expected[family] = trained.numbers()
    for found in on_ranks(_resume, 2, root, "1", collective=True):
        for family in FAMILIES:
            assert _same(found[family][0], expected[family]) == []


def test_a_sharded_checkpoint_is_a_plain_folder_of_a_model(root: Path, saved: Any) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    for family in ("qwen2-tied", "mixtral"):
        folder, alone = root / f"{family}-4", root / f"{family}-whole"
        trained = _resumed(ALONE, root / family, family, folder)
        trained.save(alone)
        model = AutoModelForCausalLM.from_pretrained(folder)
        assert _same(dict(model.named_parameters()), dict(trained.model.named_parameters())) == []
        assert AutoTokenizer.from_pretrained(folder).eos_token == "<end>"
        for name in ("config.json", "generation_config.json", "tokenizer.json"):
            assert (folder / name).read_text() == (alone / name).read_text()
        index = json.loads((folder / "model.safetensors.index.json").read_text())
        assert index["weight_map"].keys() == load_file(alone / "model.safetensors").keys()
        files = {path.name for path in folder.glob("*.safetensors")}
        assert files == set(index["weight_map"].values()) and len(files) == 4
        sizes = [(folder / name).stat().st_size for name in files]
        assert max(sizes) < 0.45 * sum(sizes)
        assert check_checkpoint(folder)
        for path in (folder / "optimizer").iterdir():  # nothing that could run code
            load_file(path)


def test_replicas_share_the_writing_of_moments(root: Path, saved: Any) -> None:
    for family in ("qwen2-tied", "mixtral"):
        files = [load_file(root / f"{family}-4" / MOMENTS_OF.format(n)) for n in (1, 2, 3, 4)]
        sizes = [sum(tensor.nbytes for tensor in own.values()) for own in files]
        whole = [t for name, t in saved[0][family][0].items() if " exp_avg" in name]
        assert sum(sizes) == sum(tensor.nbytes for tensor in whole)
        assert max(sizes) < 0.3 * sum(sizes)


def test_missing_rows_of_moments_are_no_resumable_state(root: Path, saved: Any) -> None:
    trained = _load(ALONE, root / "qwen2-tied", "qwen2-tied")
    name = MOMENTS_OF.format(2)
    kept = (root / "qwen2-tied-4" / name).rename(root / "kept")
    try:
        with pytest.raises(CheckpointError, match=r"rows of .* are missing|[Ss]ize mismatch"):
            load_trainer(root / "qwen2-tied-4", optimizer=trained.optimizer)
    finally:
        kept.rename(root / "qwen2-tied-4" / name)


def _copy_small(ranks: TorchRanks, root: Path) -> list[tuple[int, ...]]:
    """Write and read moments that have fewer rows than there are ranks; return own shapes."""
    mesh = make_mesh("shard", device_type="cpu", node_size=4)
    like = {n: distribute_tensor(torch.rand(n, 3), mesh, [Shard(0)]) for n in (1, 5, 7)}
    moments = {f"w{n}/{m}": like[n] * k for n in like for k, m in enumerate(("a", "b"), 2)}
    writer = ShardWriter(ranks)
    target = root / "small"
    model = load.load_model(ModelSettings(path=str(root / "qwen2-tied"), device="cpu"))
    writer.start(target, model=model, moments=moments, rest=lambda _: None)
    writer.wait()
    ranks.gather(None)
    found = load_moments(target, {f"w{n}": tensor for n, tensor in like.items()})
    for n, tensor in like.items():
        assert found[f"w{n}"].keys() == {"a", "b"}
        for k, m in enumerate(("a", "b"), 2):
            assert torch.equal(found[f"w{n}"][m].to_local(), (tensor * k).to_local())
    return [tuple(tensor.to_local().shape) for tensor in like.values()]


def test_moments_of_fewer_rows_than_ranks_are_written_and_read(root: Path) -> None:
    shapes = on_ranks(_copy_small, 4, root, collective=True)
    assert shapes[0] == [(1, 3), (2, 3), (2, 3)] and shapes[3] == [(0, 3), (0, 3), (1, 3)]


@pytest.mark.parametrize(
    ("name", "remove"),
    [
        ("model-00002-of-00004.safetensors", False),
        ("model-00003-of-00004.safetensors", True),
        (MOMENTS_OF.format(2), False),
        (MOMENTS_OF.format(1), True),
    ],
)
def test_a_damaged_part_is_named(root: Path, saved: Any, name: str, remove: bool) -> None:
    file = root / "qwen2-tied-4" / name
    before = file.read_bytes()
    try:
        if remove:
            file.unlink()
        else:
            file.write_bytes(before[:-9] + bytes([before[-9] ^ 1]) + before[-8:])
        with pytest.raises(CheckpointError, match=f"{name}: (has changed|is missing)"):
            check_checkpoint(root / "qwen2-tied-4")
    finally:
        file.write_bytes(before)


@pytest.mark.parametrize("name", ["model-00001-of-00004.safetensors", MOMENTS_OF.format(2)])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_used(
    root: Path, saved: Any, tmp_path: Path, name: str
) -> None:
    folder, notes = RunFolder(tmp_path / "run"), Notes()
    shutil.copytree(root / "run", folder.path)
    newest = folder.checkpoint_dir(4)
    content = bytearray((newest / name).read_bytes())
    content[-3] ^= 1
    (newest / name).write_bytes(content)
    used = starting_point(folder, resume="auto", found=[], observer=notes)
    assert used == folder.checkpoint_dir(3)
    assert [path.name for path in folder.checkpoints_dir.iterdir() if "damaged" in path.name] == [
        "step-000004.damaged"
    ]
    assert any(f"{name}: has changed" in line for line in notes.texts)


def _fail(ranks: TorchRanks, root: Path, way: str) -> tuple[str, list[str]]:
    """Fail in one way while a checkpoint is written."""
    from dgpo_cli.parallel import shard_checkpoint

    trained = _load(ranks, root / "qwen2-tied", "qwen2-tied")
    trained.step(0)
    writer = _writer(trained, ranks)
    target, error = root / f"failed-{way}", ""
    original = shard_checkpoint.save_file
    storage: Any = shard_checkpoint.HuggingFaceStorageWriter
    write = storage.write_data

    def refuse(*args: Any, **options: Any) -> None:
        if ranks.number == 1:
            raise OSError(5, "Input/output error")
        original(*args, **options)

    def refuse_moments(*args: Any) -> Any:
        if ranks.number == 1:
            raise OSError(5, "Input/output error")
        return write(*args)

    def hang(*args: Any, **options: Any) -> None:
        threading.Event().wait()

    try:
        if way == "writing":
            shard_checkpoint.save_file = refuse
        elif way == "moments":
            storage.write_data = refuse_moments
        elif way == "killed":
            shard_checkpoint.save_file = hang
        elif way == "beginning":
            target = root / "qwen2-tied" / "config.json" / "c"
        writer.save(target, state=STATE if ranks.leads else None)
        if way != "killed":  # else the process ends while the thread writes
            writer.wait()
    except CheckpointError as failure:
        error = str(failure)
    return error, sorted(path.name for path in root.iterdir() if "failed" in path.name)


def test_a_part_that_cannot_be_written_fails_the_checkpoint_and_leaves_nothing(root: Path) -> None:
    for way in ("writing", "moments"):
        (error, left), (other, _) = on_ranks(_fail, 2, root, way, collective=True)
        assert f"failed-{way}: cannot be written: rank 1: OSError: [Errno 5]" in error and not left
        assert other == ""
    (error, left), (other, _) = on_ranks(_fail, 2, root, "beginning", collective=True)
    assert "cannot be written" in error and other == "" and not left


def test_a_kill_while_parts_are_written_leaves_no_checkpoint(root: Path) -> None:
    (_, left), _ = on_ranks(_fail, 2, root, "killed", collective=True)
    assert left == [".failed-killed.partial"]


class _Lonely(OneRank):
    """A rank that had another one, which is gone."""

    def channel(self) -> Any:
        class Broken:
            def gather(self, value: object) -> None:
                raise RuntimeError("Connection closed by peer")

        return Broken()


def test_a_rank_that_is_gone_fails_the_checkpoint_that_is_being_written(tmp_path: Path) -> None:
    model = build_model("qwen2-tied")
    (tmp_path / "run").mkdir()
    writer = ShardWriter(_Lonely())
    writer.start(tmp_path / "run" / "c", model=model, moments={}, rest=lambda folder: None)
    with pytest.raises(CheckpointError, match="cannot be written: Connection closed by peer"):
        writer.wait()
    assert not list((tmp_path / "run").iterdir())
    writer.wait()  # told once


def test_files_of_weights_are_of_one_size_and_dealt_evenly() -> None:
    """A model of 32 billion weights: its embedding and head are 50 times a matrix."""

    def unit(gigabytes: float) -> Unit:
        shape = (int(gigabytes * 250e6),)
        return Unit({}, (Described("w", shape, torch.float32),), same=True)

    units = [unit(3.1), *[unit(s) for _ in range(64) for s in (0.1, 0.6, 0.6, 0.6)], unit(3.1)]
    whole = sum(each.nbytes for each in units)
    for ranks in (1, 4, 32):
        parts = parts_of(units, ranks=ranks)
        assert [u for part in parts for u in part.units] == units
        sizes = [sum(each.nbytes for each in part.units) for part in parts]
        assert max(sizes) < 7e9
        loads = [
            sum(s for s, p in zip(sizes, parts, strict=True) if p.owner == r) for r in range(ranks)
        ]
        assert max(loads) < 1.25 * whole / ranks
