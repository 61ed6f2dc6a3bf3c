"""dgpo report: what it writes, what it prints, and every error in one line."""

from __future__ import annotations

import errno
import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.cli.helpers import in_process as dgpo
from tests.cli.helpers import run_python
from tests.cli.test_process import RUN_AND_REPORT
from tests.report.test_report import append, make, rollout, with_rollouts
from tests.study.samples import write_study


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = make(tmp_path / "runs" / "one")
    with_rollouts(folder, rollout("p", "wrong"), rollout("p", "correct", index=1))
    return folder.path


def test_the_page_lies_in_the_run_that_is_the_newest(run: Path) -> None:
    result = dgpo("report")
    assert (result.exit_code, result.stdout) == (0, "written to runs/one/report.html\n")
    page = (run / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert "Samples of step 6" in page


def test_the_same_run_gives_the_same_bytes(run: Path) -> None:
    pages = []
    for name in ("a.html", "b.html"):
        assert dgpo("report", str(run), "--out", name).exit_code == 0
        pages.append(Path(name).read_bytes())
    assert pages[0] == pages[1]


def test_several_runs_are_one_page_in_the_first(run: Path) -> None:
    other = make(run.parent / "two", 4, "credit.rule=uniform").path
    result = dgpo("report", str(run), str(other))
    assert result.exit_code == 0, result.stderr
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Settings that differ" in page and not (other / "report.html").exists()


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    found = write_study(tmp_path / "studies" / "credit", reward=lambda v, s, t: len(v) + s * t / 9)
    (found.run("entropy", 1) / "report.html").write_text("")
    shutil.rmtree(found.run("entropy", 2))
    return Path("studies/credit")


def test_a_study_is_one_page_of_all_its_runs_with_links_to_them(study: Path) -> None:
    result = dgpo("report", str(study))
    assert result.exit_code == 0, result.stderr
    assert result.stdout.endswith("written to studies/credit/report.html\n")
    assert "against uniform" in result.stdout
    page = (study / "report.html").read_text(encoding="utf-8")
    assert "2 variants × 3 seeds · 5 of 6 runs finished · baseline uniform" in page
    assert '<a href="runs/uniform/seed-0/">finished</a>' in page
    assert '<a href="runs/entropy/seed-1/report.html">finished</a>' in page
    assert "<td>missing</td>" in page
    dgpo("report", str(study), "--out", "a.html")
    assert '<a href="studies/credit/runs/uniform/seed-0/">' in Path("a.html").read_text()


def test_a_form_of_the_table_is_all_that_is_printed(study: Path) -> None:
    for form, begins in (
        ("markdown", "Mean reward (against entropy)\n\n| variant "),
        ("latex", "% needs \\usepackage{booktabs,textcomp}\n"),
        ("csv", "variant,settings,tuned,planned,finished,"),
        ("json", '{\n  "version": 1,\n  "name": "credit",'),
    ):
        result = dgpo("report", str(study), "--format", form, "--baseline", "entropy")
        assert result.exit_code == 0 and result.stdout.startswith(begins)
    assert result.stdout == dgpo("report", str(study), "--json", "--baseline", "entropy").stdout
    found = json.loads(result.stdout)
    assert [(row["variant"], row["finished"]) for row in found["rows"]] == [
        ("entropy", 2),
        ("uniform", 3),
    ]
    assert found["notes"] == ["entropy: 1 of 3 runs not finished and left out: seed 2"]
    assert not (study / "report.html").exists()
    csv = dgpo("report", str(study), "--format=csv", "--out=a.html")
    assert csv.stderr == f"note: {found['notes'][0]}\nnote: written to a.html\n"


def test_the_level_of_a_study_is_the_one_that_is_given(study: Path) -> None:
    found = json.loads(dgpo("report", str(study), "--json", "--level=7.1").stdout)
    assert found["level"] == 7.1
    # The only window has all four steps: 7 + s * 2.5 / 9.
    assert found["rows"][0]["to_level"]["by_seed"] == {"0": None, "1": 4.0, "2": 4.0}
    assert "steps to 7.100" in dgpo("report", str(study), "--level=7.1").stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--baseline=entropi",), "--baseline=entropi: no such variant of credit; did you mean"),
        (("--level=nan",), "--level=nan: must be a reward, such as 0.5"),
        (("--json", "--format=csv"), "--json, --format=csv: give one of them"),
        (("--format=xml",), "--format=xml: must be one of markdown, csv, latex, json"),
    ],
)
def test_what_is_wrong_about_a_study_is_named(
    study: Path, words: tuple[str, ...], said: str
) -> None:
    result = dgpo("report", str(study), *words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: {said}")


@pytest.mark.parametrize("flag", ["--format=csv", "--baseline=a", "--level=0.5"])
def test_what_is_asked_of_a_study_needs_one(run: Path, flag: str) -> None:
    result = dgpo("report", str(run), flag)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "is of a study; name the folder of one" in result.stderr


def test_a_picture_of_a_study_takes_the_place_of_its_page(study: Path) -> None:
    result = dgpo("report", str(study), "--svg", "a.svg")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.endswith("written to a.svg\n")
    assert "minus that of uniform" in Path("a.svg").read_text(encoding="utf-8")
    assert not (study / "report.html").exists()


def test_a_picture_of_runs_is_one_file_for_light_and_dark(run: Path) -> None:
    result = dgpo("report", str(run), "--svg", "a.svg")
    assert (result.exit_code, result.stdout) == (0, "written to a.svg\n")
    drawing = Path("a.svg").read_text(encoding="utf-8")
    light, dark = drawing.split("@media (prefers-color-scheme: dark)")
    assert ".paper { fill: #ffffff; }" in light and ".paper { fill: #16171b; }" in dark
    assert not (run / "report.html").exists()


def test_a_study_is_reported_alone(study: Path) -> None:
    result = dgpo("report", str(study), str(study / "runs" / "uniform" / "seed-0"))
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "error: studies/credit: is a study; name it alone\n"


def test_more_runs_than_a_page_shows_are_pointed_to_studies(run: Path) -> None:
    result = dgpo("report", *(f"runs/{at}" for at in range(9)))
    assert result.exit_code == 2
    assert result.stderr.startswith("error: 9 runs: a page shows at most 8; ")
    assert "dgpo study" in result.stderr


def test_json_is_all_that_is_printed_and_nothing_is_written(run: Path) -> None:
    result = dgpo("report", str(run), "--json")
    found = json.loads(result.stdout)
    assert (found["version"], found["runs"][0]["steps"]) == (1, 6)
    assert not (run / "report.html").exists()
    result = dgpo("report", str(run), "--json", "--out", "a.html")
    assert json.loads(result.stdout) == found
    assert "written to a.html" in result.stderr and Path("a.html").exists()


def test_a_picture_is_a_png(run: Path) -> None:
    pytest.importorskip("resvg_py", reason="resvg-py is in the extra png")
    result = dgpo("report", str(run), "--png", "a.png")
    if "no monospaced font" in result.stderr:
        pytest.skip("no font here")
    assert result.exit_code == 0, result.stderr
    assert Path("a.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert not (run / "report.html").exists()


def test_what_no_font_has_is_told_with_the_fix(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("resvg_py", reason="resvg-py is in the extra png")
    from dgpo_cli.ui import png

    few = {name: path for name, path in png._font_files().items() if name in png._MONOSPACED}
    if not few:
        pytest.skip("no font here")
    monkeypatch.setattr(png, "_font_files", lambda: few)
    result = dgpo("report", str(run.rename(run.with_name("走る"))), "--png", "a.png")
    assert result.exit_code == 0, result.stderr
    assert result.stderr.count("note: no font here has ") == 1
    assert "apt-get install fonts-noto-cjk" in " ".join(result.stderr.split())


def test_without_the_extra_the_picture_is_refused_before_any_work(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec

    def find(name: str, *rest: Any) -> Any:
        return None if name == "resvg_py" else real(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", find)
    result = dgpo("report", str(run), "--png", "a.png", "--out", "a.html")
    assert result.exit_code == 2
    assert result.stderr == "error: --png needs resvg-py: pip install 'dgpo-cli[png]'\n"
    assert not Path("a.html").exists()


def test_a_run_that_is_broken_in_parts_has_a_page_that_says_so(run: Path) -> None:
    append(run / "evals.jsonl", "{broken\n{}\n")
    append(run / "metrics.jsonl", '{"step": 7, "rew')
    told = "lines 1, 2 of evals.jsonl cannot be read and are left out"
    result = dgpo("report")
    assert result.exit_code == 0
    assert told in (run / "report.html").read_text(encoding="utf-8")
    assert result.stderr.startswith(f"note: {told}\n")
    result = dgpo("report", "--json")
    assert json.loads(result.stdout)["runs"] and result.stderr == f"note: {told}\n"
    other = make(run.parent / "two").path
    result = dgpo("report", str(run), str(other), "--json")
    assert result.stderr == f"note: one: {told}\n"


def test_metrics_that_the_system_does_not_give_end_the_report(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> bytes:
        raise OSError(errno.EIO, "Input/output error")  # as of a read: without the file's name

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", fail)
        result = dgpo("report")
    told = "error: runs/one/metrics.jsonl: cannot be read: Input/output error\n"
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", told)
    (run / "metrics.jsonl").unlink()
    (run / "metrics.jsonl").mkdir()
    result = dgpo("report")
    assert result.exit_code == 1
    assert result.stderr == "error: runs/one/metrics.jsonl: cannot be read: Is a directory\n"
    assert not (run / "report.html").exists()


def test_no_torch_is_needed(run: Path, tmp_path: Path) -> None:
    heavy = tmp_path / "heavy.txt"
    ended = run_python(RUN_AND_REPORT, "report", str(run), str(heavy))
    assert ended.code == 0, ended.err
    assert heavy.read_text() == "none"
