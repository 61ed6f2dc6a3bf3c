"""Laws of the process: exit codes, streams, escape codes, and what is never imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dgpo_cli import __version__
from dgpo_cli.config.presets import preset_text
from tests.cli.helpers import COLOUR, ESCAPE, Ended, dgpo, environment, on_terminal, run_python

DGPO = (sys.executable, "-m", "dgpo_cli")
RUN_AND_REPORT = """
import sys
from dgpo_cli.__main__ import main
report = sys.argv.pop()
try:
    main()
finally:
    heavy = {"torch", "transformers", "vllm", "peft", "sympy", "math_verify"} & set(sys.modules)
    open(report, "w").write(" ".join(sorted(heavy)) or "none")
"""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["train", "--help"], 0),
        (["preset", "list"], 0),
        (["preset", "show", "tiny"], 0),
        (["train", "--preset", "qwen32b-full", "--dry-run"], 0),
        (["train", "--preset", "tiny", "--set", "credit.tau=0"], 2),
        (["train", "--preset", "tiny", "--nonsense"], 2),
        (["train", "--preset", "qwen7b-lora"], 2),
        (["eval", "--bench", "sums"], 2),
        (["eval", "--bench", "sums", "--preset", "tiny", "--protocol", "boxd"], 2),
        (["eval", "--bench", "sums", "--preset", "tiny", "--set", "credit.tau=0"], 2),
        (["regrade", "absent"], 2),
        (["eval", "--bench", "sums", "--model", "org/absent"], 1),
        (["rollout", "--prompts", "sums", "--out", "absent/r.jsonl", "--model", "org/absent"], 1),
    ],
)
def test_nothing_heavy_is_imported_to_answer(
    arguments: list[str], code: int, tmp_path: Path
) -> None:
    report = tmp_path / "heavy.txt"
    ended = run_python(RUN_AND_REPORT, *arguments, str(report))
    assert ended.code == code, ended.err
    assert report.read_text() == "none"


def test_the_heavy_import_test_would_notice_torch(tmp_path: Path) -> None:
    report = tmp_path / "heavy.txt"
    plant = "import sys, types; sys.modules['torch'] = types.ModuleType('torch')"
    run_python(plant + RUN_AND_REPORT, "--version", str(report))
    assert report.read_text() == "torch"


def test_version_goes_to_stdout() -> None:
    ended = dgpo("--version")
    assert (ended.code, ended.out, ended.err) == (0, f"dgpo {__version__}\n", "")


def test_a_mistake_is_one_line_on_stderr_and_exits_with_2() -> None:
    ended = dgpo("train", "--preset", "tiny", "--set", "optim.lrr=1")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == "error: optim.lrr (--set): unknown setting; did you mean optim.lr?\n"


def test_several_mistakes_are_a_line_each() -> None:
    ended = dgpo("train", "--preset", "tiny", "--set", "lr=1", "--set", "credit.tau=0")
    assert ended.code == 2
    assert [line.split(" ")[:2] for line in ended.err.splitlines()] == [
        ["error:", "lr"],
        ["error:", "credit.tau=0:"],
    ]


@pytest.mark.parametrize("before", [True, False])
def test_debug_shows_the_traceback_wherever_it_stands(before: bool) -> None:
    command = ["train", "--preset", "tiny", "--set", "credit.tau=0"]
    arguments = ["--debug", *command] if before else [*command, "--debug"]
    ended = dgpo(*arguments)
    assert ended.code == 2
    assert "Traceback (most recent call last)" in ended.err
    assert "Traceback" not in dgpo(*command).err


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--help"],
        ["preset", "list"],
        ["train", "--preset", "tiny", "--dry-run", "--set", "credit.rule=uniform"],
        ["train", "--preset", "tiny", "--set", "credit.tau=0"],
        ["frob"],
    ],
    ids=" ".join,
)
def test_nothing_sends_escape_codes_into_a_pipe(arguments: list[str]) -> None:
    ended = dgpo(*arguments)
    assert ended.out or ended.err
    assert ESCAPE not in ended.out + ended.err


def test_no_line_is_cut_or_wrapped_in_a_pipe() -> None:
    ended = dgpo("train", "--preset", "tiny", "--dry-run", "--set", f"model.path={'long/' * 50}x")
    (line,) = [line for line in ended.out.splitlines() if line.startswith("model.path ")]
    assert line.split() == ["model.path", "long/" * 50 + "x", "--set"]


def test_colour_is_for_terminals_that_want_it() -> None:
    command = (*DGPO, "train", "--preset", "nope")
    assert COLOUR.search(on_terminal(*command).out)
    assert not COLOUR.search(on_terminal(*command, env={"NO_COLOR": "1"}).out)


def test_values_of_the_user_cannot_steer_the_terminal() -> None:
    ended = on_terminal(
        *DGPO, "train", "--preset", "tiny", "--dry-run", "--set", "model.path=[red]a\x1b]0;t\x07"
    )
    assert "\x1b]0" not in ended.out
    assert "[red]a\\x1b]0;t\\x07" in ended.out


def test_a_reader_that_leaves_early_is_no_error() -> None:
    command = subprocess.list2cmdline([*DGPO, "preset", "show", "tiny"])
    done = subprocess.run(
        ["bash", "-c", f"{command} | head -1"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == preset_text("tiny").splitlines()[0] + "\n"
    assert done.stderr == ""


def test_a_closed_stdout_is_no_traceback() -> None:
    program = (
        "import subprocess, sys\n"
        "p = subprocess.Popen([sys.executable, '-m', 'dgpo_cli', 'preset', 'list'],"
        " stdout=subprocess.PIPE, stderr=subprocess.PIPE)\n"
        "p.stdout.close()\n"
        "print(repr(p.stderr.read().decode()), p.wait())\n"
    )
    assert run_python(program).out == "'' 1\n"


def test_an_encoding_without_the_character_gets_an_escape(tmp_path: Path) -> None:
    config = tmp_path / "x.toml"
    config.write_text('[prompts]\nsystem = "r\u00e9sum\u00e9"\n', encoding="utf-8")
    ended = dgpo("train", "--config", str(config), "--dry-run", env={"PYTHONIOENCODING": "ascii"})
    assert ended.code == 0
    assert "r\\xe9sum\\xe9" in ended.out


# Threads that want the interpreter for the first time when it ends.
LEFT = """
import datetime, sys, threading, time, types
import torch
from torch.distributed import BroadcastOptions, HashStore, ProcessGroupGloo, TCPStore

class Answer:
    def __init__(self, store):
        self.store = store

    def __del__(self, sleep=time.sleep):
        self.store.set("answer", "")
        sleep(1)

def in_the_store():  # as a heartbeat: the answer comes while Python ends
    limit = datetime.timedelta(seconds=30)
    store = TCPStore("127.0.0.1", 0, is_master=True, timeout=limit, wait_for_workers=False)
    own = store.clone()
    threading.Thread(target=lambda: own.get("answer"), daemon=True).start()
    time.sleep(0.2)
    return Answer(store)

def in_gloo():  # a thread of its own lets go of what came last, while this one holds Python
    store, limit, pair = HashStore(), datetime.timedelta(seconds=30), {{}}
    def meet(n):
        pair[n] = ProcessGroupGloo(store, n, 2, limit)
    both = [threading.Thread(target=meet, args=(n,)) for n in (0, 1)]
    [each.start() for each in both]
    [each.join() for each in both]
    options, there = BroadcastOptions(), torch.ones(1)
    options.rootRank = 0
    pair[1].broadcast([torch.zeros(1)], options)
    sys.setswitchinterval(1000)
    pair[0].broadcast([there], options)
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        pass
    return pair

def app():
    global left
    print("all is done", end="")
    left = {left}()
    {ending}

sys.modules["dgpo_cli.cli.main"] = types.SimpleNamespace(app=app)
from dgpo_cli.__main__ import main
main()
"""


@pytest.mark.parametrize(
    ("left", "ending", "code"),
    [("in_the_store", "raise KeyboardInterrupt", 130), ("in_gloo", "sys.exit(3)", 3)],
)
def test_a_thread_that_is_left_in_torch_does_not_abort_the_end(
    left: str, ending: str, code: int
) -> None:
    assert run_python(LEFT.format(left=left, ending=ending)) == Ended(code, "all is done", "")
