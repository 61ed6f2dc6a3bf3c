"""Settings of the model, its adapter and its distribution over devices. No torch here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from dgpo_cli.core.schema import Change, Frozen

EMBEDDED_TINY = "embedded:tiny"

OptimizerKind = Literal["adamw", "adamw8bit", "paged-adamw8bit"]
ParallelKind = Literal["single", "replicate", "shard", "hybrid"]
CompileKind = Literal["auto", "on", "off"]
CheckpointingKind = Literal["auto", "none", "selective", "full", "offload"]


def _switch(*, on: str, off: str) -> BeforeValidator:
    """Accept true and false, which a setting once had, for two of its words.

    The layers of settings hand over a bool as text.
    """
    words = {"true": on, "false": off}
    return BeforeValidator(lambda value: words.get(str(value).lower(), value))


class ModelSettings(Frozen):
    """The model to train, and how to load it."""

    path: Annotated[str, Change.FIXED] = Field(
        EMBEDDED_TINY,
        min_length=1,
        description=f"Hub id, local folder, or '{EMBEDDED_TINY}' for the model that dgpo ships.",
    )
    revision: Annotated[str | None, Change.FIXED] = Field(
        None, description="Hub revision (commit, tag or branch)."
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Data type of the weights in memory."
    )
    compute: Literal["auto", "stored", "bfloat16"] = Field(
        "auto",
        description="Data type of matrix products: bfloat16, stored (that of the weights; for an "
        "adapter, its own), or auto: bfloat16 on a GPU that has it, else stored.",
    )
    compile: Annotated[CompileKind, Change.FREE, _switch(on="on", off="off")] = Field(
        "auto",
        description="Compile the layers for training: faster after a minute or two. auto: a model "
        "of at least a billion weights, whole on a CUDA device.",
    )
    device: Annotated[str, Change.FREE] = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?|mps)$",
        description="Device of the model: auto, cpu, cuda, cuda:1 or mps.",
    )
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = Field(
        "auto", description="Attention implementation of transformers."
    )
    quantization: Literal["none", "nf4"] = Field(
        "none",
        description="nf4 stores the frozen base in 4 bits and computes in model.dtype (QLoRA); "
        "needs bitsandbytes.",
    )
    gradient_checkpointing: Annotated[
        CheckpointingKind, Change.FREE, _switch(on="full", off="none")
    ] = Field(
        "none",
        description="Recompute activations in backward: less memory, more time. full: each layer; "
        "selective: all but its attention; offload: full, with the layers' inputs in the host's "
        "memory; auto: the first of none, selective and full that fits the device.",
    )
    trust_remote_code: bool = Field(
        False, description="Run Python code that comes with the model. Only if you trust it."
    )


class NoAdapter(Frozen):
    """Full fine-tuning: trains every weight; a frozen copy is the reference."""

    kind: Literal["none"] = "none"


class LoraAdapter(Frozen):
    """LoRA through peft; the reference is the model without the adapter."""

    kind: Literal["lora"] = "lora"
    rank: int = Field(16, ge=1, le=1024, description="Rank of the update.")
    alpha: float = Field(
        32.0, gt=0, description="Scale: the update is multiplied by alpha / rank (see rslora)."
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the adapter's input.")
    targets: str | tuple[str, ...] = Field(
        "all-linear", description="Module names to adapt, or 'all-linear'."
    )
    rslora: bool = Field(
        False, description="Multiply the update by alpha / sqrt(rank) instead, for high ranks."
    )
    dora: bool = Field(
        False, description="Also train the norm of every weight row; costs time and memory."
    )


AdapterSettings = Annotated[NoAdapter | LoraAdapter, Field(discriminator="kind")]


class ParallelSettings(Frozen):
    """The distribution of a run over devices, one process (rank) each."""

    kind: Literal["auto", "single", "replicate", "shard", "hybrid"] = Field(
        "auto",
        description="single: one device. replicate: the whole model on each. shard: weights, "
        "gradients and optimiser split over all. hybrid: split within a machine, replicated "
        "across machines. auto: replicate with an adapter, else shard. One device is always "
        "single.",
    )
    gpus: int = Field(1, ge=1, description="Devices in total: one rank each.")
    reference: Literal["shard", "offload"] = Field(
        "shard",
        description="Where a sharded reference is kept: on the devices, or in the host's memory.",
    )
    sequence: Literal[1, 2, 4] = Field(
        1, description="Ranks that share a micro-batch, for completions too long for one device."
    )
    timeout_s: float = Field(
        1800.0, gt=0, description="Longest wait of a rank for the others in an exchange."
    )
