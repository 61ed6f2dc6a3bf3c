"""Token ids beyond the model's embedding: harmless as padding, refused in a prompt by name."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dgpo_cli.config.load import resolve
from dgpo_cli.core.errors import ConfigError, ModelError
from dgpo_cli.core.events import NOBODY
from dgpo_cli.evals import rollout
from dgpo_cli.policy.batching import pad_rows
from dgpo_cli.policy.policy import Policy
from dgpo_cli.policy.scoring import token_stats
from dgpo_cli.samplers.hf import HfSampler
from dgpo_cli.train import train
from tests.evals import evaluations
from tests.policy import tiny
from tests.samplers.test_hf import PARAMS, make_prompts

OVERRIDES = ("model.device=cpu", "rollout.max_completion_tokens=8", "reward.workers=1")


def with_added(**special: str) -> Any:
    """A tokenizer with one token more than the model has embeddings."""
    tokenizer = copy.deepcopy(tiny.char_tokenizer())
    tokenizer.add_special_tokens(special)
    [token] = special.values()
    assert tokenizer.convert_tokens_to_ids(token) == tiny.VOCAB
    return tokenizer


def saved(folder: Path, tokenizer: Any) -> Path:
    tiny.build_model().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def policy_of(tokenizer: Any) -> Policy:
    model = tiny.build_model()
    reference = copy.deepcopy(model).requires_grad_(False)
    return Policy(model, tokenizer=tokenizer, reference=reference, has_adapter=False)


def test_padding_beyond_the_embedding_changes_no_statistics_and_no_completion() -> None:
    added, plain = (policy_of(t) for t in (with_added(pad_token="[PAD]"), tiny.char_tokenizer()))
    assert int(added.tokenizer.pad_token_id) == tiny.VOCAB
    pairs = tiny.random_pairs([(3, 9), (8, 2), (5, 5)])
    found = [
        token_stats(
            policy,
            pad_rows(pairs, pad_id=policy.pad_id),
            temperature=1.0,
            micro_batch_size=4,
            with_reference=True,
        )
        for policy in (added, plain)
    ]
    assert torch.equal(found[0].old_logprobs, found[1].old_logprobs)
    sampled = [
        HfSampler(policy, batch_size=8).sample(
            make_prompts([3, 9, 1]), seeds=[[1, 2]] * 3, params=PARAMS, observer=NOBODY
        )
        for policy in (added, plain)
    ]
    assert sampled[0] == sampled[1]


def trains(folder: Path, tmp_path: Path) -> None:
    train.run(
        resolve(preset="tiny", overrides=[*OVERRIDES, f"model.path={folder}", "eval.every=0"]),
        out=tmp_path / "run",
        resume="auto",
        observer=NOBODY,
    )


def rolls_out(folder: Path, tmp_path: Path) -> None:
    rollout.run(
        resolve(overrides=[*OVERRIDES, f"model.path={folder}"]),
        source=evaluations.problems(tmp_path),
        limit=None,
        adapter=None,
        out=tmp_path / "out.jsonl",
        observer=NOBODY,
    )


def evaluates(folder: Path, tmp_path: Path) -> None:
    bench = evaluations.problems(tmp_path)
    evaluations.run(bench, 2, tmp_path / "e", *OVERRIDES, f"model.path={folder}")


@pytest.mark.parametrize("verb", [trains, rolls_out, evaluates])
def test_a_prompt_with_a_token_that_the_model_lacks_is_refused_before_anything_is_sampled(
    verb: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    tokenizer = with_added(cls_token="<go>")
    tokenizer.chat_template = tiny.CHAT.replace("<assistant>", "<assistant><go>")
    folder = saved(tmp_path / "m", tokenizer)
    told = (
        rf"prompt '.+' has token id {tiny.VOCAB} \('<go>'\), but the model has {tiny.VOCAB} token "
        r"embeddings; give a model\.path whose tokenizer and chat template are the model's own"
    )
    with pytest.raises(ConfigError) as caught:
        verb(folder, tmp_path)
    assert re.search(told, str(caught.value)) and caught.value.exit_code == 2
    written = [path for path in tmp_path.rglob("*.jsonl") if path.name != "three.jsonl"]
    assert not [path for path in written if path.read_text()]


def test_a_tokenizer_whose_end_the_model_cannot_say_is_refused() -> None:
    tokenizer = with_added(eos_token="<stop>")
    model = tiny.build_model()
    model.generation_config.eos_token_id = None
    told = rf"EOS token has id {tiny.VOCAB}, but the model has {tiny.VOCAB} logits, so completions"
    with pytest.raises(ModelError, match=told):
        Policy(model, tokenizer=tokenizer, reference=None, has_adapter=False)
