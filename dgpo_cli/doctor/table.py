"""What `dgpo doctor` found, for a terminal and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.text import Text

from dgpo_cli.core.text import pad, plain, visible
from dgpo_cli.core.types import Finding
from dgpo_cli.ui.page import Page, page_for, stack
from dgpo_cli.ui.ramp import Depth, depth_of, shallower

_STATE = 6
_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def render(findings: Sequence[Finding], *, color: Depth = "truecolor") -> RenderableType:
    """A line for each finding, with its fix below where there is one."""
    return _Report(tuple(findings), color)


def to_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """The documented data of `dgpo doctor --json`."""
    return {
        "version": 1,
        "ok": all(finding.state != "fail" for finding in findings),
        "findings": [asdict(finding) for finding in findings],
    }


@dataclass(frozen=True, slots=True)
class _Report:
    findings: tuple[Finding, ...]
    color: Depth

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        page = page_for(options, depth=shallower(self.color, depth_of(console)))
        yield stack(self._lines(page))

    def _lines(self, page: Page) -> Iterator[Text]:
        names = max(cell_len(finding.name) for finding in self.findings) + 2
        for finding in self.findings:
            yield from _finding(finding, page=page, names=names)
        counts = {s: sum(f.state == s for f in self.findings) for s in _STYLES}
        yield plain("")
        words = ", ".join(f"{number} {state}" for state, number in counts.items())
        yield plain(words, style=page.style("bold"))


def _finding(finding: Finding, *, page: Page, names: int) -> Iterator[Text]:
    head = plain("").append(pad(finding.state, _STATE), page.style(_STYLES[finding.state]))
    head.append(pad(finding.name, names))
    found = visible(finding.found, glyphs=page.glyphs)
    indent = head.cell_len
    if page.width - indent < 30:  # no room beside the names
        yield head
        head, indent = plain(" " * _STATE), _STATE
    inner = Page(page.width - indent, page.glyphs, page.styled)
    for number, line in enumerate(inner.paragraph(found)):
        yield head.append(line) if number == 0 else plain(" " * indent).append(line)
    if finding.fix:
        fix = visible(finding.fix, glyphs=page.glyphs)
        for line in inner.paragraph(f"fix: {fix}", "dim"):
            yield plain(" " * indent).append(line)
