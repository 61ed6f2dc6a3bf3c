"""Turns a checkpoint of a run into a plain model folder."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dgpo_cli.config.load import Resolved
from dgpo_cli.core.errors import CheckpointError, ConfigError, ModelError
from dgpo_cli.core.events import Observer, tell
from dgpo_cli.core.io import atomic_folder
from dgpo_cli.core.numbers import size
from dgpo_cli.policy import load, quantization
from dgpo_cli.policy.settings import ModelSettings
from dgpo_cli.runs.run_folder import checkpoint_to_load

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class MergeResult:
    """A merged model: its folder and checkpoint, and its difference from the policy."""

    out: Path
    checkpoint: Path
    size: int  # bytes
    difference: MergeDifference


def run(
    resolved: Resolved,
    *,
    run: Path,
    out: Path,
    step: int | None,
    dtype: Precision,
    observer: Observer,
) -> MergeResult:
    """Write the policy of `run` after `step` steps (None: the newest) to the new folder `out`.

    Raises:
        ConfigError: `out` exists.
        CheckpointError: the checkpoint is missing or damaged, or the disk is too small.
        ModelError: a part does not load, or the merged model differs from the policy by more than
            rounding.
    """
    from dgpo_cli.policy.load import load_tokenizer

    if out.exists():
        raise ConfigError(f"--out {out}: already exists; name a new folder")
    checkpoint = checkpoint_to_load(run, step=step, observer=observer)
    adapter = resolved.settings.adapter.kind == "lora"
    model_settings = _of_checkpoint(resolved.settings.model, checkpoint=checkpoint, adapter=adapter)
    check_space(model_settings, dtype=dtype, folder=out)
    tokenizer = load_tokenizer(model_settings, folder=checkpoint)
    merged = merge(
        model_settings, checkpoint=checkpoint, adapter=adapter, dtype=dtype, tokenizer=tokenizer
    )
    with atomic_folder(out) as folder:
        merged.model.save_pretrained(str(folder))
        tokenizer.save_pretrained(str(folder))
        difference = check_written(
            folder, merged, settings=model_settings, dtype=dtype, tokenizer=tokenizer
        )
    if model_settings.quantization != "none":
        tell(
            observer,
            f"the policy's 4-bit weights are unpacked and rounded to {dtype}: log-probabilities of "
            f"{difference.tokens} fixed tokens differ by at most {difference.largest:.2g} and by "
            f"{difference.mean:.2g} on average",
        )
    size = sum(path.stat().st_size for path in out.iterdir())
    return MergeResult(out=out, checkpoint=checkpoint, size=size, difference=difference)


def _of_checkpoint(settings: ModelSettings, *, checkpoint: Path, adapter: bool) -> ModelSettings:
    """Return the settings to load: the base at the adapter's commit, or the checkpoint itself."""
    if not adapter:
        return settings.model_copy(update={"path": str(checkpoint), "revision": None})
    stored = json.loads((checkpoint / "adapter_config.json").read_text(encoding="utf-8"))
    return settings.model_copy(update={"revision": stored.get("revision") or settings.revision})


Precision = Literal["bfloat16", "float16", "float32"]

# Texts that the policy and the merged model are compared on.
PROBES = (
    "17+25*3=92. The answer is 92.",
    "The quick brown fox jumps over the lazy dog, and then it sleeps.",
    "def f(n): return 1 if n < 2 else n * f(n - 1)",
)
_ROOM = 64 * 2**20  # bytes, for the tokenizer and the configuration
# Largest mean difference of log-probabilities, as a multiple of that of rounding alone. Measured:
# 0.3 to 1.2, over full, LoRA and 4-bit policies of 2 and of 8 blocks in three dtypes.
_ALLOWED = 3.0
_LEAST = 1e-4  # nats


@dataclass(frozen=True, slots=True)
class MergeDifference:
    """Log-probabilities (nats) of the merged model against the policy's, over `tokens`.

    rounding: their mean change when every weight moves by up to the eps of the coarser dtype.
    """

    largest: float
    mean: float
    tokens: int
    rounding: float

    @property
    def is_rounding(self) -> bool:
        return self.mean <= max(_LEAST, _ALLOWED * self.rounding)


@dataclass(frozen=True, slots=True)
class Merged:
    """A plain model, and the policy's log-probabilities of the probes."""

    model: Any
    expected: Tensor


def merge(
    settings: ModelSettings,
    *,
    checkpoint: Path,
    adapter: bool,
    dtype: Precision,
    tokenizer: Any,
) -> Merged:
    """Return the policy of a checkpoint as a plain model on the CPU.

    The sum of weight and update is taken in the wider of the two dtypes and rounded once.

    Args:
        settings: of the base if there is an adapter, else of the policy itself.
        adapter: the checkpoint is an adapter; otherwise it has all weights.

    Raises:
        ModelError: a part does not load, or a weight does not fit into `dtype`.
    """
    import torch

    target = getattr(torch, dtype)
    wide = torch.promote_types(getattr(torch, settings.dtype), target)
    if settings.quantization == "none":  # 4-bit weights are unpacked where they were packed
        settings = settings.model_copy(update={"device": "cpu"})
    model = load.load_model(settings, folder=None if adapter else checkpoint).requires_grad_(False)
    if adapter:
        model = load.load_adapter(model, folder=checkpoint, trainable=False).eval()
    before = _probe(model, tokenizer=tokenizer)
    if adapter:
        base = _without_adapter(model)
        if settings.quantization != "none":
            quantization.unpack(base, dtype=wide)
        _cast(base.to("cpu"), dtype=wide)
        adapted = load.load_adapter(base, folder=checkpoint, trainable=False)
        _untie(adapted.get_base_model())
        model = adapted.merge_and_unload()
    _cast(model.to("cpu").eval(), dtype=target)
    _check_finite(model, dtype=dtype)
    return Merged(model, before)


def check_written(
    folder: Path, merged: Merged, *, settings: ModelSettings, dtype: Precision, tokenizer: Any
) -> MergeDifference:
    """Compare the model in `folder` with the policy. Destroys `merged` to measure rounding.

    Raises:
        ModelError: they differ by more than rounding.
    """
    import torch

    eps = max(torch.finfo(getattr(torch, name)).eps for name in (settings.dtype, dtype))
    own = _probe(merged.model, tokenizer=tokenizer)
    _shake(merged.model, share=eps)
    rounding = (_probe(merged.model, tokenizer=tokenizer) - own).abs().mean()
    merged.model.to("meta")  # two models need not fit
    written = ModelSettings(
        path=str(folder),
        device="cpu",
        dtype=dtype,
        attention=settings.attention,
        trust_remote_code=settings.trust_remote_code,
    )
    found = _probe(load.load_model(written), tokenizer=tokenizer)
    apart = (found - merged.expected).abs()
    difference = MergeDifference(
        float(apart.max()), float(apart.mean()), len(apart), float(rounding)
    )
    if not difference.is_rounding:
        raise ModelError(
            f"the merged model is not the policy: log-probabilities are {difference.mean:.2g} nats "
            f"off on average, by rounding alone {difference.rounding:.2g}; nothing was written; "
            "use the checkpoint's adapter with its base instead"
        )
    return difference


def _shake(model: Any, *, share: float) -> None:
    """Change every weight at random by up to a share of itself, in place."""
    import torch

    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        moved = torch.rand(parameter.shape, generator=generator).mul_(2 * share).add_(1 - share)
        parameter.data = moved.mul_(parameter.data).to(parameter.dtype)


def check_space(settings: ModelSettings, *, dtype: Precision, folder: Path) -> int:
    """Return the size of the merged model in bytes, from its configuration alone.

    Raises:
        CheckpointError: the disk of `folder` is too small.
    """
    needed = model_bytes(settings, dtype=dtype) + _ROOM
    parent = next(path for path in folder.absolute().parents if path.exists())
    free = shutil.disk_usage(parent).free
    if needed > free:
        raise CheckpointError(
            f"{folder}: the model needs {size(needed)} and {parent} has "
            f"{size(free)} free; make room, or give a folder on another disk"
        )
    return needed


def model_bytes(settings: ModelSettings, *, dtype: Precision) -> int:
    """Return the size of a model's weights in a dtype, in bytes, without loading them."""
    import torch

    sizes = {"bfloat16": 2, "float16": 2, "float32": 4}
    config = load.load_config(settings)
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            config, trust_remote_code=settings.trust_remote_code
        )
    return sizes[dtype] * sum(int(p.numel()) for p in model.parameters())


def _without_adapter(model: Any) -> Any:
    """Return the base of an adapted model, without traces of the adapter."""
    base = model.unload()
    if hasattr(base, "peft_config"):
        del base.peft_config
    return base


def _untie(model: Any) -> None:
    """Untie the head from an embedding with an adapter: the update is the embedding's alone."""
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if isinstance(embedding, BaseTunerLayer) and embedding.get_base_layer().weight is head.weight:
        head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)
        model.config.tie_word_embeddings = False
        model.config.get_text_config().tie_word_embeddings = False


def _cast(model: Any, *, dtype: torch.dtype) -> None:
    """Cast weights, not buffers: rotary frequencies stay float32, as in a model just loaded."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def _probe(model: Any, *, tokenizer: Any) -> Tensor:
    """Return the log-probabilities of the tokens of PROBES, float32 [N] on the CPU."""
    import torch

    found = []
    for text in PROBES:
        ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
        ids = ids.to(next(model.parameters()).device)
        with torch.no_grad():
            logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
        found.append(logits.log_softmax(dim=-1).gather(1, ids[0, 1:, None])[:, 0].cpu())
    return torch.cat(found)


def _check_finite(model: Any, *, dtype: Precision) -> None:
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise ModelError(
                f"--dtype {dtype}: {name} has values that are not finite; "
                "give --dtype bfloat16 or float32"
            )
