"""A plan for a terminal and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.text import Text

from dgpo_cli.core.numbers import duration, percent, short, size
from dgpo_cli.core.text import elide, pad, plain, visible
from dgpo_cli.planning.budget import Change, Plan
from dgpo_cli.ui.jsonable import jsonable
from dgpo_cli.ui.page import Page, page_for, stack, title_line
from dgpo_cli.ui.ramp import Depth, depth_of, shallower

_NAME = 17
_NUMBER = 11


def render(plan: Plan, *, color: Depth = "truecolor") -> RenderableType:
    """Memory by part against the device, time by phase, disk, and what would make it fit."""
    return _Report(plan, color)


def to_json(plan: Plan) -> dict[str, Any]:
    """The documented data of `dgpo plan --json`; bytes, seconds and numbers a second."""
    data = asdict(plan)
    data |= {
        "version": 1,
        "fits": plan.fits,
        "runs": plan.fits and not plan.not_built,
        "peak_bytes": plan.memory.peak,
        "peak_phase": plan.memory.peak_phase,
        "step_seconds": plan.step_seconds or None,
        "after_peak_bytes": plan.after.peak if plan.after else None,
    }
    found: dict[str, Any] = jsonable(data)
    return found


@dataclass(frozen=True, slots=True)
class _Report:
    plan: Plan
    color: Depth

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        page = page_for(options, depth=shallower(self.color, depth_of(console)))
        yield stack(self._lines(page))

    def _lines(self, page: Page) -> Iterator[Text]:
        plan = self.plan
        name = visible(plan.model, glyphs=page.glyphs)
        yield title_line(page, f"{name}, {_machine(plan)}")
        yield page.rule()
        parts = f"{short(plan.parameters)} parameters, {short(plan.trained)} trained"
        yield from page.paragraph(parts)
        yield from _wrapped(page, visible(plan.origin, glyphs=page.glyphs), style="dim")
        yield plain("")
        yield from _memory(plan, page=page)
        if plan.changes or plan.after is not None:
            yield plain("")
            yield from _changes(plan, page=page)
        if plan.times:
            yield plain("")
            yield from _times(plan, page=page)
        yield plain("")
        yield plain("Disk", style=page.style("bold"))
        for part in plan.disk:
            yield _row(part.name, size(part.bytes), part.note, page=page)
        yield plain("")
        for note in plan.notes:
            yield from page.paragraph(f"{note}.", style="dim")


def _machine(plan: Plan) -> str:
    return plan.device.name if plan.devices == 1 else f"{plan.devices} x {plan.device.name}"


def _row(name: str, value: str, note: str, *, page: Page, style: str = "") -> Text:
    line = plain("").append(pad(f"  {name}", _NAME + 2), page.style("dim"))
    line.append(value.rjust(_NUMBER), page.style(style))
    room = page.width - line.cell_len - 3
    if note and room >= min(cell_len(note), 12):
        line.append("   " + elide(note, room, glyphs=page.glyphs), page.style("dim"))
    return line


def _wrapped(page: Page, text: str, *, style: str) -> Iterator[Text]:
    """A line that may hold a path of the user's: cut, not wrapped."""
    yield plain(elide(text, page.width, glyphs=page.glyphs), style=page.style(style))


def _memory(plan: Plan, *, page: Page) -> Iterator[Text]:
    memory = plan.memory
    each = "" if plan.devices == 1 else ", on each device"
    yield plain(f"Memory{each}", style=page.style("bold"))
    for when, title in (
        ("always", ""),
        ("sampling", "while sampling"),
        ("training", "in training"),
    ):
        parts = [part for part in memory.parts if part.when == when]
        if parts and title:
            yield plain(f"  {title}", style=page.style("dim"))
        for part in parts:
            name = part.name if when == "always" else f"  {part.name}"
            yield _row(name, size(part.bytes), part.note, page=page)
    yield _row("peak", size(memory.peak), f"in {memory.peak_phase}", page=page, style="bold")
    room = "free now" if plan.device.free is not None else "in all"
    yield _row("the device has", size(plan.device.room), f"{room}; {plan.device.source}", page=page)
    glyph = page.glyphs.passed if plan.fits else page.glyphs.failed
    left = plan.device.room - memory.peak
    if left >= 0:
        words = f"{glyph} fits, {size(left)} to spare" if plan.fits else f"{glyph} cannot run"
    elif plan.device.free is not None and memory.peak <= plan.device.memory:
        words = f"{glyph} does not fit now: {size(-left)} more than is free"
    else:
        words = f"{glyph} does not fit: {size(-left)} too much"
    yield from page.paragraph(words, style="bold")
    for problem in plan.problems:
        yield from page.paragraph(problem)
    for setting in plan.not_built:
        words = f"{page.glyphs.failed} this version cannot run it: {setting} is not built yet"
        yield from page.paragraph(words, style="bold")


def _changes(plan: Plan, *, page: Page) -> Iterator[Text]:
    yield plain("To make it fit, the least harm first", style=page.style("bold"))
    if not plan.changes:
        yield from page.paragraph("No change of settings was found.")
    for change in plan.changes:
        yield from _change(change, page=page)
    if plan.after is not None and plan.changes:
        verdict = "fits" if plan.fits_after else "still does not fit"
        yield _row("then the peak is", size(plan.after.peak), verdict, page=page, style="bold")


def _change(change: Change, *, page: Page) -> Iterator[Text]:
    saved = f"saves {size(change.saves)}" if change.saves > 0 else "lets the sampler work"
    for number, (key, value) in enumerate(change.settings.items()):
        text = f"{value}".lower() if isinstance(value, bool) else f"{value}"
        line = plain(f"  --set {key}={text}")
        if number == 0 and line.cell_len + 3 + len(saved) <= page.width:
            line.append(f"   {saved}", page.style("bold"))
            saved = ""
        yield line
    words = f"{saved}: {change.cost}" if saved else change.cost
    for line in Page(page.width - 4, page.glyphs, page.styled).paragraph(words, "dim"):
        yield plain("    ").append(line)


def _times(plan: Plan, *, page: Page) -> Iterator[Text]:
    yield plain("Time of a step, estimated", style=page.style("bold"))
    total = plan.step_seconds
    for phase in plan.times:
        share = percent(phase.seconds / total, digits=0)
        yield _row(phase.name, duration(phase.seconds), f"{share:>4}  {phase.limit}", page=page)
    yield _row(
        "step",
        duration(total),
        f"{plan.steps:,} steps: {duration(total * plan.steps)}",
        page=page,
        style="bold",
    )
    hour = 3600 / total
    yield _row("samples an hour", short(plan.step_samples * hour), "", page=page)
    yield _row("tokens an hour", short(plan.step_tokens * hour), "sampled", page=page)
