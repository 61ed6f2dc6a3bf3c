"""How far it is from the command line to the optimiser."""

from __future__ import annotations

import json
from pathlib import Path

import dgpo_cli
from tests.cli.helpers import run_python

MOST = 8  # frames of ours, the module of the program among them
SHOW = """
import json, runpy, sys
from pathlib import Path
import torch

place = sys.argv.pop()
real = torch.optim.AdamW.step

def step(self, *arguments, **others):
    frame, found = sys._getframe(1), []
    while frame is not None:
        found.append((frame.f_code.co_filename, frame.f_code.co_qualname))
        frame = frame.f_back
    Path(place).write_text(json.dumps(found[::-1]))
    return real(self, *arguments, **others)

torch.optim.AdamW.step = step
runpy.run_module("dgpo_cli", run_name="__main__", alter_sys=True)
"""


def test_the_optimiser_is_at_most_eight_frames_below_the_program(tmp_path: Path) -> None:
    small = ("rollout.prompts_per_step=2", "rollout.group_size=2", "reward.workers=1")
    settings = [part for one in (*small, "eval.every=0") for part in ("--set", one)]
    run = ("train", "--preset", "tiny", "--steps", "1", "--out", str(tmp_path / "run"))
    ended = run_python(SHOW, *run, *settings, str(tmp_path / "frames.json"))
    assert ended.code == 0, ended.err
    frames = json.loads((tmp_path / "frames.json").read_text())
    own = str(Path(dgpo_cli.__file__).parent)
    ours = [name for file, name in frames if file.startswith(own)]
    assert ours[:2] == ["<module>", "main"] and "train" in ours
    assert len(ours) <= MOST, ours
