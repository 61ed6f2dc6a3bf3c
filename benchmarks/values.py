"""What values of prefixes cost: each by itself, with shared prefixes, and by a search.

    python benchmarks/values.py [--preset tiny] [--groups 4] [--group-size 8] [--continuations 16]

Estimates the values along all completions of some groups. "one by one": every prefix of every
completion. "shared": once each prefix that several completions begin with. "search": at most
--every prefixes of a completion, at ends of steps and where the value moves; "found" is the share
of completions whose largest move is at the token where "shared" has it, of those in which that is
at least 0.5. The table has, per completion, continuations, tokens drawn, tokens read (prompt and
prefix of each round, once) and CPU seconds, checkers included.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dgpo_cli.config.load import load_settings
from dgpo_cli.config.settings import Settings
from dgpo_cli.core.formats import Position
from dgpo_cli.core.types import Completion, ScoredGroup, ValueCurve, ValuePoint
from dgpo_cli.engine.sampling import SamplingEngine
from dgpo_cli.engine.setup import sampling_engine
from dgpo_cli.engine.values.estimate import EVERY, estimate
from dgpo_cli.engine.values.search import Search, thinned
from dgpo_cli.prompts.datasets import open_prompts
from dgpo_cli.samplers.base import Row
from dgpo_cli.stats.intervals import wilson

Curves = dict[Row, ValueCurve]
DECISIVE = 0.5
RUNS, TOKENS = 200, 8000


class Counting:
    """A sampler that counts what is asked of another."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.continuations = self.drawn = self.read = 0

    def sample(
        self, prompts: Sequence[Sequence[int]], *, seeds: Sequence[Sequence[int]], **named: Any
    ) -> list[tuple[Completion, ...]]:
        found: list[tuple[Completion, ...]] = self.inner.sample(prompts, seeds=seeds, **named)
        self.continuations += sum(map(len, seeds))
        self.drawn += sum(len(each.token_ids) for own in found for each in own)
        self.read += sum(map(len, prompts))
        return found


@dataclass(frozen=True, slots=True)
class Cost:
    """Of all completions. seconds: of CPU."""

    continuations: int
    drawn: int
    read: int
    seconds: float
    curves: Curves


def measured(settings: Settings, work: Callable[[SamplingEngine], Curves]) -> Cost:
    """Run an estimate with an engine of its own, whose checkers have ended by the end."""
    engine = sampling_engine(settings)
    with engine:
        engine.sampler = counting = Counting(engine.sampler)  # type: ignore[assignment]
        before = _children()
        start = time.process_time()
        curves = work(engine)
        seconds = time.process_time() - start
    seconds += _children() - before
    return Cost(counting.continuations, counting.drawn, counting.read, seconds, curves)


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def alone(group: ScoredGroup, row: int) -> ScoredGroup:
    """Return a group of one completion, which shares its prefixes with no other."""
    return replace(
        group,
        completions=(group.completions[row],),
        verdicts=(group.verdicts[row],),
        advantages=(0.0,),
        penalties=group.penalties[row : row + 1],
    )


def largest(curve: ValueCurve) -> tuple[int, float]:
    moves = curve.moves()
    at = max(range(len(moves)), key=lambda i: abs(moves[i]))
    return at, abs(moves[at])


def found(curves: Curves, truth: Curves) -> float:
    """Return the share of completions with a decisive token that are right about it."""
    decisive = {
        row: largest(curve)[0] for row, curve in truth.items() if largest(curve)[1] >= DECISIVE
    }
    right = sum(largest(curves[row])[0] == at for row, at in decisive.items())
    return right / max(1, len(decisive))


def simulated(before: float, after: float, *, count: int) -> tuple[float, float]:
    """Search completions of 8,000 tokens in which one token takes the value down.

    count: continuations. Returns the share in which it is found, and the prefixes a completion.
    """
    right = asked = 0
    for seed in range(RUNS):
        rng = random.Random(seed)
        decided = rng.randrange(1, TOKENS)
        last = ValuePoint(TOKENS, 0.0, 0.0, 0.0, 0)
        first = thinned(range(0, TOKENS, 100), stop=TOKENS, most=EVERY // 2)
        search = Search(first, last=last, most=EVERY)
        while places := search.wanted():
            asked += len(places)
            for at in places:
                value = before if at < decided else after
                mean = sum(rng.random() < value for _ in range(count)) / count
                interval = wilson(mean, size=count)
                search.add([ValuePoint(at, mean, interval.low, interval.high, count)])
        curve = search.curve()
        assert curve is not None
        moves = curve.moves()[:-1]  # the last is what chance had left to decide
        right += min(range(len(moves)), key=moves.__getitem__) == decided - 1
    return right / RUNS, asked / RUNS


def print_simulated() -> None:
    print(f"\none token of {TOKENS:,} decides; found, and prefixes estimated")
    for before, after in ((0.9, 0.0), (0.7, 0.2), (0.6, 0.3)):
        shown = [f"{before} to {after}"]
        for count in (8, 16, 32):
            share, prefixes = simulated(before, after, count=count)
            shown.append(f"K={count}: {share:4.0%} {prefixes:3.0f}")
        print("   ".join(shown))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--groups", type=int, default=4)
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--continuations", type=int, default=16)
    parser.add_argument("--every", type=int, default=16, help="prefixes of the search")
    parser.add_argument("--json", help="also write the figures to this file")
    args = parser.parse_args()
    settings = load_settings(args.preset, overrides={"train.threads": 1})
    prompts = open_prompts(settings.prompts, seed=0).take(Position(), count=args.groups)
    with sampling_engine(settings) as engine:
        seeds = [
            [i * args.group_size + j for j in range(args.group_size)] for i in range(args.groups)
        ]
        groups = engine.score(engine.sample(prompts, seeds=seeds))
    asked: dict[str, Any] = {"continuations": args.continuations, "seed": 0, "siblings": False}

    def one_by_one(engine: SamplingEngine) -> Curves:
        curves = {}
        for i, group in enumerate(groups):
            for j in range(len(group.completions)):
                single = estimate(engine, [alone(group, j)], **asked, every=4096)
                curves[i, j] = single[0, 0]
        return curves

    ways: dict[str, Callable[[SamplingEngine], Curves]] = {
        "one by one": one_by_one,
        "shared": lambda engine: estimate(engine, groups, **asked, every=4096),
        "search": lambda engine: estimate(engine, groups, **asked, every=args.every),
    }
    costs = {name: measured(settings, way) for name, way in ways.items()}
    truth = costs["shared"].curves
    lengths = [len(c.token_ids) for group in groups for c in group.completions]
    count = len(lengths)
    print(f"{count} completions of {sum(lengths) / count:.1f} tokens, {settings.model.path}")
    print(f"{'':12} {'continuations':>13} {'drawn':>8} {'read':>8} {'CPU s':>7} {'found':>6}")
    table = {}
    for name, cost in costs.items():
        row = {
            "continuations": cost.continuations / count,
            "drawn": cost.drawn / count,
            "read": cost.read / count,
            "cpu_s": cost.seconds / count,
            "found": found(cost.curves, truth),
        }
        table[name] = row
        print(
            f"{name:12} {row['continuations']:13.0f} {row['drawn']:8.0f} {row['read']:8.0f} "
            f"{row['cpu_s']:7.3f} {row['found']:6.0%}"
        )
    print_simulated()
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(table, file, indent=2)


if __name__ == "__main__":
    main()
