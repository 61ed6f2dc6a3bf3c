"""`dgpo inspect --html`: the credit of some completions as one page that needs no network.

Python writes the text of the first completion and all numbers; the script colours, recomputes the
weights for another tau or kappa, and shows the numbers of a token. Without it the page has the
first completion with its colours.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from dgpo_cli.config.changes import change_text
from dgpo_cli.core.numbers import UNKNOWN, counted, fraction, short, signed
from dgpo_cli.core.text import UNICODE, visible, visible_lines
from dgpo_cli.core.types import InspectedCompletion, Inspection, StoredCredit, ValueCurve
from dgpo_cli.inspect.token_html import STEPS, shown_pieces, token_lines, tokens_style
from dgpo_cli.inspect.values.moves import clear_moves, range_of, value_words, values_text
from dgpo_cli.inspect.views.header import (
    distance_is_noise,
    in_words,
    outcome,
    rule_name,
    sign_named,
    sign_note,
    term_values,
)
from dgpo_cli.inspect.views.steps import steps_of
from dgpo_cli.inspect.views.what_if import named
from dgpo_cli.ui.document import asset, compact, document
from dgpo_cli.ui.scale import Scale

MAX_TOKENS = 60_000  # of all completions of a page; each adds about 80 bytes
DIGITS = 12  # of a number in the data; recomputed numbers are right to 1e-9

_SCRIPTS = (
    "parts.js",
    "numbers.js",
    "credit.js",
    "tables.js",
    "curve.js",
    "inspect.js",
    "events.js",
)
_WHATS = {
    "weight": "credit weight w",
    "advantage": "token advantage A·w",
    "score": "score s",
    "hellinger": "distance d",
    "entropy": "entropy H",
    "logprob": "surprise −log p",
}
_VALUE = {"value": "move of the value V"}
_RANGES = {
    "2": "1/2 to 2",
    "5": "1/5 to 5",
    "20": "1/20 to 20",
    "fit": "fits the completion",
}


@dataclass(frozen=True, slots=True)
class Chosen:
    """The completions of a page in order, the place of the first one shown, the number left out."""

    completions: tuple[InspectedCompletion, ...]
    first: int
    left_out: int


def most_telling(completions: Sequence[InspectedCompletion]) -> int:
    """Return the place of the completion with an advantage and the least effective tokens.

    By the credit that trained, if known: a what-if does not change the choice.
    """

    def evenness(at: int) -> float:
        shown = completions[at]
        if shown.advantage == 0.0 or not shown.tokens:
            return 2.0
        return (shown.stored or shown).effective_fraction

    return min(range(len(completions)), key=evenness)


def chosen(completions: Sequence[InspectedCompletion]) -> Chosen:
    """Return the most telling completion, its group, and as many others as a page takes."""
    best = most_telling(completions)
    ours = completions[best].prompt_id
    order = sorted(
        range(len(completions)), key=lambda at: (at != best, completions[at].prompt_id != ours, at)
    )
    kept: list[int] = []
    room = MAX_TOKENS
    for at in order:
        room -= len(completions[at].tokens)
        if kept and room < 0:
            break
        kept.append(at)
    kept.sort()
    return Chosen(
        completions=tuple(completions[at] for at in kept),
        first=kept.index(best),
        left_out=len(completions) - len(kept),
    )


def inspect_page(inspection: Inspection) -> str:
    """Return the page of an inspection; the same inspection gives the same bytes.

    Raises:
        ValueError: the inspection has no completion.
    """
    if not inspection.completions:
        raise ValueError("a page needs at least one completion")
    page = chosen(inspection.completions)
    first = page.completions[page.first]
    return document(
        "inspect.html",
        title=f"{_name(first)}: where the credit went",
        style=tokens_style() + asset("inspect.css"),
        script="".join(map(asset, _SCRIPTS)),
        data=_data(page, inspection=inspection),
        inspection=inspection,
        changes=[change_text(each) for each in inspection.changes],
        choices=_choices(page),
        first=page.first,
        has_terms=any(each.terms for each in page.completions),
        has_notes=any(each.note for each in page.completions),
        count=len(page.completions),
        left_out=page.left_out and counted(page.left_out, "more completion"),
        max_tokens=MAX_TOKENS,
        whats=_WHATS if inspection.values is None else _WHATS | _VALUE,
        values_by=inspection.values and values_text(inspection.values),
        value_range=_value_range(page.completions),
        ranges=_RANGES,
        lines=token_lines(first.tokens, vocab_size=inspection.vocab_size),
        **_facts(first, inspection=inspection),
    )


def _data(page: Chosen, *, inspection: Inspection) -> dict[str, Any]:
    return {
        "rule": inspection.rule,
        "tau": inspection.tau,
        "kappa": inspection.kappa,
        "sign": "".join(f", {text}" for text in sign_named(inspection.parameters)),
        "vocabSize": inspection.vocab_size,
        "first": page.first,
        "completions": [_completion(each, inspection=inspection) for each in page.completions],
    }


def _completion(shown: InspectedCompletion, *, inspection: Inspection) -> dict[str, Any]:
    """Return a completion by columns; texts, one a piece, are already safe to show."""
    tokens = shown.tokens
    parts = list(shown_pieces(tokens))
    return {
        "name": _name(shown),
        "prompt": visible_lines("\n\n".join(filter(None, (shown.prompt, shown.prefix)))),
        "answer": visible(shown.answer) or UNKNOWN,
        "ruleName": rule_name(inspection, tau=shown.tau, glyphs=UNICODE),
        "verdict": outcome(shown, glyphs=UNICODE),
        "look": _look(shown),
        "finish": shown.finish_reason,
        "reward": shown.reward,
        "terms": term_values(shown),
        "note": shown.note or "",
        "advantage": shown.advantage,
        "tau": shown.tau,
        "stored": _stored(shown.stored),
        "signNote": sign_note(shown, inspection=inspection),
        "ids": [token.id for token in tokens],
        "logprob": _numbers(token.logprob for token in tokens),
        "entropy": _numbers(token.entropy for token in tokens),
        "d": _numbers(token.hellinger_sq for token in tokens),
        "s": _numbers(token.score for token in tokens),
        "w": _numbers(token.weight for token in tokens),
        "texts": [text for _, text, _ in parts],
        "starts": [piece.start for piece, _, _ in parts],
        "ends": [at for at, (_, _, ends) in enumerate(parts) if ends],
        "steps": [step.start for step in steps_of(tokens)],
        "env": [at for at, token in enumerate(tokens) if token.environment],
        **({} if shown.values is None else _values(shown, shown.values)),
    }


def _values(shown: InspectedCompletion, curve: ValueCurve) -> dict[str, Any]:
    """Return the points of a curve by columns, and the moves that decided the outcome."""
    turns = [[move.start, move.stop, move.size > 0] for move in clear_moves(curve)]
    points = curve.points
    return {
        "valueWords": value_words(shown),
        "values": {
            "at": [point.at for point in points],
            "value": _numbers(point.value for point in points),
            "low": _numbers(point.low for point in points),
            "high": _numbers(point.high for point in points),
            "range": _numbers(range_of(curve)),
            "turns": turns,
        },
    }


def _value_range(completions: Sequence[InspectedCompletion]) -> str:
    """Return the range of the curves, or that each has its own."""
    found = {range_of(each.values) for each in completions if each.values is not None}
    if len(found) != 1:
        return "each completion's from its lowest to its highest"
    low, high = found.pop()
    return f"from {short(low)} to {short(high)}"


def _stored(stored: StoredCredit | None) -> dict[str, Any] | None:
    """Return the credit that trained, to compare with a what-if."""
    if stored is None:
        return None
    return {
        "name": named(stored.rule, stored.parameters, stored.tau),
        "w": _numbers(stored.weights),
    }


def _numbers(values: Iterable[float]) -> list[float | int]:
    return [compact(value, digits=DIGITS) for value in values]


def _facts(shown: InspectedCompletion, *, inspection: Inspection) -> dict[str, Any]:
    """Return the facts of one completion that the page has without a script."""
    scale = Scale.of([token.weight for token in shown.own], steps=STEPS)
    return {
        "shown": shown,
        "name": _name(shown),
        "look": _look(shown),
        "outcome": outcome(shown, glyphs=UNICODE),
        "reward": short(shown.reward),
        "terms": term_values(shown),
        "advantage": signed(shown.advantage),
        "answer": shown.answer or UNKNOWN,
        "rule": rule_name(inspection, tau=shown.tau, glyphs=UNICODE),
        "words": in_words(shown, scale=scale),
        "value_words": value_words(shown) if shown.values is not None else (),
    }


def _name(shown: InspectedCompletion) -> str:
    return f"{visible(shown.prompt_id)}, completion {shown.index}"


def _look(shown: InspectedCompletion) -> str:
    if shown.outcome in (None, "scored"):
        return ""
    return "good" if shown.outcome == "correct" else "bad"


def _choices(page: Chosen) -> list[tuple[str, list[tuple[int, str]]]]:
    """Return the entries of the chooser, the completions of a prompt under one head."""
    groups: list[tuple[str, list[tuple[int, str]]]] = []
    for at, shown in enumerate(page.completions):
        if not groups or shown.prompt_id != groups[-1][0]:
            groups.append((shown.prompt_id, []))
        text = (
            f"{shown.index}: {outcome(shown, glyphs=UNICODE)}, reward {short(shown.reward)}, "
            f"A {signed(shown.advantage)}, effective {fraction(shown.effective_fraction)}"
            + (", d is noise" if distance_is_noise(shown) else "")
        )
        groups[-1][1].append((at, text))
    return groups
