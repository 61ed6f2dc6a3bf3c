"""Errors and their exit codes.

A message is one line for the user: the value, the setting, the fix.
"""

from __future__ import annotations

import errno
import re

# User and password before the host of an address; the second form has a slash in the password.
_LOGIN = re.compile(r"(?<=//)(?:[^/\s\"'<>]*@|[^/\s\"'<>@:\[]+:(?!\d+/)[^/\s\"'<>@]*/[^\s\"'<>]*@)")


def without_logins(text: str) -> str:
    """Remove user and password from the addresses in a text."""
    return _LOGIN.sub("", text) if "@" in text else text


class DgpoError(Exception):
    """A failed run, explained in one line. Exit code 1."""

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(without_logins(message))  # it may quote an address


class Interrupted(DgpoError):
    """Ctrl-C. The message says what is kept and how to resume; exit code 130, no error."""

    exit_code = 130


class ConfigError(DgpoError):
    """A setting, flag or combination that cannot work. Exit code 2, nothing has been run."""

    exit_code = 2


class DataError(DgpoError):
    """A file of prompts, rollouts or a benchmark that cannot be read or is not valid.

    Exit code 2: files are read before anything is run.
    """

    exit_code = 2


class ModelError(DgpoError):
    """A model, adapter or tokenizer that cannot be loaded or does not fit the settings."""


class NoModelError(ModelError):
    """A given folder does not exist or has no model or adapter. Exit code 2."""

    exit_code = 2


class BackendError(DgpoError):
    """The sampler failed, or the chosen backend is not available."""


class OutOfBudget(BackendError):
    """The next request may cost more than is left; what was drawn before is stored."""


class CalledOff(BackendError):
    """The sampler stopped waiting for its engine or servers because the run ends."""


class CheckpointError(DgpoError):
    """A checkpoint that cannot be written, read or resumed from."""


class UnreadableError(DgpoError):
    """The system refuses to read a file of a checkpoint, which need not be damaged."""


class NoCheckpointError(CheckpointError):
    """A run has no such checkpoint. Exit code 2."""

    exit_code = 2


class RunFolderBusy(DgpoError):
    """Another process has locked the run folder."""


class RankError(DgpoError):
    """Another process of the run failed or is gone; the message names it."""


class NonFiniteError(DgpoError):
    """Several steps in a row had a loss or gradient that is not finite."""


class HubError(DgpoError):
    """The Hugging Face hub refused, or could not be reached."""


# Failures of the disk, whatever the path.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def cannot_write(error: OSError, *, what: str, fix: str = "") -> DgpoError:
    """Return the error for `what`, a path with its option, that was not written.

    A path that cannot be written is a usage error; a full disk is a failed run.
    """
    reason = (error.strerror or str(error) or "cannot be written").lower()
    if error.errno == errno.ENOSPC:
        return DgpoError(f"{what}: no space left on the disk; make room and run it again")
    if error.errno in _DISK:
        return DgpoError(f"{what}: {reason}")
    return ConfigError(f"{what}: {reason}{fix}")


def in_one_line(error: BaseException) -> str:
    """Return an error as one line for the user."""
    match error:
        case DgpoError():
            return "; ".join(str(error).splitlines())
        case OSError(errno=errno.ENOSPC):
            return f"no space left on the disk{_place(error)}; make room and run it again"
        case OSError(strerror=str(reason)):
            return f"{reason.lower()}{_place(error)}"
    return ": ".join([type(error).__name__, *str(error).splitlines()][:2])


def _place(error: OSError) -> str:
    name = error.filename2 or error.filename  # of a copy or a rename, the target
    return f": {name}" if name else ""
