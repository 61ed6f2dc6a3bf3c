"""The stored files, and how what dgpo writes now is held against them.

Numbers that a model computes are the same to the last bit only where the same arithmetic is done:
by the same torch and transformers, on a processor with the same vector units and libraries. There
every byte is compared. Elsewhere the format is: fields, their order and types, and the first
numbers of a run within a tolerance.
"""

from __future__ import annotations

import difflib
import gzip
import json
import math
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from tests.golden.decode import digest

FILES = Path(__file__).parent / "files"
MACHINE = "machine.json"
_PACKED_FROM = 3000  # characters; shorter files are kept readable
_SHOWN = 40  # lines of a difference
# Of the first step and evaluation, where another machine's rounding has changed no weight yet.
_FIRST = ("metrics.jsonl", "evals.jsonl")
_RELATIVE, _ABSOLUTE = 1e-2, 1e-3
_PAGES = (".html", ".svg", ".md")  # words around numbers


@cache
def machine() -> dict[str, str]:
    """Return what the last bit of a computed number depends on."""
    import peft
    import torch
    import transformers

    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(48, 128, generator=generator, requires_grad=True)
    right = torch.randn(128, 384, generator=generator, requires_grad=True)
    out = torch.nn.functional.silu(left @ right).log_softmax(-1)
    (out.exp() * out).sum().backward()  # type: ignore[no-untyped-call]
    found = (out, left.grad, right.grad, out.var(0).sqrt())
    bits = b"".join(each.detach().numpy().tobytes() for each in found if each is not None)
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "arithmetic": digest(bits),
    }


def packed(text: str) -> bytes:
    return gzip.compress(text.encode("utf-8"), mtime=0)


def read(name: str, *, files: Path = FILES) -> dict[str, str]:
    """Return the stored texts below a folder, by their path in it."""
    found = {}
    for path in sorted((files / name).rglob("*")):
        if path.is_file():
            inside = path.relative_to(files / name).as_posix()
            data = path.read_bytes()
            if path.suffix == ".gz":
                inside, data = inside.removesuffix(".gz"), gzip.decompress(data)
            found[inside] = data.decode("utf-8")
    return found


def write(name: str, texts: Mapping[str, str], *, files: Path = FILES) -> None:
    """Store texts in place of those that are stored; equal ones are not touched."""
    before = read(name, files=files)
    for inside, text in before.items():
        if texts.get(inside) != text:
            (files / name / inside).unlink(missing_ok=True)
            (files / name / f"{inside}.gz").unlink(missing_ok=True)
    for inside, text in texts.items():
        if before.get(inside) != text:
            is_long = len(text) >= _PACKED_FROM
            path = files / name / (f"{inside}.gz" if is_long else inside)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(packed(text) if is_long else text.encode("utf-8"))


def differences(stored: Mapping[str, str], now: Mapping[str, str], *, exact: bool) -> list[str]:
    """Say which texts differ and how; nothing where they are the same.

    exact: byte for byte; else by format.
    """
    found = [f"{name}: is not written any more" for name in stored if name not in now]
    found += [f"{name}: is new" for name in now if name not in stored]
    for name in stored.keys() & now.keys():
        if stored[name] != now[name]:
            compare = _lines if exact else _by_format
            found += compare(stored[name], now[name], name=name)
    return sorted(found)


def _lines(stored: str, now: str, *, name: str) -> list[str]:
    lines = list(
        difflib.unified_diff(
            stored.splitlines(), now.splitlines(), "stored", "now", lineterm="", n=0
        )
    )
    shown = [_around(line) for line in lines[2 : _SHOWN + 2]]
    more = [f"... {len(lines) - _SHOWN - 2} lines more"] if len(lines) > _SHOWN + 2 else []
    return ["\n    ".join([f"{name}: differs", *_first_change(stored, now), *shown, *more])]


def _first_change(stored: str, now: str) -> list[str]:
    """Show the place of the first difference: lines may be long."""
    at = next((i for i, (a, b) in enumerate(zip(stored, now, strict=False)) if a != b), None)
    if at is None:
        return ["one is the beginning of the other"]
    start = max(0, at - 60)
    return [
        f"first at {at}: {stored[start : at + 40]!r}",
        f"         now: {now[start : at + 40]!r}",
    ]


def _around(line: str) -> str:
    return line if len(line) <= 160 else f"{line[:160]}..."


def _by_format(stored: str, now: str, *, name: str) -> list[str]:
    if name.endswith(".jsonl"):
        pairs = zip(stored.splitlines(), now.splitlines(), strict=False)
        trees = [(json.loads(left), json.loads(right)) for left, right in pairs]
    elif name.endswith(".json"):
        trees = [(json.loads(stored), json.loads(now))]
    elif name.endswith(_PAGES):
        return []
    else:
        left, right = _without_numbers(stored), _without_numbers(now)
        return [] if left == right else _lines(left, right, name=name)
    wrong = []
    for number, (left, right) in enumerate(trees):
        is_first = number == 0 and name.endswith(_FIRST)
        wrong += [f"{name}: line {number + 1}: {each}" for each in _apart(left, right, is_first)]
    return wrong[:_SHOWN]


def _apart(left: Any, right: Any, close: bool, at: str = "") -> list[str]:
    """Say where two trees have other fields or types, or, if asked for, numbers apart."""
    match left, right:
        case dict(), dict():
            if list(left) != list(right) and not _is_map(left):
                return [f"{at or 'it'} has other fields: {sorted(left.keys() ^ right.keys())}"]
            both = [key for key in left if key in right]
            return [w for key in both for w in _apart(left[key], right[key], close, f"{at}.{key}")]
        case list(), list():
            pairs = enumerate(zip(left, right, strict=False))
            return [w for i, (a, b) in pairs for w in _apart(a, b, close, f"{at}[{i}]")]
        case (None, _) | (_, None):
            return []
        case (bool(), bool()) | (str(), str()):
            return []
        case (int() | float(), int() | float()):
            if close and not math.isclose(left, right, rel_tol=_RELATIVE, abs_tol=_ABSOLUTE):
                return [f"{at}: {left} was stored, now {right}"]
            return []
    return [f"{at}: {type(left).__name__} was stored, now {type(right).__name__}"]


def _is_map(tree: Mapping[str, Any]) -> bool:
    """Whether the keys are data: numbers, as in pass_at_k."""
    return all(key.isdigit() for key in tree)


def _without_numbers(text: str) -> str:
    text = re.sub(r"(sha256:|\b)[0-9a-f]{64}\b", "<digest>", text)
    return re.sub(r"-?\d+(\.\d+)?(e[+-]?\d+)?", "0", text)
