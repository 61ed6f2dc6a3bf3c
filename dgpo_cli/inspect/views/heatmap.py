"""The credit of one completion as coloured tokens, for a terminal."""

from __future__ import annotations

from dgpo_cli.core.types import InspectedCompletion, Inspection
from dgpo_cli.inspect.views.body import Body
from dgpo_cli.inspect.views.header import header
from dgpo_cli.inspect.views.legend import legend
from dgpo_cli.inspect.views.measure import What, measure_of, pieces
from dgpo_cli.inspect.views.ranking import Ranking, ranked_by
from dgpo_cli.inspect.views.strip import Strip
from dgpo_cli.ui.page import Page, View
from dgpo_cli.ui.ramp import Depth, levels
from dgpo_cli.ui.scale import Scale

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
) -> View:
    """The credit of one completion, to be printed by a rich console.

    width: cells a line at most. top: rows of the table of the most weighted tokens.
    color: the most colour to use; the console that prints may allow less (NO_COLOR, a pipe).
    what: the number of each token that is coloured, and that orders the table.
    fit: whether the scale of the weights fits the completion; otherwise it is 1/2 to 2.
    whole: show all of the text; otherwise what does not fit a screen is cut to the passages
    around the table's tokens.
    Symbols follow that console's encoding. Model text is shown, never obeyed.
    """
    tokens, shown = completion.tokens, pieces(completion.tokens)

    def draw(page: Page) -> None:
        steps = levels(page.depth)
        weights = Scale.of([token.weight for token in tokens], steps=steps)
        measure = measure_of(completion, what=what, steps=steps, fit=fit)
        ramp = measure.ramp(page.depth)
        peaks = ranked_by(measure, tokens, top=max(top, PEAKS))
        positions = peaks[: max(0, top)]
        merged = any(piece.stop - piece.start > 1 for piece in shown)
        header(page, completion, inspection=inspection, scale=weights)
        page.blank()
        Strip(measure, page, ramp).draw(positions)
        page.blank()
        Body(shown, measure, positions, peaks, page, ramp, whole).draw()
        page.blank()
        legend(page, measure, ramp=ramp, merged=merged)
        page.blank()
        table = Ranking(tokens, shown, measure, weights, inspection.vocab_size, page, ramp)
        table.draw(positions)

    return View(draw, color, width)
