"""The steps that benchmarks/step.py compares: ours, and GRPO made of our parts. TRL's is apart."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dgpo_cli.algo.credit import DgpoCredit, UniformCredit
from dgpo_cli.algo.losses import ClipLoss
from dgpo_cli.engine.learn import Learner
from dgpo_cli.engine.optimizers import build_adamw
from dgpo_cli.engine.piece import Recipe
from dgpo_cli.policy import load
from dgpo_cli.policy.batching import Rows, micro_batches, on_grid, pad_rows
from dgpo_cli.policy.policy import Policy
from dgpo_cli.policy.settings import LoraAdapter, ModelSettings
from dgpo_cli.policy.token_pass import token_logprobs

BETA = 0.04
LR = 1e-6
LORA = LoraAdapter(rank=16, alpha=32.0)
SMOLLM2: dict[str, Any] = {
    "vocab_size": 49_152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}
# Prompt and completion tokens of each completion. Two groups of four, but for the embedded model.
CASES = {
    "tiny": [(12 + i % 5, 16 + i * 7 % 17) for i in range(256)],
    "even": [(32, 64)] * 8,
    "uneven": [*[(40, t) for t in (64, 21, 38, 17)], *[(28, t) for t in (52, 12, 30, 45)]],
}


@dataclass
class Clock:
    """CPU seconds by phase; what an inner phase takes is not the outer's."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    _inner: list[float] = field(default_factory=list)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self._inner.append(0.0)
        start = time.process_time()
        try:
            yield
        finally:
            spent = time.process_time() - start
            self.seconds[name] += spent - self._inner.pop()
            if self._inner:
                self._inner[-1] += spent

    def timed(self, name: str, call: Callable[..., Any]) -> Any:
        """Return the call with its time taken."""

        def run(*args: Any, **kwargs: Any) -> Any:
            with self.phase(name):
                return call(*args, **kwargs)

        return run

    def take(self) -> dict[str, float]:
        found = dict(self.seconds)
        self.seconds.clear()
        return found


def rows_of(case: str, vocab: int) -> tuple[Rows, Tensor]:
    """Return the completions of a case and their advantages, none of them zero."""
    generator = torch.Generator().manual_seed(0)

    def ids(count: int) -> list[int]:
        found: list[int] = torch.randint(3, vocab, (count,), generator=generator).tolist()
        return found

    rows = pad_rows([(ids(p), ids(t)) for p, t in CASES[case]], pad_id=0)
    return rows, torch.tensor([1.0, -0.5, 0.7, -1.2] * (len(CASES[case]) // 4))


def smollm2(folder: str | None) -> Any:
    if folder:
        return load.load_model(ModelSettings(path=folder, device="cpu"))
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**SMOLLM2)).eval()


def tokenizer() -> Any:
    """Return a tokenizer of three tokens: nothing is read or written here."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({"<pad>": 0, "<end>": 1, "<unk>": 2}, unk_token="<unk>"))
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="<end>", unk_token="<unk>"
    )


def shake(model: Any) -> None:
    """Move what is trained a little away from the reference; equal models stay equal.

    Adapters are set to noise whole, because their own start differs from one to the next.
    """
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in sorted((n, p) for n, p in model.named_parameters() if p.requires_grad):
            noise = torch.empty_like(p).normal_(std=0.01, generator=generator)
            p.copy_(noise if "lora_" in name else p + noise)


class Ours:
    """Our policy with its optimiser, and the steps that can be taken with them."""

    def __init__(self, case: str, folder: str | None) -> None:
        self.case = case
        reference = None
        if case == "tiny":
            settings = ModelSettings(path=folder or "embedded:tiny", device="cpu")
            model, reference = load.load_model(settings), load.load_model(settings)
            reference.requires_grad_(False)
        else:
            base = smollm2(folder).requires_grad_(False)
            model = load.add_adapter(base, adapter=LORA, seed=0).eval()
        shake(model)
        self.policy = Policy(
            model, tokenizer=tokenizer(), reference=reference, has_adapter=reference is None
        )
        self.optimizer = build_adamw(
            self.policy, lr=LR, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0
        )
        self.rows, self.advantages = rows_of(case, self.policy.vocab_size)
        self.clock = clock = Clock()
        watch: Any = _Backward(clock)
        self.learner = Learner(self.policy, self.optimizer, watch=watch)
        policy: Any = self.policy
        policy.hidden = clock.timed("policy forward", policy.hidden)
        policy.reference_hidden = clock.timed("reference forward", policy.reference_hidden)
        optimizer: Any = self.optimizer
        optimizer.step = clock.timed("optimiser", optimizer.step)

    def step(self, method: str, *, size: int = 8) -> float:
        """Take one step in micro-batches of `size` completions; return the gradient's norm."""
        if method == "GRPO+KL":
            return self._step_with_kl(size)
        rule = DgpoCredit() if method == "DGPO" else UniformCredit()
        recipe = Recipe(
            rule=rule,
            loss=ClipLoss(),
            temperature=1.0,
            max_completion_tokens=64,
            group_size=len(self.advantages),
            micro_batch_size=size,
            max_grad_norm=1.0,
        )
        with self.clock.phase("token pass, loss"):
            batch = self.learner.measure(self.rows, self.advantages, recipe=recipe)
            [result] = self.learner.update(batch, recipe=recipe)
        assert result.applied
        return result.grad_norm

    def _step_with_kl(self, size: int) -> float:
        """GRPO with a KL term, by the same forward, log-probabilities, loss and optimiser."""
        loss, total = ClipLoss(), int(self.rows.mask.sum())
        lengths = self.rows.prompt_mask.sum(dim=1) + self.rows.mask.sum(dim=1)
        with self.clock.phase("token pass, loss"):
            with self.policy.training():
                for index in micro_batches(lengths, size=size):
                    part = self.rows.take(index)
                    reference = self._reference_logprobs(part)
                    now = self.policy.token_logprobs(part, temperature=1.0)
                    losses, _, _ = loss.token_losses(
                        now,
                        old_logprobs=now.detach(),
                        token_advantages=self.advantages[index, None].expand_as(now),
                        mask=part.mask,
                    )
                    gap = reference - now
                    kl = BETA * (gap.exp() - gap - 1)
                    with self.clock.phase("backward"):
                        ((losses + kl)[part.mask].sum() / total).backward()
            norm = torch.nn.utils.clip_grad_norm_([p for _, p in self.policy.trainable()], 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        return float(norm)

    @torch.no_grad()
    def _reference_logprobs(self, rows: Rows) -> Tensor:
        """What `Policy.token_logprobs` gives, of the reference."""
        tokens = self.policy.predicted(rows)
        logprobs = token_logprobs(
            self.policy.reference_hidden(tokens.packed)[tokens.places],
            head=self.policy.reference_head,
            ids=tokens.ids,
            temperature=1.0,
        )
        return on_grid(logprobs, rows.mask)


class _Backward:
    """Counts what a learner calls its update, the backward passes, under that name."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def phase(self, name: str) -> contextlib.AbstractContextManager[None]:
        return self._clock.phase("backward")
