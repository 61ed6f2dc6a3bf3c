"""Both ends of a transfer of weights over TCP, for vLLM's weight-transfer interface.

The trainer listens during one transfer; a client that knows its token gets the raw bytes of every
tensor in the order of the listing. No disk, no shared folder, and at most one tensor in flight on
either side. Not encrypted.
"""

from __future__ import annotations

import contextlib
import hmac
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from dgpo_cli.samplers.base import GatheredWeights, described

if TYPE_CHECKING:
    import torch

    from dgpo_cli.samplers.base import Weights

# The name of this transport among vLLM's.
BACKEND = "dgpo_tcp"
CONNECT_TIMEOUT_S = 30.0
# Between two pieces; a peer that hangs longer is dead.
STALL_TIMEOUT_S = 300.0
TOKEN_TIMEOUT_S = 10.0
# At once. A new connection replaces the oldest one without a token.
MOST_CONNECTIONS = 64
_PIECE_BYTES = 2**24
_PAUSE_S = 0.2  # after a connection that failed for lack of file descriptors
_TOKEN_BYTES = 32


def sent_as(own: torch.dtype, dtype: torch.dtype | None) -> torch.dtype:
    """Return the type in which a tensor is sent: `dtype` for floating-point numbers."""
    return own if dtype is None or not own.is_floating_point else dtype


@dataclass(frozen=True, slots=True)
class Listing:
    """The tensors of a transfer in order: checkpoint names, torch's names of dtypes, shapes."""

    names: list[str]
    dtype_names: list[str]
    shapes: list[list[int]]

    @classmethod
    def of(cls, weights: Weights, *, dtype: torch.dtype | None) -> Listing:
        """List the tensors as `Offer` sends them."""
        found = described(weights)
        return cls(
            [name for name, _, _ in found],
            [str(sent_as(own, dtype)).removeprefix("torch.") for _, own, _ in found],
            [list(shape) for _, _, shape in found],
        )


class Offer:
    """Sends tensors to every receiver that knows the token, while its context is open."""

    def __init__(
        self,
        tensors: Weights,
        *,
        host: str,
        dtype: torch.dtype | None = None,
        receivers: int = 1,
    ) -> None:
        """
        Args:
            host: the address of this machine to listen on.
            dtype: floating tensors are rounded to it; None sends each as it is.
            receivers: of weights that are gathered while they are read: all read at once.

        Raises:
            OSError: cannot listen there.
        """
        self._tensors = tensors
        self._dtype = dtype
        self.token = secrets.token_hex(_TOKEN_BYTES // 2)
        self._listener = listen(host)
        self.host = host
        self.port = int(self._listener.getsockname()[1])
        self._lock = threading.Lock()
        self._open: dict[socket.socket, bool] = {}  # whether each has sent the token
        self._closed = threading.Event()
        self._error: Exception | None = None
        self._receivers = receivers
        self._here: list[socket.socket] = []  # receivers that wait for the others
        self._reading = threading.Lock()
        self._read = threading.Event()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, name="dgpo-weights", daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close()
        with self._reading:  # whoever gathers for it goes on with something else
            self._read.set()
        if self._error is not None and isinstance(error, Exception):
            raise self._error from error  # the cause of the receiver's error

    def _close(self) -> None:
        with self._lock:
            self._closed.set()
            left = tuple(self._open)
        for sock in (self._listener, *left):
            # close() alone would not wake a thread that uses the socket.
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                # Closed, or out of file descriptors for a while: clients wait.
                self._closed.wait(_PAUSE_S)
                continue
            with self._lock:
                if self._closed.is_set():
                    connection.close()
                    return
                self._make_room()
                self._open[connection] = False
            try:
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()
            except RuntimeError:  # no more threads
                self._drop(connection)

    def _serve(self, connection: socket.socket) -> None:
        try:
            if self._knows_token(connection):
                with self._lock:
                    self._open[connection] = True
                connection.settimeout(STALL_TIMEOUT_S)
                if isinstance(self._tensors, GatheredWeights):
                    self._send_once(connection)
                else:
                    self._send([connection])
        except OSError:
            pass  # the receiver reports it to the server
        except Exception as error:
            self._error = error
        finally:
            self._drop(connection)

    def _send(self, connections: Sequence[socket.socket]) -> None:
        for _, tensor in self._tensors:
            view = _bytes_of(tensor.detach(), dtype=self._dtype)
            for start in range(0, len(view), _PIECE_BYTES):
                for connection in connections:
                    connection.sendall(view[start : start + _PIECE_BYTES])

    def _send_once(self, connection: socket.socket) -> None:
        """Send to all receivers when the last one is here; return when that is over."""
        with self._lock:
            self._here.append(connection)
            last = len(self._here) == self._receivers
        if not last:
            self._read.wait()
            return
        try:
            with self._reading:
                if not self._closed.is_set():
                    self._send(self._here)
        finally:
            self._read.set()

    def _knows_token(self, connection: socket.socket) -> bool:
        """Read the token within TOKEN_TIMEOUT_S in total."""
        deadline = time.monotonic() + TOKEN_TIMEOUT_S
        token = bytearray(_TOKEN_BYTES)
        view = memoryview(token)
        while len(view):
            connection.settimeout(max(0.001, deadline - time.monotonic()))
            view = view[_some(connection, view) :]
        return hmac.compare_digest(token, self.token.encode())

    def _make_room(self) -> None:
        """Drop the oldest connection that has not sent the token, if there are many."""
        strangers = [each for each, known in self._open.items() if not known]
        if len(strangers) >= MOST_CONNECTIONS:
            with contextlib.suppress(OSError):
                strangers[0].shutdown(socket.SHUT_RDWR)  # its thread closes it
            del self._open[strangers[0]]

    def _drop(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.pop(connection, None)
        connection.close()


def receive(
    listing: Listing, *, host: str, port: int, token: str
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the name and tensor, on the CPU, of everything in the listing.

    Raises:
        OSError: no connection, or the stream breaks off or stalls.
    """
    import torch

    with socket.create_connection((host, port), timeout=CONNECT_TIMEOUT_S) as connection:
        connection.settimeout(STALL_TIMEOUT_S)
        connection.sendall(token.encode())
        for name, dtype, shape in zip(
            listing.names, listing.dtype_names, listing.shapes, strict=True
        ):
            tensor = torch.empty(shape, dtype=getattr(torch, dtype))
            _fill(connection, _view(tensor))
            yield name, tensor


def _bytes_of(tensor: torch.Tensor, *, dtype: torch.dtype | None) -> memoryview:
    # Rounded on its device: half as much crosses the bus.
    return _view(tensor.to(sent_as(tensor.dtype, dtype)).cpu().contiguous())


def _view(tensor: torch.Tensor) -> memoryview:
    """Return the memory of a contiguous tensor on the CPU."""
    import torch

    view: Any = tensor.reshape(-1).view(torch.uint8).numpy()
    return memoryview(view)


def _fill(connection: socket.socket, view: memoryview) -> None:
    while len(view):
        view = view[_some(connection, view) :]


def _some(connection: socket.socket, view: memoryview) -> int:
    """Read available bytes into `view`; return their number."""
    count = connection.recv_into(view)
    if count == 0:
        raise ConnectionError("the trainer aborted the transfer of weights")
    return count


def listen(host: str) -> socket.socket:
    """Listen at an address of this machine, on a free port. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, 0), family=family, backlog=64)


def reaching(url_host: str) -> str:
    """Return the address under which the machine `url_host` can reach this one.

    Raises:
        OSError: there is no route to that machine.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(url_host, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as sock:
        sock.connect(address)  # a datagram socket: picks a route and sends nothing
        return str(sock.getsockname()[0])
