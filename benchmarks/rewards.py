"""What a reward of one's own costs beside its own work.

    python benchmarks/rewards.py [--count 20000] [--json FILE]

A function that returns 1.0 scores completions of 60 and of 500 tokens, with one worker; the server
answers 1.0 for each on this machine. Each figure is the median of five passes after one that warms
up: completions a second by CPU time of this process, its workers and the server together, which is
what one core does; and by the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from dgpo_cli.core.types import Message
from dgpo_cli.rewards.grader import GradeItem, Grader
from dgpo_cli.rewards.settings import TermsReward

FUNCTIONS = """
def one(completion):
    return 1.0

def batch(completions):
    return [1.0] * len(completions)

async def waits(completion):
    return 1.0
"""
PASSES = 5
GROUP = 16
_TICK = os.sysconf("SC_CLK_TCK")


class Server(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer = json.dumps({"scores": [1.0] * len(body["completions"])}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None: ...


def completions(count: int, *, tokens: int) -> list[GradeItem]:
    """Return groups of completions, each text and its token ids."""
    words = ("first", " we", " add", " 17", " and", " 25", ",", " so", " the", " sum")
    asked = (Message("user", "What is 17 + 25? Put the answer in a box."),)
    return [
        GradeItem(
            "42",
            "".join(words[(number + at) % len(words)] for at in range(tokens)) + r" \boxed{42}",
            group=number // GROUP,
            prompt_id=str(number // GROUP),
            token_ids=tuple(1000 + (number * 7919 + at * 104729) % 150000 for at in range(tokens)),
            messages=asked,
            columns={"level": 3},
        )
        for number in range(count)
    ]


def cpu_s() -> float:
    """Return the CPU seconds of this process and of its children, which are still alive."""
    return time.process_time() + sum(
        (int(fields[11]) + int(fields[12])) / _TICK
        for pid in _children()
        if (fields := _stat(pid)) is not None
    )


def _children() -> list[int]:
    found: list[int] = []
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # a thread that has ended
            found += map(int, (task / "children").read_text().split())
    return found


def _stat(pid: int) -> list[str] | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return None


def measured(terms: list[dict[str, Any]], items: list[GradeItem]) -> dict[str, float]:
    """Return completions a second, by CPU time and by the clock."""
    settings = TermsReward.model_validate({"terms": terms, "workers": 1})
    by_cpu, by_clock = [], []
    with Grader(settings, limit=1024) as grader:
        for _ in range(1 + PASSES):
            cpu, clock = cpu_s(), time.perf_counter()
            verdicts = grader.grade(items)
            by_cpu.append(len(items) / (cpu_s() - cpu))
            by_clock.append(len(items) / (time.perf_counter() - clock))
            assert all(verdict.is_scored for verdict in verdicts)
    return {
        "a_second_of_cpu": statistics.median(by_cpu[1:]),
        "a_second": statistics.median(by_clock[1:]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        own = Path(folder) / "own.py"
        own.write_text(FUNCTIONS)
        url = f"http://127.0.0.1:{server.server_port}/"
        one, batch, waits = ({"kind": "python", "path": f"{own}:{n}"} for n in
                             ("one", "batch", "waits"))  # fmt: skip
        shape = [{"kind": "format", "pattern": r"\\boxed\{.*\}"}, {"kind": "length"},
                 {"kind": "repetition"}]  # fmt: skip
        kinds: dict[str, list[dict[str, Any]]] = {
            "one completion a call": [one],
            "one completion a call, async": [waits],
            "a batch of 64 a call": [batch],
            "a group of 16 a call": [{**batch, "group": True}],
            "http, 16 a request": [{"kind": "http", "url": url}],
            "integer, alone": [{"kind": "integer"}],
            "format, length, repetition": shape,
            "integer, batch, and these three": [{"kind": "integer"}, batch, *shape],
        }
        found: dict[str, dict[str, dict[str, float]]] = {}
        print(f"{'completions a second':<34}{'of CPU':>10}{'by clock':>10}")
        for tokens in (60, 500):
            items = completions(given.count, tokens=tokens)
            for name, terms in kinds.items():
                result = measured(terms, items)
                found.setdefault(f"{tokens} tokens", {})[name] = result
                cells = "".join(f"{value:>10,.0f}" for value in result.values())
                print(f"{f'{tokens}: {name}':<34}{cells}", flush=True)
    if given.json is not None:
        given.json.write_text(json.dumps({"count": given.count, "python": sys.version.split()[0],
                                          "results": found}, indent=2) + "\n")  # fmt: skip


if __name__ == "__main__":
    main()
