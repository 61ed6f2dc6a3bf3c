"""The block at the foot of a terminal is drawn over itself, and what goes by above it stays."""

from __future__ import annotations

import io

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text

from dgpo_cli.live.screen import Screen
from tests.cli.terminal import Terminal

words = st.text("ab ", max_size=12).map(str.rstrip)
frames = st.lists(words.filter(bool), min_size=1, max_size=8)
moves = st.lists(st.tuples(frames, st.lists(words, max_size=3), st.booleans()), max_size=12)


class Glass:
    """A screen on a terminal of ours."""

    def __init__(self, *, columns: int = 30, rows: int = 12) -> None:
        self.file = io.StringIO()
        console = Console(file=self.file, force_terminal=True, width=columns, color_system=None)
        self.console, self.screen = console, Screen(console)
        self.terminal = Terminal(columns, rows)

    def show(self, frame: list[str], *, above: list[str] = [], anew: bool = False) -> str:  # noqa: B006
        """Draw, and return what was sent."""
        self.screen.show(
            [Text(line) for line in frame], above=[Text(line) for line in above], anew=anew
        )
        sent = self.file.getvalue()
        self.file.seek(0)
        self.file.truncate()
        self.terminal.feed(sent)
        return sent


@given(moves)
def test_above_stays_and_the_last_block_stands_below(
    steps: list[tuple[list[str], list[str], bool]],
) -> None:
    glass, gone_by, frame = Glass(), [], []
    for frame, above, _ in steps:
        glass.show(frame, above=above)
        gone_by += above
    expected = [line.rstrip() for line in (*gone_by, *frame)]
    assert glass.terminal.shown() == expected or not any(expected)
    assert glass.terminal.modes == {"7": True, "25": True, "2026": False}
    assert glass.terminal.column == 0 and glass.terminal.row == len(expected)


def test_an_equal_block_sends_nothing_and_a_changed_line_only_itself() -> None:
    glass = Glass()
    glass.show(["one", "two", "three"])
    assert glass.show(["one", "two", "three"]) == ""
    sent = glass.show(["one", "2", "three"])
    assert "2" in sent and "one" not in sent and "three" not in sent
    assert glass.terminal.shown() == ["one", "2", "three"]


def test_a_change_of_style_alone_is_drawn() -> None:
    glass = Glass()
    glass.screen.show([Text("one")])
    glass.show(["one"])
    glass.screen.show([Text("one", style="bold")])
    assert "one" in glass.file.getvalue()


def test_long_lines_above_wrap_and_are_whole() -> None:
    glass = Glass(columns=10)
    glass.show(["block"])
    glass.show(["block"], above=["aaaa bbbb cccc"])
    assert glass.terminal.shown() == ["aaaa bbbb", "cccc", "block"]


def test_after_others_wrote_the_block_is_drawn_where_the_cursor_is() -> None:
    glass = Glass()
    glass.show(["one", "two"])
    glass.terminal.feed("$ fg\r\n")
    glass.show(["one", "two"], anew=True)
    assert glass.terminal.shown() == ["one", "two", "$ fg", "one", "two"]


def test_a_narrower_terminal_that_wrapped_the_block_is_drawn_over_whole() -> None:
    glass = Glass(columns=20)
    glass.show(["a" * 19, "b" * 19, "c"], above=["stays"])
    wrapped = Terminal(10, 12)
    wrapped.feed("stays\r\n" + "a" * 19 + "\r\n" + "b" * 19 + "\r\nc\r\n")
    glass.terminal = wrapped
    glass.console.width = 10
    glass.show(["d" * 9, "e"])
    assert wrapped.shown() == ["stays", "d" * 9, "e"]
