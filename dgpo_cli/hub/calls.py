"""Calls of the Hugging Face hub, with retries and errors in plain words."""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import TypeVar

from dgpo_cli.core.errors import BackendError, DgpoError

TIMEOUT_S = 4.0  # of a small request
_PATIENCE_S = 8.0  # until the hub counts as unreachable, with all attempts and name look-ups
_ATTEMPTS = 3  # on top of what huggingface_hub repeats by itself
_WAIT_S = 1.0
_LOCAL_FAULTS = (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT, errno.EPERM)
_T = TypeVar("_T")
_offline_reason = ""  # why the hub is no longer asked


class Unreached(Exception):
    """The hub did not answer `probe`; the cause has the details."""


def ask(call: Callable[[], _T], *, what: str, instead: str, damaged: str | None = None) -> _T:
    """Return what `call` returns; try a few times if the failure may be temporary.

    Args:
        what: the name of what is asked for, in errors.
        instead: the alternative to the hub, in errors.
        damaged: the fault of the cached copy, if there was one.

    Raises:
        DgpoError: the problem and the fix in one line; the cause is attached.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with _quiet():
                return call()
        except Exception as error:
            # Each HTTP library under huggingface_hub, and hf_xet, has failures of its own kinds.
            if attempt == _ATTEMPTS or not _passing(error):
                raise _explained(error, what, instead=instead, damaged=damaged) from error
            time.sleep(_WAIT_S * attempt)
    raise AssertionError("the last attempt returns or raises")


def probe(call: Callable[[], _T]) -> _T:
    """Return the result of a small request that precedes larger ones.

    Raises:
        Unreached: there was no answer within _PATIENCE_S, or only a temporary one.
    """
    deadline = time.monotonic() + _PATIENCE_S
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return _within(call, timeout_s=deadline - time.monotonic())
        except Exception as error:
            if not _passing(error):
                raise
            pause = _WAIT_S * attempt
            if attempt == _ATTEMPTS or time.monotonic() + pause >= deadline:
                raise Unreached(_root(error)) from error
            time.sleep(pause)
    raise AssertionError("the last attempt returns or raises")


def _within(call: Callable[[], _T], *, timeout_s: float) -> _T:
    """Call in a thread: the timeout of a request does not cover the look-up of a name."""
    answer: SimpleQueue[_T | Exception] = SimpleQueue()

    def run() -> None:
        try:
            answer.put(call())
        except Exception as error:
            answer.put(error)

    threading.Thread(target=run, name="dgpo-hub", daemon=True).start()
    try:
        found = answer.get(timeout=timeout_s)
    except Empty:
        raise TimeoutError(f"no answer within {_PATIENCE_S:g} s") from None
    if isinstance(found, Exception):
        raise found
    return found


def go_offline(why: Unreached) -> str:
    """Stop asking the hub, in this process and its children; return the reason in a few words."""
    global _offline_reason
    from huggingface_hub import constants

    _offline_reason = str(why)
    constants.HF_HUB_OFFLINE = True
    os.environ["HF_HUB_OFFLINE"] = "1"
    return _offline_reason


def given_endpoint() -> str | None:
    """Return the present HF_ENDPOINT; huggingface_hub reads it on import."""
    return os.environ.get("HF_ENDPOINT") or None


def asked() -> str:
    """Return the name of the hub for notes; imports nothing, unlike `endpoint`."""
    return given_endpoint() or "the Hugging Face hub"


def endpoint() -> str:
    """Return the address of the hub."""
    from huggingface_hub import constants

    return given_endpoint() or constants.ENDPOINT


def _passing(error: Exception) -> bool:
    """Whether a retry may help: not after a clear answer of the hub or the disk."""
    from huggingface_hub import constants
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    if constants.is_offline_mode():
        return False
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code >= 500
    if isinstance(error, OSError) and error.errno in _LOCAL_FAULTS:
        return False
    return not isinstance(error, EntryNotFoundError | ValueError | TypeError | Unreached)


def _explained(error: Exception, what: str, *, instead: str, damaged: str | None) -> DgpoError:
    """Return an error with the problem and the fix in one line."""
    from huggingface_hub import constants, errors

    own = f"or {instead}"
    cached = f" (the cached copy was damaged: {damaged}; it is removed)" if damaged else ""
    if constants.is_offline_mode():
        why = (
            f"the hub does not answer ({_offline_reason})"
            if _offline_reason
            else "HF_HUB_OFFLINE is set"
        )
        return BackendError(
            f"{what} is not in the cache and {why}{cached}; fetch it once with a network, {own}"
        )
    match error:
        case errors.GatedRepoError():
            reason = (
                "is gated: accept its conditions on the hub, then hf auth login or set HF_TOKEN, "
                f"{own}"
            )
        case errors.RepositoryNotFoundError():
            reason = f"is private or does not exist: set HF_TOKEN, check HF_ENDPOINT, {own}"
        case errors.RevisionNotFoundError():
            reason = (
                "does not exist, the commit is unknown: is HF_ENDPOINT a complete mirror? "
                f"Fix it, {own}"
            )
        case errors.RemoteEntryNotFoundError():
            reason = f"does not exist, though the commit does: check HF_ENDPOINT, {own}"
        case OSError(errno=errno.ENOSPC):
            reason = "does not fit on the disk: make room, or set HF_HUB_CACHE to another disk"
        case PermissionError():
            reason = f"cannot be written to {error.filename}: set HF_HUB_CACHE to a folder of yours"
        case _:
            reason = (
                f"could not be fetched ({_root(error)}): check the network and HF_ENDPOINT, {own}"
            )
    return BackendError(f"{what} {reason}; asked {endpoint()}{cached}")


def _root(error: BaseException) -> str:
    """Return the root cause in one line."""
    from huggingface_hub.errors import HfHubHTTPError

    while error.__cause__ is not None and not isinstance(error, HfHubHTTPError):
        error = error.__cause__
    if isinstance(error, HfHubHTTPError):
        return f"HTTP status {error.response.status_code}"
    lines = str(error).splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep huggingface_hub's own warnings off the terminal; errors are explained here."""
    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
