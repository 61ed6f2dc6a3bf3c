"""Laws of dgpo bench: what it lists, that it tells no answer unasked, and its exit codes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from dgpo_cli.doctor.benchmarks import findings
from dgpo_cli.prompts.catalog import benchmark_names, load_manifest
from tests.cli.helpers import in_process as dgpo
from tests.cli.helpers import on_terminal, run_python, without_escapes
from tests.prompts.test_benchmarks import save
from tests.prompts.test_catalog import MINE, install, invented

ROWS = [{"q": f"What is {n} + 7000?", "a": n + 7000} for n in range(3)]


def own(folder: Path, rows: list[dict[str, object]] | None = None) -> str:
    text = MINE.replace("minimum = 1\nmaximum = 9\n", "")
    save(ROWS if rows is None else rows, folder / "rows.jsonl")
    (folder / "mine.toml").write_text(text)
    return str(folder / "mine.toml")


def test_the_list_has_every_benchmark_once_under_its_kind() -> None:
    ended = dgpo("bench", "list")
    assert ended.exit_code == 0
    words = {"integer": "integers", "math": "general answers", "choice": "letters of options"}
    kind, found = "", {}
    for line in ended.stdout.splitlines():
        if line.partition("  ")[0] in words.values():
            kind = line.partition("  ")[0]
        elif line and not line.startswith(" "):
            found[line.split()[0]] = kind
    assert found == {name: words[load_manifest(name).answer_kind] for name in benchmark_names()}
    data = json.loads(dgpo("bench", "list", "--json").stdout)
    assert [each["name"] for each in data["benchmarks"]] == list(benchmark_names())
    (gpqa,) = [each for each in data["benchmarks"] if each["name"] == "gpqa-diamond"]
    assert (gpqa["problems"], gpqa["answers"], gpqa["package"]) == (198, "choice", "dgpo")
    assert (gpqa["source"], gpqa["cached"], data["faults"]) == ("Idavidrein/gpqa", False, [])


@pytest.mark.parametrize("columns", [80, 60])
def test_the_list_fits_a_terminal(columns: int) -> None:
    ended = on_terminal(sys.executable, "-m", "dgpo_cli", "bench", "list", columns=columns)
    lines = without_escapes(ended.out).splitlines()
    assert max(map(len, lines)) <= columns
    assert all(any(name in line for line in lines) for name in benchmark_names())
    assert any("OlympiadBench" in line for line in lines)


def test_packages_and_what_is_broken_in_them_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = "".join(json.dumps(row) + "\n" for row in ROWS)
    files = {"mine.toml": MINE, "rows.jsonl": rows, "sums.toml": MINE}
    install(tmp_path, "abench", {"all": "abench"}, files)
    monkeypatch.syspath_prepend(str(tmp_path))
    ended = dgpo("bench", "list")
    (line,) = [line for line in ended.stdout.splitlines() if line.startswith("mine ")]
    assert "rows.jsonl (abench)" in line and "here" in line
    assert "abench: its benchmark sums is not used, the name is dgpo's" in ended.stderr
    assert [finding.state for finding in findings()] == ["ok", "warn"]


def test_show_explains_a_benchmark_and_fetches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody answers there
    shown = dgpo("bench", "show", "MATH500")
    assert shown.exit_code == 0
    text = " ".join(shown.stdout.split())
    for part in (
        "math-500",
        "general answers",
        "boxed-math",
        "HuggingFaceH4/MATH-500",
        "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be",
        "35dc41080a3680858b27fa7e0533d2d547825316fc5dafe5d316f4ccc5a06132",
        "put your final answer within \\boxed{}",
        "or give --data FILE",
    ):
        assert part in text
    assert "An example" not in text


def test_an_example_comes_from_a_copy_and_its_answer_only_if_asked_for(tmp_path: Path) -> None:
    rows = [{**row, "answer": "\\frac{7}{9001}"} for row in invented("math-500")]
    copy = str(save(rows, tmp_path / "copy.jsonl"))
    quiet = dgpo("bench", "show", "math-500", "--data", copy).stdout
    assert "Number 0?" in quiet and "9001" not in quiet
    assert "9001" in dgpo("bench", "show", "math-500", "--data", copy, "--answers").stdout
    assert "What is 0 + 7000?" in dgpo("bench", "show", own(tmp_path)).stdout


def test_a_sound_benchmark_has_no_faults(tmp_path: Path) -> None:
    for arguments in (["sums"], [own(tmp_path)]):
        ended = dgpo("bench", "check", *arguments)
        assert (ended.exit_code, ended.stdout.splitlines()[-1]) == (0, "no faults")
    assert "3 integers; reward.kind=integer" in ended.stdout


def test_every_fault_is_listed_without_the_answer_and_ends_with_1(tmp_path: Path) -> None:
    rows = [*ROWS, dict(ROWS[0]), {"q": "Why?", "a": "7919 of them"}, {"q": "", "a": 1}]
    path = own(tmp_path, rows)
    ended = dgpo("bench", "check", path)
    assert ended.exit_code == 1
    text = " ".join(ended.stdout.split())
    for part in (
        "5 rows, 4 problems, some repeated",
        "4 different problems, but there must be 3",
        "line 6: the problem is empty",
        "line 5: answer is not an integer",
        "4 faults",
    ):
        assert part in text
    assert "7919" not in ended.output
    assert "7919" in dgpo("bench", "check", path, "--answers").stdout


def test_a_value_that_a_manifest_sets_and_no_setting_takes_is_a_fault(tmp_path: Path) -> None:
    path = Path(own(tmp_path))
    path.write_text(path.read_text().replace("Say {problem}", "Say it"))
    ended = dgpo("bench", "check", str(path))
    assert ended.exit_code == 1
    text = " ".join(ended.stdout.split())
    assert "prompts.template=Say it (protocol boxed): has the wrong form" in text


def test_a_file_of_problems_is_checked_and_the_checker_that_fits_named(tmp_path: Path) -> None:
    rows = [
        {"problem": "1+1?", "answer": "2"},
        {"problem": "Half?", "answer": "1/2"},
    ]
    path = str(save(rows, tmp_path / "own.jsonl"))
    ended = dgpo("bench", "check", path)
    assert ended.exit_code == 0
    assert "1 integer, 1 general answer; reward.kind=math" in ended.stdout
    letters = [{"q": f"{n}?", "gold": "ABCD"[n]} for n in range(4)]
    path = str(save(letters, tmp_path / "letters.jsonl"))
    ended = dgpo("bench", "check", path, "--columns", "problem=q,answer=gold")
    assert "4 letters; reward.kind=choice" in ended.stdout
    rows += [dict(rows[0]), {"problem": "Show it.", "answer": "see the proof"}]
    path = str(save(rows, tmp_path / "own.jsonl"))
    ended = dgpo("bench", "check", path)
    assert ended.exit_code == 1
    assert "duplicates left out" in ended.stdout
    assert "'own:4': answer is a placeholder; no checker can read it" in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["show", "gsm8"], "did you mean gsm8k?"),
        (["check", "gone.toml"], "no such file"),
        (["check", "sums", "--columns", "x=y"], "--columns x=y"),
        (["show", __file__], "without a manifest; dgpo bench check reads it"),
        (["check", "sums", "--data", "x"], "is generated"),
    ],
)
def test_a_wrong_argument_is_usage(arguments: list[str], said: str) -> None:
    ended = dgpo("bench", *arguments)
    assert ended.exit_code == 2
    assert said in ended.stderr


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys\n"
        "from dgpo_cli.cli.main import app\n"
        "try:\n    app(['bench', 'show', 'math-500'])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'transformers', 'sympy', 'peft'} & set(sys.modules)))"
    )
    assert run_python(code).out.splitlines()[-1] == "[]"
