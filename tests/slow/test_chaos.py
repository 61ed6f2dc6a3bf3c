"""Fifty random kills of the ranks of runs, and a long run whose processes must not grow."""

from __future__ import annotations

import os
import random
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.parallel.chaos import Ended, Fault, assert_same_run, overrides, run_ranks

pytestmark = pytest.mark.slow

KINDS = (("replicate", 1), ("replicate", 2), ("shard", 2))
KILLS = int(os.environ.get("DGPO_TEST_KILLS", "50"))
IN_A_ROW = 8  # kills of one run, before it may end


@pytest.mark.timeout(7200)
def test_randomly_killed_runs_are_the_runs_that_were_not(tmp_path: Path) -> None:
    seed = int(os.environ.get("DGPO_TEST_SEED", "0"))
    rng = random.Random(seed)
    wholes: dict[tuple[str, int], Ended] = {}
    done: list[str] = []
    while len(done) < KILLS:
        kind, count = rng.choice(KINDS)
        every = 2 if kind == "shard" else 0  # evaluations of 30 problems take most of the time
        settings = overrides(kind, count=count, train__keep_checkpoints=1, eval__every=every)
        whole = tmp_path / f"{kind}-{count}"
        if (kind, count) not in wholes:
            wholes[kind, count] = ended = run_ranks(whole, settings, count=count)
            assert ended.good, ended.text
        killed = tmp_path / f"{kind}-{count}-after-{len(done)}"
        own: list[str] = []
        for _ in range(IN_A_ROW):
            fault = _any_fault(rng, wholes[kind, count])
            rest_s = rng.choice((0.0, 3.0))  # 0: all ranks are killed
            ended = run_ranks(killed, settings, count=count, faults=[fault], rest_s=rest_s)
            if ended.good:  # it passed the site less often than from its start
                break
            assert -9 in ended.codes, f"seed {seed}, {own}, {fault}: {ended.text}"
            own.append(f"{kind} on {count}: {fault.site} {fault.at} of rank {fault.rank}")
            sys.stdout.write(f"{len(done) + len(own)} {own[-1]}\n")
            sys.stdout.flush()
        ended = run_ranks(killed, settings, count=count)
        assert ended.good, f"seed {seed}, {own}: {ended.text}"
        assert_same_run(killed, whole)
        done += own


def _any_fault(rng: random.Random, whole: Ended) -> Fault:
    """Return a fault at a random pass of a random site of a random rank."""
    rank = rng.randrange(len(whole.codes))
    site = rng.choice(sorted(whole.passed[rank]))
    return Fault(site, at=rng.randint(1, whole.passed[rank][site]), rank=rank)


STEPS = int(os.environ.get("DGPO_TEST_STEPS", "300"))
SMALL = {
    "prompts__operations": "[1]",
    "prompts__max_operand": 9,
    "rollout__prompts_per_step": 1,
    "rollout__group_size": 4,
    "rollout__max_completion_tokens": 16,
    "optim__micro_batch_size": 2,
}


@pytest.mark.timeout(7200)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_processes_of_a_long_run_do_not_grow(tmp_path: Path) -> None:
    out = tmp_path / "run"
    settings = overrides(
        "replicate",
        count=2,
        train__steps=STEPS,
        train__checkpoint_every=25,
        train__rollouts_every=50,
        eval__every=STEPS // 4,
        **SMALL,
    )
    for kill in (STEPS // 20, STEPS // 10):  # all ranks, in the first tenth
        ended = run_ranks(out, settings, count=2, until=lambda _: _steps(out) >= kill, limit_s=3600)  # noqa: B023
        assert not ended.good, ended.text
    seen: dict[int, list[Usage]] = {}

    def look(ranks: list[int]) -> bool:
        step = _steps(out)
        if step % 50 == 0 and step not in seen:
            seen[step] = [Usage.of(pid) for pid in ranks]
            sys.stdout.write(f"step {step}: {seen[step]}\n")
            sys.stdout.flush()
        return False

    ended = run_ranks(out, settings, count=2, until=look, limit_s=7000)
    assert ended.good, ended.text
    assert _steps(out) == STEPS
    steps = sorted(seen)
    early, late = seen[steps[len(steps) // 3]], seen[steps[-1]]
    for before, after in zip(early, late, strict=True):
        children = after.children - before.children  # a grader's worker starts when it is needed
        assert children <= 1
        assert after.files <= before.files + 2 + 4 * children
        assert after.threads <= before.threads + 2
        assert after.memory <= before.memory * 1.1 + 20 * 2**20


def _steps(out: Path) -> int:
    lines = out / "metrics.jsonl"
    return lines.read_bytes().count(b"\n") if lines.exists() else 0


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process holds."""

    memory: int  # resident bytes
    files: int
    threads: int
    children: int

    @classmethod
    def of(cls, pid: int) -> Usage:
        place = Path(f"/proc/{pid}")
        lines = (line.partition(":") for line in (place / "status").read_text().splitlines())
        status = {name: value.strip() for name, _, value in lines}
        tasks = (place / "task").iterdir()
        return cls(
            memory=int(status["VmRSS"].split()[0]) * 1024,
            files=len(list((place / "fd").iterdir())),
            threads=int(status["Threads"]),
            children=sum(len((task / "children").read_text().split()) for task in tasks),
        )
