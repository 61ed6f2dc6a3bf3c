"""The credit that an inspection shows: a rule applied to one completion's statistics."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dgpo_cli.algo.credit import CreditRule, DgpoCredit, SurprisalCredit
from dgpo_cli.config.layers import set_layers
from dgpo_cli.config.load import layered, resolve
from dgpo_cli.core.errors import ConfigError, DataError
from dgpo_cli.core.own_code import is_spec
from dgpo_cli.core.refusal import shown
from dgpo_cli.core.types import (
    Credit,
    InspectedCompletion,
    InspectedToken,
    StoredCredit,
    TokenStats,
    ValueCurve,
)
from dgpo_cli.inspect.request import WhatIf
from dgpo_cli.runs.rollouts import RolloutLine


@dataclass(frozen=True, slots=True)
class Statistics:
    """The token statistics of a completion, T numbers each.

    stored: training wrote them. advantage: of the completion; NaN if unknown.
    values: the expected reward along it; None if it was not estimated.
    """

    line: RolloutLine
    advantage: float
    vocab_size: int
    logprobs: Sequence[float]
    entropy: Sequence[float]
    hellinger_sq: Sequence[float]
    stored: bool
    values: ValueCurve | None = None


def stored_statistics(line: RolloutLine) -> Statistics:
    """Return the statistics that training wrote."""
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
        """Return the rule that a line was trained with; the published one if it has none."""
        return self._rule(line, WhatIf(), run_code=False)

    def shown(self, found: Statistics) -> CreditRule:
        """Return that rule with the what-if's changes.

        Raises:
            ConfigError: the changes do not go together.
        """
        run_code = self.what_if.asks or not found.stored  # else the stored weights are shown
        return self._rule(found.line, self.what_if, run_code=run_code)

    def _rule(self, line: RolloutLine, what_if: WhatIf, *, run_code: bool) -> CreditRule:
        stored = dict(line.stats.credit) if line.stats and line.stats.credit else {"rule": "dgpo"}
        key = json.dumps([stored, what_if.rule, what_if.changes, what_if.overrides, run_code])
        if key not in self._found:
            if what_if.asks:
                self.trained(line)  # its own errors are not those of the what-if
            try:
                self._found[key] = _resolved(stored, what_if, run_code=run_code)
            except ConfigError as error:
                if what_if.asks:
                    raise
                raise DataError(
                    f"{line.prompt.source}: the credit of completion {line.index} of "
                    f"{line.prompt.id}: {str(error).splitlines()[0]}"
                ) from error
        return self._found[key]


def _resolved(stored: dict[str, Any], what_if: WhatIf, *, run_code: bool) -> CreditRule:
    changes = what_if.changes
    # A rule without such a setting is not meant; for a named rule, resolve refuses it.
    trained = stored["rule"]
    meant = trained if all(name in stored for name in changes) else "dgpo"
    rule = what_if.rule or meant
    if is_spec(trained) and rule != trained:  # its code may not be here
        stored = {name: stored[name] for name in ("sign", "refresh") if name in stored}
    if any(stored.get(name) != value for name, value in changes.items()):
        stored.pop("target_ess_over", None)  # the rest of the batch is not here
    if "tau" in changes:
        stored.pop("target_ess", None)  # a given tau is not searched
    flags: dict[str, tuple[str, Any]] = {"credit.rule": ("--rule", rule)} if what_if.asks else {}
    if rule == "top-entropy" != trained:
        flags["credit.share_over"] = ("--rule", "completion")  # the rest of the batch is not here
    for name, value in changes.items():
        flags[f"credit.{name}"] = (f"--{name.replace('_', '-')}", value)
    written = [f"credit.{k}={_toml(v)}" for k, v in stored.items() if v is not None]
    found = resolve(overrides=written, flags=flags, run_code=run_code)
    if what_if.overrides:
        found = layered(found, *set_layers(what_if.overrides))
    return found.settings.credit


def _toml(value: Any) -> str:
    return value if isinstance(value, str) else shown(value)


def inspected(
    found: Statistics, *, rules: Rules, texts: Sequence[str], hexes: Sequence[str]
) -> InspectedCompletion:
    """Apply the rule to a completion's statistics.

    Raises:
        DataError: the rule needs distances, and training measured none; or continuations, and
            these weights are not those that trained.
    """
    line = found.line
    rule, trained = rules.shown(found), rules.trained(line)
    if found.stored and rule.needs_reference and not trained.needs_reference:
        _check_distances(found, rule=rule, trained=trained)
    kept = found.stored and rule.needs_values and rule == trained
    if rule.needs_values and not kept and found.values is None:
        raise DataError(
            f"{line.prompt.source}: the rule {rule.name} weighs by what continuations are worth, "
            "and it has none for these settings; give --value K to sample some, or another --rule"
        )
    if kept or (found.stored and is_spec(rule.rule) and not rules.what_if.asks):
        credit = _stored_credit(line)  # its code may have changed since
    else:
        credit = _credit(found, _with_tau_that_trained(rule, found, trained=trained))
    scores, weights = credit.scores[0].tolist(), credit.weights[0].tolist()
    if found.stored and line.stats and rule == trained and _is_of_more_than_is_stored(rule):
        scores, weights = list(line.stats.scores), list(line.stats.weights)
    columns = (found.logprobs, found.entropy, found.hellinger_sq, scores, weights, hexes)
    foreign = [not own for own in line.completion.written]
    rows = zip(line.completion.token_ids, texts, *columns, foreign, strict=True)
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
        effective_fraction=_effective_fraction(weights, length=line.completion.length),
        tau=_found_tau(credit),
        tokens=tuple(InspectedToken(*row) for row in rows),
        stored=stored,
        noise_floor=line.stats.noise_floor if found.stored and line.stats else None,
        prefix=line.prompt.prefix,
        terms=() if line.verdict is None else line.verdict.terms,
        note=None if line.verdict is None else line.verdict.note,
        values=found.values,
    )


def _is_of_more_than_is_stored(rule: CreditRule) -> bool:
    """Whether a line's statistics may not suffice for its weights.

    Those of surprisal are of the policy that an update begins with; the log-probabilities of a
    line are those of the weights that sampled it.
    """
    return rule.whole_batch or isinstance(rule, SurprisalCredit)


def tau_of(rule: CreditRule) -> float | None:
    """Return the tau that a rule sets; None if it has none or searches it."""
    return rule.tau if isinstance(rule, DgpoCredit) and rule.target_ess is None else None


def _found_tau(credit: Credit) -> float | None:
    """Return the tau of the only row; None if there is none, or it makes no difference."""
    tau = math.nan if credit.tau is None else float(credit.tau[0])
    return None if math.isnan(tau) else tau


def _with_tau_that_trained(
    rule: CreditRule, found: Statistics, *, trained: CreditRule
) -> CreditRule:
    """If training searched tau, use what it found, which may be that of a whole batch."""
    stats = found.line.stats
    if not isinstance(rule, DgpoCredit) or rule.target_ess is None or rule != trained:
        return rule
    if not found.stored or stats is None or stats.tau is None:
        return rule
    return rule.model_copy(update={"tau": stats.tau, "target_ess": None})


def _check_distances(found: Statistics, *, rule: CreditRule, trained: CreditRule) -> None:
    if not any(found.hellinger_sq):
        raise DataError(
            f"{found.line.prompt.source}: trained with the rule {trained.rule}, which measures no "
            f"distance from the reference; to show the rule {rule.rule} give --model and "
            "--reference (or --adapter)"
        )


def _stored_credit(line: RolloutLine) -> Credit:
    """Return the scores and weights that trained, [1, T]."""
    import torch

    assert line.stats is not None
    scores, weights = (torch.tensor(each)[None] for each in (line.stats.scores, line.stats.weights))
    return Credit(scores, weights)


def _credit(found: Statistics, rule: CreditRule) -> Credit:
    """Return the scores and weights of the tokens, [1, T]."""
    import torch

    columns = (found.logprobs, found.entropy, found.hellinger_sq)
    logprobs, entropy, distance = (torch.tensor(column)[None] for column in columns)
    noise = found.line.stats.noise_floor if found.line.stats else None
    moves = None if found.values is None else torch.tensor(found.values.moves())[None]
    stats = TokenStats(logprobs, entropy, distance, noise_floor=noise, value_moves=moves)
    mask = torch.tensor(found.line.completion.written)[None]
    advantages = torch.tensor([found.advantage])
    return rule.credit_for(stats, mask, advantages, vocab_size=found.vocab_size)


def _effective_fraction(weights: Sequence[float], *, length: int) -> float:
    """Return (sum w)^2 / (T sum w^2), T = `length`; 1 without tokens."""
    squares = length * math.fsum(weight * weight for weight in weights)
    return math.fsum(weights) ** 2 / squares if squares else 1.0


def _stored(line: RolloutLine, *, rule: CreditRule) -> StoredCredit:
    assert line.stats is not None
    return StoredCredit(
        rule=rule.rule,
        parameters=parameters_of(rule),
        tau=line.stats.tau if line.stats.tau is not None else tau_of(rule),
        effective_fraction=_effective_fraction(line.stats.weights, length=line.completion.length),
        weights=line.stats.weights,
    )


def parameters_of(rule: CreditRule) -> Mapping[str, Any]:
    """Return every setting of a rule but its name."""
    return rule.model_dump(mode="json", exclude={"rule"})
