"""One request to an endpoint, and what a failed one means."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import httpx2

from dgpo_cli.core.errors import ConfigError
from dgpo_cli.samplers.endpoint.waits import wait_told
from dgpo_cli.samplers.http_json import basic, error_text
from dgpo_cli.samplers.settings import EndpointBackend

CONNECT_TIMEOUT_S = 10.0
_POOL = 16  # connections
_BUSY = frozenset({408, 409, 425, 429, 503, 504, 522, 524, 529})
_UNBILLED = frozenset({409, 425, 429, 503, 529})  # turned away before any work
_FOR_GOOD = frozenset({"insufficient_quota", "billing_hard_limit_reached"})
_MASKED = re.compile(r"\S*\*{3,}\S*")  # how a server quotes a part of a key
_ALIVE = ((socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),)


class Failed(Exception):
    """A request without an answer.

    may_pass: the same request may succeed later. billed: it may have been paid for all the same.
    busy: the endpoint takes no more at a time. wait_s: how long it asks to wait.
    status, param, code: what it says of a request that it refuses.
    """

    def __init__(
        self,
        message: str,
        *,
        may_pass: bool,
        billed: bool = False,
        busy: bool = False,
        wait_s: float | None = None,
        status: int | None = None,
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.may_pass, self.billed, self.busy, self.wait_s = may_pass, billed, busy, wait_s
        self.status, self.param, self.code = status, param, code


@dataclass(frozen=True, slots=True)
class Secret:
    """A key that no repr, traceback or message shows."""

    value: str = field(repr=False)

    def hidden(self, text: str) -> str:
        """Return a server's words without the key, or what is left of one."""
        whole = text.replace(self.value, "[key]") if self.value else text
        return _MASKED.sub("[key]", whole)


def key_of(backend: EndpointBackend) -> Secret:
    """Read the key from the environment; empty if it is not set.

    Raises:
        ConfigError: it cannot be sent; the message does not show it.
    """
    key = os.environ.get(backend.api_key_env, "").strip()
    if re.search(r"[^!-~]", key):
        raise ConfigError(
            f"{backend.api_key_env}: its value is not a key: it has spaces, line breaks or letters "
            "that are not ASCII"
        )
    return Secret(key)


@dataclass(frozen=True, slots=True)
class Answer:
    """The decoded body of an answer, None if it is not JSON, and the server's headers."""

    body: Any
    headers: Mapping[str, str]


class Client:
    """Connections to one endpoint, for one event loop, in so many pools."""

    def __init__(self, backend: EndpointBackend, key: Secret, *, pools: int = 1) -> None:
        self.url = backend.url
        self.timeout_s = backend.request_timeout_s
        self._key = key
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if backend.url.login is not None:
            headers["Authorization"] = f"Basic {basic(backend.url.login)}"
        elif key.value:
            headers["Authorization"] = f"Bearer {key.value}"
        # As many connections as requests: how many those are is decided elsewhere. A pool looks at
        # all its idle connections for each request, so that many small ones cost less.
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
        trusted = _trusted() if backend.url.startswith("https:") else _nothing()
        self._pools = [
            httpx2.AsyncClient(
                headers=headers,
                limits=limits,
                verify=trusted,
                transport=None if _has_proxy() else _transport(limits, trusted),
            )
            for _ in range(pools)
        ]
        self._turn = itertools.cycle(self._pools)

    async def get(self, path: str, *, timeout_s: float) -> Answer:
        """Fetch JSON below the base address. Raises Failed."""
        return await self._send("GET", str(self.url) + path, None, timeout_s=timeout_s)

    async def post(
        self, path: str, body: Mapping[str, Any], *, timeout_s: float | None = None
    ) -> Answer:
        """Send a request; the answer is a JSON object. Raises Failed."""
        data = json.dumps(body).encode()
        answer = await self._send("POST", str(self.url) + path, data, timeout_s=timeout_s)
        if not isinstance(answer.body, dict):
            raise Failed("the answer is not a JSON object", may_pass=True, billed=True)
        error = answer.body.get("error")
        if error and not answer.body.get("choices"):  # OpenRouter has them under status 200
            code = error.get("code") if isinstance(error, dict) else None
            status = code if type(code) is int else 500
            raise self._refused(status, json.dumps(answer.body).encode(), answer.headers)
        return answer

    async def close(self) -> None:
        for pool in self._pools:
            await pool.aclose()

    async def _send(
        self, method: str, url: str, data: bytes | None, *, timeout_s: float | None
    ) -> Answer:
        wait = timeout_s or self.timeout_s
        timeout = httpx2.Timeout(wait, connect=min(wait, CONNECT_TIMEOUT_S))
        try:
            async with asyncio.timeout(wait):  # the client's own is for each piece of an answer
                response = await next(self._turn).request(
                    method, url, content=data, timeout=timeout
                )
        except (httpx2.HTTPError, OSError) as error:
            # Not chained: an error of the library may quote the headers of the request.
            raise _unanswered(error, wait) from None
        if response.is_redirect:
            place = response.headers.get("location", "nowhere").partition("?")[0]
            raise Failed(f"redirects to {place}; give that address", may_pass=False)
        if not response.is_success:
            raise self._refused(response.status_code, response.content, response.headers)
        try:
            return Answer(json.loads(response.content), response.headers)
        except (ValueError, RecursionError):
            return Answer(None, response.headers)

    def _refused(self, status: int, content: bytes, headers: Mapping[str, str]) -> Failed:
        told = error_text(content).rstrip(".")
        error = _error_of(content)
        code, param = (_word(error.get(name)) for name in ("code", "param"))
        kinds = {code, _word(error.get("type"))}
        wait = wait_told(headers) if status >= 429 else None
        final = status == 429 and bool(kinds & _FOR_GOOD)
        return Failed(
            f"HTTP {status}: {self._key.hidden(told)}".rstrip(": "),
            may_pass=not final and (status in _BUSY or status >= 500),
            billed=(status >= 500 or status == 408) and status not in _UNBILLED,
            busy=status in _BUSY and not final,
            wait_s=wait,
            status=status,
            param=param,
            code=code,
        )


@cache
def _trusted() -> ssl.SSLContext:
    return httpx2.create_ssl_context()  # reads all certificates: a tenth of a second


@cache
def _nothing() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def pools_for(in_flight: int) -> int:
    """Return the number of pools that keeps each small."""
    return -(-in_flight // _POOL)


def _has_proxy() -> bool:
    return any(
        os.environ.get(f"{kind}_PROXY".lower()) or os.environ.get(f"{kind}_PROXY")
        for kind in ("HTTP", "HTTPS", "ALL")
    )


def _transport(limits: httpx2.Limits, trusted: ssl.SSLContext) -> httpx2.AsyncHTTPTransport:
    # A gateway that vanished is noticed by the system, long before a completion's time is over.
    return httpx2.AsyncHTTPTransport(verify=trusted, limits=limits, socket_options=_ALIVE)


def _unanswered(error: Exception, wait: float) -> Failed:
    kind = type(error).__name__
    match error:
        case httpx2.ConnectTimeout():
            return Failed("no connection within 10 s", may_pass=True, busy=True)
        case httpx2.TimeoutException() | TimeoutError():
            return Failed(f"no answer within {wait:g} s", may_pass=True, billed=True, busy=True)
        case httpx2.ConnectError():
            reason = _connect_reason(error)
            lasting = "certificate" in reason or "TLS" in reason or "unknown host" in reason
            return Failed(reason, may_pass=not lasting)
        case httpx2.UnsupportedProtocol() | httpx2.LocalProtocolError():
            return Failed(f"{kind}: the request cannot be sent", may_pass=False)
        case httpx2.ProxyError():
            return Failed("the proxy refuses the connection", may_pass=True)
    return Failed(
        "the connection broke off before the answer was whole", may_pass=True, billed=True
    )


def _connect_reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    for sign, words in (
        ("CERTIFICATE_VERIFY_FAILED", "its certificate is not trusted"),
        ("SSL", "not a TLS server (http:// instead?)"),
        ("Name or service", "unknown host"),
        ("nodename", "unknown host"),
        ("No address associated", "unknown host"),
        ("Temporary failure in name", "unknown host (no name server answers)"),
    ):
        if sign in text:
            return words
    return "connection refused" if "refused" in text or "attempts failed" in text else "unreachable"


def _error_of(content: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    if isinstance(value, list) and value:  # Google's
        value = value[0]
    inner = value.get("error", value) if isinstance(value, dict) else {}
    return inner if isinstance(inner, dict) else {}


def _word(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
