"""JSON over HTTP to one server, on a port or a Unix socket."""

from __future__ import annotations

import base64
import contextlib
import errno
import http.client
import json
import re
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from dgpo_cli.core.text import cut

CONNECT_TIMEOUT_S = 10.0
_TEXT = 300  # characters of a server's answer that an error shows


class ServerGone(Exception):
    """No answer: refused, reset, or broken off.

    may_pass: whether a later try may succeed.
    """

    def __init__(self, message: str, *, may_pass: bool = True) -> None:
        super().__init__(message)
        self.may_pass = may_pass


class ServerSlow(Exception):
    """No answer in the time allowed."""


class ServerSaysNo(Exception):
    """An answer with an HTTP status that is not success."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"HTTP {status}: {message}".rstrip(": "))
        self.status = status

    @property
    def may_pass(self) -> bool:
        """Whether the same request may succeed later."""
        lasting = (501, 505)  # what the server does not speak, it never will
        return self.status in (408, 429) or (self.status >= 500 and self.status not in lasting)


UNREACHED = (ServerGone, ServerSlow, ServerSaysNo)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens: http://HOST:PORT[/PREFIX], https://..., or unix:/PATH.

    api_key: bearer token, if any. A function is called for every new connection: a restarted
        server has a new key.
    login: USER:PASSWORD, as in an address, sent instead of a key.
    """

    url: str
    api_key: str | Callable[[], str | None] | None = field(default=None, repr=False)
    login: str | None = field(default=None, repr=False)

    def connect(self) -> Connection:
        """Return a connection that opens itself with the first request."""
        return Connection(self)


class Connection:
    """One keep-alive connection, for one thread; another thread may close it."""

    def __init__(self, address: Address) -> None:
        self._address = address
        parts = urlsplit(address.url)
        self._prefix = "" if parts.scheme == "unix" else parts.path.rstrip("/")
        self._http = _open(address.url)
        self._key: str | None = None
        self._http.auto_open = 0  # another thread may have closed it for good
        self._abandoned = False

    def request(self, method: str, path: str, body: Any = None, *, timeout_s: float) -> Any:
        """Send one request; return the decoded answer, None if it is empty or not JSON.

        Raises:
            ServerGone, ServerSlow, ServerSaysNo
        """
        headers = {"Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        try:
            if self._http.sock is None:
                key = self._address.api_key
                self._key = key() if callable(key) else key
                self._http.timeout = min(timeout_s, CONNECT_TIMEOUT_S)
                self._http.connect()
            if self._abandoned:
                raise ConnectionError("called off")
            if self._address.login is not None:
                headers["Authorization"] = f"Basic {basic(self._address.login)}"
            elif self._key:
                headers["Authorization"] = f"Bearer {self._key}"
            self._http.sock.settimeout(timeout_s)
            self._http.request(method, self._prefix + path, body=data, headers=headers)
            answer = self._http.getresponse()
            status, text = answer.status, answer.read()
        except TimeoutError as error:
            self.close()
            raise ServerSlow(f"no answer within {timeout_s:g} s") from error
        except (OSError, http.client.HTTPException, AttributeError) as error:
            # AttributeError: another thread has closed the socket under us.
            self.close()
            raise _gone(error) from error
        if not 200 <= status < 300:
            raise ServerSaysNo(status, error_text(text))
        return _decoded(text)

    def abandon(self) -> None:
        """Close for good, from another thread, even while the connection is being opened."""
        self._abandoned = True
        self.close()

    def close(self) -> None:
        """Close the connection; the server then aborts its request."""
        sock = self._http.sock
        if sock is not None:
            # close() alone would not wake a thread that reads from the socket.
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._http.close()


def basic(login: str) -> str:
    """Return USER:PASSWORD of an address encoded for the Authorization header."""
    return base64.b64encode(unquote(login).encode()).decode("ascii")


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(self.timeout)
        try:
            sock.connect(self._path)
        except BaseException:
            sock.close()
            raise
        self.sock = sock


def _open(url: str) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return _UnixConnection(parts.path)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    return kind(parts.hostname or "", parts.port)


def _gone(error: Exception) -> ServerGone:
    """Describe a connection error, and whether a later try may succeed."""
    match error:
        case socket.gaierror():
            return ServerGone(f"unknown host ({error.strerror})", may_pass=False)
        case ssl.SSLCertVerificationError():
            return ServerGone(f"certificate not trusted ({error.verify_message})", may_pass=False)
        case ssl.SSLError():
            return ServerGone("not a TLS server (http:// instead?)", may_pass=False)
        case ConnectionRefusedError():
            return ServerGone("connection refused")
        case http.client.RemoteDisconnected() | ConnectionResetError():
            return ServerGone("connection closed without an answer")
        case http.client.BadStatusLine():
            return ServerGone("the answer is not HTTP", may_pass=False)
        case FileNotFoundError():
            return ServerGone("no such socket")
        case OSError(errno=errno.EHOSTUNREACH | errno.ENETUNREACH | errno.EACCES):
            return ServerGone((error.strerror or "unreachable").lower(), may_pass=False)
    return ServerGone(f"{type(error).__name__}: {error}".rstrip(": "))


def _decoded(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def error_text(text: bytes) -> str:
    """Return a server's error message as one line of bounded length."""
    value = _decoded(text)
    if isinstance(value, dict):
        inner = value.get("error", value)
        told = inner.get("message") or inner.get("detail") if isinstance(inner, dict) else inner
        line = " ".join(str(told or value).split())
    else:
        words = text.decode(errors="replace")
        if words.lstrip()[:9].lower().startswith(("<!doctype", "<html")):  # its title
            title = re.search(r"<title[^>]*>([^<]*)", words, re.IGNORECASE)
            words = title[1] if title else ""
        line = " ".join(words.split())
    return cut(line, _TEXT)
