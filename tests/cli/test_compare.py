"""Laws of dgpo compare: exit codes, what it prints, and that it loads nothing heavy."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path

import pytest

from dgpo_cli.core.types import Card, Verdict
from dgpo_cli.evals.views.evaluation_json import to_json
from dgpo_cli.stats.estimators import ProblemSamples, summarise
from tests.cli.helpers import dgpo as in_pipes
from tests.cli.helpers import in_process as dgpo
from tests.cli.helpers import on_terminal, run_python, without_escapes

RIGHT, WRONG = Verdict("correct", "4", 1.0), Verdict("wrong", "5", 0.0)


def stored(folder: Path, *, shift: int = 0, temperature: float = 0.6, n: int = 30) -> str:
    """Write the report of n problems with 32 samples of about 8,000 tokens; returns the folder."""
    problems = [
        ProblemSamples(
            id=f"2025-I-{at}",
            answer="4",
            verdicts=[RIGHT if sample < at + shift else WRONG for sample in range(32)],
            lengths=[8000 + 7 * sample for sample in range(32)],
        )
        for at in range(n)
    ]
    card = Card({"temperature": temperature}, {"model": f"m{shift}"}, {"backend": "hf"})
    folder.mkdir()
    text = json.dumps(to_json(summarise("aime2025", problems), card))
    (folder / "report.json").write_text(text, encoding="utf-8")
    return str(folder)


def test_compare_prints_the_difference_or_its_json(tmp_path: Path) -> None:
    before, after = stored(tmp_path / "a"), stored(tmp_path / "b", shift=2)
    shown = dgpo("compare", before, after)
    assert shown.exit_code == 0
    assert "difference +6.2 points" in shown.stdout and "model: m0 -> m2" in shown.stdout
    data = json.loads(dgpo("compare", before, after, "--json").stdout)
    assert data["comparisons"][0]["difference"] == pytest.approx(60 / 960)
    assert data["comparisons"][0]["p_problems"] == 2 / 2**30


def test_a_report_without_answers_compares_and_no_answer_is_printed_unless_asked_for(
    tmp_path: Path,
) -> None:
    before, after = stored(tmp_path / "a"), stored(tmp_path / "b", shift=2)
    whole = json.loads(dgpo("compare", before, after, "--json", "--answers").stdout)
    assert {each["answer"] for each in whole["comparisons"][0]["changes"]} == {"4"}
    told = Path(before, "report.json")
    printed = {**json.loads(told.read_text())}
    printed["problems"] = [{**each, "answer": None} for each in printed["problems"]]
    told.write_text(json.dumps(printed))
    data = json.loads(dgpo("compare", before, after, "--json").stdout)
    assert {each["answer"] for each in data["comparisons"][0]["changes"]} == {None}
    assert data["comparisons"][0]["difference"] == whole["comparisons"][0]["difference"]


def test_the_first_run_is_the_baseline_of_all_others(tmp_path: Path) -> None:
    folders = [stored(tmp_path / name, shift=at) for at, name in enumerate("abc")]
    data = json.loads(dgpo("compare", *folders, "--json").stdout)
    assert data["baseline"]["name"] == folders[0]
    assert [each["run"]["name"] for each in data["comparisons"]] == folders[1:]


def test_the_compared_scores_are_printed_as_one_table(tmp_path: Path) -> None:
    folders = [stored(tmp_path / name, shift=at) for name, at in (("a", 0), ("b", 1), ("c", 9))]
    rows = list(csv.DictReader(io.StringIO(dgpo("compare", *folders, "--csv").stdout)))
    assert [row["model"] for row in rows] == folders
    assert [row["best"] for row in rows] == ["", "", "all"]
    assert dgpo("compare", *folders, "--markdown").stdout.count("\n| ") == 5  # head, rule, rows
    assert r"\toprule" in dgpo("compare", *folders, "--latex").stdout
    both = dgpo("compare", *folders, "--latex", "--csv")
    assert both.exit_code == 2 and "--csv and --latex: give only one" in both.stderr


def test_identical_runs_have_p_one(tmp_path: Path) -> None:
    folder = stored(tmp_path / "a")
    shown = dgpo("compare", folder, folder).stdout
    assert shown.count("p = 1,") == 2 and "same score" in shown


def test_another_protocol_is_usage_and_force_goes_on(tmp_path: Path) -> None:
    folders = stored(tmp_path / "a"), stored(tmp_path / "b", temperature=1.0)
    ended = in_pipes("compare", *folders)
    assert (ended.code, ended.out) == (2, "")
    assert "error:   protocol.temperature: 0.6 -> 1.0" in ended.err.splitlines()
    ended = in_pipes("compare", *folders, "--force")
    assert ended.code == 0
    assert "not comparable" in ended.out and "protocol.temperature: 0.6 -> 1.0" in ended.out


def test_a_missing_folder_and_a_broken_report_are_usage(tmp_path: Path) -> None:
    folder = stored(tmp_path / "a")
    ended = dgpo("compare", folder, str(tmp_path / "nowhere"))
    assert ended.exit_code == 2
    assert dgpo("compare", folder).exit_code == 2
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "report.json").write_text('{"version": 1}')
    assert dgpo("compare", folder, str(tmp_path / "b")).exit_code == 2


def test_on_a_terminal_every_line_fits(tmp_path: Path) -> None:
    folders = stored(tmp_path / "a"), stored(tmp_path / "b", shift=1)
    command = [sys.executable, "-m", "dgpo_cli", "compare", *folders]
    for columns in (40, 80, 100):
        ended = on_terminal(*command, columns=columns)
        assert ended.code == 0
        assert all(len(line) <= columns for line in without_escapes(ended.out).splitlines())
    assert "\x1b" not in on_terminal(*command, env={"NO_COLOR": "1", "TERM": "dumb"}).out


def test_comparing_loads_no_torch_and_takes_under_two_seconds_of_cpu(tmp_path: Path) -> None:
    folders = stored(tmp_path / "a"), stored(tmp_path / "b", shift=1)
    code = (
        "import resource, sys\n"
        "from dgpo_cli.cli.main import app\n"
        "try:\n    app()\nexcept SystemExit as ended:\n    assert not ended.code\n"
        "used = resource.getrusage(resource.RUSAGE_SELF)\n"
        "heavy = {'torch', 'transformers', 'sympy', 'scipy', 'math_verify'} & set(sys.modules)\n"
        "print(f'cpu {used.ru_utime + used.ru_stime:.2f} heavy {sorted(heavy)}')\n"
    )
    ended = run_python(code, "compare", *folders)
    assert ended.code == 0, ended.err
    _, cpu, _, heavy = ended.out.splitlines()[-1].split()
    assert heavy == "[]" and float(cpu) < 2.0
