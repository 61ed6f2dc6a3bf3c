"""The only file that prints. Results go to stdout; progress, notes and errors to stderr.

Every text goes through rich's Text, never through markup; control characters are shown, not sent.
A pipe gets no escape codes and whole lines.
"""

from __future__ import annotations

import io
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import IO, TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Console, Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from dgpo_cli.core.errors import without_logins
from dgpo_cli.core.events import Event, Note
from dgpo_cli.core.text import pad, visible
from dgpo_cli.ui import pager

if TYPE_CHECKING:
    from rich.console import RenderableType

PIPE_WIDTH = 10_000  # wide enough that rich never wraps a line of ours
NARROW = 60  # columns; below, a table becomes a list
PIPE_PICTURE_WIDTH = 100  # for what fills the width, such as a heatmap


def is_terminal(stream: IO[str]) -> bool:
    """Return whether `stream` is a terminal and not a pipe or a file."""
    return stream.isatty()


def can_animate() -> bool:
    """Return whether stderr is a terminal that can draw bars: one that moves its cursor."""
    return is_terminal(sys.stderr) and not stderr().is_dumb_terminal


def stdout() -> Console:
    """Return the console for results."""
    return _console(sys.stdout)


def stderr() -> Console:
    """Return the console for progress, notes and errors."""
    return _console(sys.stderr)


def _console(stream: IO[str]) -> Console:
    width = None if is_terminal(stream) else PIPE_WIDTH
    return Console(file=stream, width=width, highlight=False, emoji=False, markup=False)


def picture_width() -> int:
    """Return the width of a picture on stdout, in columns."""
    return stdout().width if is_terminal(sys.stdout) else PIPE_PICTURE_WIDTH


@contextmanager
def captured(sink: Callable[[str], None]) -> Iterator[None]:
    """Redirect every line that other code prints on the terminal to `sink`.

    stdout is redirected only if it is a terminal: results may go down a pipe.
    """
    with ExitStack() as stack:
        stack.enter_context(redirect_stderr(_Lines(sys.stderr, sink)))
        if is_terminal(sys.stdout):
            stack.enter_context(redirect_stdout(_Lines(sys.stdout, sink)))
        yield


@contextmanager
def muted() -> Iterator[None]:
    """Print no notes and no progress."""
    with redirect_stderr(io.StringIO()):
        yield


class _Lines(io.TextIOBase):
    """A stream that passes on whole lines, and the last state of an overwritten one."""

    def __init__(self, real: IO[str], sink: Callable[[str], None]) -> None:
        self._real, self._sink, self._rest = real, sink, ""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self._real, "encoding", "utf-8")

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._real.fileno()

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._sink(line.rstrip("\r").rpartition("\r")[2])
        return len(text)


def tolerate_encodings() -> None:
    """Print characters that a stream's encoding lacks as escapes instead of crashing."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


@contextmanager
def _naming_stdout() -> Iterator[None]:
    """Name standard output in errors of the system, such as a full disk."""
    try:
        yield
    except OSError as error:
        error.filename = "standard output"
        raise


def flush() -> None:
    """Flush stdout, so that a closed pipe is noticed now."""
    with _naming_stdout():
        sys.stdout.flush()


def flush_last() -> None:
    """Flush both streams before the process ends, whether or not anybody reads them."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()


def forget_stdout() -> None:
    """Point a closed stdout at /dev/null, so that Python's flush at exit raises nothing."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())


def say(text: str, *, style: str = "") -> None:
    """Print one line of the result."""
    with _naming_stdout():
        stdout().print(Text(visible(text), style=style))


def as_json(value: object) -> str:
    """Return a result as JSON, in ASCII so that no text in it can control a terminal."""
    from dgpo_cli.core.codec import encoded  # pydantic, which --help does without

    return encoded(value, indent=2) + "\n"


def say_json(value: object) -> None:
    """Print a result as JSON."""
    raw(as_json(value))


def raw(text: str) -> None:
    """Print text unchanged: only for our own text and JSON."""
    stream([text])


def stream(chunks: Iterable[str]) -> None:
    """Print our own text, such as JSON, in parts: large output is never whole in memory."""
    for chunk in chunks:
        with _naming_stdout():
            sys.stdout.write(chunk)
    flush()


def drawn(lines: Iterable[Text], *, width: int) -> str:
    """Return lines as stdout would get them, with colours and not wrapped."""
    out = stdout()
    with _naming_stdout(), out.capture() as captured:  # its end writes, though nothing
        for line in lines:
            out.print(line, width=width, soft_wrap=True)
    return captured.get()


def show(picture: RenderableType) -> None:
    """Print something that rich can draw."""
    with _naming_stdout():
        stdout().print(picture, width=picture_width())


def page(picture: RenderableType) -> None:
    """Print something that rich can draw, through the user's pager.

    In a pipe, on a dumb terminal or without a pager: as `show`.
    """
    command = pager.command() if is_terminal(sys.stdout) else None
    if command is None:
        show(picture)
        return
    out = stdout()
    with out.capture() as captured:
        out.print(picture, width=picture_width())
    text = captured.get()
    if not pager.run(command, text, encoding=sys.stdout.encoding):
        note(f"{command[0]} of PAGER did not start")
        raw(text)


def table(rows: Sequence[Sequence[str]], *, styles: Sequence[str]) -> None:
    """Print aligned columns: folded to the width of a terminal, one line a row in a pipe."""
    cells = [[visible(cell) for cell in row] for row in rows]
    if is_terminal(sys.stdout):
        stdout().print(_table(cells, styles=styles, narrow=stdout().width < NARROW))
        return
    widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        padded = map(pad, row, widths)
        raw("  ".join(padded).rstrip() + "\n")


def _table(rows: Sequence[Sequence[str]], *, styles: Sequence[str], narrow: bool) -> RenderableType:
    if not narrow:
        grid = Table.grid(padding=(0, 2))
        for style in styles:
            grid.add_column(style=style, overflow="fold")
        for row in rows:
            grid.add_row(*map(Text, row))
        return grid
    lines: list[RenderableType] = []
    for first, *rest in rows:  # no room for columns: the rest goes below the name
        below = Text("  ").join(map(Text, rest, styles[1:]))
        lines += [Text(first, style=styles[0]), Padding(below, (0, 0, 0, 2))]
    return Group(*lines)


def draw(picture: RenderableType, *, on: Console) -> None:
    """Send a picture to the terminal unchanged: its cursor movements are our own."""
    on.print(picture, end="", crop=False, soft_wrap=True)


def log(text: str, *, on: Console) -> None:
    """Print one line above the bars that are drawn on a console."""
    on.print(Text(_harmless(text)))


def note(text: str, *, on: Console | None = None) -> None:
    """Print a note on stderr, or above the bars that are drawn on a console."""
    _labelled("note", text, style="cyan", on=on)


class Notes:
    """An observer that prints notes and ignores everything else."""

    def on(self, event: Event) -> None:
        if isinstance(event, Note):
            note(event.text)


def aside(text: str) -> None:
    """Print one plain line on stderr, such as how a command was stopped."""
    stderr().print(Text(visible(text)))


def can_ask() -> bool:
    """Whether there is somebody to answer a question."""
    return is_terminal(sys.stdin) and is_terminal(sys.stderr)


def ask(question: str, *, default: str) -> str:
    """Ask on stderr and return the line that is typed; Enter takes the default.

    Raises:
        KeyboardInterrupt: Ctrl-C, or the end of the input.
    """
    stderr().print(
        Text.assemble(visible(question), (f" [{visible(default)}]", "dim"), ": "), end=""
    )
    try:
        typed = input().strip()
    except (EOFError, KeyboardInterrupt):
        stderr().print()
        raise KeyboardInterrupt from None
    return typed or default


def suggest(*commands: Sequence[object]) -> None:
    """Print likely next commands of dgpo on stderr, ready to copy."""
    for at, words in enumerate(commands):
        line = Text("next: " if at == 0 else "      ", style="dim")
        stderr().print(line.append(visible(shlex.join(["dgpo", *map(str, words)]))))


def error(text: str) -> None:
    """Print an error on stderr, each line with its label."""
    for line in text.splitlines() or [""]:
        _labelled("error", line, style="bold red")


def noted(text: str) -> Text:
    """Return what `note` prints."""
    return _with_label("note", text, style="cyan")


def _labelled(label: str, text: str, *, style: str, on: Console | None = None) -> None:
    (on or stderr()).print(_with_label(label, text, style=style))


def _with_label(label: str, text: str, *, style: str) -> Text:
    return Text.assemble((f"{label}:", style), " ", _harmless(text))


def _harmless(text: str) -> str:
    """Return text without control characters and passwords."""
    return visible(without_logins(text))


def show_traceback(exception: BaseException) -> None:
    """Print where an exception came from, on stderr."""
    lines = traceback.format_exception(exception)
    for line in "".join(lines).splitlines():
        stderr().print(Text(_harmless(line)), soft_wrap=True)
