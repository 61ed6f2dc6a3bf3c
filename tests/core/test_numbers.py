"""One form for each quantity: the law of each, and a table that the browser has to write too."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dgpo_cli.core import numbers
from dgpo_cli.core.types import Interval

GIB = 2**30
KNOWN = st.floats(allow_nan=False, allow_infinity=False)
SIZED = KNOWN.filter(lambda value: value == 0 or 1e-290 < abs(value) < 1e290)
TABLE: dict[str, dict[float, str]] = {
    "short": {
        0.0: "0",
        1.0: "1",
        0.05: "0.05",
        12.345: "12.35",
        0.12345: "0.1235",
        1e-6: "1e-06",
        -3.66e-4: "-0.000366",
        812.0: "812",
        999.96: "1,000",
        1234.5: "1,234",
        1235.5: "1,236",
        9999.4: "9,999",
        12_345.0: "12.3k",
        999_950.0: "1M",
        1.5e9: "1.5B",
        2e12: "2T",
        3e15: "3e+15",
        1.00001: "1.00001",
        0.9999999: "0.9999999",
        math.nan: "unknown",
        -math.inf: "-inf",
    },
    "small": {
        0.0: "0",
        0.0123: "0.0123",
        4.1e-5: "4.1e-05",
        12.3: "12.3",
        12.25: "12.2",
        1e-300: "1.0e-300",
        12345.6: "1.2e+04",
        -0.5: "-0.5000",
        math.nan: "unknown",
    },
    "signed": {
        0.0: "0",
        0.5: "+0.500",
        -1.2345: "-1.23",
        12.34: "+12.3",
        -123.4: "-123",
        1234.0: "+1,234",
        -4.15e-5: "-4.15e-05",
        math.nan: "unknown",
    },
    "worth": {
        0.0: "0.00",
        0.914: "0.91",
        1.0: "1.00",
        -0.25: "-0.25",
        12.5: "12.5",
        math.nan: "unknown",
    },
    "fraction": {
        1.0: "1.00000",
        0.5: "0.50000",
        0.999999: "0.999999",
        0.9999999996: "0.9999999996",
        1 - 1e-14: ">0.999999999999",
        math.nan: "unknown",
    },
    "percent": {
        0.0: "0.0%",
        1e-5: "<0.1%",
        0.125: "12.5%",
        0.99999: ">99.9%",
        1.0: "100.0%",
        math.nan: "unknown",
    },
    "probability": {0.0: "1.000", -0.5: "0.607", -8.0: "3e-04", -800.0: "0.000", 0.1: "1.000"},
    "round_duration": {0.0: "0 s", 5.0: "5 s", 2.5: "2.5 s", 120.0: "2 min", 7200.0: "2 h"},
    "duration": {
        0.0: "0 s",
        0.01234: "12.3 ms",
        0.09996: "0.100 s",
        0.9: "0.900 s",
        0.9996: "1.00 s",
        1.234: "1.23 s",
        12.25: "12.2 s",
        59.96: "1 min 0 s",
        250.0: "4 min 10 s",
        3599.6: "1 h 0 min",
        11520.0: "3 h 12 min",
        190_800.0: "2 d 5 h",
        1e8: "1,157 d",
        math.nan: "unknown",
    },
}
FORMS: dict[str, Callable[[float], str]] = {name: getattr(numbers, name) for name in TABLE}


@pytest.mark.parametrize("name", TABLE)
def test_each_quantity_has_the_form_of_the_table(name: str) -> None:
    assert {value: FORMS[name](value) for value in TABLE[name]} == TABLE[name]


def test_bytes_are_binary_in_three_digits() -> None:
    found = [numbers.size(x) for x in (0, 512, 999, 10240, 4.1 * 2**20, 350 * GIB, 999.6 * GIB)]
    assert found == ["0 B", "512 B", "999 B", "10.0 KiB", "4.10 MiB", "350 GiB", "0.976 TiB"]
    assert numbers.size(-1.5 * GIB) == "-1.50 GiB"


@given(st.floats(1e3, 1e14))
def test_a_size_is_right_to_half_a_digit(count: float) -> None:
    value, unit = numbers.size(count).split()
    scale = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}[unit]
    assert float(value) * scale == pytest.approx(count, rel=0.006)
    assert len(re.sub(r"\D", "", value.lstrip("0."))) <= 3 or unit == "TiB"


@given(st.floats(0.0, 1e9), st.booleans())
@example(59.95, False)
@example(3599.5, True)
def test_a_duration_says_no_sixty_and_is_right_to_its_last_digit(s: float, whole: bool) -> None:
    units = {"ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
    words = numbers.duration(s, whole=whole).replace(",", "").split()
    parts = dict(zip(words[1::2], map(float, words[::2]), strict=True))
    assert all(parts.get(unit, 0.0) < 60 for unit in ("s", "min"))
    last = units[words[-1]] if len(parts) > 1 or whole or words[-1] == "d" else 0.0
    told = sum(value * units[unit] for unit, value in parts.items())
    assert told == pytest.approx(s, rel=0.0051, abs=max(last, 6e-7))


@given(st.floats(0.0, 1.0), st.integers(0, 2))
def test_only_none_and_all_read_as_0_and_100_percent(share: float, digits: int) -> None:
    text = numbers.percent(share, digits=digits)
    assert (float(text.strip("<>%")) == 0.0) == (share == 0.0)
    assert (float(text.strip("<>%")) == 100.0) == (share == 1.0)


@given(SIZED)
def test_a_short_number_is_short_and_right_to_three_digits(value: float) -> None:
    text = numbers.short(value)
    scale = {"T": 1e12, "B": 1e9, "M": 1e6, "k": 1e3}.get(text[-1], 1.0)
    told = float(text.rstrip("TBMk").replace(",", "")) * scale
    assert told == pytest.approx(value, rel=0.0051)
    assert len(text) <= 8 or abs(abs(value) - 1.0) < 1e-2 or "e" in text
    assert (abs(told) == 1.0) == (abs(value) == 1.0) or abs(abs(value) - 1.0) < 1e-11


@given(SIZED)
def test_a_number_of_a_column_has_at_most_7_cells(value: float) -> None:
    assert len(numbers.small(abs(value))) <= 7 + (abs(value) >= 1e100 or 0 < abs(value) < 1e-99)


@given(KNOWN)
def test_a_sign_stands_before_every_difference_but_zero(value: float) -> None:
    text = numbers.signed(value)
    assert text == "0" if value == 0 else text[0] == ("+" if value > 0 else "-")


def test_a_difference_has_the_form_of_its_numbers() -> None:
    assert numbers.signed(-0.11464, numbers.decimal) == "-0.115"
    assert numbers.signed(2.0, numbers.short) == "+2" and numbers.signed(0.0, numbers.short) == "0"


def test_what_is_not_known_has_one_word() -> None:
    lone = (
        *(numbers.size, numbers.duration, numbers.short, numbers.small, numbers.scientific),
        *(numbers.decimal, numbers.fraction, numbers.signed, numbers.percent, numbers.error),
        *(numbers.points, numbers.margin, numbers.p_value),
    )
    assert {write(math.nan) for write in lone} == {numbers.UNKNOWN}
    half = Interval(0.5, math.nan)
    assert {numbers.ends(half), numbers.signed_ends(half)} == {numbers.UNKNOWN}
    assert numbers.rate(math.nan, "tokens") == numbers.UNKNOWN


def test_a_rate_is_told_as_a_time_where_it_is_slow() -> None:
    assert numbers.rate(1234.0, "tokens") == "1,230 tokens/s"
    assert numbers.rate(45_678.0, "tokens") == "45.7k tokens/s"
    assert numbers.rate(0.1, "completions") == "10.0 s each"


def test_numbers_of_shares_never_read_as_less_than_they_are() -> None:
    assert numbers.points(-0.0001) == "+0.0" and numbers.points(-0.012) == "-1.2"
    assert [numbers.margin(x) for x in (0.0004, 0.0, 0.0123)] == ["0.04", "0.0", "1.2"]
    assert [numbers.p_value(p) for p in (0.0, 1e-5, 0.0042, 0.05, 0.9999, 1.0)] == [
        *("< 0.0001", "< 0.0001", "0.0042", "0.050", "1", "1"),
    ]
    assert numbers.ends(Interval(0.1, 0.256)) == "10.0 to 25.6"
    assert numbers.signed_ends(Interval(-0.1, 0.256)) == "-10.0 to +25.6"


def test_numbers_near_rounding_and_lengths() -> None:
    assert numbers.scientific(3.66e-4) == "3.7e-04" and numbers.scientific(0.0) == "0"
    assert [numbers.tokens(x) for x in (95.0, 999.96, 12_345.6)] == ["95.0", "1,000", "12,346"]
    assert numbers.counted(1, "step") == "1 step" and numbers.counted(1200, "step") == "1,200 steps"
    assert numbers.cell(None) == numbers.tokens(math.nan) == numbers.ABSENT


def test_no_other_module_writes_percentages_or_units_of_bytes() -> None:
    package = Path(numbers.__file__).parents[1]
    found = []
    for path in package.rglob("*.py"):
        if path.name in ("numbers.py", "cost.py"):  # cost.py: constants that are percentages
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FormattedValue) and node.format_spec is not None:
                text = ast.unparse(node.format_spec).strip("f'\"")
                own = text.endswith("%")
            elif isinstance(node, ast.JoinedStr):
                text = ast.unparse(node)
                own = re.search(r"\} ?(%|[KMGT]i?B\b)", text) is not None
            else:
                continue
            found += [f"{path.relative_to(package)}: {text}"] if own else []
    assert found == []


@pytest.mark.parametrize(
    ("value", "text"), [(12.3456, "12.35"), (0.0123, "0.012"), (0.0, "0.00"), (float("nan"), "-")]
)
def test_a_cost_has_two_digits_at_least(value: float, text: str) -> None:
    assert numbers.cost(value) == text


@given(
    st.floats(-1e4, 1e4),
    st.floats(1e-5, 1e3),
    st.booleans(),
)
def test_a_number_and_its_error_are_right_to_the_same_digit(
    value: float, half: float, sign: bool
) -> None:
    text, error = numbers.with_error(value, half, sign=sign)
    if max(abs(value), half) < 1e-4:
        return
    digits = [len(each.partition(".")[2]) for each in (text, error)]
    assert digits[0] == digits[1]
    unit = 10.0 ** -digits[0]
    assert abs(float(text) - value) <= 0.500001 * unit
    assert abs(float(error) - half) <= 0.500001 * unit
    if half < 95:
        assert unit <= half / 9.4  # two digits of the error
    assert text.startswith(("+", "-")) == (value < 0 or sign) or float(text) == 0.0


@pytest.mark.parametrize(
    ("value", "half", "sign", "written"),
    [
        (0.58324, 0.0031, False, ("0.5832", "0.0031")),
        (-0.0129, 0.0008, True, ("-0.01290", "0.00080")),
        (-0.0001, 0.2, True, ("0.00", "0.20")),
        (0.5, math.nan, True, ("+0.500", "")),
        (0.5, 0.0, False, ("0.500", "0.000")),
        (math.nan, 0.1, False, ("unknown", "")),
        (math.inf, 0.1, True, ("inf", "")),
        (2.5e9, 1.234e8, False, ("2.5B", "120M")),
        (-3.1e-7, 2.12e-8, True, ("-3.1e-07", "2.1e-08")),
    ],
)
def test_a_number_has_the_digits_of_its_error(
    value: float, half: float, sign: bool, written: tuple[str, str]
) -> None:
    assert numbers.with_error(value, half, sign=sign) == written


def test_errors_of_a_column_share_their_digits() -> None:
    assert numbers.error_digits([0.0061, 0.011]) == 4
    assert numbers.error_digits([0.00061, 1.1]) == 2  # three of the largest at most
    assert numbers.error_digits([math.nan, 0.0]) == 3
    assert numbers.error_digits([250.0]) == 0
    assert numbers.error_digits([1e-12]) == 6
