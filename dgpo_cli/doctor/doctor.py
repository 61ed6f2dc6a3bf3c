"""Checks this machine: packages, devices, memory, disk, limits and the hub, each with its fix.

Works even if torch does not import: what could crash or hang runs in a process of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from dgpo_cli.config.checks import check_built, check_trainable
from dgpo_cli.config.load import Resolved
from dgpo_cli.config.settings import Settings
from dgpo_cli.core.errors import DgpoError
from dgpo_cli.core.numbers import size
from dgpo_cli.core.types import Finding
from dgpo_cli.doctor import benchmarks, machine, packages

# Resolves the settings with some changed.
Changed = Callable[[dict[str, object]], Resolved]


def run(changed: Changed | None) -> tuple[Finding, ...]:
    """Return the findings.

    changed: resolves the settings of the run to check; None checks the machine alone.
    """
    settings = changed({}).settings if changed is not None else None
    probed = packages.probe()
    findings = [*packages.findings(probed, needed=_needed(settings)), *machine.findings()]
    findings += benchmarks.findings()
    if changed is not None and settings is not None:
        findings += _preset(changed, settings, torch_works=probed.works("torch"))
    return tuple(findings)


def _needed(settings: Settings | None) -> frozenset[str]:
    """Return the optional packages that the settings need."""
    if settings is None:
        return frozenset()
    needed = set()
    if settings.rollout.backend.kind == "vllm":
        needed.add("vllm")
    if settings.model.quantization != "none" or settings.optim.kind != "adamw":
        needed.add("bitsandbytes")
    return frozenset(needed)


def _preset(changed: Changed, settings: Settings, *, torch_works: bool) -> Iterator[Finding]:
    """Check whether this version and this machine can run the settings."""
    for name, check in (("settings", check_trainable), ("this version", check_built)):
        try:
            check(settings)
        except DgpoError as error:
            for line in str(error).splitlines():
                yield Finding(name, "fail", line, "change what it names with --set")
        else:
            yield Finding(name, "ok", "can run it")
    if not torch_works:
        yield Finding("memory needed", "fail", "not estimated: torch does not import", "see torch")
        return
    if settings.parallel.gpus > 1:
        yield devices_for(settings.parallel.gpus, found=_visible_gpus())
    yield _memory(changed, settings)


def _visible_gpus() -> int:
    import torch

    return torch.cuda.device_count()


def devices_for(gpus: int, *, found: int) -> Finding:
    """Check that this machine has its part of the devices of a run."""
    name = "devices"
    if found >= gpus:
        return Finding(name, "ok", f"{found} GPUs, parallel.gpus={gpus}")
    if not found:
        words = f"parallel.gpus={gpus}, no GPU here"
        return Finding(name, "fail", words, "dgpo train --gpus 2 tries two ranks on the CPU")
    words = f"parallel.gpus={gpus}, {found} {'GPUs' if found > 1 else 'GPU'} here"
    if gpus % found:
        return Finding(name, "fail", words, f"give --gpus {found}")
    fix = f"give --gpus {found}, or share the run with other machines (--nodes {gpus // found})"
    return Finding(name, "warn", words, fix)


def _memory(changed: Changed, settings: Settings) -> Finding:
    from dgpo_cli.planning import devices, plan

    try:
        device = devices.here(settings.model.device, measure=False)
        found = plan.run(changed, device=device, typical=plan.Typical(), repair=False)
    except DgpoError as error:
        return Finding("memory needed", "fail", str(error), "see the line above")
    device = found.device
    words = f"{size(found.memory.peak)} at the peak of {size(device.room)} on {device.name}"
    if found.devices > 1:
        words += f", for each of {found.devices} ranks"
    if found.fits:
        return Finding("memory needed", "ok", words)
    words = "; ".join([words, *found.problems])
    return Finding("memory needed", "fail", words, "dgpo plan says what to change")
