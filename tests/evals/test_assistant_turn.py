"""Laws of how the assistant's turn begins: what is sampled from, judged and kept is one turn."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from dgpo_cli.core.errors import ConfigError, DataError
from dgpo_cli.core.events import NOBODY
from dgpo_cli.core.formats import ROLLOUT
from dgpo_cli.core.resources import resource_dir
from dgpo_cli.evals import regrade, rollout
from dgpo_cli.inspect.rollout_file import read_rollouts
from tests.evals.evaluations import Asked, install, problems, run, settings, stored

THINKS = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}<|assistant|>"
    "{% if thinking is defined and not thinking %}<think>\n\n</think>\n\n{% else %}<think>\n"
    "{% endif %}"
)


@pytest.fixture
def thinker(tmp_path: Path) -> str:
    """The embedded model with a template that opens a thought, or closes an empty one."""
    folder = tmp_path / "thinker"
    shutil.copytree(resource_dir("data") / "tiny", folder)
    (folder / "chat_template.jinja").write_text(THINKS)
    return f"model.path={folder}"


def outcomes(out: Path) -> set[str]:
    return {line["outcome"] for line in stored(out)}


def test_an_answer_may_begin_in_the_prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Asked(lambda seed: f"{seed % 1000}}}."))
    bench = problems(tmp_path, {str(n): str(n) for n in range(3)})
    prefix = r"prompts.assistant_prefix=The answer is \boxed{"
    run(bench, 4, tmp_path / "bare")
    result = run(bench, 4, tmp_path / "out", prefix)
    assert outcomes(tmp_path / "bare") == {"no_answer"}
    assert outcomes(tmp_path / "out") <= {"correct", "wrong"}
    for line in stored(tmp_path / "out"):
        assert line["messages"][-1] == {"role": "assistant", "content": r"The answer is \boxed{"}
        assert line["extracted"] == line["completion"].removesuffix("}.")
    assert result.card.protocol["assistant_prefix"] == r"The answer is \boxed{"


def test_a_prefix_counts_in_the_length_of_the_prompt(tmp_path: Path) -> None:
    bench = problems(tmp_path)
    limit = "prompts.max_prompt_tokens=7"
    run(bench, 1, tmp_path / "out", limit)
    with pytest.raises(
        DataError, match=r"problem 12\+7 has 12 tokens, prompts.max_prompt_tokens=7"
    ):
        run(bench, 1, tmp_path / "longer", limit, "prompts.assistant_prefix=12345")


def test_samples_with_a_prefix_are_resumed_and_judged_again_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, out = problems(tmp_path), tmp_path / "out"
    install(monkeypatch, Asked(lambda seed: f"{(19, 49, 27, 3)[seed % 4]}}}"))
    prefix = r"prompts.assistant_prefix=So \boxed{"
    run(bench, 2, out, prefix)
    assert run(bench, 4, out, prefix).sampled == 6
    before = (out / "samples.jsonl").read_bytes()
    assert regrade.run(out, observer=NOBODY).flips == ()
    assert (out / "samples.jsonl").read_bytes() == before
    line, *_ = read_rollouts(out / "samples.jsonl")
    assert line.prompt.prefix == r"So \boxed{"


@pytest.mark.parametrize(
    ("overrides", "inside", "outcome"),
    [
        ([], True, "no_answer"),
        (["prompts.chat_template.thinking=true"], True, "no_answer"),
        (["prompts.chat_template.thinking=false"], False, "correct"),
        (["prompts.assistant_prefix=Okay, "], True, "no_answer"),
        (["prompts.assistant_prefix=</think>"], False, "correct"),
        (["prompts.chat_template.thinking=false", f"prompts.assistant_prefix=<think>{'x' * 400}"],
         True, "no_answer"),
    ],
)  # fmt: skip
def test_a_completion_starts_in_a_thought_that_template_or_prefix_leaves_open(
    overrides: list[str],
    inside: bool,
    outcome: str,
    thinker: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install(monkeypatch, Asked(lambda seed: r"\boxed{19}"))
    bench = problems(tmp_path, {"12+7": "19"})
    run(bench, 2, tmp_path / "out", thinker, "prompts.max_prompt_tokens=512", *overrides)
    assert {line.get("starts_in_thought", False) for line in stored(tmp_path / "out")} == {inside}
    assert outcomes(tmp_path / "out") == {outcome}


def test_template_arguments_are_on_the_card_only_when_set(thinker: str, tmp_path: Path) -> None:
    bench = problems(tmp_path)
    plain = run(bench, 1, tmp_path / "plain", thinker).card
    off = run(bench, 1, tmp_path / "off", thinker, "prompts.chat_template.thinking=false").card
    assert "chat_template" not in plain.protocol and "assistant_prefix" not in plain.protocol
    assert off.protocol == {**plain.protocol, "chat_template": {"thinking": False}}
    assert off.subject["prompt_ids"] != plain.subject["prompt_ids"]
    on_disk = json.loads((tmp_path / "off" / "card.json").read_text())
    assert on_disk["protocol"]["chat_template"] == {"thinking": False}


def test_an_unread_argument_stops_before_the_weights_are_read(thinker: str, tmp_path: Path) -> None:
    (tmp_path / "thinker" / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"enable_thinking: .* it reads thinking; did you mean"):
        run(problems(tmp_path), 1, None, thinker, "prompts.chat_template.enable_thinking=false")


def test_rollouts_keep_the_whole_turn(thinker: str, tmp_path: Path) -> None:
    bench, out = problems(tmp_path), tmp_path / "r.jsonl"
    resolved = settings(
        thinker, "prompts.assistant_prefix=</think>1", "rollout.group_size=2",
        "rollout.max_completion_tokens=4",
    )  # fmt: skip
    rollout.run(resolved, source=bench, out=out, limit=None, adapter=None, observer=NOBODY)
    tokenizer = Tokenizer.from_file(str(tmp_path / "thinker" / "tokenizer.json"))
    for raw in out.read_text().splitlines():
        record = ROLLOUT.read(json.loads(raw), where="r")
        assert [turn.role for turn in record.messages] == ["user", "assistant"]
        text = tokenizer.decode(record.prompt_token_ids, skip_special_tokens=False)
        assert text == f"<|user|>{record.prompt}<|assistant|><think>\n</think>1"


def test_stop_strings_end_samples_and_are_on_the_card(tmp_path: Path) -> None:
    bench = problems(tmp_path)
    free = run(bench, 2, tmp_path / "free")
    stopped = run(bench, 2, tmp_path / "stopped", 'rollout.stop=["="]')
    assert "stop_strings" not in free.card.protocol
    assert stopped.card.protocol == {**free.card.protocol, "stop_strings": ["="]}
    for whole, cut in zip(stored(tmp_path / "free"), stored(tmp_path / "stopped"), strict=True):
        text = whole["completion"]
        assert cut["completion"] == text[: text.index("=") + 1]
        assert cut["finish_reason"] == "stop"
        assert cut["token_ids"] == whole["token_ids"][: len(cut["token_ids"])]
