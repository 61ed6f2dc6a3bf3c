"""Tiny models with random weights, a character tokenizer, and rows of random tokens."""

from __future__ import annotations

import copy
import functools
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from dgpo_cli.policy.batching import Rows, pad_rows
from dgpo_cli.policy.policy import Policy
from tests.policy import families

if TYPE_CHECKING:
    from dgpo_cli.policy.batching import Pair

SPECIAL = ("<pad>", "<end>", "<unk>", "<user>", "<assistant>")
ALPHABET = tuple("0123456789+-*/=;()?abcdefghijklmnopqrstuvwxyz")
VOCAB = len(SPECIAL) + len(ALPHABET)
END = 1
CHAT = (
    "{% for message in messages %}<user>{{ message['content'] }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.25,  # peaked distributions; 0.02 would give nearly flat ones
    "pad_token_id": 0,
    "eos_token_id": END,
    "bos_token_id": None,
}


@functools.cache
def char_tokenizer() -> Any:
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: index for index, token in enumerate(SPECIAL + ALPHABET)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    inner.decoder = decoders.Fuse()
    inner.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        eos_token="<end>",
        unk_token="<unk>",
        chat_template=CHAT,
    )


def config_of(family: str, **changes: Any) -> Any:
    import transformers

    if family in families.ALL:
        own = {"model_type": family} | SIZES | families.ALL[family] | changes
        return transformers.AutoConfig.for_model(**own)
    sizes = SIZES | changes
    if family == "qwen2-tied":
        return transformers.Qwen2Config(**sizes, tie_word_embeddings=True)
    if family == "qwen2-untied":
        return transformers.Qwen2Config(**sizes, tie_word_embeddings=False)
    if family == "gemma2-softcap":
        return transformers.Gemma2Config(
            **sizes,
            head_dim=8,
            query_pre_attn_scalar=8,
            sliding_window=6,
            final_logit_softcapping=2.0,
        )
    if family == "granite-scaled":
        return transformers.GraniteConfig(
            **sizes, logits_scaling=4.0, embedding_multiplier=2.0, attention_multiplier=0.3
        )
    assert family == "cohere-scaled"
    return transformers.CohereConfig(**sizes, logit_scale=0.5)


@functools.cache
def _built(family: str, changes: tuple[tuple[str, Any], ...]) -> Any:
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(11)
        model = AutoModelForCausalLM.from_config(config_of(family, **dict(changes)))
        for name, parameter in model.named_parameters():
            # Biases start at 0 and norms at 1, where a mistake with them would not show.
            if parameter.ndim < 2:
                torch.nn.init.normal_(parameter, 0.0 if "bias" in name else 1.0, 0.2)
    return model.eval()


def build_model(family: str = "qwen2-tied", **changes: Any) -> Any:
    """Return a fresh copy of a model: the same weights on every call."""
    return copy.deepcopy(_built(family, tuple(sorted(changes.items()))))


def nudge(parameters: Any, *, scale: float, seed: int = 5) -> None:
    """Add noise to parameters in place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in parameters:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_((scale * noise).to(parameter.dtype))


def make_policy(
    family: str = "qwen2-tied",
    *,
    apart: float = 0.0,
    dtype: torch.dtype = torch.float32,
    **changes: Any,
) -> Policy:
    """Return a policy with a frozen copy as its reference, `apart` away from it."""
    model = build_model(family, **changes).to(dtype)
    reference = copy.deepcopy(model).requires_grad_(False)
    nudge(reference.parameters(), scale=apart)
    return Policy(model, tokenizer=char_tokenizer(), reference=reference, has_adapter=False)


def make_lora_policy(
    family: str = "qwen2-untied", *, apart: float = 0.0, dtype: torch.dtype = torch.float32
) -> Policy:
    """Return a policy with an adapter; it is `apart` away from the base."""
    from dgpo_cli.policy.load import add_adapter
    from dgpo_cli.policy.settings import LoraAdapter

    base = build_model(family).to(dtype).requires_grad_(False)
    model = add_adapter(base, adapter=LoraAdapter(rank=3, alpha=6.0), seed=3)
    if apart:
        nudge((p for p in model.parameters() if p.requires_grad), scale=apart)
    return Policy(model.eval(), tokenizer=char_tokenizer(), reference=None, has_adapter=True)


def random_pairs(
    shapes: list[tuple[int, int]], *, seed: int = 0, vocab: int = VOCAB
) -> list[tuple[list[int], list[int]]]:
    """Return prompt and completion ids of the given lengths."""
    rng = random.Random(seed)

    def ids(count: int) -> list[int]:
        return [rng.randrange(2, vocab) for _ in range(count)]

    return [(ids(prompt), ids(completion)) for prompt, completion in shapes]


def rows_of_pairs(pairs: Sequence[Pair], *, more_left: int = 0, more_right: int = 0) -> Rows:
    """Pad pairs to rows, with columns of padding to spare on either side."""
    rows = pad_rows(pairs, pad_id=0)
    sides = (more_left, 0), (0, more_right)
    pad = torch.nn.functional.pad
    return Rows(
        prompt_ids=pad(rows.prompt_ids, sides[0]),
        prompt_mask=pad(rows.prompt_mask, sides[0]),
        completion_ids=pad(rows.completion_ids, sides[1]),
        mask=pad(rows.mask, sides[1]),
        filled=pad(rows.filled, sides[1]),
    )
