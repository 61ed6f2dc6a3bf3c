"""Numbers of devices for a run, and which of them is the best use; no torch here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from dgpo_cli.planning.budget import Choice, Device, seconds_of
from dgpo_cli.planning.cost import times_of
from dgpo_cli.planning.job import NODE, Job, Layout
from dgpo_cli.planning.memory import memory_of, settled
from dgpo_cli.planning.problems import problems_of

_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_SEQUENCES = (1, 2, 4)
_ALIKE = 1.01  # a simpler layout may take that much longer
WORTH = 0.8  # the least efficiency of the best choice


def choices_of(job: Job, device: Device) -> tuple[Choice, ...]:
    """Return a choice for each number of devices: of the layouts that fit the fastest, else the
    one that needs the least memory.

    The best is the largest number that does the work at WORTH of the best efficiency: waiting
    less is worth that much.
    """
    own = job.layout.gpus
    counts = sorted({*(n for n in _COUNTS if n >= min(NODE, own)), own})
    found = [_fastest(job, device, gpus=n) for n in counts if n % job.sampling.split == 0]
    least = min((each.gpu_hours for each in found if each.fits and each.gpu_hours), default=0.0)
    rated = [
        replace(each, efficiency=least / each.gpu_hours if each.gpu_hours else 0.0)
        for each in found
    ]
    worth = [each.gpus for each in rated if each.fits and each.efficiency >= WORTH]
    return tuple(replace(each, best=each.gpus == max(worth, default=0)) for each in rated)


def _fastest(job: Job, device: Device, *, gpus: int) -> Choice:
    found = [_choice(job, device, layout) for layout in _layouts(job, gpus=gpus)]
    fitting = [each for each in found if each.fits]
    if fitting:
        least = min(each.step_seconds for each in fitting)
        return next(each for each in fitting if each.step_seconds <= _ALIKE * least)
    return min(found, key=lambda each: each.peak_bytes)


def _layouts(job: Job, *, gpus: int) -> Iterator[Layout]:
    """Yield the ways to use a number of devices, the simplest first."""
    one = replace(job.layout, gpus=gpus)
    if gpus == 1:
        yield replace(one, kind="single", sequence=1, offload=False)
        return
    adapted = () if job.full else (replace(one, kind="replicate", offload=False),)
    sharded = () if job.packed or job.state != "adamw" else (replace(one, kind="shard"),)
    across = (replace(one, kind="hybrid"),) if sharded and gpus > NODE and not gpus % NODE else ()
    for sequence in _SEQUENCES:
        if gpus % sequence == 0:
            for layout in (*adapted, *sharded, *across):
                yield replace(layout, sequence=sequence)


def _choice(job: Job, device: Device, layout: Layout) -> Choice:
    placed = settled(replace(job, layout=layout), device)
    peak = memory_of(placed, device).peak
    fits = peak <= device.room and not problems_of(placed, device)
    seconds = seconds_of(times_of(placed, device))
    return Choice(
        gpus=layout.gpus,
        kind=layout.kind,
        sequence=layout.sequence,
        peak_bytes=peak,
        fits=fits,
        step_seconds=seconds,
        gpu_hours=layout.gpus * seconds / 3600,
        efficiency=0.0,
        best=False,
    )
