"""Trains and evaluates as dgpo does, as far as files, signals and exit codes go; in no time.

Behaves as the file in $FAKE says: by a part of the run's path, "slow" (seconds a step), "fail"
(its last line), "hang" (ignore signals). The reward is 1000 times the learning rate.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import time
from pathlib import Path


def main(words: list[str]) -> int:
    options = dict(zip(words[1::2], words[2::2], strict=True))
    sets = dict(w.split("=", 1) for at, w in enumerate(words) if words[at - 1] == "--set")
    out = Path(options["--out"])
    told = json.loads(Path(os.environ["FAKE"]).read_text())
    how = {k: v for part, each in told.items() if part in str(out) for k, v in each.items()}
    out.mkdir(parents=True, exist_ok=True)
    with (out / "begun").open("a") as begun:
        names = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
        words = [*words, *(f"{name}={os.environ.get(name)}" for name in names)]
        begun.write(json.dumps([time.time(), words]) + "\n")
    if how.get("fail"):
        sys.stderr.write(f"error: {how['fail']}\n")
        return 1
    if words[0] == "eval":
        (out / "report.json").write_text(json.dumps({"k": int(options["--k"])}))
        return 0
    return train(out, Path(options["--config"]), sets, how)


def train(out: Path, config: Path, sets: dict[str, str], how: dict[str, float]) -> int:
    caught: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: caught.append(number))
    settings = config.read_text()
    steps = int(sets.get("train.steps") or re.findall(r"^steps = (\d+)", settings, re.M)[-1])
    rate = float(sets.get("optim.lr", "nan"))
    shutil.copy(config, out / "settings.toml")
    done = sorted(int(p.name[5:]) for p in out.glob("checkpoints/step-*"))
    for step in range((done or [0])[-1] + 1, steps + 1):
        time.sleep(how.get("slow", 0.0))
        if caught and not how.get("hang"):
            if len(caught) == 1:
                (out / "stopped").touch()
            return 128 + caught[0]
        with (out / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, "reward/mean": 1000 * rate}) + "\n")
        (out / "checkpoints" / f"step-{step:06d}").mkdir(parents=True)
    (out / "ended").write_text(str(time.time()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
