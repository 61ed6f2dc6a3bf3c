"""Problems with options: what a row offers, the letter of the right one, and the text to show."""

from __future__ import annotations

import random
import string
from collections.abc import Sequence

from dgpo_cli.core.seeds import derive_seed

LETTERS = string.ascii_uppercase


def right_letter(
    answer: object, options: Sequence[str], *, by_index: bool
) -> tuple[str | None, str]:
    """Return the letter of the right option, and why there is none.

    answer: its number from 0 if `by_index`, else its letter, else its text.
    """
    text = str(answer).strip()
    if by_index:
        number = int(text) if text.isdecimal() else -1
        if not 0 <= number < len(options):
            return None, f"is not the number of one of {len(options)} options, from 0"
        return LETTERS[number], ""
    if len(text) == 1 and text.upper() in LETTERS[: len(options)]:
        letter = text.upper()
        twins = [LETTERS[at] for at, each in enumerate(options) if each.strip() == text]
        if twins not in ([], [letter]):
            return None, "is the letter of one option and the text of another"
        return letter, ""
    fitting = [LETTERS[at] for at, each in enumerate(options) if each.strip() == text]
    if len(fitting) != 1:
        return None, f"is the letter or the text of {len(fitting) or 'none'} of the options"
    return fitting[0], ""


def shuffled(
    options: Sequence[str], right: str, *, seed: int, id: str
) -> tuple[tuple[str, ...], str]:
    """Return the options in an order drawn for the seed and the problem, and the right letter."""
    order = list(range(len(options)))
    random.Random(derive_seed(seed, "options", id)).shuffle(order)
    return tuple(options[at] for at in order), LETTERS[order.index(LETTERS.index(right))]


def with_options(problem: str, options: Sequence[str], *, mark: str = "A.") -> str:
    """Return the problem, a blank line, and a line an option; mark: how the first one begins."""
    lines = (
        f"{mark.replace('A', letter)} {option}"
        for letter, option in zip(LETTERS, options, strict=False)
    )
    return "\n".join((f"{problem}\n", *lines)) if options else problem
