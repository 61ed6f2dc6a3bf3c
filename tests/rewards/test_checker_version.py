"""Scores with one CHECKER_VERSION are comparable: its verdicts on all cases are pinned."""

from __future__ import annotations

import hashlib
import json

from dgpo_cli.core.types import FinishReason
from dgpo_cli.rewards.answer import check_integer
from dgpo_cli.rewards.protocol import CHECKER_VERSION
from dgpo_cli.rewards.settings import Extract
from tests.rewards.answer_table import ROWS
from tests.rewards.integer_cases import IS_204, IS_NO_INTEGER, IS_SOMETHING_ELSE
from tests.rewards.test_answer import FOUND, NOT_FOUND

# A changed verdict asks for a new version, here and in rewards/answer.py; a new case with the old
# verdicts for a new digest alone.
DIGESTS = {"2": "eee56a64adea42b86130ae48ffc3da6747998298dc81a9abea1f38bc3c0591f5"}
PLACES: tuple[Extract, ...] = ("boxed", "answer-line", "boxed-or-answer-line", "last-number")
REASONS: tuple[FinishReason, ...] = ("stop", "length")


def verdicts_digest() -> str:
    answers = [*IS_204, *(answer for answer, _ in IS_SOMETHING_ELSE), *IS_NO_INTEGER]
    cases = [(gold, text) for _, gold, text, _ in ROWS]
    cases += [("204", rf"\boxed{{{answer}}}") for answer in answers]
    cases += [("2", text) for text in (*(text for text, _ in FOUND), *NOT_FOUND)]
    verdicts = [
        check_integer(gold, text, finish_reason=reason, where=where, minimum=0, maximum=999)
        for gold, text in cases
        for where in PLACES
        for reason in REASONS
    ]
    return hashlib.sha256(json.dumps(verdicts).encode("ascii")).hexdigest()


def test_the_verdicts_are_those_of_this_checker_version() -> None:
    assert DIGESTS.get(CHECKER_VERSION) == verdicts_digest()
