"""Make data/tiny again: a small base model of worked sums that is unsure at each result.

Two phases on generated problems of the train split: first right solutions, then solutions with
slips in some steps. `python data/make_tiny.py --out data/tiny --seed 0`
"""

from __future__ import annotations

import argparse
import math
import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads starve on a busy machine

import torch
from tokenizers import pre_tokenizers
from torch import Tensor
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from dgpo_cli.core.seeds import derive_seed
from dgpo_cli.prompts import sums

PAD, END = "<|pad|>", "<|end|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
SPECIAL = (PAD, END, *ROLES)
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ '<|end|>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
SLIPS = (1, 1, 1, 10, 10, 10, 2, 9, 20, 100)  # how far a wrong result is off, equally likely each
IGNORE = -100
POSITIONS = 256


@dataclass(frozen=True)
class Recipe:
    """What decides the model besides the seed; the model card says what came of it."""

    hidden: int = 128
    inner: int = 384
    layers: int = 2
    heads: int = 4
    depths: tuple[int, ...] = (1, 2, 2, 3)  # operations of a problem, equally likely each
    batch: int = 192
    pool: int = 16  # batches that are drawn at once and sorted by length: little padding
    clean_steps: int = 2500
    slip_steps: int = 400
    slip: float = 0.28  # share of steps with a wrong result in the second phase
    slip_rate: float = 0.15  # learning rates of the second phase, relative to the first
    matrix_lr: float = 0.02
    other_lr: float = 3e-3
    weight_decay: float = 0.05
    warmup: int = 100
    threads: int = 2


def make_tokenizer() -> Qwen2Tokenizer:
    """A byte is a token: the 256 bytes after the special tokens, and no merges.

    Any text goes through unchanged, and a character of ASCII is one token.
    """
    tokens = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    return Qwen2Tokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=[],
        unk_token=None,
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens=list(ROLES),
        padding_side="left",
        model_max_length=POSITIONS,
        chat_template=CHAT_TEMPLATE,
    )


def make_model(recipe: Recipe, tokenizer: Qwen2Tokenizer) -> Qwen2ForCausalLM:
    """A fresh model; torch's global seed decides its weights."""
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden,
        intermediate_size=recipe.inner,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=POSITIONS,
        max_window_layers=recipe.layers,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen2ForCausalLM(config)
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return model


def work_with_slips(
    rng: random.Random, postfix: sums.Postfix, *, slip: float
) -> tuple[sums.SumStep, ...]:
    """Work `postfix` through, getting each result wrong with probability `slip`.

    Later steps go on from the wrong value; where one leaves 0..999, all is drawn again.
    """
    while True:
        stack: list[int] = []
        steps: list[sums.SumStep] = []
        for item in postfix:
            if isinstance(item, int):
                stack.append(item)
                continue
            right, left = stack.pop(), stack.pop()
            result = sums.apply(left, item, right)
            if rng.random() < slip:
                result += rng.choice((-1, 1)) * rng.choice(SLIPS)
            stack.append(result)
            steps.append(sums.SumStep(left, item, right, result))
        if all(0 <= step.result <= sums.MAX_VALUE for step in steps):
            return tuple(steps)


def batches(
    rng: random.Random, tokenizer: Qwen2Tokenizer, recipe: Recipe, *, slip: float
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield ids and labels, int64 [B, T], without end; labels only on completion tokens."""
    while True:
        rows: list[tuple[list[int], int]] = []
        for _ in range(recipe.batch * recipe.pool):
            problem = sums.sample_problem(rng, operations=rng.choice(recipe.depths), split="train")
            solution = sums.written(work_with_slips(rng, problem.postfix, slip=slip))
            prompt = f"<|user|>{problem.question}<|assistant|>"
            start = len(problem.question) + 2
            rows.append((tokenizer.encode(f"{prompt}{solution}{END}"), start))
        rows.sort(key=lambda row: len(row[0]))
        chunks = [rows[i : i + recipe.batch] for i in range(0, len(rows), recipe.batch)]
        rng.shuffle(chunks)
        for chunk in chunks:
            yield pad(chunk, tokenizer.pad_token_id)


def pad(rows: list[tuple[list[int], int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Pad on the right; attention is causal, so padding needs no mask of its own."""
    width = max(len(tokens) for tokens, _ in rows)
    ids = torch.tensor([tokens + [pad_id] * (width - len(tokens)) for tokens, _ in rows])
    labels = ids.clone()
    for row, (tokens, start) in enumerate(rows):
        labels[row, :start] = IGNORE
        labels[row, len(tokens) :] = IGNORE
    return ids, labels


def make_optimizers(
    model: Qwen2ForCausalLM, recipe: Recipe, *, rate: float
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for the rest.

    With AdamW alone, the same arithmetic takes more than twice the steps.
    """
    matrices: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (matrices if parameter.dim() == 2 and "embed" not in name else others).append(parameter)
    return [
        torch.optim.Muon(matrices, lr=rate * recipe.matrix_lr, weight_decay=recipe.weight_decay),
        torch.optim.AdamW(others, lr=rate * recipe.other_lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def train(
    model: Qwen2ForCausalLM,
    data: Iterator[tuple[Tensor, Tensor]],
    *,
    name: str,
    steps: int,
    rate: float,
    recipe: Recipe,
) -> None:
    """Warm up linearly, then follow a cosine down to a hundredth of the rates."""
    optimizers = make_optimizers(model, recipe, rate=rate)

    def scale(step: int) -> float:
        cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
        return min(1.0, (step + 1) / recipe.warmup) * (0.01 + 0.99 * cosine)

    schedules = [torch.optim.lr_scheduler.LambdaLR(each, scale) for each in optimizers]
    model.train()
    started, losses = time.monotonic(), 0.0
    for step in range(1, steps + 1):
        ids, labels = next(data)
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORE
        )
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        losses += loss.item()
        if step % 100 == 0:
            seconds = time.monotonic() - started
            print(f"{name}: {step}/{steps} loss {losses / 100:.4f} {seconds:.0f} s", flush=True)
            losses = 0.0


@torch.inference_mode()
def answers(
    model: Qwen2ForCausalLM,
    tokenizer: Qwen2Tokenizer,
    problems: tuple[sums.SumProblem, ...],
    *,
    samples: int,
) -> Tensor:
    """Return which samples are right, bool [P, samples]; `samples=0` decodes greedily once."""
    model.eval()
    texts = [f"<|user|>{problem.question}<|assistant|>" for problem in problems]
    inputs = tokenizer(texts, return_tensors="pt", padding=True)
    output = model.generate(
        **inputs,
        do_sample=samples > 0,
        num_return_sequences=max(1, samples),
        max_new_tokens=96,
        **({} if samples else {"temperature": None, "top_k": None, "top_p": None}),
    )
    written = tokenizer.batch_decode(
        output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    )
    wanted = [f"\\boxed{{{p.answer}}}" for p in problems for _ in range(max(1, samples))]
    right = [text.endswith(end) for text, end in zip(written, wanted, strict=True)]
    return torch.tensor(right).view(len(problems), -1)


def report(model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, *, k: int = 32) -> None:
    """Print Avg@k, pass@k and greedy accuracy on the held-out problems of each depth."""
    for operations in (1, 2, 3):
        problems = sums.held_out(operations)
        torch.manual_seed(0)
        sampled = answers(model, tokenizer, problems, samples=k)
        greedy = answers(model, tokenizer, problems, samples=0)
        print(
            f"operations={operations}: avg@{k} {sampled.float().mean():.3f}, "
            f"pass@{k} {sampled.any(1).float().mean():.3f}, greedy {greedy.float().mean():.3f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write the model to")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and problems")
    options = parser.parse_args()
    recipe = Recipe()
    started = time.monotonic()
    torch.set_num_threads(recipe.threads)
    torch.manual_seed(options.seed)
    tokenizer = make_tokenizer()
    model = make_model(recipe, tokenizer)
    print(f"{model.num_parameters()} parameters; takes about 10 minutes on two idle cores")
    for name, steps, slip, rate in (
        ("right solutions", recipe.clean_steps, 0.0, 1.0),
        ("solutions with slips", recipe.slip_steps, recipe.slip, recipe.slip_rate),
    ):
        rng = random.Random(derive_seed("data.make_tiny", name, options.seed))
        data = batches(rng, tokenizer, recipe, slip=slip)
        train(model, data, name=name, steps=steps, rate=rate, recipe=recipe)
        report(model, tokenizer)
    model.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    (options.out / "model.safetensors").chmod(0o644)  # safetensors lets only the owner read it
    print(f"wrote {options.out} after {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
