"""Laws of a run folder: it is of one method, or says at which step that was changed."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from dgpo_cli.config.changes import change_text, differences
from dgpo_cli.config.dump import dump_toml
from dgpo_cli.config.load import resolve
from dgpo_cli.core.errors import ConfigError
from dgpo_cli.core.events import NOBODY
from dgpo_cli.core.types import SettingChange
from dgpo_cli.publish import push
from dgpo_cli.report import report
from dgpo_cli.runs.history import (
    FILE,
    changes_behind,
    read_changes,
    record_changes,
    resolved_until,
)
from dgpo_cli.runs.pending import read_pending
from dgpo_cli.runs.run_folder import RunFolder
from dgpo_cli.train import train
from tests.evals.evaluations import Asked, boxed, install, problems
from tests.evals.evaluations import run as evaluated
from tests.inspect.looks import look
from tests.recorder import AtStep, Killed
from tests.train.test_train import SMALL, numbers, run_tiny
from tests.train.test_train_data import DYNAMIC, file_of, sums


def listing(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file and folder with its bytes and time of change, the folder itself included."""
    return {
        str(path.relative_to(folder)): (
            path.read_bytes() if path.is_file() else b"",
            path.stat().st_mtime_ns,
        )
        for path in (folder, *folder.rglob("*"))
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps."""
    out = tmp_path_factory.mktemp("runs") / "tiny"
    run_tiny(out, steps=2)
    return out


def test_a_finished_run_is_left_as_it_is(finished: Path) -> None:
    before = listing(finished)
    for free in ((), ("eval.every=1", "reward.workers=2", 'track.to=["tensorboard"]')):
        result, lines = run_tiny(finished, *free, steps=2)
        assert (result.steps, result.trained, lines) == (2, 0, [])
        assert result.last["step"] == 2
    assert listing(finished) == before


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("credit.rule=uniform", "credit.rule: dgpo in {out}, now uniform"),
        ("optim.lr=1e-5", "optim.lr: 0.0002 in {out}, now 1e-05"),
        ("seed=5", "seed: 0 in {out}, now 5"),
        ("reward.minimum=", "reward.minimum: 0 in {out}, now unset"),
        ("loss.aggregation=constant", "loss.aggregation: token-mean in {out}, now constant"),
    ],
)
@pytest.mark.parametrize("allow", [False, True])
def test_a_finished_run_is_not_relabelled(
    finished: Path, change: str, told: str, allow: bool
) -> None:
    before = listing(finished)
    with pytest.raises(ConfigError) as caught:
        run_tiny(finished, change, steps=2, allow_change=allow)
    first, last = str(caught.value).splitlines()
    assert first == told.format(out=finished)
    assert "is finished (all 2 steps), and its settings differ" in last
    assert "another --out" in last and "--allow-change --set train.steps=4" in last
    assert listing(finished) == before


@pytest.mark.parametrize(
    "change",
    [
        "prompts.system=Add.",
        "rollout.temperature=0.7",
        "reward.correct=2",
        "advantage.std=none",
        "credit.tau=0.02",
        "loss.clip_high=0.2",
        "off_policy.cap=3",
        "optim.weight_decay=0.1",
        "model.attention=eager",
    ],
)
def test_a_run_that_is_not_finished_learns_nothing_else_unasked(
    finished: Path, change: str
) -> None:
    before = listing(finished)
    with pytest.raises(ConfigError) as caught:
        run_tiny(finished, change, "optim.lr=1e-5", steps=3)
    *each, last = str(caught.value).splitlines()
    assert len(each) == 2
    assert last == (
        f"{finished} is at step 2, and its settings differ: give another --out to start a new "
        "run, or --allow-change to continue this one with the new settings from step 3"
    )
    assert listing(finished) == before


@pytest.mark.parametrize("change", ["adapter.kind=lora", "optim.kind=adamw8bit", "model.path=x"])
def test_what_a_checkpoint_is_made_for_cannot_be_changed_even_if_asked(
    finished: Path, change: str
) -> None:
    before = listing(finished)
    with pytest.raises(ConfigError) as caught:
        run_tiny(finished, change, steps=3, allow_change=True)
    assert f"{change.partition('=')[0]} cannot change within a run" in str(caught.value)
    assert "--allow-change" not in str(caught.value)
    assert listing(finished) == before


def test_settings_that_change_nothing_learnt_pass_with_a_note(tmp_path: Path) -> None:
    run_tiny(tmp_path / "run", steps=1)
    events: list[str] = []
    free = ("optim.micro_batch_size=4", "rollout.backend.batch_size=8", "train.keep_checkpoints=5")
    run_tiny(tmp_path / "run", *free, steps=2, events=events)
    note = "was {} until here, now {}; this does not affect what is learnt"
    assert f"train.steps {note.format(1, 2)}" in events
    assert f"optim.micro_batch_size {note.format(8, 4)}" in events
    assert not (tmp_path / "run" / FILE).exists()
    assert resolve(config=tmp_path / "run" / "settings.toml").settings.optim.micro_batch_size == 4


@pytest.mark.parametrize(
    "free",
    [
        ("optim.micro_batch_size=3", "optim.micro_batch_tokens=150"),
        ("rollout.backend.batch_size=5", "reward.workers=2", "train.threads=1"),
        ("model.gradient_checkpointing=true", "train.rollouts_every=1", "train.checkpoint_every=1"),
    ],
)
def test_what_may_change_at_any_time_moves_nothing_but_rounding(
    tmp_path: Path, free: tuple[str, ...]
) -> None:
    run_tiny(tmp_path / "whole", steps=1)
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    _, (whole,) = run_tiny(tmp_path / "whole", steps=2)
    _, (parts,) = run_tiny(tmp_path / "parts", *free, steps=2)
    for name in ("loss/value", "optim/grad_norm", "policy/entropy", "reward/mean"):
        assert parts[name] == pytest.approx(whole[name], rel=1e-3, abs=1e-6)


def test_a_change_that_is_allowed_is_made_and_written_down(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run_tiny(out, steps=1)
    events: list[str] = []
    other = ("optim.lr=1e-5", "credit.rule=uniform", "loss.clip_high=0.2")
    _, lines = run_tiny(out, *other, steps=2, allow_change=True, events=events)
    assert lines[0]["optim/lr"] == 1e-5
    assert "policy/hellinger_sq_mean" not in lines[0]
    assert "credit.rule was dgpo until here, now uniform" in events
    assert read_changes(out) == (
        SettingChange(1, "credit.rule", "dgpo", "uniform"),
        SettingChange(1, "loss.clip_high", 0.28, 0.2),
        SettingChange(1, "optim.lr", 0.0002, 1e-5),
    )
    assert resolve(config=out / "settings.toml").settings.credit.rule == "uniform"
    _, lines = run_tiny(out, *other, steps=3)  # now they are its own
    assert [line["step"] for line in lines] == [3]
    assert len(read_changes(out)) == 3
    run_tiny(out, "optim.lr=1e-5", steps=4, allow_change=True)
    assert [change_text(each) for each in read_changes(out)[3:]] == [
        "credit.rule uniform -> dgpo after step 3",
        "loss.clip_high 0.2 -> 0.28 after step 3",
    ]


def test_the_optimiser_takes_over_every_setting_that_was_changed(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run_tiny(out, steps=1)
    other = ("optim.beta1=0.5", "optim.beta2=0.9", "optim.eps=1e-4", "optim.weight_decay=0.25")
    result, _ = run_tiny(out, *other, steps=2, allow_change=True)
    saved = torch.load(result.checkpoint / "trainer.pt", weights_only=True)["optimizer"]
    groups = saved["param_groups"]
    assert {(group["betas"], group["eps"]) for group in groups} == {((0.5, 0.9), 1e-4)}
    assert {group["weight_decay"] for group in groups} == {0.25, 0.0}


def test_a_change_is_as_if_the_run_had_been_of_it_from_there_on(tmp_path: Path) -> None:
    """Whatever stopped it before the next checkpoint, and how often."""
    steps: dict[str, Any] = {"steps": 4, "allow_change": True}
    other = ("optim.lr=1e-3", "credit.tau=0.02")
    run_tiny(tmp_path / "whole", steps=2)
    _, whole = run_tiny(tmp_path / "whole", *other, **steps)

    out = tmp_path / "parts"
    run_tiny(out, steps=2)
    with pytest.raises(Killed):
        stopped_at(3, out, "optim.lr=5e-4", allow_change=True)  # before any checkpoint of it
    assert [each.new for each in read_changes(out)] == [5e-4]
    _, parts = run_tiny(out, *other, **steps)
    assert numbers(parts) == numbers(whole)
    assert read_changes(out) == read_changes(tmp_path / "whole")


def stopped_at(step: int, out: Path, *overrides: str, allow_change: bool) -> None:
    """Run until after a step, which then ends the process's run without a checkpoint."""

    def stop(number: int) -> None:
        if number == step:
            raise Killed

    train.run(
        resolve(preset="tiny", overrides=[*SMALL, "train.steps=9", *overrides]),
        out=out,
        resume="auto",
        allow_change=allow_change,
        observer=AtStep(stop),
    )


def test_a_change_taken_back_before_a_checkpoint_never_was(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run_tiny(out, steps=1)
    with pytest.raises(Killed):
        stopped_at(2, out, "optim.lr=1e-5", allow_change=True)
    with pytest.raises(ConfigError, match=r"optim\.lr: 1e-05 in .*, now 0\.0002"):
        run_tiny(out, steps=2)
    run_tiny(out, steps=2, allow_change=True)
    assert read_changes(out) == ()


def test_steps_done_again_from_an_older_checkpoint_move_the_change_to_it(tmp_path: Path) -> None:
    before, after = resolve(preset="tiny"), resolve(preset="tiny", overrides=["optim.lr=1e-5"])
    found = differences(before, after)
    record_changes(tmp_path, step=4, found=found, resolved=after)
    record_changes(tmp_path, step=2, found=(), resolved=after)
    assert read_changes(tmp_path) == (SettingChange(2, "optim.lr", 0.0002, 1e-5),)
    record_changes(tmp_path, step=0, found=(), resolved=after)
    assert read_changes(tmp_path) == ()


def test_a_written_change_that_never_came_to_settings_toml_is_forgotten(tmp_path: Path) -> None:
    """Power went between the two files: the run goes on as its settings say."""
    before, after = resolve(preset="tiny"), resolve(preset="tiny", overrides=["optim.lr=1e-5"])
    record_changes(tmp_path, step=4, found=differences(before, after), resolved=after)
    record_changes(tmp_path, step=4, found=(), resolved=before)
    assert read_changes(tmp_path) == ()


def test_more_steps_are_a_change_only_where_the_rate_follows_a_schedule(tmp_path: Path) -> None:
    for schedule, told in (("constant", 0), ("cosine", 1)):
        before, after = (
            resolve(overrides=[f"optim.schedule={schedule}", f"train.steps={steps}"])
            for steps in (100, 200)
        )
        out = tmp_path / schedule
        out.mkdir()
        record_changes(out, step=100, found=differences(before, after), resolved=after)
        assert len(read_changes(out)) == told


def test_a_run_without_a_checkpoint_is_not_started_anew_as_another(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(Killed):
        stopped_at(1, out, allow_change=False)
    with pytest.raises(ConfigError, match=r"has no checkpoint yet: .* --allow-change to start"):
        run_tiny(out, "seed=5", steps=1)
    run_tiny(out, "seed=5", steps=1, allow_change=True)
    assert resolve(config=out / "settings.toml").settings.seed == 5
    assert read_changes(out) == ()  # nothing of it was learnt otherwise


@pytest.mark.parametrize("turned", [False, True], ids=["file-to-sums", "sums-to-file"])
def test_generated_and_given_problems_do_not_follow_each_other(
    tmp_path: Path, turned: bool
) -> None:
    kinds: list[tuple[str, ...]] = [file_of(tmp_path, sums(10, 40)), ()]
    first, second = reversed(kinds) if turned else kinds
    out = tmp_path / "run"
    run_tiny(out, *first, steps=1)
    before = listing(out)
    for allow in (False, True):
        with pytest.raises(ConfigError, match=r"prompts\.kind cannot change within a run.* --out"):
            run_tiny(out, *second, steps=2, allow_change=allow)
    # Nor where settings.toml does not tell: the checkpoint knows what it has drawn from.
    settings = RunFolder(out).settings_file
    text = dump_toml(resolve(preset="tiny", overrides=[*SMALL, *second]))
    settings.write_text(text)
    with pytest.raises(ConfigError, match=r"prompts: the data are not .*generated problems"):
        run_tiny(out, *second, steps=2)
    assert settings.read_text() == text
    assert listing(out).keys() == before.keys()


def test_the_same_data_elsewhere_may_be_gone_on_with_if_asked(tmp_path: Path) -> None:
    text = "".join(
        f'{{"q": "{n}+4?", "problem": "{n}+4?", "answer": {n + 4}}}\n' for n in range(30)
    )
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "data.jsonl").write_text(text)
    out = tmp_path / "run"
    here, there = (
        ("prompts.kind=file", f"prompts.path={tmp_path / place / 'data.jsonl'}")
        for place in ("a", "b")
    )
    run_tiny(out, *here, steps=1)
    with pytest.raises(ConfigError, match=r"(?s)prompts\.path: .*/a/data.*--allow-change"):
        run_tiny(out, *there, steps=2)
    with pytest.raises(ConfigError, match=r"prompts\.problem_column cannot change within a run"):
        run_tiny(out, *here, "prompts.problem_column=q", steps=2, allow_change=True)
    with pytest.raises(ConfigError, match="another --out"):
        run_tiny(out, *here, "prompts.template=Now {problem}", steps=2)
    with pytest.raises(ConfigError, match="the data are not"):
        run_tiny(out, *here, "prompts.template=Now {problem}", steps=2, allow_change=True)
    run_tiny(out, *there, steps=2, allow_change=True)
    assert [each.setting for each in read_changes(out)] == ["prompts.path"]


def test_kept_groups_of_the_old_settings_are_not_trained_on(tmp_path: Path) -> None:
    settings = (*file_of(tmp_path, sums(10, 60)), *DYNAMIC)
    result, _ = run_tiny(tmp_path / "run", *settings, steps=2)
    kept = len(read_pending(result.checkpoint))
    assert kept  # or the test shows nothing
    told: list[str] = []
    changed = (*settings, "reward.correct=2")
    _, lines = run_tiny(tmp_path / "run", *changed, steps=3, allow_change=True, events=told)
    why = "they were sampled with the old settings"
    assert f"{kept} pending groups are dropped: {why}" in told
    assert lines[0]["dynamic/groups_carried_in"] == 0


def test_what_came_later_had_no_part_in_a_checkpoint(tmp_path: Path) -> None:
    lines = [{"step": 2, "setting": "optim.lr", "old": 1, "new": 2}]
    lines += [{"step": 4, "setting": "seed", "old": None, "new": 2}]
    (tmp_path / FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    folder = RunFolder(tmp_path)
    behind = {step: len(changes_behind(folder.checkpoint_dir(step))) for step in (2, 3, 4, 5)}
    assert behind == {2: 0, 3: 1, 4: 1, 5: 2}
    assert len(changes_behind(folder.rollout_file(3))) == 1
    assert changes_behind(tmp_path / "data" / "model") == ()


def test_the_settings_of_an_older_step_are_those_of_its_time() -> None:
    parts = (
        ["credit.tau=0.02", "optim.lr=1e-5"],
        ["credit.rule=uniform", "optim.lr=1e-5"],
        ["credit.target_ess=0.9", "reward.minimum=", "optim.lr=1e-4"],
    )
    first, second, third = (resolve(preset="tiny", overrides=part) for part in parts)
    changes = [
        SettingChange(step, each.setting, each.old, each.new)
        for step, old, new in ((4, first, second), (8, second, third))
        for each in differences(old, new)
    ]
    until = {step: resolved_until(step, third, changes=changes).settings for step in (4, 5, 8, 9)}
    assert until == {4: first.settings, 5: second.settings, 8: second.settings, 9: third.settings}


def test_an_interrupted_run_of_two_methods_says_so_to_the_end(tmp_path: Path) -> None:
    """Ctrl-C, a change, and on: the law of the folder through the real signal."""
    out = tmp_path / "run"

    def interrupt(step: int) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train.run(
            resolve(preset="tiny", overrides=[*SMALL, "train.steps=3"]),
            out=out,
            resume="auto",
            observer=AtStep(interrupt),
        )
    _, lines = run_tiny(out, "credit.rule=entropy", allow_change=True)
    assert [line["step"] for line in lines] == [2, 3]
    (change,) = read_changes(out)
    assert (change.step, change.setting, change.new) == (1, "credit.rule", "entropy")


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that turned to another rule and rate after its first step, and was evaluated twice."""
    place = tmp_path_factory.mktemp("changed")
    bench = f"eval.bench={problems(place)}"
    evals = ("train.checkpoint_every=1", "eval.every=1", "eval.k=1", bench)
    run_tiny(place / "run", *evals, steps=1)
    other = ("credit.rule=uniform", "optim.lr=1e-5", "train.rollouts_every=1")
    run_tiny(place / "run", *evals, *other, steps=2, allow_change=True)
    return place / "run"


CHANGED = ["credit.rule dgpo -> uniform after step 1", "optim.lr 0.0002 -> 1e-05 after step 1"]


def test_report_and_inspect_tell_of_the_change(changed: Path) -> None:
    (record,) = report.run([changed])
    assert [change_text(each) for each in record.changes] == CHANGED
    folder = RunFolder(changed)
    before, after = (look(source=folder.rollout_file(step)).changes for step in (1, 2))
    assert [change_text(each) for each in after] == CHANGED
    assert before == ()


def test_a_pushed_checkpoint_tells_of_the_settings_that_made_it(changed: Path) -> None:
    first, second = (
        push.run(
            resolve(config=changed / "settings.toml"),
            run=changed,
            repo="a/b",
            private=False,
            merged=False,
            step=step,
            dry_run=True,
            observer=NOBODY,
        ).card
        for step in (1, 2)
    )
    assert "Changed within the run" in second and "credit rule <code>uniform</code>" in second
    assert "Changed within the run" not in first and "credit rule <code>dgpo</code>" in first
    row = "| <code>credit.tau</code> | <code>0.5</code> |"
    assert row in first and row not in second


def test_the_card_of_an_evaluation_tells_of_the_change(
    changed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards = [
        json.loads((changed / "evals" / f"step-{step:06d}" / "card.json").read_text())
        for step in (0, 1, 2)
    ]
    told = [card["subject"]["trained"].get("changed") for card in cards]
    assert told == [None, None, CHANGED]
    install(monkeypatch, Asked(boxed))
    for step, expected in ((1, None), (2, CHANGED)):
        checkpoint = RunFolder(changed).checkpoint_dir(step)
        out = tmp_path / str(step)
        card = evaluated(problems(tmp_path), 1, out, f"model.path={checkpoint}").card
        assert card.subject.get("changed") == expected
