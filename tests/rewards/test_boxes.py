r"""The last box against a slow twin that reads one character after another."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from dgpo_cli.rewards.reading import boxes
from dgpo_cli.rewards.reading.boxes import last_box

OPENERS = ("\\boxed{", "\\fbox{")
PIECES = [
    *OPENERS,
    "{",
    "}",
    "}",
    "\\{",
    "\\}",
    "\\\\",
    "1",
    " ",
    "x",
    "box",
    "\\text{a}",
    "\\boxed x",
]


def twin(text: str) -> str | None:
    """The content of the box that closes last, of those that close and are not blank."""
    opened: list[tuple[int, bool]] = []
    best = None
    at = 0
    while at < len(text):
        opener = next((o for o in OPENERS if text.startswith(o, at)), None)
        if opener is not None:
            at += len(opener)
            opened.append((at, True))
        elif text[at] == "\\":
            at += 2
        else:
            if text[at] == "{":
                opened.append((at + 1, False))
            elif text[at] == "}" and opened:
                begin, is_box = opened.pop()
                if is_box and text[begin:at].strip():
                    best = text[begin:at]
            at += 1
    return best


# Two backslashes before a box are its own, escaped twice; for the twin they are a line break.
TEXTS = (
    st.lists(st.sampled_from(PIECES), max_size=60)
    .map("".join)
    .filter(lambda text: "\\\\boxed" not in text and "\\\\fbox" not in text)
)


@settings(max_examples=400)
@given(TEXTS)
@example("\\boxed{1}\\boxed{2}\\boxed{3\\boxed{")
@example("\\boxed{\\{}\\boxed{2}}")
@example("\\boxed{1 \\boxed{2} \\} x")
@example("\\boxed{1 \\boxed{2} \\} }")
@example("\\boxed{{{{{{{1}}}}}}}")
@example("{\\boxed{1} {a} \\boxed{2} {b}}")
@example("\\boxed{1}" * 20 + "\\boxed{ }" * 20)
@example("\\boxed{1" + "\\boxed{ }" * 20 + "}")
def test_the_last_box_is_the_twins(text: str) -> None:
    box = last_box(text, 0, cut=False)
    assert (box.parts[-1] if box else None) == twin(text)


@given(TEXTS, st.sampled_from([1, 2, 3]), st.sampled_from([0, 1, 2]))
def test_short_cuts_change_nothing(text: str, passed_over: int, shallow: int) -> None:
    usual = last_box(text, 0, cut=False)
    before = boxes.MAX_SKIPPED, boxes.MAX_SHALLOW_CHARS
    boxes.MAX_SKIPPED, boxes.MAX_SHALLOW_CHARS = passed_over, shallow
    try:
        assert last_box(text, 0, cut=False) == usual
    finally:
        boxes.MAX_SKIPPED, boxes.MAX_SHALLOW_CHARS = before


@given(st.text("{}\\ a", max_size=40))
def test_no_more_braces_close_where_that_is_said(tail: str) -> None:
    depth = lowest = 0
    at = 0
    while at < len(tail):
        at += 1 if tail[at] != "\\" else 2
        depth += {"{": 1, "}": -1}.get(tail[at - 1], 0) if tail[at - 2 : at - 1] != "\\" else 0
        lowest = min(lowest, depth)
    if not boxes._may_close_more(tail, 0):
        assert lowest == 0


def test_boxes_are_offered_together_side_by_side_or_where_commas_or_and_and_join_them() -> None:
    joints = ("or", " or ", "$ or $", r"\) or \(", r"\text{ or }", " and ", r" \lor ", ", ", "; ")
    for joint in (*joints, "", "$, $", ", and ", r" and $x = ", r",\quad "):
        together = last_box(r"\boxed{1}" + joint + r"\boxed{2}", 0, cut=False)
        assert together is not None and together.parts == ("1", "2"), joint
    for joint in (" ", "\n\n", " so ", " or else ", "or, after a check, ", "} or ", ", so $m+n="):
        last = last_box(r"\boxed{1}" + joint + r"\boxed{2}", 0, cut=False)
        assert last is not None and last.parts == ("2",), joint
    three = last_box(r"\boxed{1}, $\boxed{2}$, and \boxed{3}", 0, cut=False)
    assert three is not None and three.parts == ("1", "2", "3")
