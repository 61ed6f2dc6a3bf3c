"""What a request to an endpoint costs: the bare client, HTTP libraries, and dgpo's own way.

    python benchmarks/endpoint.py [CLIENT ...] [--requests 1000] [--in-flight 256] [--json FILE]

A server in another process answers every chat completion after 0.2 s with 8 kB of text. Each client
is a process of its own; one whose package is not installed is left out. Milliseconds of CPU a
request, of the requests alone; seconds to import the library; memory at its peak, and how much of
it came with the requests.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

DELAY_S = 0.2
TEXT = "x" * 8000
BODY = {
    "model": "m",
    "messages": [{"role": "user", "content": "What is 2 + 2? " * 20}],
    "temperature": 1.0,
    "max_tokens": 1024,
}
Ask = Callable[[], Awaitable[Any]]


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one connection."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": TEXT},
        "finish_reason": "stop",
    }
    usage = {"prompt_tokens": 100, "completion_tokens": 2000, "total_tokens": 2100}
    whole = {"id": "a", "object": "chat.completion", "created": 1, "model": "m"}
    data = json.dumps(whole | {"choices": [choice], "usage": usage}).encode()
    head = (
        f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            got = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(got.partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
            await reader.readexactly(length)
            await asyncio.sleep(DELAY_S if length else 0)
            writer.write(head.encode() + data)
            await writer.drain()
    writer.close()


async def serve() -> None:
    """Serve on a free port, which is printed, until the input ends."""
    server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


async def drive(ask: Ask, *, requests: int, in_flight: int) -> None:
    """Send requests, so many at a time."""
    left = iter(range(requests))

    async def slot() -> None:
        for _ in left:
            assert len(await ask()) == len(TEXT)

    await asyncio.gather(*(slot() for _ in range(in_flight)))


def content(answer: Any) -> str:
    return str(answer["choices"][0]["message"]["content"])


async def bare(url: str, requests: int, in_flight: int) -> None:
    """Sockets of asyncio, and no more of HTTP than this server needs."""
    data = json.dumps(BODY).encode()
    port = int(url.rpartition(":")[2])
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n"
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask() -> str:
        pair = idle.pop() if idle else await asyncio.open_connection("127.0.0.1", port)
        pair[1].write(head.encode() + json.dumps(BODY).encode())
        got = await pair[0].readuntil(b"\r\n\r\n")
        length = int(got.partition(b"Content-Length:")[2].partition(b"\r\n")[0])
        text = content(json.loads(await pair[0].readexactly(length)))
        idle.append(pair)
        return text

    await drive(ask, requests=requests, in_flight=in_flight)


def through_httpx(
    package: str, *, pools: int
) -> Callable[[str, int, int], Coroutine[Any, Any, None]]:
    async def run(url: str, requests: int, in_flight: int) -> None:
        httpx = importlib.import_module(package)
        limits = httpx.Limits(max_connections=in_flight, max_keepalive_connections=in_flight)
        clients = [httpx.AsyncClient(limits=limits, timeout=60) for _ in range(pools)]
        numbers = iter(range(10**9))

        async def ask() -> str:
            client = clients[next(numbers) % pools]
            return content((await client.post(f"{url}/v1/chat/completions", json=BODY)).json())

        await drive(ask, requests=requests, in_flight=in_flight)
        for client in clients:
            await client.aclose()

    return run


async def through_openai(url: str, requests: int, in_flight: int) -> None:
    openai = importlib.import_module("openai")
    client = openai.AsyncOpenAI(api_key="k", base_url=f"{url}/v1")

    async def ask() -> str:
        return str((await client.chat.completions.create(**BODY)).choices[0].message.content)

    await drive(ask, requests=requests, in_flight=in_flight)


async def through_aiohttp(url: str, requests: int, in_flight: int) -> None:
    aiohttp = importlib.import_module("aiohttp")
    connector = aiohttp.TCPConnector(limit=in_flight)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def ask() -> str:
            async with session.post(f"{url}/v1/chat/completions", json=BODY) as got:
                return content(await got.json())

        await drive(ask, requests=requests, in_flight=in_flight)


async def in_threads(url: str, requests: int, in_flight: int) -> None:
    """http.client, a thread and a connection for each request in flight."""
    http_json = importlib.import_module("dgpo_cli.samplers.http_json")
    own, address = threading.local(), http_json.Address(url)

    def ask(_: int) -> None:
        if not hasattr(own, "connection"):
            own.connection = address.connect()
        got = own.connection.request("POST", "/v1/chat/completions", BODY, timeout_s=60)
        assert len(content(got)) == len(TEXT)

    with ThreadPoolExecutor(in_flight) as pool:
        list(pool.map(ask, range(requests)))


async def through_dgpo(url: str, requests: int, in_flight: int) -> None:
    """The fleet of dgpo eval: its pace, its retries, its replies."""
    await asyncio.to_thread(_fleet, url, requests, in_flight)


def _fleet(url: str, requests: int, in_flight: int) -> None:
    from dgpo_cli.samplers.endpoint.client import Client, Secret, pools_for
    from dgpo_cli.samplers.endpoint.fleet import Fleet, Job
    from dgpo_cli.samplers.endpoint.wire import Asking, reply_of
    from dgpo_cli.samplers.settings import EndpointBackend

    backend = EndpointBackend(url=url, max_in_flight=in_flight)
    asking = Asking("m", "chat", temperature=1, top_p=1, top_k=0, max_completion_tokens=1024)
    fleet: Fleet[int] = Fleet(
        Client(backend, Secret(""), pools=pools_for(in_flight)),
        "/chat/completions",
        limit=in_flight,
        retries=3,
    )
    left, got = iter(range(requests)), 0
    while got < requests:
        while fleet.room > 0 and (number := next(left, None)) is not None:
            fleet.submit(
                Job(
                    number,
                    BODY,
                    read=lambda answer: reply_of(answer.body, asking=asking, seed=0),
                    reply_to=lambda error: None,
                )
            )
        for landed in fleet.take():
            assert landed.reply is not None and len(landed.reply.text) == len(TEXT)
            got += 1
    fleet.close()


CLIENTS: dict[str, tuple[str, Callable[[str, int, int], Coroutine[Any, Any, None]]]] = {
    "bare": ("json", bare),
    "httpx": ("httpx", through_httpx("httpx", pools=1)),
    "httpx, 16 pools": ("httpx", through_httpx("httpx", pools=16)),
    "httpx, a pool each": ("httpx", through_httpx("httpx", pools=256)),
    "httpx2": ("httpx2", through_httpx("httpx2", pools=1)),
    "httpx2, 16 pools": ("httpx2", through_httpx("httpx2", pools=16)),
    "openai": ("openai", through_openai),
    "aiohttp": ("aiohttp", through_aiohttp),
    "dgpo": ("dgpo_cli.samplers.endpoint.fleet", through_dgpo),
    "threads": ("dgpo_cli.samplers.http_json", in_threads),
}


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(name: str, *, url: str, requests: int, in_flight: int) -> None:
    """Run one client in this process; print its figures as JSON."""
    package, run = CLIENTS[name]
    begun = time.perf_counter()
    try:
        importlib.import_module(package)
    except ImportError:
        print(json.dumps(None))
        return
    imported, before = time.perf_counter() - begun, peak_mib()
    cpu, wall = time.process_time(), time.perf_counter()
    asyncio.run(run(url, requests, in_flight))
    figures = {
        "cpu_ms": (time.process_time() - cpu) * 1000 / requests,
        "wall_s": time.perf_counter() - wall,
        "import_s": imported,
        "peak_mib": peak_mib(),
        "grown_mib": peak_mib() - before,
    }
    print(json.dumps(figures))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("clients", nargs="*", metavar="CLIENT", help=", ".join(CLIENTS))
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--in-flight", type=int, default=256)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        asyncio.run(serve())
        return
    sizes = {"requests": given.requests, "in_flight": given.in_flight}
    if given.url:
        measure(given.clients[0], url=given.url, **sizes)
        return
    results: dict[str, dict[str, float]] = {}
    with subprocess.Popen(
        [sys.executable, __file__, "--serve"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout and server.stdin
        url = f"http://127.0.0.1:{int(server.stdout.readline())}"
        print(
            f"{'client':20}{'CPU ms':>9}{'wall s':>9}{'import s':>10}{'peak MiB':>10}{'grown':>8}"
        )
        for name in given.clients or CLIENTS:
            options = [f"--requests={given.requests}", f"--in-flight={given.in_flight}"]
            got = subprocess.run(
                [sys.executable, __file__, name, "--url", url, *options],
                stdout=subprocess.PIPE,
                check=True,
            )
            if (row := json.loads(got.stdout)) is None:
                continue
            results[name] = row
            print(
                f"{name:20}{row['cpu_ms']:9.2f}{row['wall_s']:9.2f}{row['import_s']:10.2f}"
                f"{row['peak_mib']:10.0f}{row['grown_mib']:8.0f}"
            )
        server.stdin.close()
    if given.json:
        given.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
