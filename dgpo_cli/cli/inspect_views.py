"""The view that was asked of `dgpo inspect`: on the terminal, and for a drawing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dgpo_cli.ui import console

if TYPE_CHECKING:
    from rich.console import RenderableType

    from dgpo_cli.core.types import InspectedCompletion, Inspection
    from dgpo_cli.inspect.views.measure import What
    from dgpo_cli.ui.ramp import Depth


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What was asked for of one completion, of two, or of one token."""

    inspection: Inspection = field(kw_only=False)
    what: What
    fit: bool
    full: bool
    steps: bool
    pair: bool
    top: int

    def show(self) -> None:
        """Draw it on stdout; what may be long goes through the pager."""
        from dgpo_cli.ui import ramp

        width, color = console.picture_width(), ramp.depth_of(console.stdout())
        show = console.page if self.pair or self.steps or self.full else console.show
        for shown in self.inspection.completions[: 1 if self.pair else None]:
            show(self.draw(shown, width=width, color=color))

    def draw(self, shown: InspectedCompletion, *, width: int, color: Depth) -> RenderableType:
        """The view of a completion; of the pair or the token where that was asked for."""
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
        """One completion, and what a what-if changes of it."""
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
