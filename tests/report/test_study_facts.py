"""The effects, links and settings of a study's page and picture are those of its records."""

from __future__ import annotations

import re
import statistics
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from dgpo_cli.core.types import Variant
from dgpo_cli.report.study_facts import effects, key_of, runs, settings
from dgpo_cli.report.study_page import study_page
from dgpo_cli.report.study_picture import study_svg
from dgpo_cli.report.study_series import study_series
from dgpo_cli.study.read import read_study
from dgpo_cli.study.summary import summarise
from tests.report.study_records import FEW, MANY, study, study_run
from tests.study.samples import sample_study


def test_a_row_shows_the_difference_of_the_table_and_its_seeds() -> None:
    record = study(FEW)
    table = summarise(record)
    (found,) = effects(table, study_series(record), lettered=True)
    assert found.title == "Mean reward over training, minus that of uniform"
    for effect, row in zip(found.effects, table.rows[1:], strict=True):
        difference = row.reward.difference
        assert difference is not None
        assert (effect.mean, effect.low) == (difference.mean, difference.interval_95.low)
        assert statistics.fmean(effect.dots) == pytest.approx(difference.mean)
        assert len(effect.dots) == 5
    assert [each.label for each in found.effects] == ["B surprisal", "C rule=dgpo,tau=0.02"]
    assert re.fullmatch(
        r"\+0\.01\d+ \(\+0\.0\d+ to \+0\.01\d+\), p < 0\.0001", found.effects[0].text
    )


def test_a_seed_without_its_pair_is_no_dot() -> None:
    record = study(FEW, extra=[study_run("uniform", 3, steps=0)])
    (found,) = effects(summarise(record), study_series(record), lettered=True)
    assert [len(each.dots) for each in found.effects] == [4, 4]


def test_one_seed_has_no_interval_and_says_so() -> None:
    record = study(FEW, seeds=(0,))
    (found,) = effects(summarise(record), study_series(record), lettered=True)
    assert {(each.low, each.high) for each in found.effects} == {(None, None)}
    for each in found.effects:
        assert re.fullmatch(r"[+-]0\.0\d+, no interval: one seed", each.text)


def test_scores_are_compared_in_points(tmp_path: Path) -> None:
    record = read_study(sample_study(tmp_path / "study").path)
    table = summarise(record)
    _, found = effects(table, study_series(record), lettered=False)
    assert found.title == "Avg@8 on sums after training, minus that of uniform, in points"
    for effect, row in zip(found.effects, table.rows[1:], strict=True):
        assert row.score is not None and row.score.after.difference is not None
        assert effect.mean == pytest.approx(100 * row.score.after.difference.mean)
        assert statistics.fmean(effect.dots) == pytest.approx(effect.mean)
        assert effect.text.startswith(f"{effect.mean:+.1f} (")


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("+0.0107", 0.0107),
        ("-3.5", -3.5),
        ("< 0.0001", 0.0001),
        ("1,234", 1234.0),
        ("3/10", 3.0),
        ("1 min 30 s", 90.0),
        ("59.7 s", 59.7),
        ("2 h 5 min", 7500.0),
        ("41.2%", 41.2),
        ("-", None),
        ("", None),
    ],
)
def test_a_cell_is_sorted_by_its_number(text: str, key: float | None) -> None:
    assert key_of(text) == (None if key is None else pytest.approx(key))


def test_links_lead_from_the_page_to_the_runs(tmp_path: Path) -> None:
    folder = tmp_path / "credit" / "runs" / "rule=dgpo,tau=0.02 #1" / "seed-0"
    folder.mkdir(parents=True)
    run = replace(study_run("a", 0), folder=str(folder))
    record = study({"a": 0.0}, seeds=(0, 1), extra=[run])
    ((_, cells),) = runs(record, at=tmp_path / "credit")
    assert [link for _, link in cells] == ["runs/rule%3Ddgpo%2Ctau%3D0.02%20%231/seed-0/", ""]
    (folder / "report.html").write_text("")
    ((_, cells),) = runs(record, at=tmp_path / "pages")
    assert cells[0][1].startswith("../credit/runs/") and cells[0][1].endswith("/report.html")


def test_settings_that_a_search_chose_are_told_apart() -> None:
    tuned = (Variant("a", {"credit.rule": "dgpo"}, {"optim.lr": 2e-4}), Variant("b", {}, {}))
    keys, rows = settings(replace(study({"a": 0.0, "b": 0.0}, steps=1), variants=tuned))
    assert keys == ["credit.rule", "optim.lr"]
    assert rows == [("a", ["dgpo", "0.0002 (tuned)"]), ("b", ["", ""])]


@pytest.mark.parametrize("planted", [FEW, MANY], ids=["few", "many"])
def test_the_picture_has_every_variant_and_the_numbers_of_the_table(
    planted: dict[str, float],
) -> None:
    record = study(planted, steps=20)
    table = summarise(record)
    drawing = study_svg(record, table)
    assert "var(" not in drawing and "light-dark" not in drawing and "<script" not in drawing
    assert "@media (prefers-color-scheme: dark)" in drawing
    assert study_svg(record, table) == drawing
    texts = [each.text for each in ElementTree.fromstring(drawing).iter() if each.text]
    (found,) = effects(table, study_series(record), lettered=False)
    for each in found.effects:
        assert each.text in texts
        assert texts.count(each.label) == 2  # at its curve and at its row
    charts = drawing.count('class="series s0"')
    assert charts == (24 if planted is MANY else 0)


def test_a_picture_of_a_study_without_steps_is_a_picture() -> None:
    record = study(FEW, steps=0)
    drawing = study_svg(record, summarise(record))
    assert ElementTree.fromstring(drawing).get("viewBox") == "0 0 860 52"


def test_the_page_of_130_runs_of_200_steps_is_below_a_megabyte() -> None:
    """With 11 metrics; benchmarks/report.py has 71."""
    record = study(MANY, seeds=range(10), steps=200)
    assert len(study_page(record, summarise(record), at=Path()).encode()) < 1_000_000
