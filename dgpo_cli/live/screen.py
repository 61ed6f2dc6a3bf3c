"""A block of lines at the foot of a terminal that is drawn over itself, with text going by above.

The terminal's own screen is used and not the alternate one, so what went by stays in the
scrollback and the last block stays where it was. The cursor rests below the block and is never
hidden: a process that is killed leaves a terminal as it should be. One write a frame, only the
lines that changed, inside a synchronised update (ignored where a terminal has none): no flicker.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from rich.ansi import AnsiDecoder
from rich.segment import ControlType, Segment
from rich.text import Text

from dgpo_cli.core.events import failed
from dgpo_cli.core.text import plain
from dgpo_cli.live.signals import Signals
from dgpo_cli.ui import console

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

_BEGIN = "\x1b[?2026h\x1b[?7l"  # synchronised; nothing wraps, should a width be misjudged
_END = "\x1b[?7h\x1b[?2026l"
_CLEAR_LINE, _CLEAR_BELOW = "\x1b[K", "\x1b[J"
INTERVAL_S = 0.25  # between two frames


class Screen:
    """Draws on one console. All of it is to be called from one thread."""

    def __init__(self, on: Console) -> None:
        self._console = on
        self._shown: list[Text] = []
        self._columns = 0

    def show(
        self, lines: Sequence[Text], *, above: Sequence[Text] = (), anew: bool = False
    ) -> None:
        """Draw the block, and `above` it what is to stay.

        anew: something else may have written since: draw every line, from where the cursor is.
        """
        columns = self._console.width
        if anew:
            self._shown = []
        same = columns == self._columns and not above
        shown = self._shown
        if same and 0 < len(shown) == len(lines) and all(map(_equal, shown, lines)):
            return
        back = self._rows(columns)
        old = self._shown if same else []
        frame = _Frame(list(lines), old=old, back=back, above=list(above))
        self._shown, self._columns = list(lines), columns
        console.draw(frame, on=self._console)

    def in_front(self) -> bool:
        """Whether this process may write: it is not in the background of a shell."""
        try:
            return os.tcgetpgrp(self._console.file.fileno()) == os.getpgrp()
        except (OSError, ValueError):  # not our controlling terminal: nobody takes it from us
            return True

    def _rows(self, columns: int) -> int:
        """How many rows the block takes now: a terminal made narrower has wrapped its lines."""
        if columns >= self._columns:
            return len(self._shown)
        return sum(max(1, -(-line.cell_len // columns)) for line in self._shown)


class Live:
    """Draws a block on stderr some times a second, in a thread of its own, from start to stop.

    What anyone prints meanwhile goes by above it. signals: those that came.
    """

    def __init__(
        self,
        name: str,
        lines: Callable[[bool], Sequence[Text]],
        *,
        before: Callable[[], None] = lambda: None,
        resumed: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Args:
            name: of the block, for the note if `lines` fails; nothing is drawn from then on.
            lines: lays the block out; its argument is whether it is the last time.
            before: called before a frame, in the thread that draws.
            resumed: called after Ctrl-Z and fg.
        """
        self.console = console.stderr()
        self.signals = Signals()
        self.ended = threading.Event()
        self._name, self._layout, self._before, self._resumed = name, lines, before, resumed
        self._screen = Screen(self.console)
        self._above: deque[Text] = deque()
        self._broken = False
        self._thread = threading.Thread(target=self._draw_on, name=name, daemon=True)
        self._stack = ExitStack()

    def start(self) -> None:
        decode = AnsiDecoder().decode_line
        self._stack.enter_context(console.captured(lambda line: self.say(_harmless(decode(line)))))
        self._stack.enter_context(self.signals)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; others print on the terminal again. The block stays."""
        self.ended.set()
        self._thread.join()
        self._stack.close()

    def say(self, text: Text) -> None:
        """Print a line above the block, with the next frame."""
        self._above.append(text)

    def frame(self, *, last: bool = False) -> None:
        """Draw now."""
        lines = self._lines(last=last)
        above = [self._above.popleft() for _ in range(len(self._above))]
        anew = self.signals.continued()
        with suppress(OSError):  # the terminal has gone: the work goes on without it
            # After Ctrl-Z and fg the shell has written below the block.
            self._screen.show(lines, above=above, anew=anew)
            if anew and not last:
                self._resumed()

    def _draw_on(self) -> None:
        while not self.ended.wait(INTERVAL_S):
            self.signals.look()  # in the background too: a signal ends a pause
            if self._screen.in_front():
                self._before()
                self.frame()

    def _lines(self, *, last: bool) -> Sequence[Text]:
        """Lay the block out. If that fails, the work and its notes continue without it."""
        if self._broken:
            return ()
        try:
            return self._layout(last)
        except Exception as error:
            self._broken = True
            self.say(console.noted(failed(self._name, error)))
            return ()


def _harmless(text: Text) -> Text:
    """Foreign output keeps its colours; whatever else a terminal would obey is shown."""
    shown = plain(text.plain)
    return text if shown.plain == text.plain else shown


class _Frame:
    """What takes the terminal from the old block to the new one."""

    def __init__(self, lines: list[Text], *, old: list[Text], back: int, above: list[Text]) -> None:
        self._lines, self._old, self._back, self._above = lines, old, back, above

    def __rich_console__(self, on: Console, options: ConsoleOptions) -> RenderResult:
        # Lines are cleared one by one: tmux would put what is cleared at once into its scrollback.
        yield _control(_BEGIN + "\r" + (f"\x1b[{self._back}A" if self._back else ""))
        for text in self._above:  # these wrap as any line does
            yield _control("\x1b[?7h")
            yield from _drawn(text, on, wrapped=options.max_width)
            yield _control("\x1b[?7l")
        for at, line in enumerate(self._lines):
            if at >= len(self._old) or not _equal(self._old[at], line):
                yield from _drawn(line, on)
                yield _control(_CLEAR_LINE)
            yield _control("\r\n")
        yield _control(_CLEAR_BELOW + _END)


def _drawn(text: Text, on: Console, *, wrapped: int | None = None) -> Iterator[Segment]:
    lines = text.wrap(on, wrapped) if wrapped else [text]
    for line in lines:
        line.end = ""
        yield from line.render(on)
        if wrapped:
            yield _control(_CLEAR_LINE + "\r\n")


def _equal(old: Text, new: Text) -> bool:
    """Whether two lines look alike; most are the same object as in the frame before."""
    if old is new:
        return True
    return old.plain == new.plain and old.style == new.style and old.spans == new.spans


def _control(codes: str) -> Segment:
    return Segment(codes, None, [(ControlType.CARRIAGE_RETURN,)])
