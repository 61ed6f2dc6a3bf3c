"""The head of the credit view: the prompt, the outcome, and how far the credit is from GRPO's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from dgpo_cli.algo.credit import CreditRule
from dgpo_cli.algo.credit.target import is_noise
from dgpo_cli.config.changes import change_text
from dgpo_cli.core.numbers import (
    UNKNOWN,
    counted,
    fraction,
    percent,
    scientific,
    short,
    signed,
    whole_percent,
)
from dgpo_cli.core.own_code import is_spec
from dgpo_cli.core.refusal import shown
from dgpo_cli.core.text import UNICODE, Glyphs, visible
from dgpo_cli.core.types import InspectedCompletion, Inspection
from dgpo_cli.inspect.views.measure import added
from dgpo_cli.inspect.views.value_curve import values_field, words
from dgpo_cli.ui.page import Page
from dgpo_cli.ui.scale import Scale

NEARLY_HELD = 0.105  # share of the top 10%: below, credit reads as GRPO's
SHARPER = "--target-ess 0.9 shows what a smaller tau would give; credit.target_ess trains with it."
TOLERANCE = 1e-4  # relative; float32 weights of 20,000 tokens sum to better than this


def header(
    page: Page, completion: InspectedCompletion, *, inspection: Inspection, scale: Scale
) -> None:
    """Write the lines above the coloured tokens."""
    page.title(f"{page.shown(completion.prompt_id)}, completion {completion.index}")
    question(page, completion, tau=completion.tau, inspection=inspection)
    page.fields(
        ("outcome", outcome(completion, glyphs=page.glyphs)),
        ("finish", completion.finish_reason),
        ("tokens", f"{len(completion.own):,}"),
        ("reward", short(completion.reward)),
        ("advantage", signed(completion.advantage)),
        *_turns(completion),
    )
    reward_fields(page, completion)
    page.blank()
    _credit(page, completion, scale=scale)
    page.blank()
    words(page, completion)
    page.paragraph(in_words(completion, scale=scale), "bold")
    if (note := sign_note(completion, inspection=inspection)) is not None:
        page.paragraph(note, "dim")
    elif can_be_sharper(completion, inspection=inspection, scale=scale):
        page.paragraph(SHARPER, "dim")


def reward_fields(page: Page, completion: InspectedCompletion) -> None:
    """Write the terms of the reward and its note, if there are any."""
    if completion.terms:
        page.field("terms", term_values(completion))
    if completion.note:
        page.field("note", completion.note)


def term_values(completion: InspectedCompletion) -> str:
    """Return the terms of the reward with their values; NaN: it does not apply, or failed."""
    return ", ".join(
        f"{name} {'none' if math.isnan(value) else short(value)}"
        for name, value in completion.terms
    )


def _turns(completion: InspectedCompletion) -> list[tuple[str, str]]:
    """Return the fields of a completion of several turns."""
    marks = [token.environment for token in completion.tokens]
    if not any(marks):
        return []
    turns = 1 + sum(now and not before for before, now in pairwise(marks))
    return [("turns", str(turns)), ("env. tokens", f"{sum(marks):,}")]


def question(
    page: Page, completion: InspectedCompletion, *, tau: float | None, inspection: Inspection
) -> None:
    """Write the prompt and what measured the credit; tau: as for `rule_name`."""
    page.field("prompt", completion.prompt)
    if completion.prefix:
        page.field("prefix", completion.prefix)
    page.field("answer", completion.answer or UNKNOWN)
    page.field("model", inspection.model)
    page.field("reference", inspection.reference)
    page.field("credit rule", rule_name(inspection, tau=tau, glyphs=page.glyphs))
    values_field(page, inspection)
    for change in inspection.changes:
        page.field("changed", change_text(change), "yellow")


def outcome(completion: InspectedCompletion, *, glyphs: Glyphs) -> str:
    """Return the outcome with a mark: correct or not; without one if nothing judged it."""
    if completion.outcome is None:
        return UNKNOWN
    if completion.outcome == "scored":
        return completion.outcome
    mark = glyphs.passed if completion.outcome == "correct" else glyphs.failed
    return f"{mark} {completion.outcome}"


def rule_name(inspection: Inspection, *, tau: float | None, glyphs: Glyphs) -> str:
    """Return the credit rule with its parameters.

    tau: of the completion shown; None if each has its own, or there is none.
    """
    target = inspection.parameters.get("target_ess")
    parts = [visible(inspection.rule, glyphs=glyphs)]
    if inspection.tau is not None:
        parts.append(f"tau {inspection.tau:g}")
    elif tau is not None or target is not None:
        found = "tau" if tau is None else f"tau {short(tau)}"
        asked = "" if target is None else f" for target_ess {target:g}"
        parts.append(found + asked)
    if inspection.kappa is not None:
        parts.append(f"kappa {inspection.kappa:g}")
    parts += own_named(inspection.rule, inspection.parameters, glyphs=glyphs)
    return ", ".join([*parts, *sign_named(inspection.parameters)])


def own_named(rule: str, parameters: Mapping[str, Any], *, glyphs: Glyphs = UNICODE) -> list[str]:
    """Return the settings of a rule without tau, those of a rule of the user's own too; not those
    that all rules have."""
    if rule == "value":
        return [counted(parameters["continuations"], "continuation")]
    if rule == "top-entropy":
        return [f"share {parameters['share']:g} of the {parameters['share_over']}"]
    if rule == "surprisal":
        return [f"{name} {parameters[name]:g}" for name in ("mix", "cap")]
    if not is_spec(rule):
        return []
    own = {name: value for name, value in parameters.items() if name not in CreditRule.model_fields}
    return [visible(f"{name} {shown(value)}", glyphs=glyphs) for name, value in own.items()]


def sign_named(parameters: Mapping[str, Any]) -> list[str]:
    """Return the sign of the advantages that a rule weighs, if it is not both."""
    sign = parameters.get("sign", "both")
    return [] if sign == "both" else [f"{sign} advantages only"]


def sign_note(completion: InspectedCompletion, *, inspection: Inspection) -> str | None:
    """Return why every weight is 1, if the rule leaves completions of this sign alone."""
    sign, advantage = inspection.parameters.get("sign", "both"), completion.advantage
    if not {"positive": advantage < 0, "negative": advantage > 0}.get(sign, False):
        return None
    other = "negative" if advantage < 0 else "positive"
    return f"credit.sign={sign}: the advantage is {other}, so the rule leaves every weight at 1."


def _credit(page: Page, completion: InspectedCompletion, *, scale: Scale) -> None:
    """Write how far the credit is from GRPO's, and two invariants of the weights shown."""
    weights = [token.weight for token in completion.own]
    if not weights:
        return
    mean = math.fsum(weights) / len(weights)
    total = math.fsum(weight * completion.advantage for weight in weights)
    expected = len(weights) * completion.advantage

    def checked(value: str, holds: bool, otherwise: str) -> str:
        mark = page.glyphs.passed if holds else page.glyphs.failed
        return f"{mark} {value}" if holds else f"{mark} {value}, not {otherwise}"

    held = [percent(share_of_top(weights, share)) for share in (0.01, 0.05, 0.1)]
    page.fact("effective token fraction", fraction(completion.effective_fraction), wraps=True)
    page.fact("largest weight", f"{scale.number(scale.high)} (GRPO: 1)", wraps=True)
    page.fact("held by top 1 / 5 / 10%", f"{' / '.join(held)} of the weight", wraps=True)
    if (noise := distance_is_noise(completion)) is not None:
        page.fact("distance d", noise, wraps=True)
    page.fact("mean weight", checked(f"{mean:.6f}", _close(mean, 1.0), "1"), wraps=True)
    if math.isnan(completion.advantage):
        return
    sum_label = f"sum of advantages = T{page.glyphs.times}A"
    total_is_right = _close(total, expected)
    page.fact(sum_label, checked(f"{total:.4f}", total_is_right, f"{expected:.4f}"), wraps=True)


def distance_is_noise(completion: InspectedCompletion) -> str | None:
    """Return a note if the distances are noise, else None."""
    distances = sorted(token.hellinger_sq for token in completion.own)
    if not distances or completion.noise_floor is None:
        return None
    most = distances[math.ceil(0.99 * len(distances)) - 1]
    if not is_noise(most, noise_floor=completion.noise_floor):
        return None
    floor = scientific(completion.noise_floor)
    return f"up to {scientific(most)} (noise: rounding alone makes {floor})"


def _close(total: float, expected: float) -> bool:
    return math.isclose(total, expected, rel_tol=TOLERANCE, abs_tol=1e-9)


def share_of_top(weights: Sequence[float], share: float) -> float:
    """Return the share of all weight, whatever its sign, in the most weighted `share` of tokens.

    The last of these counts in part: equal weights give `share` itself. NaN if there is no weight,
    or a weight is not finite.
    """
    sizes = [abs(weight) for weight in weights]
    total = added(sizes)
    if not (math.isfinite(total) and total > 0.0):
        return math.nan
    count = share * len(weights)
    whole = math.floor(count + 1e-9)
    ordered = sorted(sizes, reverse=True)
    border = max(0.0, count - whole) * ordered[whole] if whole < len(weights) else 0.0
    return (math.fsum(ordered[:whole]) + border) / total


def is_like_grpo(weights: Sequence[float], *, scale: Scale) -> bool:
    """Return whether credit is close to GRPO's: no weight, or too few, are far from 1."""
    return scale.is_nearly_uniform or share_of_top(weights, 0.1) < NEARLY_HELD


def can_be_sharper(
    completion: InspectedCompletion, *, inspection: Inspection, scale: Scale
) -> bool:
    """Return whether the weights are close to GRPO's only because tau is too large."""
    if inspection.rule != "dgpo" or inspection.parameters.get("target_ess") is not None:
        return False
    scores = {token.score for token in completion.own if math.isfinite(token.score)}
    weights = [token.weight for token in completion.own]
    return len(scores) > 1 and is_like_grpo(weights, scale=scale)


def in_words(completion: InspectedCompletion, *, scale: Scale) -> str:
    """Return one sentence on how far this credit is from GRPO's."""
    weights = [token.weight for token in completion.own]
    if not weights:
        return "This completion has no tokens."
    if scale.is_uniform:
        return "Every token has weight 1: credit is exactly GRPO's here."
    if is_like_grpo(weights, scale=scale):
        return (
            "Weights are nearly uniform: effective token fraction "
            f"{fraction(completion.effective_fraction)}; credit is close to GRPO's here."
        )
    held = share_of_top(weights, 0.1)
    return f"The top 10% of tokens hold {whole_percent(held)} of the credit (GRPO: 10%)."
