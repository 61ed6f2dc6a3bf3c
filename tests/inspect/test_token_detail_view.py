"""The view of one token shows true numbers and obeys nothing that stands in a token."""

from __future__ import annotations

import math
import re
import shlex
from dataclasses import replace
from typing import Any

import pytest
from rich.cells import cell_len

from dgpo_cli.core.types import (
    Alternative,
    InspectedCompletion,
    Inspection,
    StoredCredit,
    TokenDetail,
)
from dgpo_cli.inspect.views.token_detail import render
from tests.samples import (
    HOSTILE,
    SYSTEMS,
    check_snapshot,
    hostile,
    inspection,
    printed,
    solution,
)

AT = 6  # the 9 of 19
ALTERNATIVES = (
    Alternative(21, "1", "31", 0.625, 0.25),
    Alternative(22, "2", "32", 0.25, 0.5),
    Alternative(99, "", "e2", 0.0625, 0.0),
    Alternative(5, "\n", "0a", 1e-9, 0.125),
)
WORDS = {"weights": "runs/x/checkpoints/step-000004", "policy_rank": 1, "reference_rank": 2}


def exact(shown: InspectedCompletion) -> InspectedCompletion:
    """The completion with scores that follow from d and h, and weights from the scores."""
    made = [t.hellinger_sq * t.entropy / math.log(1024) for t in shown.tokens]
    powers = [math.exp(s / 0.1) for s in made]
    tokens = tuple(
        replace(t, score=s, weight=len(made) * p / math.fsum(powers), hex=t.text.encode().hex())
        for t, s, p in zip(shown.tokens, made, powers, strict=True)
    )
    return replace(shown, tokens=tokens)


def view(*, shown: InspectedCompletion | None = None, **changes: Any) -> Inspection:
    shown = shown or exact(solution())
    sampled = replace(ALTERNATIVES[0], id=shown.tokens[AT].id)
    fields = {"position": AT, "alternatives": (sampled, *ALTERNATIVES[1:]), **WORDS}
    return inspection(shown, detail=TokenDetail(**(fields | changes)))


def drawn(own: Inspection, *, width: int = 80, color: str = "none", **more: Any) -> str:
    picture = render(own, width=width, color=color)  # type: ignore[arg-type]
    return printed(picture, width=width, color=color, **more)


@pytest.mark.parametrize("width", [40, 80])
@pytest.mark.parametrize("color", SYSTEMS)
def test_the_view_looks_like_its_snapshot(width: int, color: str) -> None:
    check_snapshot(f"token-{color}-{width}.txt", drawn(view(), width=width, color=color))


def test_without_weights_it_says_what_computes_them() -> None:
    bare = TokenDetail(position=AT, hint="dgpo inspect --model \x1b[31m runs/a --at 6")
    output = drawn(inspection(exact(solution()), detail=bare))
    assert "--at 6" in output and "\\x1b[31m" in output and "refer." not in output
    check_snapshot("token-hint-80.txt", output)


@pytest.mark.parametrize("width", [24, 40, 61, 80, 200])
def test_the_command_can_be_copied_from_any_width(width: int) -> None:
    words = ["dgpo", "inspect", "--model", "runs/" + "long/" * 12 + "last", "--at", "6"]
    hint = f"{' '.join(words)}  # weights after step 12"
    output = drawn(inspection(exact(solution()), detail=TokenDetail(AT, hint=hint)), width=width)
    assert all(cell_len(line) <= width for line in output.splitlines())
    *_, copied = output.partition("\n# weights after step 12\n")
    assert shlex.split(copied.replace("\\\n", "")) == words  # as a shell joins lines


def test_ascii_terminals_get_ascii() -> None:
    output = drawn(view(), encoding="ascii")
    assert output.isascii() and "?" not in re.sub(r"e2|\?\s*$", "", output).replace("(", "")


@pytest.mark.parametrize("width", [24, 40, 60, 80, 200])
@pytest.mark.parametrize("position", range(len(HOSTILE)))
def test_hostile_tokens_are_shown_and_no_line_is_too_long(width: int, position: int) -> None:
    shown = hostile()
    nasty = tuple(
        Alternative(t.id, t.text, "ff1b", 0.5 / len(HOSTILE), 0.25 / len(HOSTILE))
        for t in shown.tokens
    )
    detail = TokenDetail(position=position, alternatives=nasty, weights="\x1b[2J", policy_rank=1)
    output = drawn(inspection(shown, model="\x1b]0;x\x07", detail=detail), width=width)
    assert all(char.isprintable() or char == "\n" for char in output)
    assert width < 40 or all(cell_len(line) <= width for line in output.splitlines())


def test_formulas_stand_only_where_they_give_the_number() -> None:
    right = drawn(view())
    token = exact(solution()).tokens[AT]
    h = token.entropy / math.log(1024)
    assert f"= {token.hellinger_sq:.4f} × {h:.4f}^1" in right and "  = e^(" in right
    bent = exact(solution())
    tokens = list(bent.tokens)
    tokens[AT] = replace(token, score=0.3, weight=1.5)  # as if a rule had capped it
    wrong = drawn(view(shown=replace(bent, tokens=tuple(tokens))))
    assert "  = e^(" not in wrong and f"{h:.4f}^1" not in wrong


def test_beside_a_what_if_stands_the_weight_that_trained() -> None:
    shown = exact(solution())
    weights = tuple(1.0 + at / 64 for at in range(len(shown.tokens)))
    stored = StoredCredit("uniform", {}, None, 1.0, weights)
    assert "w that trained            1.09" in drawn(view(shown=replace(shown, stored=stored)))
    assert "w that trained" not in drawn(view())


def test_probabilities_and_their_rest_add_up_to_one() -> None:
    table = drawn(view()).partition("refer.")[2].splitlines()[1:6]
    rows = [line.strip("> ").replace("█", "").split() for line in table]
    assert rows[-1][2:] == ["all", "others"]
    columns = [[float(row[side]) for row in rows] for side in (0, 1)]
    assert columns[0] == pytest.approx([0.625, 0.25, 0.062, 1e-9, 0.0625], abs=6e-4)
    assert columns[1] == pytest.approx([0.25, 0.5, 0.0, 0.125, 0.125], abs=6e-4)


def test_a_part_of_a_character_is_told_by_its_bytes() -> None:
    assert re.search(r"\\xe2$", drawn(view()), re.M)
    broken = Alternative(99, " \ufffd", "20e2", 0.5, 0.5)
    assert re.search(r" {3}\\xe2$", drawn(view(alternatives=(broken,))), re.M)
    at = HOSTILE.index("🎉")
    first, last = (
        drawn(inspection(hostile(), detail=TokenDetail(position=each, hint="x")))
        for each in (at - 1, at)
    )
    assert "token       part 1 of 2 of 🎉" in first and "part 2 of 2 of 🎉" in last


def test_what_is_not_known_is_said() -> None:
    shown = replace(exact(solution()), advantage=math.nan)
    tokens = tuple(replace(token, hex="") for token in shown.tokens)
    output = drawn(view(shown=replace(shown, tokens=tokens)))
    assert "bytes       unknown" in output and "unknown: no reward" in output
