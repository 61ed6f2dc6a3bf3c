"""The wheel is complete: built from the tracked files and installed alone, it works far from any
checkout. The dependencies come from the environment that runs the tests."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

import dgpo_cli

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
PRESETS = ("qwen32b-full", "qwen7b-full", "qwen7b-lora", "qwen7b-qlora", "smollm2-lora", "tiny")
MAX_BYTES = 5_000_000
SMALL = (
    "rollout.prompts_per_step=2",
    "rollout.group_size=4",
    "optim.micro_batch_size=4",
    "reward.workers=1",
    "model.device=cpu",
)


@dataclass(frozen=True)
class Installed:
    """An environment that holds the wheel, and a folder to work in that is no checkout."""

    bin: Path
    cwd: Path

    def __call__(self, *command: str) -> str:
        """Run a program of the environment; return what it printed."""
        hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
        env = {key: value for key, value in os.environ.items() if key not in hidden}
        done = subprocess.run(
            [str(self.bin / command[0]), *command[1:]],
            cwd=self.cwd,
            env=env | {"COLUMNS": "100"},
            capture_output=True,
            encoding="utf-8",
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def python(self, code: str) -> str:
        return self("python", "-c", code).strip()


def tracked(*folders: str) -> list[str]:
    """The files under version control, as paths from the root."""
    done = subprocess.run(
        ["git", "ls-files", "-z", *folders], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode != 0 or not done.stdout:
        pytest.skip("not a git checkout: which files belong to the source is not known")
    return [name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the tracked files alone."""
    pytest.importorskip("build", reason="build is in the development extra")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in tracked():
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, target)
    here = importlib.util.find_spec("hatchling") is not None
    done = subprocess.run(
        [
            *(sys.executable, "-m", "build", "--wheel", *(["--no-isolation"] if here else [])),
            *("--outdir", str(out), str(source)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """A new environment with nothing of its own but the wheel."""
    home = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    where = {"base": str(home), "platbase": str(home)}
    python = Path(sysconfig.get_path("scripts", scheme="venv", vars=where)) / "python"
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check"),
            *("install", "--quiet", "--no-deps", "--no-index", str(wheel)),
        ],
        check=True,
    )
    # A folder named in a .pth file is searched last, and .pth files in it are not read: an
    # editable install there stays out.
    packages = Path(sysconfig.get_path("purelib", scheme="venv", vars=where))
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return Installed(bin=python.parent, cwd=tmp_path_factory.mktemp("elsewhere"))


@pytest.fixture(scope="module")
def trained(installed: Installed) -> Path:
    """One step of the embedded model by the installed command."""
    overrides = [f"--set={setting}" for setting in SMALL]
    run = installed.cwd / "runs" / "tiny"
    installed("dgpo", "train", "--preset", "tiny", "--steps", "1", *overrides, "--out", str(run))
    return run


def test_the_wheel_holds_package_presets_and_data_and_no_more(wheel: Path) -> None:
    inside = {"presets": "dgpo_cli/_presets", "data": "dgpo_cli/_data", "dgpo_cli": "dgpo_cli"}
    expected = {}
    for name in tracked(*inside):
        folder, _, rest = name.partition("/")
        expected[f"{inside[folder]}/{rest}"] = (ROOT / name).read_bytes()
    info = f"{wheel.name.split('-py3')[0]}.dist-info/"
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if not name.startswith(info)}
        assert found == expected.keys()
        assert all(archive.read(name) == content for name, content in expected.items())
        assert f"{info}licenses/LICENSE" in archive.namelist()
    assert {f"dgpo_cli/_presets/{name}.toml" for name in PRESETS} <= found
    assert "dgpo_cli/_data/tiny/model.safetensors" in found
    assert wheel.stat().st_size < MAX_BYTES


def test_the_installed_package_is_the_one_that_runs(installed: Installed) -> None:
    assert ROOT not in installed.cwd.parents
    home = installed.bin.parent
    package = installed.python("import dgpo_cli; print(dgpo_cli.__file__)")
    assert home in Path(package).parents
    for name in ("presets", "data"):
        code = f"from dgpo_cli.core.resources import resource_dir; print(resource_dir({name!r}))"
        assert Path(installed.python(code)).parent == Path(package).parent
    paths = installed.python("import sys; print(*sys.path, sep='\\n')").splitlines()
    assert not any(Path(path or ".").resolve() == ROOT for path in paths)


def test_both_ways_to_start_it_know_the_version(installed: Installed, wheel: Path) -> None:
    expected = f"dgpo {dgpo_cli.__version__}\n"
    assert installed("dgpo", "--version") == expected
    assert installed("python", "-m", "dgpo_cli", "--version") == expected
    assert wheel.name.split("-")[1] == dgpo_cli.__version__


def test_every_preset_is_listed_and_resolves(installed: Installed) -> None:
    lines = installed("dgpo", "preset", "list").splitlines()
    assert {name for name in PRESETS if any(line.split()[:1] == [name] for line in lines)} == {
        *PRESETS
    }
    for name in PRESETS:
        assert (ROOT / "presets" / f"{name}.toml").read_text() == installed(
            "dgpo", "preset", "show", name
        )


def test_one_step_of_the_embedded_model_trains(installed: Installed, trained: Path) -> None:
    (line,) = (trained / "metrics.jsonl").read_text().splitlines()
    metrics = json.loads(line)
    assert metrics["step"] == 1
    assert math.isfinite(metrics["loss/value"])
    assert metrics["completion/tokens"] > 8
    assert (trained / "checkpoints" / "step-000001" / "model.safetensors").is_file()


def test_inspect_finds_the_run_and_shows_it(installed: Installed, trained: Path) -> None:
    inspection = json.loads(installed("dgpo", "inspect", "--json"))
    lines = (trained / "rollouts" / "step-000001.jsonl").read_text().splitlines()
    assert [[token["id"] for token in each["tokens"]] for each in inspection["completions"]] == [
        json.loads(line)["token_ids"] for line in lines
    ]
    first = inspection["completions"][0]
    picture = installed("dgpo", "inspect", str(trained))
    assert first["prompt"] in picture
    assert "\x1b" not in picture


USER_SCRIPT = """
from dgpo_cli import Engine, Settings, Verdict, estimate, judge_answer, load_settings, read_rollouts
from dgpo_cli import training_engine

settings: Settings = load_settings("tiny", overrides={"seed": 3})
size: int = settings.rollout.group_size
verdict: Verdict = judge_answer(r"\\boxed{7}", gold="7")
low: float = estimate([1, 2], k=4).rerun_95.low
rewards: list[float] = [row.reward for row in read_rollouts("run")] if size < 0 else []


def train(engine: Engine) -> None:
    with training_engine(settings) as other:
        wrong: str = other.policy_version


print(verdict.outcome)
"""


def test_a_user_of_the_library_has_its_types(installed: Installed) -> None:
    script = installed.cwd / "own.py"
    script.write_text(USER_SCRIPT)
    assert installed("python", str(script)) == "correct\n"
    found = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict"),
            *("--python-executable", str(installed.bin / "python"), str(script)),
        ],
        cwd=installed.cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    (first, last) = found.stdout.splitlines()
    assert 'expression has type "int", variable has type "str"' in first, found.stdout
    assert last.startswith("Found 1 error in 1 file")


def test_the_templates_of_the_pages_are_in_it(installed: Installed, trained: Path) -> None:
    assert installed("dgpo", "report", str(trained), "--out", "a.html") == "written to a.html\n"
    assert (installed.cwd / "a.html").read_text(encoding="utf-8").count("<figure") > 10
    installed("dgpo", "inspect", str(trained), "--html", "b.html")
    assert (installed.cwd / "b.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_eval_of_the_run_reads_a_shipped_benchmark(installed: Installed, trained: Path) -> None:
    report = json.loads(
        installed(
            *("dgpo", "eval", "--bench", "sums", "--k", "2", "--run", str(trained)),
            *("--json", "--set=reward.workers=1"),
        )
    )
    assert (report["n_problems"], report["k"]) == (30, 2)
    assert report["avg_at_k"] == sum(p["correct"] for p in report["problems"]) / 60
    assert 0.0 < report["avg_at_k"] <= 1.0
