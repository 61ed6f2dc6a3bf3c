"""Settings of the model, its adapter and how it is spread over devices. No torch here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dgpo_cli.core.schema import Change, Frozen

EMBEDDED_TINY = "embedded:tiny"

OptimizerKind = Literal["adamw", "adamw8bit", "paged-adamw8bit"]


class ModelSettings(Frozen):
    """Which model is trained, and how it is loaded."""

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
        description="Data type of matrix products: bfloat16, stored (that of the weights; of the "
        "adapter for an adapter), or auto: bfloat16 on a GPU that has it, else stored.",
    )
    compile: Annotated[bool, Change.FREE] = Field(
        False,
        description="Compile each layer for training: a fifth faster on an H100 after two minutes, "
        "but equal models are no longer exactly 0 apart (2e-4 at most there).",
    )
    device: Annotated[str, Change.FREE] = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?|mps)$",
        description="Where the model runs: auto, cpu, cuda, cuda:1 or mps.",
    )
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = Field(
        "auto", description="Attention implementation of transformers."
    )
    quantization: Literal["none", "nf4"] = Field(
        "none",
        description="nf4 keeps the frozen base in 4 bits, computed in model.dtype (QLoRA); needs "
        "bitsandbytes.",
    )
    gradient_checkpointing: Annotated[bool, Change.FREE] = Field(
        False, description="Recompute activations in backward: less memory, more time."
    )
    trust_remote_code: bool = Field(
        False, description="Run Python code that comes with the model. Off unless you trust it."
    )


class NoAdapter(Frozen):
    """Full fine-tuning: every weight is trained, a frozen copy is the reference."""

    kind: Literal["none"] = "none"


class LoraAdapter(Frozen):
    """LoRA through peft; the reference is the same model with the adapter off."""

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
        False, description="Train the norm of every weight row as well; costs time and memory."
    )


AdapterSettings = Annotated[NoAdapter | LoraAdapter, Field(discriminator="kind")]


class ParallelSettings(Frozen):
    """How the policy is spread over processes."""

    kind: Literal["single", "fsdp2"] = Field(
        "single", description="single: one device. fsdp2: shards over many (torchrun)."
    )
    gpus: int = Field(1, ge=1, description="Devices over which fsdp2 shards.")
