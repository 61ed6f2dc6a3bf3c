"""Files appear whole or not at all, a kill costs one line, and a folder has one holder."""

from __future__ import annotations

import errno
import gzip
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dgpo_cli.core import io
from dgpo_cli.core.errors import ConfigError, DataError, DgpoError


def test_a_file_is_written_whole_or_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("before")

    def parts(*, fail: bool) -> Iterator[bytes]:
        yield b"af"
        assert path.read_text() == "before"
        if fail:
            raise KeyboardInterrupt
        yield b"ter"

    with pytest.raises(KeyboardInterrupt):
        io.write(path, parts(fail=True))
    assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]
    io.write(path, parts(fail=False))
    assert path.read_text() == "after"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


@pytest.mark.skipif(sys.platform != "linux", reason="names of open files are read from /proc")
def test_a_file_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    plain = os.replace

    def fsync(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        order.append(f"{path.name} {path.stat().st_size}")

    def replace(source: Path, target: Path) -> None:
        order.append("named")
        plain(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    io.write(tmp_path / "a", "text")
    io.append(tmp_path / "a", b"more")
    io.append(tmp_path / "a", b"later", flush=False)
    io.sync(tmp_path / "a")
    assert order[:4] == [".a.partial 4", "named", "a 8", "a 13"]
    assert [each.split()[0] for each in order[4:]] == [tmp_path.name]  # the folder, for the name


def test_an_error_of_the_system_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for act in (io.write, io.append):
        with pytest.raises(OSError) as caught:
            act(tmp_path / "named.txt", "text")
        assert caught.value.filename == str(tmp_path / "named.txt")
    with pytest.raises(DgpoError, match="--out x: no space left on the disk") as failed:
        io.write_new(tmp_path / "new.txt", "text", what="--out x")
    assert failed.value.exit_code == 1 and not (tmp_path / "new.txt").exists()


def test_a_new_file_never_replaces_one(tmp_path: Path) -> None:
    io.write_new(tmp_path / "a", "first", what="--to a")
    with pytest.raises(ConfigError, match="--to a: already exists"):
        io.write_new(tmp_path / "a", "second", what="--to a")
    assert (tmp_path / "a").read_text() == "first"


LINES = b"one\n" + b"x" * 200_000 + b"\nthree\n"


@pytest.mark.parametrize("torn", [b"", b"f", b"four", b"four\n", b"\n", b"x" * 70_000])
def test_only_an_unfinished_last_line_is_dropped(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "lines"
    path.write_bytes(LINES + torn)
    whole = torn in (b"", b"four\n")
    dropped = io.drop_torn_line(path, is_whole=lambda raw: raw.strip() in (b"three", b"four"))
    assert (dropped, path.read_bytes()) == (not whole, LINES + torn if whole else LINES)


def test_a_torn_line_that_is_all_there_is_leaves_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    assert io.drop_torn_line(path, is_whole=lambda raw: True) == 0
    path.write_bytes(b"half")
    assert io.drop_torn_line(path, is_whole=lambda raw: True) == 1
    assert path.read_bytes() == b""


@pytest.mark.parametrize("first", [0, 1, 2, 5])
@pytest.mark.parametrize("last", [1, 2, 9])
def test_the_ends_of_a_file_are_its_lines_each_once(tmp_path: Path, first: int, last: int) -> None:
    lines = [bytes([letter]) * 30_000 for letter in b"abcdefg"]
    path = tmp_path / "lines"
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    found = [line.rstrip(b"\n") for line in io.line_ends(path, first=first, last=last)]
    assert found == [
        line for at, line in enumerate(lines) if at < first or at >= max(first, 7 - last)
    ]


def test_broken_lines_are_kept_beside_their_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert io.move_to_bad(path, [b"a"]) == tmp_path / "metrics.jsonl.bad"
    io.move_to_bad(path, [b"b", b"c"])
    assert (tmp_path / "metrics.jsonl.bad").read_bytes() == b"a\nb\nc\n"


def test_compressed_and_plain_files_read_alike_and_damage_is_told(tmp_path: Path) -> None:
    plain, packed = tmp_path / "a", tmp_path / "a.gz"
    plain.write_bytes(LINES)
    packed.write_bytes(gzip.compress(LINES))
    assert io.unpacked(plain) == io.unpacked(packed) == LINES
    packed.write_bytes(packed.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"a\.gz: is damaged: "):
        io.unpacked(packed)
    with pytest.raises(DataError, match="b: cannot be read: No such file"):
        io.unpacked(tmp_path / "b")


def test_asking_whether_a_folder_is_held_changes_nothing(tmp_path: Path) -> None:
    assert not io.is_locked(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with io.locked(tmp_path):
        before = (tmp_path / io.LOCK).read_bytes()
        assert io.is_locked(tmp_path)
        assert (tmp_path / io.LOCK).read_bytes() == before
    assert not io.is_locked(tmp_path)
