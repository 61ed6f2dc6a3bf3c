"""Laws of TAB: what is offered for --set, --bench, --preset and --run, in real shells too."""

from __future__ import annotations

import os
import pty
import select
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

from dgpo_cli.config.presets import preset_names
from dgpo_cli.prompts.catalog import benchmark_names
from tests.cli.helpers import dgpo, environment, run_python

RULES = ["dgpo", "uniform", "entropy", "top-entropy", "proportional", "surprisal", "value"]


def in_bash(*words: str, env: dict[str, str] | None = None) -> list[str]:
    """What bash is offered for the last word; it hands words over broken at = and :."""
    asked = {
        "_DGPO_COMPLETE": "complete_bash",
        "COMP_WORDS": "\n".join(words),
        "COMP_CWORD": str(len(words) - 1),
    }
    return dgpo(env=asked | (env or {})).out.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("train --set credit.ru", [f"credit.rule={rule}" for rule in RULES]),
        ("train --set credit.rule =", RULES),
        ("train --set credit.rule = u", ["uniform"]),
        ("train --set = credit.rule = u", ["uniform"]),
        ("train --set credit.tau = 0.5 --set credit.rule = e", ["entropy"]),
        ("train --set model.path = embedded : t", ["tiny"]),
        ("train --preset qwen7b", [n for n in preset_names() if n.startswith("qwen7b")]),
        ("train --preset = ti", ["tiny", "tiny-hard"]),
        ("eval --bench aime", [n for n in benchmark_names() if n.startswith("aime")]),
        ("eval --bench sums,sums-h", ["sums,sums-hard"]),
        ("eval --bench nothing", []),  # the shell then offers files
        ("eval --protocol da", ["dapo"]),
        ("inspect --rule un", ["uniform"]),
        ("settings credit.ta", ["credit.tau", "credit.target_ess", "credit.target_ess_over"]),
        ("trai", ["train"]),
        ("train --view p", ["panel"]),
    ],
)
def test_bash_is_offered_what_goes_on_from_its_last_break(words: str, offered: list[str]) -> None:
    assert in_bash("dgpo", *words.split(" ")) == offered


@pytest.mark.parametrize("shell", ["zsh", "fish"])
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("dgpo train --set credit.rule=u", "credit.rule=uniform"),
        ("dgpo train --preset=smol", "smollm2-lora"),
        ("dgpo eval --bench sums-h", "sums-hard"),
    ],
)
def test_zsh_and_fish_are_offered_whole_words(shell: str, line: str, offered: str) -> None:
    asked = {
        "_DGPO_COMPLETE": f"complete_{shell}",
        "_TYPER_COMPLETE_ARGS": line,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    said = dgpo(env=asked).out.strip()
    assert said == (offered if shell == "fish" else f"_arguments '*: :((\"{offered}\"))'")


def test_runs_are_offered_newest_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for age, name in enumerate(["runs/old", "runs/new", "elsewhere/tiny", "runs/no-run"]):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        if name != "runs/no-run":
            (folder / "settings.toml").touch()
            os.utime(folder / "settings.toml", (age, age))
    monkeypatch.chdir(tmp_path)
    path = {"PYTHONPATH": str(Path(__file__).parents[2])}
    assert in_bash("dgpo", "eval", "--run", "", env=path) == ["runs/new", "runs/old"]
    assert in_bash("dgpo", "report", "runs/o", env=path) == ["runs/old"]
    assert in_bash("dgpo", "report", "elsewhere/", env=path) == ["elsewhere/tiny"]


def test_a_report_is_offered_studies_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = ("runs/a/settings.toml", "studies/b/study.toml", "more/c/study.toml")
    for age, name in enumerate(files):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (age, age))
    monkeypatch.chdir(tmp_path)
    path = {"PYTHONPATH": str(Path(__file__).parents[2])}
    assert in_bash("dgpo", "report", "", env=path) == ["studies/b", "runs/a"]
    assert in_bash("dgpo", "report", "more/", env=path) == ["more/c"]
    assert in_bash("dgpo", "eval", "--run", "", env=path) == ["runs/a"]


def test_evaluations_are_offered_newest_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for age, name in enumerate(["old", "new"]):
        card = tmp_path / "evals" / name / "card.json"
        card.parent.mkdir(parents=True)
        card.touch()
        os.utime(card, (age, age))
    monkeypatch.chdir(tmp_path)
    path = {"PYTHONPATH": str(Path(__file__).parents[2])}
    assert in_bash("dgpo", "view", "", env=path) == ["evals/new", "evals/old"]
    assert in_bash("dgpo", "view", "evals/o", env=path) == ["evals/old"]


def test_variants_of_studies_are_offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = tmp_path / "studies/rules/settings"
    settings.mkdir(parents=True)
    for name in ("uniform", "rule=dgpo,tau=0.02"):
        (settings / f"{name}.toml").touch()
    monkeypatch.chdir(tmp_path)
    path = {"PYTHONPATH": str(Path(__file__).parents[2])}
    assert in_bash("dgpo", "study", "rules.toml", "--only", "u", env=path) == ["uniform"]
    broken = ("--only", "rule", "=", "dgpo,tau", "=", "0")
    assert in_bash("dgpo", "study", "rules.toml", *broken, env=path) == ["0.02"]


def test_a_completion_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom dgpo_cli.__main__ import main\ntry:\n    main()\nfinally:\n"
        "    slow = {'torch', 'numpy', 'transformers', 'rich.markdown', 'markdown_it'}\n"
        "    sys.stderr.write(' '.join(sorted(slow & set(sys.modules))))\n"
    )
    asking = "import os\nos.environ |= {'_DGPO_COMPLETE': 'complete_zsh', '_TYPER_COMPLETE_ARGS': "
    for line in ("dgpo tra", "dgpo train --set optim.lr=", "dgpo eval --bench su"):
        ended = run_python(f"{asking}{line!r}}}\n{code}")
        assert (ended.code, ended.err) == (0, "") and ended.out.startswith("_arguments")


START = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
    "fish": ["fish", "--no-config", "-i"],
}
LOAD = {
    "bash": "source {script}",
    "zsh": "bindkey -e; autoload -Uz compinit; compinit -u -D; source {script}",
    "fish": "source {script}",
}


def typed(name: str, keys: str, *, folder: Path) -> str:
    """Press keys in a real shell on a terminal; return the command line as it then stands."""
    program = folder / "dgpo"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m dgpo_cli "$@"\n')
    program.chmod(0o755)
    script = folder / f"complete.{name}"
    script.write_text(dgpo(env={"_DGPO_COMPLETE": f"source_{name}"}).out)
    env = environment(PATH=f"{folder}:{os.environ['PATH']}", HOME=str(folder), PS1="$ ")
    env["PYTHONPATH"] = str(Path(__file__).parents[2])
    process, leader = pty.fork()
    if process == 0:
        os.chdir(folder)
        os.execvpe(START[name][0], START[name], env)
    try:
        press(leader, f"{LOAD[name].format(script=script)}; echo > ready\r", folder / "ready")
        press(leader, f"{keys}\x01echo \x05> said\r", folder / "said")
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        os.close(leader)
    return (folder / "said").read_text()


def press(leader: int, keys: str, until: Path) -> None:
    """Press keys, and wait until a file is there and not empty."""
    os.write(leader, keys.encode())
    end, shown = time.monotonic() + 60, b""
    while not (until.exists() and until.stat().st_size):
        assert time.monotonic() < end, shown
        if select.select([leader], [], [], 0.1)[0]:
            shown += os.read(leader, 65536)


@pytest.mark.parametrize(
    "name",
    ["bash", *(pytest.param(name, marks=pytest.mark.slow) for name in ("zsh", "fish"))],
)
def test_a_real_shell_completes_names_and_values(name: str, tmp_path: Path) -> None:
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    # A shell handles one key after the other, TAB included.
    keys = "dgpo train --set credit.ru\tun\t --preset ti\t --set optim.sched\tlin\t"
    line = "dgpo train --set credit.rule=uniform --preset tiny --set optim.schedule=linear"
    assert typed(name, keys, folder=tmp_path).split() == line.split()
