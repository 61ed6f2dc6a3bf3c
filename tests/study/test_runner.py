"""Studies that run: side by side, with failures, signals and kills, searches and evaluations."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from dgpo_cli.core import io
from dgpo_cli.core.errors import ConfigError
from dgpo_cli.core.events import Line, Observers
from dgpo_cli.study.agenda import Agenda
from dgpo_cli.study.file import read_file
from dgpo_cli.study.folder import StudyFolder, read_tuned, steps_kept
from dgpo_cli.study.outlook import Budget, used
from dgpo_cli.study.prepare import prepare
from dgpo_cli.study.read import read_study
from dgpo_cli.study.runner import Ended, Runner
from tests.processes import left_behind
from tests.recorder import Recorder

FAKE = Path(__file__).with_name("fake_dgpo.py")
RULES = """
preset = "tiny"
seeds = {seeds}
[set]
train.steps = 3
[variants.uniform]
credit.rule = "uniform"
[variants.entropy]
credit.rule = "entropy"
"""


class Studied:
    """A study in a folder of its own, run by the fake."""

    def __init__(self, path: Path) -> None:
        self.path, self.file = path, path / "rules.toml"
        self.folder = StudyFolder(path / "study")
        self.told = path / "told.json"
        self.heard = Recorder()
        self.write(RULES.format(seeds=2))
        self.tell({})

    def write(self, text: str) -> None:
        self.file.write_text(text)

    def tell(self, how: dict[str, Any]) -> None:
        self.told.write_text(json.dumps(how))

    def run(self, *, jobs: int = 2, only: Sequence[str] = (), **env: str) -> Ended:
        study = read_file(self.file)
        prepare(study, self.folder)
        agenda = Agenda(study, self.folder, only=only)
        slots = [{"OMP_NUM_THREADS": f"{at + 1}", **env} for at in range(jobs)]
        program = (sys.executable, str(FAKE))
        return Runner(
            agenda,
            slots=slots,
            observer=Observers([self.heard]),
            budget=Budget(study, self.folder),
            program=program,
        ).run()

    def plant(self, part: str, *, begin: float, hours: float) -> None:
        """Have the log of a task say that it began at an hour and took so long."""
        end = datetime.fromtimestamp(3600 * (begin + hours), tz=UTC).isoformat()
        line = f"dgpo study: ended with exit code 0 after {3600 * hours:.1f} s at {end}\n"
        self.folder.log(self.folder.path / part).write_text(line)

    def begun(self, pattern: str) -> list[tuple[float, list[str]]]:
        """Return when each task of a pattern began, and with which words."""
        return [
            tuple(json.loads(line))
            for path in sorted(self.folder.path.glob(f"{pattern}/begun"))
            for line in path.read_text().splitlines()
        ]

    def lines(self) -> list[str]:
        return [each.text for each in self.heard.events if isinstance(each, Line)]


@pytest.fixture
def studied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Studied:
    found = Studied(tmp_path)
    monkeypatch.setenv("FAKE", str(found.told))
    return found


@pytest.fixture
def signalled(studied: Studied) -> Iterator[Any]:
    """Signal this process once two runs have done a step."""
    threads = []

    def once(*numbers: int) -> None:
        def wait() -> None:
            deadline = time.monotonic() + 60
            while len(list(studied.folder.path.glob("runs/*/*/checkpoints"))) < 2:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            for number in numbers:
                os.kill(os.getpid(), number)
                time.sleep(0.5)

        threads.append(threading.Thread(target=wait))
        threads[-1].start()

    yield once
    for thread in threads:
        thread.join()


def test_every_variant_is_run_with_every_seed_and_recorded(studied: Studied) -> None:
    ended = studied.run()
    assert (ended.done, ended.total, ended.failed, ended.signal) == (4, 4, {}, None)
    found = read_study(studied.folder.path)
    assert [(run.variant, run.seed, run.state, len(run.steps)) for run in found.runs] == [
        ("uniform", 0, "finished", 3),
        ("uniform", 1, "finished", 3),
        ("entropy", 0, "finished", 3),
        ("entropy", 1, "finished", 3),
    ]
    words = studied.begun("runs/entropy/seed-1")[0][1]
    assert words[words.index("--seed") + 1] == "1"
    log = studied.folder.log(studied.folder.run("entropy", 1)).read_text()
    assert log.startswith("$ dgpo train --config ") and "ended with exit code 0 after" in log


def test_as_many_run_side_by_side_as_there_are_slots(studied: Studied) -> None:
    studied.write(RULES.format(seeds=3))
    studied.tell({"": {"slow": 0.15}})
    studied.run(jobs=2)
    times = [
        (begun, float((studied.folder.path / f"runs/{v}/seed-{s}/ended").read_text()), words)
        for v in ("uniform", "entropy")
        for s in range(3)
        for begun, words in studied.begun(f"runs/{v}/seed-{s}")
    ]
    most = max(sum(a <= begun < b for a, b, _ in times) for begun, _, _ in times)
    assert most == 2
    assert {words[-2] for *_, words in times} == {"OMP_NUM_THREADS=1", "OMP_NUM_THREADS=2"}


def test_the_seeds_of_a_study_grow_together(studied: Studied) -> None:
    """One by one, all variants of a seed come before the next seed: half a study is paired."""
    studied.run(jobs=1)
    order = sorted(studied.begun("runs/*/*"))
    assert [words[words.index("--seed") + 1] for _, words in order] == ["0", "0", "1", "1"]


def test_a_failed_run_does_not_end_the_others_and_is_tried_again(studied: Studied) -> None:
    studied.tell({"uniform/seed-0": {"fail": "reward.path: no such file"}})
    ended = studied.run()
    assert ended.failed == {"runs/uniform/seed-0": "reward.path: no such file"}
    assert ended.done == 3
    assert any("uniform/seed-0: failed: reward.path" in line for line in studied.lines())
    found = read_study(studied.folder.path)
    assert [run.state for run in found.runs] == ["failed", *["finished"] * 3]
    studied.tell({})
    assert studied.run().failed == {}
    assert len(studied.begun("runs/*/*")) == 5  # only the failed one began again


def test_nothing_is_started_once_the_disk_is_full(studied: Studied) -> None:
    studied.write(RULES.format(seeds=20))
    studied.tell({"": {"fail": "metrics.jsonl: no space left on the disk; make room"}})
    ended = studied.run(jobs=1)
    assert ended.full and len(ended.failed) == 1


def test_a_task_whose_log_cannot_be_written_fails_alone(studied: Studied) -> None:
    studied.folder.path.mkdir()
    studied.folder.file.touch()
    (studied.folder.logs / "runs").mkdir(parents=True)
    (studied.folder.logs / "runs/uniform").touch()  # where a folder is to be
    ended = studied.run()
    assert list(ended.failed) == ["runs/uniform/seed-0", "runs/uniform/seed-1"]
    assert ended.done == 2


def test_the_first_signal_stops_runs_with_a_checkpoint_and_the_same_command_goes_on(
    studied: Studied, signalled: Any
) -> None:
    studied.tell({"": {"slow": 0.2}})
    signalled(signal.SIGINT)
    ended = studied.run()
    assert ended.signal == signal.SIGINT and ended.failed == {} and ended.done < 4
    stopped = list(studied.folder.path.glob("runs/*/*/stopped"))
    assert stopped and all(0 < steps_kept(each.parent) < 3 for each in stopped)
    assert {run.state for run in read_study(studied.folder.path).runs} == {"stopped", "missing"}
    studied.tell({})
    assert studied.run().done == 4
    for run in studied.folder.path.glob("runs/*/*"):  # no step was done twice
        lines = (run / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]


def test_a_second_signal_ends_what_does_not_listen(
    studied: Studied, signalled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dgpo_cli.study.runner._GRACE_S", 0.3)
    studied.tell({"": {"slow": 0.2, "hang": 1}})
    studied.write(RULES.format(seeds=1).replace("steps = 3", "steps = 500"))
    begun = time.monotonic()
    signalled(signal.SIGTERM, signal.SIGTERM)
    assert studied.run().signal == signal.SIGTERM
    assert time.monotonic() - begun < 15


def test_a_killed_study_leaves_no_run_behind(studied: Studied) -> None:
    studied.tell({"": {"slow": 0.1}})
    studied.write(RULES.format(seeds=1).replace("steps = 3", "steps = 500"))
    mark = f"MARK={os.getpid()}-{time.time()}"
    code = (
        "import sys; from pathlib import Path; from tests.study.test_runner import Studied\n"
        "studied = Studied.__new__(Studied); path = Path(sys.argv[1])\n"
        "from tests.recorder import Recorder; from dgpo_cli.study.folder import StudyFolder\n"
        "studied.file, studied.folder = path / 'rules.toml', StudyFolder(path / 'study')\n"
        "studied.heard = Recorder(); studied.run()\n"
    )
    name, value = mark.split("=")
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(studied.path)], env={**os.environ, name: value}
    )
    deadline = time.monotonic() + 30
    while len(list(studied.folder.path.glob("runs/*/*/checkpoints"))) < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert left_behind(mark, within_s=10) == []
    assert len(list(studied.folder.path.glob("runs/*/*/stopped"))) == 2


def test_runs_of_another_process_are_left_to_it(studied: Studied) -> None:
    prepare(read_file(studied.file), studied.folder)
    with io.locked(studied.folder.run("uniform", 1)):
        ended = studied.run()
    assert (ended.done, ended.failed) == (3, {})
    assert list(ended.elsewhere) == ["runs/uniform/seed-1"]


def test_no_run_is_started_that_would_end_after_the_hours(studied: Studied) -> None:
    studied.write(RULES.format(seeds=1))
    assert studied.run().late is None
    studied.plant("runs/uniform/seed-0", begin=5, hours=0.25)
    studied.plant("runs/entropy/seed-0", begin=9, hours=1)
    studied.write("hours = 1.2\n" + RULES.format(seeds=3))
    ended = studied.run(jobs=1)
    assert (ended.done, ended.total, ended.failed) == (2, 6, {})
    # Now a run of uniform fits, one of entropy does not, and then uniform goes no further alone.
    studied.write("hours = 2.1\n" + RULES.format(seeds=3))
    ended = studied.run(jobs=1)
    assert ended.done == 3 and studied.begun("runs/uniform/seed-1")
    assert ended.late is not None and ended.late > 2.1
    studied.plant("runs/uniform/seed-1", begin=11, hours=0.25)
    studied.write(f"hours = {ended.late}\n" + RULES.format(seeds=3))
    ended = studied.run(jobs=1)
    assert (ended.done, ended.late) == (6, None)


def test_a_run_needs_the_time_of_its_evaluation_too(studied: Studied) -> None:
    judged = '[eval]\nbench = "sums"\nk = 4\n'
    studied.write(RULES.format(seeds=1) + judged)
    studied.run()
    for variant in ("uniform", "entropy"):
        studied.plant(f"runs/{variant}/seed-0", begin=0, hours=1)
        studied.plant(f"evals/after/{variant}/seed-0", begin=1, hours=0.5)
    studied.plant("evals/before/uniform", begin=1, hours=0.5)
    for hours, done in ((2.9, 5), (3.1, 9)):
        studied.write(f"hours = {hours}\n" + RULES.format(seeds=2) + judged)
        assert studied.run().done == done


def test_the_time_of_a_study_is_counted_once_however_many_run_side_by_side(
    studied: Studied,
) -> None:
    begun = time.monotonic()
    studied.run(jobs=2)
    assert 0 < used(studied.folder) <= time.monotonic() - begun
    studied.plant("runs/uniform/seed-0", begin=1, hours=2)
    studied.plant("runs/entropy/seed-0", begin=1.5, hours=1)
    studied.plant("runs/uniform/seed-1", begin=2, hours=2)
    studied.plant("runs/entropy/seed-1", begin=7, hours=1)
    assert used(studied.folder) == pytest.approx(4 * 3600)


TUNE = """
[tune]
seeds = [100, 101]
optim.lr = [1e-4, 4e-4, 2e-4, 3e-4]
halving = 2
"""


def test_the_search_chooses_on_its_own_seeds_and_the_comparison_uses_it(studied: Studied) -> None:
    studied.write(RULES.format(seeds=1).replace("steps = 3", "steps = 4") + TUNE)
    ended = studied.run()
    assert (ended.done, ended.failed) == (2 * (8 + 4 + 1), {})
    assert ended.done == ended.total
    tuned = read_tuned(studied.folder.tuned("uniform"))
    assert tuned is not None and tuned.chosen == {"optim.lr": 4e-4}
    # All for 2 steps, and the best half for 4.
    assert sorted((t.settings["optim.lr"], t.steps, round(t.score, 9)) for t in tuned.trials) == [
        *((1e-4, 2, 0.1), (2e-4, 2, 0.2), (3e-4, 2, 0.3), (3e-4, 4, 0.3)),
        *((4e-4, 2, 0.4), (4e-4, 4, 0.4)),
    ]
    # The same runs went on: each step was done once.
    run = studied.folder.trial("uniform", "lr=0.0004", 100)
    steps = [json.loads(x)["step"] for x in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4]
    assert steps_kept(studied.folder.trial("uniform", "lr=0.0001", 101)) == 2
    words = studied.begun("runs/uniform/seed-0")[0][1]
    assert "optim.lr=0.0004" in words
    assert read_study(studied.folder.path).variants[0].tuned == {"optim.lr": 4e-4}


def test_a_trial_that_diverges_loses_and_one_that_fails_otherwise_ends_the_search(
    studied: Studied,
) -> None:
    studied.write(RULES.format(seeds=1) + TUNE.replace("halving = 2", ""))
    studied.tell(
        {
            "tune/uniform/lr=0.0004/seed-100": {"fail": "loss or gradient was not finite in 5"},
            "tune/entropy/lr=0.0004": {"fail": "no module named x"},
        }
    )
    ended = studied.run()
    tuned = read_tuned(studied.folder.tuned("uniform"))
    assert tuned is not None and tuned.chosen == {"optim.lr": 3e-4}
    assert not studied.folder.tuned("entropy").exists()
    assert studied.begun("runs/entropy/*") == []
    assert "tune/entropy/lr=0.0004/seed-100" in ended.failed


def test_base_models_that_are_equal_are_evaluated_once(studied: Studied) -> None:
    hot = '[variants.hot]\n"rollout.temperature" = 1.5\n'
    studied.write(RULES.format(seeds=2) + hot + '[eval]\nbench = "sums-easy"\nk = 4\n')
    ended = studied.run()
    assert (ended.done, ended.total) == (2 + 6 + 6, 14)
    names = sorted(path.name for path in studied.folder.path.glob("evals/before/*"))
    assert names == ["hot", "uniform"]
    words = studied.begun("evals/after/entropy/seed-1")[0][1]
    assert words[:5] == ["eval", "--bench", "sums-easy", "--k", "4"]
    assert words[words.index("--run") + 1].endswith("runs/entropy/seed-1")


def test_a_larger_k_extends_the_evaluations(studied: Studied) -> None:
    judged = RULES.format(seeds=1) + '[eval]\nbench = "sums-easy"\nk = '
    studied.write(judged + "2\n")
    studied.run()
    studied.write(judged + "4\n")
    assert studied.run().done == 5
    assert len(studied.begun("evals/*/*")) + len(studied.begun("evals/*/*/*")) == 6
    studied.write(judged + "3\n")
    with pytest.raises(ConfigError, match=r"\[eval\] k 4 -> 3"):
        studied.run()


def test_a_part_of_a_study_is_run_alone(studied: Studied) -> None:
    studied.write(RULES.format(seeds=2) + TUNE)
    ended = studied.run(only=["uniform/seed-1"])
    assert (ended.done, ended.total) == (0, 1)  # its search has not ended
    studied.run(only=["tune/uniform"])
    assert studied.begun("runs/*/*") == [] and studied.begun("tune/entropy/*/*") == []
    assert studied.run(only=["runs/uniform/seed-1"]).done == 1
    assert [path.name for path in studied.folder.path.glob("runs/*/*")] == ["seed-1"]
    with pytest.raises(ConfigError, match="did you mean uniform"):
        studied.run(only=["unifrom"])


def test_seeds_and_variants_may_be_added_and_runs_get_longer(studied: Studied) -> None:
    studied.run()
    text = RULES.format(seeds=3).replace("steps = 3", "steps = 5")
    studied.write(text + '[variants.small]\n"credit.tau" = 0.02\n')
    assert studied.run().done == 9
    for run in studied.folder.path.glob("runs/*/*"):
        assert steps_kept(run) == 5


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"entropy"', '"top-entropy"', "entropy: credit.rule entropy -> top-entropy: its runs in"),
        ("steps = 3", "steps = 2", "uniform: train.steps 3 -> 2: a run of it has 3 steps"),
    ],
)
def test_what_has_been_run_is_not_changed(studied: Studied, old: str, new: str, said: str) -> None:
    studied.run()
    studied.write(RULES.format(seeds=2).replace(old, new))
    with pytest.raises(ConfigError) as caught:
        studied.run()
    assert said in str(caught.value)


def test_a_rule_of_ones_own_is_a_variant_until_its_code_changes(
    studied: Studied, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(studied.path)
    example = Path(__file__).parents[2] / "examples/own_credit_rule.py"
    (studied.path / "mine.py").write_text(example.read_text())
    name = re.findall(r"^class (\w+)\(CreditRule", example.read_text(), re.M)[0]
    own = f'[variants.mine]\ncredit.rule = "mine.py:{name}"\n'
    studied.write(RULES.format(seeds=1) + own)
    assert studied.run().done == 3
    assert studied.run().done == 3
    with (studied.path / "mine.py").open("a") as file:
        file.write("# another\n")
    studied.write(RULES.format(seeds=2) + own)
    with pytest.raises(ConfigError, match=r"mine: credit.code mine.py sha256"):
        studied.run()


def test_another_search_is_refused_once_runs_used_its_choice(studied: Studied) -> None:
    studied.write(RULES.format(seeds=1) + TUNE)
    studied.run()
    studied.write(RULES.format(seeds=1) + TUNE.replace("1e-4, ", "5e-4, "))
    with pytest.raises(ConfigError, match=r"uniform: \[tune\] is not the search that its runs"):
        studied.run()


def test_a_folder_with_something_else_is_refused(studied: Studied) -> None:
    studied.folder.path.mkdir()
    (studied.folder.path / "thesis.tex").touch()
    with pytest.raises(ConfigError, match="not the folder of a study, and not empty"):
        studied.run()
