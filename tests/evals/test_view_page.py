"""The page of dgpo view has every sample, shows no answer unasked, and obeys no text."""

from __future__ import annotations

import base64
import json
import re
import zlib
from pathlib import Path
from typing import Any

import pytest

from dgpo_cli.core.events import NOBODY
from dgpo_cli.evals.page import stored
from dgpo_cli.evals.page.page import HEAD, MAX_EVALUATIONS, view_page
from tests.evals.stored_evaluations import EVIL, evaluation, line
from tests.ui.test_document import Elements

TWO = {"1+1": "cwc", "2+2": "tnc"}


def page(*paths: Path, limit: int | None = None) -> str:
    return view_page(stored.run(paths, observer=NOBODY), limit=limit)


def data_of(html: str) -> Any:
    return json.loads(Elements(html).named("script")[0][1])


def opened(text: str) -> Any:
    return json.loads(zlib.decompress(base64.b64decode(text)))


def cells(html: str) -> list[list[str]]:
    rows = re.findall(r"<tr>(.*?)</tr>", html.split("</thead>")[1], re.DOTALL)
    return [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in rows]


def test_a_page_has_every_sample_and_its_texts(tmp_path: Path) -> None:
    html = page(evaluation(tmp_path / "a", TWO).path)
    data = data_of(html)
    assert data["benches"] == [{"name": "sums", "ids": ["1+1", "2+2"]}]
    first, second = data["evals"][0]["rows"]
    assert (first["outcomes"], second["outcomes"]) == ("cwc", "tnc")
    assert first["tokens"] == [10, 20, 30]
    texts = opened(first["texts"])
    assert texts["gold"] == "gold of 1+1" and texts["asked"] == [["user", "How much is 1+1?"]]
    assert texts["samples"][1] == {
        "thought": "<think>thinking of 1+1, 1</think>",
        "text": "so 1+1 is 1",
        "read": "7",
        "finish": "stop",
    }


def test_the_table_has_the_scores_of_every_evaluation(tmp_path: Path) -> None:
    first = evaluation(tmp_path / "a", TWO).path
    part = evaluation(tmp_path / "b", {"1+1": "w"}, wanted=30, report=False).path
    whole, so_far = cells(page(first, part))
    assert dict(zip(HEAD, whole, strict=True)) == {
        "": "A",
        "model": "a",
        "Avg@k": "50.0%",
        "95% rerun": "18.8 to 81.2",
        "k": "3",
        "problems": "2",
        "pass@k": "100.0%",
        "maj@k": "100.0%",
        "mean tokens": "20.0",
        "truncated": "16.7%",
        "no answer": "16.7%",
        "cost": "-",
    }
    assert so_far[:6] == ["B", "b", "0.0% so far", "-", "-", "1 of 30"]


def test_evaluations_of_a_benchmark_are_aligned_by_problem(tmp_path: Path) -> None:
    one = evaluation(tmp_path / "a", TWO).path
    other = evaluation(tmp_path / "b", {"2+2": "cc", "3+3": "ww"}).path
    third = evaluation(tmp_path / "c", {"x": "w"}, bench="other").path
    data = data_of(page(one, other, third))
    assert [bench["ids"] for bench in data["benches"]] == [["1+1", "2+2", "3+3"], ["x"]]
    outcomes = [[row and row["outcomes"] for row in each["rows"]] for each in data["evals"]]
    assert outcomes == [["cwc", "tnc", None], [None, "cc", "ww"], ["w"]]


def test_problems_are_in_the_order_of_the_benchmark_or_of_their_numbers(tmp_path: Path) -> None:
    mixed = {"p-10": "c", "p-9": "w", "p-x": "w", "p-2": "w"}
    part = evaluation(tmp_path / "a", mixed, wanted=9, report=False).path
    assert data_of(page(part))["benches"][0]["ids"] == ["p-2", "p-9", "p-10", "p-x"]
    whole = evaluation(tmp_path / "b", {"p-9": "c", "p-2": "w"}).path
    assert data_of(page(part, whole))["benches"][0]["ids"] == ["p-9", "p-2", "p-10", "p-x"]


def test_neither_the_page_nor_its_source_shows_an_answer_unasked(tmp_path: Path) -> None:
    html = page(evaluation(tmp_path / "a", TWO).path)
    assert "gold of" not in html


def test_text_of_a_model_makes_no_element_and_no_control_character(tmp_path: Path) -> None:
    lines = [line(EVIL, 0, "w", text=EVIL, reasoning=EVIL, extracted=EVIL, answer=EVIL)]
    bad = evaluation(tmp_path / "a", {EVIL: "w"}, bench=EVIL, lines=lines).path
    good = evaluation(tmp_path / "b", {"p": "w"}).path
    html = page(bad)
    tags = [tag for tag, *_ in Elements(html).found]
    assert tags == [tag for tag, *_ in Elements(page(good)).found]
    assert not set(html) & set("\x1b\u202e\0")
    texts = opened(data_of(html)["evals"][0]["rows"][0]["texts"])
    said = json.dumps(texts, ensure_ascii=False)
    assert not set(said) & set("\x1b\u202e\0")
    assert texts["samples"][0]["text"].endswith("\\x1b[2J\\u202e\\x00")


def test_a_limit_keeps_both_ends_of_a_text(tmp_path: Path) -> None:
    lines = [line("p", 0, "w", text="".join(map(str, range(1000))))]
    path = evaluation(tmp_path / "a", {"p": "w"}, lines=lines).path
    html = page(path, limit=9)
    (sample,) = opened(data_of(html)["evals"][0]["rows"][0]["texts"])["samples"]
    assert sample["text"] == "01234\n[… 2,881 characters left out …]\n8999"
    assert "cut to 9 characters" in html
    assert "cut to" not in page(path)


def test_a_sample_of_an_endpoint_has_its_reasoning_and_what_is_unknown(tmp_path: Path) -> None:
    more = {"token_ids": [], "reasoning": "because", "finish": "content_filter"}
    path = evaluation(tmp_path / "a", {"p": "w"}, lines=[line("p", 0, "w", text="2", **more)]).path
    html = page(path)
    ((*_, length, _, _, cost),) = cells(html)
    assert (length, cost) == ("unknown", "-")
    assert data_of(html)["evals"][0]["rows"][0]["tokens"] == [None]
    (sample,) = opened(data_of(html)["evals"][0]["rows"][0]["texts"])["samples"]
    assert (sample["reasoning"], sample["finish"]) == ("because", "content_filter")


def test_the_same_evaluations_give_the_same_bytes(tmp_path: Path) -> None:
    path = evaluation(tmp_path / "a", TWO).path
    assert page(path) == page(path)


def test_a_page_has_no_more_evaluations_than_letters(tmp_path: Path) -> None:
    (found,) = stored.run([evaluation(tmp_path / "a", TWO).path], observer=NOBODY)
    with pytest.raises(ValueError, match="27"):
        view_page([found] * (MAX_EVALUATIONS + 1))
