"""A QLoRA run with 8-bit AdamW that is broken off and resumed is the run that was not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dgpo_cli.config.load import resolve
from dgpo_cli.core.events import Observers
from dgpo_cli.runs.run_folder import RunFolder
from dgpo_cli.train import train
from tests.recorder import AtStep, Killed, Notes, Recorder
from tests.train.test_train import SMALL, numbers

QLORA = (
    "adapter.kind=lora",
    "adapter.rank=32",
    "adapter.dora=true",
    "adapter.dropout=0.1",  # drawn from the generators that a checkpoint keeps
    "model.quantization=nf4",
    "model.device=cpu",
    "model.gradient_checkpointing=true",
    "optim.kind=adamw8bit",
    "optim.lr=1e-3",
    "train.checkpoint_every=2",
    "train.steps=4",
)


def run(out: Path, *, until: int = 99, events: list[str] | None = None) -> Any:
    recorder = Recorder()

    def kill(step: int) -> None:
        if step == until:
            raise Killed

    train.run(
        resolve(preset="tiny", overrides=[*SMALL, *QLORA]),
        out=out,
        resume="auto",
        observer=Observers([recorder, Notes([] if events is None else events), AtStep(kill)]),
    )
    return recorder.lines


def test_a_qlora_run_that_was_broken_off_goes_on_to_the_bit(tmp_path: Path) -> None:
    events: list[str] = []
    whole = run(tmp_path / "whole", events=events)
    assert any(" in 4 bits), " in event for event in events)
    assert sum(line["optim/updates"] for line in whole) == 4
    assert whole[0]["policy/hellinger_sq_max"] == 0.0 < whole[3]["policy/hellinger_sq_max"]
    with pytest.raises(Killed):
        run(tmp_path / "parts", until=3)
    again = run(tmp_path / "parts")
    assert [line["step"] for line in again] == [3, 4]
    assert numbers(again) == numbers(whole[2:])
    one, two = (
        RunFolder(tmp_path / name).checkpoint_dir(4) / "adapter_model.safetensors"
        for name in ("whole", "parts")
    )
    left, right = load_file(one), load_file(two)
    assert left.keys() == right.keys() and any("magnitude" in name for name in left)
    assert all(torch.equal(left[name], right[name]) for name in left)
    saved = torch.load(one.parent / "trainer.pt", weights_only=True)["optimizer"]["state"]
    kinds = {s["__bnb_optimizer_quant_state__"]["state1"].dtype for s in saved.values()}
    assert torch.uint8 in kinds
