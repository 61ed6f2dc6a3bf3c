"""The credit of one completion as coloured tokens, for a terminal."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.text import Text

from dgpo_cli.core.types import InspectedCompletion, Inspection
from dgpo_cli.inspect.views.body import Body
from dgpo_cli.inspect.views.header import header
from dgpo_cli.inspect.views.legend import legend
from dgpo_cli.inspect.views.measure import What, measure_of, pieces
from dgpo_cli.inspect.views.ranking import Ranking, ranked_by
from dgpo_cli.inspect.views.scale import Scale
from dgpo_cli.inspect.views.strip import Strip
from dgpo_cli.ui.page import LEAST_WIDTH, page_for, stack
from dgpo_cli.ui.ramp import Depth, depth_of, levels, shallower

PEAKS = 8  # tokens whose passages are shown even where the table has fewer


def render(
    completion: InspectedCompletion,
    *,
    inspection: Inspection,
    width: int,
    top: int,
    color: Depth,
    what: What = "weight",
    fit: bool = False,
    whole: bool = False,
) -> RenderableType:
    """The credit of one completion, to be printed by a rich console.

    width: cells a line at most. top: rows of the table of the most weighted tokens.
    color: the most colour to use; the console that prints may allow less (NO_COLOR, a pipe).
    what: the number of each token that is coloured, and that orders the table.
    fit: whether the scale of the weights fits the completion; otherwise it is 1/2 to 2.
    whole: show all of the text; otherwise what does not fit a screen is cut to the passages
    around the table's tokens.
    Symbols follow that console's encoding. Model text is shown, never obeyed.
    """
    return _Heatmap(completion, inspection, max(width, LEAST_WIDTH), top, color, what, fit, whole)


@dataclass(frozen=True, slots=True)
class _Heatmap:
    completion: InspectedCompletion
    inspection: Inspection
    width: int
    top: int
    color: Depth
    what: What
    fit: bool
    whole: bool

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        depth = shallower(self.color, depth_of(console))
        page = page_for(options, width=self.width, depth=depth)
        tokens = self.completion.tokens
        shown = pieces(tokens)
        weights = Scale.of([token.weight for token in tokens], steps=levels(depth))
        measure = measure_of(self.completion, what=self.what, steps=levels(depth), fit=self.fit)
        ramp = measure.ramp(depth)
        peaks = ranked_by(measure, tokens, top=max(self.top, PEAKS))
        positions = peaks[: max(0, self.top)]
        merged = any(piece.stop - piece.start > 1 for piece in shown)
        table = Ranking(tokens, shown, measure, weights, self.inspection.vocab_size, page, ramp)
        blank = Text("")
        yield stack(header(self.completion, inspection=self.inspection, scale=weights, page=page))
        yield blank
        yield stack(Strip(measure, page, ramp).lines(positions))
        yield blank
        yield Body(shown, measure, positions, peaks, page, ramp, self.whole)
        yield blank
        yield stack(legend(measure, page=page, ramp=ramp, merged=merged))
        yield blank
        yield stack(table.lines(positions))
