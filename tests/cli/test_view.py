"""dgpo view: where the page goes, and what is said of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from dgpo_cli.evals.page import page
from tests.cli.helpers import in_process as dgpo
from tests.cli.helpers import run_python
from tests.evals.stored_evaluations import evaluation


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    evaluation(tmp_path / "evals" / "a", {"p": "cw"})
    evaluation(tmp_path / "evals" / "b", {"p": "w"}, wanted=3, report=False)
    return tmp_path / "evals"


def test_the_page_lies_in_the_first_evaluation(two: Path) -> None:
    result = dgpo("view", "evals/a", "evals/b")
    assert (result.exit_code, result.stdout) == (0, "written to evals/a/view.html\n")
    assert result.stderr == "note: b: unfinished: 1 sample, of 1 of 3 problems\n"
    assert (two / "a" / "view.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert not (two / "b" / "view.html").exists()


def test_the_newest_evaluation_is_shown_unasked(two: Path) -> None:
    assert dgpo("view").stdout == "written to evals/b/view.html\n"


def test_a_run_gets_the_page_of_its_evaluations(two: Path, tmp_path: Path) -> None:
    evaluation(tmp_path / "run" / "evals" / "step-000005", {"p": "c"})
    assert dgpo("view", "run").stdout == "written to run/view.html\n"
    result = dgpo("view", "run", "--out", "x.html")
    assert result.stdout == "written to x.html\n" and Path("x.html").exists()


def test_a_page_too_large_for_a_browser_comes_with_the_fix(
    two: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "LARGE", 1000)
    result = dgpo("view", "evals/a")
    assert result.exit_code == 0
    assert "--limit-text 8000" in result.stderr and "view.html has" in result.stderr


def test_too_many_evaluations_are_refused_with_their_number(two: Path) -> None:
    for at in range(26):
        evaluation(two / f"c{at}", {"p": "c"})
    result = dgpo("view", *map(str, sorted(two.iterdir())))
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith("error: 28 evaluations: a page shows")


def test_a_view_imports_nothing_heavy(two: Path) -> None:
    code = (
        "import sys\nfrom dgpo_cli.cli.main import app\n"
        "try:\n    app(['view', 'evals/a'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'vllm', 'peft', 'sympy', 'math_verify'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    assert run_python(code).out.splitlines()[-1] == "[]"
