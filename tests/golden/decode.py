"""Writes any file of dgpo as text that is the same on every run.

What depends on the machine, the clock or a random name is replaced by <name of it>; everything
else stays byte for byte. Binary files are told by what is in them.
"""

from __future__ import annotations

import hashlib
import html
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Fields of JSON whose values are times, speeds, memory, versions or random. Nothing else is left
# out of any comparison.
MACHINE_FIELDS = (
    "time/sample_s",
    "time/score_s",
    "time/statistics_s",
    "time/update_s",
    "time/sync_s",
    "time/wait_s",
    "time/step_s",
    "time/cpu_s",
    "throughput/tokens_per_s",
    "tokens_per_s",
    "device",
    "python",
    "dgpo",
    "torch",
    "transformers",
    "transformers_version",
    "peft_version",
)
_FIELD = re.compile(
    rf'("({"|".join(map(re.escape, MACHINE_FIELDS))})":\s*)'
    r'(?:"(?:[^"\\]|\\.)*"|[^\s,\]}"{\[]+)'  # text or a number, no list or object
)
_PLACES = (
    (re.compile(r"process \d+ on \S+, since [\d-]+ [\d:]+"), "process <pid> on <host>, <time>"),
    (re.compile(r'(?<="tensorboard": {"id": )"[0-9a-f]{8}"'), '"<random>"'),
    (re.compile(r"dgpo-cli \d\S+|dgpo \d+\.\d+\.\d+"), "dgpo <version>"),
    # The folder of the embedded model is written into these, so they depend on where dgpo lies.
    (re.compile(r"^[0-9a-f]{64}(?=  (?:README\.md|adapter_config\.json)$)", re.M), "<digest>"),
    (re.compile(r'(?<="size": )\d+(?=,\s+"written": )'), '"<size>"'),
    (re.compile(r"http://127\.0\.0\.1:\d+"), "http://127.0.0.1:<port>"),
)


def told(path: Path, *, work: Path) -> str:
    """Return a file as text; `work` is the folder in which everything was made."""
    decoders: dict[str, Callable[[bytes], str]] = {
        ".safetensors": _safetensors,
        ".pt": _saved_by_torch,
        ".html": _words_of_page,
        ".svg": _words_of_page,
    }
    data = path.read_bytes()
    if ".tfevents." in path.name:
        return _tensorboard(path)
    decode = decoders.get(path.suffix, lambda data: data.decode("utf-8"))
    return plain(decode(data), work=work)


def plain(text: str, *, work: Path) -> str:
    """Replace what no two runs have in common: the one place where that is done."""
    repository = Path(__file__).parents[2]
    text = text.replace(str(work), "<work>").replace(str(repository), "<repository>")
    text = _FIELD.sub(r'\1"<\2>"', text)
    for pattern, place in _PLACES:
        text = pattern.sub(place, text)
    return text


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _safetensors(data: bytes) -> str:
    from safetensors.torch import load

    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    lines = [f"metadata {json.dumps(header.get('__metadata__'))}", f"file {digest(data)}"]
    lines += [f"{name} {_tensor(tensor)}" for name, tensor in sorted(load(data).items())]
    return "\n".join(lines) + "\n"


def _saved_by_torch(data: bytes) -> str:
    import torch

    tree = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    return "\n".join(_leaves(tree, "")) + "\n"


def _leaves(tree: Any, name: str) -> Iterator[str]:
    """Write a tree of a torch file one leaf a line; long runs of whole numbers by their digest."""
    import torch

    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _leaves(value, f"{name}.{key}")
    elif isinstance(tree, list | tuple) and len(tree) < 100:
        yield f"{name} {type(tree).__name__} of {len(tree)}"
        for at, value in enumerate(tree):
            yield from _leaves(value, f"{name}[{at}]")
    elif isinstance(tree, list | tuple):
        yield f"{name} {type(tree).__name__} of {len(tree)} {digest(repr(tree).encode())}"
    elif isinstance(tree, torch.Tensor):
        yield f"{name} {_tensor(tree)}"
    else:
        yield f"{name} {type(tree).__name__} {tree!r}"


def _tensor(tensor: Any) -> str:
    import torch

    data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return f"{tensor.dtype} {list(tensor.shape)} {digest(data)}"


def _words_of_page(data: bytes) -> str:
    """Return what a reader sees of a page or drawing, and the attributes that are read aloud."""
    text = data.decode("utf-8")
    text = re.sub(r"<(script|style)\b.*?</\1>", " ", text, flags=re.S)
    named = re.sub(r'<[^>]*?\b(?:aria-label|title|alt)="([^"]*)"[^>]*>', r"\n\1\n", text)
    words = html.unescape(re.sub(r"<[^>]*>", "\n", named))
    return "\n".join(line for each in words.split("\n") if (line := " ".join(each.split()))) + "\n"


def _tensorboard(path: Path) -> str:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.util.tensor_util import make_ndarray

    lines = []
    for event in EventFileLoader(str(path)).Load():
        for value in event.summary.value:
            found = make_ndarray(value.tensor).tolist()
            is_text = isinstance(found, list)
            known = "<machine>" if value.tag in MACHINE_FIELDS else repr(found)
            shown = digest(repr(found).encode()) if is_text and len(known) > 200 else known
            lines.append(f"{event.step} {value.tag} {shown}")
    return "\n".join(lines) + "\n"
