"""Logs of other programs, damaged: read, or refused in a line that names the file."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from tests.cli.helpers import in_process as dgpo
from tests.evals import foreign_logs as logs
from tests.fuzz.damage import JUNK, damaged, fuzz, told


def test_fuzz_inspect_json(tmp_path: Path) -> None:
    path = tmp_path / "log.json"

    def law(text: bytes) -> None:
        path.write_bytes(text)
        told(dgpo("compare", str(path), str(path)), r"log\.json[: ]|cannot be compared")

    fuzz(damaged(logs.header() | {"samples": logs.four()}), law)


def test_fuzz_inspect_zip(tmp_path: Path) -> None:
    path = tmp_path / "log.eval"
    plain, chunked = logs.entries_of(logs.four()), logs.chunked(logs.four())
    cases = st.sampled_from(
        [(plain, name) for name in plain] + [(chunked, name) for name in chunked]
    )

    def case(chosen: tuple[dict[str, Any], str]) -> st.SearchStrategy[tuple[Any, ...]]:
        entries, name = chosen
        return st.tuples(st.just(entries), st.just(name), damaged(entries[name]))

    def law(example: tuple[dict[str, Any], str, bytes]) -> None:
        entries, broken, text = example
        with zipfile.ZipFile(path, "w") as file:
            for name, value in entries.items():
                file.writestr(name, text if name == broken else json.dumps(value))
        told(dgpo("compare", str(path), str(path)), r"log\.eval[: ]|cannot be compared")

    fuzz(cases.flatmap(case), law)


def test_fuzz_bytes(tmp_path: Path) -> None:
    row = logs.row(texts=["a", "b"], metric={"avg@n:n=2": 0.5})
    whole = {
        "log.eval": logs.as_zstd(tmp_path / "z", logs.chunked(logs.four())).read_bytes(),
        "log.zip": logs.as_zip(tmp_path / "y", logs.entries_of(logs.four())).read_bytes(),
        "log.parquet": logs.as_details(tmp_path, [row], results=False).read_bytes(),
    }
    changes = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=5)

    def law(example: tuple[str, list[tuple[int, int]]]) -> None:
        name, changed = example
        data = bytearray(whole[name])
        for at, byte in changed:
            data[at % len(data)] = byte
        path = tmp_path / name
        path.write_bytes(bytes(data))
        told(dgpo("compare", str(path), str(path)), r"log\.\w+[:, ]|cannot be compared")

    fuzz(st.tuples(st.sampled_from(sorted(whole)), changes), law)


def test_fuzz_details(tmp_path: Path) -> None:
    path = tmp_path / "details_x.parquet"
    row = logs.row(texts=["a", "b"], metric={"avg@n:n=2": 0.5})
    places = [(part, name) for part, fields in row.items() for name in fields]
    junk = st.one_of(JUNK, st.sampled_from([b"\xff", [b"x"], [[b"x"]]]))

    def law(example: tuple[tuple[str, str], Any]) -> None:
        (part, name), value = example
        try:
            table = pa.Table.from_pylist([{**row, part: {**row[part], name: value}}])
            pq.write_table(table, path)
        except (pa.ArrowException, OverflowError, UnicodeEncodeError):
            return  # no such file can be
        told(dgpo("compare", str(path), str(path)), r"details_x\.parquet[:, ]|cannot be compared")

    fuzz(st.tuples(st.sampled_from(places), junk), law)
