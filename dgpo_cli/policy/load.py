"""Loads models, tokenizers and adapters through transformers and peft."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgpo_cli.core.digests import check_loaded
from dgpo_cli.core.errors import ModelError, NoModelError
from dgpo_cli.core.resources import resource_dir
from dgpo_cli.core.text import cut
from dgpo_cli.policy import attention, quantization
from dgpo_cli.policy.fingerprint import model_folder, weight_files
from dgpo_cli.policy.settings import EMBEDDED_TINY, LoraAdapter, ModelSettings

if TYPE_CHECKING:
    import torch


def model_location(path: str) -> str:
    """Return the folder or hub id behind the setting `model.path`."""
    return str(resource_dir("data") / "tiny") if path == EMBEDDED_TINY else path


def pick_device(name: str) -> torch.device:
    """Return the device that `model.device` names; auto takes CUDA, then MPS, then the CPU.

    Raises:
        ModelError: the device is not there.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"model.device={name}: torch sees no CUDA device; set model.device=cpu")
    if (device.index or 0) >= (count := torch.cuda.device_count()) > 0:
        raise ModelError(
            f"model.device={name}: torch sees {count} CUDA {'device' if count == 1 else 'devices'},"
            f" numbered from 0; set model.device=cuda:{count - 1}, or show it more with "
            "CUDA_VISIBLE_DEVICES"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ModelError(f"model.device={name}: torch sees no MPS device; set model.device=cpu")
    return device


def load_tokenizer(settings: ModelSettings, *, folder: Path | None = None) -> Any:
    """Load the tokenizer of a checkpoint `folder` that has one, or else of the model.

    Raises:
        ModelError: it cannot be loaded, is empty or has no EOS token.
    """
    from transformers import AutoTokenizer

    _quiet()
    here = folder is not None and (folder / "tokenizer_config.json").exists()
    location = str(folder) if here else model_location(settings.path)
    with _explained(location, settings=settings):
        tokenizer = AutoTokenizer.from_pretrained(
            location,
            revision=None if here else settings.revision,
            trust_remote_code=settings.trust_remote_code,
        )
    if not tokenizer.encode("1 + 1", add_special_tokens=False):
        # Without its files, transformers makes an empty one.
        raise ModelError(f"{location}: has no tokenizer; add its tokenizer.json")
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"{location}: the tokenizer has no EOS token, so completions could not end"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_config(settings: ModelSettings) -> Any:
    """Load the model's configuration.

    Raises:
        ModelError: it cannot be found or read.
    """
    from transformers import AutoConfig

    _quiet()
    location = model_location(settings.path)
    with _explained(location, settings=settings):
        return AutoConfig.from_pretrained(
            location, revision=settings.revision, trust_remote_code=settings.trust_remote_code
        )


def load_generation_config(settings: ModelSettings, *, config: Any) -> Any:
    """Return the generation config that the loaded model would have."""
    from transformers import GenerationConfig

    try:
        return GenerationConfig.from_pretrained(
            model_location(settings.path), revision=settings.revision
        )
    except OSError:  # none is stored
        return GenerationConfig.from_model_config(config)


def stop_ids_of(generation_config: Any, tokenizer: Any) -> frozenset[int]:
    """Return the ids that end a completion: EOS tokens of the two."""
    configured = getattr(generation_config, "eos_token_id", None)
    ids = configured if isinstance(configured, list) else [configured]
    return frozenset(int(i) for i in [*ids, tokenizer.eos_token_id] if i is not None)


def check_ends(stop_ids: frozenset[int], *, vocab_size: int) -> None:
    """Raise ModelError if no token that ends a completion can be sampled."""
    if min(stop_ids) >= vocab_size:
        raise ModelError(
            f"the tokenizer's EOS token has id {min(stop_ids)}, but the model has {vocab_size} "
            "logits, so completions could not end; give a model.path with the model's own tokenizer"
        )


def fetch_weights(settings: ModelSettings) -> Path:
    """Return the folder of the model's files, downloaded as for `load_model`.

    Raises:
        ModelError: there are none in safetensors.
    """
    from transformers.utils.hub import cached_file, get_checkpoint_shard_files

    location = model_location(settings.path)
    with _explained(location, settings=settings):
        if not Path(location).is_dir():
            at = {"revision": settings.revision}
            lenient = at | {"_raise_exceptions_for_missing_entries": False}
            if cached_file(location, "model.safetensors", **lenient) is None:
                index = cached_file(location, "model.safetensors.index.json", **at)
                get_checkpoint_shard_files(location, index, **at)
        folder = model_folder(location, revision=settings.revision)
        for file in weight_files(folder):
            if not file.is_file():
                raise ModelError(f"{file}: missing, but named in the index of the weights")
    return folder


def load_model(
    settings: ModelSettings, *, folder: Path | None = None, notes: list[str] | None = None
) -> Any:
    """Load the causal model (from a checkpoint `folder` if given) onto its device, for inference.

    Dropout is set to zero everywhere: a sampled token must keep its probability.

    Args:
        notes: what to tell the user is added here.

    Raises:
        ModelError: it cannot be found or loaded.
        ConfigError: `model.attention` names an implementation that is wrong for the model.
        CheckpointError: it is a damaged checkpoint.
    """
    location = str(folder) if folder else model_location(settings.path)
    check_loaded(Path(location))
    device = pick_device(settings.device)
    if device.index is not None:  # nothing of this process is to lie on another GPU
        import torch

        torch.cuda.set_device(device)
    packed = quantization.loading_arguments(settings, device=device)
    model = from_pretrained(settings, location=location, folder=folder, **packed)
    quantization.check_loaded(model, settings=settings)
    quantization.keep_layout(model)
    without_dropout(model)
    model = model.eval() if packed else model.to(device).eval()
    quantization.check_runs(model, settings=settings)
    note = attention.settle(model, chosen=settings.attention)
    if note is not None and notes is not None:
        notes.append(note)
    return model


def from_pretrained(
    settings: ModelSettings, *, location: str, folder: Path | None = None, **more: Any
) -> Any:
    """Let transformers load the causal model at a location, which is `folder` if given.

    Raises:
        ModelError: it cannot be found or loaded.
    """
    import torch
    from transformers import AutoModelForCausalLM

    _quiet()
    with _explained(location, settings=settings):
        unpacks = {}
        if folder is None and settings.quantization == "none":
            unpacks = quantization.unpacking(load_config(settings))
        model = AutoModelForCausalLM.from_pretrained(
            location,
            revision=None if folder else settings.revision,
            dtype=getattr(torch, settings.dtype),
            attn_implementation=None if settings.attention == "auto" else settings.attention,
            trust_remote_code=settings.trust_remote_code,
            use_safetensors=True,
            **more,
            **unpacks,
        )
    if unpacks:  # to bfloat16, whatever was asked for
        model = model.to(getattr(torch, settings.dtype))
    return model


def without_dropout(model: Any) -> None:
    """Set every dropout probability of the base model to zero, layer drop included."""
    for module, name in dropouts(model):
        setattr(module, name, 0.0)


def dropouts(model: Any) -> list[tuple[Any, str]]:
    """Return the owners and names of dropout probabilities that are not zero.

    Some families use torch's modules, others a number of their own or of the configuration.
    """
    import torch

    found = []
    for module in (model.config.get_text_config(), *model.modules()):
        names = [name for name, value in vars(module).items() if "drop" in name and value]
        names = [name for name in names if isinstance(getattr(module, name), float)]
        if isinstance(module, torch.nn.Dropout) and module.p:
            names.append("p")
        found += [(module, name) for name in names]
    return found


def compute_dtype(settings: ModelSettings) -> torch.dtype | None:
    """Return the dtype of `model.compute` on the device of `model.device`; None: as stored."""
    import torch

    if settings.compute == "bfloat16":
        return torch.bfloat16
    if settings.compute == "stored" or settings.dtype == "float16":
        return None
    cuda = pick_device(settings.device).type == "cuda"
    has = cuda and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if has else None


def multiply_adapter_in_autocast(model: Any) -> None:
    """Let autocast choose an adapter's dtype; peft would widen its input first.

    Not for DoRA, whose norms are in the adapter's dtype.
    """
    from peft.tuners.lora import LoraLayer

    for layer in model.modules():
        if isinstance(layer, LoraLayer) and not layer.lora_magnitude_vector:
            layer.cast_input_dtype_enabled = False


def add_adapter(model: Any, *, adapter: LoraAdapter, seed: int) -> Any:
    """Wrap a model with a fresh LoRA adapter, initialised from `seed`.

    Raises:
        ModelError: the targets match no layer, or one that cannot have an adapter.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    targets = adapter.targets
    unfit = _unfit_for_adapters(model)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        exclude_modules=unfit if unfit and targets == "all-linear" else None,
        use_rslora=adapter.rslora,
        use_dora=adapter.dora,
    )
    names = _linear_names(model)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            adapted = get_peft_model(model, config)
    except ValueError as error:
        raise ModelError(
            f"adapter.targets={targets if isinstance(targets, str) else ', '.join(targets)}: "
            f"{_first_line(error).rstrip('.')}; set all-linear, or some of {names}"
        ) from error
    wrong = [name for name in unfit if hasattr(model.get_submodule(name), "lora_A")]
    if wrong:
        raise ModelError(
            f"adapter.targets includes {wrong[0].rpartition('.')[2]}: {wrong[0]} is not a plain "
            "linear layer, or a kernel bypasses the adapter; leave it out"
        )
    _start_at_the_base(adapted)
    return adapted


def _unfit_for_adapters(model: Any) -> list[str]:
    """Return the linear layers that an adapter would break, or that would bypass it.

    These are routers and grouped layers, whose output is not a single product, and all of Mamba's
    layers but the first: the fused training kernel reads their weights directly.
    """
    import torch

    found = set()
    for name, module in model.named_modules():
        if hasattr(module, "A_log") and hasattr(module, "D"):
            found |= {f"{name}.{key}" for key, _ in module.named_children() if key != "in_proj"}
        if any(word in type(module).__name__ for word in ("Router", "Grouped")):
            found.add(name)
    return sorted(n for n in found if isinstance(model.get_submodule(n), torch.nn.Linear))


def _linear_names(model: Any) -> str:
    """Return the names of the linear layers in a model, without the head."""
    import torch

    linear = (name for name, part in model.named_modules() if isinstance(part, torch.nn.Linear))
    return ", ".join(sorted({name.rpartition(".")[2] for name in linear} - {"lm_head"}))


def _start_at_the_base(model: Any) -> None:
    """Set DoRA's magnitudes to the row norms that its forward pass computes.

    peft computes the first norms in the base's dtype, and those of every pass in the adapter's:
    below float32 they differ, and the adapted model would not start equal to its reference.
    """
    import torch
    from peft.tuners.lora import LoraLayer
    from peft.utils.integrations import dequantize_module_weight

    with torch.no_grad():
        for layer in model.modules():
            if not isinstance(layer, LoraLayer):
                continue
            for magnitude in layer.lora_magnitude_vector.values():
                base = layer.get_base_layer()
                weight = dequantize_module_weight(base)
                # An embedding is looked up by row, so its norm is over the other dimension.
                over = 0 if isinstance(base, torch.nn.Embedding) else 1
                norm = torch.linalg.norm(weight.to(magnitude.weight.dtype), dim=over)
                magnitude.weight.copy_(norm)


def name_base(model: Any, *, settings: ModelSettings) -> None:
    """Write the model and its revision into the adapter's configuration.

    The revision is the loaded commit if the hub's cache knows it.
    """
    location = model_location(settings.path)
    if Path(location).is_dir():
        name, revision = str(Path(location).resolve()), None
    else:
        name, revision = location, _commit_of(location, revision=settings.revision)
    for config in model.peft_config.values():
        config.base_model_name_or_path = name
        config.revision = revision


def _commit_of(repository: str, *, revision: str | None) -> str | None:
    """Return the commit of a hub model's revision if in the cache, else the revision."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, "config.json", revision=revision)
    return Path(found).parent.name if isinstance(found, str) else revision


def check_has_adapter(folder: Path) -> None:
    """Raise NoModelError for a folder without an adapter."""
    if not (folder / "adapter_config.json").exists():
        raise NoModelError(f"{folder}: no adapter_config.json; give a folder saved by peft")


def load_adapter(model: Any, *, folder: Path, trainable: bool) -> Any:
    """Wrap a model with the saved adapter in `folder`.

    Raises:
        ModelError: the folder has no adapter, or one of another model.
        CheckpointError: it is a damaged checkpoint.
    """
    from peft import PeftModel

    check_has_adapter(folder)
    check_loaded(folder)
    try:
        return PeftModel.from_pretrained(model, str(folder), is_trainable=trainable)
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        raise ModelError(f"{folder}: cannot load the adapter: {_first_line(error)}") from error


def _quiet() -> None:
    """Silence warnings and progress bars of the libraries; dgpo reports errors itself."""
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    hub_logging.set_verbosity_error()
    # For example of an adapter on a tied embedding, which is handled here.
    warnings.filterwarnings("ignore", module=r"peft\.")
    # At import, on some processors, it asks for an optional package.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


class _explained:
    """Turns errors of transformers into one line that names the model and the fix."""

    def __init__(self, location: str, *, settings: ModelSettings) -> None:
        self._location = location
        self._settings = settings

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, Exception) or isinstance(error, ModelError):
            return
        where = f"model.path={self._settings.path}"
        local = Path(self._location)
        looks_local = self._location.startswith((".", "/", "~")) or local.exists()
        if looks_local and not local.is_dir():
            fault = "is a file; give the folder of a model" if local.exists() else "no such folder"
            raise NoModelError(f"{where}: {fault}") from error
        if looks_local and not (local / "config.json").exists():
            raise NoModelError(f"{where}: no config.json in that folder") from error
        if "trust_remote_code" in str(error):
            raise ModelError(
                f"{where}: needs its own Python code, which is not run; if you trust its author, "
                "set model.trust_remote_code=true"
            ) from error
        if "model.safetensors" in str(error) and any(local.glob("*.bin")):
            raise ModelError(
                f"{where}: has only pickled weights (.bin), which can run code and are not loaded; "
                "convert them to safetensors"
            ) from error
        hint = "" if looks_local else " (is the hub reachable, and the id right?)"
        raise ModelError(f"{where}: cannot load: {_first_line(error)}{hint}") from error


def _first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, up to 300 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return cut(text, 300)
