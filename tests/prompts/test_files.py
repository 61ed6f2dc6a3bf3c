"""Rows of every kind of file, and what broken ones are told."""

import json
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgpo_cli.core.errors import ConfigError, DataError
from dgpo_cli.prompts.files import Row, exact_text, read_rows

COLUMNS = ("problem", "answer")


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def rows(path: Path) -> list[Row]:
    return list(read_rows(path, columns=COLUMNS))


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_jsonl_reads_alike_with_bom_and_crlf(tmp_path: Path, newline: str, bom: bytes) -> None:
    text = newline.join(['{"problem": "é\u2028?", "answer": 1}', "", "  ", '{"problem": "b"}', ""])
    found = rows(write(tmp_path, "a.jsonl", bom + text.encode()))
    assert [row.fields["problem"] for row in found] == ["é\u2028?", "b"]
    assert [row.place for row in found] == ["line 1", "line 4"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.txt", "noending"])
def test_everything_else_is_jsonl(tmp_path: Path, name: str) -> None:
    assert len(rows(write(tmp_path, name, '{"a": 1}\n{"a": 2}'))) == 2


def test_json_is_a_list_of_objects(tmp_path: Path) -> None:
    found = rows(write(tmp_path, "a.json", '\ufeff[{"problem": "x"},\n {"problem": "y"}]'))
    assert [(row.fields["problem"], row.place) for row in found] == [
        ("x", "item 1"),
        ("y", "item 2"),
    ]


def test_csv_keeps_quoted_lines_and_odd_separators_together(tmp_path: Path) -> None:
    text = 'problem,answer\r\n"two\r\nlines, ""quoted""",4\r\na\u2028b,05\r\n'
    found = rows(write(tmp_path, "a.CSV", "\ufeff" + text))
    assert [dict(row.fields) for row in found] == [
        {"problem": 'two\r\nlines, "quoted"', "answer": "4"},
        {"problem": "a\u2028b", "answer": "05"},
    ]


def test_parquet_reads_nested_columns(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    data = [
        {
            "prompt": [{"role": "user", "content": f"{i}?"}],
            "reward_model": {"truth": str(i)},
            "x": 0,
        }
        for i in range(5000)
    ]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(data), path)
    found = list(read_rows(path, columns=("prompt", "reward_model.truth")))
    assert len(found) == 5000
    assert found[4999].get("reward_model.truth") == "4999"
    assert found[4999].place == "row 5000"
    assert found[7].get("prompt") == [{"role": "user", "content": "7?"}]
    assert set(found[0].fields) == {"prompt", "reward_model"}  # x was not asked for


def test_a_dotted_name_may_also_be_the_columns_own(tmp_path: Path) -> None:
    row = rows(write(tmp_path, "a.jsonl", '{"a.b": 1, "a": {"b": 2, "c": {"d": 3}}}'))[0]
    assert (row.get("a.b"), row.get("a.c.d"), row.get("a.x"), row.get("q")) == (1, 3, None, None)


def test_a_missing_field_names_file_line_and_what_there_is(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", '\n{"question": "x", "answer": 1}')
    with pytest.raises(DataError) as caught:
        rows(path)[0].require("problem", fix="name it")
    expected = f"{path}, line 2: no field 'problem' (fields: 'question', 'answer'); name it"
    assert str(caught.value) == expected


BROKEN = {
    "cut.jsonl": (b'{"a": 1}\n{"a": ', r"line 2: not JSON \(.*column"),
    "list.jsonl": (b'{"a": 1}\n[1]', "line 2: must be an object"),
    "broken-off.jsonl": (
        b'{"a": 1}\n{"a": 2}\n{"a": 3\n{"a": 4}\n',
        r"line 3: not JSON \(Expecting ',' delimiter at column 8\)",
    ),
    "open.jsonl": (b'{"a": "x', r"line 1: not JSON \(Unterminated string starting at column 7\)"),
    "nan.jsonl": (b'{"a": NaN}', "line 1: not JSON .*NaN"),
    "deep.jsonl": (b"[" * 200_000, "line 1: not JSON"),
    "latin.jsonl": ('{"a": 1}\n{"a": "é"}'.encode("latin-1"), "line 2: not UTF-8 .*0xe9"),
    "wide.jsonl": ('{"a": 1}'.encode("utf-16"), "line 1: not UTF-8"),
    "object.json": (b'{"a": 1}', "must be a list"),
    "cut.json": (b'[{"a": 1},\n {"a"', "line 2: not JSON"),
    "item.json": (b'[{"a": 1}, 3]', "item 2: must be an object"),
    "latin.json": ('["é"]'.encode("latin-1"), "not UTF-8"),
    "short.csv": (b"a,b\n1,2\n3\n", "line 3: must have 2 columns"),
    "long.csv": (b"a,b\n1,2,3\n", "line 2: must have 2 columns"),
    "quote.csv": (b'a,b\n"1"x,2\n', "line 2: not CSV"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_explained_in_one_line(tmp_path: Path, name: str) -> None:
    content, message = BROKEN[name]
    with pytest.raises(DataError, match=message) as caught:
        rows(write(tmp_path, name, content))
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_only_says_it_is_parquet_is_explained(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    with pytest.raises(DataError, match="not a Parquet file"):
        rows(write(tmp_path, "a.parquet", "no"))


def test_a_missing_file_is_a_setting_to_change(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such file.*prompts\.path"):
        read_rows(tmp_path / "none.jsonl", columns=COLUMNS)
    with pytest.raises(ConfigError, match="is a folder"):
        read_rows(tmp_path, columns=COLUMNS)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (" 3/4 ", "3/4"),
        ("12.0", "12.0"),
        (12, "12"),
        (12.0, "12"),
        (-0.0, "0"),
        (0.1, "0.1"),
        (1e20, "100000000000000000000"),
        (Decimal("12.50"), "12.5"),
        (Decimal("1E+3"), "1000"),
        (Decimal("-100"), "-100"),
        (Decimal("0.30000000000000000001"), "0.30000000000000000001"),
        (True, None),
        (None, None),
        ([1], None),
        (float("inf"), None),
        (Decimal("1e999999999"), None),
    ],
)
def test_answers_are_written_exactly(value: object, text: str | None) -> None:
    assert exact_text(value) == text


@given(st.one_of(st.integers(), st.floats(-1e300, 1e300)))
def test_a_number_in_json_is_written_as_the_same_number(value: float) -> None:
    text = exact_text(json.loads(json.dumps(value), parse_float=Decimal, parse_int=Decimal))
    assert text is not None
    assert Decimal(text) == Decimal(repr(value))
    assert "e" not in text.lower()
