"""Requests that a server of `dgpo serve` must refuse, whatever stands behind its gate."""

from __future__ import annotations

import http.client
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dgpo_cli.samplers.vllm.gate import RELOAD

JSON = "application/json"


@dataclass(frozen=True)
class Attempt:
    """One request, and the status that must answer it. key: "KEY" stands for the right one."""

    name: str
    status: int
    method: str = "POST"
    path: str = "/reset_prefix_cache"
    body: Any = None
    key: str | None = "Bearer KEY"
    host: str | None = "127.0.0.1"
    kind: str | None = JSON
    more: dict[str, str] = field(default_factory=dict)


def rpc(folder: Path | str, *, method: str = RELOAD, **more: Any) -> dict[str, Any]:
    return {"method": method, "kwargs": {"weights_path": str(folder)}, **more}


def refused(ours: Path, *, outside: Path) -> list[Attempt]:
    """What must be refused by a server that reads weights from folders below `ours`."""
    for folder in (ours / "weights", ours / "linked", outside):
        folder.mkdir(parents=True)
    (outside / "model.safetensors").write_bytes(b"x")
    (ours / "linked" / "model.safetensors").symlink_to(outside / "model.safetensors")
    (ours / "link").symlink_to(outside)
    reload = "/collective_rpc"
    load = "/v1/load_lora_adapter"
    good = rpc(ours / "weights")
    health = {"method": "GET", "path": "/health", "key": None}
    return [
        Attempt("no key", 401, path=reload, body=good, key=None),
        Attempt("no key for samples", 401, path="/v1/completions", body={}, key=None),
        Attempt("no key for the models", 401, "GET", "/v1/models", key=None),
        Attempt("no key for a path that is not there", 401, "GET", "/nowhere", key=None),
        Attempt("another key", 401, path=reload, body=good, key="Bearer " + "x" * 43),
        Attempt("an empty key", 401, path=reload, body=good, key="Bearer "),
        Attempt("a part of the key", 401, path=reload, body=good, key="Bearer KE"),
        Attempt("no bearer", 401, path=reload, body=good, key="Basic KEY"),
        Attempt("key alone", 401, path=reload, body=good, key="KEY"),
        Attempt("key in the query", 401, path=reload + "?key=KEY", body=good, key=None),
        Attempt("key in another field", 401, path=reload, key=None, more={"X-Api-Key": "KEY"}),
        Attempt("a key that is no ASCII", 401, key="Bearer \xff\xfe"),
        Attempt("foreign origin", 403, path=reload, body=good, more={"Origin": "http://evil.test"}),
        Attempt("origin null", 403, path=reload, body=good, more={"Origin": "null"}),
        Attempt("own origin", 403, path=reload, body=good, more={"Origin": "http://127.0.0.1"}),
        Attempt("preflight", 403, "OPTIONS", reload, more={"Origin": "http://evil.test"}),
        Attempt("options without a key", 401, "OPTIONS", reload, key=None),
        Attempt("options", 404, "OPTIONS", reload),
        Attempt("foreign host", 403, path=reload, body=good, host="evil.test"),
        Attempt("foreign host with a port", 403, path=reload, body=good, host="evil.test:8000"),
        Attempt("host that begins as ours", 403, host="127.0.0.1.evil.test"),
        Attempt("host with a user", 403, host="127.0.0.1@evil.test"),
        Attempt("host 0.0.0.0", 403, host="0.0.0.0"),
        Attempt("another machine's address", 403, host="192.0.2.7"),
        Attempt("no host", 403, host=""),
        Attempt("health for a foreign host", 403, host="evil.test", **health),
        Attempt("health for a page", 403, **health, more={"Origin": "http://evil.test"}),
        Attempt("health by POST", 401, path="/health", key=None),
        Attempt("text", 415, path=reload, body=good, kind="text/plain"),
        Attempt("text with a parameter", 415, path=reload, body=good, kind="text/plain; x=" + JSON),
        Attempt("a form", 415, path=reload, kind="application/x-www-form-urlencoded"),
        Attempt("no type", 415, path=reload, body=good, kind=None),
        *(
            Attempt(f"{method} {path} is closed", 404, method, path, body={})
            for method, path in (
                *(("POST", "/sleep"), ("POST", "/wake_up"), ("POST", "/pause"), ("GET", "/docs")),
                *(("POST", "/abort_requests"), ("POST", "/weight_checker"), ("GET", "/metrics")),
                *(("POST", "/invocations"), ("POST", "/adapters"), ("POST", "/start_profile")),
                *(("POST", "/collective_rpc/"), ("PUT", reload), ("GET", reload)),
                *(("POST", "/v1/../collective_rpc"), ("GET", "/openapi.json"), ("GET", "/ping")),
            )
        ),
        *(
            Attempt(f"method {name}", 403, path=reload, body=rpc(ours / "weights", method=name))
            for name in ("reload_weights", "shutdown", "execute_model", "__class__", RELOAD + " ")
        ),
        Attempt("further arguments", 403, path=reload, body=rpc(ours / "weights", args=["x"])),
        Attempt("no folder", 400, path=reload, body={"method": RELOAD, "kwargs": {}}),
        Attempt("folder that is no text", 400, path=reload, body=rpc("x") | {"kwargs": [1]}),
        Attempt("a list", 400, path=reload, body=[good]),
        Attempt("a folder with a NUL", 400, path=reload, body=rpc(f"{ours}/weights\0")),
        Attempt("a folder outside", 403, path=reload, body=rpc(outside)),
        Attempt(
            "a folder above", 403, path=reload, body=rpc(ours / "weights/../.." / outside.name)
        ),
        Attempt("the folder itself", 403, path=reload, body=rpc(ours)),
        Attempt("a folder beside that begins as ours", 403, path=reload, body=rpc(f"{ours}-2/w")),
        Attempt("a link to outside", 403, path=reload, body=rpc(ours / "link")),
        Attempt("files that are links to outside", 403, path=reload, body=rpc(ours / "linked")),
        Attempt("a relative folder", 403, path=reload, body=rpc("weights")),
        Attempt("a folder that is not there", 404, path=reload, body=rpc(ours / "absent")),
        Attempt("an adapter outside", 403, path=load, body=adapter(outside)),
        Attempt("an adapter through a link", 403, path=load, body=adapter(ours / "link")),
        Attempt("an adapter of the hub", 403, path=load, body=adapter("org/adapter")),
        Attempt("in place", 400, path=load, body={**adapter(ours / "weights"), "load_inplace": 1}),
        Attempt("too long", 413, path=load, body={"lora_path": "x" * 70_000}),
    ]


def adapter(folder: Path | str) -> dict[str, str]:
    return {"lora_name": "x", "lora_path": str(folder)}


def answer_to(url: str, attempt: Attempt, *, key: str) -> tuple[int, str]:
    """Send one request as it is written, and return the status and the text of the answer."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    data = b"" if attempt.body is None else json.dumps(attempt.body).encode()
    try:
        path = attempt.path.replace("KEY", key)
        connection.putrequest(attempt.method, path, skip_host=True, skip_accept_encoding=True)
        if attempt.host is not None:
            connection.putheader("Host", attempt.host)
        if attempt.kind is not None:
            connection.putheader("Content-Type", attempt.kind)
        if attempt.key is not None:
            word = attempt.key.replace("KEY", key) if attempt.key != "Bearer KE" else key[:-1]
            connection.putheader("Authorization", word.encode("latin-1"))
        for name, value in attempt.more.items():
            connection.putheader(name, value.replace("KEY", key))
        connection.putheader("Content-Length", str(len(data)))
        connection.endheaders(data)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def wrongly_answered(url: str, attempts: Sequence[Attempt], *, key: str) -> list[str]:
    """Send every attempt; return those whose answer is another than it must be."""
    found = []
    for attempt in attempts:
        status, text = answer_to(url, attempt, key=key)
        if status != attempt.status:
            found.append(f"{attempt.name}: {status} instead of {attempt.status}: {text[:200]}")
    return found
