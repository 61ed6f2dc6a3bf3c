"""A server that speaks vLLM's HTTP interface and has one number for weights, and faults to plant.

It lets in whom a server of `dgpo serve` lets in, and leaves its key where that one does.

The log-probability of token t at weights w and temperature T is -(1 + t/100 + w) / T, and what is
drawn depends on the weights, the prompt and the seed alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgpo_cli.samplers.vllm.carriers import AdapterCarrier, Carrier, FullCarrier
from dgpo_cli.samplers.vllm.client import Fleet
from dgpo_cli.samplers.vllm.command import WORKER
from dgpo_cli.samplers.vllm.gate import (
    NAME_A_FOLDER,
    RELOAD,
    GateRules,
    Refused,
    key_file,
    write_key,
)
from dgpo_cli.samplers.vllm.sampler import Limits, VllmSampler
from dgpo_cli.samplers.vllm.weight_stream import BACKEND, Listing, receive

if TYPE_CHECKING:
    import torch

    from dgpo_cli.samplers.base import TrainedWeights

STOP = 7
BASE = "base-model"
FILE = "weights.json"


def logprob(token: int, *, weight: float, temperature: float = 1.0) -> float:
    return -(1 + token / 100 + weight) / (temperature or 1.0)


def drawn(prompt: Sequence[int], *, seed: int, weight: float, limit: int) -> list[int]:
    rng = random.Random(f"{list(prompt)} {seed} {weight:.6f}")
    ids: list[int] = []
    while len(ids) < limit and STOP not in ids[-1:]:
        ids.append(rng.randrange(0, 12))
    return ids


def spelled(token_ids: Sequence[int]) -> str:
    """The text of tokens: letters, and the two halves of a character (8 and 9)."""
    data = b"".join((b"\xc3", b"\xa9")[i - 8] if i in (8, 9) else b"abcdefg hij"[i : i + 1] or b"z"
                    for i in token_ids)  # fmt: skip
    return data.decode(errors="replace")


def cut(ids: Sequence[int], *, stop: Sequence[str]) -> tuple[list[int], str | None]:
    """Cut as vLLM does: a character counts when the token after which it is whole is there."""
    for count in range(1, len(ids) + 1):
        text = spelled(ids[:count]).removesuffix("\ufffd")
        for string in stop:
            if string in text:
                return list(ids[:count]), string
    return list(ids), None


class FakeWeights:
    """The policy: a base of `base` and an adapter that adds `weight`, or `weight` alone."""

    in_memory = True

    def __init__(self, *, adapter: bool, weight: float = 0.0, untouched: bool = True) -> None:
        self.has_adapter = adapter
        self.adapter_rank = 4 if adapter else 0
        self.untouched = untouched
        self._weight = weight
        self._tensor: torch.Tensor | None = None
        self.stop_ids = frozenset({STOP})
        self.saved: list[Path] = []
        self.log: list[str] = []

    def release(self) -> None:
        self.log.append("release")

    def decode(self, token_ids: Sequence[int]) -> str:
        return " ".join(map(str, token_ids))

    def spell(self, token_ids: Sequence[int]) -> str:
        return spelled(token_ids)

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / FILE).write_text(json.dumps(self.weight))
        self.saved.append(folder)

    @property
    def weight(self) -> float:
        return self._weight

    @weight.setter
    def weight(self, value: float) -> None:
        self._weight = value
        if self._tensor is not None:
            self._tensor.fill_(value)  # as an update does, in place

    def tensors(self) -> list[tuple[str, torch.Tensor]]:
        import torch  # by those who want tensors alone: the fake engines start without

        if self._tensor is None:
            self._tensor = torch.tensor([self._weight], dtype=torch.float64)
        return [("weight", self._tensor)]

    def canary_ids(self) -> tuple[int, ...]:
        return (3, 5, 8, 9)

    def logprobs_of(
        self, ids: Sequence[int], *, temperature: float, adapter: bool = True
    ) -> list[float]:
        weight = self.weight if adapter else 0.0
        return [logprob(i, weight=weight, temperature=temperature) for i in ids[1:]]


@dataclass
class Faults:
    """What is to go wrong, and how often; counted down as it happens."""

    status: list[int] = field(default_factory=list)  # answers of the next completions
    drop: int = 0  # completions whose connection is cut
    hang_s: float = 0.0
    ignore_sync: bool = False  # says yes and does nothing
    zero_sync: bool = False
    behind: bool = False  # takes what it was given the time before
    no_updates: bool = False  # has no interface for weights
    raw_logprobs: bool = False
    no_ids: bool = False
    cache_busy: bool = False
    break_updates: int = 0  # transfers that end in an error of the worker's
    die_in_update: bool = False  # cuts the connection, once
    forget_after: int | None = None  # completions, then the adapters are gone
    refuse: str = ""  # 400 with this text
    refuse_sleep: str = ""  # 500 with this text, when it is to sleep or to wake
    refuse_wake: str = ""


class FakeVllm:
    """One server; `address` is where it listens."""

    transfer: str | None = None  # how all weights come, beside from a folder
    dtype = "torch.float64"

    def __init__(self, *, listen: bool = True) -> None:
        self.faults = Faults()
        self.plain = False  # started without dgpo's extension of the worker
        self.start_info: dict[str, Any] = {}
        self.started: dict[str, float] | None = None
        self.dtypes: list[str] = []  # in which weights have come over TCP
        self.base = 0.0
        self.adapters: dict[str, float] = {}
        self.last_given = 0.0
        self.bodies: list[dict[str, Any]] = []  # of completions with max_tokens > 1
        self.calls: list[str] = []
        self.asleep: set[str] = set()
        self.wrong: list[str] = []  # calls that would not come back, or end a real server
        self.in_flight = 0
        self.most_in_flight = 0
        self.keys: set[str | None] = set()
        self.rules: GateRules | None = None
        self._lock = threading.Lock()
        self.port = 0
        self._http: ThreadingHTTPServer | None = None
        if listen:
            self.up()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def up(self) -> None:
        """Listen, on the port of before if there was one, with fresh weights and adapters."""
        self.base, self.adapters, self.last_given = 0.0, {}, 0.0
        self.asleep = set()

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True
            request_queue_size = 64

        self._http = Server(("127.0.0.1", self.port), handler_of(self))
        self.port = self._http.server_address[1]
        key = write_key(key_file(self.address))
        self.rules = GateRules(key, folder=tempfile.gettempdir(), owner=os.getuid())
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def down(self) -> None:
        if self._http is not None:
            self._http.shutdown()
            self._http.server_close()
            self._http = None

    def take_sync(self, folder: str) -> float:
        """Return the weight that a sync leaves here, faults included."""
        return self.take(float(json.loads((Path(folder) / FILE).read_text())))

    def take(self, given: float) -> float:
        before, self.last_given = self.last_given, given
        if self.faults.zero_sync:
            return 0.0
        return before if self.faults.behind else given

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        path, _, query = path.partition("?")
        tag = query.removeprefix("tags=") if path == "/wake_up" else ""
        self.calls.append(f"{path} {tag}".strip())
        self._check_awake(path)
        if path == "/health":
            return 200, None
        if path == "/v1/models":
            card = {"id": BASE, "parent": None, "max_model_len": 64}
            return 200, {"data": [card, *({"id": n, "parent": BASE} for n in self.adapters)]}
        if path == "/v1/completions":
            return self._complete(body)
        if self.faults.no_updates:
            return 404, {"detail": "Not Found"}
        if path in ("/sleep", "/wake_up"):
            return self._switch(path, tag)
        return self._control(path, body)

    def _check_awake(self, path: str) -> None:
        """Note a request that a sleeping server would keep waiting, and weights without memory."""
        takes = path.startswith(("/v1/load", "/collective", "/start_weight", "/update_weights"))
        if (path == "/v1/completions" and self.asleep) or (takes and "weights" in self.asleep):
            self.wrong.append(f"{path} while {sorted(self.asleep)} sleep")

    def _switch(self, path: str, tag: str) -> tuple[int, Any]:
        refusal = self.faults.refuse_sleep if path == "/sleep" else self.faults.refuse_wake
        if refusal:
            return 500, {"error": {"message": refusal}}
        if path == "/sleep":
            self.asleep = {"weights", "kv_cache"}
        else:
            self.asleep -= {tag} if tag else self.asleep.copy()
        return 200, None

    def _control(self, path: str, body: Any) -> tuple[int, Any]:
        match path:
            case "/v1/load_lora_adapter":
                weight = self.take_sync(body["lora_path"])
                if self.faults.ignore_sync:
                    weight = max(self.adapters.values(), default=0.0)
                self.adapters[body["lora_name"]] = weight
            case "/v1/unload_lora_adapter":
                if not self.faults.ignore_sync:
                    self.adapters.pop(body["lora_name"], None)
            case "/collective_rpc":
                assert body["method"] == ("reload_weights" if self.plain else RELOAD)
                weight = self.take_sync(body["kwargs"]["weights_path"])
                if not self.faults.ignore_sync:
                    self.base = weight
                return 200, {"results": [None]}
            case "/init_weight_transfer_engine":
                self.start_info = body["init_info"]
            case "/start_weight_update":
                if self.transfer is None:
                    return 500, {"error": {"message": "Weight transfer not configured."}}
                if self.started is not None:
                    return 500, {"error": {"message": "Call finish_weight_update first."}}
                self.started = {}
            case "/update_weights":
                return self._update(body["update_info"])
            case "/finish_weight_update":
                if self.started is None:
                    return 500, {"error": {"message": "without a start_weight_update"}}
                if "weight" in self.started:
                    weight = self.take(self.started["weight"])
                    if not self.faults.ignore_sync:
                        self.base = weight
                self.started = None
            case "/reset_prefix_cache":
                return 200, {"success": not self.faults.cache_busy}
            case "/server_info":
                worker = "" if self.plain else WORKER
                config: dict[str, Any] = {"parallel_config": {"worker_extension_cls": worker}}
                config["model_config"] = {"dtype": self.dtype}
                if self.transfer is not None:
                    config["weight_transfer_config"] = {"backend": self.transfer}
                return 200, {"vllm_config": config}
            case "/get_world_size":
                return 200, {"world_size": 1}
            case "/is_sleeping":
                return 200, {"is_sleeping": bool(self.asleep)}
        return 200, None

    def _update(self, info: dict[str, Any]) -> tuple[int, Any]:
        assert self.started == {} and self.transfer == BACKEND
        if self.faults.break_updates:
            self.faults.break_updates -= 1
            self.started = None
            return 500, {"error": {"message": "planted"}}
        listing = Listing(info["names"], info["dtype_names"], info["shapes"])
        self.dtypes += listing.dtype_names
        for name, tensor in receive(listing, **self.start_info):
            self.started[name] = float(tensor)
        return 200, {"message": "Weights updated"}

    def _complete(self, body: dict[str, Any]) -> tuple[int, Any]:
        with self._lock:
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return self._completion(body)
        finally:
            with self._lock:
                self.in_flight -= 1

    def _completion(self, body: dict[str, Any]) -> tuple[int, Any]:
        model = body["model"]
        if model != BASE and model not in self.adapters:
            return 404, {"error": {"message": f"The model `{model}` does not exist."}}
        weight = self.base + (0.0 if model == BASE else self.adapters[model])
        prompt = body["prompt"]
        if "prompt_logprobs" in body:
            rows = [{str(i): {"logprob": logprob(i, weight=weight)}} for i in prompt[1:]]
            return 200, {"choices": [{"prompt_logprobs": [None, *rows]}]}
        if body["logprobs"]:
            hot = 1.0 if self.faults.raw_logprobs else body["temperature"]
            both = {f"token_id:{i}": logprob(i, weight=weight, temperature=hot) for i in (0, 1)}
            return 200, {"choices": [{"logprobs": {"top_logprobs": [both]}}]}
        self.bodies.append(body)
        if self.faults.forget_after is not None and len(self.bodies) > self.faults.forget_after:
            self.faults.forget_after = None
            self.adapters.clear()
        with self._lock:
            status = self.faults.status.pop(0) if self.faults.status else 200
        if status != 200:
            return status, {"error": {"message": "planted"}}
        if self.faults.refuse:
            return 400, {"error": {"message": self.faults.refuse}}
        if self.faults.hang_s:
            time.sleep(self.faults.hang_s)
        time.sleep(0.002)
        stops = body["stop_token_ids"]
        ids = drawn(prompt, seed=body["seed"], weight=weight, limit=body["max_tokens"])
        ids, string = cut(ids, stop=body.get("stop", ()))
        assert string is None or body["include_stop_str_in_output"]
        temperature = 1.0 if self.faults.raw_logprobs else body["temperature"]
        logprobs = [logprob(i, weight=weight, temperature=temperature) for i in ids]
        stopped = ids[-1] in stops
        choice = {
            "token_ids": None if self.faults.no_ids else ids,
            "logprobs": {"token_logprobs": logprobs},
            "finish_reason": "stop" if stopped or string else "length",
            "stop_reason": string,
        }
        return 200, {"choices": [choice]}


def handler_of(fake: FakeVllm) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            data = self.rfile.read(length)
            path = self.path.partition("?")[0]
            if fake.rules is not None:
                try:
                    head = [(k.encode(), v.encode("latin-1")) for k, v in self.headers.items()]
                    fake.rules.admit(self.command, path, head)
                    if path in NAME_A_FOLDER:
                        data = fake.rules.narrowed(path, data)
                except Refused as refused:
                    self._say(refused.status, {"error": {"message": str(refused)}})
                    return
            body = json.loads(data) if data else None
            fake.keys.add(self.headers.get("Authorization"))
            if fake.faults.drop and body and "seed" in body:
                fake.faults.drop -= 1
                self.close_connection = True
                self.connection.close()
                return
            if fake.faults.die_in_update and self.path == "/update_weights":
                fake.faults.die_in_update = False
                fake.base, fake.started = 0.0, None
                self.close_connection = True
                self.connection.close()
                return
            self._say(*fake.answer(self.command, self.path, body))

        def _say(self, status: int, value: Any) -> None:
            data = b"" if value is None else json.dumps(value).encode()
            with contextlib.suppress(OSError):
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        do_GET = do_POST = do_PUT = do_OPTIONS = _serve

        def log_message(self, *arguments: Any) -> None:
            return None

    return Handler


def fake_sampler(
    weights: TrainedWeights,
    *,
    fleet: Fleet,
    limits: Limits,
    keep: bool = False,
    sync_host: str | None = None,
) -> VllmSampler:
    """A sampler as settings would make it."""
    carrier: Carrier = FullCarrier(weights, fleet=fleet, keep=keep, sync_host=sync_host)
    if weights.has_adapter:
        carrier = AdapterCarrier(weights, fleet=fleet, run="test")
    return VllmSampler(weights, fleet=fleet, carrier=carrier, limits=limits, run="test")


@contextlib.contextmanager
def fake_servers(count: int = 1) -> Iterator[list[FakeVllm]]:
    servers = [FakeVllm() for _ in range(count)]
    try:
        yield servers
    finally:
        for server in servers:
            server.down()
