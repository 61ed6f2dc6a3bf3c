"""The model that dgpo ships: it loads, writes text unchanged, and is good but unsure at sums."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from dgpo_cli.core.resources import resource_dir
from dgpo_cli.prompts.sums import SumProblem, held_out, solution

TINY = resource_dir("data") / "tiny"
MAX_BYTES = 4_000_000


@cache
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(TINY)


@cache
def model() -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32).eval()


def right_answers(problems: tuple[SumProblem, ...], *, samples: int, seed: int = 0) -> Any:
    """Return which samples end in the right box, bool [P, samples]; 0 samples is greedy."""
    import torch

    torch.manual_seed(seed)
    chats = [[{"role": "user", "content": problem.question}] for problem in problems]
    inputs = tokenizer().apply_chat_template(
        chats, add_generation_prompt=True, return_tensors="pt", return_dict=True, padding=True
    )
    output = model().generate(
        **inputs, do_sample=samples > 0, num_return_sequences=max(1, samples), max_new_tokens=96
    )
    texts = tokenizer().batch_decode(
        output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    )
    boxes = [f"\\boxed{{{p.answer}}}" for p in problems for _ in range(max(1, samples))]
    right = [text.endswith(box) for text, box in zip(texts, boxes, strict=True)]
    return torch.tensor(right).view(len(problems), -1)


def test_folder_stays_under_4_megabytes() -> None:
    names = {path.name for path in TINY.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= names
    assert sum(path.stat().st_size for path in TINY.rglob("*") if path.is_file()) < MAX_BYTES


def test_config_is_a_small_qwen2_that_ends_on_the_end_token() -> None:
    config = json.loads(Path(TINY / "config.json").read_text())
    generation = json.loads(Path(TINY / "generation_config.json").read_text())
    assert config["architectures"] == ["Qwen2ForCausalLM"]
    assert config["vocab_size"] == len(tokenizer()) == 261
    assert generation["eos_token_id"] == tokenizer().convert_tokens_to_ids("<|end|>")
    assert generation["pad_token_id"] == tokenizer().pad_token_id != generation["eos_token_id"]
    # The plain distribution: transformers would otherwise sample from the 50 likeliest tokens.
    assert (generation["temperature"], generation["top_k"], generation["top_p"]) == (1.0, 0, 1.0)


def test_decoding_gives_back_any_text() -> None:
    text = "".join(map(chr, range(128))) + " (12+7)*4-8?  a , b . é€漢🎉\n\n\\boxed{68}"
    assert tokenizer().decode(tokenizer().encode(text)) == text


def test_an_ascii_character_is_one_token() -> None:
    for character in map(chr, range(128)):
        assert len(tokenizer().encode(character)) == 1


def test_tokenizer_file_says_the_same_without_transformers() -> None:
    """Servers in other languages read tokenizer.json alone."""
    from tokenizers import Tokenizer

    alone = Tokenizer.from_file(str(TINY / "tokenizer.json"))
    text = "<|user|>(12+7)*4-8?<|assistant|>12+7=19 é<|end|>"
    assert alone.encode(text).ids == tokenizer().encode(text)


def test_chat_template_writes_roles_and_ends_only_answers() -> None:
    user = {"role": "user", "content": "1+2?"}
    system = {"role": "system", "content": "Add."}
    answer = {"role": "assistant", "content": "3"}
    template = tokenizer().apply_chat_template
    asked = template([user], add_generation_prompt=True, return_dict=False)
    of = tokenizer().convert_tokens_to_ids
    assert asked == [of("<|user|>"), *map(of, "1+2?"), of("<|assistant|>")]
    assert template([system, user], tokenize=False) == "<|system|>Add.<|user|>1+2?"
    assert template([user, answer], tokenize=False) == "<|user|>1+2?<|assistant|>3<|end|>"


def test_greedy_decoding_solves_held_out_sums() -> None:
    assert right_answers(held_out(2), samples=0).sum() >= 28


def test_sampling_solves_about_half_of_held_out_sums() -> None:
    """240 samples: the standard error is 0.03, so the margin is for another machine's numbers."""
    share = right_answers(held_out(2), samples=8).float().mean().item()
    assert 0.30 < share < 0.65


@pytest.mark.slow
def test_base_model_meets_its_bar() -> None:
    """Avg@32 between 0.35 and 0.60, pass@32 above 0.95."""
    right = right_answers(held_out(2), samples=32)
    assert 0.35 < right.float().mean().item() < 0.60
    assert right.any(1).float().mean().item() > 0.95


def test_doubt_is_at_the_results_and_nowhere_else() -> None:
    """Entropy where a result is written stands out; what is copied or punctuation is certain."""
    import torch

    at_results: list[float] = []
    elsewhere: list[float] = []
    for problem in held_out(2):
        prompt = f"<|user|>{problem.question}<|assistant|>"
        written = solution(problem)
        ids = torch.tensor([tokenizer().encode(prompt + written)])
        with torch.inference_mode():
            logits = model()(input_ids=ids).logits[0]
        first = len(problem.question) + 2
        probs = torch.softmax(logits[first - 1 : -1].float(), dim=-1)
        entropy = torch.special.entr(probs).sum(-1).tolist()
        result = False
        for character, nats in zip(written, entropy, strict=True):
            (at_results if result else elsewhere).append(nats)
            result = character == "=" or (result and character.isdigit())
    assert sum(at_results) / len(at_results) > 0.3
    assert sum(elsewhere) / len(elsewhere) < 0.03
