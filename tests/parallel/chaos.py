"""Runs of `dgpo train` on ranks in which faults are planted: forked processes that meet over gloo.

A fault happens to a rank when it passes a site for the n-th time. Nobody watches over the ranks
here: whoever plants a fault ends those that are left, as what started a run's ranks does.
"""

from __future__ import annotations

import errno
import json
import math
import multiprocessing
import os
import signal
import socket
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

from tests.processes import left_behind

Effect = Literal["kill", "raise", "stop", "nan", "full disk"]

RECIPE: dict[str, Any] = {
    "train.steps": 4,
    "train.checkpoint_every": 2,
    "train.keep_checkpoints": 2,
    "train.rollouts_every": 1,
    "train.threads": 1,
    "rollout.prompts_per_step": 2,
    "rollout.group_size": 8,
    "rollout.max_completion_tokens": 32,
    "rollout.backend.batch_size": 8,
    "optim.lr": "1e-3",
    "optim.micro_batch_size": 4,
    "reward.workers": 1,
    "eval.every": 0,
    "eval.k": 1,
}
KINDS: dict[str, dict[str, Any]] = {
    "replicate": {"parallel.kind": "replicate", "adapter.kind": "lora", "adapter.rank": 4},
    "shard": {"parallel.kind": "shard"},
}
_LINES = ("metrics.jsonl", "evals.jsonl")  # with times in them
_MARK = "DGPO_TEST_CHAOS"
_LIMIT_S = 240.0
_POLL_S = 0.005


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to a rank when it passes a site for the n-th time.

    rank: None: whichever gets there first.
    """

    site: str
    at: int = 1
    rank: int | None = None
    effect: Effect = "kill"


@dataclass(frozen=True, slots=True)
class Ended:
    """How the ranks ended: exit codes, negative for signals, and what each wrote."""

    codes: tuple[int | None, ...]
    texts: tuple[str, ...]
    passed: tuple[Mapping[str, int], ...]  # how often each site; of ranks that were not killed

    @property
    def good(self) -> bool:
        return all(code == 0 for code in self.codes)

    @property
    def text(self) -> str:
        return "\n".join(f"rank {n}: {text}" for n, text in enumerate(self.texts))


def overrides(kind: str, *, count: int, **changes: Any) -> list[str]:
    """Return the settings of a small run, as --set takes them; `__` is a dot of a name."""
    found = {**RECIPE, "parallel.gpus": count}
    if count > 1:
        found |= KINDS[kind]
    else:
        found |= {k: v for k, v in KINDS[kind].items() if not k.startswith("parallel.")}
    found |= {name.replace("__", "."): value for name, value in changes.items()}
    return [f"{name}={value}".lower() for name, value in found.items()]


def run_ranks(
    out: Path,
    settings: Sequence[str],
    *,
    count: int,
    faults: Sequence[Fault] = (),
    rest_s: float = 0.0,
    limit_s: float = _LIMIT_S,
    until: Callable[[list[int]], bool] = lambda ranks: False,
) -> Ended:
    """Run `dgpo train` on `count` ranks until all have ended.

    Args:
        rest_s: time that the others have after the first rank failed, before they are killed.
        until: asked all the time, with the processes of the ranks; they are killed when it is True.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["tests.conftest", "torch", "torch.distributed.fsdp", "transformers", "tests.policy.tiny"]
    )
    mark = f"{out.name}-{time.monotonic_ns()}"
    logs = [out.with_name(f"{out.name}.rank-{number}.txt") for number in range(count)]
    listener = socket.create_server(("127.0.0.1", 0))  # its port stays ours
    ranks = [
        context.Process(
            target=_run_rank,
            args=(n, count, listener, out, list(settings), list(faults), logs[n], mark),
        )
        for n in range(count)
    ]
    for log, rank in zip(logs, ranks, strict=True):
        log.write_text("")
        rank.start()
    listener.close()
    try:
        pids = [int(rank.pid or 0) for rank in ranks]
        _wait(
            ranks,
            until=lambda: any(rank.exitcode for rank in ranks) or until(pids),
            limit_s=limit_s,
        )
        if any(rank.exitcode for rank in ranks):
            _wait(ranks, until=lambda: False, limit_s=rest_s)
    finally:
        for rank in ranks:
            rank.kill()
        for rank in ranks:
            rank.join()
    left = left_behind(f"{_MARK}={mark}", within_s=10)
    assert not left, f"processes {left} stay behind"
    passed = [log.with_suffix(".json") for log in logs]
    return Ended(
        codes=tuple(rank.exitcode for rank in ranks),
        texts=tuple(log.read_text() for log in logs),
        passed=tuple(json.loads(path.read_text()) if path.exists() else {} for path in passed),
    )


def _wait(ranks: Sequence[BaseProcess], *, until: Callable[[], bool], limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while any(rank.exitcode is None for rank in ranks):
        if until() or time.monotonic() > deadline:
            return
        time.sleep(_POLL_S)


def _run_rank(
    number: int,
    count: int,
    listener: socket.socket,
    out: Path,
    settings: list[str],
    faults: list[Fault],
    log: Path,
    mark: str,
) -> None:
    os.environ |= {_MARK: mark, "OMP_NUM_THREADS": "1"}
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    passed: Counter[str] = Counter()
    try:
        plant([fault for fault in faults if fault.rank in (None, number)], passed)
        _take_part(number, count, listener, out, settings)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    log.with_suffix(".json").write_text(json.dumps(passed))
    os._exit(0)


def _take_part(
    number: int, count: int, listener: socket.socket, out: Path, settings: list[str]
) -> None:
    import torch

    from dgpo_cli.config.load import resolve
    from dgpo_cli.engine.follow import follow
    from dgpo_cli.parallel.ranks import ALONE, Ranks, Seat, TorchRanks
    from dgpo_cli.train import train

    torch.set_num_threads(1)
    ranks: Ranks = ALONE
    if count > 1:
        address, port = listener.getsockname()
        hosts = number == 0
        own = listener.detach() if hosts else listener.close()
        seat = Seat(number, count, number, address, port, hosts=hosts, listener=own)
        ranks = TorchRanks(
            seat,
            device=torch.device("cpu"),
            collective="parallel.kind=shard" in settings,
            timeout_s=60.0,
        )
    if not ranks.leads:
        follow(ranks)
        return
    resolved = resolve(preset="tiny", overrides=settings)
    train.run(resolved, out=out, resume="auto", ranks=ranks, observer=_Printer())
    ranks.close()


class _Printer:
    """Writes notes to the log of a rank."""

    def on(self, event: Any) -> None:
        from dgpo_cli.core.events import Note

        if isinstance(event, Note):
            sys.stdout.write(f"{event.text}\n")
            sys.stdout.flush()


# Sites. Each wraps a function of the package or of torch; a write is half done at the fault.


def plant(faults: Sequence[Fault], passed: Counter[str]) -> None:
    """Plant faults in this process, and count how often it passes each site."""

    def at(site: str) -> Effect | None:
        passed[site] += 1
        found = [f.effect for f in faults if f.site == site and f.at == passed[site]]
        return found[0] if found else None

    import torch
    from safetensors import torch as safetensors

    from dgpo_cli.core import io
    from dgpo_cli.engine import checkpoint
    from dgpo_cli.engine.learn import Learner
    from dgpo_cli.parallel import shard_checkpoint
    from dgpo_cli.parallel.ranks import TorchRanks
    from dgpo_cli.samplers import steps

    for owner, name, site in (
        (steps.GrowingLines, "step", "decode"),
        (torch.Tensor, "backward", "backward"),
        (torch.optim.AdamW, "step", "optimiser"),
        (TorchRanks, "gather", "gather"),
        (TorchRanks, "_next_call", "call"),
        (Learner, "_clipped_norm", "clip"),
        (checkpoint, "load_trainer", "load"),
        (io, "begin_folder", "begin folder"),
        (io, "_flush", "flush"),
    ):
        _wrap(owner, name, site, at)
    _wrap(os, "rename", "rename", at)
    _wrap(os, "rename", "renamed", at, after=True)
    _break_writes(io, at)
    _break_tensors(shard_checkpoint, safetensors, at)


def _happen(effect: Effect) -> None:
    match effect:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "raise":
            raise ValueError("planted")
        case "full disk":
            raise OSError(errno.ENOSPC, "No space left on device")
        case "nan":
            raise AssertionError("only gradients are not finite")


def _wrap(
    owner: Any, name: str, site: str, at: Callable[[str], Effect | None], *, after: bool = False
) -> None:
    before = getattr(owner, name)

    def wrapped(*args: Any, **others: Any) -> Any:
        effect = at(site)
        if effect == "nan":
            _spoil_gradients(args[0])
        elif effect is not None and not after:
            _happen(effect)
        found = before(*args, **others)
        if effect is not None and after:
            _happen(effect)
        return found

    setattr(owner, name, wrapped)


def _spoil_gradients(loss: Any) -> None:
    """Make the gradients of a loss NaN."""
    loss.register_hook(lambda gradient: gradient * math.nan)


def _break_writes(io: Any, at: Callable[[str], Effect | None]) -> None:
    put = io._put

    def half(file: Any, content: Any, *, flush: bool = True) -> None:
        effect = at("write")
        if effect is None:
            put(file, content, flush=flush)
            return
        parts: Iterable[Any] = [content] if isinstance(content, str | bytes) else content
        whole = b"".join(p.encode() if isinstance(p, str) else p for p in parts)
        file.write(whole[: len(whole) // 2])
        file.flush()
        _happen(effect)

    io._put = half


def _break_tensors(writer: Any, safetensors: Any, at: Callable[[str], Effect | None]) -> None:
    save = safetensors.save_file

    def half(tensors: Any, path: Any, **others: Any) -> None:
        effect = at("tensors")
        save(tensors, path, **others)
        if effect is not None:
            os.truncate(path, os.path.getsize(path) // 2)
            _happen(effect)

    writer.save_file = safetensors.save_file = half


# What a run leaves.


def lines_of(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a file without what depends on the machine; a torn one is an error."""
    raw = path.read_text()
    assert raw.endswith("\n"), f"{path}: its last line is torn"
    timed = ("time/", "throughput/", "memory/")
    return [
        {k: v for k, v in json.loads(line).items() if not k.startswith(timed)}
        for line in raw.splitlines()
    ]


def assert_same_run(found: Path, expected: Path) -> None:
    """Hold a run against another: lines, weights, optimiser, generators, rollouts, evaluations."""
    assert lines_of(found / "metrics.jsonl") == lines_of(expected / "metrics.jsonl")
    names = [_files(run) for run in (found, expected)]
    assert names[0] == names[1], names[0] ^ names[1]
    for name in sorted(names[0]):
        if name.endswith(".pt"):
            _assert_same_trainer(found / name, expected / name)
        elif "/optimizer/" in name:  # PyTorch writes the moments in any order
            _assert_same_tensors(found / name, expected / name)
        elif name.endswith((".safetensors", ".jsonl")) and name not in _LINES:
            assert (found / name).read_bytes() == (expected / name).read_bytes(), name


def _files(run: Path) -> set[str]:
    """Return the files of a run, but those that broken lines were moved to."""
    paths = (path for path in run.rglob("*") if path.is_file() and path.suffix != ".bad")
    return {str(path.relative_to(run)) for path in paths}


def _assert_same_tensors(found: Path, expected: Path) -> None:
    import torch
    from safetensors.torch import load_file

    mine, theirs = load_file(found), load_file(expected)
    assert mine.keys() == theirs.keys(), found
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs), found


def _assert_same_trainer(found: Path, expected: Path) -> None:
    import torch

    mine, theirs = (torch.load(path, weights_only=True) for path in (found, expected))
    assert _plain(mine) == _plain(theirs), found


def _plain(value: Any) -> Any:
    import torch

    if isinstance(value, torch.Tensor):
        return (
            value.dtype,
            tuple(value.shape),
            value.reshape(-1).contiguous().view(torch.uint8).tolist(),
        )
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value
