"""The search for a variant's settings: a grid or random trials, with successive halving.

Successive halving (Jamieson and Talwalkar, arXiv 1502.07943) begins with all trials and few steps,
and goes on with the best half of them and more steps. That one in `halving` goes on, for `halving`
times as many steps, is one bracket of Hyperband (Li et al., arXiv 1603.06560). No torch here.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from dgpo_cli.core.codec import encoded
from dgpo_cli.core.errors import ConfigError
from dgpo_cli.core.refusal import shown
from dgpo_cli.core.schema import Frozen, Whole
from dgpo_cli.core.text import cut
from dgpo_cli.study.fields import Seeds, Values, check_distinct, filled, meant

_DIGITS = 3  # of a value that is drawn
_TRIES = 50  # draws for each trial, before a small space counts as exhausted


class Span(Frozen):
    """The range that a random search draws a setting from."""

    low: float = Field(description="The smallest value.")
    high: float = Field(description="The largest value.")
    log: bool = Field(False, description="Draw evenly on a logarithmic scale.")


class Search(Frozen):
    """[tune]: the search for each variant's best settings, on seeds of its own."""

    seeds: Seeds = Field(description="Seeds of the trials; not those of the comparison.")
    kind: Literal["grid", "random"] = Field(
        "grid", description="grid: every combination. random: `trials` of them."
    )
    trials: Whole | None = Field(None, ge=1, description="Number of trials of a random search.")
    halving: Whole | None = Field(
        None,
        ge=2,
        description="Successive halving: of the trials, one in `halving` goes on for as many times "
        "as many steps, until the last ones have train.steps.",
    )
    steps: Whole | None = Field(
        None, ge=1, description="Steps of a trial; unset: train.steps of the variant."
    )


@dataclass(frozen=True, slots=True)
class Space:
    """What a search varies: for each setting its values, or a span."""

    values: Mapping[str, tuple[Any, ...] | Span]


def read_search(
    table: dict[str, Any] | None, *, seeds: Sequence[int], where: str
) -> tuple[Search | None, Space]:
    """Split [tune] into how it searches and what it varies."""
    if table is None:
        return None, Space({})
    own = {key: value for key, value in table.items() if key in Search.model_fields}
    varied = {key: value for key, value in table.items() if key not in own}
    near = [_near_field(key) for key, value in varied.items() if not isinstance(value, dict | list)]
    if near:
        raise ConfigError("\n".join(f"{where}: {line}" for line in near))
    search: Search = filled(Search, own, where=where)
    check_distinct(search.seeds, where=f"{where}: seeds")
    both = sorted(set(search.seeds) & set(seeds))
    if both:
        raise ConfigError(
            f"{where}: seeds: {both[0]} is a seed of the comparison too, which would favour what "
            "was chosen on it; use others, such as [1000, 1001]"
        )
    space = {key: _axis(key, value, where=where) for key, value in _spread(varied).items()}
    if not space:
        raise ConfigError(f'{where}: name what to search, such as "optim.lr" = [1e-5, 1e-4]')
    random = search.kind == "random"
    if random and search.trials is None:
        raise ConfigError(f"{where}: kind=random: needs trials, such as trials = 8")
    if not random and search.trials is not None:
        raise ConfigError(
            f'{where}: trials={search.trials}: a grid has all combinations; set kind = "random"'
        )
    if not random and (span := next((k for k, v in space.items() if isinstance(v, Span)), None)):
        raise ConfigError(f'{where}: {span}: a range needs kind = "random"; a grid needs a list')
    count = len(trials_of(search, Space(space)))
    if search.halving is not None and count < 2 * search.halving:
        raise ConfigError(
            f"{where}: halving={search.halving}: needs at least {2 * search.halving} trials, and "
            f"there are {count}; give more values, or leave it out"
        )
    return search, Space(space)


def at_edge(chosen: Mapping[str, Any], tried: Sequence[Mapping[str, Any]]) -> str:
    """Return which numbers of the best trial are the largest or smallest tried, in words."""
    parts = []
    for key, value in chosen.items():
        values = {each[key] for each in tried if isinstance(each[key], int | float)}
        if len(values) > 1 and value in (min(values), max(values)):
            parts.append(f"{key} is the {'largest' if value == max(values) else 'smallest'} tried")
    return "; ".join(parts)


def _near_field(key: str) -> str:
    hint = meant(key, list(Search.model_fields), otherwise="give a list of values to try")
    return f"{cut(key)} is unknown; {hint}"


def _spread(tree: Mapping[str, Any], prefix: str = "") -> Values:
    """Return lists and ranges by the dotted name of their setting."""
    found: Values = {}
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and not {"low", "high"} & value.keys():
            found |= _spread(value, f"{key}.")
        else:
            found[key] = value
    return found


def _axis(key: str, value: Any, *, where: str) -> tuple[Any, ...] | Span:
    if isinstance(value, list) and value:
        return tuple(value)
    if isinstance(value, dict):
        span: Span = filled(Span, value, where=f"{where} {key}")
        if span.low >= span.high or (span.log and span.low <= 0):
            least = " and above 0" if span.log else ""
            raise ConfigError(f"{where}: {key}: low={span.low:g} must be below high{least}")
        return span
    raise ConfigError(
        f"{where}: {key}={cut(shown(value))}: must be a list of values, or "
        "{low = ..., high = ..., log = true}"
    )


def trials_of(search: Search, space: Space) -> list[Values]:
    """Return the settings to try, each different; the draws of a random search are always those."""
    axes = space.values
    if search.kind == "grid":
        lists = [values for values in axes.values() if not isinstance(values, Span)]
        return [dict(zip(axes, each, strict=True)) for each in itertools.product(*lists)]
    generator = random.Random(encoded(described(search, space)))
    found: list[Values] = []
    for _ in range(_TRIES * (search.trials or 1)):
        trial = {key: _drawn(values, generator) for key, values in axes.items()}
        if trial not in found:
            found.append(trial)
        if len(found) == search.trials:
            break
    return found


def _drawn(values: tuple[Any, ...] | Span, generator: random.Random) -> Any:
    if not isinstance(values, Span):
        return generator.choice(values)
    ends = (values.low, values.high)
    low, high = map(math.log, ends) if values.log else ends
    drawn = generator.uniform(low, high)
    return float(f"{math.exp(drawn) if values.log else drawn:.{_DIGITS}g}")


@dataclass(frozen=True, slots=True)
class Rung:
    """A round of a search: `trials` of them are trained to `steps` steps."""

    trials: int
    steps: int


def rungs(search: Search, *, trials: int, steps: int) -> list[Rung]:
    """Return the rounds; the last one has `steps` steps. Without halving there is only this one.

    A round of one trial would decide nothing and is left out.
    """
    most = min(search.steps or steps, steps)
    if search.halving is None:
        return [Rung(trials, most)]
    kept = [trials]
    while kept[-1] // search.halving > 1:
        kept.append(kept[-1] // search.halving)
    return [
        Rung(count, max(1, most // search.halving ** (len(kept) - 1 - at)))
        for at, count in enumerate(kept)
    ]


def best(scores: Sequence[float], *, keep: int) -> list[int]:
    """Return the positions of the highest scores, best first; of equal ones the first.

    NaN, the score of a trial that failed, is below all others.
    """
    order = sorted(range(len(scores)), key=lambda at: (math.isnan(scores[at]), -scores[at], at))
    return order[:keep]


def described(search: Search, space: Space) -> dict[str, Any]:
    """Return [tune] as JSON values."""
    varied = {
        key: each.model_dump() if isinstance(each, Span) else list(each)
        for key, each in space.values.items()
    }
    return {**search.model_dump(mode="json"), "space": varied}
