"""Laws of an evaluation: nothing is drawn twice, nothing mixes in, nothing is lost."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from dgpo_cli.config.protocols import load_protocol
from dgpo_cli.core.errors import ConfigError, DataError, ModelError, RunFolderBusy
from dgpo_cli.core.types import Disagreement
from dgpo_cli.engine import setup
from dgpo_cli.evals import evaluate, tally
from dgpo_cli.inspect.rollout_file import read_rollouts
from dgpo_cli.rewards import second_opinion
from tests.evals.evaluations import (
    PROBLEMS,
    Asked,
    boxed,
    install,
    problems,
    run,
    settings,
    stored,
)
from tests.runs.test_run_folder import HOLD

FILES = ("card.json", "settings.toml", "samples.jsonl", "report.json")


def samples(out: Path) -> bytes:
    return (out / "samples.jsonl").read_bytes()


def test_extended_and_straight_evaluations_have_the_same_bytes(tmp_path: Path) -> None:
    bench = problems(tmp_path)
    straight = run(bench, 4, tmp_path / "a")
    run(bench, 1, tmp_path / "b")
    extended = run(bench, 4, tmp_path / "b")
    assert samples(tmp_path / "a") == samples(tmp_path / "b")
    assert extended.evaluation.problems == straight.evaluation.problems
    assert (straight.sampled, extended.sampled) == (12, 9)
    assert straight.card == extended.card
    assert len({line["completion"] for line in stored(tmp_path / "a")}) > 3  # they are drawn


def test_a_larger_k_draws_exactly_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = problems(tmp_path)
    sampler = install(monkeypatch, Asked(boxed))
    run(bench, 8, tmp_path / "out")
    first = [seed for batch in sampler.seeds for own in batch for seed in own]
    sampler.seeds.clear()
    result = run(bench, 32, tmp_path / "out")
    more = [seed for batch in sampler.seeds for own in batch for seed in own]
    assert (len(first), len(more), result.sampled) == (3 * 8, 3 * 24, 72)
    assert len({*first, *more}) == 3 * 32
    assert {(line["prompt_id"], line["index"]) for line in stored(tmp_path / "out")} == {
        (name, index) for name in ("12+7", "41+8", "3*9") for index in range(32)
    }


def test_a_smaller_k_uses_the_first_samples_and_draws_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = problems(tmp_path)
    sampler = install(monkeypatch, Asked(boxed))
    small = run(bench, 2, tmp_path / "small").evaluation
    run(bench, 6, tmp_path / "out")
    before, drawn = samples(tmp_path / "out"), len(sampler.seeds)
    again = run(bench, 2, tmp_path / "out")
    assert again.evaluation.problems == small.problems
    assert (again.evaluation.k, again.sampled, len(sampler.seeds)) == (2, 0, drawn)
    assert samples(tmp_path / "out") == before


def test_batches_are_full_across_problems_and_go_round_the_problems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = problems(tmp_path)
    sampler = install(monkeypatch, Asked(boxed))
    run(bench, 3, tmp_path / "out")
    assert sampler.batches == [4, 4, 1]
    order = [(line["index"], line["prompt_id"]) for line in stored(tmp_path / "out")]
    assert order == [(i, name) for i in range(3) for name in ("12+7", "41+8", "3*9")]


def test_a_line_cut_short_is_drawn_again_and_said(tmp_path: Path) -> None:
    bench = problems(tmp_path)
    run(bench, 2, tmp_path / "out")
    whole = samples(tmp_path / "out")
    (tmp_path / "out" / "samples.jsonl").write_bytes(whole[:-30])
    notes: list[str] = []
    result = run(bench, 2, tmp_path / "out", notes=notes)
    assert samples(tmp_path / "out") == whole
    assert result.sampled == 1
    assert any("torn or damaged" in event for event in notes)
    assert any("5 of 6 samples are stored" in event for event in notes)


def test_garbage_behind_whole_samples_is_removed_and_nothing_is_drawn(tmp_path: Path) -> None:
    bench = problems(tmp_path)
    run(bench, 2, tmp_path / "out")
    whole = samples(tmp_path / "out")
    (tmp_path / "out" / "samples.jsonl").write_bytes(whole + b"\0\0\0\xff\n")
    notes: list[str] = []
    assert run(bench, 2, tmp_path / "out", notes=notes).sampled == 0
    assert samples(tmp_path / "out") == whole
    assert not any("drawn again" in event for event in notes)
    assert any("removed its last line, which was torn or damaged" in event for event in notes)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ({"answer": "20"}, "its answer is not the benchmark's"),
        ({"messages": [{"role": "user", "content": "x"}]}, "its prompt is not the benchmark's"),
        ({"seed": 1}, "its seed is 1, not "),
        ({"prompt_id": "x"}, "the benchmark has no such problem"),
    ],
)
@pytest.mark.parametrize("sealed", [True, False])
def test_a_stored_sample_that_was_edited_is_noticed(
    tmp_path: Path, edit: dict[str, object], said: str, sealed: bool
) -> None:
    bench = problems(tmp_path)
    run(bench, 2, tmp_path / "out")
    lines = stored(tmp_path / "out")
    number = next(n for n, line in enumerate(lines) if line["prompt_id"] == "12+7")
    before = dict(lines[number])
    lines[number] |= edit
    if sealed:
        said = f"samples.jsonl:{number + 1}: .* was changed since it was written"
    else:  # of a version that wrote no digests
        lines = [{k: v for k, v in line.items() if k != "digest"} for line in lines]
    (tmp_path / "out" / "samples.jsonl").write_text(
        "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    )
    edited = samples(tmp_path / "out")
    with pytest.raises(DataError, match=rf"{said}.*delete the line"):
        run(bench, 2, tmp_path / "out")
    assert samples(tmp_path / "out") == edited
    kept = edited.splitlines(keepends=True)
    del kept[number]
    (tmp_path / "out" / "samples.jsonl").write_bytes(b"".join(kept))
    assert run(bench, 2, tmp_path / "out").sampled == 1
    assert stored(tmp_path / "out")[-1] == before


def test_an_interrupt_keeps_finished_batches_and_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = problems(tmp_path)
    install(monkeypatch, Asked(boxed))
    run(bench, 4, tmp_path / "straight")
    install(monkeypatch, Asked(boxed, fail_after=2))
    with pytest.raises(KeyboardInterrupt) as stop:
        run(bench, 4, tmp_path / "out")
    assert len(stored(tmp_path / "out")) == 8
    assert not (tmp_path / "out" / "report.json").exists()
    kept = (
        f"stopped; 8 of 12 samples are kept in {tmp_path / 'out'}; run the same command to resume"
    )
    assert str(stop.value) == kept
    sampler = install(monkeypatch, Asked(boxed))
    run(bench, 4, tmp_path / "out")
    assert sampler.batches == [4]
    assert samples(tmp_path / "out") == samples(tmp_path / "straight")


def test_every_batch_is_on_the_disk_before_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    seen: list[int] = []

    def text(seed: int) -> str:
        path = out / "samples.jsonl"
        seen.append(len(path.read_bytes().splitlines()) if path.exists() else 0)
        return boxed(seed)

    install(monkeypatch, Asked(text))
    run(problems(tmp_path), 4, out)
    assert seen == [0] * 4 + [4] * 4 + [8] * 4


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["rollout.temperature=0.5"], "protocol.temperature: 1.0 -> 0.5"),
        (["seed=1"], "protocol.seed: 0 -> 1"),
        (["prompts.template=Q {problem}"], "protocol.template: {problem} -> Q {problem}"),
        (["reward.extract=last-number"], "protocol.checker.extract: boxed -> last-number"),
        (["model.dtype=bfloat16"], "subject.dtype: float32 -> bfloat16"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_samples_of_another_card_are_refused_with_every_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: list[str], said: str
) -> None:
    bench = problems(tmp_path)
    sampler = install(monkeypatch, Asked(boxed))
    out = tmp_path / "out"
    run(bench, 1, out)
    before = {name: (out / name).read_bytes() for name in FILES}
    sampler.seeds.clear()
    with pytest.raises(ConfigError) as caught:
        run(bench, 1, out, "rollout.top_k=7", *overrides)
    message = str(caught.value)
    assert said in message
    assert "protocol.top_k: 0 -> 7" in message
    assert "--out" in message and "--fresh" in message and "\n" not in message
    assert {name: (out / name).read_bytes() for name in FILES} == before
    assert sampler.seeds == []


def test_other_data_under_the_same_name_is_another_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, Asked(boxed))
    run(problems(tmp_path), 1, tmp_path / "out")
    changed = problems(tmp_path, {"12+7": "19", "41+8": "49", "3*9": "28"})
    with pytest.raises(ConfigError, match=r"protocol\.sha256"):
        run(changed, 1, tmp_path / "out")


def test_fresh_starts_the_folder_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = problems(tmp_path)
    install(monkeypatch, Asked(boxed))
    run(bench, 3, tmp_path / "out")
    result = run(bench, 1, tmp_path / "out", "seed=1", fresh=True)
    assert result.sampled == len(stored(tmp_path / "out")) == 3
    assert json.loads((tmp_path / "out" / "card.json").read_text())["key"] == result.card.key


def test_samples_without_a_card_are_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "samples.jsonl").write_text("{}\n")
    with pytest.raises(ConfigError, match=r"without a card\.json"):
        run(problems(tmp_path), 1, tmp_path / "out")


def test_a_training_run_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text("")
    (tmp_path / "run" / "settings.toml").write_text("seed = 5\n")
    with pytest.raises(ConfigError, match="contains a training run"):
        run(problems(tmp_path), 1, tmp_path / "run", fresh=True)
    assert (tmp_path / "run" / "settings.toml").read_text() == "seed = 5\n"


def test_two_evaluations_into_one_folder_are_refused(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "out")], stdout=subprocess.PIPE, text=True
    ) as holder:
        try:
            assert holder.stdout is not None and holder.stdout.readline() == "held\n"
            with pytest.raises(RunFolderBusy, match=f"process {holder.pid}"):
                run(problems(tmp_path), 1, tmp_path / "out")
        finally:
            holder.kill()


def test_the_default_folder_is_named_after_the_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = problems(tmp_path)
    monkeypatch.chdir(tmp_path)
    sampler = install(monkeypatch, Asked(boxed))
    one, two = run(bench, 1, None), run(bench, 2, None)
    other = run(bench, 1, None, "rollout.top_k=3")
    assert one.out == two.out == Path("evals") / f"three-tiny-{one.card.key[:8]}"
    assert other.out != one.out
    assert sampler.batches == [3, 3, 3]


def test_repeated_samples_are_counted_within_their_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, Asked(lambda seed: rf"\boxed{{{seed % 2}}}"))
    result = run(problems(tmp_path), 8, tmp_path / "out").evaluation
    lines = stored(tmp_path / "out")
    kinds = {(line["prompt_id"], line["completion"]) for line in lines}
    assert result.duplicates == 24 - len(kinds) > 0
    # A seed decides between two texts, each of which the sampler says is 1 in e^4 or rarer.
    assert result.odd_duplicates
    assert all(line["logprob"] == -0.5 * len(line["token_ids"]) for line in lines)
    install(monkeypatch, Asked(boxed))
    assert run(problems(tmp_path), 8, tmp_path / "other").evaluation.duplicates == 0


def test_the_same_text_from_other_tokens_is_no_repetition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, Asked(lambda seed: "one"))
    monkeypatch.setattr(Asked, "_completion", other_tokens)
    assert run(problems(tmp_path), 2, tmp_path / "out").evaluation.duplicates == 0


def other_tokens(self: Asked, seed: int) -> object:
    from dgpo_cli.core.types import Completion

    return Completion((seed % 2**31, 1), (), "one", "stop", 0, seed)


def test_a_prompt_with_two_bos_tokens_stops_before_anything_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = install(monkeypatch, Asked(boxed))
    original = setup.sampling_engine

    def with_bos(*args: object, **named: object) -> object:
        engine = original(*args, **named)  # type: ignore[arg-type]
        tokenizer = engine.policy.tokenizer
        tokenizer.bos_token = "<|user|>"  # a special token that is in the vocabulary
        tokenizer.chat_template = (
            "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"
        )
        return engine

    monkeypatch.setattr(setup, "sampling_engine", with_bos)
    bench = problems(tmp_path)
    run(bench, 1, tmp_path / "good")
    sampler.seeds.clear()
    with pytest.raises(
        ModelError, match=r"prompt '12\+7' opens with two BOS tokens \(ids \[3, 3, "
    ):
        run(bench, 1, tmp_path / "bad", "prompts.template=<|user|>{problem}")
    assert sampler.seeds == []
    assert not (tmp_path / "bad").exists()


def test_a_problem_that_is_too_long_stops_the_evaluation(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"prompts\.max_prompt_tokens=3; raise it"):
        run(problems(tmp_path), 1, tmp_path / "out", "prompts.max_prompt_tokens=3")


def test_an_answer_that_cannot_be_judged_stops_the_evaluation_before_it_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = install(monkeypatch, Asked(boxed))
    bench = problems(tmp_path, PROBLEMS | {"half": "1/2"})
    with pytest.raises(
        DataError, match=r"1 of 4 answers .* problem 'half' \(line 4\), is not an integer"
    ):
        run(bench, 1, tmp_path / "out")
    assert sampler.seeds == []
    assert not (tmp_path / "out").exists()


def test_stored_samples_are_a_file_of_rollouts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, Asked(boxed))
    result = run(problems(tmp_path), 2, tmp_path / "out")
    lines = list(read_rollouts(tmp_path / "out" / "samples.jsonl"))
    assert [(line.prompt.id, line.prompt.text, line.index) for line in lines[:3]] == [
        ("12+7", "12+7?", 0),
        ("41+8", "41+8?", 0),
        ("3*9", "3*9?", 0),
    ]
    right = sum(line.verdict.outcome == "correct" for line in lines)
    assert right / 6 == pytest.approx(result.evaluation.avg_at_k)
    assert all(line.completion.text == boxed(line.completion.seed) for line in lines)


def test_the_report_counts_what_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Asked(boxed))
    result = run(problems(tmp_path), 4, tmp_path / "out").evaluation
    lines = stored(tmp_path / "out")
    for problem in result.problems:
        own = [line for line in lines if line["prompt_id"] == problem.id]
        seeds = [line["seed"] for line in sorted(own, key=lambda line: line["index"])]
        gold = int(problem.answer)
        assert problem.correct == sum((19, 49, 27, 3)[seed % 4] == gold for seed in seeds)
    assert math.isclose(result.avg_at_k, sum(p.correct for p in result.problems) / 12)


def test_the_second_opinion_is_asked_once_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def opinions(items: list, **named: object) -> list[str]:  # type: ignore[type-arg]
        asked.append([item.text for item in items])
        return ["correct" if "1/" in item.text else "timeout" for item in items]

    found: list[list[Disagreement]] = []
    original = tally.summarise

    def summarise(*args: object, **named: object) -> object:
        found.append(list(named["disagreements"]))  # type: ignore[call-overload]
        return original(*args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(second_opinion, "second_opinions", opinions)
    monkeypatch.setattr(tally, "summarise", summarise)
    texts = (r"\boxed{1/%d}", r"\boxed{%d}")
    install(monkeypatch, Asked(lambda seed: texts[seed % 2] % seed))
    bench = problems(tmp_path)
    run(bench, 2, tmp_path / "out", second_opinion=False)
    assert asked == [] and all("second" not in line for line in stored(tmp_path / "out"))
    plain = stored(tmp_path / "out")
    first = run(bench, 2, tmp_path / "out")
    run(bench, 4, tmp_path / "out")
    run(bench, 4, tmp_path / "out")
    lines = stored(tmp_path / "out")
    for line in [*plain, *lines]:
        del line["digest"]
    assert [{k: v for k, v in line.items() if k != "second"} for line in lines[:6]] == plain
    assert [len(call) for call in asked] == [6, 6]
    assert [text for call in asked for text in call] == [line["completion"] for line in lines]
    fractions = [line for line in lines if line["seed"] % 2 == 0]
    assert all(line["second"] == "correct" for line in fractions)
    assert all(line["second"] == "timeout" for line in lines if line["seed"] % 2)
    # A timeout is no disagreement, and without a second opinion there is none.
    assert {(d.problem_id, d.index, d.outcome, d.second) for d in found[-1]} == {
        (line["prompt_id"], line["index"], "wrong", "correct") for line in fractions
    }
    assert found[0] == []
    assert first.evaluation.avg_at_k == 0.0  # a second opinion settles nothing


def test_the_math_checker_is_asked_where_reading_is_an_art(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = (r"so \boxed{\frac{38}{2}} (%d)", r"so \boxed{19} (%d)", r"no idea (%d)")
    install(monkeypatch, Asked(lambda seed: texts[seed % 3] % seed))
    run(problems(tmp_path, {"12+7": "19"}), 6, tmp_path / "out")
    lines = stored(tmp_path / "out")
    assert {line["seed"] % 3 for line in lines} == {0, 1, 2}
    for line in lines:
        second = {0: "correct", 1: "correct", 2: "no_answer"}[line["seed"] % 3]
        assert line["second"] == second, line["completion"]


def test_the_protocol_and_what_was_changed_of_it_are_on_the_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dgpo_cli.config.load import resolve

    install(monkeypatch, Asked(boxed))
    protocol = load_protocol("paper")
    assert protocol is not None
    resolved = resolve(
        preset="tiny",
        protocol=protocol.layer(),
        overrides=["rollout.top_p=0.8", "prompts.max_prompt_tokens=1000", "train.threads=1"],
    )
    card = run(problems(tmp_path), 1, tmp_path / "out", resolved=resolved, protocol=protocol).card
    assert card.protocol["name"] == "paper"
    assert card.protocol["changed"] == {"rollout.top_p": 0.8}
    assert "rollout.temperature" in card.protocol["unknown"]
    assert (card.protocol["top_p"], card.protocol["max_completion_tokens"]) == (0.8, 20480)


def test_two_problems_of_one_id_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    original = evaluate.load_benchmark

    def doubled(*args: object, **named: object) -> object:
        found = original(*args, **named)  # type: ignore[arg-type]
        return replace(found, prompts=(*found.prompts, found.prompts[0]))

    monkeypatch.setattr(evaluate, "load_benchmark", doubled)
    with pytest.raises(DataError, match=r"two problems have the id '12\+7'"):
        run(problems(tmp_path), 1, tmp_path / "out")


def test_settings_say_where_each_value_is_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, Asked(boxed))
    run(problems(tmp_path), 1, tmp_path / "out", "rollout.top_k=3")
    text = (tmp_path / "out" / "settings.toml").read_text()
    assert "top_k = 3 # from --set" in text
    assert settings("rollout.top_k=3").settings.rollout.top_k == 3


def test_a_greedy_evaluation_says_so_and_does_not_depend_on_the_seed(tmp_path: Path) -> None:
    bench, greedy = problems(tmp_path), "rollout.temperature=0"
    one = run(bench, 1, tmp_path / "a", greedy)
    two = run(bench, 1, tmp_path / "b", greedy, "seed=5")
    texts = [[line["completion"] for line in stored(tmp_path / name)] for name in "ab"]
    assert texts[0] == texts[1]
    assert one.evaluation.greedy is True and one.evaluation.problems == two.evaluation.problems
    report = json.loads((tmp_path / "a" / "report.json").read_text())
    assert (report["greedy"], report["stderr_rerun"], report["rerun_95"]) == (
        True,
        None,
        [None, None],
    )
    assert report["problems_95"] != [None, None]
    assert one.card.protocol["temperature"] == 0
    line = stored(tmp_path / "a")[0]
    assert line["temperature"] == 0 and -4 * len(line["token_ids"]) < line["logprob"] <= 0
    sampled = run(bench, 1, tmp_path / "c").evaluation
    assert sampled.greedy is None and not math.isnan(sampled.rerun_95.low)
