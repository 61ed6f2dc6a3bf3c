"""Weights over TCP: both ends in one process, on the loopback interface."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from dgpo_cli.samplers.vllm import weight_stream
from dgpo_cli.samplers.vllm.weight_stream import Listing, Offer, reaching, receive

Tensors = list[tuple[str, torch.Tensor]]


@dataclass
class Described:
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]


def of_all_kinds() -> Tensors:
    torch.manual_seed(0)
    large = torch.randn(700, 900)
    return [
        ("large", large),
        ("turned", large.T),
        ("half", torch.randn(3, 5, 7).to(torch.bfloat16)),
        ("number", torch.tensor(2.5)),
        ("nothing", torch.empty(0, 4)),
        ("bytes", torch.arange(11, dtype=torch.uint8)),
        ("switches", torch.tensor([True, False])),
        ("trained", torch.randn(4, requires_grad=True)),
    ]


def taken(offer: Offer, listing: Listing, *, token: str | None = None) -> Tensors:
    return list(receive(listing, host=offer.host, port=offer.port, token=token or offer.token))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_every_tensor_arrives_as_it_is(host: str) -> None:
    tensors = of_all_kinds()
    try:
        offer = Offer(tensors, host=host)
    except OSError:
        pytest.skip(f"{host} is not there")
    with offer:
        found = taken(offer, Listing.of(tensors, dtype=None))
    assert [name for name, _ in found] == [name for name, _ in tensors]
    for (_, a), (_, b) in zip(tensors, found, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        assert torch.equal(a, b)


class OnePass:
    """Weights that are gathered while they are read, which must be once at a time."""

    def __init__(self, tensors: Tensors) -> None:
        self._tensors = tensors
        self.described = [Described(n, t.dtype, tuple(t.shape)) for n, t in tensors]
        self.passes = 0

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        self.passes += 1
        yield from self._tensors


def test_weights_that_are_gathered_are_read_once_for_all_receivers() -> None:
    weights = OnePass(of_all_kinds())
    found: list[Tensors] = []
    with Offer(weights, host="127.0.0.1", receivers=3) as offer:
        listing = Listing.of(weights, dtype=None)
        receivers = [
            threading.Thread(target=lambda: found.append(taken(offer, listing))) for _ in range(3)
        ]
        for receiver in receivers:
            receiver.start()
        for receiver in receivers:
            receiver.join(20)
    assert weights.passes == 1 and len(found) == 3
    for each in found:
        assert all(torch.equal(a, b) for (_, a), (_, b) in zip(of_all_kinds(), each, strict=True))


def test_a_receiver_whose_neighbour_does_not_come_is_let_go_at_the_end() -> None:
    weights = OnePass(of_all_kinds())
    errors: list[OSError] = []

    def take(offer: Offer) -> None:
        try:
            taken(offer, Listing.of(weights, dtype=None))
        except OSError as error:
            errors.append(error)

    with Offer(weights, host="127.0.0.1", receivers=2) as offer:
        alone = threading.Thread(target=take, args=(offer,))
        alone.start()
        while not offer._here:
            time.sleep(0.01)
    alone.join(20)
    assert not alone.is_alive() and len(errors) == 1 and weights.passes == 0


def test_numbers_with_a_point_are_rounded_as_torch_rounds_them() -> None:
    tensors = of_all_kinds()
    with Offer(tensors, host="127.0.0.1", dtype=torch.bfloat16) as offer:
        found = dict(taken(offer, Listing.of(tensors, dtype=torch.bfloat16)))
    for name, tensor in tensors:
        expected = tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor
        assert found[name].dtype == expected.dtype and torch.equal(found[name], expected)


def test_several_receivers_get_everything_each() -> None:
    tensors = of_all_kinds()
    listing = Listing.of(tensors, dtype=None)
    found: list[Tensors] = []
    with Offer(tensors, host="127.0.0.1") as offer:
        threads = [
            threading.Thread(target=lambda: found.append(taken(offer, listing))) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert len(found) == 4
    assert all(torch.equal(each[0][1], tensors[0][1]) for each in found)


@pytest.mark.parametrize("token", ["0" * 32, "short", "0" * 500])
def test_who_does_not_know_the_token_gets_nothing(
    token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weight_stream, "TOKEN_TIMEOUT_S", 0.5)
    tensors = of_all_kinds()
    listing = Listing.of(tensors, dtype=None)
    with Offer(tensors, host="127.0.0.1") as offer:
        with pytest.raises(ConnectionError):
            taken(offer, listing, token=token)
        assert len(taken(offer, listing)) == len(tensors)  # the others are served all the same


def test_a_silent_and_a_trickling_stranger_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_stream, "TOKEN_TIMEOUT_S", 0.5)
    with Offer(of_all_kinds(), host="127.0.0.1") as offer:
        silent = socket.create_connection((offer.host, offer.port), timeout=20)
        trickling = socket.create_connection((offer.host, offer.port), timeout=20)
        started = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - started < 10:
                trickling.sendall(b"0")  # each byte comes in time, all of them do not
                time.sleep(0.05)
        assert 0.4 < time.monotonic() - started < 5
        with contextlib.suppress(ConnectionResetError):
            assert silent.recv(1) == b""
        silent.close()
        trickling.close()


def test_strangers_hold_so_many_connections_and_keep_no_receiver_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(weight_stream, "MOST_CONNECTIONS", 3)
    monkeypatch.setattr(weight_stream, "TOKEN_TIMEOUT_S", 120.0)  # nobody goes by that
    tensors = of_all_kinds()
    before = threading.active_count()
    with Offer(tensors, host="127.0.0.1") as offer:
        strangers = [
            socket.create_connection((offer.host, offer.port), timeout=20) for _ in range(9)
        ]
        for stranger in strangers[:6]:
            assert stranger.recv(1) == b""  # the oldest go, the newest may yet tell a token
        deadline = time.monotonic() + 30
        while threading.active_count() > before + 1 + 3 and time.monotonic() < deadline:
            time.sleep(0.01)  # the threads of those that went are ending
        assert threading.active_count() <= before + 1 + 3
        assert len(taken(offer, Listing.of(tensors, dtype=None))) == len(tensors)
    for stranger in strangers:
        stranger.close()


def test_want_of_file_descriptors_is_waited_out_without_spinning() -> None:
    tensors = of_all_kinds()
    listing = Listing.of(tensors, dtype=None)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    receiver = socket.socket()
    receiver.settimeout(20)
    taken_up: list[int] = []
    with Offer(tensors, host="127.0.0.1") as offer:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (receiver.fileno() + 20, hard))
            with pytest.raises(OSError):
                while True:
                    taken_up.append(os.dup(receiver.fileno()))
            receiver.connect((offer.host, offer.port))
            time.sleep(0.2)
            spent = time.process_time()
            time.sleep(1.0)
            assert time.process_time() - spent < 0.3  # spinning takes all of the second
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for each in taken_up:
                os.close(each)
        receiver.sendall(offer.token.encode())
        assert receiver.recv(1)  # who came in between is served all the same
        assert len(taken(offer, listing)) == len(tensors)
        receiver.close()


def test_no_receiver_can_come_after_the_end() -> None:
    with Offer(of_all_kinds(), host="127.0.0.1") as offer:
        pass
    with pytest.raises(ConnectionError):
        socket.create_connection((offer.host, offer.port), timeout=5)


def test_the_end_frees_a_receiver_that_waits_and_leaves_no_thread() -> None:
    before = threading.active_count()
    held, told = threading.Event(), threading.Event()

    class Slow(torch.Tensor):
        def detach(self) -> Any:
            told.set()
            held.wait(60)
            return torch.zeros(3)

    tensors = [("slow", torch.zeros(3).as_subclass(Slow))]
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            taken(offer, Listing.of(tensors, dtype=None))
        except BaseException as error:
            errors.append(error)

    with Offer(tensors, host="127.0.0.1") as offer:
        thread = threading.Thread(target=wait)
        thread.start()
        assert told.wait(60)
    thread.join(60)
    held.set()
    assert [type(error) for error in errors] == [ConnectionError]
    deadline = time.monotonic() + 60
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before


def test_what_goes_wrong_here_is_the_cause_of_what_the_receiver_says() -> None:
    class Lost(torch.Tensor):
        def detach(self) -> Any:
            raise RuntimeError("CUDA error: planted")

    tensors = [("lost", torch.zeros(3).as_subclass(Lost))]
    with (
        pytest.raises(RuntimeError, match="planted") as raised,
        Offer(tensors, host="127.0.0.1") as offer,
    ):
        taken(offer, Listing.of(tensors, dtype=None))
    assert isinstance(raised.value.__cause__, ConnectionError)


def test_a_sender_that_stalls_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_stream, "STALL_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        listing = Listing(["w"], ["float32"], [[3]])
        with pytest.raises(TimeoutError):
            list(receive(listing, host="127.0.0.1", port=mute.getsockname()[1], token="t"))


def test_the_address_that_a_machine_is_reached_from() -> None:
    assert reaching("127.0.0.1") == "127.0.0.1"
    with pytest.raises(OSError):
        reaching("nowhere.invalid")
