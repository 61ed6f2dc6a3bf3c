"""Laws of inspect's files: what is written, what is refused before any work, and what is said."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import Result

from dgpo_cli.core.types import StoredCredit, TokenDetail
from dgpo_cli.inspect import page as inspect_page
from tests.cli.conftest import Install
from tests.cli.helpers import in_process as dgpo
from tests.samples import hostile, inspection, solution

ALL = inspection(hostile(), solution())


def one_line(done: Result) -> str:
    """What was said on stderr, whatever width it was folded to."""
    return " ".join(done.stderr.split())


def test_each_file_is_written_and_named_and_nothing_else_is_shown(
    workflow: Install, tmp_path: Path
) -> None:
    calls = workflow("inspect", returns=ALL)
    files = {flag: tmp_path / f"a.{flag}" for flag in ("html", "svg")}
    files["html"].write_text("what was there before")
    flags = [word for flag, path in files.items() for word in (f"--{flag}", str(path))]
    done = dgpo("inspect", "a", *flags)
    assert done.exit_code == 0, done.output
    assert "".join(done.stdout.split()) == "".join(f"writtento{path}" for path in files.values())
    assert calls[0]["choice"].one is False
    assert files["html"].read_text(encoding="utf-8") == inspect_page.inspect_page(ALL)
    drawn = files["svg"].read_text(encoding="utf-8")
    assert drawn.startswith("<svg") and "sums-17," in drawn  # the less even of the two
    assert sorted(tmp_path.iterdir()) == sorted(files.values())


def test_png_is_the_drawing_of_svg(workflow: Install, tmp_path: Path) -> None:
    pytest.importorskip("resvg_py", reason="resvg-py is in the extra png")
    calls = workflow("inspect", returns=inspection(solution()))
    done = dgpo("inspect", "a", "--png", str(tmp_path / "a.png"))
    assert done.exit_code == 0, done.output
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert calls[0]["choice"].one is True


def test_json_stays_alone_on_stdout(workflow: Install, tmp_path: Path) -> None:
    workflow("inspect", returns=ALL)
    done = dgpo("inspect", "a", "--json", "--html", str(tmp_path / "a.html"))
    assert len(json.loads(done.stdout)["completions"]) == 2
    assert "written to" in done.stderr


def test_what_a_page_cannot_hold_is_counted(
    workflow: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workflow("inspect", returns=ALL)
    monkeypatch.setattr(inspect_page, "MAX_TOKENS", 40)
    done = dgpo("inspect", "a", "--html", str(tmp_path / "a.html"))
    assert "(1 completion is not in it: too many tokens)" in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--html", "."], "--html=.: is a folder; name a file"),
        (["--svg", "nowhere/a.svg"], "no folder nowhere; create it first"),
        (["--html", "same", "--svg", "same"], "--html writes to it too; give another name"),
    ],
)
def test_a_path_that_cannot_be_is_refused_before_any_work(
    workflow: Install,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flags: list[str],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    calls = workflow("inspect", returns=ALL)
    done = dgpo("inspect", "a", *flags)
    assert done.exit_code == 2 and says in one_line(done)
    assert calls == []


def test_a_missing_extra_is_said_before_any_work(
    workflow: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = workflow("inspect", returns=ALL)
    monkeypatch.delitem(sys.modules, "resvg_py", raising=False)
    known = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "resvg_py" else known(name)
    )
    done = dgpo("inspect", "a", "--png", str(tmp_path / "a.png"))
    assert done.exit_code == 2
    assert one_line(done) == "error: --png needs resvg-py: pip install 'dgpo-cli[png]'"
    assert calls == []


def test_a_file_that_cannot_be_written_is_told_in_one_line_and_leaves_the_old_one(
    workflow: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*paths: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    workflow("inspect", returns=ALL)
    path = tmp_path / "a.html"
    path.write_text("old")
    monkeypatch.setattr(os, "replace", refuse)
    done = dgpo("inspect", "a", "--html", str(path))
    assert done.exit_code == 2
    assert one_line(done).replace(" ", "") == f"error:--html={path}:read-onlyfilesystem"
    assert list(tmp_path.iterdir()) == [path] and path.read_text() == "old"


def test_a_drawing_holds_the_view_that_was_asked_for(workflow: Install, tmp_path: Path) -> None:
    workflow("inspect", returns=inspection(solution(), solution()))
    drawn = {}
    for view in ((), ("--steps",), ("--pair",), ("--what", "entropy")):
        path = tmp_path / "a.svg"
        assert dgpo("inspect", "a", *view, "--svg", str(path)).exit_code == 0
        drawn["".join(view)] = path.read_text(encoding="utf-8")
    assert len(set(drawn.values())) == 4
    assert "its&#160;step" in drawn["--steps"] and "its&#160;step" not in drawn[""]
    assert "entropy" in drawn["--whatentropy"]


def test_a_drawing_of_a_token_or_a_what_if_is_what_the_terminal_shows(
    workflow: Install, tmp_path: Path
) -> None:
    path = tmp_path / "a.svg"
    detail = TokenDetail(position=6, hint="dgpo inspect --model M")
    workflow("inspect", returns=inspection(solution(), detail=detail))
    assert dgpo("inspect", "a", "--at", "6", "--svg", str(path)).exit_code == 0
    assert "token&#160;6&#160;of" in path.read_text(encoding="utf-8")
    even = StoredCredit("uniform", {}, None, 1.0, (1.0,) * len(solution().tokens))
    workflow("inspect", returns=inspection(replace(solution(), stored=even)))
    for view in ((), ("--steps",), ("--full",)):
        assert dgpo("inspect", "a", "--tau", "1", *view, "--svg", str(path)).exit_code == 0
        drawn = path.read_text(encoding="utf-8").replace("&#160;", " ")
        shown = dgpo("inspect", "a", "--tau", "1", *view).stdout
        for line in (
            "Against the weights that trained",
            "stored: uniform, effective token fraction 1.0",
        ):
            assert line in drawn and line in shown
