"""The legend under the coloured tokens: the numbers of the scale."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dgpo_cli.core.text import pad
from dgpo_cli.core.types import InspectedToken
from dgpo_cli.inspect.views.linear import Linear
from dgpo_cli.inspect.views.measure import Measure, What
from dgpo_cli.ui.flow import FOREIGN, level_glyph
from dgpo_cli.ui.page import Page
from dgpo_cli.ui.ramp import Ramp
from dgpo_cli.ui.scale import Scale

_MEANINGS: dict[What, str] = {
    "weight": "weights {range}, log scale",
    "hellinger": "d {range}: squared Hellinger distance of policy and reference",
    "entropy": "entropy {range} nats",
    "score": "score {range}: what the credit rule makes of {source}",
    "advantage": "advantage of each token {range}: A {times} w",
    "logprob": "log-probability {range} nats",
    "value": "moves of the value {range}: the expected reward after a token less that before it",
}
_ALL_ZERO: dict[What, str] = {
    "weight": "Every token has weight 1.",
    "hellinger": "d is 0 for every token: policy and reference are the same here.",
    "entropy": "The entropy is 0 for every token.",
    "score": "The score is 0 for every token.",
    "advantage": "The advantage is 0: this completion moves nothing.",
    "logprob": "Every token has probability 1.",
    "value": "The value does not move.",
}


# What a rule makes its scores of.
_SOURCES = {
    "dgpo": "d and h",
    "proportional": "d and h",
    "entropy": "the entropy",
    "top-entropy": "the entropy",
    "surprisal": "log p",
}


def source_of(rule: str) -> str:
    """Return what the scores of a credit rule are made of."""
    return _SOURCES.get(rule, "the token's statistics")


def name_of(what: What) -> str:
    """Return the name of a number in running text."""
    return {"hellinger": "d", "value": "move"}.get(what, what)


def ends(scale: Scale | Linear) -> tuple[str, str]:
    """Return the ends of the scale, with a sign if weights lie beyond them."""
    if isinstance(scale, Linear):
        low = scale.number(-scale.end, short=True) if scale.signed else "0"
        return low, scale.number(scale.end, short=True)
    low, high = (_short(scale, end) for end in (1.0 / scale.factor, scale.factor))
    return (f"<= {low}" if scale.clips_low else low), (f">= {high}" if scale.clips_high else high)


def _short(scale: Scale | Linear, number: float) -> str:
    """Return a number of the scale itself; the fixed scale needs two digits."""
    if isinstance(scale, Scale) and not scale.fit:
        return f"{number:.2f}".rstrip("0").rstrip(".")
    return scale.number(number, short=True)


def legend(
    page: Page,
    measure: Measure,
    *,
    rule: str,
    ramp: Ramp | None,
    merged: bool,
    listed: str = "in the table",
) -> None:
    """Write the bar (or the glyphs), the range of this completion, and the meaning of the marks.

    rule: the credit rule. merged: some characters are made of several tokens. listed: what
    underlined tokens are, if any.
    """
    scale = measure.scale
    if scale.is_uniform:
        if measure.what != "weight":
            unknown = all(map(math.isnan, measure.values))
            said = f"The {name_of(measure.what)} is unknown." if unknown else None
            page.paragraph(said or _ALL_ZERO[measure.what], "dim")
        return
    if ramp:
        _bar(page, measure, ramp=ramp)
    else:
        _glyphs(page, measure)
    found = f"{scale.number(scale.low)} to {scale.number(scale.high)}"
    notes = [
        _MEANINGS[measure.what].format(range=found, times=page.glyphs.times, source=source_of(rule))
    ]
    if isinstance(scale, Scale) and not scale.fit:
        low, high = _short(scale, 1.0 / scale.neutral), _short(scale, scale.neutral)
        notes.append(f"{low} to {high}: no {'colour' if ramp else 'mark'}")
    if isinstance(scale, Scale) and scale.low < 0.0:
        notes.append("below 0: as the lowest")
    if ramp:
        notes += _marks(measure, ramp=ramp, listed=listed)
    if merged:
        numbers = "their weights" if measure.what == "weight" else "their numbers"
        notes += [f"characters made of several tokens: the sum of {numbers}"]
    text = " · ".join(notes).replace("·", page.glyphs.separator)
    page.paragraph(text, "dim")


def environment(page: Page, tokens: Sequence[InspectedToken], *, ramp: Ramp | None) -> None:
    """Say how tokens of an environment look, if there are any."""
    if any(token.environment for token in tokens):
        look = "dim" if ramp else f"{level_glyph(FOREIGN, glyphs=page.glyphs)} below"
        page.paragraph(f"{look}: written by the environment, which has no credit", "dim")


def _marks(measure: Measure, *, ramp: Ramp, listed: str) -> list[str]:
    """Return the meaning of bold and underline."""
    underlined = [listed] if listed else []
    above = "above 1" if measure.what == "weight" else "above 0"
    if measure.diverges and not ramp.bold_is_safe:
        underlined = [above, *underlined]
    bold = [f"bold: {above}"] if measure.diverges and ramp.bold_is_safe else []
    return bold + ([f"underlined: {' or '.join(underlined)}"] if underlined else [])


def _bar(page: Page, measure: Measure, *, ramp: Ramp) -> None:
    scale = measure.scale
    low, high = ends(scale)
    name = f"{name_of(measure.what)}  " if page.width >= 60 else ""
    line = page.add((name, "dim"), low + " ")
    start = line.cell_len
    arms = 2 if measure.diverges else 1
    room = (page.width - start - len(high) - 4) // arms  # of an arm
    stride = -(-scale.steps // max(1, room))  # without room, only every few steps
    steps = range(stride, scale.steps + 1, stride)
    cells = max(1, min(room, 14 if arms == 2 else 28) // len(steps))
    middle = ""
    if measure.diverges:
        middle = " 1 " if measure.what == "weight" else " 0 "
        for level in reversed(steps):
            line.append(" " * cells, style=ramp.style(-level))
        line.append(middle, style=ramp.style(0))
    for level in steps:
        line.append(" " * cells, style=ramp.style(level))
    line.append(" " + high)
    arm = cells * len(steps)
    if measure.what == "weight" and arm >= 10:
        words = pad("below GRPO", arm + 3) + pad("above GRPO", arm, right=True)
        page.add((" " * start + words, "dim"))


def _glyphs(page: Page, measure: Measure) -> None:
    scale = measure.scale
    falls = isinstance(scale, Linear) and scale.end < 0.0

    def entry(level: int) -> str:
        sign = "<=" if (level < 0) != falls else ">="
        glyph = level_glyph(level, glyphs=page.glyphs)
        return f"{glyph} {sign} {_short(scale, scale.start_of(level))}"

    low, high = ends(scale)
    about = "about 1, GRPO's" if measure.what == "weight" else "about 0"
    page.paragraph(f"{name_of(measure.what)} {low} to {high}; no mark: {about}")
    if measure.diverges:
        _entries(page, [entry(level) for level in range(-scale.steps, 0)])
    _entries(page, [entry(level) for level in range(1, scale.steps + 1)])


def _entries(page: Page, entries: list[str]) -> None:
    line = "   ".join(entries)
    for text in [line] if len(line) <= page.width else entries:
        page.add(text)
