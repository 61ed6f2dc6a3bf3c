"""The table of a study for a terminal and in every other form."""

from __future__ import annotations

import csv
import io
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.cells import cell_len

from dgpo_cli.study.exports import to_csv, to_latex, to_markdown
from dgpo_cli.study.read import read_study
from dgpo_cli.study.summary import StudyTable, summarise
from dgpo_cli.study.view import grids, render, sentences
from tests.samples import HOSTILE, SGR, check_snapshot, printed
from tests.study.samples import sample_study, write_study
from tests.study.test_summary import record_of

NASTY = "".join(HOSTILE).replace("\ud800", "")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> StudyTable:
    folder = tmp_path_factory.mktemp("studies") / "credit"
    sample_study(folder)
    return summarise(read_study(folder))


def test_snapshots_of_the_table(table: StudyTable) -> None:
    check_snapshot("study-80.txt", printed(render(table), width=80))
    ascii_only = printed(render(table), width=40, encoding="ascii")
    check_snapshot("study-ascii-40.txt", ascii_only)


@pytest.mark.parametrize("width", [24, 40, 80, 200])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_every_line_fits_the_width(table: StudyTable, width: int, encoding: str) -> None:
    nasty = replace(
        table,
        name=NASTY,
        description=NASTY,
        baseline=NASTY,
        rows=tuple(replace(row, variant=NASTY + row.variant) for row in table.rows),
        notes=(NASTY, "x" * 300),
    )
    output = SGR.sub("", printed(render(nasty), width=width, encoding=encoding))
    assert all(cell_len(line) <= width for line in output.split("\n"))
    assert "\x1b" not in output and "\x07" not in output


def test_the_sentences_say_what_differs_and_what_cannot_be_told(table: StudyTable) -> None:
    reward = [line for line in sentences(table) if line.startswith("Mean reward")]
    above, below, untold = reward
    assert re.fullmatch(
        r"Mean reward above uniform: surprisal \+0\.0\d+ \(\+0\.0\d+ to \+0\.0\d+\)\.", above
    )
    assert below.startswith("Mean reward below uniform: entropy -0.0")
    assert untold.startswith("Mean reward not told apart from uniform: dgpo ")
    difference = table.row("dgpo").reward.difference
    assert difference is not None and difference.seeds == 4
    assert untold.endswith(f". To show 0.01 takes roughly {difference.seeds_for_point} seeds.")


def test_an_interval_without_zero_is_undecided_if_holm_does_not_follow() -> None:
    """One difference of p = 0.03 among six is what chance gives."""
    noise = [-1, 1, -1, 1, -1, 1]
    none = {
        f"v{at}": {s: [0.5 + 0.01 * noise[(s + at) % 6] * (1 + s + at)] for s in range(6)}
        for at in range(5)
    }
    lucky = {s: [0.5 + 0.006 + 0.005 * noise[s]] for s in range(6)}
    rewards = {"base": {s: [0.5] for s in range(6)}, "lucky": lucky, **none}
    table = summarise(record_of(rewards))
    found = table.row("lucky").reward.difference
    assert found is not None and found.excludes_zero and not found.shown
    (said,) = (line for line in sentences(table) if "lucky" in line)
    assert said.startswith("Mean reward undecided: lucky +0.0060 (")
    assert said.endswith("but p corrected for 6 comparisons does not show it.")


def test_variants_without_an_interval_are_said_to_be() -> None:
    rewards = {"a": {0: [0.5], 1: [0.7]}, "same": {0: [0.5], 1: [0.7]}, "one": {0: [0.6]}}
    rewards["other"] = {7: [0.6]}
    assert sentences(summarise(record_of(rewards))) == [
        "Mean reward the same as a in every seed: same.",
        "Mean reward has no interval: one: give two seeds at least, whose differences differ.",
        "Mean reward not compared: other: no finished seed that a has too.",
    ]


def test_a_variant_without_a_finished_run_has_a_row_that_says_so(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "s", reward=lambda v, s, t: 0.1 * s + 0.01 * t * len(v))
    for seed in range(3):
        (folder.run("entropy", seed) / "checkpoints" / "step-000004").rmdir()
    table = summarise(read_study(tmp_path / "s"))
    output = printed(render(table))
    assert re.search("^entropy +no finished run", output, re.MULTILINE)
    assert "3 of 3 runs not finished and left out: seeds 0, 1, 2" in output
    assert "no finished run" in to_markdown(table) and "no finished run" in to_latex(table)
    assert len(list(csv.DictReader(io.StringIO(to_csv(table))))) == 2


def test_a_study_that_has_not_begun_is_shown() -> None:
    record = record_of({"a": {0: [0.5]}})
    table = summarise(replace(record, runs=(replace(record.runs[0], state="missing", steps=()),)))
    assert "no finished run" in printed(render(table))
    assert to_markdown(table) and to_latex(table) and to_csv(table)


def test_steps_to_a_level_say_how_many_seeds_get_there() -> None:
    rewards = {"a": {0: [0.1, 0.9], 1: [0.1, 0.9]}, "b": {0: [0.1, 0.9], 1: [0.1, 0.2]}}
    output = printed(render(summarise(record_of(rewards), level=0.5)))
    assert re.search(r"^a .* 2\.0 ±0\.0", output, re.MULTILINE)
    assert re.search(r"^b .* 1/2 get there", output, re.MULTILINE)


def test_what_the_search_chose_is_a_column(table: StudyTable) -> None:
    assert "optim.lr" not in printed(render(table))
    rows = [
        replace(row, tuned={"optim.lr": 2e-4} if at else {}) for at, row in enumerate(table.rows)
    ]
    tuned = printed(render(replace(table, rows=tuple(rows))))
    assert re.search(r"CPU time +optim\.lr$", tuned, re.MULTILINE)
    assert re.search(r"^uniform .* -$", tuned, re.MULTILINE)
    assert re.search(r"^entropy .* 0\.0002$", tuned, re.MULTILINE)


def test_csv_has_every_digit_of_the_table(table: StudyTable) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(table))))
    assert [row["variant"] for row in rows] == [row.variant for row in table.rows]
    assert rows[0]["reward_difference"] == ""
    for line, row in zip(rows[1:], table.rows[1:], strict=True):
        found, score = row.reward.difference, row.score
        assert found is not None and score is not None and score.after.difference is not None
        assert float(line["reward"]) == row.reward.mean
        assert float(line["reward_difference_low"]) == found.interval_95.low
        assert float(line["reward_p_holm"]) == found.p_holm
        assert float(line["after_difference"]) == score.after.difference.mean
        assert float(line["difference_problems_high"]) == score.difference_problems_95.high
        assert line["noise_scale"] == "" and math.isnan(row.noise_scale)


def test_every_tabular_has_as_many_cells_in_each_row_as_columns(table: StudyTable) -> None:
    columns = 0
    for line in to_latex(table).split("\n"):
        if found := re.match(r"\\begin\{tabular\}\{(l?r*)\}", line):
            columns = len(found[1])
        elif line.endswith(r"\\"):
            assert len(re.findall(r"(?<!\\)&", line)) + 1 == columns
    assert columns


def test_texts_of_a_study_cannot_become_markup(table: StudyTable) -> None:
    hostile = "a|b`c*d_e<b>[x](http://y)\n# www.x"
    nasty = replace(
        table,
        baseline=hostile,
        rows=tuple(replace(row, variant=hostile + row.variant) for row in table.rows),
        notes=(hostile,),
    )
    markdown = to_markdown(nasty)
    tables = [x.split("\n") for x in markdown.split("\n\n") if x.startswith("|")]
    assert len(tables) == len(grids(nasty))
    for body in tables:
        assert {line.count("|") for line in body} == {body[0].count("|")}
    assert "<b>" not in markdown
    prose = [line for line in markdown.split("\n") if not line.startswith("|")]
    assert not any(re.search(r"(?<!\\)[\[|`]|http:|www\.", line) for line in prose)
    assert not any(line.startswith("#") for line in markdown.split("\n"))
    tex = [line for line in to_latex(nasty).split("\n") if not line.startswith("%")]
    assert not any(re.search(r"(?<!\\)[#_]", line) for line in tex)
