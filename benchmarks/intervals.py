"""How often the 95% intervals of `dgpo compare` and `dgpo eval` contain the truth.

    OMP_NUM_THREADS=1 python benchmarks/intervals.py [--problems 30] [--runs 1000] [--json FILE]
    OMP_NUM_THREADS=1 python benchmarks/intervals.py --stop-when

Problems are drawn from a population and both models answer each of them k times. The problems
intervals are compared with the difference (compare) and the score (eval) of the population, the
rerun intervals with those of the problems drawn. A cell is the coverage in percent and the mean
width in points.

percentiles: the bootstrap of the problems' differences that `dgpo compare` had before. student:
their t interval. added: Student's with a problem won and one lost added, always in full.
problems: what `dgpo compare` says. rerun: its other interval. eval: the two of `dgpo eval`.
at odds: runs, in percent, in which the interval `problems` and the sign test disagree about 0.

--stop-when: what `dgpo eval --stop-when` does to the score. A cell is the mean number of rounds,
the bias of Avg@k with its standard error in points, and the coverage of the rerun interval.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from dgpo_cli.core.types import Interval
from dgpo_cli.stats.comparison import LEVEL, problems_difference, rerun_difference
from dgpo_cli.stats.intervals import problems_interval, rerun_interval, student_quantile
from dgpo_cli.stats.permutation import sign_flip
from dgpo_cli.stats.stopping import stopping_round

Rng = np.random.Generator
Draw = Callable[[Rng, int], np.ndarray]
RESAMPLES = 1000
MANY = 1_000_000  # problems that stand for the population
EXACT = 1e-3  # how far their mean may be from its


def always(rng: Rng, n: int) -> np.ndarray:
    """Every problem is solved always."""
    return np.ones(n)


def nearly_always(rng: Rng, n: int) -> np.ndarray:
    return np.full(n, 0.95)


def edges(rng: Rng, n: int) -> np.ndarray:
    """Half of the problems are solved always, the others never."""
    return np.where(rng.random(n) < 0.5, 1.0, 0.0)


def near_edges(rng: Rng, n: int) -> np.ndarray:
    return np.where(rng.random(n) < 0.7, 0.98, 0.02)


def strong(rng: Rng, n: int) -> np.ndarray:
    """A strong model on AIME: most problems at an edge, a quarter anywhere."""
    at = rng.random(n)
    return np.where(at < 0.6, 1.0, np.where(at < 0.75, 0.0, rng.random(n)))


def middling(rng: Rng, n: int) -> np.ndarray:
    return rng.beta(1.0, 1.5, n)


def alike(rng: Rng, n: int) -> np.ndarray:
    return np.full(n, 0.5)


class Regime(NamedTuple):
    """A population of problems and how the later model differs.

    flips: share of problems that go from never to always; swaps: that go from one edge to the
    other, either way; moves: that get any chance at all. shift: part of what is missing to 1 that
    all gain; spread: standard deviation of what each problem gains beside it.
    """

    base: Draw
    flips: float = 0.0
    swaps: float = 0.0
    moves: float = 0.0
    shift: float = 0.0
    spread: float = 0.0

    def draw(self, rng: Rng, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Chances of n problems under both models."""
        old = self.base(rng, n)
        new = old + self.shift * (1 - old)
        if self.spread:
            new = np.clip(new + rng.normal(0.0, self.spread, n), 0.0, 1.0)
        kind = rng.random(n)
        flipped = kind < self.flips
        swapped = ~flipped & (kind < self.flips + self.swaps)
        moved = ~flipped & ~swapped & (kind < self.flips + self.swaps + self.moves)
        side = rng.random(n) < 0.5
        old = np.where(flipped, 0.0, np.where(swapped, side, old))
        new = np.where(flipped, 1.0, np.where(swapped, ~side, new))
        return old, np.where(moved, rng.random(n), new)


# Mass at 0 and 1, and at most a tenth of the problems differ: benchmarks near saturation.
EDGES = {
    "always, equal": Regime(always),
    "always, 5% move": Regime(always, moves=0.05),
    "always, 10% move": Regime(always, moves=0.1),
    "edges, 5% won": Regime(edges, flips=0.05),
    "edges, 7% won": Regime(edges, flips=0.07),
    "edges, 10% won": Regime(edges, flips=0.1),
    "edges, 5% swap": Regime(edges, swaps=0.05),
    "edges, 10% swap": Regime(edges, swaps=0.1),
    "edges, 10% move": Regime(edges, moves=0.1),
    "near edges, 5% won": Regime(near_edges, flips=0.05),
    "near edges, 10% won": Regime(near_edges, flips=0.1),
    "near edges, 10% swap": Regime(near_edges, swaps=0.1),
    "strong, 5% won": Regime(strong, flips=0.05),
    "strong, 10% won": Regime(strong, flips=0.1),
    "strong, 10% move": Regime(strong, moves=0.1),
}
REGIMES = EDGES | {
    "near edges, equal": Regime(near_edges),
    "strong, equal": Regime(strong),
    "strong, all better": Regime(strong, shift=0.2, spread=0.05),
    "95%, equal": Regime(nearly_always),
    "95%, all better": Regime(nearly_always, shift=0.8),
    "middling, equal": Regime(middling),
    "middling, all better": Regime(middling, shift=0.1, spread=0.1),
    "middling, 10% won": Regime(middling, flips=0.1),
    "alike, equal": Regime(alike),
    "alike, all better": Regime(alike, shift=0.1, spread=0.1),
}


class Cell(NamedTuple):
    """Share of the intervals that hold the truth, and their mean width."""

    coverage: float
    width: float


def measure(
    regime: Regime, *, n: int, k: int, runs: int, seed: int, others: bool = False
) -> dict[str, Cell]:
    """Coverage and width of every interval; others: also of those that are not in use."""
    rng = np.random.default_rng([seed, n, k])
    old, new = regime.draw(np.random.default_rng(0), MANY)
    difference, score = float((new - old).mean()), float(new.mean())
    found: dict[str, list[tuple[bool, float]]] = {}
    odd = 0
    for run in range(runs):
        chances = regime.draw(rng, n)
        before, after = (rng.binomial(k, each).tolist() for each in chances)
        p = sign_flip([b - a for a, b in zip(before, after, strict=True)], seed=run).p
        own = {
            "problems": problems_difference(before, after, k_before=k, k_after=k, p=p),
            "rerun": rerun_difference(before, after, k_before=k, k_after=k),
            "eval problems": problems_interval(after, k=k),
            "eval rerun": rerun_interval(after, k=k),
        }
        truths = {
            "rerun": float((chances[1] - chances[0]).mean()),
            "eval problems": score,
            "eval rerun": float(chances[1].mean()),
        }
        odd += _at_odds(own["problems"], p=p)
        if others:
            own |= _others([(b - a) / k for a, b in zip(before, after, strict=True)], rng=rng)
        for name, interval in own.items():
            held = _holds(interval, truths.get(name, difference))
            found.setdefault(name, []).append((held, interval.high - interval.low))
    cells = {name: Cell(*map(float, np.mean(each, axis=0))) for name, each in found.items()}
    return cells | {"at odds": Cell(odd / runs, 0.0)}


def _holds(interval: Interval, truth: float) -> bool:
    return interval.low - EXACT <= truth <= interval.high + EXACT


def _at_odds(interval: Interval, *, p: float) -> bool:
    if p < LEVEL:
        return interval.low < 0 < interval.high
    return not interval.low <= 0 <= interval.high


def _others(differences: Sequence[float], *, rng: Rng) -> dict[str, Interval]:
    values = np.array(differences)
    n = len(values)
    quantile = student_quantile(0.975, freedom=n - 1)
    means = values[rng.integers(0, n, size=(RESAMPLES, n))].mean(axis=1)
    tail = NormalDist().cdf(-quantile * math.sqrt(n / (n - 1)))
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return {
        "percentiles": Interval(float(low), float(high)),
        "student": _around(values, quantile=quantile),
        "added": _around(np.array([*differences, 1.0, -1.0]), quantile=quantile),
    }


def _around(values: np.ndarray, *, quantile: float) -> Interval:
    half = quantile * float(values.std(ddof=1)) / math.sqrt(len(values))
    return Interval(float(values.mean()) - half, float(values.mean()) + half)


class Stopped(NamedTuple):
    """Mean rounds, bias of Avg@k and its standard error, coverage of the rerun interval."""

    rounds: float
    bias: float
    stderr: float
    coverage: float


def measure_stopping(
    base: Draw, *, n: int, margin: float, least: int, most: int, runs: int, seed: int
) -> Stopped:
    """What stopping at `margin` does to Avg@k, against the chances of the problems drawn."""
    rng = np.random.default_rng([seed, n, most])
    rows = []
    for _ in range(runs):
        chances = base(rng, n)
        rounds = rng.random((most, n)) < chances
        k = stopping_round(map(np.ndarray.tolist, rounds), margin=margin, least=least) or most
        correct = rounds[:k].sum(axis=0).tolist()
        truth = float(chances.mean())
        held = _holds(rerun_interval(correct, k=k), truth)
        rows.append((k, sum(correct) / (n * k) - truth, held))
    found = np.array(rows, dtype=float)
    rounds_used, bias, coverage = found.mean(axis=0).tolist()
    return Stopped(rounds_used, bias, float(found[:, 1].std()) / math.sqrt(runs), coverage)


STOPPED = {
    "AIME, a strong model": strong,
    "always or never": edges,
    "98% or 2%": near_edges,
    "all 95%": nearly_always,
    "middling": middling,
    "all 50%": alike,
}
MARGINS = (0.01, 0.015, 0.03, 0.05)


def show_stopping(*, n: int, runs: int, most: int, seed: int, least: Sequence[int]) -> None:
    print(f"{n} problems, {runs} runs a cell, at most {most} rounds: rounds, bias, coverage")
    print(f"{'population':21}{'target':>7}" + "".join(f"{f'at least {r}':>26}" for r in least))
    for name, base in STOPPED.items():
        for margin in MARGINS:
            cells = [
                measure_stopping(base, n=n, margin=margin, least=r, most=most, runs=runs, seed=seed)
                for r in least
            ]
            shown = "".join(
                f"{rounds:8.1f} {100 * bias:+6.2f} ±{100 * error:.2f} {100 * coverage:5.1f}"
                for rounds, bias, error, coverage in cells
            )
            print(f"{name:21}{f'±{100 * margin:g}':>7}{shown}", flush=True)


COLUMNS = (
    "percentiles", "student", "added", "problems", "rerun", "eval problems", "eval rerun"
)  # fmt: skip


def row(name: str, k: int, cells: Mapping[str, Cell]) -> str:
    shown = "".join(f"{100 * c.coverage:9.1f} {100 * c.width:5.1f}" for c in
                    (cells[column] for column in COLUMNS))  # fmt: skip
    return f"{name:23}{k:3}{shown}{100 * cells['at odds'].coverage:9.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--problems", type=int, default=30)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--k", type=int, nargs="+", default=[4, 8, 16, 32, 64])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--stop-when", action="store_true")
    parser.add_argument("--least", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--most", type=int, default=64)
    options = parser.parse_args()
    if options.stop_when:
        show_stopping(
            n=options.problems,
            runs=options.runs,
            most=options.most,
            seed=options.seed,
            least=options.least,
        )
        return
    print(f"{options.problems} problems, {options.runs} runs a line; coverage in percent, width")
    print(f"{'population':23}{'k':>3}" + "".join(f"{c:>15}" for c in COLUMNS) + "  at odds")
    found = {}
    for name, regime in REGIMES.items():
        for k in options.k:
            cells = measure(
                regime, n=options.problems, k=k, runs=options.runs, seed=options.seed, others=True
            )
            print(row(name, k, cells), flush=True)
            found[f"{name}, k={k}"] = {column: list(cell) for column, cell in cells.items()}
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
