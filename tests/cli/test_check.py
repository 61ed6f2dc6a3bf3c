r"""Laws of dgpo check: what it prints for each line, its exit codes, and that it streams."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any, get_args

import pytest

from dgpo_cli.rewards.settings import Extract
from tests.cli.helpers import Ended, environment, in_process, run_python
from tests.cli.test_process import DGPO, RUN_AND_REPORT

SECONDS = 20


def lines_of(*cases: dict[str, Any] | str) -> str:
    texts = (case if isinstance(case, str) else json.dumps(case) for case in cases)
    return "".join(f"{text}\n" for text in texts)


def check(tmp_path: Path, text: str | bytes, *arguments: str) -> Ended:
    file = tmp_path / "cases.jsonl"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return dgpo("check", str(file), *arguments)


def dgpo(*arguments: str) -> Ended:
    """Run dgpo in this process: most laws do not need one of their own."""
    result = in_process(*arguments)
    return Ended(result.exit_code, result.stdout, result.stderr)


CASES = lines_of(
    {"gold": "204", "output": r"\boxed{204\text{ cm}}", "want": "correct"},
    {"gold": 25, "output": r"\boxed{025}"},
    {"gold": "5", "output": r"\boxed{5!}", "want": "incorrect", "id": "2024-I-1"},
    {"gold": "204", "output": r"\boxed{2040}", "want": "out_of_range"},
    {"gold": "204", "output": r"I do not know"},
    {"gold": "204", "output": r"so \boxed{20", "finish_reason": "length", "want": "truncated"},
    "",
    {"gold": "204", "output": r"\boxed{|-204|}", "want": "policy"},
)


SUMMARY = (
    "7 checked: 2 correct, 2 wrong, 1 out_of_range, 1 no_answer, 1 truncated; 4 as wanted, 0 not; "
    "precision 100.0% (false positives: 0); recall 100.0% (false negatives: 0)"
)


def test_each_line_is_printed_with_its_outcome_and_answer(tmp_path: Path) -> None:
    ended = check(tmp_path, CASES)
    assert (ended.code, ended.err) == (0, "")
    assert [line.split() for line in ended.out.splitlines()] == [
        ["line", "outcome", "gold", "extracted"],
        ["1", "correct", "204", "204"],
        ["2", "correct", "25", "25"],
        ["3", "wrong", "5", "5!"],
        ["4", "out_of_range", "204", "2040"],
        ["5", "no_answer", "204"],
        ["6", "truncated", "204"],
        ["8", "wrong", "204", "|-204|"],
        SUMMARY.split(),
    ]


def test_json_has_a_line_for_a_line_and_nothing_else(tmp_path: Path) -> None:
    ended = check(tmp_path, CASES, "--json")
    results = [json.loads(line) for line in ended.out.splitlines()]
    assert results[0] == {
        "line": 1,
        "gold": "204",
        "outcome": "correct",
        "extracted": "204",
        "want": "correct",
        "agrees": True,
    }
    assert results[1] == {"line": 2, "gold": "25", "outcome": "correct", "extracted": "25"}
    assert (results[2]["id"], results[2]["agrees"]) == ("2024-I-1", True)
    assert (results[4]["outcome"], results[4]["extracted"]) == ("no_answer", None)
    assert (results[6]["want"], results[6]["agrees"]) == ("policy", None)
    assert len(results) == 7
    assert ended.err.startswith("note: 7 checked: 2 correct")


@pytest.mark.parametrize(
    ("want", "output", "code"),
    [
        ("correct", "204", 0),
        ("correct", "205", 1),
        ("incorrect", "205", 0),
        ("incorrect", "20500", 0),
        ("incorrect", "204", 1),
        ("wrong", "205", 0),
        ("wrong", "20500", 1),
        ("policy", "205", 0),
    ],
)
def test_a_verdict_that_is_not_the_wanted_one_exits_with_1(
    tmp_path: Path, want: str, output: str, code: int
) -> None:
    case = {"gold": "204", "output": rf"\boxed{{{output}}}", "want": want}
    ended = check(tmp_path, lines_of(case))
    assert ended.code == code
    assert (f"<- want {want}" in ended.out) == (code == 1)
    assert ("0 as wanted, 1 not" in ended.out) == (code == 1)


def test_precision_and_recall_are_over_the_lines_that_want_a_verdict(tmp_path: Path) -> None:
    called = [("4", "correct")] * 3 + [("4", "incorrect"), ("5", "correct"), ("5", "incorrect")]
    lines = [
        {"gold": "4", "output": rf"\boxed{{{answer}}}", "want": want} for answer, want in called
    ]
    ended = check(tmp_path, lines_of(*lines, {"gold": "4", "output": r"\boxed{4}"}))
    assert ended.code == 1
    assert "precision 75.0% (false positives: 1); recall 75.0% (false negatives: 1)" in ended.out


def test_a_gold_of_gsm8k_is_what_stands_behind_its_marker(tmp_path: Path) -> None:
    line = {"gold": "4+15=<<4+15=19>>19\n#### 19", "output": r"\boxed{19}", "want": "correct"}
    ended = check(tmp_path, lines_of(line), "--json")
    assert ended.code == 0
    assert json.loads(ended.out)["gold"] == "19"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON: Expecting property name"),
        ("[" * 100_000, "not JSON: "),
        ("[1]", "not a JSON object with gold and output"),
        ('{"gold": "1", "text": "x"}', "no field 'output' (fields: 'gold', 'text')"),
        ('{"output": "1"}', "no field 'gold' (fields: 'output')"),
        ('{"gold": "1/2", "output": ""}', "answer='1/2' is not an integer"),
        ('{"gold": true, "output": ""}', "gold=True is not text; put it in quotes"),
        ('{"gold": "1", "output": null}', "output=None is not text"),
        ('{"gold": "1", "output": "", "want": "yes"}', "want='yes': must be one of correct, "),
        ('{"gold": "1", "output": "", "want": ["correct"]}', "want=['correct']: must be one"),
        ('{"gold": "1", "output": "", "finish_reason": "eos"}', "must be stop or length"),
    ],
)
def test_a_broken_line_is_named_and_the_others_are_judged(
    tmp_path: Path, line: str, reason: str
) -> None:
    good = {"gold": "1", "output": r"\boxed{1}", "want": "incorrect"}
    ended = check(tmp_path, lines_of(good, line, good), "--json")
    assert ended.code == 2
    assert [json.loads(text)["line"] for text in ended.out.splitlines()] == [1, 3]
    error, note = ended.err.splitlines()
    assert error.startswith(f"error: {tmp_path / 'cases.jsonl'}, line 2: ")
    assert reason in error
    assert note.endswith(
        "2 checked: 2 correct; 0 as wanted, 2 not; precision 0.0% (false positives: 2); "
        "1 cannot be judged"
    )


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    text = b'\xef\xbb\xbf{"gold": "1", "output": "\\\\boxed{1}"}\n{"gold": "\xff"}\n'
    ended = check(tmp_path, text)
    assert ended.code == 2
    assert "1 correct" in ended.out
    assert "line 2: not UTF-8 at byte 10" in ended.err


def test_what_a_terminal_would_obey_is_shown(tmp_path: Path) -> None:
    case = {"gold": "1", "output": "\\boxed{\x1b[2J[red]\u202e\n1}"}
    ended = check(tmp_path, lines_of(case))
    assert "\x1b" not in ended.out and "\u202e" not in ended.out
    assert "\\x1b[2J[red]" in ended.out
    assert len(ended.out.splitlines()) == 3


def test_the_range_the_place_and_the_checker_can_be_chosen(tmp_path: Path) -> None:
    def outcomes(gold: str, output: str, *arguments: str) -> str:
        ended = check(tmp_path, lines_of({"gold": gold, "output": output}), "--json", *arguments)
        return json.loads(ended.out)["outcome"]

    assert outcomes("5", r"\boxed{50}", "--maximum", "10") == "out_of_range"
    assert outcomes("-5", r"\boxed{-7}") == "wrong"  # the gold answer itself is beyond 0 to 999
    assert outcomes("5", r"\boxed{-7}", "--minimum", "-9") == "wrong"
    assert outcomes("5", r"\boxed{4} Answer: 5", "--extract", "answer-line") == "correct"
    assert outcomes("5", "Answer: 5", "--extract", "boxed") == "no_answer"
    assert outcomes("1/2", r"\boxed{0.5}", "--kind", "math") == "correct"
    endless = r"\boxed{\int_0^1 x^{x^{x^{x}}} dx}"
    assert outcomes("1/2", endless, "--kind", "math", "--timeout", "1") == "timeout"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.jsonl"], "nowhere.jsonl: no such file or directory; give a file"),
        (["."], ".: is a directory; give a file"),
        (["-", "--minimum", "5", "--maximum", "4"], "--minimum=5 is above --maximum=4"),
        (["-", "--minimum", "1000"], "--minimum=1000 is above --maximum=999: "),
        (["-", "--kind", "math", "--maximum", "4"], "--minimum and --maximum are for integers"),
        (["-", "--timeout", "0"], "--timeout=0: must be greater than 0"),
        (["-", "--timeout", "nan"], "--timeout=nan: must be greater than 0"),
        (["-", "--extract", "box"], "--extract=box: must be one of boxed, answer-line, "),
    ],
)
def test_a_usage_mistake_is_one_line(arguments: list[str], message: str) -> None:
    ended = dgpo("check", *arguments)
    assert (ended.code, ended.out) == (2, "")
    (line,) = ended.err.splitlines()
    assert message in line


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*DGPO, "check", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(PYTHONUNBUFFERED=""),
        start_new_session=True,
    )


def children_of(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


def test_each_verdict_comes_before_the_next_line_is_there() -> None:
    process = start("-", "--json")
    assert process.stdin is not None and process.stdout is not None
    for answer, outcome in (("204", "correct"), ("205", "wrong"), ("2040", "out_of_range")):
        process.stdin.write(lines_of({"gold": "204", "output": rf"\boxed{{{answer}}}"}))
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["outcome"] == outcome
    process.stdin.close()
    assert process.wait(SECONDS) == 0


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
def test_ctrl_c_ends_it_and_its_workers_in_one_line() -> None:
    process = start("-", "--json")
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(lines_of({"gold": "1", "output": r"\boxed{1}"}))
    process.stdin.flush()
    process.stdout.readline()
    workers = children_of(process.pid)
    assert workers
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=SECONDS)
    assert (process.returncode, out, err) == (130, "", "interrupted\n")
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)


def test_integers_are_judged_without_torch_or_sympy(tmp_path: Path) -> None:
    file, report = tmp_path / "cases.jsonl", tmp_path / "heavy.txt"
    file.write_text(CASES)
    ended = run_python(RUN_AND_REPORT, "check", str(file), str(report))
    assert ended.code == 0, ended.err
    assert report.read_text() == "none"


def test_the_places_of_an_answer_are_named_once() -> None:
    ended = dgpo("check", "--help")
    for place in get_args(Extract):
        assert place in ended.out


def test_letters_are_judged_with_their_own_options(tmp_path: Path) -> None:
    lines = lines_of(*({"gold": "C", "output": f"Answer: {letter}"} for letter in "CDE"))
    four = check(tmp_path, lines, "--kind", "choice")
    ten = check(tmp_path, lines, "--kind", "choice", "--choices", "10")
    assert "3 checked: 1 correct, 1 wrong, 1 out_of_range" in four.out
    assert sorted(line.split()[1] for line in ten.out.splitlines()[1:4]) == [
        "correct",
        "wrong",
        "wrong",
    ]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--choices", "4"], "--choices=4 is for letters; add --kind choice"),
        (["--kind", "choice", "--choices", "27"], "--choices=27: must be 2 to 26"),
        (["--kind", "choice", "--choices", "1"], "--choices=1: must be 2 to 26"),
        (["--kind", "choice", "--maximum", "9"], "are for integers; leave out --kind choice"),
        (["--kind", "choice", "--extract", "last-number"], "last-number is for numbers"),
    ],
)
def test_an_option_of_another_checker_is_refused(
    tmp_path: Path, flags: list[str], said: str
) -> None:
    ended = check(tmp_path, lines_of({"gold": "C", "output": "C"}), *flags)
    assert ended.code == 2
    assert said in ended.err
