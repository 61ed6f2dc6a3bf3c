"""A terminal that obeys what the panel sends, so that tests see what a user sees."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_TOKEN = re.compile(r"\x1b\[(\?)?([0-9;]*)([A-Za-z])|\r|\n|[^\x1b\r\n]+|\x1b")


@dataclass
class Terminal:
    """Lines that never leave: the scrollback and the screen as one. `rows` is the screen's height.

    Raises on any escape sequence that the panel has no business to send.
    """

    columns: int
    rows: int
    lines: list[list[str]] = field(default_factory=lambda: [[]])
    row: int = 0
    column: int = 0
    modes: dict[str, bool] = field(default_factory=lambda: {"7": True, "25": True, "2026": False})

    def feed(self, text: str) -> None:
        for match in _TOKEN.finditer(text):
            token = match[0]
            if token == "\r":
                self.column = 0
            elif token == "\n":
                self.row += 1
                if self.row == len(self.lines):
                    self.lines.append([])
            elif token.startswith("\x1b"):
                self._obey(match[1] or "", match[2], match[3])
            else:
                for char in token:
                    self._put(char)

    def shown(self) -> list[str]:
        """Return all lines, trailing blanks and empty last lines left out."""
        lines = ["".join(line).rstrip() for line in self.lines]
        while lines and not lines[-1]:
            lines.pop()
        return lines

    def _obey(self, private: str, number: str, letter: str) -> None:
        match private, letter:
            case "?", "h" | "l":
                assert number in self.modes, number
                self.modes[number] = letter == "h"
            case "", "A":
                top = max(0, len(self.lines) - self.rows)
                self.row = max(top, self.row - int(number or 1))
            case "", "K":
                del self.lines[self.row][self.column :]
            case "", "J":
                del self.lines[self.row][self.column :]
                del self.lines[self.row + 1 :]
            case "", "m":
                pass
            case _:
                raise AssertionError(f"sent {private}{number}{letter}")

    def _put(self, char: str) -> None:
        if self.column >= self.columns:
            if not self.modes["7"]:
                self.lines[self.row][-1] = char
                return
            self.feed("\r\n")
        line = self.lines[self.row]
        line.extend(" " * (self.column - len(line)))
        line[self.column : self.column + 1] = [char]
        self.column += 1
