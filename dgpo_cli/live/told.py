"""The parts of the panel that are words: diagnoses, and the last completions.

A completion is the model's own text: it is shown, on one line each, and nothing of it is obeyed.
"""

from __future__ import annotations

from rich.cells import cell_len
from rich.text import Text

from dgpo_cli.core.text import elide, plain, split_cells_end, visible
from dgpo_cli.core.types import Diagnosis, Shown
from dgpo_cli.live.state import PanelState
from dgpo_cli.live.words import label_width, row
from dgpo_cli.ui import outcomes
from dgpo_cli.ui.page import Page

_ADVICE = 3  # lines at most
_MOST = 300  # characters of a text that are looked at: more never fits a line


def diagnoses(state: PanelState, page: Page) -> list[Text]:
    """The first diagnosis with the first thing to change, and how many more there are."""
    if not state.diagnoses:
        return []
    first, *more = state.diagnoses
    head = visible(first.headline, glyphs=page.glyphs)
    if more:
        head += f" (and {len(more)} more)"
    mark = "! "
    lines = [
        plain(
            mark + elide(head, page.width - 2, glyphs=page.glyphs), style=page.style("bold yellow")
        )
    ]
    return [*lines, *(plain(f"  {line}") for line in _advice(first, page))]


def _advice(diagnosis: Diagnosis, page: Page) -> list[str]:
    """What to change first, in at most so many lines that it stays a remark."""
    room = max(8, page.width - 2)
    lines = [""]
    for word in visible(diagnosis.advice, glyphs=page.glyphs).split():
        longer = f"{lines[-1]} {word}".lstrip()
        if cell_len(longer) <= room or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    last = " ".join(lines[_ADVICE - 1 :])
    return [elide(line, room, glyphs=page.glyphs) for line in [*lines[: _ADVICE - 1], last] if line]


def completions(state: PanelState, page: Page) -> list[Text]:
    """The last completions: outcome, reward, the prompt, and the end of the text."""
    shown = state.glimpse.shown if state.glimpse else ()
    labels = ["last", *[""] * len(shown)]
    return [_completion(each, label, page) for each, label in zip(shown, labels, strict=False)]


def _completion(shown: Shown, label: str, page: Page) -> Text:
    mark = outcomes.glyph(shown.outcome, glyphs=page.glyphs)
    head = plain("").append(mark, outcomes.style(shown.outcome, depth=page.depth))
    head.append(f" {shown.reward:5.2f}  ")
    room = page.width - label_width(page) - head.cell_len
    prompt = elide(_start(shown.prompt, page), max(8, room // 3), glyphs=page.glyphs)
    head.append(prompt, page.style("dim"))
    room -= plain(prompt).cell_len + 2
    if room >= 6:
        head.append("  ").append(_end(shown.text, room, page))
    return row(page, label, head)


def _start(text: str, page: Page) -> str:
    return visible(text.strip()[:_MOST], glyphs=page.glyphs)


def _end(text: str, room: int, page: Page) -> str:
    """The end of a text, where its answer stands; an ellipsis says that the start is missing."""
    stripped = text.strip()
    whole = visible(stripped[-_MOST:], glyphs=page.glyphs)
    cut, _ = split_cells_end(whole, room)
    if not cut and len(stripped) <= _MOST:
        return whole
    mark = page.glyphs.ellipsis
    return mark + split_cells_end(whole, room - len(mark))[1]
