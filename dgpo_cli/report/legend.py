"""The legend under the coloured tokens: what the steps of the scale stand for, in numbers."""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text

from dgpo_cli.report.flow import level_glyph
from dgpo_cli.report.page import Page
from dgpo_cli.report.ramp import Ramp
from dgpo_cli.report.scale import Scale
from dgpo_cli.report.text import pad, plain


def ends(scale: Scale) -> tuple[str, str]:
    """The scale's end points; a sign where weights lie beyond the lower one."""
    low, high = (scale.number(end, short=True) for end in (1.0 / scale.factor, scale.factor))
    return (f"<= {low}" if scale.clips_low else low), high


def legend(scale: Scale, *, page: Page, ramp: Ramp | None, merged: bool) -> Iterator[Text]:
    """The bar (or the glyphs), the range of this completion, and what the marks mean."""
    if scale.is_uniform:
        return
    yield from _bar(scale, page=page, ramp=ramp) if ramp else _glyphs(scale, page=page)
    notes = [f"weights {scale.number(scale.low)} to {scale.number(scale.high)}, log scale"]
    if ramp and ramp.bold_is_safe:
        notes += ["bold: above 1", "underlined: in the table"]
    elif ramp:
        notes += ["underlined: above 1 or in the table"]
    if merged:
        notes += ["characters made of several tokens: the sum of their weights"]
    yield from page.paragraph(" · ".join(notes).replace("·", page.glyphs.separator), style="dim")


def _bar(scale: Scale, *, page: Page, ramp: Ramp) -> Iterator[Text]:
    low, high = ends(scale)
    line = plain("")
    line.append("weight  " if page.width >= 60 else "", style=page.style("dim"))
    line.append(low + " ")
    start = line.cell_len
    room = (page.width - start - len(high) - 4) // 2  # of an arm
    stride = -(-scale.steps // max(1, room))  # where there is no room, only every so many steps
    steps = range(stride, scale.steps + 1, stride)
    cells = max(1, min(room, 14) // len(steps))
    for level in reversed(steps):
        line.append(" " * cells, style=ramp.style(-level))
    line.append(" 1 ", style=ramp.style(0))
    for level in steps:
        line.append(" " * cells, style=ramp.style(level))
    yield line.append(" " + high)
    arm = cells * len(steps)
    if arm >= 10:
        words = pad("below GRPO", arm + 3) + pad("above GRPO", arm, right=True)
        yield plain(" " * start + words, style=page.style("dim"))


def _glyphs(scale: Scale, *, page: Page) -> Iterator[Text]:
    def entry(level: int, sign: str) -> str:
        glyph = level_glyph(level, glyphs=page.glyphs)
        return f"{glyph} {sign} {scale.number(scale.start_of(level))}"

    low, high = ends(scale)
    yield from page.paragraph(f"weight {low} to {high}; no mark: about 1, GRPO's")
    yield plain("   ".join(entry(level, "<=") for level in range(-scale.steps, 0)))
    yield plain("   ".join(entry(level, ">=") for level in range(1, scale.steps + 1)))
