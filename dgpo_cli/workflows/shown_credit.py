"""The credit that an inspection shows: a rule applied to one completion's statistics."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dgpo_cli.algo.credit import CreditRule, DgpoCredit
from dgpo_cli.config.load import resolve
from dgpo_cli.errors import ConfigError, DataError
from dgpo_cli.types import InspectedCompletion, InspectedToken, StoredCredit, TokenStats
from dgpo_cli.workflows.inspect_request import WhatIf
from dgpo_cli.workflows.rollouts import RolloutLine


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a model said of a completion, T numbers each.

    stored: whether training wrote them. advantage: the completion's; NaN where it is not known.
    """

    line: RolloutLine
    advantage: float
    vocab_size: int
    logprobs: Sequence[float]
    entropy: Sequence[float]
    hellinger_sq: Sequence[float]
    stored: bool


def stored_statistics(line: RolloutLine) -> Statistics:
    """Take the statistics that training wrote."""
    assert line.stats is not None
    return Statistics(
        line=line,
        advantage=float("nan") if line.advantage is None else line.advantage,
        vocab_size=line.stats.vocab_size,
        logprobs=line.stats.logprobs,
        entropy=line.stats.entropy,
        hellinger_sq=line.stats.hellinger_sq,
        stored=True,
    )


class Rules:
    """The rule to show each completion under."""

    def __init__(self, what_if: WhatIf) -> None:
        self.what_if = what_if
        self._found: dict[str, CreditRule] = {}

    def trained(self, line: RolloutLine) -> CreditRule:
        """Return the rule that a line was trained with; the published one where it tells none."""
        return self._rule(line, WhatIf())

    def shown(self, line: RolloutLine) -> CreditRule:
        """Return that rule with the what-if's changes.

        Raises:
            ConfigError: the changes do not go together.
        """
        return self._rule(line, self.what_if)

    def _rule(self, line: RolloutLine, what_if: WhatIf) -> CreditRule:
        stored = dict(line.stats.credit) if line.stats and line.stats.credit else {"rule": "dgpo"}
        key = json.dumps([stored, what_if.rule, what_if.of_dgpo])
        if key not in self._found:
            self._found[key] = _resolved(stored, what_if)
        return self._found[key]


def _resolved(stored: dict[str, Any], what_if: WhatIf) -> CreditRule:
    changes = what_if.of_dgpo
    if changes and what_if.rule not in (None, "dgpo"):
        name = next(iter(changes))
        raise ConfigError(
            f"{_flag(name)}={changes[name]:g} belongs to the rule dgpo and --rule={what_if.rule} "
            f"has no {name}; leave one of them out"
        )
    rule = what_if.rule or ("dgpo" if changes else stored["rule"])
    if rule == stored["rule"] and "tau" in changes and "target_ess" not in changes:
        stored.pop("target_ess", None)  # a tau that is named is not looked for
    flags: dict[str, tuple[str, Any]] = {"credit.rule": ("--rule", rule)} if what_if.asks else {}
    flags |= {f"credit.{name}": (_flag(name), value) for name, value in changes.items()}
    written = [f"credit.{k}={_toml(v)}" for k, v in stored.items() if v is not None]
    return resolve(overrides=written, flags=flags).settings.credit


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _toml(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def inspected(
    found: Statistics, *, rules: Rules, texts: Sequence[str], hexes: Sequence[str]
) -> InspectedCompletion:
    """Apply the rule to a completion's statistics.

    Raises:
        DataError: the rule needs distances, and training measured none.
    """
    line = found.line
    rule, trained = rules.shown(line), rules.trained(line)
    if found.stored and rule.needs_reference and not trained.needs_reference:
        _check_distances(found, rule=rule, trained=trained)
    scores, weights, fraction = _credit(found, rule)
    columns = (found.logprobs, found.entropy, found.hellinger_sq, scores, weights, hexes)
    rows = zip(line.completion.token_ids, texts, *columns, strict=True)
    stored = _stored(line, rule=trained) if found.stored and rules.what_if.asks else None
    return InspectedCompletion(
        prompt_id=line.prompt.id,
        index=line.index,
        prompt=line.prompt.text,
        answer=line.prompt.answer,
        outcome=None if line.verdict is None else line.verdict.outcome,
        finish_reason=line.completion.finish_reason,
        reward=line.reward,
        advantage=found.advantage,
        effective_fraction=fraction,
        tau=tau_of(rule),
        tokens=tuple(InspectedToken(*row) for row in rows),
        stored=stored,
    )


def tau_of(rule: CreditRule) -> float | None:
    return rule.tau if isinstance(rule, DgpoCredit) else None


def _check_distances(found: Statistics, *, rule: CreditRule, trained: CreditRule) -> None:
    if not any(found.hellinger_sq):
        raise DataError(
            f"{found.line.prompt.source}: trained with the rule {trained.rule}, which measures no "
            f"distance from the reference; to show the rule {rule.rule} give --model and "
            "--reference (or --adapter)"
        )


def _credit(found: Statistics, rule: CreditRule) -> tuple[list[float], list[float], float]:
    """Return the scores and weights of the tokens, and the effective fraction."""
    import torch

    from dgpo_cli.algo.summary import effective_fractions

    columns = (found.logprobs, found.entropy, found.hellinger_sq)
    logprobs, entropy, distance = (torch.tensor(column)[None] for column in columns)
    stats = TokenStats(old_logprobs=logprobs, entropy=entropy, hellinger_sq=distance)
    mask = torch.ones(logprobs.shape, dtype=torch.bool)
    credit = rule.credit(stats, mask, vocab_size=found.vocab_size)
    fraction = float(effective_fractions(credit.weights, mask)[0])
    return credit.scores[0].tolist(), credit.weights[0].tolist(), fraction


def _stored(line: RolloutLine, *, rule: CreditRule) -> StoredCredit:
    assert line.stats is not None
    weights = line.stats.weights
    squares = len(weights) * sum(weight * weight for weight in weights)
    return StoredCredit(
        rule=rule.rule,
        parameters=parameters_of(rule),
        tau=tau_of(rule),
        effective_fraction=sum(weights) ** 2 / squares if squares else 1.0,
        weights=weights,
    )


def parameters_of(rule: CreditRule) -> Mapping[str, Any]:
    """Return every setting of a rule but its name."""
    return rule.model_dump(mode="json", exclude={"rule"})
