"""Token statistics of rollouts, computed under any model and its reference."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from dgpo_cli.config.settings import Settings
from dgpo_cli.core.errors import ConfigError, DataError
from dgpo_cli.core.events import Observer, tell
from dgpo_cli.core.types import Prompt, ScoredGroup, TokenStats, Verdict
from dgpo_cli.inspect.request import Models
from dgpo_cli.inspect.shown_credit import Statistics
from dgpo_cli.policy.settings import ModelSettings
from dgpo_cli.runs.rollouts import RolloutLine
from dgpo_cli.samplers.settings import RolloutSettings

if TYPE_CHECKING:
    from dgpo_cli.policy.policy import Policy


_Encode = Callable[[Prompt], tuple[int, ...]]
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_CHARACTERS = 64  # more than a token has on average in any text


def load_models(models: Models) -> Policy:
    """Load a model and its reference.

    Raises:
        ConfigError: not exactly one of `reference` and `adapter`, or two vocabularies.
        ModelError: one does not load.
    """
    from dgpo_cli.policy.load_policy import load_for_sampling

    assert models.model is not None
    if (models.reference is None) == (models.adapter is None):
        raise ConfigError(
            "--model needs --reference M (another model) or --adapter A (the model without it "
            "is then the reference)"
        )
    settings = ModelSettings(path=models.model)
    reference = None if models.reference is None else ModelSettings(path=models.reference)
    if reference is not None:
        _check_vocabularies(settings, reference)
    return load_for_sampling(settings, adapter=models.adapter, reference=reference)


def _check_vocabularies(model: ModelSettings, reference: ModelSettings) -> None:
    """Compare the vocabularies before any weights are loaded."""
    from dgpo_cli.policy.load import load_config

    sizes = [
        getattr(load_config(settings).get_text_config(), "vocab_size", None)
        for settings in (model, reference)
    ]
    if None not in sizes and sizes[0] != sizes[1]:
        raise ConfigError(
            f"--reference {reference.path} has a vocabulary of {sizes[1]}, --model {model.path} "
            f"one of {sizes[0]}: their distributions are not comparable; give two models with the "
            "same vocabulary"
        )


def fresh_stats(
    lines: Sequence[RolloutLine],
    *,
    advantages: Sequence[float],
    policy: Policy,
    observer: Observer,
    chat_template: Mapping[str, object] | None = None,
) -> list[Statistics]:
    """Run the model and its reference once over every line.

    advantages: of every line; NaN if unknown.
    chat_template: arguments of the chat template, for prompts without token ids.

    Raises:
        DataError: a line has no tokens, or tokens of another vocabulary.
        ConfigError: the chat template does not read one of its arguments.
    """
    from dgpo_cli.engine.engine import Engine
    from dgpo_cli.prompts.templates import check_arguments, encode_prompt

    check_arguments(policy.tokenizer, chat_template)
    encode = partial(encode_prompt, policy.tokenizer, arguments=chat_template)

    temperature = temperature_of(lines)
    assumed: dict[str, None] = {}
    lines = [_with_token_ids(line, policy=policy, encode=encode, assumed=assumed) for line in lines]
    for text in assumed:
        tell(observer, text)
    groups = [
        ScoredGroup(
            prompt=line.prompt,
            prompt_ids=line.prompt_ids,
            completions=(line.completion,),
            verdicts=(line.verdict or Verdict("no_answer", None, line.reward),),
            advantages=(advantage,),
        )
        for line, advantage in zip(lines, advantages, strict=True)
    ]
    settings = Settings(rollout=RolloutSettings(temperature=temperature))
    engine = Engine(settings, policy=policy, observer=observer)
    stats = engine.make_batch(groups, every_distance=True).stats
    return _unpadded(stats, lines=lines, advantages=advantages, vocab_size=policy.vocab_size)


def _unpadded(
    stats: TokenStats,
    *,
    lines: Sequence[RolloutLine],
    advantages: Sequence[float],
    vocab_size: int,
) -> list[Statistics]:
    """Return the statistics of each row of a batch."""
    columns = [c.tolist() for c in (stats.old_logprobs, stats.entropy, stats.hellinger_sq)]
    found = []
    for row, (line, advantage) in enumerate(zip(lines, advantages, strict=True)):
        length = len(line.completion.token_ids)
        logprobs, entropy, distance = (tuple(column[row][:length]) for column in columns)
        found.append(
            Statistics(
                line=line,
                advantage=advantage,
                vocab_size=vocab_size,
                logprobs=logprobs,
                entropy=entropy,
                hellinger_sq=distance,
                stored=False,
            )
        )
    return found


def temperature_of(lines: Sequence[RolloutLine]) -> float:
    """Return the sampling temperature of the lines; greedy ones are scored at 1.

    Raises:
        DataError: there are several, or it is not valid.
    """
    temperatures = {line.temperature for line in lines}
    source = lines[0].prompt.source
    if len(temperatures) > 1:
        raise DataError(
            f"{source}: sampled at temperatures {sorted(temperatures)}; inspect them one by one "
            "with --group and --sample"
        )
    temperature = temperatures.pop() or 1.0
    if not 0 < temperature < float("inf"):
        raise DataError(f"{source}: temperature {temperature:g}; it must be 0 or more and finite")
    return temperature


def _with_token_ids(
    line: RolloutLine, *, policy: Policy, encode: _Encode, assumed: dict[str, None]
) -> RolloutLine:
    """Encode the text of a line that has no token ids."""
    source = line.prompt.source
    ids = line.completion.token_ids
    context = math.inf if policy.context is None else policy.context
    if not ids:
        text = _encodable(line.completion.text, source=source, assumed=assumed)
        if len(text) > _CHARACTERS * context:
            raise _too_long(line, f"{len(text):,} characters", context=context)
        ids = tuple(policy.tokenizer.encode(text, add_special_tokens=False))
        ended = bool(ids) and ids[-1] in policy.stop_ids
        if line.completion.finish_reason == "stop" and not ended:
            ids = (*ids, policy.tokenizer.eos_token_id)
        assumed[f"{source}: no token ids; the completion's text is tokenised"] = None
    if not ids:
        raise DataError(f"{source}: completion {line.index} of {line.prompt.id} is empty")
    prompt_ids = line.prompt_ids or _prompt_ids(
        line.prompt, policy=policy, encode=encode, assumed=assumed
    )
    known = min(policy.vocab_size, policy.embeddings)
    wrong = [i for i in (*prompt_ids, *ids) if not 0 <= i < known]
    if wrong:
        raise DataError(
            f"{source}: token id {wrong[0]} is not in the model's vocabulary of {known}; these "
            "rollouts are another model's"
        )
    if len(prompt_ids) + len(ids) > context:
        count = f"{len(prompt_ids):,} + {len(ids):,} tokens of prompt and completion"
        raise _too_long(line, count, context=context)
    known_turns = line.completion.environment if ids is line.completion.token_ids else ()
    logprobs = line.completion.sampling_logprobs
    if len(logprobs) != len(ids):  # missing, or of other tokens; not needed here
        logprobs = (math.nan,) * len(ids)
    completion = replace(
        line.completion, token_ids=ids, sampling_logprobs=logprobs, environment=known_turns
    )
    return replace(line, prompt_ids=prompt_ids, completion=completion)


def _too_long(line: RolloutLine, count: str, *, context: float) -> DataError:
    return DataError(
        f"{line.prompt.source}: completion {line.index} of {line.prompt.id}: {count}, and the "
        f"model's context is {context:,} tokens; inspect shorter ones (--group, --sample), or give "
        "a --model with a longer one"
    )


def _encodable(text: str, *, source: str, assumed: dict[str, None]) -> str:
    """Return text without halves of surrogate pairs, which no tokenizer takes."""
    if not _SURROGATE.search(text):
        return text
    assumed[f"{source}: half surrogate pairs are tokenised as U+FFFD"] = None
    return _SURROGATE.sub("\ufffd", text)


def _prompt_ids(
    prompt: Prompt, *, policy: Policy, encode: _Encode, assumed: dict[str, None]
) -> tuple[int, ...]:
    """Encode a prompt: unchanged if it is a rendered conversation, else as a chat."""
    tokenizer = policy.tokenizer
    turns = [
        replace(turn, content=_encodable(turn.content, source=prompt.source, assumed=assumed))
        for turn in prompt.messages
    ]
    prompt = replace(prompt, messages=tuple(turns))
    special: Mapping[int, object] = getattr(tokenizer, "added_tokens_decoder", {})
    texts = [str(token) for token in special.values() if getattr(token, "special", False)]
    asked = prompt.messages[:-1] if prompt.prefix else prompt.messages
    if any(text in message.content for message in asked for text in texts if text):
        assumed[f"{prompt.source}: prompts have special tokens and are tokenised unchanged"] = None
        text = "".join(message.content for message in prompt.messages)
        return tuple(tokenizer.encode(text, add_special_tokens=False))
    if tokenizer.chat_template:
        assumed[f"{prompt.source}: prompts go through the model's chat template"] = None
    return encode(prompt)
