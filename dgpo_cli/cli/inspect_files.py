"""The files that `dgpo inspect` writes on request: a page, a drawing, a picture."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from dgpo_cli.cli.files import write, write_png
from dgpo_cli.core.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from dgpo_cli.core.types import InspectedCompletion, Inspection
    from dgpo_cli.ui.ramp import Depth

WIDTH = 100  # cells of a drawing


class Draw(Protocol):
    """Draws the view that was asked for, of one completion."""

    def __call__(
        self, shown: InspectedCompletion, *, width: int, color: Depth
    ) -> RenderableType: ...


@dataclass(frozen=True, slots=True)
class Files:
    """Where to write what; None is not asked for. Files that exist are replaced."""

    html: Path | None
    svg: Path | None
    png: Path | None

    @property
    def asked(self) -> dict[str, Path]:
        """The flags that were given."""
        all_of_them = {"--html": self.html, "--svg": self.svg, "--png": self.png}
        return {flag: path for flag, path in all_of_them.items() if path is not None}

    def check(self) -> None:
        """Find out before any work what would make it vain.

        Raises:
            ConfigError: a path that cannot be written, two flags with one path, a missing extra.
        """
        seen: dict[Path, str] = {}
        for flag, path in self.asked.items():
            if path.is_dir():
                raise ConfigError(f"{flag}={path}: is a folder; name a file")
            if not path.absolute().parent.is_dir():
                raise ConfigError(f"{flag}={path}: there is no folder {path.parent}; make it first")
            other = seen.setdefault(path.absolute(), flag)
            if other != flag:
                raise ConfigError(f"{flag}={path}: {other} writes to it too; give another name")
        if self.png is not None and importlib.util.find_spec("resvg_py") is None:
            raise ConfigError("--png needs resvg-py: pip install 'dgpo-cli[png]'")

    def write(
        self,
        inspection: Inspection,
        *,
        draw: Draw,
    ) -> Iterator[str]:
        """Write them; yields a line for each that is written.

        draw: the view of one completion; that of the most telling one is drawn.
        """
        from dgpo_cli.inspect.page import chosen, inspect_page, most_telling

        if self.html is not None:
            left_out = chosen(inspection.completions).left_out
            write("--html", self.html, inspect_page(inspection).encode("utf-8"))
            are = "completion is" if left_out == 1 else "completions are"
            rest = f" ({left_out} {are} not in it: too many tokens)" if left_out else ""
            yield f"written to {self.html}{rest}"
        if self.svg is None and self.png is None:
            return
        from dgpo_cli.ui.svg import export_svg

        shown = inspection.completions[most_telling(inspection.completions)]
        picture = draw(shown, width=WIDTH, color="truecolor")
        drawing = export_svg(picture, title="dgpo inspect", width=WIDTH)
        if self.svg is not None:
            write("--svg", self.svg, drawing.encode("utf-8"))
            yield f"written to {self.svg}"
        if self.png is not None:
            write_png(self.png, drawing)
            yield f"written to {self.png}"
