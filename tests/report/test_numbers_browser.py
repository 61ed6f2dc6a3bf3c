"""The script writes numbers as Python does, to the last character."""

from __future__ import annotations

import math
from collections.abc import Callable

from dgpo_cli.core import numbers
from dgpo_cli.ui.document import asset, document
from tests.browser import Visit
from tests.core.test_numbers import FORMS, TABLE


def test_the_browser_writes_every_number_as_the_terminal_does(
    visit: Callable[..., Visit],
) -> None:
    page = visit(document("base.html", title="numbers", script=asset("numbers.js")))
    ties = [k / 8 for k in range(1, 200)] + [k / 2 for k in range(1, 4000, 7)]
    sizes = [s * m * 10.0**p for p in range(-9, 17) for m in (1.0, 9.995, 4.4449) for s in (1, -1)]
    for name in ("short", "small", "signed", "worth", "fraction", "percent", "probability"):
        write = FORMS[name]
        values = [*TABLE[name], *ties, *sizes]
        if name in ("probability", "fraction", "percent"):
            values = [value for value in values if abs(value) < 1e9 or math.isnan(value)]
        found = page(f"(values) => values.map((value) => {name}(value))", values)
        assert dict(zip(values, found, strict=True)) == {value: write(value) for value in values}, (
            name
        )
    whole = page("(values) => values.map((value) => percent(value, 0))", [0.004, 0.425, 0.996])
    assert whole == [numbers.whole_percent(value) for value in (0.004, 0.425, 0.996)]
