"""The outputs of `dgpo inspect`: the view on the terminal, a page, a drawing, a picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgpo_cli.ui import console
from dgpo_cli.ui.output import write, write_png

if TYPE_CHECKING:
    from rich.console import RenderableType

    from dgpo_cli.core.types import InspectedCompletion, Inspection
    from dgpo_cli.inspect.views.measure import What
    from dgpo_cli.ui.ramp import Depth


WIDTH = 100  # cells of a drawing


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectOutput:
    """The outputs for one completion, two, or one token."""

    inspection: Inspection = field(kw_only=False)
    what: What
    fit: bool
    full: bool
    steps: bool
    pair: bool
    top: int

    def show(self) -> None:
        """Print the view; long ones go through the pager."""
        from dgpo_cli.ui import ramp

        width, color = console.picture_width(), ramp.depth_of(console.stdout())
        show = console.page if self.pair or self.steps or self.full else console.show
        for shown in self.inspection.completions[: 1 if self.pair else None]:
            show(self.draw(shown, width=width, color=color))

    def write(self, files: Mapping[str, Path]) -> Iterator[str]:
        """Write files by option; yield a line for each.

        The page has all completions, a drawing the most telling one.
        """
        from dgpo_cli.inspect.page import chosen, inspect_page, most_telling
        from dgpo_cli.ui.svg import export_svg

        completions = self.inspection.completions
        if page := files.get("--html"):
            left_out = chosen(completions).left_out
            write("--html", page, inspect_page(self.inspection).encode("utf-8"))
            are = "completion is" if left_out == 1 else "completions are"
            rest = f" ({left_out} {are} not in it: too many tokens)" if left_out else ""
            yield f"written to {page}{rest}"
        svg, png = files.get("--svg"), files.get("--png")
        if svg is None and png is None:
            return
        shown = completions[most_telling(completions)]
        picture = self.draw(shown, width=WIDTH, color="truecolor")
        drawing = export_svg(picture, title="dgpo inspect", width=WIDTH)
        if svg is not None:
            write("--svg", svg, drawing.encode("utf-8"))
            yield f"written to {svg}"
        if png is not None:
            write_png(png, drawing)
            yield f"written to {png}"

    def draw(self, shown: InspectedCompletion, *, width: int, color: Depth) -> RenderableType:
        """Return the view of a completion, of the pair or of the token."""
        from dgpo_cli.inspect.views import pair_view, token_detail

        if self.inspection.detail is not None:
            return token_detail.render(self.inspection, width=width, color=color)
        if not self.pair:
            return self._completion(shown, width=width, color=color)
        right, wrong = self.inspection.completions
        return pair_view.render(
            right,
            wrong,
            inspection=self.inspection,
            width=width,
            color=color,
            what=self.what,
            fit=self.fit,
            whole=self.full,
        )

    def _completion(
        self, shown: InspectedCompletion, *, width: int, color: Depth
    ) -> RenderableType:
        """Return the view of one completion, and what a what-if changes."""
        from rich.console import Group

        from dgpo_cli.inspect.views import heatmap, step_table, what_if

        looks: Any = {"inspection": self.inspection, "width": width, "color": color}
        if self.steps:
            view = step_table.render(shown, what=self.what, fit=self.fit, **looks)
        else:
            view = heatmap.render(
                shown, what=self.what, fit=self.fit, top=self.top, whole=self.full, **looks
            )
        if shown.stored is None:
            return view
        return Group(view, what_if.render(shown, top=self.top, **looks))
