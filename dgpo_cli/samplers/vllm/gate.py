"""Who may call a server of `dgpo serve`, and for what: an ASGI middleware for vLLM's front end.

vLLM's own key covers only /v1, but not the calls that replace weights, run methods of the workers
or end the engine. This gate covers all of them. Its rules come from the environment, so that they
appear on no command line. It imports neither vLLM nor torch.

The key is in a file that only its owner can read, where the same user's trainers find it.
"""

from __future__ import annotations

import contextlib
import hmac
import ipaddress
import json
import os
import re
import secrets
import socket
import stat
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

RELOAD = "dgpo_reload_weights"  # the method of our workers that reads new weights

_VARIABLE = "DGPO_SERVE_RULES"
_MOST_BYTES = 2**16  # of a call that names a folder

_SAMPLING = {
    ("GET", "/v1/models"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/chat/completions"),  # of other clients
}
_UPDATES = {
    ("GET", "/is_sleeping"),
    ("GET", "/server_info"),
    ("GET", "/get_world_size"),
    ("POST", "/v1/load_lora_adapter"),
    ("POST", "/v1/unload_lora_adapter"),
    ("POST", "/collective_rpc"),
    ("POST", "/reset_prefix_cache"),
    ("POST", "/init_weight_transfer_engine"),
    ("POST", "/start_weight_update"),
    ("POST", "/update_weights"),
    ("POST", "/finish_weight_update"),
}
NAME_A_FOLDER = ("/v1/load_lora_adapter", "/collective_rpc")
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]*)?")

_Scope = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
_Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]


class Refused(Exception):
    """A request that goes no further, with the HTTP status to answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class GateRules:
    """What a server lets through.

    key: what every call but GET /health must send as a bearer token.
    folder: weights are read only from folders below it.
    owner: the user who must own those folders; None: anyone.
    updates: whether new weights are accepted at all.
    names: host names of a server that other machines reach; None: only this machine reaches it.
    """

    key: str
    folder: str
    owner: int | None = None
    updates: bool = True
    names: tuple[str, ...] | None = None

    def environment(self) -> dict[str, str]:
        """Return the environment variables that pass these rules to the server's process."""
        return {_VARIABLE: json.dumps(asdict(self))}

    @classmethod
    def from_environment(cls) -> GateRules:
        """Read what `environment` has written. Raises KeyError if there is nothing."""
        values = json.loads(os.environ[_VARIABLE])
        names = values.pop("names")
        return cls(names=None if names is None else tuple(names), **values)

    def admit(self, method: str, path: str, headers: Headers) -> None:
        """Raise Refused unless the head of a request allows it."""
        found: dict[str, list[bytes]] = {}
        for name, value in headers:
            found.setdefault(name.decode("latin-1").lower(), []).append(value)
        # A page that rebinds its own name to this machine sends that name.
        if not self._is_own(found.get("host", [])):
            raise Refused(
                403, "Host is not a name of this server; use its IP address or --host NAME"
            )
        if "origin" in found:
            raise Refused(403, "requests from web pages (Origin) are refused")
        if (method, path) == ("GET", "/health"):
            return
        if not self._has_key(found.get("authorization", [])):
            raise Refused(401, "the key is missing or wrong (Authorization: Bearer KEY)")
        if (method, path) not in (_SAMPLING | _UPDATES if self.updates else _SAMPLING):
            raise Refused(404, f"{method} {path} is not open; see dgpo serve --help")
        # Other types, text/plain among them, a page may send without asking first.
        if method == "POST" and not _is_json(found.get("content-type", [])):
            raise Refused(415, "Content-Type must be application/json")

    def narrowed(self, path: str, body: bytes) -> bytes:
        """Return the body of a call that names a folder, with that folder as it really is.

        Raises:
            Refused: it is another method, has fields of its own, or the folder lies elsewhere.
        """
        if len(body) > _MOST_BYTES:
            raise Refused(413, f"the body has more than {_MOST_BYTES} bytes")
        try:
            values = json.loads(body)
            if path == "/collective_rpc":
                if values["method"] != RELOAD or values.keys() != {"method", "kwargs"}:
                    raise Refused(403, f"the only open method of the workers is {RELOAD}")
                holder, name, others = values["kwargs"], "weights_path", set[str]()
            else:
                holder, name, others = values, "lora_path", {"lora_name"}
            if holder.keys() != {name, *others}:
                raise Refused(400, f"the fields must be {', '.join(sorted({name, *others}))}")
            holder[name] = self._resolved(holder[name])
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise Refused(400, f"not the JSON of this call: {type(error).__name__}") from error
        return json.dumps(values).encode()

    def _resolved(self, given: str) -> str:
        """Return the real path of a folder below ours. Raises Refused."""
        root = os.path.realpath(self.folder)
        place = os.path.realpath(given)
        fix = "; start the server with --sync-dir, and set rollout.backend.sync_dir to the same"
        if not os.path.isabs(given) or not _is_below(place, root):
            raise Refused(403, f"weights are read only from folders below {self.folder}{fix}")
        try:
            entries = [os.path.realpath(entry.path) for entry in os.scandir(place)]
            owner = os.stat(place).st_uid
        except OSError as error:
            raise Refused(404, f"{given}: {error.strerror}{fix}") from error
        if self.owner is not None and owner != self.owner:
            raise Refused(403, f"{given} does not belong to the user that runs the server{fix}")
        if not all(_is_below(entry, place) for entry in entries):
            raise Refused(403, f"{given} contains links that point outside of it")
        return place

    def _is_own(self, hosts: list[bytes]) -> bool:
        parts = _HOST.fullmatch(hosts[0].decode("latin-1").lower()) if len(hosts) == 1 else None
        if parts is None:
            return False
        name = parts[1].strip("[]").rstrip(".")
        if name == "localhost":
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            # Names on the public internet have a dot: a name without one is no foreign page's.
            return self.names is not None and ("." not in name or name in self.names)
        return address.is_loopback or (self.names is not None and not address.is_unspecified)

    def _has_key(self, values: list[bytes]) -> bool:
        if len(values) != 1 or not self.key:
            return False
        scheme, _, given = values[0].partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(given, self.key.encode())


def names_of(host: str) -> tuple[str, ...]:
    """Return the names of this machine that have a dot, and the one that it listens at."""
    return tuple({name.lower() for name in (host, socket.gethostname(), socket.getfqdn())})


class Gate:
    """The middleware; vLLM makes one, by its name."""

    def __init__(self, app: Callable[[_Scope, _Receive, _Send], Awaitable[None]]) -> None:
        self._app = app
        self._rules = GateRules.from_environment()

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """Answer a request that is refused, and hand on any other."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # none of them is ours
            return
        if scope["type"] == "http":
            try:
                self._rules.admit(scope["method"], scope["path"], scope["headers"])
                if scope["path"] in NAME_A_FOLDER:
                    body = self._rules.narrowed(scope["path"], await _whole(receive))
                    scope, receive = _with_body(scope, receive, body=body)
            except Refused as refused:
                await _answer(send, refused)
                return
        await self._app(scope, receive, send)


async def _whole(receive: _Receive) -> bytes:
    """Read a body; one that is too long is not read to its end."""
    body, more = b"", True
    while more and len(body) <= _MOST_BYTES:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


def _with_body(scope: _Scope, receive: _Receive, *, body: bytes) -> tuple[_Scope, _Receive]:
    """Return the request with another body: what was checked is what is done."""
    dropped = (b"content-length", b"transfer-encoding")
    headers = [pair for pair in scope["headers"] if pair[0].lower() not in dropped]
    headers.append((b"content-length", str(len(body)).encode()))
    left = [body]

    async def again() -> MutableMapping[str, Any]:
        if left:
            return {"type": "http.request", "body": left.pop(), "more_body": False}
        return await receive()

    return {**scope, "headers": headers}, again


async def _answer(send: _Send, refused: Refused) -> None:
    body = json.dumps({"error": {"message": str(refused)}}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if refused.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _is_json(values: list[bytes]) -> bool:
    kinds = [value.partition(b";")[0].strip().lower() for value in values]
    return kinds == [b"application/json"]


def _is_below(place: str, root: str) -> bool:
    return place != root and os.path.commonpath([place, root]) == root


# The file of a key.


def key_file(url: str) -> Path:
    """Return the path of a server's key, below XDG_STATE_HOME or ~/.local/state.

    The key of a server on loopback has the name of this machine: machines may share a home.
    """
    parts = urlsplit(url)
    name = (parts.hostname or "").lower()
    if name == "localhost" or _is_loopback(name):
        name = socket.gethostname()
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return Path(base).expanduser() / "dgpo" / "serve" / f"{name.replace(':', '-')}-{port}.key"


def write_key(path: Path) -> str:
    """Make a key and write it where only this user can read it. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    key = secrets.token_urlsafe(32)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(key + "\n")
    return key


def read_key(path: Path) -> str | None:
    """Return the key in a file; None without one, or if others than this user have access."""
    try:
        with open(path, opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW)) as file:
            status = os.fstat(file.fileno())
            private = not status.st_mode & (stat.S_IRWXG | stat.S_IRWXO)
            mine = status.st_uid == os.getuid()
            return (file.read().strip() or None) if private and mine else None
    except (OSError, ValueError):
        return None


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
