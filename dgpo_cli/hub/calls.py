"""Calls of the Hugging Face hub: repeated where that may help, explained where they fail."""

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
_PATIENCE_S = 8.0  # after which nobody is there, attempts and the look-up of the name included
_ATTEMPTS = 3  # on top of what huggingface_hub repeats by itself
_WAIT_S = 1.0
_LOCAL_FAULTS = (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT, errno.EPERM)
_T = TypeVar("_T")
_left_alone = ""  # why the hub is asked no more


class Unreached(Exception):
    """The hub did not answer `probe`; the cause says how."""


def ask(call: Callable[[], _T], *, what: str, instead: str, damaged: str | None = None) -> _T:
    """Return what `call` returns, after a few attempts where the failure may pass.

    Args:
        what: what is asked for, as an error names it.
        instead: the way around the hub that an error names.
        damaged: why the copy in the cache was no good, if there was one.

    Raises:
        DgpoError: one line that says what happened and what to do; the cause is attached.
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
    """Return the result of a small request that is made before larger ones.

    Raises:
        Unreached: within _PATIENCE_S there was no answer, or only one that may change later.
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
    """Call in a thread: no timeout of a request holds for the look-up of a name."""
    told: SimpleQueue[_T | Exception] = SimpleQueue()

    def run() -> None:
        try:
            told.put(call())
        except Exception as error:
            told.put(error)

    threading.Thread(target=run, name="dgpo-hub", daemon=True).start()
    try:
        found = told.get(timeout=timeout_s)
    except Empty:
        raise TimeoutError(f"no answer within {_PATIENCE_S:g} s") from None
    if isinstance(found, Exception):
        raise found
    return found


def go_offline(why: Unreached) -> str:
    """Stop asking the hub, in this process and those it starts; return why, in a few words."""
    global _left_alone
    from huggingface_hub import constants

    _left_alone = str(why)
    constants.HF_HUB_OFFLINE = True
    os.environ["HF_HUB_OFFLINE"] = "1"
    return _left_alone


def given_endpoint() -> str | None:
    """Return HF_ENDPOINT, read now and not when huggingface_hub was imported."""
    return os.environ.get("HF_ENDPOINT") or None


def asked() -> str:
    """Return what is asked, as a note names it; imports nothing, unlike `endpoint`."""
    return given_endpoint() or "the Hugging Face hub"


def endpoint() -> str:
    """Return the address that is asked."""
    from huggingface_hub import constants

    return given_endpoint() or constants.ENDPOINT


def _passing(error: Exception) -> bool:
    """Whether trying once more may help: not where the hub or the disk has given its answer."""
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
    """Say in one line what happened and what to do."""
    from huggingface_hub import constants, errors

    own = f"or {instead}"
    cached = f" (the cached copy was damaged: {damaged}; it is removed)" if damaged else ""
    if constants.is_offline_mode():
        why = f"the hub does not answer ({_left_alone})" if _left_alone else "HF_HUB_OFFLINE is set"
        return BackendError(
            f"{what} is not in the cache and {why}{cached}; fetch it once with a network, {own}"
        )
    match error:
        case errors.GatedRepoError():
            reason = f"is gated: accept its conditions on the hub and set HF_TOKEN, {own}"
        case errors.RepositoryNotFoundError():
            reason = f"is private or not there: set HF_TOKEN, check HF_ENDPOINT, {own}"
        case errors.RevisionNotFoundError():
            reason = (
                f"is not there, the commit is unknown: is HF_ENDPOINT a whole mirror? Fix it, {own}"
            )
        case errors.RemoteEntryNotFoundError():
            reason = f"is not there, though the commit is: check HF_ENDPOINT, {own}"
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
    """Return the reason that lies deepest, in one line."""
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
