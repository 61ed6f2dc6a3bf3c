r"""Checks answers that are the letter of an option: pure Python, linear in the text.

Where the letter stands, by `reward.extract`; the last of these counts:

| written | read with |
| --- | --- |
| `\boxed{C}`, `\boxed{\text{(C)}}`, `\boxed{\textbf{C) 12}}` | `boxed`, `boxed-or-answer-line` |
| `Answer: C`, `"answer": "C"`, `<answer>C</answer>`, `Answer:` and the next line | the other two |
| "the answer is (C)", "I choose C", "so it is C", "hence (C)" | as above |
| "option C is correct", "this corresponds to option C", unless doubts follow | as above |
| a last line `C`, `(C)`, `**C**` or `C) 12 m/s`; a letter alone if options are listed | as above |
| a first line of that kind, without any of these | as above |

What is read as C, and what is not:

| written | verdict |
| --- | --- |
| `C`, `(C)`, `[C]`, `c`, `C.`, `$C$`, `Ｃ`, `\mathrm{C}`, `option C` | C |
| `C) 12 m/s`, `C. 12 m/s`, `C: 12`, `(C) 12`, `**C** 12`, `C - 12` | C: its text is not read |
| `C, because ...`, `C since ...`, `C, not B`, `C (B is wrong)` | C |
| `C) Both A and B`, `D) None of the above` | C, D: texts of options |
| `B or C`, `A and B`, `A, B`, `B/C`, `A) 12 and B) 13`, `\boxed{B} or C` | wrong: several |
| `not C`, `C?`, `C, if ...`, "C is wrong", "if the answer is C", "many choose C" | not C |
| `C. Wait, it is D.`; "Answer: C", and below "No, that is wrong" | not C |
| `A train`, `I think`, `C = 5`, `CO_2`, `\text{C}_6`, `C-14`, `B cells`, `C. elegans` | no letter |
| `\mathbb{C}`, `\mathcal{C}`, a Cyrillic letter, `3`, the text of an option alone | no letter |

A letter beyond the options is `out_of_range`. An answer in words is `wrong`: the checker knows the
letter of the right option, not the texts. Thoughts, boxes that are part of something, truncated
texts and the other outcomes are as in `rewards/answer.py`. A sentence or a line counts in the last
8,192 characters, an answer line and a box anywhere.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from dgpo_cli.core.thinking import after_thinking
from dgpo_cli.rewards.answer import MAX_SHOWN_CHARS
from dgpo_cli.rewards.reading.chosen import MAX_CHARS, last_statement
from dgpo_cli.rewards.reading.extract import Extraction, extract
from dgpo_cli.rewards.reading.options import LETTERS, cleaned, letter_of, read_option

if TYPE_CHECKING:
    from dgpo_cli.core.types import FinishReason, Outcome
    from dgpo_cli.rewards.protocol import ChoiceExtract

MAX_ANSWER_CHARS = 2048
_NEAR_CHARS = 60
# Another option beside a box: `\boxed{B} or C`, `A and \boxed{B}`.
_OR_AFTER = re.compile(r"[\s)\]']*(?:or|and|[/&])[\s(\['or]*(?-i:[A-Z])\b(?![A-Za-z'])", re.I)
_OR_BEFORE = re.compile(r"(?<![A-Za-z'])(?-i:[A-Z])[)\]'.]*\s*(?:or|and|[/&])[\s(\[']*\Z", re.I)
_BOX = re.compile(r"\\+(?:boxed|fbox|framebox)\b")


def check_choice(
    gold: str, text: str, *, finish_reason: FinishReason, where: ChoiceExtract, choices: int
) -> tuple[Outcome, str | None]:
    """Judge the completion `text` against the letter `gold`, one of the first `choices`.

    Returns the outcome and the letter that was given; the first characters of an answer that is
    no letter; None without an answer.

    Raises:
        ValueError: `gold` is not the letter of an option.
    """
    wanted = letter_of(gold)
    if wanted is None or wanted not in LETTERS[:choices]:
        raise ValueError(
            f"gold={gold[:MAX_SHOWN_CHARS]!r} is not a letter from A to {LETTERS[choices - 1]}"
        )
    cut = finish_reason == "length"
    found = _read(text, where=where, cut=cut)
    if found is None:
        return ("truncated" if cut else "no_answer"), None
    letter, shown = found
    if letter is None:
        return "wrong", shown.strip()[:MAX_SHOWN_CHARS]
    if letter == wanted:
        return "correct", letter
    return ("wrong" if letter in LETTERS[:choices] else "out_of_range"), letter


def _read(text: str, *, where: ChoiceExtract, cut: bool) -> tuple[str | None, str] | None:
    """Return the letter that `text` gives, None for none or several, and the text of its answer."""
    start = after_thinking(text)
    if start is None:
        return None
    box = None if where == "answer-line" else extract(text, where="boxed", cut=cut)
    if where == "boxed":
        return None if box is None else _boxed(text, box)
    begin = start if box is None else box.end + 1
    whole = len(text) - begin <= MAX_CHARS
    if not whole:
        begin = len(text) - MAX_CHARS
        begin += len(text[begin:].partition(" ")[0])  # no half of a word
    said = last_statement(cleaned(text[begin:]), whole=whole and box is None, cut=cut)
    if box is not None and (said is None or said.in_words):
        return _boxed(text, box)
    if said is not None:
        return said.letter, said.shown
    line = extract(text, where="answer-line", cut=cut)
    if line is None or begin <= start:  # read above
        return None
    return _letter(line.text), line.text


def _boxed(text: str, box: Extraction) -> tuple[str | None, str]:
    parts = box.parts or (box.text,)
    letters = {_letter(part) for part in parts}
    letter = letters.pop() if len(letters) == 1 else None
    if letter is not None and not box.parts and _beside(text, box):
        letter = None
    return letter, box.text


def _letter(answer: str) -> str | None:
    if len(answer) > MAX_ANSWER_CHARS or answer.lstrip()[:1] in ("-", "+", "#", ">"):
        return None
    option = read_option(cleaned(answer).strip())
    return None if option is None else option.letter


def _beside(text: str, box: Extraction) -> bool:
    """Whether another option is offered beside the box."""
    if _OR_AFTER.match(cleaned(text[box.end + 1 : box.end + _NEAR_CHARS])):
        return True
    near = text[max(0, box.end - len(box.text) - 2 * _NEAR_CHARS) : box.end]
    names = list(_BOX.finditer(near))
    return bool(names) and _OR_BEFORE.search(cleaned(near[: names[-1].start()])) is not None
