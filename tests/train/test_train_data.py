"""Runs on data: the hub's commit is kept, other data is refused, nothing is lost on resuming."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dgpo_cli.config.load import resolve
from dgpo_cli.core.errors import ConfigError, DataError
from dgpo_cli.engine.checkpoint import load_state
from dgpo_cli.runs.pending import PENDING_FILE as FILE
from dgpo_cli.runs.pending import read_pending
from dgpo_cli.runs.run_folder import RunFolder
from dgpo_cli.train import data as data_module
from tests.hub.hub_server import Hub, serving
from tests.hub.test_hub import REVISION, cache
from tests.train.test_train import numbers, run_tiny, weights

__all__ = ["cache"]  # a fixture of the tests here

DYNAMIC = (
    "rollout.dynamic_sampling=true",
    "rollout.max_rounds=4",
    "reward.overlong.buffer_tokens=8",
    "loss.mask_truncated=true",
    "optim.lr=1e-3",
)


def sums(start: int, stop: int) -> str:
    rows = [{"problem": f"{n}+{n + 1}?", "answer": 2 * n + 1} for n in range(start, stop)]
    return "".join(json.dumps(row) + "\n" for row in rows)


def file_of(folder: Path, text: str) -> tuple[str, str]:
    path = folder / "data.jsonl"
    path.write_text(text)
    return "prompts.kind=file", f"prompts.path={path}"


def test_a_dynamic_run_in_two_parts_is_the_run_in_one(tmp_path: Path) -> None:
    settings = (*file_of(tmp_path, sums(10, 60)), *DYNAMIC)
    whole, whole_lines = run_tiny(tmp_path / "whole", *settings, steps=4)
    first, first_lines = run_tiny(tmp_path / "parts", *settings, steps=2)
    state, kept = load_state(first.checkpoint), read_pending(first.checkpoint)
    assert kept  # or the test shows nothing
    assert first_lines[-1]["dynamic/groups_kept_over"] == len(kept)
    sampled = sum(line["dynamic/groups_sampled"] for line in first_lines)
    assert (state.draws, state.prompts) == (sampled / 4, sampled)
    parts, part_lines = run_tiny(tmp_path / "parts", *settings, steps=4, resume="must")
    assert numbers(part_lines) == numbers(whole_lines[2:])
    assert part_lines[0]["dynamic/groups_carried_in"] == len(kept)
    assert part_lines[0]["loss/ratio_max"] > 1.0 > part_lines[0]["loss/ratio_min"]
    one, two = weights(whole.checkpoint), weights(parts.checkpoint)
    assert all((one[name] == two[name]).all() for name in one)
    assert (whole.checkpoint / FILE).read_bytes() == (parts.checkpoint / FILE).read_bytes()


def test_rewards_and_lengths_of_a_dynamic_step_are_of_all_that_was_sampled(tmp_path: Path) -> None:
    _, lines = run_tiny(tmp_path / "run", *DYNAMIC, steps=2)
    for line in lines:
        sampled = line["dynamic/groups_sampled"]
        mixed = 1 - line["groups/all_correct"] - line["groups/none_correct"]
        assert mixed * sampled == pytest.approx(sampled - line["dynamic/groups_dropped"])
        assert {"overlong/penalised", "overlong/masked"} <= line.keys()


def test_settings_without_a_new_part_train_as_before(tmp_path: Path) -> None:
    _, plain = run_tiny(tmp_path / "plain", steps=2)
    assert not any(name.startswith("dynamic/") for name in plain[0])
    assert plain[0]["overlong/penalised"] == plain[0]["overlong/masked"] == 0.0


def test_a_change_of_prompts_per_step_skips_and_repeats_no_prompt(tmp_path: Path) -> None:
    settings = file_of(tmp_path, sums(10, 40))
    run_tiny(tmp_path / "run", *settings, "train.rollouts_every=1", steps=2)
    changed = ("rollout.prompts_per_step=8", "train.rollouts_every=1")
    run_tiny(tmp_path / "run", *settings, *changed, steps=4, allow_change=True)
    drawn = []
    for path in RunFolder(tmp_path / "run").rollouts():
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        drawn += list(dict.fromkeys(line["prompt_id"] for line in lines))
    assert len(drawn) == 4 + 4 + 8 + 8 == len(set(drawn))


def test_an_answer_that_cannot_be_judged_ends_the_run_before_its_first_step(tmp_path: Path) -> None:
    rows = sums(10, 60).splitlines(keepends=True)
    rows[40] = json.dumps({"problem": "1/2?", "answer": "1/2"}) + "\n"
    settings = file_of(tmp_path, "".join(rows))
    message = (
        r"data\.jsonl: 1 of 50 answers .* problem 'data:41' \(line 41\): "
        r"answer='1/2' is not an integer"
    )
    with pytest.raises(DataError, match=message):
        run_tiny(tmp_path / "run", *settings, steps=20)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_general_answer_that_cannot_be_judged_ends_the_run_before_its_first_step(
    tmp_path: Path,
) -> None:
    rows = sums(10, 60).splitlines(keepends=True)
    rows[40] = json.dumps({"id": "p7", "problem": "Prove it.", "answer": "N/A"}) + "\n"
    settings = file_of(tmp_path, "".join(rows))
    message = r"data\.jsonl: 1 of 50 .* problem 'p7' \(line 41\): answer='N/A' is a placeholder"
    with pytest.raises(DataError, match=message):
        run_tiny(tmp_path / "run", *settings, "reward.kind=math", steps=20)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize("other", [sums(10, 39), sums(11, 41), sums(10, 40).replace("21", "22")])
def test_a_run_is_not_gone_on_with_on_other_data(tmp_path: Path, other: str) -> None:
    settings = file_of(tmp_path, sums(10, 40))
    run_tiny(tmp_path / "run", *settings, steps=1)
    before = (tmp_path / "run" / "settings.toml").read_bytes()
    file_of(tmp_path, other)
    with pytest.raises(ConfigError, match=r"prompts: the data are not .* give another --out"):
        run_tiny(tmp_path / "run", *settings, steps=2)
    assert (tmp_path / "run" / "settings.toml").read_bytes() == before
    file_of(tmp_path, sums(10, 40))
    run_tiny(tmp_path / "run", *settings, steps=2)


def test_a_run_on_the_hub_reads_the_commit_it_began_with(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"data.jsonl": sums(10, 40).encode()}
    settings = ("prompts.kind=hub", "prompts.dataset=a/b")
    events: list[str] = []
    with serving(Hub("a/b", REVISION, files)) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        run_tiny(tmp_path / "run", *settings, steps=1, events=events)
        assert f"a/b: main is commit {REVISION}; prompts.revision is set to it" in events
        stored = resolve(config=tmp_path / "run" / "settings.toml").settings.prompts
        assert getattr(stored, "revision", None) == REVISION
        hub.revision, hub.files = "f" * 40, {"data.jsonl": sums(50, 90).encode()}
        later: list[str] = []
        run_tiny(tmp_path / "run", *settings, steps=2, events=later)
        assert f"a/b: read at commit {REVISION}, with which the run began" in later
        assert not any(event.startswith("prompts.") for event in later)
        run_tiny(tmp_path / "new", *settings, steps=1)
    stored = resolve(config=tmp_path / "new" / "settings.toml").settings.prompts
    assert getattr(stored, "revision", None) == "f" * 40


def test_a_run_on_the_hub_is_not_gone_on_with_at_another_tag(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, hub_data = tmp_path / "run", ("prompts.kind=hub", "prompts.dataset=a/b")
    source = Hub("a/b", REVISION, {"data.jsonl": sums(10, 40).encode()})
    source.branches = ("v1", "v2")
    with serving(source) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        run_tiny(out, *hub_data, "prompts.revision=v1", steps=1)
        hub.revision = "f" * 40
        for same in ((), ("prompts.revision=v1",), (f"prompts.revision={REVISION}",)):
            result, _ = run_tiny(out, *hub_data, *same, steps=1)
            assert result.trained == 0
        for allow in (False, True):
            with pytest.raises(ConfigError, match=r"prompts\.revision cannot change within a run"):
                run_tiny(out, *hub_data, "prompts.revision=v2", steps=2, allow_change=allow)
        run_tiny(out, *hub_data, steps=2)
        with pytest.raises(ConfigError, match=rf"prompts\.revision: {REVISION} in .*, now f"):
            run_tiny(out, *hub_data, "prompts.revision=v2", steps=3)


def test_a_benchmark_that_is_left_out_of_the_data_belongs_to_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_module, "own_names", lambda: ())
    data = file_of(tmp_path, sums(10, 40))
    for name, problems in (("a", sums(10, 13)), ("b", sums(20, 23))):
        (tmp_path / f"{name}.jsonl").write_text(problems)
    first, second = (f"eval.bench={tmp_path / name}.jsonl" for name in ("a", "b"))
    events: list[str] = []
    run_tiny(tmp_path / "free", *data, first, steps=1)
    run_tiny(tmp_path / "free", *data, second, steps=2, events=events)
    assert any(event.startswith("eval.bench was") for event in events)
    drop = (*data, "prompts.drop_overlap=true")
    run_tiny(tmp_path / "run", *drop, first, steps=1)
    for allow in (False, True):
        with pytest.raises(ConfigError, match=r"eval\.bench cannot change within a run"):
            run_tiny(tmp_path / "run", *drop, second, steps=2, allow_change=allow)


def overlap_notes(events: list[str]) -> list[str]:
    return [event for event in events if "contamination of" in event or "drop_overlap" in event]


def test_problems_of_the_runs_benchmark_are_reported_and_on_request_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_module, "own_names", lambda: ("sums-easy", "aime2024"))
    bench = tmp_path / "bench.jsonl"
    bench.write_text(sums(110, 113))
    settings = (*file_of(tmp_path, sums(110, 140)), f"eval.bench={bench}", "eval.every=0")
    events: list[str] = []
    run_tiny(tmp_path / "not-compared", *settings, steps=1, events=events)
    assert overlap_notes(events) == [
        "contamination of 30 problems by benchmarks: none by sums-easy; "
        "not in the cache, not compared: aime2024"
    ]
    events.clear()
    run_tiny(tmp_path / "left-out", *settings, "prompts.drop_overlap=true", steps=1, events=events)
    assert overlap_notes(events) == [
        f"contamination of 30 problems by benchmarks: {bench} 3 ('data:1', 'data:2', 'data:3'); "
        "none by sums-easy; not in the cache, not compared: aime2024",
        f"3 of 30 problems are left out: also in {bench} (prompts.drop_overlap)",
    ]
