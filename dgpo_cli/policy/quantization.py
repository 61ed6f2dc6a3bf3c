"""Packs, counts and unpacks 4-bit weights (NF4 with double quantisation) through bitsandbytes.

Source: Dettmers et al., QLoRA, arXiv 2305.14314.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from dgpo_cli.core.errors import ModelError
from dgpo_cli.policy.settings import ModelSettings

if TYPE_CHECKING:
    import torch

INSTALL = "pip install 'dgpo-cli[qlora]'"


def loading_arguments(settings: ModelSettings, *, device: torch.device) -> dict[str, Any]:
    """Return the arguments with which from_pretrained packs the linear layers.

    The head stays unpacked: the token pass reads its weight.

    Raises:
        ModelError: bitsandbytes is missing, or the device is not supported.
    """
    import torch

    if settings.quantization == "none":
        return {}
    require_bitsandbytes(f"model.quantization={settings.quantization}")
    if device.type not in ("cpu", "cuda"):
        raise ModelError(
            f"model.quantization={settings.quantization}: runs on cpu and cuda, not on "
            f"{device.type}; set model.device=cpu, or model.quantization=none"
        )
    from transformers import BitsAndBytesConfig

    return {
        "device_map": {"": device},
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=getattr(torch, settings.dtype),
        ),
    }


def unpacking(config: Any) -> dict[str, Any]:
    """Return the arguments with which from_pretrained unpacks weights that are stored in MXFP4, as
    those of gpt-oss: only unpacked ones can be trained with.

    config: of the model.
    """
    stored = getattr(config, "quantization_config", None) or {}
    if stored.get("quant_method") != "mxfp4":
        return {}
    from transformers import Mxfp4Config

    return {"quantization_config": Mxfp4Config(dequantize=True)}


def require_bitsandbytes(setting: str) -> None:
    """Import bitsandbytes.

    Raises:
        ModelError: it cannot be imported; the message names the setting that needs it.
    """
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise ModelError(
            f"{setting}: needs the package bitsandbytes ({error}); {INSTALL}"
        ) from error


def check_loaded(model: Any, *, settings: ModelSettings) -> None:
    """Check that the weights are stored as the settings ask.

    Raises:
        ModelError: they are already quantised in another way.
    """
    stored = getattr(model.config, "quantization_config", None)
    where = f"model.path={settings.path}"
    if settings.quantization == "none" and stored is not None:
        raise ModelError(
            f"{where}: its weights are already quantised; give the original model, and set "
            "model.quantization=nf4 to keep it in 4 bits"
        )
    if settings.quantization == "nf4":
        kinds = {getattr(p, "quant_type", None) for p in model.parameters() if is_packed(p)}
        if kinds != {"nf4"}:
            raise ModelError(
                f"{where}: model.quantization=nf4 did not pack its linear layers as nf4; set "
                "model.quantization=none"
            )


def check_runs(model: Any, *, settings: ModelSettings) -> None:
    """Run a model with packed weights on two tokens: some families read weights directly.

    Raises:
        ModelError: it does not run.
    """
    import torch

    if settings.quantization == "none":
        return
    ids = torch.ones(1, 2, dtype=torch.int64, device=next(model.parameters()).device)
    try:
        with torch.no_grad():
            model(input_ids=ids, use_cache=False)
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, KeyError, RuntimeError, TypeError) as error:
        raise ModelError(
            f"model.quantization={settings.quantization}: {type(model).__name__} does not run with "
            "packed weights; set model.quantization=none"
        ) from error


def keep_layout(model: Any) -> None:
    """Keep the packed weights in the only layout with a gradient.

    On processors with AVX512-BF16, bitsandbytes converts them to an inference layout when a model
    first runs in evaluation mode; its products then have no gradient, and training would silently
    go wrong.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def is_packed(parameter: Any) -> bool:
    """Whether a parameter holds 4-bit weights, two in a byte."""
    return getattr(parameter, "quant_state", None) is not None


def size_of(parameter: Any) -> int:
    """Return the number of weights in a parameter."""
    return int(
        math.prod(parameter.quant_state.shape) if is_packed(parameter) else parameter.numel()
    )


def packed_count(model: Any) -> int:
    """Return the number of weights in 4 bits."""
    return sum(size_of(p) for p in model.parameters() if is_packed(p))


def unpack(model: Any, *, dtype: torch.dtype) -> Any:
    """Replace every packed linear layer by a plain one on the CPU, and remove all marks of the
    quantisation, so that the model can be saved.
    """
    import bitsandbytes as bnb
    import torch

    packed = [(n, m) for n, m in model.named_modules() if isinstance(m, bnb.nn.Linear4bit)]
    for name, module in packed:
        weight = bnb.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
        plain = torch.nn.Linear(
            module.in_features, module.out_features, bias=module.bias is not None, device="meta"
        )
        plain.weight = torch.nn.Parameter(weight.to("cpu", dtype), requires_grad=False)
        if module.bias is not None:
            bias = module.bias.data.to("cpu", dtype)
            plain.bias = torch.nn.Parameter(bias, requires_grad=False)
        model.set_submodule(name, plain)
    for owner, names in (
        (model, ("hf_quantizer", "quantization_method", "is_loaded_in_4bit", "is_quantized")),
        (model.config, ("quantization_config",)),
    ):
        for name in names:
            if name in vars(owner):
                delattr(owner, name)
    return model
