"""The card is shown whole, marks what is unknown, and obeys nothing that is written on it."""

from __future__ import annotations

from dgpo_cli.core.types import Card
from dgpo_cli.evals.views.card import draw_card
from dgpo_cli.ui.page import Page
from tests.samples import card, texts


def shown(ticket: Card, *, width: int = 80) -> list[str]:
    page = Page(width, depth="none")
    draw_card(page, ticket)
    return texts(page)


def row(lines: list[str], key: str) -> str:
    return next(line for line in lines if line.split()[:1] == [key]).split(None, 1)[1]


def test_every_entry_has_a_line_under_its_part() -> None:
    lines = shown(card())
    heads = [at for at, line in enumerate(lines) if not line.startswith(" ")]
    assert [lines[at].split()[0] for at in heads] == ["Card", "protocol", "subject", "environment"]
    assert row(lines, "temperature") == "0.6" and row(lines, "system") == "none"
    assert row(lines, "checker.version") == "3"
    assert row(lines, "prompt_ids.first") == "[1, 2, 3]"
    assert row(lines, "versions.torch") == "2.9.1"


def test_assumed_and_unknown_entries_are_marked() -> None:
    lines = shown(card(), width=200)
    assert row(lines, "template").startswith("? Solve")
    assert row(lines, "template").endswith("(assumed)")
    assert row(lines, "revision") == "? unknown"
    assert not row(lines, "temperature").startswith("?")
    assert sum("?" in line for line in lines) == 2


def test_a_long_value_is_wrapped_and_not_cut() -> None:
    text = "".join(chr(ord("a") + at % 26) for at in range(200))
    lines = shown(card(template=text, unknown=[]))
    at = next(at for at, line in enumerate(lines) if "template" in line)
    joined = lines[at].split()[-1] + "".join(line.strip() for line in lines[at + 1 : at + 4])
    assert joined == text
    endless = shown(card(template="x" * 10_000, unknown=[]))
    assert len(endless) == len(lines) + 2 and any(line.endswith("…") for line in endless)


def test_nothing_on_the_card_reaches_the_terminal_unseen() -> None:
    lines = shown(card(name="\x1b[2J[red]", **{"\x07key": "\u202e"}))
    assert row(lines, "name") == "\\x1b[2J[red]"
    assert row(lines, "\\x07key") == "\\u202e"
