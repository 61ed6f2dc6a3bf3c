"""Law: every file that dgpo writes, and every number in it, is what it was.

Held here, each against `files/`:

    run         settings.toml, metrics.jsonl, evals.jsonl, changes.jsonl, trackers.json, run.lock,
                rollouts/, bad_batches/, tokenizer/, tensorboard/, report.html
    checkpoint  model.safetensors, adapter_model.safetensors, config.json, tokenizer files,
                trainer.pt (by its leaves), state.json, carried.json (pending groups), waiting.json
                (the batch sampled ahead; test_long_runs.py), SHA256SUMS
    evaluation  settings.toml, samples.jsonl, card.json, report.json, before and after regrade
    pages       report and inspection: the words on them, not the markup; SVG likewise
    printed     --json of eval, regrade, compare, check, plan, doctor, inspect, report; --dry-run;
                the table of a study
    values      rewards of continuations, by prefix
    other       rollout --out, merge --out, plan --apply, preset copy, the card of push

Left out: times, memory, versions, hosts and random names (`MACHINE_FIELDS` in decode.py); PNG
(fonts are the system's); what wandb and trackio write (their own formats); the key of `serve`
(random); `*.jsonl.bad` (lines as they were found).
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest

from dgpo_cli.config.load import load_settings
from dgpo_cli.engine.values.estimate import estimate
from dgpo_cli.engine.values.store import ValueStore, header_of
from tests.engine.chain import chain_engine, groups_of
from tests.golden.commands import REPOSITORY, Commands
from tests.golden.conftest import Check
from tests.study.samples import sample_study

SMALL = (
    "--preset=tiny",
    "--set=rollout.prompts_per_step=3",
    "--set=rollout.group_size=4",
    "--set=rollout.dynamic_sampling=true",
    "--set=train.checkpoint_every=2",
    "--set=train.rollouts_every=2",
    "--set=train.keep_checkpoints=9",
    "--set=optim.lr=1e-3",
    "--set=credit.target_ess=0.9",
    "--set=eval.every=2",
    "--set=eval.bench=sums-easy",
    "--set=eval.k=2",
    '--set=track.to=["tensorboard"]',
)
LORA = ("--preset=tiny", "--set=adapter.kind=lora", "--set=rollout.prompts_per_step=2")
PRESETS = sorted(path.stem for path in (REPOSITORY / "presets").glob("*.toml"))


def files_of(folder: Path) -> dict[str, Path]:
    """Return the files of a folder by their path in it."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            found["tensorboard/events" if ".tfevents." in name else name] = path
    return found


def timeless(run: Path, *, to: Path) -> Path:
    """Copy a run as it would be had every step taken the same time and every file one date."""
    shutil.copytree(run, to)
    for name in ("metrics.jsonl", "evals.jsonl"):
        if (to / name).exists():
            text = (to / name).read_text()
            (to / name).write_text(
                re.sub(r'("(?:time|throughput)/\w+": )[\d.e-]+', r"\g<1>0.25", text)
            )
    for path in (to, *to.rglob("*")):
        os.utime(path, (1.7e9, 1.7e9))
    return to


@pytest.fixture(scope="module")
def run(dgpo: Commands) -> Path:
    """Two steps, and two more with another setting."""
    dgpo("train", *SMALL, "--out=run", "--steps=2")
    dgpo("train", *SMALL, "--out=run", "--steps=4", "--set=credit.kappa=2", "--allow-change")
    return dgpo.folder / "run"


@pytest.fixture(scope="module")
def lora(dgpo: Commands) -> Path:
    dgpo("train", *LORA, "--out=lora", "--steps=2", "--set=eval.every=0")
    return dgpo.folder / "lora"


@pytest.fixture(scope="module")
def evaluations(dgpo: Commands, run: Path) -> tuple[str, str]:
    """The model before and after training on the same problems; what `eval --json` printed."""
    common = ("eval", "--bench=sums", "--k=3", "--json", "--answers")
    before = dgpo(*common, "--preset=tiny", "--out=before")
    after = dgpo(*common, "--run=run", "--out=after")
    return before.out, after.out


def test_a_run_folder_is_what_it_was(run: Path, check: Check) -> None:
    check("run", files_of(run))


def test_the_page_and_the_numbers_of_a_report_are_what_they_were(
    dgpo: Commands, run: Path, lora: Path, check: Check
) -> None:
    runs = [timeless(each, to=dgpo.folder / f"timeless-{each.name}") for each in (run, lora)]
    printed = dgpo("report", *runs, "--json", "--out=report.html").out
    check("report", {"printed.json": printed, "page.html": dgpo.folder / "report.html"})


def test_the_table_of_a_study_is_what_it_was(dgpo: Commands, check: Check) -> None:
    sample_study(dgpo.folder / "study")
    forms = {
        "json": "printed.json",
        "csv": "table.csv",
        "latex": "table.tex",
        "markdown": "table.md",
    }
    printed = {
        name: dgpo("report", "study", f"--format={form}").out for form, name in forms.items()
    }
    printed["table.txt"] = dgpo("report", "study").out
    dgpo("report", "study", "--svg=picture.svg")
    drawn = {"page.html": dgpo.folder / "study" / "report.html"}
    check("study", {**printed, **drawn, "picture.svg": dgpo.folder / "picture.svg"})


def test_an_adapter_and_what_is_made_of_it_are_what_they_were(
    dgpo: Commands, lora: Path, check: Check
) -> None:
    dgpo("merge", lora, "--out=merged")
    pushed = dgpo("push", lora, "someone/something", "--dry-run").out
    files = {f"lora/{name}": path for name, path in files_of(lora).items()}
    merged = {f"merged/{name}": path for name, path in files_of(dgpo.folder / "merged").items()}
    check("lora", {**files, **merged, "push.md": pushed})


def test_a_batch_that_is_not_finite_is_kept_as_it_was(dgpo: Commands, check: Check) -> None:
    too_much = ("--set=reward.correct=3e38", "--set=advantage.std=none", "--set=eval.every=0")
    dgpo("train", *LORA, *too_much, "--set=rollout.group_size=4", "--out=bad", "--steps=1")
    folder = dgpo.folder / "bad"
    names = ("metrics.jsonl", "bad_batches/step-000001.jsonl")
    check("bad", {name: folder / name for name in names})


def test_evaluations_are_what_they_were(
    dgpo: Commands, evaluations: tuple[str, str], check: Check
) -> None:
    before, after = evaluations
    printed = {"before.json": before, "after.json": after}
    printed["compare.json"] = dgpo("compare", "before", "after", "--json", "--answers").out
    files = {f"after/{name}": path for name, path in files_of(dgpo.folder / "after").items()}
    check("evaluations", {**files, **printed})


def test_a_file_of_values_is_what_it_was(tmp_path: Path, check: Check) -> None:
    engine = chain_engine()
    groups = groups_of(engine, count=2, size=2)
    path = tmp_path / "values.jsonl"
    with ValueStore(path, header_of(load_settings("tiny"))) as store:
        estimate(engine, groups, continuations=3, seed=0, store=store)
    check("values", {"values.jsonl": path})


def test_a_second_judgement_is_what_it_was(
    dgpo: Commands, evaluations: tuple[str, str], check: Check
) -> None:
    """Verdicts of the stored samples are made wrong first, so that something flips."""
    samples = dgpo.folder / "before" / "samples.jsonl"
    lines = samples.read_text().splitlines(keepends=True)
    wrong = lines[0].replace('"outcome":"correct"', '"outcome":"wrong"')
    samples.write_text("".join([wrong, *lines[1:]]))
    printed = dgpo("regrade", "before", "--json", "--answers").out
    check("regrade", {"printed.json": printed, **files_of(dgpo.folder / "before")})


def test_an_inspection_is_what_it_was(dgpo: Commands, run: Path, check: Check) -> None:
    stored = run / "rollouts" / "step-000004.jsonl"
    files = ("--html=inspect.html", "--svg=inspect.svg")
    texts: dict[str, str | Path] = {
        "stored.json": dgpo("inspect", stored, "--json", *files).out,
        "what-if.json": dgpo("inspect", stored, "--json", "--rule=entropy", "--group=0").out,
        "valued.json": dgpo("inspect", stored, "--json", "--value=0", "--group=0").out,
        "computed.json": dgpo(
            *("inspect", "--model", run / "checkpoints/step-000004", "--reference=embedded:tiny"),
            *("--prompt=12+7*4?", "--completion=7*4=28;12+28=40;\\boxed{40}", "--at=3", "--json"),
        ).out,
    }
    texts |= {name: dgpo.folder / name for name in ("inspect.html", "inspect.svg")}
    check("inspect", texts)


def test_rollouts_are_what_they_were(dgpo: Commands, check: Check) -> None:
    problems = dgpo.folder / "problems.jsonl"
    problems.write_text('{"problem": "3+4*5?", "answer": "23", "source": "mine"}\n')
    common = ("rollout", f"--prompts={problems}", "--preset=tiny", "--group-size=3")
    dgpo(*common, "--set=reward.kind=math", "--out=rollouts.jsonl")
    check("rollout", {"rollouts.jsonl": dgpo.folder / "rollouts.jsonl"})


def test_verdicts_are_what_they_were(dgpo: Commands, check: Check) -> None:
    lines = (
        {"gold": "204", "output": "so \\boxed{0204}", "want": "correct"},
        {"gold": "204", "output": "so \\boxed{1204}"},
        {"gold": "204", "output": "I do not know", "finish_reason": "length"},
        {"gold": "1/2", "output": "<think>\\boxed{1}</think> Answer: 0.5"},
    )
    text = "".join(json.dumps(line) + "\n" for line in lines)
    integers = dgpo("check", "-", "--json", stdin=text, code=2)  # 1/2 is none
    answers = dgpo("check", "-", "--json", "--kind=math", stdin=text)
    check("check", {"integer.jsonl": integers.out, "math.jsonl": answers.out})


def test_plans_are_what_they_were(dgpo: Commands, check: Check) -> None:
    small = ("--gpu=t4",)
    plans = {
        "lora.json": dgpo("plan", "--preset=qwen7b-lora", "--json").out,
        "full.json": dgpo("plan", "--preset=qwen7b-full", "--json", "--gpus=4", code=3).out,
        "apply.json": dgpo(
            *("plan", "--preset=qwen7b-qlora", *small, "--json", "--apply=fits.toml"), code=3
        ).out,
    }
    check("plan", {**plans, "fits.toml": dgpo.folder / "fits.toml"})


def test_settings_of_every_preset_are_what_they_were(dgpo: Commands, check: Check) -> None:
    runs = {f"{name}.txt": dgpo("train", f"--preset={name}", "--dry-run").out for name in PRESETS}
    dgpo("preset", "copy", "tiny", "copy.toml")
    check("settings", {**runs, "copy.toml": dgpo.folder / "copy.toml"})
