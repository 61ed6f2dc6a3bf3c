"""`dgpo train --gpus` as a user runs it: two gloo ranks on the CPU, ended in every way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psutil
import pytest

from dgpo_cli.config.dump import dump_toml
from dgpo_cli.config.load import resolve
from dgpo_cli.core import io
from dgpo_cli.parallel.launch import Launcher
from tests.cli.helpers import dgpo, environment, in_process
from tests.processes import left_behind

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

MANY = 100_000
SMALL = (
    *("rollout.prompts_per_step=2", "rollout.group_size=4", "rollout.max_completion_tokens=16"),
    *("reward.workers=1", "eval.every=0", "train.checkpoint_every=2", "train.threads=1"),
    *("parallel.kind=replicate", "train.stop_signal=SIGUSR1"),
)
# Rank 1 fails in its second update; everything else is as ever.
FAILS = """
import os, sys
if os.environ.get("RANK") == "1":
    class Finder:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name == "dgpo_cli.engine.follow":
                from dgpo_cli.engine.engine import Engine
                calls, times = Engine.calls, []
                def failing(engine):
                    def update(*arguments, **others):
                        times.append(1)
                        if len(times) == 2:
                            raise MemoryError("CUDA out of memory")
                        return found["update"](*arguments, **others)
                    found = calls(engine)
                    return {**found, "update": update}
                Engine.calls = failing
    sys.meta_path.insert(0, Finder)
"""


class Run:
    """A command in a process group of its own, and all that is below it."""

    def __init__(
        self,
        out: Path,
        *flags: str,
        steps: int = MANY,
        by: tuple[str, ...] = (sys.executable, "-m", "dgpo_cli"),
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.out, self.mark = out, f"DGPO_TEST_MARK={out}"
        self.log = out.parent / f"{out.name}.{len(list(out.parent.glob('*.txt')))}.txt"
        recipe = (*SMALL, f"train.steps={steps}")
        settings = [part for one in recipe for part in ("--set", one)]
        with self.log.open("w") as file:
            self.process = subprocess.Popen(
                [*by, "train", "--preset", "tiny", "--out", str(out), *flags, *settings],
                env=environment(**{"DGPO_TEST_MARK": str(out), **(env or {})}),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def told(self) -> str:
        return self.log.read_text()

    def steps(self) -> list[int]:
        file = self.out / "metrics.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        return [json.loads(line)["step"] for line in lines]

    def wait_for_step(self, number: int) -> None:
        deadline = time.monotonic() + 200
        while number not in self.steps():
            assert self.process.poll() is None, self.told()
            assert time.monotonic() < deadline, self.told()
            time.sleep(0.1)

    def ranks(self) -> list[int]:
        """The processes of rank 0, rank 1 ..."""
        found = {}
        for child in psutil.Process(self.process.pid).children():
            found[int(child.environ()["RANK"])] = child.pid
        return [found[number] for number in sorted(found)]

    def code(self) -> int:
        code = self.process.wait(120)
        assert left_behind(self.mark, within_s=20) == []
        return code


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    started: list[Run] = []

    def start(*flags: str, out: Path | None = None, **others: object) -> Run:
        started.append(Run(out or tmp_path / "run", *flags, **others))  # type: ignore[arg-type]
        return started[-1]

    yield start
    for each in started:
        for pid in left_behind(each.mark, within_s=0):
            os.kill(pid, signal.SIGKILL)
        each.process.wait()


def test_two_ranks_train_stop_and_go_on_under_torchrun(run: Callable[..., Run]) -> None:
    first = run("--gpus", "2")
    first.wait_for_step(2)
    os.kill(first.ranks()[1], signal.SIGUSR1)  # a warning that only a follower gets
    assert first.code() == 128 + signal.SIGUSR1
    told, steps = first.told(), first.steps()
    assert told.count("stopping with a checkpoint after this step") == 1
    assert f"checkpoint {first.out}/checkpoints/step-{steps[-1]:06d}; run the same" in told
    assert "error" not in told and "Traceback" not in told
    assert (first.out / "ranks" / "rank-00001.log").read_text() == ""
    assert f"note: starting 2 ranks; logs in {first.out}/ranks" in told
    assert "gpus = 2 # from --gpus" in (first.out / "settings.toml").read_text()

    torchrun = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2")
    last = steps[-1] + 2
    second = run(steps=last, by=(*torchrun, "--standalone", "-m", "dgpo_cli"))
    assert second.code() == 0, second.told()
    assert second.steps() == [*range(1, last + 1)]
    assert second.told().count(f"trained to step {last}") == 1
    assert f"resumed from {second.out}/checkpoints/step-{steps[-1]:06d}" in second.told()

    again = run("--gpus", "2", steps=last)  # nothing is left to do: no rank starts
    assert again.code() == 0 and "steps are done already" in again.told()
    assert "starting" not in again.told()


def test_the_error_of_a_rank_is_the_one_that_is_shown(
    run: Callable[..., Run], tmp_path: Path
) -> None:
    (tmp_path / "plant").mkdir()
    (tmp_path / "plant" / "sitecustomize.py").write_text(FAILS)
    path = os.pathsep.join([str(tmp_path / "plant"), os.environ.get("PYTHONPATH", "")])
    failed = run("--gpus", "2", env={"PYTHONPATH": path})
    assert failed.code() == 1
    errors = [line for line in failed.told().splitlines() if line.startswith("error")]
    log = failed.out / "ranks" / "rank-00001.log"
    host = os.uname().nodename
    assert errors == [
        f"error: rank 1 (node {host}): MemoryError: CUDA out of memory; its log: {log}"
    ]
    assert "MemoryError: CUDA out of memory" in log.read_text()
    assert failed.steps() == [1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("who", "code", "error"),
    [
        (1, 1, "error: rank 1 (node {host}): was killed by SIGKILL, as the system does"),
        (0, 137, "error: rank 0 (node {host}): was killed by SIGKILL, as the system does"),
        (None, -9, ""),
    ],
)
def test_a_killed_process_ends_all(
    run: Callable[..., Run], who: int | None, code: int, error: str
) -> None:
    killed = run("--gpus", "2")
    killed.wait_for_step(2)
    began = time.monotonic()
    os.kill(killed.process.pid if who is None else killed.ranks()[who], signal.SIGKILL)
    assert killed.code() == code
    assert time.monotonic() - began < 60
    errors = [line for line in killed.told().splitlines() if line.startswith("error")]
    assert [line.startswith(error.format(host=os.uname().nodename)) for line in errors] == (
        [True] if error else []
    )


@pytest.mark.slow
@pytest.mark.parametrize(("who", "code"), [(0, 137), (1, 1)])
def test_a_stopped_rank_is_missed_and_named(run: Callable[..., Run], who: int, code: int) -> None:
    silent = run("--gpus", "2")
    silent.wait_for_step(2)
    began = time.monotonic()
    os.kill(silent.ranks()[who], signal.SIGSTOP)
    assert silent.code() == code
    sys.stdout.write(f"rank {who} was missed after {time.monotonic() - began:.1f} s\n")
    assert time.monotonic() - began < 45  # 30 are promised, on a machine that is not busy
    (error,) = (line for line in silent.told().splitlines() if line.startswith("error"))
    host = os.uname().nodename
    assert error.startswith(f"error: rank {who} (node {host}): no sign of life for 20 s")


@pytest.mark.slow
def test_a_second_ctrl_c_stops_all_at_once(run: Callable[..., Run]) -> None:
    stopped = run("--gpus", "2")
    stopped.wait_for_step(2)
    os.killpg(stopped.process.pid, signal.SIGINT)
    while "stopping with a checkpoint" not in stopped.told():
        time.sleep(0.002)
    os.killpg(stopped.process.pid, signal.SIGINT)
    # A short step may be over by then: the second press meets a process that is ending already.
    assert stopped.code() in (130, -signal.SIGINT)


@pytest.mark.slow
@pytest.mark.parametrize(
    "names",
    [
        ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"),
        (
            *("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
            *("OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
        ),
    ],
    ids=["srun", "mpirun"],
)
def test_ranks_that_another_starter_has_started_train_together(
    run: Callable[..., Run], names: tuple[str, ...]
) -> None:
    size, rank, local, here = names
    both = [
        run(steps=2, env={size: "2", rank: n, local: n, here: "2", "MASTER_PORT": "28461"})
        for n in ("0", "1")
    ]
    assert [each.code() for each in both] == [0, 0], both[0].told()
    assert both[0].steps() == [1, 2] and "trained to step 2" in both[0].told()
    assert both[1].told() == ""


def test_what_cannot_start_is_one_line_before_anything_starts(tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    no_gpu = {"CUDA_VISIBLE_DEVICES": ""}
    eight = ("--preset", "tiny", "--set", "parallel.gpus=8")
    full = dgpo("train", *eight, "--out", out, env=no_gpu)
    assert full.code == 2
    assert full.err.splitlines()[-1] == (
        "error: parallel.gpus=8: this machine has no GPU; give --gpus 8 to run 8 ranks on the CPU"
    )
    wrong = dgpo("train", "--preset", "tiny", "--gpus", "2", "--out", out, "--set", "credit.tau=0")
    assert wrong.code == 2 and wrong.err.count("error:") == 1
    taken = {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "4"}
    taken |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    twice = dgpo("train", "--preset", "tiny", "--gpus", "2", "--out", out, env=taken)
    assert (twice.code, twice.err) == (
        2,
        "error: --gpus 2: torchrun has started 4 ranks; leave --gpus out\n",
    )
    assert not (tmp_path / "run").exists()


def _a_file(out: Path) -> None:
    out.write_text("")


def _another_run(out: Path) -> None:
    out.mkdir()
    (out / "settings.toml").write_text(dump_toml(resolve(preset="tiny", overrides=["seed=7"])))
    (out / "metrics.jsonl").write_text('{"step": 1}\n')


def _read_only(out: Path) -> None:
    out.mkdir()


@pytest.mark.parametrize(
    ("given", "flags", "error"),
    [
        (_a_file, [], "{out}: is a file; name a folder that you can write to"),
        (_read_only, [], "{out}: permission denied; name a folder that you can write to"),
        (_another_run, [], "seed: 7 in {out}, now 0\nerror: {out} has no checkpoint yet"),
        (lambda out: None, ["--resume", "must"], "--resume must: no checkpoint in {out}; leave"),
    ],
)
def test_a_run_folder_that_cannot_be_used_is_refused_before_any_rank_starts(
    given: Callable[[Path], None],
    flags: list[str],
    error: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[Launcher] = []
    monkeypatch.setattr(Launcher, "run", started.append)
    if given is _read_only:  # root may write anywhere
        denied = PermissionError(13, "Permission denied")
        monkeypatch.setattr(io, "TemporaryFile", lambda **_: (_ for _ in ()).throw(denied))
    out = tmp_path / "run"
    given(out)
    ended = in_process("train", "--preset", "tiny", "--gpus", "2", "--out", str(out), *flags)
    assert (ended.exit_code, started) == (2, []), ended.stderr
    assert ended.stderr.startswith("error: " + error.format(out=out)), ended.stderr
    lines = [line for line in ended.stderr.splitlines() if line.startswith("error:")]
    assert len(set(lines)) == len(lines)
