"""The findings of `dgpo doctor`, for a terminal and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from rich.cells import cell_len

from dgpo_cli.core.codec import Format
from dgpo_cli.core.types import Finding
from dgpo_cli.ui.page import Page, View
from dgpo_cli.ui.ramp import Depth

_STATE = 6
_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def render(findings: Sequence[Finding], *, color: Depth = "truecolor") -> View:
    """A line for each finding, with its fix below where there is one."""
    return View(partial(_draw, findings=findings), color)


@dataclass(frozen=True, slots=True)
class DoctorJson:
    """The findings. ok: none of them fails."""

    ok: bool
    findings: tuple[Finding, ...]


DOCTOR = Format(DoctorJson, name="doctor", what="dgpo doctor --json", stamp="version")


def to_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """The documented data of `dgpo doctor --json`."""
    ok = all(finding.state != "fail" for finding in findings)
    return DOCTOR.dump(DoctorJson(ok, tuple(findings)))


def _draw(page: Page, *, findings: Sequence[Finding]) -> None:
    names = max(cell_len(finding.name) for finding in findings) + 2
    for finding in findings:
        head = page.cells((finding.state, _STATE, _STYLES[finding.state]), (finding.name, names))
        if page.width - head.cell_len < 30:  # no room next to the names
            page.add(head)
            head = page.text(" " * _STATE)
        indent = head.cell_len
        page.paragraph(page.shown(finding.found), indent=indent, head=head)
        if finding.fix:
            page.paragraph(f"fix: {page.shown(finding.fix)}", "dim", indent=indent)
    counts = {state: sum(f.state == state for f in findings) for state in _STYLES}
    page.blank()
    page.add((", ".join(f"{number} {state}" for state, number in counts.items()), "bold"))
