"""What is chosen for a model and data of one's own: by what, for what reason, and for how long."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from dgpo_cli.config.dump import dump_toml
from dgpo_cli.config.load import Resolved
from dgpo_cli.config.shorthand import Asked
from dgpo_cli.core.errors import DataError, NoModelError
from dgpo_cli.core.types import Message, Prompt
from dgpo_cli.planning import fit, seen
from dgpo_cli.planning.budget import Device
from dgpo_cli.planning.fit import BARE, BOXED, BOXED_LETTER, chosen_in, fitted
from dgpo_cli.policy.load import load_tokenizer
from dgpo_cli.policy.settings import ModelSettings

GIB = 1 << 30
TINY = "embedded:tiny"
BIG = "Qwen/Qwen2.5-7B"  # whose config comes with dgpo

Rows = Sequence[dict[str, Any]]


@pytest.fixture
def data(tmp_path: Path) -> Callable[[Rows], str]:
    """Return a function that writes rows and returns the path of their file."""

    def write(rows: Rows) -> str:
        path = tmp_path / "my.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that gives this machine a device, and every model tiny's tokenizer."""

    def put(kind: Any, gib: int, *, vllm: bool = False, four_bits: bool = False) -> None:
        device = Device(kind, kind, gib * GIB, None, {}, 0.0, "a test")
        monkeypatch.setattr(fit, "whole", lambda setting: device)
        monkeypatch.setattr(fit, "has_vllm", lambda: vllm)
        monkeypatch.setattr(fit, "has_bitsandbytes", lambda: four_bits)
        tokenizer = load_tokenizer(ModelSettings(path=TINY))
        monkeypatch.setattr(fit, "load_tokenizer", lambda settings: tokenizer)

    return put


def sums(count: int) -> Rows:
    return [{"problem": f"{n}+7?", "answer": str(n + 7)} for n in range(count)]


def of(resolved: Resolved) -> dict[str, Any]:
    return {key: value for key, value, _ in chosen_in(resolved)}


def test_every_choice_has_its_reason_and_survives_a_file(
    data: Callable[[Rows], str], tmp_path: Path
) -> None:
    resolved = fitted(Asked(model=TINY, data=data(sums(40))))
    rows = chosen_in(resolved)
    assert {"adapter.kind", "optim.lr", "prompts.template", "reward.kind"} <= {r[0] for r in rows}
    assert all(len(reason) > 10 for _, _, reason in rows)
    file = tmp_path / "settings.toml"
    file.write_text(dump_toml(resolved), encoding="utf-8")
    assert Asked(config=file).resolve().settings == resolved.settings
    assert fitted(Asked(model=TINY, data=str(tmp_path / "my.jsonl"))) == resolved


def test_a_resumed_run_keeps_what_was_chosen_whatever_is_measured_now(
    data: Callable[[Rows], str], on: Callable[..., None], tmp_path: Path
) -> None:
    on("cuda", 80, vllm=True)
    began = fitted(Asked(model=BIG, data=data(sums(40))))
    file = tmp_path / "settings.toml"
    file.write_text(dump_toml(began), encoding="utf-8")
    on("cpu", 16)
    data([{"question": "What is it? " * 40, "answer": "x/2"}])
    assert fitted(Asked(model=BIG, data=data(sums(3)))).settings != began.settings
    again = fitted(Asked(model=BIG, data=str(tmp_path / "my.jsonl")), kept=file)
    assert again.settings == began.settings
    assert chosen_in(again) == chosen_in(began)
    changed = Asked(model=BIG, data=str(tmp_path / "my.jsonl"), overrides=("optim.lr=3e-6",))
    assert fitted(changed, kept=file).settings.optim.lr == 3e-6


def test_what_is_given_is_never_chosen(data: Callable[[Rows], str]) -> None:
    given = (
        "adapter.rank=4",
        "optim.lr=3e-4",
        "rollout.group_size=3",
        "prompts.template=Q {problem}",
    )
    resolved = fitted(Asked(model=TINY, data=data(sums(40)), reward="math", overrides=given))
    settings = resolved.settings
    assert settings.adapter.kind == "lora" and settings.adapter.rank == 4
    assert (settings.optim.lr, settings.rollout.group_size) == (3e-4, 3)
    assert settings.prompts.template == "Q {problem}" and settings.reward.kind == "math"
    chosen = of(resolved)
    assert not {"optim.lr", "rollout.group_size", "prompts.template", "reward.kind"} & chosen.keys()
    full = fitted(Asked(model=TINY, data=data(sums(40)), overrides=("adapter.kind=none",))).settings
    assert full.adapter.kind == "none"


@pytest.mark.parametrize(
    ("answers", "kind", "why"),
    [
        (("4", "-12", "1,000"), "integer", "all 3 answers are integers"),
        (("A", "C"), "choice", "all 2 answers are letters"),
        (("4", "1/2"), "math", "the answer 1/2 (line 2) is not an integer"),
        (("4", "A"), "math", "the answer A (line 2) is not an integer"),
    ],
)
def test_the_answers_decide_the_checker(answers: Sequence[str], kind: str, why: str) -> None:
    prompts = [
        Prompt(str(n), (Message("user", "?"),), answer, "my.jsonl", f"line {n}")
        for n, answer in enumerate(answers, start=1)
    ]
    assert seen.checker_for(prompts) == (kind, why)


def test_a_choice_has_as_many_options_as_its_answers_need(
    data: Callable[[Rows], str], on: Callable[..., None]
) -> None:
    on("cpu", 64)
    rows = [{"question": f"Which {n}?", "answer": "ABCDEF"[n % 6]} for n in range(12)]
    settings = fitted(Asked(model=BIG, data=data(rows))).settings
    assert settings.reward.kind == "choice" and settings.reward.choices == 6
    assert settings.prompts.template == BOXED_LETTER


def test_the_template_asks_for_a_form_unless_the_problems_do(
    data: Callable[[Rows], str], on: Callable[..., None]
) -> None:
    on("cpu", 64)
    plain = data([{"problem": f"What is {n}+1?", "answer": n + 1} for n in range(9)])
    assert fitted(Asked(model=BIG, data=plain)).settings.prompts.template == BOXED
    asking = [{"problem": f"{n}+1? Put it in \\boxed{{}}.", "answer": n + 1} for n in range(9)]
    assert fitted(Asked(model=BIG, data=data(asking))).settings.prompts.template == BARE
    assert fitted(Asked(model=TINY, data=data(sums(9)))).settings.prompts.template == BARE


def test_lengths_are_those_of_the_data_within_the_context(
    data: Callable[[Rows], str], on: Callable[..., None]
) -> None:
    short = fitted(Asked(model=TINY, data=data(sums(40)))).settings
    # <|user|>39+7?<|assistant|>: seven tokens; completions have the rest of 256.
    assert short.prompts.max_prompt_tokens == 16
    assert short.rollout.max_completion_tokens == 240
    outlier = [*sums(400), {"problem": "1+" * 40 + "1?", "answer": 41}]
    assert fitted(Asked(model=TINY, data=data(outlier))).settings.prompts.max_prompt_tokens == 16
    long = [{"problem": f"{n}+{'1+' * 80}1?", "answer": n + 81} for n in range(9)]
    limited = fitted(Asked(model=TINY, data=data(long)))
    assert limited.settings.prompts.max_prompt_tokens == 128
    assert "limit: half of the context of 256" in limited.sources["prompts.max_prompt_tokens"]
    on("cpu", 64)
    worked = [
        {"question": f"{n}+1?", "answer": f"{'so it is ' * 40}\n#### {n + 1}"} for n in range(9)
    ]
    solved = fitted(Asked(model=BIG, data=data(worked)))
    length = len("so it is " * 40 + "\n#### 1")
    assert solved.settings.rollout.max_completion_tokens == -(-2 * length // 64) * 64
    assert solved.settings.reward.kind == "integer"  # what follows the ####


@pytest.mark.parametrize(
    ("device", "model", "trained", "dtype", "backend"),
    [
        (("cpu", 16), TINY, "none", "float32", "hf"),
        (("cpu", 16), "HuggingFaceTB/SmolLM2-135M-Instruct", "none", "float32", "hf"),
        (("cuda", 80), BIG, "lora", "bfloat16", "vllm"),
        (("cuda", 24), BIG, "lora", "bfloat16", "vllm"),
    ],
)
def test_size_and_memory_decide_what_is_trained(
    data: Callable[[Rows], str],
    on: Callable[..., None],
    device: tuple[str, int],
    model: str,
    trained: str,
    dtype: str,
    backend: str,
) -> None:
    on(*device, vllm=True, four_bits=True)
    settings = fitted(Asked(model=model, data=data(sums(40)))).settings
    assert (settings.adapter.kind, settings.model.dtype) == (trained, dtype)
    assert settings.rollout.backend.kind == backend
    assert settings.model.quantization == ("nf4" if device == ("cuda", 24) else "none")
    longest = settings.prompts.max_prompt_tokens + settings.rollout.max_completion_tokens
    on_cpu = device[0] == "cpu" and model != TINY
    assert settings.optim.micro_batch_tokens == (4 * longest if on_cpu else 16384) or (
        device == ("cuda", 24)
    )
    full = settings.adapter.kind == "none"
    assert settings.optim.lr == {TINY: 2e-4, BIG: 1e-5}.get(model, 1e-5 if full else 1e-4)


def test_a_step_has_no_problem_twice(data: Callable[[Rows], str]) -> None:
    settings = fitted(Asked(model=TINY, data=data(sums(5)))).settings
    assert settings.rollout.prompts_per_step == 5


def test_a_folder_of_gguf_weights_is_refused_with_what_to_give(
    data: Callable[[Rows], str], tmp_path: Path
) -> None:
    folder = tmp_path / "gguf"
    folder.mkdir()
    (folder / "model.Q4_K_M.gguf").write_bytes(b"GGUF")
    with pytest.raises(NoModelError, match="GGUF"):
        fitted(Asked(model=str(folder), data=data(sums(5))))


def test_a_preset_decides_all_but_the_columns(data: Callable[[Rows], str]) -> None:
    rows = [{"question": f"{n}+7?", "gold": n + 7} for n in range(9)]
    resolved = fitted(Asked(preset="tiny", data=data(rows)))
    assert not chosen_in(resolved)
    prompts = resolved.settings.prompts
    assert prompts.kind == "file"
    assert (prompts.problem_column, prompts.answer_column) == ("question", "gold")


def test_problems_that_ask_for_no_form_under_a_bare_template_are_told(
    data: Callable[[Rows], str],
) -> None:
    heard: list[str] = []

    class Ear:
        def on(self, event: object) -> None:
            heard.append(getattr(event, "text", ""))

    plain = data([{"problem": f"What is {n}+1?", "answer": n} for n in range(5)])
    fitted(Asked(preset="qwen7b-lora", data=plain), observer=Ear())
    assert len(heard) == 1 and "boxed" in heard[0]
    asking = data([{"problem": f"{n}+1? Answer: in \\boxed{{}}.", "answer": n} for n in range(5)])
    fitted(Asked(preset="qwen7b-lora", data=asking), observer=Ear())
    fitted(Asked(preset="tiny", data=data(sums(5))), observer=Ear())
    assert len(heard) == 1


def test_a_function_judges_data_without_answers(
    data: Callable[[Rows], str], tmp_path: Path
) -> None:
    function = tmp_path / "my.py"
    function.write_text("def score(completion):\n    return float(len(completion.text) < 20)\n")
    path = data([{"question": f"{n}+7?"} for n in range(5)])
    resolved = fitted(Asked(model=TINY, data=path, reward=f"{function}:score"))
    assert resolved.settings.reward.kind == "python"
    assert "reward.kind" not in of(resolved)
    with pytest.raises(DataError, match="no field 'answer'"):
        fitted(Asked(model=TINY, data=path))


def test_a_base_model_is_told_to_get_plain_text_and_a_long_context_is_not_filled(
    data: Callable[[Rows], str], on: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    on("cuda", 80)
    tokenizer = load_tokenizer(ModelSettings(path=TINY))
    tokenizer.chat_template = None
    monkeypatch.setattr(fit, "load_tokenizer", lambda settings: tokenizer)
    rows = [{"problem": "word " * 3000 + f"{n}?", "answer": n} for n in range(5)]
    resolved = fitted(Asked(model=BIG, data=data(rows)))
    assert "no chat template: plain text" in resolved.sources["prompts.max_prompt_tokens"]
    assert resolved.settings.prompts.max_prompt_tokens == 4096  # of the model's 131,072
    assert resolved.settings.rollout.max_completion_tokens == 2048


def test_a_kind_that_is_given_has_what_is_chosen_for_it(
    data: Callable[[Rows], str], on: Callable[..., None]
) -> None:
    letters = data([{"question": f"Which {n}?", "answer": "ABCDE"[n % 5]} for n in range(10)])
    on("cpu", 64)
    for asked in (
        Asked(model=BIG, data=letters, reward="choice"),
        Asked(model=BIG, data=letters, overrides=("reward.kind=choice",)),
    ):
        reward = fitted(asked).settings.reward
        assert reward.kind == "choice" and reward.choices == 5
    given = ("adapter.kind=lora", "rollout.backend.kind=vllm")
    settings = fitted(Asked(model=TINY, data=data(sums(9)), overrides=given)).settings
    assert settings.adapter.kind == "lora" and settings.adapter.rank == 32
    assert settings.rollout.backend.kind == "vllm" and settings.optim.lr == 1e-3
    engine = ("rollout.backend.max_num_seqs=7",)
    served = fitted(Asked(model=TINY, data=data(sums(9)), overrides=engine)).settings
    assert served.rollout.backend.kind == "vllm"
