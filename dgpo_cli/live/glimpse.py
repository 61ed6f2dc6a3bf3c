"""A few completions of a step: which ones are shown, and their rows in the panel.

A completion is the model's own text: it is shown on one line, and nothing in it is obeyed.
"""

from __future__ import annotations

from rich.text import Text

from dgpo_cli.core.events import Credited, Sampled
from dgpo_cli.core.text import elide, plain, split_cells_end, visible
from dgpo_cli.core.types import OUTCOMES, Glimpse, Shown
from dgpo_cli.live.state import PanelState
from dgpo_cli.live.words import label_width, row
from dgpo_cli.ui import outcomes
from dgpo_cli.ui.page import Page
from dgpo_cli.ui.ramp import RAMPS, levels
from dgpo_cli.ui.scale import FACTOR, NEUTRAL, Scale

MOST = 12  # completions
_MOST_TEXT = 300  # characters of a text that are read: more never fits a line
_MOST_TOKENS = 200


def glimpse(event: Sampled | Credited, *, turn: int = 0) -> Glimpse:
    """Return what is shown of the groups of a step, with credit where the event knows it.

    The first completion of each outcome, then others of all groups; each `turn` shows the next.
    """
    every = [(group, at) for group in event.groups for at in range(len(group.completions))]
    first = {group.verdicts[at].outcome: i for i, (group, at) in reversed([*enumerate(every)])}
    order = [first[outcome] for outcome in OUTCOMES if outcome in first]
    # Then the last completion of each group, the one before it, and so on.
    behind = {i: len(group.completions) - at for i, (group, at) in enumerate(every)}
    rest = sorted(behind, key=lambda i: (behind[i], -i))
    order += [i for i in rest if i not in order]
    skipped = turn * MOST % max(1, len(order))
    chosen = [*order[skipped:], *order[:skipped]][:MOST]
    shown = []
    for i in chosen:
        group, at = every[i]
        shown.append(
            Shown(
                group.prompt.text,
                group.completions[at].text,
                group.verdicts[at].outcome,
                group.verdicts[at].reward,
                event.tokens(i, _MOST_TOKENS) if isinstance(event, Credited) else (),
            )
        )
    return Glimpse(event.step, len(every), len(event.groups), tuple(shown))


def completions(state: PanelState, page: Page) -> list[Text]:
    """Outcome, reward, prompt, and the end of the text, coloured by the credit of its tokens."""
    shown = state.glimpse.shown if state.glimpse else ()
    labels = ["last", *[""] * len(shown)]
    return [_completion(each, label, page) for each, label in zip(shown, labels, strict=False)]


def _completion(shown: Shown, label: str, page: Page) -> Text:
    mark = outcomes.glyph(shown.outcome, glyphs=page.glyphs)
    head = plain("").append(mark, outcomes.style(shown.outcome, depth=page.depth))
    head.append(f" {shown.reward:5.2f}  ")
    room = page.width - label_width(page) - head.cell_len
    start = visible(shown.prompt.strip()[:_MOST_TEXT], glyphs=page.glyphs)
    prompt = elide(start, max(8, room // 3), glyphs=page.glyphs)
    head.append(prompt, page.style("dim"))
    room -= plain(prompt).cell_len + 2
    if room >= 6:
        text = _credited(shown, page) if shown.credit else _written(shown.text, page)
        head.append("  ").append_text(_end(text, room, page))
    return row(page, label, head)


def _written(text: str, page: Page) -> Text:
    return plain(visible(text.strip()[-_MOST_TEXT:], glyphs=page.glyphs))


def _credited(shown: Shown, page: Page) -> Text:
    """The last tokens on the fixed scale of `dgpo inspect`."""
    line = plain("")
    ramp = RAMPS.get(page.depth)
    scale = Scale(FACTOR, NEUTRAL, levels(page.depth), 0.0, FACTOR, FACTOR, fit=False)
    for text, weight in shown.credit:
        style = ramp.style(scale.level(weight)) if ramp else ""
        line.append(visible(text, glyphs=page.glyphs), style)
    line.rstrip()
    return line


def _end(line: Text, room: int, page: Page) -> Text:
    """The end of a line, where the answer stands; an ellipsis says that the start is missing."""
    if line.cell_len <= room:
        return line
    mark = page.glyphs.ellipsis
    kept = split_cells_end(line.plain, room - len(mark))[1]
    return plain(mark).append_text(line[len(line.plain) - len(kept) :])
