"""The credit of one completion as coloured tokens, for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import Segment
from rich.text import Text

from dgpo_cli.report.flow import coloured, marked, runs_of, wrap
from dgpo_cli.report.header import header
from dgpo_cli.report.legend import legend
from dgpo_cli.report.page import LEAST_WIDTH, Page, page_for, stack
from dgpo_cli.report.ramp import RAMPS, Depth, depth_of, levels, shallower
from dgpo_cli.report.ranking import Ranking, ranked
from dgpo_cli.report.scale import Scale
from dgpo_cli.report.text import Piece, pieces
from dgpo_cli.types import InspectedCompletion, Inspection


def render(
    completion: InspectedCompletion,
    *,
    inspection: Inspection,
    width: int,
    top: int,
    color: Depth,
) -> RenderableType:
    """The credit of one completion, to be printed by a rich console.

    width: cells a line at most. top: rows of the table of the most weighted tokens.
    color: the most colour to use; the console that prints may allow less (NO_COLOR, a pipe).
    Symbols follow that console's encoding. Model text is shown, never obeyed.
    """
    return _Heatmap(completion, inspection, max(width, LEAST_WIDTH), top, color)


@dataclass(frozen=True, slots=True)
class _Tokens:
    """The completion's running text."""

    pieces: tuple[Piece, ...]
    listed: frozenset[int]
    scale: Scale
    page: Page
    depth: Depth

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        margin = 2 if self.page.width >= 60 else 1
        ramp = None if self.scale.is_uniform else RAMPS.get(self.depth)
        width = self.page.width - 2 * margin if ramp else self.page.width
        lines = wrap(
            runs_of(
                self.pieces,
                levels=[self.scale.level(piece.weight) for piece in self.pieces],
                listed=[
                    not self.listed.isdisjoint(range(piece.start, piece.stop))
                    for piece in self.pieces
                ],
                glyphs=self.page.glyphs,
            ),
            width=width,
        )
        if ramp is None:
            return marked(lines, glyphs=self.page.glyphs)
        return self._on_card(coloured(lines, width=self.page.width, ramp=ramp, margin=margin))

    def _on_card(self, lines: Iterator[Segment]) -> Iterator[Segment]:
        edge = Segment(" " * self.page.width, RAMPS[self.depth].card.style())
        yield from (edge, Segment.line())
        yield from lines
        yield from (edge, Segment.line())


@dataclass(frozen=True, slots=True)
class _Heatmap:
    completion: InspectedCompletion
    inspection: Inspection
    width: int
    top: int
    color: Depth

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        depth = shallower(self.color, depth_of(console))
        page = page_for(options, width=self.width, depth=depth)
        tokens = self.completion.tokens
        shown = pieces(tokens)
        scale = Scale.of([token.weight for token in tokens], steps=levels(depth))
        ramp = RAMPS.get(depth)
        positions = ranked(tokens, top=self.top)
        listed = frozenset() if scale.is_uniform else frozenset(positions)
        merged = any(piece.stop - piece.start > 1 for piece in shown)
        blank = Text("")
        yield stack(header(self.completion, inspection=self.inspection, scale=scale, page=page))
        yield blank
        yield _Tokens(shown, listed, scale, page, depth)
        yield blank
        yield stack(legend(scale, page=page, ramp=ramp, merged=merged))
        yield blank
        yield stack(Ranking(tokens, shown, scale, page, ramp).lines(positions))
