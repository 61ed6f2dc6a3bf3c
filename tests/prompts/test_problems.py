"""Every problem comes once; what is left out is counted, and disputed ones are named."""

from __future__ import annotations

import json
import math
import random
import tracemalloc
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from dgpo_cli.core.errors import DataError
from dgpo_cli.core.types import Message, Prompt
from dgpo_cli.prompts import problems as problems_module
from dgpo_cli.prompts.files import Row, json_object
from dgpo_cli.prompts.problems import (
    Columns,
    DataFile,
    find_columns,
    problem_key,
    read_files,
    read_prompts,
)


def save(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def read(*paths: Path) -> tuple[tuple[Prompt, ...], tuple[str, ...]]:
    return read_files(
        [DataFile(path, path.stem) for path in paths],
        source="the data",
        template="{problem}",
        system=None,
        columns=Columns(),
    )


def test_a_problem_with_two_answers_is_left_out_wherever_they_stand(tmp_path: Path) -> None:
    rows = [("a", 1), ("b", 2), ("a", 1), ("c", 3), ("b", 9), ("b", 2), ("c", 3)]
    path = save(tmp_path / "x.jsonl", [{"problem": p, "answer": a} for p, a in rows])
    found, notes = read(path)
    assert [p.text for p in found] == ["a", "c"]
    assert notes == (
        "the data: 7 rows, 3 problems: duplicates left out",
        "the data: 1 problem with conflicting answers left out: 'x:2'",
    )


def test_an_answer_stands_behind_the_last_marker_of_gsm8k(tmp_path: Path) -> None:
    answers = ["He has 4*5=<<4*5=20>>20.\n#### 20", "#### 1\nNo: #### 1,000 ", "3", "####"]
    rows = [{"problem": str(n), "answer": each} for n, each in enumerate(answers)]
    found, _ = read(save(tmp_path / "x.jsonl", rows[:3]))
    assert [p.answer for p in found] == ["20", "1,000", "3"]
    assert [p.place for p in found] == ["line 1", "line 2", "line 3"]
    with pytest.raises(DataError, match="line 4: field 'answer' is empty"):
        read(save(tmp_path / "x.jsonl", rows))


def test_data_that_is_all_disputed_is_an_error(tmp_path: Path) -> None:
    path = save(tmp_path / "x.jsonl", [{"problem": "a", "answer": n} for n in range(2)])
    with pytest.raises(DataError, match="all problems have conflicting answers"):
        read(path)


@pytest.mark.parametrize("remembered", [0, 3, 1000])
def test_reading_agrees_with_a_slow_twin_on_random_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remembered: int
) -> None:
    monkeypatch.setattr(problems_module, "_REMEMBERED", remembered)
    rng = random.Random(5)
    for _ in range(20):
        rows = [
            (rng.choice([" ", ""]) + rng.choice("abcdef") + rng.choice([" x", "  x"]), str(answer))
            for answer in rng.choices([1, 1, 1, 1, 2], k=rng.randrange(2, 40))
        ]
        answers: dict[str, set[str]] = {}
        for text, answer in rows:
            answers.setdefault(" ".join(text.split()), set()).add(answer)
        expected = [text for text, own in answers.items() if len(own) == 1]
        halves = (rows[: len(rows) // 2], rows[len(rows) // 2 :])
        paths = [
            save(tmp_path / f"{name}.jsonl", [{"problem": p, "answer": a} for p, a in half])
            for name, half in zip("ab", halves, strict=True)
        ]
        if not expected:
            continue
        found, notes = read(*paths)
        assert [" ".join(p.text.split()) for p in found] == expected
        assert (f"{len(rows)} rows, {len(answers)} problems" in " ".join(notes)) == (
            len(rows) > len(answers)
        )


def test_problems_differ_by_case_roles_and_turns_and_not_by_white_space() -> None:
    def key(*turns: tuple[str, str]) -> bytes:
        return problem_key([Message(role, text) for role, text in turns])  # type: ignore[arg-type]

    one = key(("user", "Let x be 1"))
    assert key(("user", " Let\tx  be\n1 ")) == one
    others = [
        key(("user", "Let X be 1")),
        key(("system", "Let x be 1")),
        key(("system", "Let x"), ("user", "be 1")),
        key(("user", "Let x"), ("user", "be 1")),
        key(("user", "Let xbe 1")),
    ]
    assert len({one, *others}) == 6


def test_repeats_take_no_memory(tmp_path: Path) -> None:
    texts = [f"{n} " + "word " * 100 for n in range(50)]

    def peak(times: int) -> int:
        records = [{"problem": text, "answer": 1} for text in texts]
        path = save(tmp_path / "x.jsonl", records * times)
        tracemalloc.start()
        read_prompts(path, template="{problem}", system=None)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    peak(1)  # what is imported on the way
    assert peak(100) < 1.5 * peak(1)


@pytest.mark.parametrize(
    ("fields", "columns"),
    [
        ({"problem": "1+1?", "answer": "2", "prompt": "x"}, ("problem", "answer")),
        ({"question": "1+1?", "answer": "2"}, ("question", "answer")),
        (
            {"prompt": [{"role": "user", "content": "?"}], "reward_model": {"ground_truth": "2"}},
            ("prompt", "reward_model.ground_truth"),
        ),
        ({"text": "1+1?", "value": "2"}, ("problem", "answer")),
        ({"problem": None, "question": "1+1?", "answer": "2"}, ("question", "answer")),
    ],
)
def test_columns_are_found_by_their_usual_names(
    fields: dict[str, object], columns: tuple[str, str]
) -> None:
    rows = [Row(fields, Path("a.jsonl"), f"line {number}", number) for number in (1, 2)]
    assert find_columns(rows) == Columns(*columns)
    half = [*rows, Row({}, Path("a.jsonl"), "line 3", 3)]
    assert find_columns(half) == Columns("problem", "answer")


def test_every_field_of_a_row_comes_with_its_problem_as_json_if_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(
        '{"problem": "a", "answer": 1, "tests": [1.50, 2, null, {"x": "y"}], '
        '"big": 12345678901234567890}'
    )
    columns = Columns(others=True)
    found, _ = read_files(
        [DataFile(path, "x")], source="d", template="{problem}", system=None, columns=columns
    )
    assert found[0].columns == {
        "problem": "a",
        "answer": 1,
        "tests": [1.5, 2, None, {"x": "y"}],
        "big": 12345678901234567890,
    }
    assert read(path)[0][0].columns == {}


def test_what_json_has_not_is_text_or_null() -> None:
    fields = {"day": date(2026, 1, 2), "raw": b"ab", "none": math.nan, "huge": math.inf}
    assert json_object(fields) == {"day": "2026-01-02", "raw": "ab", "none": None, "huge": None}


def test_a_problem_needs_no_answer_if_nothing_compares_with_one(tmp_path: Path) -> None:
    path = save(tmp_path / "x.jsonl", [{"problem": "a"}, {"problem": "b", "answer": "7"}])
    with pytest.raises(DataError, match="no field 'answer'"):
        read(path)
    columns = Columns(answered=False)
    found, _ = read_files(
        [DataFile(path, "x")], source="d", template="{problem}", system=None, columns=columns
    )
    assert [prompt.answer for prompt in found] == ["", "7"]
