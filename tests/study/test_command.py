"""dgpo study on the command line: what it says, writes and returns."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dgpo_cli.config.load import resolve
from dgpo_cli.runs.run_folder import RunFolder
from dgpo_cli.study import machine
from dgpo_cli.study.agenda import Agenda
from dgpo_cli.study.file import read_file
from dgpo_cli.study.folder import StudyFolder
from dgpo_cli.study.machine import share
from dgpo_cli.study.prepare import prepare
from dgpo_cli.study.runner import Runner
from tests.cli.helpers import in_process, run_python
from tests.study.samples import study_file, write_study

FAKE = Path(__file__).with_name("fake_dgpo.py")


@pytest.fixture
def rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a study, which a fake trains, in the present folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "told.json").write_text("{}")
    monkeypatch.setenv("FAKE", str(tmp_path / "told.json"))
    program = (sys.executable, str(FAKE))
    defaults = Runner.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "program", program)
    return study_file(
        tmp_path / "rules.toml", variants=("uniform", "entropy"), seeds=(0, 1), steps=2
    )


def test_without_a_file_the_error_shows_an_example() -> None:
    ended = in_process("study")
    assert ended.exit_code == 2
    assert "as in dgpo study rules.toml" in ended.output


def test_a_finished_study_names_the_next_command(rules: Path) -> None:
    ended = in_process("study", str(rules), "--jobs", "2")
    assert ended.exit_code == 0, ended.output
    assert "study  studies/rules: 4 of 4 tasks done" in ended.output
    assert "next: dgpo report studies/rules" in ended.output
    again = in_process("study", str(rules))
    assert again.exit_code == 0 and "4 of 4 tasks done" in again.output


def test_a_failed_run_is_named_and_the_exit_code_is_1(rules: Path, tmp_path: Path) -> None:
    (tmp_path / "told.json").write_text(json.dumps({"entropy/seed-1": {"fail": "no such file"}}))
    ended = in_process("study", str(rules))
    assert ended.exit_code == 1
    assert "1 task failed: runs/entropy/seed-1; run the same command" in ended.output


def test_a_dry_run_counts_and_writes_nothing(rules: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    ended = in_process("study", str(rules), "--dry-run", "--jobs", "2")
    assert ended.exit_code == 0
    assert "4 runs, 0 finished" in ended.output and "2 side by side" in ended.output
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_takes_the_time_of_the_runs_that_are_there(rules: Path) -> None:
    folder = write_study(
        Path("studies/rules"), reward=lambda *_: 0.5, seeds=(0,), steps=2, variants=("uniform",)
    )
    log = folder.log(folder.run("uniform", 0))
    log.parent.mkdir(parents=True)
    log.write_text("dgpo study: ended with exit code 0 after 100.0 s\n")
    ended = in_process("study", str(rules), "--dry-run", "--jobs", "1")
    # Three runs of two steps are left, at 50 s a step.
    assert "4 runs, 1 finished: training takes about 5 min" in ended.output


def test_what_has_no_time_left_is_told_with_the_hours_to_set(rules: Path) -> None:
    folder = write_study(Path("studies/rules"), reward=lambda *_: 0.5, seeds=(0,), steps=2)
    for name in ("uniform", "entropy"):
        log = folder.log(folder.run(name, 0))
        log.parent.mkdir(parents=True)
        at = "1970-01-01T01:00:00+00:00"
        log.write_text(f"dgpo study: ended with exit code 0 after 3600.0 s at {at}\n")
    rules.write_text("hours = 1.5\n" + rules.read_text())
    ended = in_process("study", str(rules), "--dry-run")
    assert ended.exit_code == 0 and "hours=1.5: 1 h 0 min used" in ended.output
    ended = in_process("study", str(rules), "--jobs", "2")
    assert ended.exit_code == 0, ended.output
    # Two runs of an hour, side by side; one more hour if they are not begun together.
    said = "note: hours=1.5: no time for 2 tasks; set hours = 3.1 in rules.toml and run the same"
    assert said in " ".join(ended.output.replace(str(rules), rules.name).split())
    assert "next: dgpo report studies/rules" in ended.output


def test_a_dry_run_refuses_what_the_run_would(rules: Path) -> None:
    assert in_process("study", str(rules)).exit_code == 0
    head = "[variants.uniform]\n"
    rules.write_text(rules.read_text().replace(head, f'{head}"optim.lr" = 0.5\n'))
    for more in ([], ["--dry-run"]):
        ended = in_process("study", str(rules), *more)
        assert ended.exit_code == 2 and "uniform: optim.lr" in ended.output, more


def test_wrong_parts_and_options_are_refused(rules: Path) -> None:
    for words, said in (
        (["--only", "entropi"], "did you mean entropy?"),
        (["--jobs", "0"], "--jobs=0: must be at least 1"),
        (["--dry-run", "--slurm"], "give only one of them"),
        (["--dry-run", "--only", "entropy"], "the whole study is counted"),
        (["--only", "tune/entropy"], "has no [tune]"),
    ):
        ended = in_process("study", str(rules), *words)
        assert ended.exit_code == 2 and said in ended.output, words


def test_a_usage_error_imports_no_torch(tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text('preset = "tiny"\nseeds = 1\n[set]\n"optim.lrr" = 1\n')
    ended = run_python(
        "import sys\nfrom dgpo_cli.__main__ import main\ntry:\n    main()\nfinally:\n"
        "    sys.stderr.write(str({'torch', 'transformers'} & set(sys.modules)))\n",
        *("study", str(path)),
    )
    assert ended.code == 2 and "did you mean optim.lr?" in ended.err
    assert ended.err.endswith("set()")


def test_the_slurm_script_runs_every_part_once_and_requeues(rules: Path, tmp_path: Path) -> None:
    with rules.open("a") as file:
        file.write('[tune]\nseeds = [9]\n"optim.lr" = [1e-4, 2e-4]\n')
    ended = in_process("study", str(rules), "--slurm", "--out", "a study")
    assert ended.exit_code == 0, ended.output
    assert "sbatch --dependency=afterok:$(sbatch --parsable" in ended.output
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, body in (("srun", '"$@"'), ("dgpo", f'echo "$@" >> {tmp_path}/said; exit $CODE')):
        (tools / name).write_text(f"#!/bin/sh\n{body}\n")
    (tools / "scontrol").write_text(f'#!/bin/sh\necho "scontrol $@" >> {tmp_path}/said\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)

    def task(script: str, number: int, code: int = 0) -> str:
        env = {"PATH": f"{tools}:{os.environ['PATH']}", "SLURM_ARRAY_TASK_ID": str(number)}
        env |= {"SLURM_ARRAY_JOB_ID": "77", "CODE": str(code)}
        (tmp_path / "said").write_text("")
        done = subprocess.run(
            ["bash", str(tmp_path / "a study" / script)], env=env, check=False, cwd="/"
        )
        assert done.returncode == code
        return (tmp_path / "said").read_text()

    script = (tmp_path / "a study/study.sbatch").read_text()
    assert "#SBATCH --array=0-3\n" in script
    assert "#SBATCH --array=0-1\n" in (tmp_path / "a study/tune.sbatch").read_text()
    common = f"study {rules} --out a study --jobs 1 --only"
    parts = [task("study.sbatch", at) for at in range(4)]
    assert [part.split()[-1] for part in parts] == [
        *("runs/uniform/seed-0", "runs/entropy/seed-0"),
        *("runs/uniform/seed-1", "runs/entropy/seed-1"),
    ]
    assert parts[0].startswith(common)
    assert "scontrol requeue 77_2" in task("study.sbatch", 2, code=143)


PAIRED = """
preset = "tiny"
seeds = 2
[set]
train = {steps = 3, rollouts_every = 1}
eval.every = 0
reward.workers = 1
rollout = {prompts_per_step = 4, group_size = 4, max_completion_tokens = 48}
[variants.uniform]
credit.rule = "uniform"
[variants.far]
credit = {rule = "dgpo", tau = 0.02}
optim.lr = 5e-3
[variants.value]
credit = {rule = "value", continuations = 1}
"""


def test_variants_with_a_seed_have_the_same_prompts_and_sampling_seeds(tmp_path: Path) -> None:
    file = tmp_path / "rules.toml"
    file.write_text(PAIRED)
    study, folder = read_file(file), StudyFolder(tmp_path / "study")
    prepare(study, folder)
    asked: dict[str, Any] = {}
    answered: dict[str, Any] = {}
    for task in Agenda(study, folder).ready()[:4]:
        ended = in_process(*task.command)
        assert ended.exit_code == 0 and task.run is not None, ended.output
        files = [path.read_text().splitlines() for path in RunFolder(task.run).rollouts()]
        steps = [[json.loads(line) for line in lines] for lines in files]
        asked[task.name] = [[(row["prompt_id"], row["seed"]) for row in step] for step in steps]
        answered[task.name] = [[row["token_ids"] for row in step] for step in steps]
    seeds = asked["uniform/seed-0"]
    assert [len(step) for step in seeds] == [16, 16, 16]
    for name in ("far/seed-0", "value/seed-0"):
        assert asked[name] == seeds
        assert answered[name][0] == answered["uniform/seed-0"][0]  # nothing has been learnt yet
    assert answered["far/seed-0"][2] != answered["uniform/seed-0"][2]
    assert asked["uniform/seed-1"] != seeds


@pytest.mark.parametrize("name", ["a study", "plain", 'a "100%" # 1', "it's"])
def test_a_path_is_one_word_of_an_sbatch_line(rules: Path, name: str) -> None:
    ended = in_process("study", str(rules), "--slurm", "--out", name)
    assert ended.exit_code == 0, ended.output
    lines = (Path(name) / "study.sbatch").read_text().splitlines()
    words = [shlex.split(line[8:]) for line in lines if line.startswith("#SBATCH ")]
    assert all(len(each) == 1 for each in words)
    options = dict(word.split("=", 1) for (word,) in words if "=" in word)
    assert options["--job-name"] == name
    logs = str((Path(name) / "logs").resolve())
    assert options["--output"] == logs.replace("%", "%%") + "/slurm-%A-%a.log"


def test_a_path_with_a_line_break_becomes_no_script(rules: Path) -> None:
    ended = in_process("study", str(rules), "--slurm", "--out", "a\nstudy")
    assert ended.exit_code == 2 and "rename the folder" in ended.output
    assert not list(Path("a\nstudy").glob("*.sbatch"))


def test_gpus_are_dealt_out_and_none_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda pid: range(32), raising=False)
    resolved = resolve(preset="tiny")

    def gpus(visible: str, *, jobs: int | None = None, most: int = 99, **sets: object) -> list[str]:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        overrides = [f"{key.replace('__', '.')}={value}" for key, value in sets.items()]
        found = share(resolve(preset="tiny", overrides=overrides), jobs=jobs, most=most)
        return [slot["CUDA_VISIBLE_DEVICES"] for slot in found.slots]

    assert gpus("0,1,2,3") == ["0", "1", "2", "3"]
    assert gpus("4,5,GPU-ab") == ["4", "5", "GPU-ab"]
    assert gpus("0,1,2,3", most=2) == ["0", "1"]
    assert gpus("0,1,2,3,4", parallel__gpus=2) == ["0,1", "2,3"]
    assert gpus("0,1", jobs=4) == ["0", "1", "0", "1"]
    assert gpus("0,1,2,3", rollout__backend__kind="vllm") == ["0,1,2,3"]
    assert gpus("0,1,2,3", rollout__backend__kind="vllm", jobs=2) == ["0,1", "2,3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert {slot["OMP_NUM_THREADS"] for slot in share(resolved, jobs=None, most=9).slots} == {"16"}


def test_without_gpus_cores_and_memory_bound_the_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda pid: range(6), raising=False)
    found = share(resolve(preset="tiny"), jobs=None, most=99)
    assert len(found.slots) == 6 and found.slots[0]["OMP_NUM_THREADS"] == "1"
    assert [
        slot["OMP_NUM_THREADS"] for slot in share(resolve(preset="tiny"), jobs=3, most=9).slots
    ] == (["2", "2", "2"])
    small = machine.cpu(measure=False)
    object.__setattr__(small, "free", 2 << 30)
    monkeypatch.setattr(machine, "cpu", lambda measure: small)
    assert len(share(resolve(preset="tiny"), jobs=None, most=99).slots) < 6
