"""The head of the credit view: what was asked, how it ended, and how uneven the credit is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from rich.text import Text

from dgpo_cli.report.page import Page, title_line
from dgpo_cli.report.scale import Scale
from dgpo_cli.report.text import Glyphs, plain, visible
from dgpo_cli.types import InspectedCompletion, Inspection

TOLERANCE = 1e-4  # relative; float32 weights of 20,000 tokens sum to better than this


def header(
    completion: InspectedCompletion, *, inspection: Inspection, scale: Scale, page: Page
) -> Iterator[Text]:
    """The lines above the coloured tokens."""
    name = visible(completion.prompt_id, glyphs=page.glyphs)
    yield title_line(page, f"{name}, completion {completion.index}")
    yield from question(completion, inspection=inspection, page=page)
    yield from page.fields(
        ("outcome", outcome(completion, glyphs=page.glyphs)),
        ("finish", completion.finish_reason),
        ("tokens", f"{len(completion.tokens):,}"),
        ("reward", f"{completion.reward:g}"),
        ("advantage", f"{completion.advantage:+.4g}"),
    )
    yield plain("")
    yield from _credit(completion, scale=scale, page=page)
    yield plain("")
    yield from page.paragraph(in_words(completion, scale=scale), style="bold")


def question(
    completion: InspectedCompletion, *, inspection: Inspection, page: Page
) -> Iterator[Text]:
    """What was asked, and what measured the credit."""

    def shown(text: str) -> str:
        return visible(text, glyphs=page.glyphs)

    yield page.rule()
    yield page.field("prompt", shown(completion.prompt))
    yield page.field("answer", shown(completion.answer))
    yield page.field("model", shown(inspection.model))
    yield page.field("reference", shown(inspection.reference))
    yield page.field("credit rule", rule_name(inspection, glyphs=page.glyphs))


def outcome(completion: InspectedCompletion, *, glyphs: Glyphs) -> str:
    """The outcome and a mark for right or not."""
    mark = glyphs.passed if completion.outcome == "correct" else glyphs.failed
    return f"{mark} {completion.outcome}"


def rule_name(inspection: Inspection, *, glyphs: Glyphs) -> str:
    """The credit rule with the parameters that it has."""
    parts = [visible(inspection.rule, glyphs=glyphs)]
    if inspection.tau is not None:
        parts.append(f"tau {inspection.tau:g}")
    if inspection.kappa is not None:
        parts.append(f"kappa {inspection.kappa:g}")
    return ", ".join(parts)


def _credit(completion: InspectedCompletion, *, scale: Scale, page: Page) -> Iterator[Text]:
    """How uneven the credit is, and its two invariants computed from the weights shown."""
    weights = [token.weight for token in completion.tokens]
    if not weights:
        return
    mean = math.fsum(weights) / len(weights)
    total = math.fsum(weight * completion.advantage for weight in weights)
    expected = len(weights) * completion.advantage

    def checked(value: str, holds: bool, otherwise: str) -> str:
        mark = page.glyphs.passed if holds else page.glyphs.failed
        return f"{mark} {value}" if holds else f"{mark} {value}, not {otherwise}"

    held = (f"{100 * share_of_top(weights, share):.3g}" for share in (0.01, 0.05, 0.1))
    yield from page.fact("effective token fraction", fraction(completion.effective_fraction))
    yield from page.fact("largest weight", f"{scale.number(scale.high)} (GRPO: 1)")
    yield from page.fact("held by top 1 / 5 / 10 %", f"{' / '.join(held)} % of the weight")
    yield from page.fact("mean weight", checked(f"{mean:.6f}", _close(mean, 1.0), "1"))
    sum_label = f"sum of advantages = T{page.glyphs.times}A"
    total_is_right = _close(total, expected)
    yield from page.fact(sum_label, checked(f"{total:.4f}", total_is_right, f"{expected:.4f}"))


def _close(total: float, expected: float) -> bool:
    return math.isclose(total, expected, rel_tol=TOLERANCE, abs_tol=1e-9)


def fraction(value: float) -> str:
    """An effective fraction with enough digits that only 1 itself reads as 1."""
    digits = 5
    while digits < 12 and value < 1.0 and float(f"{value:.{digits}f}") == 1.0:
        digits += 1
    return f"{value:.{digits}f}"


def share_of_top(weights: Sequence[float], share: float) -> float:
    """The share of all weight that the most weighted `share` of tokens holds, at least one."""
    count = max(1, math.ceil(share * len(weights)))
    return math.fsum(sorted(weights, reverse=True)[:count]) / math.fsum(weights)


def in_words(completion: InspectedCompletion, *, scale: Scale) -> str:
    """One plain sentence on how far this credit is from GRPO's."""
    weights = [token.weight for token in completion.tokens]
    if not weights:
        return "This completion has no tokens."
    if scale.is_uniform:
        return "Every token has weight 1: credit is exactly GRPO's here."
    if scale.is_nearly_uniform:
        return (
            "Weights are nearly uniform: effective fraction "
            f"{fraction(completion.effective_fraction)}; credit is close to GRPO's here."
        )
    held = share_of_top(weights, 0.1)
    return f"The top 10 % of tokens hold {100 * held:.0f} % of the credit (GRPO: 10 %)."
