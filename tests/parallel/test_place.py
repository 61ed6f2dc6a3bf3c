"""Where a process stands among ranks, from environments as each starter writes them."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dgpo_cli.core.errors import ConfigError, DgpoError
from dgpo_cli.parallel.place import (
    Flags,
    Start,
    await_meeting,
    endpoint,
    find_place,
    first_host,
    gpus_here,
    leave_place,
)
from dgpo_cli.train.ranks import describe

TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "gpu1",
    "MASTER_PORT": "29400",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
    "TORCHELASTIC_RESTART_COUNT": "2",
}
SRUN = {
    "SLURM_JOB_ID": "1234567",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "20",
    "SLURM_PROCID": "17",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "2",
    "SLURM_STEP_TASKS_PER_NODE": "8(x2),4",
    "SLURM_STEP_NODELIST": "gpu[07-08,12]",
}
OPEN_MPI = {
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}
HYDRA = {"PMI_SIZE": "2", "PMI_RANK": "0", "MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "2"}
DGPO = {**TORCHRUN, "RANK": "0", "LOCAL_RANK": "0", "DGPO_CONTROL": "5", "DGPO_LISTENER": "7"}
del DGPO["TORCHELASTIC_USE_AGENT_STORE"], DGPO["TORCHELASTIC_RESTART_COUNT"]
BATCH_SCRIPT = {
    "SLURM_JOB_ID": "1",
    "SLURM_NTASKS": "32",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_JOB_NODELIST": "gpu[1-4]",
    "MASTER_ADDR": "gpu1",
    "MASTER_PORT": "29500",
    "WORLD_SIZE": "32",
}
KUBEFLOW = {"MASTER_ADDR": "a", "MASTER_PORT": "1", "WORLD_SIZE": "4", "RANK": "2"}


def show_gpus(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count))))


@pytest.mark.parametrize(
    ("environ", "by", "seat"),
    [
        (TORCHRUN, "torchrun", (3, 4, 1, 2, "gpu1", 29400, False)),
        (SRUN, "srun", (17, 20, 1, 4, "gpu07", 20000 + 12345670 % 10000, False)),
        (SRUN | {"SLURM_PROCID": "0"} | BATCH_SCRIPT, "srun", (0, 20, 0, 8, "gpu1", 29500, True)),
        (OPEN_MPI, "mpirun", (1, 2, 1, 2, "127.0.0.1", 29500, False)),
        (HYDRA, "mpirun", (0, 2, 0, 2, "127.0.0.1", 29500, True)),
        # mpirun may start its helpers by srun, a task on each machine.
        (SRUN | OPEN_MPI, "mpirun", (1, 2, 1, 2, "127.0.0.1", 29500, False)),
        # srun --mpi=pmi2 sets these too.
        (SRUN | {"PMI_SIZE": "20", "PMI_RANK": "17", "MASTER_PORT": "9"}, "srun",
         (17, 20, 1, 4, "gpu07", 9, False)),
        (DGPO, "dgpo", (0, 4, 0, 2, "gpu1", 29400, True)),
    ],
)  # fmt: skip
def test_each_starter_is_understood(
    environ: Mapping[str, str], by: str, seat: tuple[Any, ...]
) -> None:
    found = find_place(environ)
    assert found is not None and found.by == by
    one = found.seat
    assert (one.number, one.count, one.local, found.here, one.address, one.port, one.hosts) == seat


def test_the_launchers_pipe_and_socket_and_torchruns_attempt_are_found() -> None:
    own, other = find_place(DGPO), find_place(TORCHRUN)
    assert own is not None and other is not None
    assert (own.control, own.seat.listener, own.seat.attempt) == (5, 7, 0)
    assert (other.control, other.seat.listener, other.seat.attempt) == (None, None, 2)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        BATCH_SCRIPT,
        {"WORLD_SIZE": "8"},
        {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"},
        SRUN | {"SLURM_STEP_NUM_TASKS": "1"},  # srun --pty bash
    ],
)
def test_without_ranks_there_is_no_place(environ: Mapping[str, str]) -> None:
    assert find_place(environ) is None


def test_flags_that_name_the_machine_start_ranks_under_any_starter_but_dgpo() -> None:
    assert find_place(SRUN, told=True) is None
    assert find_place(KUBEFLOW, told=True) is None
    assert find_place(DGPO, told=True) is not None


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (KUBEFLOW, "LOCAL_RANK: is not set, but RANK and WORLD_SIZE are; set it, or give --gpus"),
        (TORCHRUN | {"RANK": "4"}, "RANK=4: must be less than 4, the number of ranks"),
        (TORCHRUN | {"RANK": "-1"}, "RANK=-1: must be a whole number, at least 0"),
        (TORCHRUN | {"WORLD_SIZE": "four"}, "WORLD_SIZE=four: must be a whole number"),
        (TORCHRUN | {"LOCAL_RANK": "2"}, "LOCAL_RANK=2: must be less than 2"),
        (TORCHRUN | {"MASTER_PORT": "99999"}, "MASTER_PORT=99999: must be less than 65536"),
        (TORCHRUN | {"MASTER_ADDR": ""}, "MASTER_ADDR: is not set, and torchrun has started"),
        (
            {k: v for k, v in TORCHRUN.items() if k != "MASTER_PORT"},
            "MASTER_PORT: is not set; start all ranks in the same way",
        ),
        ({k: v for k, v in SRUN.items() if k != "SLURM_PROCID"}, "SLURM_PROCID: is not set"),
        (SRUN | {"SLURM_NODEID": "3"}, r"SLURM_STEP_TASKS_PER_NODE=8\(x2\),4: does not say"),
        (SRUN | {"SLURM_STEP_NODELIST": ""}, "MASTER_ADDR: is not set, and srun has started"),
        (OPEN_MPI | {"OMPI_COMM_WORLD_SIZE": "4"}, "MASTER_ADDR: is not set, and mpirun has"),
        (OPEN_MPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": ""}, "OMPI_COMM_WORLD_LOCAL_SIZE: is not set"),
    ],
)
def test_a_wrong_environment_is_one_line_that_names_the_variable(
    environ: Mapping[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        find_place(environ)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("names", "first"),
    [
        ("gpu1", "gpu1"),
        ("gpu[07-09,12],cpu1", "gpu07"),
        ("gpu[3,5]", "gpu3"),
        ("rack[1-2]node[04-06]-ib,x", "rack1node04-ib"),
        ("a-b.example,c", "a-b.example"),
        ("", ""),
    ],
)
def test_the_first_of_slurms_nodes_is_that_of_rank_0(names: str, first: str) -> None:
    assert first_host(names) == first


def test_a_rank_leaves_nothing_that_its_children_take_for_theirs() -> None:
    environ = {**TORCHRUN, **DGPO, "PATH": "/bin", "CUDA_VISIBLE_DEVICES": "1"}
    leave_place(environ)
    assert environ == {"PATH": "/bin", "CUDA_VISIBLE_DEVICES": "1"}


@pytest.mark.parametrize(
    ("flags", "gpus", "found", "start"),
    [
        (Flags(), 1, 0, None),
        (Flags(gpus=1), 1, 8, None),
        (Flags(), 8, 8, Start(8)),
        (Flags(gpus=4), 4, 8, Start(4)),
        (Flags(gpus=2), 2, 0, Start(2)),
        (Flags(gpus=8, nodes=4, node_rank=3, endpoint="gpu1:9"), 32, 8, Start(8, 4, 3, "gpu1", 9)),
        (Flags(nodes=4, node_rank=0, endpoint="gpu1"), 32, 8, Start(8, 4, 0, "gpu1", 29500)),
        (Flags(gpus=1, nodes=2, node_rank=1, endpoint="a"), 2, 1, Start(1, 2, 1, "a", 29500)),
        (Flags(gpus=2, nodes=1), 2, 2, Start(2)),
    ],
)
def test_flags_and_settings_say_what_to_start(
    flags: Flags, gpus: int, found: int, start: Start | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    show_gpus(found, monkeypatch)
    flags.check()
    assert flags.start(gpus=gpus, device="auto") == start
    assert start is None or start.count == gpus


@pytest.mark.parametrize(
    ("flags", "gpus", "device", "message"),
    [
        (Flags(), 16, "auto", r"parallel.gpus=16: this machine has 8 GPUs; give --gpus 8"),
        (Flags(gpus=9), 9, "auto", "--gpus 9: this machine has 8 GPUs; give --gpus 8"),
        (Flags(gpus=2), 2, "cuda:1", "model.device=cuda:1: --gpus 2 gives each rank a device"),
        (Flags(gpus=2), 2, "mps", "model.device=mps: --gpus 2 gives each rank a device"),
        (Flags(nodes=3, node_rank=0, endpoint="a"), 8, "auto", "--nodes 3: parallel.gpus=8 is no"),
        (Flags(nodes=2, node_rank=0, endpoint="a:b"), 8, "auto", "--rdzv-endpoint a:b: must be"),
    ],
)  # fmt: skip
def test_what_this_machine_cannot_start_is_refused_with_a_fix(
    flags: Flags, gpus: int, device: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    show_gpus(8, monkeypatch)
    with pytest.raises(ConfigError, match=message):
        flags.start(gpus=gpus, device=device)


def test_a_recipe_for_gpus_starts_nothing_on_a_cpu_unasked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    show_gpus(0, monkeypatch)
    with pytest.raises(
        ConfigError, match=r"parallel.gpus=8: this machine has no GPU; give --gpus 8"
    ):
        Flags().start(gpus=8, device="auto")
    assert Flags().start(gpus=8, device="cpu") == Start(8)


@pytest.mark.parametrize(
    ("flags", "device", "message"),
    [
        (Flags(gpus=99), "auto", "--gpus 99: this machine has no GPU, and 16 CPU cores; give"),
        (Flags(), "auto", "parallel.gpus=99: this machine has no GPU, and 16 CPU cores; give"),
        (Flags(gpus=99), "cpu", "--gpus 99: model.device=cpu, and 16 CPU cores; give --gpus 16 or"),
    ],
)
def test_a_cpu_starts_no_more_ranks_than_it_has_cores_or_eight(
    flags: Flags, device: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    show_gpus(0, monkeypatch)
    monkeypatch.setattr("dgpo_cli.parallel.place.os.cpu_count", lambda: 16)
    with pytest.raises(ConfigError, match=re.escape(message)):
        flags.start(gpus=99, device=device)
    assert Flags(gpus=16).start(gpus=16, device=device) == Start(16)
    monkeypatch.setattr("dgpo_cli.parallel.place.os.cpu_count", lambda: 1)
    assert Flags(gpus=8).start(gpus=8, device=device) == Start(8)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (Flags(node_rank=1), "--node-rank 1: needs --nodes"),
        (Flags(endpoint="a:1"), "--rdzv-endpoint a:1: needs --nodes"),
        (
            Flags(nodes=2),
            "needs --node-rank, the number of this machine, from 0; and --rdzv-endpoint, the HOST",
        ),
        (Flags(nodes=2, node_rank=0), "--nodes 2: needs --rdzv-endpoint, the HOST:PORT"),
        (Flags(nodes=2, node_rank=2, endpoint="a"), "--node-rank 2: --nodes 2 has machines 0 to 1"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(flags: Flags, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        flags.check()


def test_the_user_is_told_which_ranks_start_here() -> None:
    logs = Path("o/ranks")
    assert describe(Start(2), logs=logs) == "starting 2 ranks; logs in o/ranks"
    first = Start(2, nodes=2, address="gpu1")
    assert describe(first, logs=logs) == "starting ranks 0 to 1 of 4; logs in o/ranks"
    assert describe(replace(first, node=1), logs=logs) == (
        "starting ranks 2 to 3 of 4; logs in o/ranks; rank 0, on gpu1, shows the run"
    )
    assert describe(Start(1, nodes=2, address="gpu1"), logs=logs) == "starting rank 0 of 2"


def test_ranks_that_are_there_set_the_number_of_devices() -> None:
    place = find_place(TORCHRUN)
    assert Flags().layer(place) == ("torchrun", 4)
    assert Flags(gpus=4).layer(place) == ("--gpus", 4)
    assert Flags(gpus=2, nodes=2).layer(place) == ("--gpus", 4)
    assert Flags(gpus=2, nodes=3).layer(None) == ("--gpus 2 --nodes 3", 6)
    assert Flags().layer(None) == ("--gpus", None)
    with pytest.raises(
        ConfigError, match="--gpus 2: torchrun has started 4 ranks; leave --gpus out"
    ):
        Flags(gpus=2).layer(place)


@pytest.mark.parametrize(
    ("text", "place"),
    [("gpu1:29400", ("gpu1", 29400)), ("10.0.0.1", ("10.0.0.1", 29500)), ("[::1]:9", ("::1", 9))],
)
def test_an_endpoint_is_a_host_and_a_port(text: str, place: tuple[str, int]) -> None:
    assert endpoint(text) == place


@pytest.mark.parametrize("text", ["", ":9", "a:0", "a:70000", "http://a:9", "a b", "::1"])
def test_anything_else_is_no_endpoint(text: str) -> None:
    with pytest.raises(ConfigError, match="must be HOST:PORT"):
        endpoint(text)


def _unknown() -> Any:
    raise socket.gaierror(-2, "Name or service not known")


def _silent() -> Any:
    raise TimeoutError


def _nobody() -> Any:
    raise ConnectionRefusedError


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (_unknown, "gpu9 is not a known host here; check the name with getent hosts gpu9"),
        (_nobody, "nobody listens; check that machine 0 has started, with this host and port"),
        (_silent, "no answer; check the address, the network and the firewall of machine 0"),
    ],
)
def test_a_place_that_cannot_be_reached_is_noted_once_with_what_to_check_then_an_error(
    answer: Callable[[], Any], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, notes = [0.0], list[tuple[float, str]]()
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(time, "sleep", lambda s: clock.__setitem__(0, clock[0] + s))
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: answer())
    with pytest.raises(DgpoError) as given_up:
        await_meeting(
            *("gpu9", 29500),
            limit_s=60.0,
            name="--rdzv-endpoint",
            tell=lambda text: notes.append((clock[0], text)),
        )
    assert notes == [(11.0, f"--rdzv-endpoint gpu9:29500: {reason}; still trying")]
    told = f"--rdzv-endpoint gpu9:29500: {reason} (tried for 60 s, parallel.timeout_s)"
    assert str(given_up.value) == told and given_up.value.exit_code == 1


def test_ranks_start_when_machine_0_listens_and_nothing_is_noted() -> None:
    notes: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as machine_0:
        await_meeting(*machine_0.getsockname(), limit_s=1.0, tell=notes.append)
    assert notes == []


@pytest.mark.parametrize(
    ("visible", "count"), [("0,1,2", 3), ("", 0), ("-1", 0), ("2,-1,3", 1), ("GPU-a,GPU-b", 2)]
)
def test_hidden_gpus_do_not_count(visible: str, count: int) -> None:
    assert gpus_here({"CUDA_VISIBLE_DEVICES": visible}) == count
