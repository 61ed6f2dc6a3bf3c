"""Runs a function on several gloo ranks, each a process of its own, and returns what each found.

The processes are forked from a server that has imported torch and transformers once: a rank costs
a tenth of a second and not four.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

_LIMIT_S = 240.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def on_ranks(work: Callable[..., T], count: int, *args: Any, **options: Any) -> list[T]:
    """Return work(ranks, *args) of `count` ranks, in their order.

    Args:
        work: a function of a module; it and the arguments are pickled.
        options: of TorchRanks, as sequence=2.

    Raises:
        AssertionError: a rank raised, with its traceback, or did not end.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["tests.conftest", "torch", "torch.distributed.fsdp", "transformers", "tests.policy.tiny"]
    )
    port, answers = free_port(), context.Queue()
    ranks = [
        context.Process(
            target=_run, args=(work, number, count, port, args, options, answers), daemon=True
        )
        for number in range(count)
    ]
    for rank in ranks:
        rank.start()
    try:
        found = dict(pickle.loads(answers.get(timeout=_LIMIT_S)) for _ in ranks)
    finally:
        for rank in ranks:
            rank.join(5)
            rank.kill()
    failed = [f"rank {n}:\n{text}" for n, (good, text) in sorted(found.items()) if not good]
    assert not failed, "\n".join(failed)
    return [found[number][1] for number in range(count)]


def _run(
    work: Callable[..., Any],
    number: int,
    count: int,
    port: int,
    args: tuple[Any, ...],
    options: dict[str, Any],
    answers: Any,
) -> None:
    import torch

    from dgpo_cli.parallel.ranks import Seat, TorchRanks

    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    try:
        seat = Seat(number, count, number, "127.0.0.1", port, hosts=number == 0)
        ranks = TorchRanks(seat, device=torch.device("cpu"), **{"timeout_s": 60.0, **options})
        found = work(ranks, *args)
        ranks.gather(None)
    except BaseException:
        answer = number, (False, traceback.format_exc())
    else:
        answer = number, (True, found)
    answers.put(pickle.dumps(answer))  # a queue would share tensors, and their owner ends
