"""A hub on this machine that speaks as much of the Hugging Face API as an upload needs."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_notARealTokenButSecret"


@dataclass
class Hub:
    """What was done to the hub. `fails` maps a path's part to a status, 0 to hang up."""

    address: str = ""
    private: bool | None = None  # of the repository; None: there is none
    files: dict[str, bytes] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)  # large files by sha256
    commits: int = 0
    asked: list[str] = field(default_factory=list)
    fails: dict[str, int] = field(default_factory=dict)


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Run the hub on a free port, in a thread."""

    class Handler(_Handler):
        state = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    state: Hub

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self, value: object, status: int = 200) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _refused(self) -> bool:
        """Whether this request was planted to fail, or its token is wrong."""
        self.state.asked.append(f"{self.command} {self.path}")
        for part, status in self.state.fails.items():
            if part in self.path:
                if status:
                    self._answer({"error": f"you sent {self.headers['Authorization']}"}, status)
                self.close_connection = True
                return True
        if self.headers.get("Authorization") != f"Bearer {TOKEN}" and "/store/" not in self.path:
            self._answer({"error": "Invalid username or password."}, 401)
            return True
        return False

    def do_HEAD(self) -> None:
        self._file()

    def _file(self) -> None:
        """Answer with a file as the hub does: its etag, its commit, and a code where it lacks."""
        if self._refused():
            return
        name = self.path.partition("/resolve/main/")[2]
        found = self.state.files.get(name)
        self.send_response(404 if found is None else 200)
        if found is None:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("ETag", f'"{hashlib.sha256(found or b"").hexdigest()}"')
        self.send_header("Content-Length", str(len(found or b"")))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(found or b"")

    def do_GET(self) -> None:
        if "/resolve/main/" in self.path:
            self._file()
            return
        if self._refused():
            return
        assert self.path.startswith("/api/models/")
        self._answer({"id": "me/model", "private": self.state.private, "sha": "0" * 40})

    def do_PUT(self) -> None:
        data = self._body()
        if self._refused():
            return
        digest = hashlib.sha256(data).hexdigest()
        assert self.path == f"/store/{digest}"
        self.state.stored[digest] = data
        self._answer({})

    def do_POST(self) -> None:
        data = self._body()
        if self._refused():
            return
        hub = self.state
        if self.path == "/api/repos/create":
            if hub.private is not None:
                self._answer({"url": f"{hub.address}/me/model", "error": "exists"}, 409)
                return
            asked = json.loads(data)
            hub.private = asked.get("private", asked.get("visibility") == "private") or False
            self._answer({"url": f"{hub.address}/me/model"})
        elif self.path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif self.path.startswith("/api/models/me/model/preupload/"):
            self._answer(
                {
                    "files": [
                        {
                            "path": file["path"],
                            "uploadMode": "lfs" if "safetensors" in file["path"] else "regular",
                            "shouldIgnore": False,
                        }
                        for file in json.loads(data)["files"]
                    ]
                }
            )
        elif self.path == "/me/model.git/info/lfs/objects/batch":
            self._answer({"transfer": "basic", "objects": self._uploads(json.loads(data))})
        else:
            assert self.path.startswith("/api/models/me/model/commit/main")
            self._commit(data)

    def _uploads(self, asked: dict[str, Any]) -> list[dict[str, Any]]:
        return [
            {
                **each,
                "actions": {"upload": {"href": f"{self.state.address}/store/{each['oid']}"}},
            }
            for each in asked["objects"]
        ]

    def _commit(self, data: bytes) -> None:
        for line in map(json.loads, data.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                self.state.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.state.files[value["path"]] = self.state.stored[value["oid"]]
        self.state.commits += 1
        self._answer(
            {"commitUrl": f"{self.state.address}/me/model/commit/1", "commitOid": "1" * 40}
        )
