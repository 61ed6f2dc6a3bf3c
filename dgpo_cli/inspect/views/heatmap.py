"""The credit of one completion as coloured tokens, for a terminal."""

from __future__ import annotations

from dgpo_cli.core.types import InspectedCompletion, Inspection
from dgpo_cli.inspect.values.moves import Along
from dgpo_cli.inspect.views.body import Body
from dgpo_cli.inspect.views.header import header
from dgpo_cli.inspect.views.legend import environment, legend
from dgpo_cli.inspect.views.measure import What, measure_of, pieces
from dgpo_cli.inspect.views.ranking import Ranking, ranked_by
from dgpo_cli.inspect.views.strip import Strip
from dgpo_cli.inspect.views.value_curve import ValueBars
from dgpo_cli.ui.page import Page, View
from dgpo_cli.ui.ramp import Depth, levels
from dgpo_cli.ui.scale import Scale

PEAKS = 8  # tokens whose passages are shown, even if the table has fewer


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
    """Return the view of one completion.

    width, color: limits. top: rows of the table. what: the number of each token that is coloured
    and orders the table. fit: fit the scale of the weights to the completion instead of 1/2 to 2.
    whole: show all text, not only passages around the table's tokens if it exceeds the screen.
    """
    tokens, shown = completion.tokens, pieces(completion.tokens)

    def draw(page: Page) -> None:
        steps = levels(page.depth)
        weights = Scale.of([token.weight for token in completion.own], steps=steps)
        measure = measure_of(completion, what=what, steps=steps, fit=fit)
        ramp = measure.ramp(page.depth)
        peaks = ranked_by(measure, tokens, top=max(top, PEAKS))
        positions = peaks[: max(0, top)]
        merged = any(piece.stop - piece.start > 1 for piece in shown)
        header(page, completion, inspection=inspection, scale=weights)
        page.blank()
        if completion.values is not None:
            ValueBars(completion.values, page).draw()
        Strip(measure, page, ramp).draw(positions)
        page.blank()
        Body(shown, measure, positions, peaks, page, ramp, whole).draw()
        page.blank()
        legend(page, measure, rule=inspection.rule, ramp=ramp, merged=merged)
        environment(page, tokens, ramp=ramp)
        page.blank()
        along = None if completion.values is None else Along.of(completion.values)
        table = Ranking(tokens, shown, measure, weights, inspection, page, ramp, along)
        table.draw(positions)

    return View(draw, color, width)
