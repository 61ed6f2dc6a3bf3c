"""A plan for a terminal and as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rich.cells import cell_len

from dgpo_cli.core.codec import Format, filled
from dgpo_cli.core.numbers import duration, short, size, whole_percent
from dgpo_cli.planning.budget import Phase, Plan, SettingsChange
from dgpo_cli.planning.scaling import WORTH
from dgpo_cli.ui.page import Page, View
from dgpo_cli.ui.ramp import Depth

_NAME = 19
_NUMBER = 12


def render(plan: Plan, *, color: Depth = "truecolor") -> View:
    """Return the view of a plan: memory by part, changes that make it fit, time by phase, disk."""
    return View(lambda page: _PlanTable(page, plan).draw(), color)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanJson(Plan):
    """A plan, in bytes, seconds and operations per second.

    step_seconds: null if unknown.
    """

    fits: bool = field()
    peak_bytes: int
    peak_phase: Phase
    step_seconds: float | None = field()  # type: ignore[assignment]
    after_peak_bytes: int | None


PLAN = Format(PlanJson, name="plan", what="dgpo plan --json", stamp="version")


def to_json(plan: Plan) -> dict[str, Any]:
    """Return the document that `dgpo plan --json` prints."""
    document = filled(
        PlanJson,
        plan,
        peak_bytes=plan.memory.peak,
        peak_phase=plan.memory.peak_phase,
        step_seconds=plan.step_seconds or None,
        after_peak_bytes=plan.after.peak if plan.after else None,
    )
    data = PLAN.to_json(document)
    extra = ("version", *(name for name in data if name not in Plan.__dataclass_fields__))
    return data | {name: data.pop(name) for name in dict.fromkeys(extra)}


@dataclass(frozen=True, slots=True)
class _PlanTable:
    page: Page
    plan: Plan

    def draw(self) -> None:
        page, plan = self.page, self.plan
        device = plan.device.name if plan.devices == 1 else f"{plan.devices} x {plan.device.name}"
        page.title(f"{page.shown(plan.model)}, {device}")
        active = f", {short(plan.active)} active" if plan.active < plan.parameters else ""
        weights = f"{short(plan.parameters)} parameters{active}"
        page.paragraph(f"{weights}, {short(plan.trained)} trained")
        page.add((page.fit(page.shown(plan.origin)), "dim"))  # a path, cut and not wrapped
        page.blank()
        self._memory()
        if plan.changes or plan.after is not None:
            page.blank()
            self._changes()
        if plan.times:
            page.blank()
            self._times()
        if plan.exchanges:
            page.blank()
            self._exchanges()
        if plan.choices:
            page.blank()
            self._choices()
        if plan.host and plan.devices > 1:
            page.blank()
            self._host()
        page.blank()
        page.heading("Disk")
        for part in plan.disk:
            self._row(part.name, size(part.bytes), part.note)
        page.blank()
        for note in plan.notes:
            page.paragraph(f"{note}.", "dim")

    def _row(self, name: str, value: str, note: str = "", style: str = "") -> None:
        page = self.page
        line = page.row((f"  {name}", _NAME, "dim"), (value, -_NUMBER, style))
        room = page.width - line.cell_len - 3
        if note and room >= min(cell_len(note), 12):
            line.append("   " + page.fit(note, room), page.style("dim"))

    def _memory(self) -> None:
        page, plan = self.page, self.plan
        memory, device = plan.memory, plan.device
        page.heading("Memory" if plan.devices == 1 else "Memory, on each device")
        for when, title in (
            ("always", ""),
            ("sampling", "while sampling"),
            ("training", "in training"),
        ):
            parts = [part for part in memory.parts if part.when == when]
            if parts and title:
                page.add((f"  {title}", "dim"))
            for part in parts:
                name = part.name if when == "always" else f"  {part.name}"
                self._row(name, size(part.bytes), part.note)
        self._row("peak", size(memory.peak), f"in {memory.peak_phase}", "bold")
        room = "free now" if device.free is not None else "in total"
        self._row("the device has", size(device.room), f"{room}; {device.source}")
        left = device.room - memory.peak
        if left >= 0:
            words = f"fits, {size(left)} to spare" if plan.fits else "cannot run"
        elif device.free is not None and memory.peak <= device.memory:
            words = f"does not fit now: {size(-left)} more than free"
        else:
            words = f"does not fit: {size(-left)} too much"
        page.paragraph(f"{page.glyphs.passed if plan.fits else page.glyphs.failed} {words}", "bold")
        for problem in plan.problems:
            page.paragraph(problem)

    def _changes(self) -> None:
        page, plan = self.page, self.plan
        page.heading("To make it fit, least harmful first")
        if not plan.changes:
            page.paragraph("No change of settings makes it fit.")
        for change in plan.changes:
            self._change(change)
        if plan.after is not None and plan.changes:
            verdict = "fits" if plan.fits_after else "still does not fit"
            self._row("then the peak is", size(plan.after.peak), verdict, "bold")

    def _change(self, change: SettingsChange) -> None:
        page = self.page
        saved = f"saves {size(change.saves)}" if change.saves > 0 else "makes the sampler work"
        for number, (key, value) in enumerate(change.settings.items()):
            text = f"{value}".lower() if isinstance(value, bool) else f"{value}"
            line = page.add(f"  --set {key}={text}")
            if number == 0 and line.cell_len + 3 + len(saved) <= page.width:
                line.append(f"   {saved}", page.style("bold"))
                saved = ""
        page.paragraph(f"{saved}: {change.cost}" if saved else change.cost, "dim", indent=4)

    def _times(self) -> None:
        page, plan = self.page, self.plan
        page.heading("Time of a step, estimated")
        total = plan.step_seconds
        for phase in plan.times:
            share = whole_percent(phase.seconds / total)
            self._row(phase.name, duration(phase.seconds), f"{share:>4}  {phase.limit}")
        steps = f"{plan.steps:,} steps: {duration(total * plan.steps)}"
        self._row("step", duration(total), steps, "bold")
        hour = 3600 / total
        self._row("samples an hour", short(plan.step_samples * hour))
        self._row("tokens an hour", short(plan.step_tokens * hour), "sampled")

    def _exchanges(self) -> None:
        page, plan = self.page, self.plan
        page.heading("Communication of a step, sent by each device")
        for each in plan.exchanges:
            with_whom = f"{each.ranks} devices"
            self._row(each.name, size(each.bytes), f"{each.collective}, {with_whom}")
        for network in plan.networks:
            many = len(plan.networks) > 1
            rate = f"at {network.gigabits} Gb/s" if many else "in a machine"
            seen = "hidden behind the passes"
            if network.exposed >= 0.005 * plan.step_seconds:
                seen = f"{duration(network.exposed)} of it not hidden"
            note = f"a device; {seen}" if many else seen
            self._row(rate, duration(network.seconds), note, "bold")

    def _choices(self) -> None:
        page, plan = self.page, self.plan
        page.heading("Numbers of devices")
        names = ("devices", "kind", "memory", "step", "GPU-hours", "efficiency")
        self._columns(names, "dim")
        for choice in plan.choices:
            shared = f", {choice.sequence} a row" if choice.sequence > 1 else ""
            numbers: tuple[str, ...] = ()
            if choice.fits:
                hours = choice.gpu_hours
                numbers = (
                    duration(choice.step_seconds),
                    f"{hours:.3g}" if hours < 100 else short(round(hours)),
                    whole_percent(choice.efficiency),
                )
            memory = size(choice.peak_bytes) if choice.fits else "too much"
            cells = (f"{choice.gpus:,}", choice.kind + shared, memory, *numbers)
            self._columns(cells, "bold" if choice.best else "")
        best = next((choice for choice in plan.choices if choice.best), None)
        if best is None:
            page.paragraph("The run fits none of them.")
        else:
            page.paragraph(
                f"Best use: {best.gpus:,}, the most at {whole_percent(WORTH)} of the best "
                "efficiency or more."
            )

    def _columns(self, cells: tuple[str, ...], style: str) -> None:
        widths = (-9, 22, -9, -12, -11, -11)
        pairs = zip(cells, widths, strict=False)
        fields = [(f"  {cell}" if width > 0 else cell, width, style) for cell, width in pairs]
        while sum(abs(width) for _, width, _ in fields) > self.page.width:
            fields.pop()  # the last is the least important
        self.page.row(*fields)

    def _host(self) -> None:
        plan = self.plan
        self.page.heading("Memory of each machine, beside its devices")
        for part in plan.host:
            self._row(part.name, size(part.bytes), part.note)
        self._row("in all", size(sum(part.bytes for part in plan.host)), "", "bold")
