"""The fake server as a program on a Unix socket, with children like vLLM's that outlive a parent.

    python -m tests.samplers.fake_engine SOCKET|PORT MODE

MODE: "ok"; "broken" ends at once; "mute" never listens; "mortal" dies with its first completion
after the check of its log-probabilities.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socketserver
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from dgpo_cli.samplers.vllm.gate import GateRules
from tests.samplers.fake_vllm import FakeVllm, handler_of

STUBBORN = (
    "import os, signal, time\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "os.setsid()\n"
    "time.sleep(600)\n"
)


class _UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 64

    def get_request(self) -> Any:
        connection, _ = super().get_request()
        return connection, ("local", 0)


def main(path: str, mode: str) -> None:
    if mode == "broken":
        sys.exit("ValueError: head size 8 is not supported")
    # Two generations, in a session of their own, deaf to SIGTERM: the worst that vLLM does.
    subprocess.Popen([sys.executable, "-c", STUBBORN])
    if mode == "mute":
        time.sleep(600)
    fake = FakeVllm(listen=False)
    with contextlib.suppress(KeyError):
        fake.rules = GateRules.from_environment()
    answer = fake.answer

    def mortal(method: str, path: str, body: Any) -> tuple[int, Any]:
        if body is not None and body.get("max_tokens", 0) > 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer(method, path, body)

    if mode == "mortal":
        fake.answer = mortal  # type: ignore[method-assign]
    handler: type[BaseHTTPRequestHandler] = handler_of(fake)
    handler.disable_nagle_algorithm = False  # a Unix socket has none
    if path.isdigit():
        handler.disable_nagle_algorithm = True
        server: socketserver.BaseServer = ThreadingHTTPServer(("127.0.0.1", int(path)), handler)
    else:
        server = _UnixServer(path, handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    time.sleep(600)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
