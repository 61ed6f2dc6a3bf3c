"""Where a process stands among the ranks of a run, and how many ranks this machine is to start.

torchrun, srun and mpirun tell each process its place in the environment; so does `dgpo train
--gpus` (launch.py). No torch here: a wrong flag or variable is answered at once.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dgpo_cli.core.errors import ConfigError, DgpoError
from dgpo_cli.parallel.ranks import Seat

CONTROL = "DGPO_CONTROL"  # the launcher's pipe to a rank
LISTENER = "DGPO_LISTENER"  # the socket on which rank 0 opens the store
DGPO = "dgpo"
_PORT = 29500
_HERE = "127.0.0.1"
_ANSWER_S, _RETRY_S = 5.0, 1.0  # of one try to connect, and between two
_PATIENCE_S = 10.0  # before a note: other machines start later
_FIRST_PORT, _PORTS = 20000, 10000  # below those that Linux gives out by itself
# Who starts ranks, and its variables: ranks in all, the rank, its number and the ranks on this
# machine. mpirun before srun, because it may start its own helpers through srun.
_STARTERS = (
    ("torchrun", "WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    (
        *("mpirun", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
        *("OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ),
    ("mpirun", "PMI_SIZE", "PMI_RANK", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    ("srun", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"),
)
# What a rank's own children, such as vLLM, must not take for theirs.
_OWN = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE"),
    *("ROLE_RANK", "ROLE_WORLD_SIZE", "ROLE_NAME", "MASTER_ADDR", "MASTER_PORT"),
    *(CONTROL, LISTENER),
)


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a rank. here: ranks on this machine. by: who started it.

    control: the launcher's pipe, if dgpo started it.
    """

    seat: Seat
    here: int
    by: str
    control: int | None = None

    @property
    def leads(self) -> bool:
        return self.seat.number == 0


@dataclass(frozen=True, slots=True)
class Start:
    """Ranks to start on this machine, `node` of `nodes`; address and port of node 0.

    address: None if this is the only machine.
    """

    here: int
    nodes: int = 1
    node: int = 0
    address: str | None = None
    port: int = _PORT

    @property
    def count(self) -> int:
        return self.here * self.nodes


@dataclass(frozen=True, slots=True)
class Flags:
    """The flags that say how many ranks to start, as they were given."""

    gpus: int | None = None
    nodes: int | None = None
    node_rank: int | None = None
    endpoint: str | None = None

    def check(self) -> None:
        """Raise ConfigError for flags that cannot go together."""
        nodes = self.nodes or 1
        others = (
            ("--node-rank", self.node_rank, "the number of this machine, from 0"),
            ("--rdzv-endpoint", self.endpoint, "the HOST:PORT of machine 0"),
        )
        if nodes == 1:
            for name, value, _ in others:
                if value is not None and self.nodes is None:
                    raise ConfigError(f"{name} {value}: needs --nodes, the number of machines")
            return
        missing = [f"{name}, {what}" for name, value, what in others if value is None]
        if missing:
            raise ConfigError(f"--nodes {nodes}: needs {'; and '.join(missing)}")
        if self.node_rank is not None and self.node_rank >= nodes:
            raise ConfigError(
                f"--node-rank {self.node_rank}: --nodes {nodes} has machines 0 to {nodes - 1}"
            )

    def layer(self, place: Place | None) -> tuple[str, int | None]:
        """Return what sets parallel.gpus, and its value; a value of None leaves it alone.

        Raises:
            ConfigError: other ranks than these have been started already.
        """
        asked = None if self.gpus is None else self.gpus * (self.nodes or 1)
        if place is None:
            name = "--gpus" if self.nodes is None else f"--gpus {self.gpus} --nodes {self.nodes}"
            return name, asked
        count = place.seat.count
        if asked is not None and asked != count:
            each = f" --nodes {self.nodes}" if self.nodes is not None else ""
            raise ConfigError(
                f"--gpus {self.gpus}{each}: {place.by} has started {count} ranks; leave --gpus out"
            )
        return ("--gpus" if asked else place.by), count

    def place(self, environ: MutableMapping[str, str]) -> Place | None:
        """Return the place of this process, and remove it from its environment.

        Raises:
            ConfigError: a flag or a variable is wrong.
        """
        self.check()
        place = find_place(environ, told=self.node_rank is not None)
        if place is not None:
            leave_place(environ)
        return place

    def start(self, *, gpus: int, device: str, place: Place | None = None) -> Start | None:
        """Return the ranks to start here; None for one device, and for a rank.

        gpus: parallel.gpus. device: model.device.

        Raises:
            ConfigError: this machine has not as many GPUs.
        """
        nodes = self.nodes or 1
        if place is not None or (gpus == 1 and nodes == 1):
            return None
        if gpus % nodes:
            raise ConfigError(
                f"--nodes {nodes}: parallel.gpus={gpus} is not a multiple of it; give --gpus, the "
                "ranks on each machine"
            )
        here = gpus // nodes
        _check_devices(here, given=self.gpus is not None, nodes=nodes, device=device)
        if nodes == 1:
            return Start(here)
        address, port = endpoint(self.endpoint or "")
        return Start(here, nodes=nodes, node=self.node_rank or 0, address=address, port=port)


# A machine without GPUs may start so many ranks, or one a core: more would fill its memory.
_RANKS_OF_A_CPU = 8


def _check_devices(here: int, *, given: bool, nodes: int, device: str) -> None:
    """Refuse ranks that would have no device of their own."""
    name = f"--gpus {here}" if given else f"parallel.gpus={here * nodes}"
    if device == "mps" or ":" in device:
        raise ConfigError(
            f"model.device={device}: {name} gives each rank a device of its own; set "
            "model.device=auto"
        )
    found = 0 if device == "cpu" else gpus_here()
    if found == 0:
        cores = os.cpu_count() or 1
        count = min(here, max(_RANKS_OF_A_CPU, cores))
        if count < here:
            has = "model.device=cpu" if device == "cpu" else "this machine has no GPU"
            raise ConfigError(f"{name}: {has}, and {cores} CPU cores; give --gpus {count} or less")
        if given or device == "cpu":
            return
        raise ConfigError(
            f"{name}: this machine has no GPU; give --gpus {count} to run {count} ranks on the CPU"
        )
    if here > found:
        has = f"{found} GPU{'s' if found > 1 else ''}"
        raise ConfigError(
            f"{name}: this machine has {has}; give --gpus {found}, or --nodes to share the run "
            f"with other machines"
        )


def endpoint(text: str) -> tuple[str, int]:
    """Read HOST:PORT; the port may be left out.

    Raises:
        ConfigError: it is neither.
    """
    match = re.fullmatch(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[^\s:/\[\]]+))(?::(\d+))?", text)
    port = int(match[3] or _PORT) if match else 0
    if match is None or not 0 < port < 1 << 16:
        raise ConfigError(f"--rdzv-endpoint {text}: must be HOST:PORT, as in gpu1:{_PORT}")
    return match["six"] or match["host"], port


def await_meeting(
    address: str, port: int, *, limit_s: float, tell: Callable[[str], None], name: str = "rank 0 at"
) -> None:
    """Wait until somebody listens where the ranks meet; note after a while why nobody does.

    name: how the address was given.

    Raises:
        DgpoError: nobody has come within the limit.
    """
    place = f"{name} [{address}]:{port}" if ":" in address else f"{name} {address}:{port}"
    began, told = time.monotonic(), ""
    while (reason := _unreachable(address, port)) is not None:
        waited = time.monotonic() - began
        if waited > limit_s:
            raise DgpoError(f"{place}: {reason} (tried for {limit_s:g} s, parallel.timeout_s)")
        if reason != told and waited > _PATIENCE_S:
            told = reason
            tell(f"{place}: {reason}; still trying")
        time.sleep(min(_RETRY_S, limit_s))


def _unreachable(address: str, port: int) -> str | None:
    """Return why nobody answers there, and what to check; None if somebody does."""
    try:
        socket.create_connection((address, port), timeout=_ANSWER_S).close()
    except socket.gaierror:
        return f"{address} is not a known host here; check the name with getent hosts {address}"
    except ConnectionRefusedError:
        return "nobody listens; check that machine 0 has started, with this host and port"
    except TimeoutError:
        return "no answer; check the address, the network and the firewall of machine 0"
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        return f"{reason}; check the address and the network"
    return None


def find_place(environ: Mapping[str, str], *, told: bool = False) -> Place | None:
    """Return the place that a starter of ranks gave this process; None without one.

    told: flags say which machine this is, so only a place from dgpo itself counts.

    Raises:
        ConfigError: a variable is missing or wrong.
    """
    if told and CONTROL not in environ:
        return None
    for by, size, *others in _STARTERS:
        rank, local, here = others
        if environ.get(size, "1") == "1" or local not in environ:
            continue
        count = _number(environ, size, least=2, below=None)
        number = _number(environ, rank, least=0, below=count)
        machine = _machine(environ, here, count=count)
        place = _number(environ, local, least=0, below=machine)
        return _placed(environ, by=by, number=number, count=count, local=place, here=machine)
    if "RANK" in environ and environ.get("WORLD_SIZE", "1") != "1":
        raise ConfigError(
            "LOCAL_RANK: is not set, but RANK and WORLD_SIZE are; set it, or give --gpus, --nodes, "
            "--node-rank and --rdzv-endpoint"
        )
    return None


def _placed(
    environ: Mapping[str, str], *, by: str, number: int, count: int, local: int, here: int
) -> Place:
    address, port = _meeting(environ, by=by, alone=here == count)
    attempt = environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    seat = Seat(
        number,
        count,
        local,
        address,
        port,
        # torchrun's agent has opened one already.
        hosts=number == 0 and environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True",
        listener=int(environ[LISTENER]) if LISTENER in environ else None,
        attempt=int(attempt) if attempt.isdigit() else 0,
    )
    if CONTROL in environ:
        return Place(seat, here, DGPO, int(environ[CONTROL]))
    return Place(seat, here, by)


def leave_place(environ: MutableMapping[str, str]) -> None:
    """Remove the place from the environment, so that no child takes it for its own."""
    for name in [*environ]:
        if name in _OWN or name.startswith("TORCHELASTIC_"):
            del environ[name]


def _number(environ: Mapping[str, str], name: str, *, least: int, below: int | None) -> int:
    text = environ.get(name, "")
    if not text:
        raise ConfigError(f"{name}: is not set; start all ranks in the same way")
    if not (text.isascii() and text.isdigit()) or int(text) < least:
        raise ConfigError(f"{name}={text}: must be a whole number, at least {least}")
    if below is not None and int(text) >= below:
        raise ConfigError(f"{name}={text}: must be less than {below}, the number of ranks")
    return int(text)


def _machine(environ: Mapping[str, str], name: str, *, count: int) -> int:
    """Return the ranks on this machine: a number, or Slurm's list for all nodes: 8(x3),4."""
    text = environ.get(name, "")
    if not text:
        raise ConfigError(f"{name}: is not set; start all ranks in the same way")
    tasks = re.findall(r"(\d+)(?:\(x(\d+)\))?", text)
    listed = [int(each) for each, times in tasks for _ in range(int(times or 1))]
    node = environ.get("SLURM_NODEID", "0") if name.startswith("SLURM") else "0"
    if not node.isdigit() or int(node) >= len(listed):
        raise ConfigError(f"{name}={text}: does not say how many ranks are on this machine")
    return min(count, listed[int(node)])


def _meeting(environ: Mapping[str, str], *, by: str, alone: bool) -> tuple[str, int]:
    """Return the address and port of rank 0."""
    address, port = environ.get("MASTER_ADDR", ""), _PORT
    if "MASTER_PORT" in environ:
        port = _number(environ, "MASTER_PORT", least=1, below=1 << 16)
    elif by == "srun":  # two jobs of one node do not meet
        job = f"{environ.get('SLURM_JOB_ID', '')}{environ.get('SLURM_STEP_ID', '')}"
        port = _FIRST_PORT + int(re.sub(r"\D", "", job) or 0) % _PORTS
    elif by == "torchrun":
        raise ConfigError("MASTER_PORT: is not set; start all ranks in the same way")
    if not address and alone:
        address = _HERE
    elif not address and by == "srun":
        names = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST", "")
        address = first_host(names)
    if not address:
        raise ConfigError(
            f"MASTER_ADDR: is not set, and {by} has started ranks on several machines; set it to "
            "the name of the machine of rank 0 on all of them"
        )
    return address, port


def first_host(names: str) -> str:
    """Return the first name of Slurm's list of nodes: gpu[07-09,12],cpu1 begins with gpu07."""
    first = re.match(r"(?:[^,\[\]]|\[[^\]]*\])*", names)
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", first[0] if first else "").strip()


def gpus_here(environ: Mapping[str, str] = os.environ) -> int:
    """Return the number of NVIDIA GPUs that a process here may use."""
    if "CUDA_VISIBLE_DEVICES" in environ:
        names = environ["CUDA_VISIBLE_DEVICES"].split(",")
        return next((at for at, name in enumerate(names) if name.strip() in ("", "-1")), len(names))
    if found := len(_devices(Path("/dev"))):
        return found
    try:
        told = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return 0
    return sum(line.startswith("GPU ") for line in told.stdout.splitlines())


def _devices(folder: Path) -> Sequence[Path]:
    return [path for path in folder.glob("nvidia*") if path.name.removeprefix("nvidia").isdigit()]
