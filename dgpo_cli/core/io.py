"""Files on disk: atomic writes, flushes, torn ends, gzip, and the lock of a folder.

Standard library only. OSErrors name the file, which a full disk's own does not.
"""

from __future__ import annotations

import errno
import fcntl
import gzip
import os
import shutil
import socket
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from itertools import chain
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO

from dgpo_cli.core.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    RunFolderBusy,
    cannot_write,
)
from dgpo_cli.core.numbers import size

BAD = ".bad"  # added to the name of the file that broken lines are moved to
LOCK = "run.lock"
_PARTIAL = ".partial"
_BLOCK = 1 << 16  # bytes read at once from the end of a file
_FULL = 2**20  # bytes free; a file system may refuse the last blocks
_GZIP = b"\x1f\x8b"
_MOST_UNPACKED = 4 << 30  # bytes

Content = str | bytes | Iterable[bytes]


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add the name of the file to an OSError."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise


def read_bytes(path: Path) -> bytes:
    """Read a file.

    Raises:
        DataError: the system refuses.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def unpacked(path: Path) -> bytes:
    """Read a file that may be compressed by gzip.

    Raises:
        DataError: it cannot be read, is damaged or too large.
    """
    data = read_bytes(path)
    if not data.startswith(_GZIP):
        return data
    try:
        with gzip.open(BytesIO(data)) as file:
            found = file.read(_MOST_UNPACKED + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: is damaged: {error}") from error
    if len(found) > _MOST_UNPACKED:
        raise DataError(f"{path}: unpacks to more than {size(_MOST_UNPACKED)}; gunzip it first")
    return found


def write(path: Path, content: Content) -> None:
    """Write a file that appears under its name once all of it is on the disk."""
    temporary = path.with_name(f".{path.name}{_PARTIAL}")
    try:
        with naming(path), temporary.open("wb") as file:
            _put(file, content)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_new(path: Path, text: str, *, what: str) -> None:
    """Write a file that must not exist; remove it if it cannot be written whole.

    what: the flag or argument as the user gave it, for errors.

    Raises:
        ConfigError: the file exists, or cannot be written.
        DgpoError: the disk is full.
    """
    try:
        with path.open("xb") as file:
            try:
                _put(file, text)
            except OSError:
                path.unlink()
                raise
    except FileExistsError as error:
        raise ConfigError(f"{what}: already exists; give another name or remove it") from error
    except OSError as error:
        raise cannot_write(error, what=what, fix="; give a file that can be written") from error


def append(path: Path, content: Content, *, flush: bool = True) -> None:
    """Append to a file; with `flush`, it is on the disk on return."""
    with naming(path), path.open("ab") as file:
        _put(file, content, flush=flush)


def _put(file: BinaryIO, content: Content, *, flush: bool = True) -> None:
    parts = [content] if isinstance(content, str | bytes) else content
    for part in parts:
        file.write(part.encode("utf-8") if isinstance(part, str) else part)
    if flush:
        file.flush()
        os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Flush what was appended to a file, and its name, to the disk."""
    _flush(path)
    _flush(path.parent)


def _flush(path: Path) -> None:
    if path.is_dir() and os.name == "nt":  # Windows cannot, and renames are durable there
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with naming(path):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder to write into; it appears as `folder` once all of it is on the disk.

    Raises:
        CheckpointError: a write failed (a full disk, say); nothing is left behind.
    """
    try:
        yield begin_folder(folder)
        complete_folder(folder)
    except BaseException as error:
        failure = drop_folder(folder, error)
        if failure is error:
            raise
        raise failure from error


def partial_of(folder: Path) -> Path:
    """Return the folder that is written to before it appears as `folder`."""
    return folder.with_name(f".{folder.name}{_PARTIAL}")


def begin_folder(folder: Path) -> Path:
    """Make the empty folder that `complete_folder` turns into `folder`."""
    temporary = partial_of(folder)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    return temporary


def complete_folder(folder: Path) -> None:
    """Flush all of a begun folder to the disk; then it appears under its name."""
    temporary = partial_of(folder)
    for path in chain(temporary.rglob("*"), [temporary]):
        _flush(path)
    os.rename(temporary, folder)
    _flush(folder.parent)


def drop_folder(folder: Path, error: BaseException) -> BaseException:
    """Remove a begun folder; return the error to raise for one that was met while writing it."""
    reason = _reason(error, folder=partial_of(folder))
    shutil.rmtree(partial_of(folder), ignore_errors=True)
    # torch reports a full disk as RuntimeError, tokenizers as a bare Exception.
    of_writing = isinstance(error, OSError | RuntimeError) or type(error) is Exception
    if of_writing or type(error).__name__ == "SafetensorError":
        return CheckpointError(f"{folder}: cannot be written: {reason}")
    return error


def _reason(error: BaseException, *, folder: Path) -> str:
    """Return why a file of `folder` could not be written; called before anything is removed.

    torch does not report a full disk as such, so check the disk.
    """
    place = next((path for path in (folder, *folder.absolute().parents) if path.exists()), folder)
    is_full = isinstance(error, OSError) and error.errno == errno.ENOSPC
    if is_full or shutil.disk_usage(place).free < _FULL:
        return f"no space left on the disk of {place.parent}; make room and run it again"
    return str(error)


def remove_partial(folder: Path, pattern: str) -> None:
    """Remove the remains of an interrupted `atomic_folder` with names of a pattern."""
    for path in folder.glob(f".{pattern}{_PARTIAL}"):
        shutil.rmtree(path, ignore_errors=True)


def move_to_bad(path: Path, lines: Iterable[bytes]) -> Path:
    """Append broken lines of a file to its .bad file, and return that."""
    aside = path.with_name(path.name + BAD)
    append(aside, (raw + b"\n" for raw in lines))
    return aside


def line_ends(path: Path, *, first: int, last: int) -> Iterator[bytes]:
    """Yield the first and the last lines of a file, none twice, without reading the others.

    A last line without a newline counts.
    """
    with path.open("rb") as file:
        yield from (line for line in (file.readline() for _ in range(first)) if line)
        begin, at = file.tell(), file.seek(0, os.SEEK_END)
        tail = b""
        while at > begin and tail.count(b"\n") <= last:  # one more: the first may be half a line
            size = min(_BLOCK, at - begin)
            at = file.seek(at - size)
            tail = file.read(size) + tail
    lines = tail.split(b"\n")
    yield from (lines if lines[-1] else lines[:-1])[-last:]


def drop_torn_line(path: Path, *, is_whole: Callable[[bytes], bool]) -> int:
    """Remove a last line that a kill left unfinished; return the number of such lines, 0 or 1.

    A line is whole if it has a newline and `is_whole` accepts it.
    """
    if not path.exists() or path.stat().st_size == 0:
        return 0
    with naming(path), path.open("rb+") as file:
        end = file.seek(0, os.SEEK_END)
        start = _last_line(file, end)
        file.seek(start)
        tail = file.read()
        if tail.endswith(b"\n") and is_whole(tail):
            return 0
        file.truncate(start)
        os.fsync(file.fileno())
    return 1


def _last_line(file: BinaryIO, end: int) -> int:
    """Return where the last line begins, finished or not."""
    start = max(0, end - 1)  # the very last byte may be its newline
    while start > 0:
        begin = max(0, start - _BLOCK)
        file.seek(begin)
        found = file.read(start - begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        start = begin
    return 0


def create_folder(folder: Path) -> None:
    """Create a folder and try to write in it.

    Raises:
        ConfigError: that cannot be done.
        DgpoError: the disk is full.
    """
    with _creating(folder), TemporaryFile(dir=folder):
        pass


@contextmanager
def _creating(folder: Path) -> Iterator[None]:
    fix = "; name a folder that you can write to"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except FileExistsError as error:
        raise ConfigError(f"{folder}: is a file{fix}") from error
    except OSError as error:
        raise cannot_write(error, what=str(folder), fix=fix) from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a folder for this process, and create it; the system unlocks it when the process ends.

    If the body fails before it writes anything, the lock file and a new folder are removed.

    Raises:
        RunFolderBusy: another process has locked it; the message names it.
        ConfigError: the folder cannot be created.
        DgpoError: the disk is full.
    """
    made = not folder.exists()
    with _creating(folder):
        file = (folder / LOCK).open("a+", encoding="utf-8")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise RunFolderBusy(f"{folder} is in use by {holder}") from None
        if os.fstat(file.fileno()).st_nlink == 0:  # its holder failed and has just removed the file
            raise RunFolderBusy(f"{folder} was in use until now; run the command again")
        started = time.strftime("%Y-%m-%d %H:%M:%S")
        holder = f"process {os.getpid()} on {socket.gethostname()}, since {started}\n"
        with naming(folder / LOCK):
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), holder.encode())
        try:
            yield
        except BaseException:
            with suppress(OSError):
                if os.listdir(folder) == [LOCK]:
                    (folder / LOCK).unlink()
                    if made:
                        folder.rmdir()
            raise


def is_locked(folder: Path) -> bool:
    """Whether a process has locked a folder. Tries the lock and releases it at once."""
    try:
        with (folder / LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except BlockingIOError:
        return True
    except OSError:
        return False
