"""Turns a checkpoint of a run into a plain model folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from dgpo_cli.config.load import Resolved
from dgpo_cli.core.errors import ConfigError
from dgpo_cli.core.events import Observer, tell
from dgpo_cli.core.io import atomic_folder
from dgpo_cli.policy.settings import ModelSettings
from dgpo_cli.publish.merged_weights import Difference, Precision, check_space, check_written, merge
from dgpo_cli.runs.run_folder import checkpoint_to_load


@dataclass(frozen=True, slots=True)
class MergeResult:
    """What was written, from which checkpoint, and how far it is from the policy."""

    out: Path
    checkpoint: Path
    size: int  # bytes
    difference: Difference


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
        CheckpointError: there is no such checkpoint, it is damaged, or no room on the disk.
        ModelError: something does not load, or what was written differs from the policy by more
            than rounding.
    """
    from dgpo_cli.policy.load import load_tokenizer

    if out.exists():
        raise ConfigError(f"--out {out}: exists already; give a new folder")
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
            f"the policy computes with weights in 4 bits, unpacked here and rounded to {dtype}: "
            f"log-probabilities differ by at most {difference.largest:.2g} and by "
            f"{difference.mean:.2g} on average, over {difference.tokens} fixed tokens",
        )
    size = sum(path.stat().st_size for path in out.iterdir())
    return MergeResult(out=out, checkpoint=checkpoint, size=size, difference=difference)


def _of_checkpoint(settings: ModelSettings, *, checkpoint: Path, adapter: bool) -> ModelSettings:
    """Return the settings of what is loaded: the base at the commit that the adapter was trained
    on, or the checkpoint itself."""
    if not adapter:
        return settings.model_copy(update={"path": str(checkpoint), "revision": None})
    stored = json.loads((checkpoint / "adapter_config.json").read_text(encoding="utf-8"))
    return settings.model_copy(update={"revision": stored.get("revision") or settings.revision})
