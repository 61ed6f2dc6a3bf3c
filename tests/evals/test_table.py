"""The table for a terminal and as Markdown, LaTeX, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace

import pytest
from rich.cells import cell_len

from dgpo_cli.core.codec import parsed
from dgpo_cli.core.types import Interval
from dgpo_cli.evals.matrix.exports import to_csv, to_json, to_latex, to_markdown
from dgpo_cli.evals.matrix.table import TABLE, Attempt, make_table
from dgpo_cli.evals.matrix.view import render
from dgpo_cli.ui.grid import latex
from tests.evals.tables import attempt, shown_table
from tests.samples import HOSTILE, SGR, check_snapshot, printed

NASTY = "".join(HOSTILE).replace("\ud800", "")


@pytest.mark.parametrize("width", [80, 60])
def test_snapshot_of_a_table(width: int) -> None:
    check_snapshot(f"table-{width}.txt", printed(render(shown_table()), width=width))


def test_snapshot_of_a_table_in_ascii() -> None:
    check_snapshot("table-ascii-40.txt", printed(render(shown_table()), width=40, encoding="ascii"))


def test_snapshots_of_the_exports() -> None:
    table = shown_table()
    check_snapshot("table.md", to_markdown(table))
    check_snapshot("table.tex", to_latex(table))
    check_snapshot("table.csv", to_csv(table))
    check_snapshot("table.json", json.dumps(to_json(table), indent=1) + "\n")


@pytest.mark.parametrize("width", [24, 40, 80, 200])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_every_line_fits_the_width(width: int, encoding: str) -> None:
    names = [NASTY, "x" * 300, "x" * 299 + "y"]
    found = [attempt(name, bench, 0.5) for name in names for bench in ("sums", NASTY)]
    found[3] = Attempt(names[1], NASTY, failure=NASTY)
    output = SGR.sub("", printed(render(make_table(found)), width=width, encoding=encoding))
    assert all(cell_len(line) <= width for line in output.split("\n"))
    assert "\x1b" not in output and "\x07" not in output


def test_names_that_look_alike_when_cut_are_told_apart() -> None:
    first, second = "a" * 40 + "/checkpoint-of-the-model", "b" * 40 + "/checkpoint-of-the-model"
    table = make_table([attempt(first, "sums", 0.3), attempt(second, "sums", 0.4)])
    output = printed(render(table), width=70)
    assert first in output and second in output


def test_one_benchmark_has_one_block_and_several_end_in_the_scores_of_all() -> None:
    one = printed(render(make_table([attempt("a", "sums", 0.3)])))
    assert one.count("Avg@16") == 1
    several = printed(render(shown_table())).split("\n")
    *_, last = (line for line in several if line.startswith("Avg@16"))
    assert "mean" in several[several.index(last) + 2]


def test_an_unknown_cost_is_empty_and_no_column_is_made_of_none() -> None:
    table = make_table([attempt("a", "sums", 0.3)])
    assert "cost" not in printed(render(table)) + to_markdown(table) + to_latex(table)
    (row,) = csv.DictReader(io.StringIO(to_csv(table)))
    assert (row["cost"], row["best"], row["failure"]) == ("", "", "")
    assert to_json(table)["cells"][0]["cost"] is None


def test_csv_has_every_digit_and_both_intervals() -> None:
    table = shown_table()
    rows = list(csv.DictReader(io.StringIO(to_csv(table))))
    assert len(rows) == len(table.cells) + len(table.means)
    for row, cell in zip(rows, (*table.cells, *table.means), strict=True):
        assert (row["model"], row["bench"]) == (cell.model, cell.bench)
        for name, value in (
            ("avg_at_k", cell.avg_at_k),
            ("rerun_low", cell.rerun_95.low),
            ("rerun_high", cell.rerun_95.high),
            ("problems_low", cell.problems_95.low),
            ("problems_high", cell.problems_95.high),
        ):
            assert row[name] == ("" if value != value else repr(value))


def test_json_comes_back_as_the_table() -> None:
    data = parsed(json.dumps(to_json(shown_table())).encode(), where="")
    again = TABLE.read(data, where="")
    assert to_json(again) == data
    assert again.cells[0] == shown_table().cells[0] or again.cells[0].cost != again.cells[0].cost


def test_a_greedy_cell_shows_no_error() -> None:
    found = attempt("a", "sums", 0.3, k=1)
    assert found.evaluation is not None
    greedy = replace(found, evaluation=replace(found.evaluation, greedy=True))
    table = make_table([greedy])
    for text in (printed(render(table)), to_markdown(table)):
        assert "Greedy decoding has no error over reruns." in text
        assert "±" not in text
    assert r"\pm" not in to_latex(table)
    (row,) = csv.DictReader(io.StringIO(to_csv(table)))
    assert (row["rerun_low"], row["stderr_rerun"], row["greedy"]) == ("", "", "true")
    assert row["problems_low"] != ""


def test_where_sampling_stopped_the_table_says_at_which_k() -> None:
    found = attempt("a", "sums", 0.3, k=12)
    assert found.evaluation is not None
    stopped = replace(found.evaluation, stop_when=0.015, rerun_95=Interval(0.286, 0.314))
    table = make_table([replace(found, evaluation=stopped), attempt("b", "sums", 0.9, k=8)])
    lines = printed(render(table)).split("\n")
    assert ["Avg@k", "k", "pass@8", "maj@k", "tokens", "trunc."] in [x.split() for x in lines]
    (row,) = [line.split() for line in lines if line.startswith("a ")]
    assert row[2:4] == ["±1.4", "12"]
    assert "k: sampling stopped at ±1.5 points (--stop-when), or at --k." in lines


def test_names_cannot_become_markup() -> None:
    hostile = "a|b`c*d_e<b>\n# x"
    table = make_table([attempt(hostile, r"\input{x}%$&#~^", 0.3)])
    markdown = to_markdown(table)
    body = [line for line in markdown.split("\n") if line.startswith("|")]
    assert {line.count("|") for line in body} == {body[0].count("|")}
    assert "<b>" not in markdown and not any(x.startswith("#") for x in markdown.split("\n"))
    tex = [line for line in to_latex(table).split("\n") if not line.startswith("%")]
    assert not any(r"\input" in line for line in tex)
    assert latex(r"\input{x}%$&#~^---") == (
        r"\textbackslash{}input\{x\}\%\$\&\#\textasciitilde{}\textasciicircum{}-{}-{}-"
    )
    rows = list(csv.reader(io.StringIO(to_csv(table))))
    assert len(rows) == 2 and len(rows[0]) == len(rows[1])


def test_every_tabular_has_as_many_cells_in_each_row_as_columns() -> None:
    columns = 0
    for line in to_latex(shown_table()).split("\n"):
        if found := re.match(r"\\begin\{tabular\}\{(l?r*)\}", line):
            columns = len(found[1])
        elif line.endswith(r"\\"):
            spanned = re.search(r"\\multicolumn\{(\d+)\}", line)
            cells = len(re.findall(r"(?<!\\)&", line)) + 1
            assert cells + (int(spanned[1]) - 1 if spanned else 0) == columns
    assert columns
