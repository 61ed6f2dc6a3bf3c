"""Laws of how many requests are in flight."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from dgpo_cli.core.types import Price
from dgpo_cli.samplers.endpoint.budget import Budget
from dgpo_cli.samplers.endpoint.opening import run_to_end
from dgpo_cli.samplers.endpoint.pace import Pace, Slot, Unaffordable

PRICE = Price(prompt=1.0, completion=1.0)


def in_loop(law: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    def test() -> None:
        run_to_end(law())  # type: ignore[arg-type]

    test.__name__ = law.__name__
    return test


async def entered(pace: Pace, count: int, *, worst: float = 0.0) -> list[Slot]:
    return [await pace.enter(worst) for _ in range(count)]


def waiting(pace: Pace, *, again: bool = False, worst: float = 0.0) -> asyncio.Task[Any]:
    return asyncio.create_task(pace.enter(worst, again=again))


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@in_loop
async def test_a_burst_of_refusals_halves_the_window_once() -> None:
    pace = Pace(16, window=16.0)
    slots = await entered(pace, 16)
    for slot in slots:
        pace.busy(slot, wait_s=None)
        pace.leave(slot, cost=0.0)
    assert pace.window == 8
    later = await entered(pace, 8)  # sent under the new window: another lesson
    pace.busy(later[0], wait_s=None)
    assert pace.window == 4


@in_loop
async def test_a_window_of_answers_widens_it_by_one_up_to_the_limit() -> None:
    pace = Pace(6, window=4.0)
    for _ in range(4):
        pace.succeeded()
    assert pace.window == pytest.approx(5, abs=0.2)
    for _ in range(100):
        pace.succeeded()
    assert pace.window == 6


@in_loop
async def test_at_least_one_is_in_flight_and_no_more_than_the_window() -> None:
    pace = Pace(2, window=2.0)
    for _ in range(5):
        slot = await pace.enter(0.0)
        pace.busy(slot, wait_s=None)
        pace.leave(slot, cost=0.0)
    assert pace.window == 1
    slot = await pace.enter(0.0)
    second = waiting(pace)
    await settled()
    assert not second.done()
    pace.leave(slot, cost=0.0)
    await settled()
    assert second.done()


@in_loop
async def test_a_request_that_is_sent_again_goes_first() -> None:
    pace = Pace(1, window=1.0)
    slot = await pace.enter(0.0)
    new = waiting(pace)
    await settled()
    again = waiting(pace, again=True)
    await settled()
    pace.leave(slot, cost=0.0)
    await settled()
    assert again.done() and not new.done()


@in_loop
async def test_all_wait_until_the_time_that_one_was_told() -> None:
    pace = Pace(4, window=4.0)
    slot = await pace.enter(0.0)
    pace.busy(slot, wait_s=0.05)
    pace.leave(slot, cost=0.0)
    begun = asyncio.get_running_loop().time()
    await entered(pace, 2)
    assert asyncio.get_running_loop().time() - begun >= 0.045


@in_loop
async def test_what_is_held_and_spent_never_exceeds_the_budget() -> None:
    budget = Budget(PRICE, 10.0)
    pace = Pace(8, budget, window=8.0)
    slots = await entered(pace, 2, worst=4.0)
    third = waiting(pace, worst=4.0)
    await settled()
    assert not third.done() and budget.held == 8.0
    pace.leave(slots[0], cost=1.0)  # cheaper than feared
    await settled()
    assert third.done() and budget.spent + budget.held == 9.0
    fourth = waiting(pace, worst=4.0)
    pace.leave(slots[1], cost=4.0)
    pace.leave(third.result(), cost=4.0)
    await settled()
    assert isinstance(fourth.exception(), Unaffordable) and budget.spent == 9.0


@in_loop
async def test_a_slot_that_came_too_late_is_given_back() -> None:
    pace = Pace(1, window=1.0)
    slot = await pace.enter(0.0)
    second = waiting(pace)
    await settled()
    pace.leave(slot, cost=0.0)  # the second has its slot now, but does not know yet
    second.cancel()
    await settled()
    assert pace.in_flight == 0


@in_loop
async def test_closed_it_gives_out_nothing() -> None:
    pace = Pace(1, window=1.0)
    await pace.enter(0.0)
    second = waiting(pace)
    await settled()
    pace.close()
    third = waiting(pace)
    await settled()
    assert second.cancelled() and third.cancelled()


def test_work_runs_to_its_end_also_where_a_loop_runs() -> None:
    async def answer() -> int:
        await asyncio.sleep(0)
        return 42

    async def notebook() -> int:
        return run_to_end(answer())

    assert run_to_end(notebook()) == 42
