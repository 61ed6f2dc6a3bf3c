"""--model, --data and --reward: a first run with one's own, from the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from dgpo_cli.cli import options
from dgpo_cli.config.load import resolve
from dgpo_cli.config.shorthand import Asked
from dgpo_cli.planning import fit
from dgpo_cli.planning.fit import fitted
from dgpo_cli.policy.load import load_tokenizer
from dgpo_cli.policy.settings import ModelSettings
from dgpo_cli.ui import console
from tests.cli.helpers import in_process as dgpo
from tests.hub.hub_server import Hub, serving
from tests.hub.test_hub import cache

__all__ = ["cache"]  # a fixture of the tests here

ROOT = Path(__file__).parents[2]


@pytest.fixture
def questions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return a file of sums that the embedded model can read, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    lines = [{"question": f"({a}+7)*2?", "answer": str(2 * (a + 7))} for a in range(10, 30)]
    Path("q.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return "q.jsonl"


def rows_of(printed: str) -> dict[str, list[str]]:
    """Return value and source of each setting that --dry-run prints."""
    return {line.split()[0]: line.split()[1:] for line in printed.splitlines() if line.strip()}


def test_flags_change_model_data_and_reward_of_a_preset(questions: str) -> None:
    shown = dgpo(
        *["train", "--preset", "smollm2-lora", "--model", "embedded:tiny", "--data", questions],
        *["--reward", "math", "--dry-run"],
    )
    assert shown.exit_code == 0, shown.stderr
    rows = rows_of(shown.stdout)
    assert rows["model.path"] == ["embedded:tiny", "--model"]
    assert rows["prompts.path"] == ["q.jsonl", "--data"]
    assert rows["prompts.problem_column"][0] == "question"
    assert rows["reward.kind"] == ["math", "--reward"]
    assert rows["adapter.kind"] == ["lora", "preset", "smollm2-lora"]


def test_rollout_draws_data_as_training_does(questions: str) -> None:
    done = dgpo(
        *["rollout", "--preset", "tiny", "--data", questions, "--limit", "3", "--group-size", "2"],
        *["--out", "r.jsonl"],
    )
    assert done.exit_code == 0, done.stderr
    lines = [json.loads(line) for line in Path("r.jsonl").read_text().splitlines()]
    assert len(lines) == 6
    assert len({line["prompt_id"] for line in lines}) == 3
    own = dgpo(
        *["rollout", "--model", "embedded:tiny", "--data", questions, "--limit", "2"],
        *["--group-size", "2", "--out", "own.jsonl"],
    )
    assert own.exit_code == 0, own.stderr
    assert "reward.kind=integer  (all 20 answers are integers)" in own.stderr


def test_a_model_and_data_train_without_a_preset_and_resume_as_they_began(questions: str) -> None:
    command = ["train", "--model", "embedded:tiny", "--data", questions, "--view", "lines"]
    sized = ["--set", "rollout.group_size=2"]
    first = dgpo(*command, *sized, "--steps", "1")
    assert first.exit_code == 0, first.stderr
    assert "chosen for this model and data" in first.stderr
    assert "reward.kind=integer  (all 20 answers are integers)" in first.stderr
    assert "next: dgpo report runs/tiny-q-group_size2" in first.stderr
    assert "eval" not in first.stderr.splitlines()[-1]  # it has no benchmark of its own
    began = Path("runs/tiny-q-group_size2/settings.toml").read_text()
    assert "# from model and data: all 20 answers are integers" in began
    again = dgpo(*command, *sized, "--steps", "2")
    assert again.exit_code == 0, again.stderr
    assert "chosen when the run began" in again.stderr and "resumed from" in again.stderr
    resumed = Path("runs/tiny-q-group_size2/settings.toml").read_text()
    assert resumed == began.replace("steps = 1 #", "steps = 2 #")
    shown = dgpo(*command, *sized, "--steps", "2", "--dry-run")
    assert rows_of(shown.stdout)["optim.lr"][:4] == ["0.0002", "model", "and", "data:"]
    planning = ["plan", "--model", "embedded:tiny", "--data", questions, *sized]
    assert "chosen when the run began" in dgpo(*planning).stderr
    assert "chosen for this model and data" in dgpo(*planning, "--gpu", "h100").stderr


def test_a_plan_is_of_the_run_that_train_would_start(questions: str) -> None:
    own = ["--model", "embedded:tiny", "--data", questions, "--reward", "math"]
    changed = ["--set", "rollout.group_size=2"]
    done = dgpo("plan", *own, *changed, "--apply", "planned.toml")
    assert done.exit_code == 0, done.stderr
    assert "optim.lr=0.0002  (for all weights of a model of this size)" in done.stderr
    planned = resolve(config=Path("planned.toml")).settings
    asked = Asked(model=own[1], data=questions, reward="math", overrides=changed[1:])
    assert planned == fitted(asked).settings
    done = dgpo("plan", *own, *changed, "--gpus", "2")
    assert f"next: dgpo train {' '.join([*own, *changed])} --gpus 2" in done.stderr
    assert not Path("runs").exists()
    preset = dgpo("plan", "--preset", "tiny", "--data", questions, "--apply", "preset.toml")
    assert preset.exit_code == 0, preset.stderr
    settings = resolve(config=Path("preset.toml")).settings
    assert settings == fitted(Asked("tiny", data=questions)).settings


def test_a_plan_for_another_device_chooses_for_it_without_weights(
    questions: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = load_tokenizer(ModelSettings(path="embedded:tiny"))
    monkeypatch.setattr(fit, "load_tokenizer", lambda settings: tokenizer)
    monkeypatch.setattr(options, "reach", lambda model: None)
    own = ["--model", "Qwen/Qwen2.5-7B", "--data", questions]  # its config comes with dgpo
    said = {
        "h200": "adapter.kind=lora  (7.6 B weights: too many to train all on H200 with 140 GiB)",
        "4090": "RTX 4090 with 24.0 GiB)",
        "cpu": "rollout.prompts_per_step=8  (a step of 64 completions, on a CPU)",
    }
    for gpu, words in said.items():
        done = dgpo("plan", *own, "--gpu", gpu, "--json")
        assert done.exit_code in (0, 3), done.stderr
        assert words in done.stderr
    assert dgpo("plan", *own, "--gpu", "h200").exit_code == 0


def test_a_dry_run_names_the_command_that_writes_its_settings_to_a_file(questions: str) -> None:
    own = ["--model", "embedded:tiny", "--data", questions, "--set", "optim.lr=3e-4"]
    shown = dgpo("train", *own, "--steps", "3", "--dry-run")
    named = f"init {' '.join(own)} --set train.steps=3 --out tiny-q.toml"
    assert shown.stderr.splitlines()[-1] == f"next: dgpo {named}"
    assert dgpo(*named.split()).exit_code == 0
    again = dgpo("train", "--config", "tiny-q.toml", "--dry-run")
    before, after = (
        {key: words[0] for key, words in rows_of(each.stdout).items()} for each in (shown, again)
    )
    assert before == after
    assert "dgpo init" not in again.stderr


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ('{"text": "1+1?", "answer": "2"}\n', "no field 'problem' (fields: 'text', 'answer')"),
        ('{"question": "1+1?", "reply": "2"}\n', "no field 'answer' (fields: 'question', 'reply')"),
        ("", "no problems in it"),
        ("{broken\n", "line 1: not JSON"),
    ],
)
def test_data_that_cannot_be_read_is_named_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.jsonl").write_text(rows)
    ended = dgpo("train", "--model", "embedded:tiny", "--data", "mine.jsonl")
    assert ended.exit_code in (1, 2)
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: mine.jsonl") and said in line
    assert not Path("runs").exists()


def test_init_writes_every_setting_with_a_comment_that_trains(questions: str) -> None:
    done = dgpo(
        *["init", "--model", "embedded:tiny", "--data", questions, "--set", "optim.lr=3e-4"],
        *["--set", "rollout.group_size=2", "--out", "mine.toml"],
    )
    assert done.exit_code == 0, done.stderr
    assert done.stdout == "written to mine.toml\n"
    assert "next: dgpo train --config mine.toml --dry-run" in done.stderr
    text = Path("mine.toml").read_text()
    assert 'kind = "integer"             # all 20 answers are integers' in text
    assert "lr = 0.0003                  # from --set" in text
    assert "temperature = 1.0" in text and "# Sampling temperature; 0: greedy" in text
    uncommented = [
        line
        for at, line in enumerate(text.splitlines())
        if " = " in line and "#" not in line and not text.splitlines()[at - 1].startswith("#")
    ]
    assert not uncommented
    chosen = Asked(
        model="embedded:tiny",
        data=questions,
        overrides=("optim.lr=3e-4", "rollout.group_size=2"),
    )
    assert resolve(config=Path("mine.toml")).settings == fitted(chosen).settings


def test_init_replaces_no_file_unless_told_to_and_prints_to_a_pipe(questions: str) -> None:
    command = ["init", "--model", "embedded:tiny", "--data", questions, "--out"]
    Path("mine.toml").write_text("mine")
    refused = dgpo(*command, "mine.toml")
    assert refused.exit_code == 2 and "--force" in refused.stderr
    assert Path("mine.toml").read_text() == "mine"
    assert dgpo(*command, "mine.toml", "--force").exit_code == 0
    printed = dgpo(*command, "-")
    assert printed.stdout == Path("mine.toml").read_text().replace("# mine:", "# tiny-q:")


def test_init_without_a_terminal_names_its_flags() -> None:
    refused = dgpo("init")
    assert refused.exit_code == 2
    (line,) = refused.stderr.splitlines()
    assert "--model M" in line and "--data F" in line


def test_init_asks_on_a_terminal_and_ends_in_one_line_on_ctrl_c(
    questions: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter(["embedded:tiny", "absent.jsonl", questions, ""])
    monkeypatch.setattr(console, "can_ask", lambda: True)
    monkeypatch.setattr("builtins.input", lambda: next(answers))
    done = dgpo("init")
    assert done.exit_code == 0, done.stderr
    assert "[HuggingFaceTB/SmolLM2-135M-Instruct]" in done.stderr
    assert "error: --data absent.jsonl: no such file" in done.stderr  # and it asked again
    found = resolve(config=Path("tiny-q.toml")).settings
    assert found.model.path == "embedded:tiny" and found.reward.kind == "integer"

    def interrupted() -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.input", interrupted)
    stopped = dgpo("init")
    assert stopped.exit_code == 130
    assert stopped.stderr.splitlines()[-1] == "interrupted"


@pytest.fixture
def gsm8k(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with rows in the form and the folders of GSM8K."""
    rows = (ROOT / "examples/gsm8k_smollm2/rows.jsonl").read_bytes()
    files = {
        "main/train-00000-of-00001.jsonl": rows,
        "main/test-00000-of-00001.jsonl": b'{"question": "1+1?", "answer": "#### 2"}\n',
        "socratic/train-00000-of-00001.jsonl": b'{"question": "?", "answer": "#### 3"}\n',
    }
    with serving(Hub("openai/gsm8k", "7" * 40, files)) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def test_gsm8k_is_one_command(gsm8k: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shown = dgpo("train", "--model", "embedded:tiny", "--data", "openai/gsm8k", "--dry-run")
    assert shown.exit_code == 0, shown.stderr
    rows = rows_of(shown.stdout)
    assert rows["prompts.files"][0] == "main/train-*"
    assert rows["prompts.problem_column"][0] == "question"
    assert rows["reward.kind"] == [
        "integer",
        *["model", "and", "data:", "all", "32", "answers", "are", "integers"],
    ]
    assert not any("socratic/" in path or "test-" in path for _, path, _ in gsm8k.requests)


def test_the_example_of_gsm8k_trains_from_the_hub_and_from_its_rows(
    gsm8k: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = ROOT / "examples/gsm8k_smollm2"
    # The embedded model knows no words, and has a context of 256 bytes.
    small = {
        "rollout.max_completion_tokens": 24,
        "rollout.prompts_per_step": 2,
        "rollout.group_size": 2,
        "prompts.max_prompt_tokens": 232,
        "train.rollouts_every": 1,
        "prompts.files": "main/train-*",
    }
    changes = [word for key, value in small.items() for word in ("--set", f"{key}={value}")]
    command = ["train", "--config", f"{folder / 'gsm8k.toml'}", "--model", "embedded:tiny"]
    hub = dgpo(*command, *changes, "--steps", "1", "--out", "hub", "--view", "lines")
    assert hub.exit_code == 0, hub.stderr
    rows = ["--data", f"{folder / 'rows.jsonl'}"]
    own = dgpo(*command, *changes[:-2], *rows, "--steps", "1", "--out", "own", "--view", "lines")
    assert own.exit_code == 0, own.stderr
    for out in ("hub", "own"):
        (path,) = Path(out, "rollouts").glob("*.jsonl")
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert len(lines) == 4 and all(line["answer"].isdecimal() for line in lines)
        assert all("boxed" in line["prompt"] for line in lines)
