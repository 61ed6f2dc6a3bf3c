"""The conversation of ranks: calls, sums, dealt work, shared counters."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import torch

from dgpo_cli.parallel.ranks import ALONE
from tests.ranks import on_ranks

if TYPE_CHECKING:
    from dgpo_cli.parallel.ranks import TorchRanks


def _conversation(ranks: TorchRanks) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if ranks.leads:
        for name, *args in (("first", 1, torch.arange(3)), ("second",)):
            with ranks.call(name, *args):
                pass
    else:
        calls = ranks.calls()
        found["calls"] = [(name, len(args)) for name, args in (next(calls), next(calls))]
    tensors = [torch.full((2, 3), float(ranks.number + 1)), torch.ones(5)]
    ranks.sum_(tensors)
    found["sums"] = [float(t.sum()) for t in tensors]
    found["gathered"] = ranks.gather({"rank": ranks.number})
    found["shared"] = ranks.share("of the leader" if ranks.leads else None)
    beside, served = ranks.channel(), []
    worker = threading.Thread(target=lambda: served.append(_beside(ranks, beside)))
    worker.start()
    found["meanwhile"] = ranks.gather(ranks.number)
    worker.join()
    found["beside"] = served[0]
    count = ranks.counter("work")
    found["counted"] = [count() for _ in range(3)]
    return found


def _beside(ranks: TorchRanks, channel: Any) -> Any:
    value = "job"
    if ranks.leads:
        channel.send(value)
    else:
        value = channel.receive()
    return channel.gather((ranks.number, value))


def test_what_the_leader_calls_and_what_all_sum_gather_and_count() -> None:
    found = on_ranks(_conversation, 3)
    assert [each.get("calls") for each in found] == [None] + 2 * [[("first", 2), ("second", 0)]]
    for each in found:
        assert each["sums"] == [6.0 * 6, 5.0 * 3]
        assert each["gathered"] == [{"rank": 0}, {"rank": 1}, {"rank": 2}]
        assert each["shared"] == "of the leader"
        assert each["meanwhile"] == [0, 1, 2]
    assert [each["beside"] for each in found] == [[(0, "job"), (1, "job"), (2, "job")], None, None]
    assert sorted(n for each in found for n in each["counted"]) == list(range(9))


def _dealt(ranks: TorchRanks) -> list[list[tuple[str, bool]]]:
    return [ranks.deal(list(parts)) for parts in ("abcdefg", "ab", "")]


def test_every_part_is_dealt_once_and_collective_lanes_get_equally_many() -> None:
    free = on_ranks(_dealt, 4)
    assert [each[1] for each in free] == [[("a", True)], [("b", True)], [], []]
    paired = on_ranks(_dealt, 4, sequence=2, collective=True)
    for each in (free, paired[::2], paired[1::2]):
        counted = [part for own in each for part, counts in own[0] if counts]
        assert sorted(counted) == list("abcdefg")
    assert paired[0] == paired[1] and paired[2] == paired[3]  # a lane shares its parts
    for dealt in zip(*paired, strict=True):
        assert len({len(own) for own in dealt}) == 1
    assert paired[2][0][-1] == ("a", False)


def test_one_rank_keeps_everything() -> None:
    assert ALONE.deal(["a", "b"]) == [("a", True), ("b", True)]
    assert ALONE.gather(3) == [3] and ALONE.share(3) == 3 and list(ALONE.calls()) == []
