"""Terms of a reward that teach nothing, and a length that counts for more than the answer."""

from __future__ import annotations

from dgpo_cli.core.numbers import short, whole_percent
from dgpo_cli.core.types import Diagnosis
from dgpo_cli.diagnosis.facts import Facts, TermFacts
from dgpo_cli.diagnosis.history import History

_GUARDS = ("length", "repetition")  # these are 0 while nothing is wrong
_MOST = 0.5


def term_constant(history: History, facts: Facts) -> Diagnosis | None:
    """A term has had one value in every step since the start."""
    term = next((t for t in _teaching(facts) if _never_varied(history, t.name)), None)
    if term is None:
        return None
    value = history.known(f"reward/{term.name}_mean")
    always = f" and is {short(value[-1])}" if value else ""
    return Diagnosis(
        key="term_constant",
        step=history.step,
        headline=f"A term of the reward never varies: {term.name}",
        evidence=f"reward/{term.name}_std was 0 in every step so far{always}: all completions get "
        "the same from it",
        advice=f"--set reward.terms.{term.name}=: leaves it out; or mend it: dgpo check --config "
        "tries it on stored rollouts",
    )


def term_idle(history: History, facts: Facts) -> Diagnosis | None:
    """A term varies, but less than another in every group."""
    if not facts.terms_summed or not history.has_window:
        return None
    for term in _teaching(facts):
        decides, spreads = f"reward/{term.name}_decides", history.known(f"reward/{term.name}_std")
        if len(spreads) < history.width or min(spreads) <= 0:
            continue
        if history.share(decides) != 0:  # nor if it is unknown
            continue
        return Diagnosis(
            key="term_idle",
            step=history.step,
            headline=f"A term of the reward decides nothing: {term.name}",
            evidence=f"in no group of {history.span} did its values times "
            f"reward.terms.{term.name}.weight={term.weight:g} vary as much as those of another",
            advice=f"--set reward.terms.{term.name}.weight={10 * term.weight:g}: counts it ten "
            "times; or --set advantage.normalize=each, which counts terms by their weights alone",
        )
    return None


def length_outweighs(history: History, facts: Facts) -> Diagnosis | None:
    """In most groups the length decides, more often than what says what is correct."""
    judges = [t for t in facts.terms if t.judges]
    if not judges or not facts.terms_summed or not history.has_window:
        return None
    right = sum(history.share(f"reward/{t.name}_decides") for t in judges)
    for term in facts.terms:
        name = f"reward/{term.name}_decides"
        share = history.share(name)
        if term.kind != "length" or not share > right or history.likely(name).low <= _MOST:
            continue
        return Diagnosis(
            key="length_outweighs",
            step=history.step,
            headline="The length of a completion counts for more than its answer",
            evidence=f"in {history.span} {term.name} decides {whole_percent(share)} of the groups, "
            f"and what says what is correct {whole_percent(right)}",
            advice=f"--set reward.terms.{term.name}.weight={term.weight / 10:g}: a tenth of it",
        )
    return None


def _teaching(facts: Facts) -> list[TermFacts]:
    """Return the terms that are there to teach something, if there are several terms."""
    if len(facts.terms) < 2:
        return []
    return [t for t in facts.terms if t.weight and not t.checks and t.kind not in _GUARDS]


def _never_varied(history: History, name: str) -> bool:
    metric = f"reward/{name}_std"
    spreads = [*history.known(metric), *history.first(metric)]
    return history.has_window and len(history.known(metric)) == history.width and not any(spreads)
