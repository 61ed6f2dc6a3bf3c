"""A small server that speaks as much of the hub's HTTP API as huggingface_hub needs for a file.

Its misbehaviour is set by the attributes of `Hub`; every request is kept in `requests`.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_RESOLVE = re.compile(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_TREE = re.compile(r"/api/datasets/([^/]+/[^/]+)/(tree|revision)/([^/?]+)")
_NEWEST = re.compile(r"/api/datasets/([^/]+/[^/?]+)$")


@dataclass
class Hub:
    """What the server has and how it behaves.

    breaks: GETs whose connection ends in the middle, from now on; reset: with a TCP reset.
    wrong: GETs that send other bytes of the same length.
    announce: bytes that it says the file has, and sends at most; None for all.
    gated: the authorisation that it wants to see.
    status: what it answers to everything.
    failures: GETs that are answered with status 500.
    etag: instead of the checksum.
    branches: names besides main that stand for the commit.
    """

    dataset: str
    revision: str
    files: dict[str, bytes]
    large: bool = False
    gated: str | None = None
    status: int | None = None
    breaks: int = 0
    reset: bool = False
    wrong: int = 0
    announce: int | None = None
    failures: int = 0
    etag: str | None = None
    branches: tuple[str, ...] = ()
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    url: str = ""

    def checksum(self, content: bytes) -> str:
        """The ETag as the hub gives it: SHA-256 of large files, git's blob SHA-1 of others."""
        if self.etag is not None:
            return self.etag
        if self.large:
            return hashlib.sha256(content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on the terminal."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub = self.hub
        hub.requests.append((self.command, self.path, self.headers.get("Range")))
        file, tree = _RESOLVE.match(self.path), _TREE.match(self.path)
        newest = _NEWEST.match(self.path)
        found = file or tree or newest
        if hub.status is not None:
            return self._refuse(hub.status, None)
        if found is None or found[1] != hub.dataset:
            return self._refuse(404, "RepoNotFound")
        if hub.gated not in (None, self.headers.get("Authorization")):
            return self._refuse(401, "GatedRepo")
        if newest is not None:
            return self._list("revision")
        names = (hub.revision, *(("main", *hub.branches) if tree else ()))
        if (found[2] if file else found[3]) not in names:
            return self._refuse(404, "RevisionNotFound")
        if tree is not None:
            return self._list(tree[2])
        assert file is not None
        if file[3] not in hub.files:
            return self._refuse(404, "EntryNotFound")
        return self._file(hub.files[file[3]])

    def _refuse(self, status: int, code: str | None) -> None:
        self.send_response(status)
        if code is not None:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _list(self, what: str) -> None:
        entries = [
            {"type": "file", "path": name, "size": len(content), "oid": "0" * 40}
            for name, content in self.hub.files.items()
        ]
        siblings = [{"rfilename": name} for name in self.hub.files]
        whole = {"id": self.hub.dataset, "sha": self.hub.revision, "siblings": siblings}
        body = json.dumps(entries if what == "tree" else whole).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _file(self, content: bytes) -> None:
        hub = self.hub
        is_get = self.command == "GET"
        if is_get and hub.failures:
            hub.failures -= 1
            return self._refuse(500, None)
        body = content[: hub.announce]
        if is_get and hub.wrong:
            hub.wrong -= 1
            body = bytes(byte ^ 1 for byte in body)
        start = 0
        if wanted := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or ""):
            start = int(wanted[1])
        self.send_response(206 if start else 200)
        self.send_header("X-Repo-Commit", hub.revision)
        self.send_header("ETag", f'"{hub.checksum(content)}"')
        if hub.large:
            self.send_header("X-Linked-Etag", f'"{hub.checksum(content)}"')
            self.send_header("X-Linked-Size", str(len(content)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        if is_get:
            self._send(body[start:])

    def _send(self, body: bytes) -> None:
        if not self.hub.breaks:
            self.wfile.write(body)
            return
        self.hub.breaks -= 1
        self.wfile.write(body[: len(body) // 2])
        self.wfile.flush()
        self.close_connection = True
        if self.hub.reset:
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.shutdown(
            socket.SHUT_RDWR
        ) if not self.hub.reset else self.connection.close()


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Run the server on a free port of this machine; `hub.url` is its address."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
