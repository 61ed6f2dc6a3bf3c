"""Damages JSON as hostile, foreign and half-written files do, and says what must come of it.

A fuzzer makes a few examples, always the same; with DGPO_FUZZ_S=300 (`make fuzz`) it makes new ones
for so many seconds.
"""

from __future__ import annotations

import copy
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import Result

BUDGET_S = float(os.environ.get("DGPO_FUZZ_S", "0"))
EXAMPLES = 200 if BUDGET_S else 12

DEEP = 100_000
# JSON that Python's own writer does not write.
RAW = (
    *("1e400", "-1e400", "NaN", "-Infinity", "9" * 5000, "1e-999", "-0"),
    *("[" * DEEP, '{"a":' * DEEP, "[" * 900 + "]" * 900, '{"a":' * 900 + "1" + "}" * 900),
    *(r'"\ud83d"', r'"\u0000\u001b[2J"', '"\\u202e"', '{"\\ud800": 1}', "'", "0x1"),
)
_RAW = re.compile(r'"\\u0000RAW(\d+)"')
# Whole numbers and floats at the edges of what readers, torch and JSON can hold.
EDGES = (-1, 0, 1, 2**31, 2**53, 2**63, 2**64, 10**30, -(2**63), 1e308, -1e308, 5e-324, 0.5)
JUNK: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(EDGES),
    st.sampled_from(range(len(RAW))).map(lambda n: f"\0RAW{n}"),
    st.text(max_size=4),
    st.lists(st.sampled_from(EDGES), max_size=3),
    st.sampled_from([[[1]], [{}], {}, {"a": [None]}, [None], ["x"], [True], {"text": 5}]),
)


def fuzz(strategy: st.SearchStrategy[Any], law: Callable[[Any], None]) -> None:
    """Hold a law to what a strategy makes."""

    @settings(
        max_examples=EXAMPLES,
        derandomize=not BUDGET_S,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def run(example: Any) -> None:
        law(example)

    end = time.monotonic() + BUDGET_S
    run()
    while time.monotonic() < end:
        run()


@st.composite
def damaged(draw: st.DrawFn, tree: Any) -> bytes:
    """Some text of JSON that was `tree`."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(tree))
        if not places:
            break
        inside, key = draw(st.sampled_from(places))
        if draw(st.integers(0, 4)):
            inside[key] = copy.deepcopy(draw(JUNK))
        else:
            del inside[key]
    text = _RAW.sub(lambda found: RAW[int(found[1])], json.dumps(tree)).encode()
    if draw(st.integers(0, 7)) == 0:
        at = draw(st.integers(0, min(len(text), 500)))
        text = text[:at] + draw(st.binary(max_size=3)).replace(b"\n", b"")
    return text


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    items = list(tree.items() if isinstance(tree, dict) else enumerate(tree))
    for key, value in items if isinstance(tree, dict) else items[:3]:
        yield tree, key
        if isinstance(value, dict | list):
            yield from _places(value)


def told(ended: Result, place: str) -> None:
    """The command did its work, or ended in one line that names the place, a pattern."""
    assert ended.exit_code in (0, 2), (ended.exit_code, ended.output, ended.exception)
    errors = [line for line in ended.stderr.splitlines() if line.startswith("error:")]
    if ended.exit_code == 0:
        assert not errors
        return
    assert errors and re.search(place, " ".join(ended.stderr.split())), ended.stderr
    assert len(errors) == 1 and len(errors[0]) < 700, errors
