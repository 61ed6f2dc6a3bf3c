"""The pager is the user's, keeps the colours, and is never in the way of a pipe."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dgpo_cli.ui import pager
from tests.cli.helpers import COLOUR, environment, on_terminal, run_python

SHOW = """
from rich.text import Text
from dgpo_cli.ui import console
console.page(Text("\\n".join(f"line {at}" for at in range(100)), style="green"))
"""


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"TERM": "xterm", "PAGER": "most -s"}, ["most", "-s"]),
        ({"TERM": "xterm", "PAGER": "'my pager' --x"}, ["my pager", "--x"]),
        ({"TERM": "xterm", "PAGER": ""}, None),
        ({"TERM": "xterm", "PAGER": "cat"}, None),
        ({"TERM": "xterm", "PAGER": "'unclosed"}, None),
        ({"TERM": "dumb", "PAGER": "less"}, None),
        ({"PAGER": "less"}, None),
    ],
)
def test_the_pager_is_the_one_that_the_user_chose(
    environ: dict[str, str], words: list[str] | None
) -> None:
    assert pager.command(environ) == words


def test_without_a_choice_it_is_less_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    assert pager.command({"TERM": "xterm"}) == ["less"]
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert pager.command({"TERM": "xterm"}) is None


def test_less_keeps_colours_whatever_else_it_is_told() -> None:
    def less(**environ: str) -> str:
        return pager.environment(environ, encoding="utf-8")["LESS"]

    assert less() == "FRX"
    assert less(LESS="-iM") == "-iM -R"
    assert less(LESS="") == "R"
    assert pager.environment({}, encoding="utf-8")["LESSCHARSET"] == "utf-8"
    assert pager.environment({"LESSCHARSET": "latin1"}, encoding="utf-8")["LESSCHARSET"] == "latin1"
    assert "LESSCHARSET" not in pager.environment({}, encoding="ascii")


def recorder(path: Path, *, lines: int | None = None, code: int = 0) -> str:
    """A pager that writes what it reads into a file; it leaves after some lines, or at the end."""
    script = path / "pager.py"
    read = "sys.stdin.read()" if lines is None else f"''.join(islice(sys.stdin, {lines}))"
    script.write_text(
        "import sys\nfrom itertools import islice\nfrom pathlib import Path\n"
        f"Path({str(path / 'seen')!r}).write_text({read})\nsys.exit({code})\n"
    )
    return f"{sys.executable} {script}"


def test_on_a_terminal_all_of_it_goes_to_the_pager_in_colours(tmp_path: Path) -> None:
    ended = on_terminal(sys.executable, "-c", SHOW, env={"PAGER": recorder(tmp_path)})
    seen = (tmp_path / "seen").read_text()
    assert ended.code == 0 and "line" not in ended.out
    assert COLOUR.search(seen) and "line 0" in seen and "line 99" in seen


def test_a_pager_that_is_left_early_is_no_error(tmp_path: Path) -> None:
    command = recorder(tmp_path, lines=3, code=1)
    long = SHOW.replace("range(100)", "range(200000)")
    ended = on_terminal(sys.executable, "-c", long, env={"PAGER": command})
    assert ended.code == 0 and "rror" not in ended.out
    assert (tmp_path / "seen").read_text().count("\n") == 3


def test_a_pager_that_does_not_start_is_named_and_the_text_is_printed() -> None:
    ended = on_terminal(sys.executable, "-c", SHOW, env={"PAGER": "/nowhere/pager -x"})
    assert ended.code == 0 and "/nowhere/pager" in ended.out and "line 99" in ended.out


def test_a_pipe_has_no_pager_and_no_colours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAGER", recorder(tmp_path))
    ended = run_python(SHOW)
    assert ended.out == "".join(f"line {at}\n" for at in range(100))
    assert not (tmp_path / "seen").exists() and environment()["PAGER"]


def test_a_dumb_terminal_has_no_pager(tmp_path: Path) -> None:
    env = {"PAGER": recorder(tmp_path), "TERM": "dumb"}
    ended = on_terminal(sys.executable, "-c", SHOW, env=env)
    assert "line 99" in ended.out and not COLOUR.search(ended.out)
    assert not (tmp_path / "seen").exists()
