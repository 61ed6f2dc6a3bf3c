"""On a full disk every command that writes ends with 1 and one line that names the path, and
nothing half written lies under the name that was asked for."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
from dgpo_cli.__main__ import main
sys.argv = ["dgpo", *sys.argv[2:]]
sys.exit(main())
"""
SMALL = (
    *("--set", "rollout.prompts_per_step=2", "--set", "rollout.group_size=2"),
    *("--set", "rollout.max_completion_tokens=8", "--set", "eval.every=0"),
    *("--set", "reward.workers=1"),
)


def with_room(size: int, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run dgpo where no file can grow beyond `size` bytes."""
    return subprocess.run(
        [sys.executable, "-c", LIMITED, str(size), *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("size", "arguments", "name"),
    [
        (1000, ("report", "RUN", "--out", "r.html"), "--out=r.html"),
        (1000, ("report", "RUN", "--png", "r.png"), "--png=r.png"),
        (1000, ("inspect", "RUN", "--html", "i.html"), "--html=i.html"),
        (1000, ("inspect", "RUN", "--svg", "i.svg"), "--svg=i.svg"),
        (1000, ("inspect", "RUN", "--png", "i.png"), "--png=i.png"),
        (1000, ("preset", "copy", "tiny", "mine.toml"), "mine.toml"),
        (100, ("plan", "--preset", "tiny", "--gpu", "4090", "--apply", "p.toml"), "--apply=p.toml"),
    ],
)
def test_the_path_that_could_not_be_written_is_named(
    trained: Path, tmp_path: Path, size: int, arguments: tuple[str, ...], name: str
) -> None:
    if "--png" in arguments:
        pytest.importorskip("resvg_py")
    given = [str(trained) if word == "RUN" else word for word in arguments]
    ended = with_room(size, *given, cwd=tmp_path)
    assert ended.returncode == 1, ended.stderr
    (line,) = (line for line in ended.stderr.splitlines() if line.startswith("error"))
    assert line == f"error: {name}: file too large"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("size", "arguments", "name"),
    [
        (1000, ("train", "--preset", "tiny", "--out", "o", *SMALL), "o/settings.toml"),
        (4000, ("train", "--preset", "tiny", "--out", "o", *SMALL), "o/tokenizer"),
        (9000, ("train", "--preset", "tiny", "--out", "o", *SMALL), "o/"),
        (400, ("rollout", "--preset", "tiny", "--prompts", "sums", "--limit", "1", *SMALL), ""),
        (4500, ("eval", "--preset", "tiny", "--bench", "sums", "--k", "1", "--out", "o"), "o/"),
    ],
)
def test_a_run_that_cannot_write_names_the_file(
    tmp_path: Path, size: int, arguments: tuple[str, ...], name: str
) -> None:
    if arguments[0] == "rollout":
        arguments, name = (*arguments, "--out", "r.jsonl"), "r.jsonl"
    ended = with_room(size, *arguments, cwd=tmp_path)
    assert ended.returncode == 1, ended.stderr
    (line,) = (line for line in ended.stderr.splitlines() if line.startswith("error"))
    assert name in line and "--debug" not in line
    assert not (tmp_path / "r.jsonl").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_standard_output_that_is_full_is_named() -> None:
    for arguments in (("preset", "list"), ("preset", "show", "tiny"), ("--version",)):
        with Path("/dev/full").open("w") as full:
            ended = subprocess.run(
                [sys.executable, "-m", "dgpo_cli", *arguments],
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
        assert ended.returncode == 1
        assert ended.stderr == (
            "error: no space left on the disk: standard output; make room and run it again\n"
        )


def test_a_page_goes_down_a_pipe_and_a_link_stays_a_link(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "page.html").symlink_to("real.html")
    ended = with_room(
        resource.RLIM_INFINITY, "report", str(trained), "--out", "page.html", cwd=tmp_path
    )
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "page.html").is_symlink()
    page = (tmp_path / "real.html").read_text(encoding="utf-8")
    assert page.startswith("<!") and len(page) > 10_000
    piped = with_room(
        resource.RLIM_INFINITY, "report", str(trained), "--out", "/dev/stdout", cwd=tmp_path
    )
    assert (piped.returncode, piped.stdout.startswith("<!")) == (0, True)
