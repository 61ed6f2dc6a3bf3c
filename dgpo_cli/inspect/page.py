"""`dgpo inspect --html`: the credit of some completions as one page that needs no network.

Python writes the first completion's text and all numbers; the script colours, recomputes the
weights for another tau or kappa, and shows what stands behind a token. Without it the page still
holds the default completion with its colours.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from string import Template
from typing import Any

from dgpo_cli.config.changes import change_text
from dgpo_cli.core.numbers import UNKNOWN, counted, fraction, short, signed
from dgpo_cli.core.text import UNICODE, escaped, visible
from dgpo_cli.core.types import InspectedCompletion, Inspection, StoredCredit
from dgpo_cli.inspect.palette import STEPS
from dgpo_cli.inspect.token_html import shown_pieces, tokens_html, tokens_style
from dgpo_cli.inspect.views.header import distance_is_noise, in_words, outcome, rule_name
from dgpo_cli.inspect.views.scale import Scale
from dgpo_cli.inspect.views.steps import steps_of
from dgpo_cli.inspect.views.what_if import named
from dgpo_cli.ui.document import asset, document, template, theme_button

MAX_TOKENS = 60_000  # of all completions of a page; each adds about 80 bytes
DIGITS = 12  # of a number in the data; what the page recomputes is right to 1e-9

_SCRIPTS = ("numbers.js", "credit.js", "tables.js", "inspect.js", "events.js")
_WHATS = {
    "weight": "credit weight w",
    "advantage": "token advantage A·w",
    "score": "score s",
    "hellinger": "deviation d",
    "entropy": "entropy H",
    "logprob": "surprise −log p",
}
_RANGES = {
    "2": "1/2 to 2",
    "5": "1/5 to 5",
    "20": "1/20 to 20",
    "fit": "fits the completion",
}


@dataclass(frozen=True, slots=True)
class Chosen:
    """What goes on a page: completions in their order, which is shown first, how many are not."""

    completions: tuple[InspectedCompletion, ...]
    first: int
    left_out: int


def most_telling(completions: Sequence[InspectedCompletion]) -> int:
    """The place of the completion whose credit is the least even and that moves the policy.

    It is the credit that trained, where that is known: every what-if shows the same completion.
    """

    def evenness(at: int) -> float:
        shown = completions[at]
        if shown.advantage == 0.0 or not shown.tokens:
            return 2.0
        return (shown.stored or shown).effective_fraction

    return min(range(len(completions)), key=evenness)


def chosen(completions: Sequence[InspectedCompletion]) -> Chosen:
    """The most telling completion, its group, and as many others as a page can hold."""
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
    """The page of an inspection; the same inspection gives the same bytes.

    Raises:
        ValueError: the inspection holds no completion.
    """
    if not inspection.completions:
        raise ValueError("a page needs at least one completion")
    page = chosen(inspection.completions)
    first = page.completions[page.first]
    return document(
        title=f"{_name(first)}: where the credit went",
        body=_body(page, inspection=inspection),
        style=tokens_style() + asset("inspect.css"),
        script="".join(asset(name) for name in _SCRIPTS),
        data=_data(page, inspection=inspection),
    )


def _data(page: Chosen, *, inspection: Inspection) -> dict[str, Any]:
    return {
        "rule": inspection.rule,
        "tau": inspection.tau,
        "kappa": inspection.kappa,
        "vocabSize": inspection.vocab_size,
        "first": page.first,
        "completions": [_completion(each, inspection=inspection) for each in page.completions],
    }


def _completion(shown: InspectedCompletion, *, inspection: Inspection) -> dict[str, Any]:
    """A completion by columns; texts are already safe to show, one for each piece of text."""
    tokens = shown.tokens
    parts = list(shown_pieces(tokens))
    return {
        "name": _name(shown),
        "prompt": _lines(shown.prompt),
        "answer": visible(shown.answer) or UNKNOWN,
        "ruleName": rule_name(inspection, tau=shown.tau, glyphs=UNICODE),
        "verdict": outcome(shown, glyphs=UNICODE),
        "look": _look(shown),
        "finish": shown.finish_reason,
        "reward": shown.reward,
        "advantage": shown.advantage,
        "tau": shown.tau,
        "stored": _stored(shown.stored),
        "ids": [token.id for token in tokens],
        "logprob": [_number(token.logprob) for token in tokens],
        "entropy": [_number(token.entropy) for token in tokens],
        "d": [_number(token.hellinger_sq) for token in tokens],
        "s": [_number(token.score) for token in tokens],
        "w": [_number(token.weight) for token in tokens],
        "texts": [text for _, text, _ in parts],
        "starts": [piece.start for piece, _, _ in parts],
        "ends": [at for at, (_, _, ends) in enumerate(parts) if ends],
        "steps": [step.start for step in steps_of(tokens)],
    }


def _stored(stored: StoredCredit | None) -> dict[str, Any] | None:
    """The credit that trained, beside a what-if."""
    if stored is None:
        return None
    return {
        "name": named(stored.rule, stored.parameters, stored.tau),
        "w": [_number(weight) for weight in stored.weights],
    }


def _number(value: float) -> float | int:
    """The same number in fewer characters."""
    if not math.isfinite(value):
        return value
    rounded = float(f"{value:.{DIGITS}g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 else rounded


def _lines(text: str) -> str:
    return "\n".join(visible(line) for line in text.split("\n"))


def _body(page: Chosen, *, inspection: Inspection) -> str:
    first = page.completions[page.first]
    slots = {
        "theme": theme_button(),
        "options": _choices(page),
        "several": " data-script" if len(page.completions) > 1 else "",
        "left_out": _left_out(page),
        "model": escaped(inspection.model),
        "reference": escaped(inspection.reference),
        "rule": escaped(rule_name(inspection, tau=first.tau, glyphs=UNICODE)),
        "changed": "".join(
            f'<dt>changed</dt><dd class="warn">{escaped(change_text(each))}</dd>'
            for each in inspection.changes
        ),
        "whats": _select_options(_WHATS),
        "ranges": _select_options(_RANGES),
        "text": tokens_html(first, inspection=inspection),
    }
    return Template(template("inspect.html")).substitute(slots | _facts(first))


def _facts(shown: InspectedCompletion) -> dict[str, str]:
    """What the page says of one completion before a script runs."""
    scale = Scale.of([token.weight for token in shown.tokens], steps=STEPS)
    return {
        "name": escaped(_name(shown)),
        "mark": f'<span class="{_look(shown)}">{escaped(outcome(shown, glyphs=UNICODE))}</span>',
        "reward": short(shown.reward),
        "advantage": signed(shown.advantage),
        "tokens": f"{len(shown.tokens):,}",
        "finish": escaped(shown.finish_reason),
        "prompt": html.escape(_lines(shown.prompt), quote=True),
        "answer": escaped(shown.answer or UNKNOWN),
        "words": escaped(in_words(shown, scale=scale)),
    }


def _name(shown: InspectedCompletion) -> str:
    return f"{visible(shown.prompt_id)}, completion {shown.index}"


def _look(shown: InspectedCompletion) -> str:
    if shown.outcome is None:
        return ""
    return "good" if shown.outcome == "correct" else "bad"


def _left_out(page: Chosen) -> str:
    if not page.left_out:
        return ""
    return (
        f'<p class="note">{counted(page.left_out, "more completion")} not on this page, which '
        f"holds at most {MAX_TOKENS:,} tokens.</p>"
    )


def _choices(page: Chosen) -> str:
    """The chooser's entries, the completions of a prompt under one head."""
    parts: list[str] = []
    prompt: str | None = None
    for at, shown in enumerate(page.completions):
        if shown.prompt_id != prompt:
            parts.append("</optgroup>" if prompt is not None else "")
            parts.append(f'<optgroup label="{escaped(shown.prompt_id)}">')
            prompt = shown.prompt_id
        picked = " selected" if at == page.first else ""
        text = (
            f"{shown.index}: {outcome(shown, glyphs=UNICODE)}, reward {short(shown.reward)}, "
            f"A {signed(shown.advantage)}, effective {fraction(shown.effective_fraction)}"
            + (", d is noise" if distance_is_noise(shown) else "")
        )
        parts.append(f'<option value="{at}"{picked}>{escaped(text)}</option>')
    return "".join([*parts, "</optgroup>"])


def _select_options(names: dict[str, str]) -> str:
    return "".join(
        f'<option value="{value}">{escaped(name)}</option>' for value, name in names.items()
    )
