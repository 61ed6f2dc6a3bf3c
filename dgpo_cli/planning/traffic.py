"""What the devices of a run send each other in a step, from arithmetic alone; no torch here.

Bytes are those that one device sends, and receives, in a ring of n: of a tensor of S bytes,
(n - 1) / n S in an all-gather or a reduce-scatter, twice that in an all-reduce. A sharded model is
gathered layer by layer in every forward pass and again in backward; see parallel/sharding.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dgpo_cli.planning.activations import FLOAT32
from dgpo_cli.planning.budget import Across, Collective, Device, Exchange, Moment, Network
from dgpo_cli.planning.job import NODE, Job, Passes
from dgpo_cli.policy.shape import key_repeats

NETWORKS = (100, 400)  # Gb/s a device
# Share of a link's rate that long messages reach, and seconds of a step of a ring; assumed.
_REACHED = 0.8
_HOP_S = 5e-6
# Bytes a second of objects over gloo between machines; assumed.
_OBJECTS = 1e9


@dataclass(frozen=True, slots=True)
class Compute:
    """Seconds of a step that exchanges of weights may hide behind."""

    forward: float
    backward: float


def traffic_of(job: Job, *, passes: Passes | None = None) -> tuple[Exchange, ...]:
    """Return what one device sends in a step; nothing with one device.

    passes: those that a lane computes; None: those of a step of typical rows in which every
        completion has an advantage.
    """
    if job.layout.gpus == 1:
        return ()
    found = [*_model(job, passes or job.passes), *_once(job)]
    return tuple(each for each in found if each.bytes)


def bytes_by_collective(exchanges: tuple[Exchange, ...]) -> dict[Collective, int]:
    """Return the bytes that one device sends, by collective."""
    found: dict[Collective, int] = {}
    for each in exchanges:
        found[each.collective] = found.get(each.collective, 0) + each.bytes
    return found


def networks_of(
    exchanges: tuple[Exchange, ...], job: Job, device: Device, *, compute: Compute
) -> tuple[Network, ...]:
    """Return the seconds of the exchanges at several rates of the network.

    Within one machine the network does not matter; empty if the device's links are unknown.
    """
    if not exchanges or not device.link:
        return ()
    return tuple(
        _at(rate, exchanges, job, device, compute=compute)
        for rate in (NETWORKS if job.layout.gpus > NODE else NETWORKS[-1:])
    )


def _at(
    rate: int, exchanges: tuple[Exchange, ...], job: Job, device: Device, *, compute: Compute
) -> Network:
    seconds = {"forward": 0.0, "backward": 0.0, "apart": 0.0}
    for each in exchanges:
        seconds[each.when] += _seconds(each, job, device, rate=rate)
    exposed = seconds["apart"]
    exposed += max(0.0, seconds["forward"] - compute.forward)
    exposed += max(0.0, seconds["backward"] - compute.backward)
    return Network(gigabits=rate, seconds=sum(seconds.values()), exposed=exposed)


def _seconds(each: Exchange, job: Job, device: Device, *, rate: int) -> float:
    if each.collective == "broadcast":
        return each.bytes / _OBJECTS
    speed = device.link
    if each.across:
        # A ring enters and leaves a machine once, and every device of the machine has a link of
        # its own to the network, over which one of as many rings runs.
        links = 1 if each.across == "replicas" else NODE
        speed = min(speed, links * rate * 1e9 / 8)
    return each.bytes / (_REACHED * speed) + each.calls * (each.ranks - 1) * _HOP_S


def _model(job: Job, passes: Passes) -> Iterator[Exchange]:
    """Yield the exchanges of the passes of policy and reference."""
    layout = job.layout
    if layout.sharded:
        yield from _sharded(job, passes)
    else:
        updates, size = job.updates, job.trained * FLOAT32
        yield _reduced("gradients", size * updates, updates, job)
    if layout.sequence > 1:
        yield from _lane(job, passes)


def _lane(job: Job, passes: Passes) -> Iterator[Exchange]:
    """Yield the exchanges of devices that share a row; see parallel/sequence.py."""
    shape, n = job.shape, job.layout.sequence
    # Heads of keys and values are repeated until they can be shared equally.
    keys = shape.keys * key_repeats(shape.kv_heads, ranks=n)
    # Queries and the output of attention, keys and values; the gradients of them; again, if the
    # layers are recomputed.
    width = 2 * (shape.queries + keys) * job.training.product
    tokens = (job.tokens_of_a_row - 1) / n  # a last token predicts nothing
    trained = passes.trained_rows * (2 if job.checkpointing == "none" else 3)
    rows = passes.measured_rows + trained + (passes.reference_rows if job.distance else 0)
    size = round(shape.layers * rows * tokens * width * (n - 1) / n)
    calls = shape.layers * 4 * (passes.measured + passes.trained)
    yield Exchange("attention", "all-to-all", size, calls, n, "", "apart")
    # Every device gets the numbers of all tokens of its rows.
    rows = (job.tables - 1) * passes.reference_rows + passes.measured_rows + passes.trained_rows
    size = 2 * rows * job.typical_completion * FLOAT32 * (n - 1) // n
    calls = passes.measured + passes.trained
    yield Exchange("columns", "all-reduce", size, calls, n, "", "apart")


def _sharded(job: Job, passes: Passes) -> Iterator[Exchange]:
    layout, shape, n = job.layout, job.shape, job.layout.shards
    across: Across = "all" if n > NODE else ""
    layers, root, adapter = job.layer * shape.layers, job.root, _padded(job)
    element = job.product
    wide = job.compute or FLOAT32  # of an adapter
    once = (layers + root) * element + adapter * wide
    again = layers * element + adapter * wide
    calls = shape.layers + 1

    def gathered(name: str, size: int, times: int, backward: bool = False) -> Exchange:
        sent = size * times * (n - 1) // n
        when: Moment = "backward" if backward else "forward"
        return Exchange(name, "all-gather", sent, calls * times, n, across, when)

    forward = passes.measured + passes.trained
    yield gathered("weights, forward", once, forward)
    if job.distance:
        yield gathered("reference", once, passes.reference)
    yield gathered("weights, backward", again, passes.trained, backward=True)
    size = (layers + root if job.full else adapter) * FLOAT32 * passes.trained
    times = calls * passes.trained
    sent = size * (n - 1) // n
    yield Exchange("gradients", "reduce-scatter", sent, times, n, across, "backward")
    if layout.replicas > 1:
        sent = 2 * size // n * (layout.replicas - 1) // layout.replicas
        count = layout.replicas
        yield Exchange(
            "gradients of machines", "all-reduce", sent, times, count, "replicas", "backward"
        )
    if job.sampling.kind == "hf":
        yield gathered("to sample from", once, 1)
        return
    # Tensor by tensor, as they are stored.
    stored = (layers + root) * job.element if job.full else adapter * FLOAT32
    tensors = shape.layers * (12 if job.full else 2 * len(shape.linears))
    sent = stored * (n - 1) // n
    yield Exchange("to the sampler", "all-gather", sent, tensors, n, across, "apart")
    yield gathered("sampler's check", once, 1)


def _padded(job: Job) -> int:
    """Return the weights of an adapter with rows that fill up the last shards: its first factors
    have few rows."""
    if job.full:
        return 0
    inputs = sum(linear.inputs for linear in job.shape.linears)
    outputs = sum(linear.outputs for linear in job.shape.linears)
    rank, n = job.rank, job.layout.shards
    rows = -(-rank // n) * n
    return job.adapter * (rows * inputs + rank * outputs) // (rank * (inputs + outputs))


def _once(job: Job) -> Iterator[Exchange]:
    """Yield the exchanges of tables."""
    tokens = job.rows * job.typical_completion
    later = tokens * (job.updates - 1) // job.updates if job.refreshed else 0
    yield _reduced("statistics", job.tables * FLOAT32 * (tokens + later), 1, job)
    # The leader's batch: ids and masks, and the sampler's log-probabilities.
    padded = job.rows * (job.typical_prompt + job.typical_completion)
    size = padded * (8 + 1) + tokens * FLOAT32
    yield Exchange("batch", "broadcast", size, 1, job.layout.gpus, "all", "apart")


def _reduced(name: str, size: int, calls: int, job: Job) -> Exchange:
    n = job.layout.gpus
    across: Across = "all" if n > NODE else ""
    return Exchange(name, "all-reduce", 2 * size * (n - 1) // n, calls, n, across, "apart")
