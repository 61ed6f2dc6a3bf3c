"""Laws of the values of a run's completions: who samples, what is judged, and what is refused."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

from dgpo_cli.core.errors import ConfigError, DataError, Interrupted
from dgpo_cli.core.events import Observers
from dgpo_cli.core.types import Inspection
from dgpo_cli.inspect.values.policy import run_of
from dgpo_cli.runs.run_folder import RunFolder
from tests.inspect.looks import look, stored_lines
from tests.recorder import Notes


def of_group(found: Inspection, lines: list[dict[str, object]]) -> list[dict[str, object]]:
    """The stored lines of the only prompt that is shown."""
    (name,) = {shown.prompt_id for shown in found.completions}
    return [line for line in lines if line["prompt_id"] == name]


def test_every_token_has_a_value_that_begins_with_the_group_and_ends_with_the_reward(
    trained: Path,
) -> None:
    found = look(source=trained, group=1, value=4)
    lines = of_group(found, stored_lines(trained))
    assert found.values is not None and found.values.later == 0
    assert found.values.model.endswith("step-000002")
    firsts = set()
    for shown, line in zip(found.completions, lines, strict=True):
        assert shown.values is not None
        points = shown.values.points
        assert [point.at for point in points] == [*range(len(shown.tokens) + 1)]
        last = points[-1]
        assert (last.value, last.low, last.high, last.count) == (line["reward"],) * 3 + (0,)
        # 4 continuations, and the completions of the group that begin like this one.
        assert points[0].count == 4 + len(lines)
        firsts.add(points[0].value)
        assert math.fsum(shown.values.moves()) == pytest.approx(last.value - points[0].value)
    assert len(firsts) == 1


def test_what_is_stored_is_shown_as_without_values(trained: Path) -> None:
    from dataclasses import replace

    plain, valued = look(source=trained, group=0), look(source=trained, group=0, value=1)
    bare = [replace(shown, values=None) for shown in valued.completions]
    assert bare == list(plain.completions)


def test_a_policy_that_is_not_kept_is_replaced_by_the_nearest_and_this_is_told(
    trained: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    told: list[str] = []
    rollouts = RunFolder(run).rollout_file(2)  # of the weights after step 1, which are gone
    found = look(rollouts=rollouts, sample=0, group=0, value=2, observer=Observers([Notes(told)]))
    assert found.values is not None and found.values.later in (-1, 1)
    (note,) = [text for text in told if "not kept" in text]
    assert "1 update" in note
    (shown,) = found.completions
    assert shown.values is not None
    # Completions of another policy say nothing of this one: only continuations count.
    assert {point.count for point in shown.values.points[:-1]} == {2}


def test_first_rollouts_are_of_the_initial_model(trained: Path) -> None:
    found = look(rollouts=RunFolder(trained).rollout_file(1), group=0, sample=0, value=1)
    assert found.values is not None
    assert (found.values.model, found.values.later) == ("the initial model", 0)


def test_a_run_is_found_from_inside_its_folder(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = RunFolder(trained).rollouts()[-1]
    monkeypatch.chdir(file.parent)
    run = run_of(Path(file.name))
    assert run is not None and run.path == trained.resolve()
    assert run_of(trained / "metrics.jsonl") is None


def test_without_continuations_the_group_is_all_there_is(trained: Path) -> None:
    found = look(source=trained, group=1, value=0)
    lines = of_group(found, stored_lines(trained))
    rewards = [line["reward"] for line in lines]
    for shown in found.completions:
        assert shown.values is not None
        assert shown.values.points[0].value == pytest.approx(sum(rewards) / len(rewards))  # type: ignore[arg-type]
    assert found.values is not None and found.values.continuations == 0


def _alone(trained: Path, folder: Path, **changes: object) -> Path:
    """The completions of a run in a file that is not in a run's folder."""
    path = folder / "alone.jsonl"
    lines = (json.dumps({**line, "weights": None, **changes}) for line in stored_lines(trained))
    path.write_text("".join(line + "\n" for line in lines))
    return path


def test_a_file_alone_needs_a_model_and_a_reward(trained: Path, tmp_path: Path) -> None:
    path = _alone(trained, tmp_path)
    choice = {"group": 0, "sample": 0, "value": 1}
    reward = ("reward.kind=integer",)
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    (run / "settings.toml").unlink()
    with pytest.raises(ConfigError, match=r"not in a run folder.*give --model"):
        look(source=run, **choice, settings=reward)
    choice["rollouts"] = path
    models = {"model": "embedded:tiny", "reference": "embedded:tiny"}
    with pytest.raises(ConfigError, match=r"no settings.toml beside .*--set reward.kind=math"):
        look(**choice, **models)
    found = look(**choice, **models, settings=(*reward, "rollout.max_completion_tokens=48"))
    assert found.values is not None and found.values.later is None
    (shown,) = found.completions
    assert shown.values is not None and len(shown.values.points) == len(shown.tokens) + 1
    with pytest.raises(DataError, match=r"rollout.max_completion_tokens=4"):
        look(**choice, **models, settings=(*reward, "rollout.max_completion_tokens=4"))


def test_a_line_that_cannot_be_continued_or_judged_is_refused(
    trained: Path, tmp_path: Path
) -> None:
    models = {"model": "embedded:tiny", "reference": "embedded:tiny", "group": 0, "sample": 0}
    reward = ("reward.kind=integer", "rollout.max_completion_tokens=48")
    path = _alone(trained, tmp_path, token_ids=None, answer="7")
    with pytest.raises(DataError, match="has no token_ids to continue from"):
        look(rollouts=path, value=1, settings=reward, **models)
    path = _alone(trained, tmp_path, answer="")
    with pytest.raises(DataError, match="answers are unusable"):
        look(rollouts=path, value=1, settings=reward, **models)


def test_a_reward_that_reads_the_data_cannot_judge_a_file(trained: Path, tmp_path: Path) -> None:
    code = tmp_path / "own.py"
    code.write_text("def check(completion, level):\n    return 1.0\n")
    path = _alone(trained, tmp_path)
    settings = ("reward.kind=python", f"reward.path={code}:check")
    models = {"model": "embedded:tiny", "reference": "embedded:tiny", "group": 0, "sample": 0}
    with pytest.raises(DataError, match="reads columns of the data"):
        look(rollouts=path, value=1, settings=settings, **models)


def test_what_is_kept_is_not_sampled_again_and_more_continues_it(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dgpo_cli.policy.load_policy as load_policy
    import dgpo_cli.samplers.hf as hf

    run = tmp_path / "run"
    shutil.copytree(trained, run)
    choice = {"source": run, "group": 0, "sample": 0}
    whole = look(**choice, value=6)
    shutil.rmtree(run / "values")
    seeds: list[int] = []
    draw = hf.HfSampler.sample

    def counted(self: hf.HfSampler, prompts: object, **given: object) -> object:
        seeds.extend(seed for own in given["seeds"] for seed in own)  # type: ignore[attr-defined]
        return draw(self, prompts, **given)  # type: ignore[arg-type]

    monkeypatch.setattr(hf.HfSampler, "sample", counted)
    look(**choice, value=2)
    first = len(seeds)
    assert look(**choice, value=6).completions == whole.completions
    assert len(seeds) == len(set(seeds)) == 3 * first  # none of the first two is drawn again
    monkeypatch.setattr(load_policy, "load_for_sampling", lambda *_, **__: pytest.fail("loads"))
    assert look(**choice, value=6).completions == whole.completions
    assert look(**choice, value=2).values is not None
    (kept,) = (run / "values").iterdir()
    assert kept.name.startswith("step-000003-")


def test_in_a_folder_that_cannot_be_written_values_are_not_kept(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run, ignore=shutil.ignore_patterns("values"))
    monkeypatch.setattr("os.access", lambda *_: False)  # the superuser may write anywhere
    told: list[str] = []
    found = look(source=run, group=0, sample=0, value=1, observer=Observers([Notes(told)]))
    assert found.completions[0].values is not None
    assert not (run / "values").exists() and any("is not kept" in text for text in told)


def test_ctrl_c_keeps_what_is_estimated(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dgpo_cli.samplers.hf as hf
    from dgpo_cli.engine.values import continuations

    run = tmp_path / "run"
    shutil.copytree(trained, run)
    choice = {"source": run, "group": 0, "sample": 0, "value": 3}
    whole = look(**choice)
    shutil.rmtree(run / "values")
    monkeypatch.setattr(continuations, "_SLICE_ROWS", 30)
    calls = []
    draw = hf.HfSampler.sample

    def stopped(self: hf.HfSampler, *prompts: object, **given: object) -> object:
        calls.append(given)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return draw(self, *prompts, **given)  # type: ignore[arg-type]

    monkeypatch.setattr(hf.HfSampler, "sample", stopped)
    told: list[str] = []
    with pytest.raises(Interrupted, match="run the same command to resume"):
        look(**choice, observer=Observers([Notes(told)]))
    (kept,) = (run / "values").iterdir()
    assert any(str(kept) in text and "to resume" in text for text in told)
    stored = sum(len(json.loads(line)["rewards"]) for line in kept.read_text().splitlines()[1:])
    assert stored == 60
    assert look(**choice).completions == whole.completions


def test_the_rule_value_can_be_seen_on_a_run_that_trained_with_another(trained: Path) -> None:
    found = look(source=trained, group=1, value=4, rule="value")
    assert found.rule == "value"
    for shown in found.completions:
        assert shown.values is not None and shown.stored is not None
        moves = shown.values.moves()
        total = math.fsum(moves)
        expected = [len(moves) * move / total for move in moves] if total else [1.0] * len(moves)
        weights = [token.weight for token in shown.tokens]
        assert weights == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_a_mistake_in_the_rule_is_told_before_anything_is_sampled(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dgpo_cli.inspect.inspect as workflow

    monkeypatch.setattr(workflow, "estimated_values", lambda *_, **__: pytest.fail("samples"))
    with pytest.raises(ConfigError, match=r"credit\.shrae"):
        look(source=trained, group=0, value=2, overrides=("credit.shrae=1",))


def test_one_completion_with_its_values_is_a_wrong_one(trained: Path, tmp_path: Path) -> None:
    """That of the lowest effective token fraction among the wrong; without any, among all."""
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    path = RunFolder(run).rollouts()[-1]
    lines = stored_lines(run)
    for line in lines:
        wrong, middle = line["reward"] == 0, len(line["weights"]) / 2
        line["outcome"] = "wrong" if wrong else "correct"
        line["weights"] = [middle, middle] if not wrong else line["weights"]
        line["weights"] += [0.0] * (len(line["token_ids"]) - len(line["weights"]))

    def shown() -> Inspection:
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return look(source=run, one=True, value=0)

    assert look(source=trained, one=True, value=0).completions[0].outcome == "wrong"
    assert shown().completions[0].outcome == "wrong"
    assert look(source=run, one=True).completions[0].outcome == "correct"
    for line in lines:
        line["outcome"] = "correct"
    assert shown().completions[0].tokens == look(source=run, one=True).completions[0].tokens


def test_completions_are_judged_by_the_settings_of_their_step(
    trained: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    change = {"step": 1, "setting": "reward.correct", "old": 4.0, "new": 1.0}
    (run / "changes.jsonl").write_text(json.dumps(change) + "\n")
    for step, before in ((1, True), (2, False)):
        found = look(rollouts=RunFolder(run).rollout_file(step), group=0, value=8)
        # Stored rewards, which count too, and those of now are 1 at most.
        values = [p.value for each in found.completions if each.values for p in each.values.points]
        assert (max(values) > 1.0) == before


def test_another_reward_judges_the_completions_as_their_continuations(
    trained: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    usual = look(source=run, group=1, value=4)
    found = look(source=run, group=1, value=4, settings=("reward.correct=4",))
    for shown, before in zip(found.completions, usual.completions, strict=True):
        assert shown.values is not None and before.values is not None
        values = [point.value for point in shown.values.points]
        assert values == pytest.approx([4 * point.value for point in before.values.points])


@pytest.mark.parametrize("setting", ["rollout.top_p=0.5", "rollout.temperature=0.7"])
def test_completions_that_were_sampled_otherwise_do_not_count(
    trained: Path, tmp_path: Path, setting: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    found = look(source=run, group=0, sample=0, value=2, settings=(setting,))
    (shown,) = found.completions
    assert found.values is not None and found.values.later is None
    assert shown.values is not None
    assert {point.count for point in shown.values.points[:-1]} == {2}


def test_completions_of_several_versions_do_not_count(trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    lines = stored_lines(run)
    lines[0]["policy_version"] -= 1
    RunFolder(run).rollouts()[-1].write_text("".join(json.dumps(line) + "\n" for line in lines))
    told: list[str] = []
    found = look(source=run, group=0, sample=1, value=2, observer=Observers([Notes(told)]))
    (shown,) = found.completions
    assert any("2 versions of the policy" in text for text in told)
    assert shown.values is not None
    assert {point.count for point in shown.values.points[:-1]} == {2}
