"""Laws of other sources: any model, any program's completions, and texts that were typed."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from dgpo_cli.core.errors import ConfigError, DataError, ModelError
from dgpo_cli.core.resources import resource_dir
from dgpo_cli.core.types import InspectedCompletion, Message, Prompt
from dgpo_cli.inspect import fresh_stats, inspect
from dgpo_cli.policy.load import load_tokenizer, model_location
from dgpo_cli.policy.settings import ModelSettings
from dgpo_cli.prompts.templates import encode_prompt
from dgpo_cli.runs.run_folder import RunFolder
from tests.inspect.looks import look, stored_lines
from tests.recorder import Notes


@pytest.fixture
def models(trained: Path) -> dict[str, Any]:
    return {"model": str(RunFolder(trained).checkpoint_dir(2)), "reference": "embedded:tiny"}


def written(path: Path, *lines: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def numbers(shown: Any) -> list[tuple[float, ...]]:
    return [(t.id, t.logprob, t.entropy, t.hellinger_sq, t.weight) for t in shown.tokens]


@pytest.mark.parametrize("form", ["text", "conversation", "rendered", "ids"])
def test_texts_give_the_numbers_of_the_ids_that_they_came_from(
    trained: Path, tmp_path: Path, models: dict[str, Any], form: str
) -> None:
    lines = stored_lines(trained)[:3]
    tokenizer = load_tokenizer(ModelSettings(path="embedded:tiny"))
    forms = {
        "text": lambda line: {"prompt": line["prompt"], "completion": line["completion"]},
        "conversation": lambda line: {
            "messages": [
                *line["messages"],
                {"role": "assistant", "content": line["completion"]},
            ]
        },
        "rendered": lambda line: {
            "input": tokenizer.decode(line["prompt_token_ids"]),
            "output": tokenizer.decode(line["token_ids"]),
        },
        "ids": lambda line: {
            "prompt": "",
            "prompt_ids": line["prompt_token_ids"],
            "completion_ids": line["token_ids"],
        },
    }
    path = written(tmp_path / "x.jsonl", *(forms[form](line) for line in lines))
    found = look(rollouts=path, **models).completions
    whole = look(source=trained).completions[:3]
    for shown, own in zip(found, whole, strict=True):
        assert [t.id for t in shown.tokens] == [t.id for t in own.tokens]
        for ours, theirs in zip(numbers(shown), numbers(own), strict=True):
            assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-5)
        assert shown.outcome is None
        assert math.isnan(shown.reward) and math.isnan(shown.advantage)


def test_what_is_assumed_is_told(tmp_path: Path, models: dict[str, Any]) -> None:
    path = written(tmp_path / "x.jsonl", {"question": "1+1?", "response": "2"})
    events: list[str] = []
    look(rollouts=path, observer=Notes(events), **models)
    told = "\n".join(events)
    for part in (
        '"prompt" is taken from "question"',
        "ended by itself",
        "temperature 1",
        "no token ids; the completion's text is tokenised",
        "the model's chat template",
    ):
        assert part in told


def test_a_typed_completion_is_one_of_a_file(tmp_path: Path, models: dict[str, Any]) -> None:
    typed = look(prompt="12+7?", completion="12+7=19;\\boxed{19}", **models)
    path = written(tmp_path / "x.jsonl", {"prompt": "12+7?", "completion": "12+7=19;\\boxed{19}"})
    filed = look(rollouts=path, **models)
    assert numbers(typed.completions[0]) == numbers(filed.completions[0])
    assert typed.completions[0].tokens[-1].text == "<|end|>"
    tokenizer = load_tokenizer(ModelSettings(path="embedded:tiny"))
    ids = tokenizer.encode("12+7=19;\\boxed{19}<|end|>", add_special_tokens=False)
    assert [token.id for token in typed.completions[0].tokens] == ids


def test_a_prompt_without_ids_gets_the_arguments_and_keeps_the_prefix(tmp_path: Path) -> None:
    folder = tmp_path / "thinker"
    shutil.copytree(resource_dir("data") / "tiny", folder)
    template = "{{ messages[0].content }}<|assistant|>{% if thinking %}<think>{% endif %}"
    (folder / "chat_template.jinja").write_text(template)
    turns = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "so "}]
    path = written(tmp_path / "x.jsonl", {"messages": turns, "completion": "2"})

    def found(path: Path, **more: Any) -> InspectedCompletion:
        (shown,) = look(rollouts=path, model=str(folder), reference=str(folder), **more).completions
        return shown

    bare, thinking = found(path), found(path, chat_template={"thinking": True})
    tokenizer = load_tokenizer(ModelSettings(path=str(folder)))
    for shown, opened in ((bare, ""), (thinking, "<think>")):
        ids = tokenizer.encode(f"1+1?<|assistant|>{opened}so ", add_special_tokens=False)
        line = {"prompt": "1+1?", "prompt_token_ids": ids, "completion": "2"}
        twin = found(written(tmp_path / "ids.jsonl", line))
        assert numbers(shown) == numbers(twin)
        assert (shown.prefix, twin.prefix) == ("so ", "")
    assert numbers(bare) != numbers(thinking)
    with pytest.raises(ConfigError, match="does not read it; it reads thinking"):
        found(path, chat_template={"thinks": True})


def test_only_the_completion_that_is_shown_is_computed(
    trained: Path, models: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []

    def counted(lines: Any, **named: Any) -> Any:
        counts.append(len(lines))
        return fresh_stats.fresh_stats(lines, **named)

    monkeypatch.setattr(inspect, "fresh_stats", counted)
    rollouts = RunFolder(trained).rollout_file(3)
    look(rollouts=rollouts, one=True, **models)
    look(rollouts=rollouts, group=1, **models)
    assert counts == [1, 4]


def test_without_statistics_a_completion_with_an_advantage_is_shown(
    tmp_path: Path, models: dict[str, Any]
) -> None:
    rewards = {"a": (1.0, 1.0), "b": (0.0, 1.0)}
    path = written(
        tmp_path / "x.jsonl",
        *(
            {"prompt_id": name, "prompt": "1+1?", "completion": "2", "reward": reward}
            for name, pair in rewards.items()
            for reward in pair
        ),
    )
    (shown,) = look(rollouts=path, one=True, **models).completions
    assert (shown.prompt_id, shown.index) == ("b", 0)
    assert shown.advantage == pytest.approx(-0.5 / math.sqrt(0.5), rel=1e-5)


def test_prompts_with_special_tokens_are_not_rendered_again(models: dict[str, Any]) -> None:
    tokenizer = load_tokenizer(ModelSettings(path="embedded:tiny"))
    ids = encode_prompt(tokenizer, Prompt("", (Message("user", "1+1?"),), "", ""))
    rendered = look(prompt=tokenizer.decode(ids), completion="2", **models)
    plain = look(prompt="1+1?", completion="2", **models)
    assert numbers(rendered.completions[0]) == numbers(plain.completions[0])


def _other_vocabulary(folder: Path) -> Path:
    """The embedded model's settings with another width of the logits; no weights."""
    shutil.copytree(model_location("embedded:tiny"), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 999}))
    return folder


def test_what_does_not_fit_is_one_line_with_the_fix(
    trained: Path, tmp_path: Path, models: dict[str, Any]
) -> None:
    text = {"prompt": "1+1?", "completion": "2"}
    other = _other_vocabulary(tmp_path / "other")
    with pytest.raises(ConfigError, match=r"--reference .*other has a vocabulary of 999, --model"):
        look(**text, model=models["model"], reference=str(other))
    with pytest.raises(ConfigError, match="--prompt and --completion need --model"):
        look(**text)
    with pytest.raises(ConfigError, match=r"--model needs --reference M .* or --adapter A"):
        look(**text, model="embedded:tiny", reference="embedded:tiny", adapter=tmp_path)
    with pytest.raises(ModelError, match="absent: no such folder"):
        look(**text, model=str(tmp_path / "absent"), reference="embedded:tiny")
    with pytest.raises(DataError, match="completion 0 of prompt 0 is empty"):
        path = written(tmp_path / "e.jsonl", text | {"completion": "", "finish_reason": "length"})
        look(rollouts=path, **models)
    with pytest.raises(DataError, match=r"t\.jsonl:1: temperature=-1: must be at least 0"):
        look(rollouts=written(tmp_path / "t.jsonl", text | {"temperature": -1}), **models)
    with pytest.raises(DataError, match=r"at temperatures \[0.5, 1.0\]; .* --group and --sample"):
        lines = (text | {"temperature": 1.0}, text | {"temperature": 0.5})
        look(rollouts=written(tmp_path / "two.jsonl", *lines), **models)
    with pytest.raises(DataError, match=r"n\.jsonl:1: token_ids\[0\]=-3: must be at least 0"):
        look(rollouts=written(tmp_path / "n.jsonl", text | {"token_ids": [-3]}), **models)


def test_a_tokenizer_that_is_missing_or_broken_is_named(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "rollouts").mkdir()
    path = tmp_path / "rollouts" / "step-000003.jsonl"
    path.write_bytes(RunFolder(trained).rollout_file(3).read_bytes())
    with pytest.raises(DataError, match=r"no .*tokenizer\.json to show its tokens with; give"):
        look(source=path)
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match=r"tokenizer\.json: not a tokenizer: .*; give --model"):
        look(source=path)


def test_half_a_surrogate_pair_is_tokenised_as_what_stands_for_it(
    tmp_path: Path, models: dict[str, Any]
) -> None:
    half, whole = "1\ud83d", "1\ufffd"
    paths = [
        written(tmp_path / f"{name}.jsonl", {"prompt": text, "completion": text})
        for name, text in (("half", half), ("whole", whole))
    ]
    events: list[str] = []
    first = look(rollouts=paths[0], observer=Notes(events), **models).completions[0]
    second = look(rollouts=paths[1], **models).completions[0]
    assert numbers(first) == numbers(second)
    assert any("half surrogate pairs are tokenised as U+FFFD" in event for event in events)


def test_tokens_beyond_the_models_context_are_refused(
    tmp_path: Path, models: dict[str, Any]
) -> None:
    tokenizer = load_tokenizer(ModelSettings(path="embedded:tiny"))
    prompt = encode_prompt(tokenizer, Prompt("", (Message("user", "1+1?"),), "", ""))
    room = 256 - len(prompt)
    line = {"prompt": "1+1?", "prompt_token_ids": prompt, "finish_reason": "length"}
    fits = written(tmp_path / "a.jsonl", line | {"token_ids": [20] * room})
    assert len(look(rollouts=fits, **models).completions[0].tokens) == room
    long = written(tmp_path / "b.jsonl", line | {"token_ids": [20] * (room + 1)})
    with pytest.raises(DataError, match=r"completion 0 of .* context is 256 tokens; inspect short"):
        look(rollouts=long, **models)


def test_a_completion_of_10_mb_is_refused(tmp_path: Path, models: dict[str, Any]) -> None:
    text = "1+1=2;" * 1_800_000
    line = {"prompt": "1+1?", "completion": text}
    ids = line | {"completion": "", "token_ids": [20] * 2_000_000}
    for name, long, count in (("text", line, "10,800,004 char"), ("ids", ids, "2,000,000 tokens")):
        path = written(tmp_path / f"{name}.jsonl", line | {"completion": "2"}, long)
        with pytest.raises(DataError, match=rf"{name}\.jsonl:2: a completion of {count}.*shorten"):
            look(rollouts=path, **models)
        assert len(look(rollouts=path, one=True, **models).completions) == 1
    with pytest.raises(DataError, match=r"100,000 characters, .* context is 256 tokens"):
        look(prompt="1+1?", completion="1" * 100_000, **models)
