"""Draws docs/heatmap.svg, the picture of the README: `python docs/make_heatmap.py RUN [OPTIONS]`.

RUN is a run folder; the options are those of `dgpo inspect` that choose and weigh the completion.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from dgpo_cli.core.events import NOBODY
from dgpo_cli.inspect import inspect
from dgpo_cli.inspect.request import Models, Origin, Selection, WhatIf
from dgpo_cli.inspect.views.heatmap import render
from dgpo_cli.ui.svg import export_svg

WIDTH = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--group", type=int)
    parser.add_argument("--sample", type=int)
    parser.add_argument("--tau", type=float)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("heatmap.svg"))
    args = parser.parse_args()
    inspection = inspect.run(
        Origin(source=args.run),
        models=Models(),
        choice=Selection(group=args.group, sample=args.sample, one=True),
        what_if=WhatIf(tau=args.tau),
        at=None,
        observer=NOBODY,
    )
    picture = render(
        inspection.completions[0], inspection=inspection, width=WIDTH, top=8, color="truecolor"
    )
    args.out.write_text(export_svg(picture, title="dgpo inspect", width=WIDTH), encoding="utf-8")


if __name__ == "__main__":
    main()
