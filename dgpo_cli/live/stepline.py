"""One training step in one line: what fits the width, the most telling numbers first."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

from dgpo_cli.algo.credit.target import IS_NOISE
from dgpo_cli.core.numbers import (
    decimal,
    duration,
    fraction,
    percent,
    rate,
    scientific,
    tokens,
    whole_percent,
)
from dgpo_cli.core.types import StepMetrics


class _Field(NamedTuple):
    """metric: its name. rank: fields of a high rank are the first to go in a narrow terminal."""

    metric: str
    rank: int
    render: Callable[[float], str]


_FIELDS = (
    _Field("reward/mean", 0, lambda v: f"reward {decimal(v, digits=2)}"),
    _Field("outcome/correct", 2, lambda v: f"correct {whole_percent(v)}"),
    _Field("completion/length_mean", 4, lambda v: f"len {tokens(v)}"),
    _Field("policy/entropy", 6, lambda v: f"entropy {decimal(v, digits=2)}"),
    _Field("policy/hellinger_sq_mean", 5, lambda v: f"d {scientific(v)}"),
    _Field("credit/effective_fraction", 3, lambda v: f"eff {fraction(v, digits=3, most=5)}"),
    _Field("loss/clip_frac", 8, lambda v: f"clip {percent(v)}"),
    _Field("optim/grad_norm", 7, lambda v: f"|g| {decimal(v, digits=2)}"),
    _Field("time/step_s", 1, duration),
    _Field("throughput/tokens_per_s", 9, lambda v: rate(v, "tok")),
)


_DECIDES = re.compile(r"reward/(.+)_decides")


def term_names(metrics: Iterable[str]) -> list[str]:
    """Return the names of the terms of the reward."""
    return [found[1] for name in metrics if (found := _DECIDES.fullmatch(name))]


def _term(name: str, value: float) -> str:
    return f"{name} {decimal(value, digits=2)}"


def _fields(metrics: StepMetrics) -> list[_Field]:
    """Return the fields of a line; those of terms come after the reward and go first."""
    names = term_names(metrics)
    terms = [
        _Field(f"reward/{name}_mean", 10 + at, partial(_term, name))
        for at, name in enumerate(names)
        if len(names) > 1
    ]
    lost = metrics.get("reward/unscored", 0.0) > 0
    unscored = [_Field("reward/unscored", 1, lambda v: f"unscored {whole_percent(v)}")]
    return [_FIELDS[0], *(unscored if lost else []), *terms, *_FIELDS[1:]]


# NaN where no completion had an advantage; a NaN elsewhere is to be seen.
_MAY_BE_UNKNOWN = ("credit/", "policy/hellinger_sq")


# Outcomes that say nothing of right or wrong.
_NOT_JUDGED = ("outcome/scored", "outcome/error", "outcome/timeout")


def _is_known(field: _Field, metrics: StepMetrics) -> bool:
    """Whether a step has the number of a field."""
    if field.metric == "outcome/correct" and sum(metrics.get(n, 0.0) for n in _NOT_JUDGED) > 0.9999:
        return False
    unknown = field.metric.startswith(_MAY_BE_UNKNOWN) and math.isnan(metrics[field.metric])
    return not unknown


def _rendered(field: _Field, metrics: StepMetrics) -> str:
    noise = field.metric == "policy/hellinger_sq_mean" and metrics.get(IS_NOISE) == 1.0
    return field.render(metrics[field.metric]) + (" (noise)" if noise else "")


def step_line(step: int, metrics: StepMetrics, *, total: int | None, width: int) -> str:
    """Write the line of a finished step, dropping fields until it fits `width` columns.

    A metric that is missing or unknown is left out. total: steps of the whole run, if known.
    """
    head = f"step {step}" if total is None else f"step {step:>{len(str(total))}}/{total}"
    fields = _fields(metrics)
    kept = [field for field in fields if field.metric in metrics and _is_known(field, metrics)]
    while True:
        line = "  ".join([head, *(_rendered(field, metrics) for field in kept)])
        if len(line) <= width or not kept:
            return line
        kept.remove(max(kept, key=lambda field: field.rank))
