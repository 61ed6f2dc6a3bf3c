"""A sandbox: a server that runs the Python code of completions against tests of the data.

    python examples/sandbox_server.py
    dgpo train --config my.toml --reward http://127.0.0.1:8301/score

The data has a column "tests", a list of assertions such as "assert add(2, 3) == 5"; the score is
the share of them that hold. Only Python's standard library.

What it isolates: each program is a process of its own, in an empty folder and environment, with
limits of time, memory, file size and processes; where `unshare` may make one, in a network of its
own with no way out. What it does not: the program may read every file that this server may read,
and one that is made to cheat can look into the process that tests it. Run the server in a container
without network and without secrets, as a user of its own: that is the sandbox.
"""

import argparse
import json
import os
import re
import resource
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# --8<-- [start:run]
SECONDS, MEMORY, FILE, PROCESSES = 5, 1 << 30, 1 << 20, 64

# Says how many tests held after a word that the code does not have, so that it cannot print it.
HARNESS = """
import json, os, sys
given = json.loads(sys.stdin.readline())
report = os.fdopen(os.dup(1), "w")
sys.stdin = open(os.devnull)
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
held, space = 0, {"__name__": "__main__"}
exec(given["code"], space)
for test in given["tests"]:
    try:
        exec(test, dict(space))
        held += 1
    except Exception:
        pass
report.write(given["word"] + str(held))
report.flush()
os._exit(0)
"""


def limits() -> None:
    """Limit this process; runs in the child before the program."""
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE, FILE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if os.getuid() != 0:  # root has no limit
        resource.setrlimit(resource.RLIMIT_NPROC, (PROCESSES, PROCESSES))


@cache
def without_network() -> tuple[str, ...]:
    """Return the words before a command that has no network; none where that is not allowed."""
    words = ("unshare", "--map-root-user", "--net")
    if (
        shutil.which("unshare")
        and not subprocess.run([*words, "true"], capture_output=True).returncode
    ):
        return words
    print("no unshare here: programs can reach the network", file=sys.stderr)
    return ()


def run(code: str, tests: list[str]) -> dict[str, Any]:
    """Return the score of a program: the share of the tests that hold."""
    word = secrets.token_hex(16)
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [*without_network(), sys.executable, "-I", "-c", HARNESS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
            env={"PATH": "/usr/bin:/bin"},
            preexec_fn=limits,
            start_new_session=True,
            text=True,
        )
        given = json.dumps({"code": code, "tests": tests, "word": word}) + "\n"
        try:
            said, trouble = process.communicate(given, timeout=2 * SECONDS)
        except subprocess.TimeoutExpired:
            return {"score": 0.0, "outcome": "wrong", "note": f"took longer than {2 * SECONDS} s"}
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # and what it has left behind
            process.wait()
    _, found, held = said.rpartition(word)
    if not found:
        last = trouble.strip().splitlines()[-1:] or [f"ended with {process.returncode}"]
        return {"score": 0.0, "outcome": "wrong", "note": last[0][:200]}
    share = int(held) / len(tests)
    outcome = "correct" if share == 1 else "wrong"
    return {"score": share, "outcome": outcome, "note": f"{held} of {len(tests)} tests"}


# --8<-- [end:run]


def score(completion: dict[str, Any]) -> dict[str, Any]:
    """Return the score of the last block of Python in a completion."""
    blocks = re.findall(r"```(?:python|py)?\n(.*?)```", completion["text"], re.DOTALL)
    tests = completion["columns"].get("tests")
    if not tests:
        return {"error": "the data has no column tests"}
    if not blocks:
        return {"score": 0.0, "outcome": "no_answer"}
    return run(blocks[-1], tests)


def serve(port: int, *, workers: int = os.cpu_count() or 1) -> ThreadingHTTPServer:
    """Return a server on this machine that runs `workers` programs at a time."""
    pool = ThreadPoolExecutor(workers)

    class Sandbox(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            answer = json.dumps({"scores": list(pool.map(score, asked["completions"]))}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None: ...

    return ThreadingHTTPServer(("127.0.0.1", port), Sandbox)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=8301)
    serve(parser.parse_args().port).serve_forever()
