"""An evaluation of an endpoint that was killed and resumed has the samples of one that was not."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.api_server import Api, Body, Fault, draw_of, is_probe, serve

K = 24
KILLS = 20
BUSY = {"error": {"message": "busy", "code": "rate_limit_exceeded"}}


def fault(body: Body, count: int) -> Fault | None:
    """One request in four fails, some of them twice, in every way there is."""
    draw = draw_of(body)
    if is_probe(body) or draw % 4 or count > draw % 2:
        return None
    kinds: list[Fault] = [
        *("drop", "half", "json", "choices"),
        *((429, BUSY, {"Retry-After": "0"}), (500, BUSY, {}), (503, BUSY, {})),
    ]
    return kinds[draw // 4 % len(kinds)]


def start(api: Api, out: Path) -> subprocess.Popen[str]:
    args = ["eval", "--bench", "sums", "--k", str(K), "--endpoint", api.address, "--model", "tiny"]
    args += ["--out", str(out), "--set", "reward.workers=1"]
    args += ["--set", "rollout.backend.max_in_flight=16", "--price", "1,2"]
    return subprocess.Popen(
        [sys.executable, "-m", "dgpo_cli", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def samples(out: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """Return the stored samples, without what is judged at the end and what seals a line."""
    found = {}
    for line in (out / "samples.jsonl").read_text().splitlines():
        value = json.loads(line)
        key = value["prompt_id"], value["index"]
        assert key not in found
        found[key] = {k: v for k, v in value.items() if k not in ("second", "digest")}
    return found


def count(out: Path) -> int:
    path = out / "samples.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_at_random_moments_and_resumed_has_the_samples_of_a_straight_one(
    tmp_path: Path,
) -> None:
    delays = Api(delay_s=lambda body: 0.01 + draw_of(body) % 20 / 400, fault=fault)
    rng = random.Random(int.from_bytes(os.urandom(4), "little"))
    with serve(delays) as api:
        straight = start(api, tmp_path / "whole")
        said = straight.communicate(timeout=300)[0]
        assert straight.returncode == 0, said
        whole = samples(tmp_path / "whole")
        assert len(whole) == 30 * K
        out = tmp_path / "killed"
        for number in range(KILLS):
            api.counts.clear()
            process = start(api, out)
            interrupts, before = number % 4 == 3, count(out)
            target = before + rng.randrange(30 * K // KILLS)
            deadline = time.monotonic() + 60
            while count(out) < min(target, 30 * K - 1) and process.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.005)
            time.sleep(rng.random() * 0.1)
            there = count(out)
            if interrupts:  # it keeps what comes of the requests in flight
                process.send_signal(signal.SIGINT)
                said = process.communicate(timeout=60)[0]
                # Before its first sample, Python itself may be interrupted in its start.
                assert process.returncode in (0, 130) or count(out) == before, said
            else:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
            assert count(out) >= there  # what was once on the disk stays there
        api.counts.clear()
        last = start(api, out)
        said = last.communicate(timeout=300)[0]
        assert last.returncode == 0, said
    assert samples(out) == whole
    reports = [
        json.loads((folder / "report.json").read_text()) for folder in (out, tmp_path / "whole")
    ]
    for name in ("avg_at_k", "cost", "prompt_tokens", "problems"):
        assert reports[0][name] == reports[1][name]
