"""The types of a plan: memory by part, time by phase, disk, and changes that make it fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dgpo_cli.policy.settings import CheckpointingKind, ParallelKind

Phase = Literal["sampling", "training"]
Across = Literal["", "all", "replicas"]
Moment = Literal["forward", "backward", "apart"]
Collective = Literal["all-gather", "reduce-scatter", "all-reduce", "all-to-all", "broadcast"]
When = Literal["always"] | Phase


@dataclass(frozen=True, slots=True)
class MemoryPart:
    """Bytes on one device. when: the phase in which they are in use."""

    name: str
    bytes: int
    when: When
    note: str = ""


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """All memory on one device; the peak is the larger of the two phases."""

    parts: tuple[MemoryPart, ...]

    def during(self, phase: Phase) -> int:
        return sum(part.bytes for part in self.parts if part.when in ("always", phase))

    @property
    def peak(self) -> int:
        return max(self.during("sampling"), self.during("training"))

    @property
    def peak_phase(self) -> Phase:
        phases: tuple[Phase, ...] = ("sampling", "training")
        return max(phases, key=self.during)

    def part(self, name: str) -> int:
        """Return the bytes of a part; 0 if there is none of that name."""
        return sum(part.bytes for part in self.parts if part.name == name)


@dataclass(frozen=True, slots=True)
class PhaseTime:
    """Seconds of one phase of a step, and what limits it.

    beside: whether it runs in parallel to the others, on devices of its own.
    """

    name: str
    seconds: float
    limit: str
    beside: bool = False


@dataclass(frozen=True, slots=True)
class Exchange:
    """What one device sends to others in a step, in one kind of exchange.

    calls: of the collective. ranks: that take part in each. across: which of them are on other
    machines. when: the passes that may hide it; apart: none.
    """

    name: str
    collective: Collective
    bytes: int
    calls: int
    ranks: int
    across: Across
    when: Moment


@dataclass(frozen=True, slots=True)
class Network:
    """Seconds of all exchanges of a step, and of those that no pass hides.

    gigabits: per second, of each device's link to other machines.
    """

    gigabits: int
    seconds: float
    exposed: float


@dataclass(frozen=True, slots=True)
class Choice:
    """A number of devices for a run, and what it costs.

    sequence: devices that share a micro-batch. step_seconds: 0 if unknown. efficiency: the least
    device-hours of a step among all choices that fit, over these. best: see planning/scaling.py.
    """

    gpus: int
    kind: ParallelKind
    sequence: int
    peak_bytes: int
    fits: bool
    step_seconds: float
    gpu_hours: float
    efficiency: float
    best: bool


@dataclass(frozen=True, slots=True)
class DiskPart:
    """Bytes that a run leaves on disk, or needs to start."""

    name: str
    bytes: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class Device:
    """What a model runs on. flops: multiply-adds x 2 per second by dtype; empty if unknown.

    memory: bytes available to a process. free: those free now, on this machine's device.
    bandwidth: bytes per second, 0 if unknown. source: of these numbers.
    link: bytes per second to another device of the machine, one way; 0 if unknown.
    """

    name: str
    kind: Literal["cpu", "cuda", "mps"]
    memory: int
    free: int | None
    flops: dict[str, float]
    bandwidth: float
    source: str
    link: float = 0.0

    @property
    def room(self) -> int:
        return self.memory if self.free is None else self.free


@dataclass(frozen=True, slots=True)
class SettingsChange:
    """A change of settings, the bytes it saves at the peak, and its cost."""

    settings: dict[str, object]
    saves: int
    cost: str


@dataclass(frozen=True, slots=True)
class Plan:
    """The needs of a run and the device that it is planned for.

    active: weights without the experts that a token does not pass.
    checkpointing: of gradients; what model.gradient_checkpointing=auto takes here.
    times: empty if the device's speed is unknown. after: the memory with all `changes`; None if
    none are needed. step_tokens, step_samples: sampled in a step. host: memory of each
    machine, beside its devices. exchanges: what a device sends in a step; networks: how long that
    takes. choices: numbers of devices; empty unless they are compared.
    """

    model: str
    origin: str
    parameters: int
    active: int
    trained: int
    checkpointing: CheckpointingKind
    device: Device
    devices: int
    memory: MemoryNeed
    host: tuple[MemoryPart, ...]
    problems: tuple[str, ...]
    times: tuple[PhaseTime, ...]
    exchanges: tuple[Exchange, ...]
    networks: tuple[Network, ...]
    choices: tuple[Choice, ...]
    steps: int
    step_samples: int
    step_tokens: int
    disk: tuple[DiskPart, ...]
    changes: tuple[SettingsChange, ...]
    after: MemoryNeed | None
    fits_after: bool
    notes: tuple[str, ...]

    @property
    def fits(self) -> bool:
        return self.memory.peak <= self.device.room and not self.problems

    @property
    def step_seconds(self) -> float:
        """Seconds of a step; 0 if unknown."""
        return seconds_of(self.times)


def seconds_of(times: tuple[PhaseTime, ...]) -> float:
    """Return the seconds of a step.

    Parallel phases count only as far as they take longer than the others.
    """
    beside = sum(phase.seconds for phase in times if phase.beside)
    return max(beside, sum(phase.seconds for phase in times if not phase.beside))
