"""The numbers of credit_truth.py: credit rules against the value of every prefix.

Of weights, means over completions:
    moved      share of the weight that is on tokens whose value surely moves, over uniform's share
    decider    weight of the token at which the value of a wrong completion falls most
    rank       its median rank by weight; first: share of completions in which it has rank 1
    pull, 1st  decider and first for w |grad log p|: what the gradient sees of the weight
    corr       rank correlation of w with |dV| over the tokens of a completion
    cos        cosine of A w with dV
exact is the squared norm of sum dV grad log p over that of sum A grad log p, uniform credit: their
means are equal, so that all that exact credit saves is variance.

Of the gradients of steps; that of uniform credit has the mean of the truth:
    cosine     of the mean gradient with that of uniform credit
    bias       sqrt(1 - cosine^2): what is left of it after the best scale, over its norm
               0 where chance makes the cosine 1 or more: few steps say nothing of it
    noise      trace of the covariance of a step's gradient over the squared norm of the mean
    step       cosine of the gradient of one step with the truth: bias and noise in one
    over       step over that of uniform credit, on the same steps

Products of means are of different steps, and so unbiased.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from dgpo_cli.algo.summary import LARGE_MOVE
from dgpo_cli.core.types import ValueCurve
from dgpo_cli.engine.values.search import least_move

RESAMPLES = 300
OF_WEIGHTS = ("moved", "decider", "rank", "first", "pull", "1st", "corr", "cos")
OF_GRADIENTS = ("cosine", "bias", "noise", "step", "over")
UNIFORM = "uniform"
Numbers = dict[str, float]


def sure(curve: ValueCurve) -> list[bool]:
    """Return at which tokens the value moves by more than LARGE_MOVE and than chance explains."""
    found: list[bool] = []
    for before, after in pairwise(curve.points):
        tokens, move = after.at - before.at, abs(after.value - before.value)
        is_sure = tokens == 1 and move > LARGE_MOVE and least_move(before, after) > 0
        found += [is_sure] * tokens
    return found


@dataclass(frozen=True)
class Completion:
    """One completion. products [T, T]: of the gradients of its tokens' log-probabilities."""

    right: bool
    advantage: float
    moves: Tensor  # [T]
    sure: Tensor  # bool [T]
    products: Tensor

    def numbers(self, w: Tensor) -> Numbers:
        """Return the numbers of weights [T], those that the completion has."""
        found: Numbers = {}
        size, share = self.moves.abs(), w.abs()
        if self.sure.any() and float(share.sum()) > 0:
            found["moved"] = float(share[self.sure].sum() / share.sum() / self.sure.float().mean())
        at = int(self.moves.argmin())
        if not self.right and bool(self.sure[at]) and self.moves[at] < 0:
            pull = share * self.products.diagonal().sqrt()
            found["decider"] = float(w[at])
            found["rank"] = 1.0 + float((share > share[at]).sum())
            found["first"] = float(_is_first(share, at))
            found["pull"] = float(pull[at] / pull.mean())
            found["1st"] = float(_is_first(pull, at))
        if len(w) > 1 and float(w.std()) > 1e-6 and float(size.std()) > 0:
            found["corr"] = _correlation(_ranks(share), _ranks(size))
        norm = float(w.norm() * self.moves.norm())
        if norm > 0:
            found["cos"] = math.copysign(1.0, self.advantage) * float(w @ self.moves) / norm
        return found

    @property
    def sizes(self) -> tuple[float, float]:
        """Return the squared norms of sum A grad log p and of sum dV grad log p."""
        return self.advantage**2 * float(self.products.sum()), float(
            self.moves @ self.products @ self.moves
        )


@dataclass(frozen=True)
class Problem:
    """A problem's completions, and the numbers of each under each rule."""

    completions: tuple[Completion, ...]
    numbers: tuple[list[Numbers], ...]

    @classmethod
    def of(
        cls,
        curves: Sequence[ValueCurve],
        *,
        sure: Sequence[Sequence[bool]],
        right: Sequence[bool],
        advantages: Sequence[float],
        weights: Sequence[Tensor],  # of each rule, [B, T]
        products: Sequence[Tensor],
    ) -> Problem:
        every, numbers = [], []
        for row, curve in enumerate(curves):
            moves = torch.tensor(curve.moves())
            own = Completion(
                right[row], advantages[row], moves, torch.tensor(sure[row]), products[row]
            )
            every.append(own)
            numbers.append([own.numbers(each[row, : len(moves)]) for each in weights])
        return cls(tuple(every), tuple(numbers))


def weight_table(found: Sequence[Problem], *, specs: Sequence[str]) -> dict[str, Any]:
    """Return the numbers of the weights, each as a value and its standard error over problems."""
    draws = _draws(len(found))
    every = torch.ones(len(found), dtype=torch.float64)
    rows: dict[str, Any] = {}
    for number, spec in enumerate(specs):
        picks = {name: _picker(found, number, name) for name in OF_WEIGHTS}
        rows[spec] = {
            name: _pair([pick(each) for each in (every, *draws)]) for name, pick in picks.items()
        }
    sizes = torch.tensor(
        [[sum(pair) for pair in zip(*(c.sizes for c in one.completions), strict=True)]
         for one in found], dtype=torch.float64
    )  # fmt: skip
    exact = [float((own @ sizes[:, 1]) / (own @ sizes[:, 0])) for own in (every, *draws)]
    seen = [each for one in found for each in one.completions]
    wrong = [each for each in seen if not each.right]
    return {
        "problems": len(found),
        "right": len(seen) - len(wrong),
        "right_moved": sum(each.right and bool(each.sure.any()) for each in seen),
        "wrong": len(wrong),
        "wrong_decided": sum(bool((each.sure & (each.moves < 0)).any()) for each in wrong),
        "exact": _pair(exact),
        "rules": rows,
    }


def _picker(found: Sequence[Problem], rule: int, name: str) -> Callable[[Tensor], float]:
    """Return a function that gives a number for resampled problems."""
    own = [[n[name] for n in (each[rule] for each in one.numbers) if name in n] for one in found]
    if name == "rank":

        def median(counts: Tensor) -> float:
            times = zip(own, counts.tolist(), strict=True)
            drawn = [rank for ranks, count in times for rank in ranks * int(count)]
            return statistics.median(drawn) if drawn else math.nan

        return median
    sums = torch.tensor([math.fsum(each) for each in own], dtype=torch.float64)
    sizes = torch.tensor([len(each) for each in own], dtype=torch.float64)

    def mean(counts: Tensor) -> float:
        return float(counts @ sums / (counts @ sizes))  # NaN if no completion has the number

    return mean


def gradient_table(batches: Tensor, *, specs: Sequence[str]) -> dict[str, Any]:
    """Return the numbers of the gradients; batches: [N, R, width]."""
    gradients = Gradients(batches, uniform=list(specs).index(UNIFORM))
    every = gradients.of(torch.ones(len(batches), dtype=torch.float64))
    resampled = [gradients.of(draw) for draw in _draws(len(batches))]
    rows = {
        spec: {
            name: _pair([every[number][name], *(each[number][name] for each in resampled)])
            for name in OF_GRADIENTS
        }
        for number, spec in enumerate(specs)
    }
    return {"batches": len(batches), "rules": rows}


class Gradients:
    """Products of the gradients of steps, and what they say."""

    def __init__(self, batches: Tensor, *, uniform: int) -> None:
        wide = batches.double()
        self._uniform = uniform
        # Rule r on step m with the truth of step n, and with itself.
        self._with_truth = torch.einsum("mrd,nd->rmn", wide, wide[:, uniform])
        self._with_itself = torch.einsum("mrd,nrd->rmn", wide, wide)

    def of(self, counts: Tensor) -> list[Numbers]:
        """Return the numbers of each rule; counts [N]: how often each step was drawn."""
        pairs = counts[:, None] * counts[None, :]
        pairs.fill_diagonal_(0.0)
        share, pairs = counts / counts.sum(), pairs / pairs.sum()
        truth = float((self._with_itself[self._uniform] * pairs).sum())
        found = []
        for itself, shared in zip(self._with_itself, self._with_truth, strict=True):
            signal, size = float((itself * pairs).sum()), float(share @ itself.diagonal())
            along = float((shared * pairs).sum())
            known = signal > 0 and truth > 0
            cosine = along / math.sqrt(signal * truth) if known else math.nan
            found.append(
                {
                    "cosine": cosine,
                    "bias": math.sqrt(max(0.0, 1.0 - cosine * cosine)) if known else math.nan,
                    "noise": (size - signal) / signal if known else math.nan,
                    "step": along / math.sqrt(truth * size) if truth * size > 0 else math.nan,
                }
            )
        for own in found:
            own["over"] = own["step"] / found[self._uniform]["step"]
        return found


def _draws(count: int) -> list[Tensor]:
    """Return how often each of `count` is drawn, in resamples of them with replacement."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(count, (RESAMPLES, count), generator=generator)
    return [torch.bincount(each, minlength=count).double() for each in drawn]


def _pair(values: Sequence[float]) -> tuple[float, float]:
    """Return the first value, and the deviation of the others, which are of resamples."""
    known = [each for each in values[1:] if math.isfinite(each)]
    return values[0], statistics.stdev(known) if len(known) > 1 else math.nan


def _is_first(values: Tensor, at: int) -> bool:
    """Whether a value is the largest of all, alone."""
    return int((values >= values[at]).sum()) == 1


def _ranks(values: Tensor) -> Tensor:
    """Return ranks from 0; equal values share their mean rank."""
    below = (values[:, None] > values[None, :]).sum(dim=1).double()
    equal = (values[:, None] == values[None, :]).sum(dim=1).double()
    return below + (equal - 1) / 2


def _correlation(one: Tensor, other: Tensor) -> float:
    one, other = one - one.mean(), other - other.mean()
    return float(one @ other / (one.norm() * other.norm()))


def print_table(table: dict[str, Any], *, title: str) -> None:
    """Print a table of a step, and what it is of."""
    told = {key: value for key, value in table.items() if key != "rules"}
    of = ", ".join(
        f"{key} {value if isinstance(value, int) else _cell(*value)}" for key, value in told.items()
    )
    print(f"{title}: {of}")
    names = list(next(iter(table["rules"].values())))
    print(f"{'':26}" + "".join(f"{name:>14}" for name in names))
    for spec, numbers in table["rules"].items():
        print(f"{spec:26}" + "".join(f"{_cell(*numbers[name]):>14}" for name in names))
    print(flush=True)


def _cell(value: float, error: float) -> str:
    if math.isnan(value):
        return "-"
    digits = 3 if abs(value) < 1 else 2 if abs(value) < 10 else 1
    return f"{value:.{digits}f} ± {error:.{digits}f}"
