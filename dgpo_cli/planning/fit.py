"""Settings that dgpo chooses for a model and data of one's own, each with its reason."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dgpo_cli.config.changes import TAGS
from dgpo_cli.config.checks import has_bitsandbytes, has_vllm
from dgpo_cli.config.dump import with_stored_sources
from dgpo_cli.config.foreign import bare_note
from dgpo_cli.config.layers import Layer, dotted_layer
from dgpo_cli.config.load import Resolved, resolve
from dgpo_cli.config.settings import Settings
from dgpo_cli.config.shorthand import CHECKERS, Asked
from dgpo_cli.config.tree import flatten
from dgpo_cli.core.errors import ModelError
from dgpo_cli.core.events import NOBODY, Observer, tell
from dgpo_cli.core.numbers import size
from dgpo_cli.core.types import Prompt
from dgpo_cli.planning import plan
from dgpo_cli.planning.budget import Device, Plan
from dgpo_cli.planning.devices import whole
from dgpo_cli.planning.seen import (
    asks_for_a_form,
    checker_for,
    options_of,
    problems_seen,
    prompt_lengths,
    rows_ask_for_a_form,
    solution_length,
    thinks,
    wrapped,
)
from dgpo_cli.policy.config_file import find_config
from dgpo_cli.policy.load import load_tokenizer
from dgpo_cli.policy.settings import EMBEDDED_TINY
from dgpo_cli.policy.shape import NOT_SAMPLED, context_length, shape_of
from dgpo_cli.prompts.datasets import first_rows
from dgpo_cli.prompts.problems import find_columns
from dgpo_cli.prompts.settings import MixturePrompts, PlayedPrompts, SumsPrompts
from dgpo_cli.rewards.settings import RewardSettings, SummedReward

SOURCE = "model and data"  # of a chosen value, before its reason
COLUMNS = "the columns of --data"
_LOOKED_AT = 100  # rows whose columns are compared

BARE = "{problem}"
BOXED = BARE + "\n\nPlease reason step by step, and put your final answer within \\boxed{}."
BOXED_LETTER = (
    BARE
    + "\n\nPlease reason step by step, and put the letter of the right option within \\boxed{}."
)
_MILLION = 10**6
_TOY = 10 * _MILLION  # weights below which even a CPU samples a batch in a second
_SMALL = 500 * _MILLION
_FULL = 2000 * _MILLION  # weights up to which all are trained where they fit
_CPU_SHARE = 0.75  # of a machine's memory: other programs need the rest
_LONGEST = 4096  # tokens of a prompt
_AT_ONCE = 4  # completions in a pass, on a CPU
_LEAST = 256  # tokens of a completion that solves a problem
_EIGHT_BITS = frozenset(("optim.kind", "model.quantization"))  # with bitsandbytes
# Changes of a plan that leave what is learnt alone.
_HARMLESS = frozenset(
    (
        *("optim.micro_batch_size", "optim.micro_batch_tokens", "model.gradient_checkpointing"),
        *("rollout.backend.batch_size", "rollout.backend.gpu_memory_utilization"),
    )
)


def fitted(
    asked: Asked,
    *,
    kept: Path | None = None,
    device: Device | None = None,
    observer: Observer = NOBODY,
) -> Resolved:
    """Resolve what was asked for, with what the model and the data decide.

    A preset or file decides all but the columns of the data.

    Args:
        kept: settings of the run that is resumed: what was chosen when it began stays.
        device: where the run is to fit; None: on this machine.

    Raises:
        ConfigError: a setting is wrong, or there is no such data.
        DataError: the data is broken.
        ModelError: there is no such model.
        BackendError: the hub does not give them.
    """
    if kept is not None:
        return asked.resolve(chosen_layers(with_stored_sources(resolve(config=kept), kept)))
    fit = _Fit(asked, observer, given=device)
    fit.columns()
    if not asked.has_recipe:
        find_config(fit.settings.model)  # a model that is not there is told first
        fit.task()
        fit.prompts()
        fit.batch()
        fit.weights()
    return asked.resolve(fit.layers)


def chosen_in(resolved: Resolved) -> tuple[tuple[str, Any, str], ...]:
    """Return setting, value and reason of all that was chosen for the model and data."""
    values = flatten(resolved.settings)
    return tuple(
        (key, values[key], source.partition(": ")[2])
        for key, source in resolved.sources.items()
        if source.startswith(f"{SOURCE}: ")
    )


def comments_on(resolved: Resolved) -> dict[str, str]:
    """Return what a settings file says beside the values that were chosen, and those of flags."""
    chosen = {key: reason for key, _, reason in chosen_in(resolved)}
    given = {
        key: f"from {source}"
        for key, source in resolved.sources.items()
        if source.startswith("--") or source == COLUMNS
    }
    return given | chosen


def chosen_layers(resolved: Resolved) -> tuple[Layer, ...]:
    """Return what was chosen for model and data; the kind of a section before what it has."""
    values, sources = flatten(resolved.settings), resolved.sources
    ours = [key for key, source in sources.items() if source.startswith((f"{SOURCE}:", COLUMNS))]
    ours.sort(key=lambda key: key.rpartition(".")[2] not in TAGS)
    return tuple(dotted_layer(sources[key], {key: values[key]}) for key in ours)


@dataclass(slots=True)
class _Fit:
    """The choices so far, as layers that --set and flags are above."""

    asked: Asked
    observer: Observer
    layers: list[Layer] = field(default_factory=list)
    seen: tuple[Prompt, ...] = ()
    given: Device | None = None  # the device, if it is not this machine's

    @property
    def settings(self) -> Settings:
        return self.asked.resolve(self.layers).settings

    def put(self, reason: str, values: Mapping[str, Any]) -> None:
        """Choose values for settings that were not given."""
        free = {key: value for key, value in values.items() if not self.asked.gives(key)}
        if free:
            self.layers.append(dotted_layer(f"{SOURCE}: {reason}", free))

    def columns(self) -> None:
        """Name the columns of the data."""
        prompts = self.settings.prompts
        if self.asked.data is None or isinstance(
            prompts, SumsPrompts | PlayedPrompts | MixturePrompts
        ):
            return
        rows = first_rows(prompts, count=_LOOKED_AT, observer=self.observer)
        found = find_columns(rows)
        values = {"prompts.problem_column": found.problem, "prompts.answer_column": found.answer}
        self.layers.append(dotted_layer(COLUMNS, values))
        resolved = self.asked.resolve(self.layers)
        settings = resolved.settings
        reads = _judged(settings.reward) and settings.model.path != EMBEDDED_TINY
        asked = rows_ask_for_a_form(rows, column=found.problem)
        if reads and not asked and (note := bare_note(resolved)):
            tell(self.observer, note)

    def task(self) -> None:
        """Choose the checker and the template."""
        self.seen, _ = problems_seen(self.settings, observer=self.observer)
        if not self.asked.gives("reward"):
            kind, reason = checker_for(self.seen)
            self.put(reason, {"reward.kind": kind})
        reward = self.settings.reward
        if reward.kind == "choice":
            count = max(reward.choices, options_of(self.seen))
            self.put(f"the answers go up to option {count}", {"reward.choices": count})
        template, reason = self._template(_judged(self.settings.reward))
        self.put(reason, {"prompts.template": template})
        if not self.asked.gives("prompts.template"):
            self.seen = tuple(wrapped(self.seen, template=template))

    def _template(self, kind: str | None) -> tuple[str, str]:
        if self.settings.model.path == EMBEDDED_TINY:
            return BARE, "the embedded model was trained on bare expressions"
        if kind is None:
            return BARE, "the reward needs no form of answer"
        if asks_for_a_form(self.seen):
            return BARE, "the problems say how to write the answer"
        return BOXED_LETTER if kind == "choice" else BOXED, f"asks for the form that {kind} reads"

    def prompts(self) -> None:
        """Choose the lengths of prompts and completions."""
        settings = self.settings
        tokenizer = load_tokenizer(settings.model)
        context = context_length(find_config(settings.model).config)
        lengths = prompt_lengths(
            self.seen, tokenizer=tokenizer, arguments=settings.prompts.chat_template
        )
        most = lengths.longest
        reason = f"the longest prompt has {most:,} tokens"
        if isinstance(settings.prompts, SumsPrompts):
            most = most * 5 // 4
            reason = f"the longest of {len(self.seen)} that were drawn has {lengths.longest} tokens"
        if most > 2 * lengths.most:
            most = 2 * lengths.most
            reason = f"99% of the prompts have at most {lengths.most:,} tokens, the longest more"
        limit = min(_LONGEST, context // 2 if context else _LONGEST)
        if most > limit:
            most = limit
            half = context is not None and most == context // 2
            reason += f"; limit: {f'half of the context of {context:,}' if half else f'{most:,}'}"
        if not tokenizer.chat_template:
            reason += "; the model has no chat template: plain text"
        self.put(reason, {"prompts.max_prompt_tokens": min(limit, _rounded(most, 16))})
        taken = self.settings.prompts.max_prompt_tokens
        wanted, reason = self._completion(solution_length(settings, tokenizer=tokenizer), tokenizer)
        room = max(1, (context or wanted + taken) - taken)
        if wanted > room:
            wanted, reason = room, f"what the prompts leave of the context of {context:,} tokens"
        self.put(reason, {"rollout.max_completion_tokens": wanted})

    def _completion(self, solution: int | None, tokenizer: Any) -> tuple[int, str]:
        if solution is not None:
            wanted = max(_LEAST, _rounded(2 * solution, 64))
            what = f"twice the longest worked solution of the data, {solution:,} tokens"
            return wanted, what if wanted > _LEAST else f"{what}, and at least {_LEAST}"
        cpu = self._device.kind == "cpu"
        where = "a CPU" if cpu else "a GPU"
        if thinks(tokenizer):
            return (2048 if cpu else 8192), f"room for the thoughts of this model, on {where}"
        return (512 if cpu else 2048), f"room for a solution, on {where}"

    def batch(self) -> None:
        """Choose the sampler and the size of a step."""
        device, weights = self._device, self._weights
        family = str(find_config(self.settings.model).config.get("model_type"))
        if not self.asked.gives("rollout.backend"):
            self.put(*_sampler(device, family=family))
        patient = device.kind == "cpu" and not (weights is not None and weights < _TOY)
        prompts, group = (8, 8) if patient else (16, 16)
        of_step = "a step of 64 completions, on a CPU" if patient else "a step of 256 completions"
        reason = of_step
        settings = self.settings
        if not isinstance(settings.prompts, SumsPrompts) and len(self.seen) < prompts:
            prompts = len(self.seen)
            reason = f"the data has only {prompts} problem{'s' if prompts > 1 else ''}"
        self.put(reason, {"rollout.prompts_per_step": prompts})
        self.put(of_step, {"rollout.group_size": group})
        if patient:
            longest = settings.prompts.max_prompt_tokens + settings.rollout.max_completion_tokens
            what = "four of the longest completions at a time, for a CPU's memory"
            self.put(what, {"optim.micro_batch_tokens": _AT_ONCE * longest})

    def weights(self) -> None:
        """Choose what is trained and how it fits: all weights, an adapter, or one over 4 bits."""
        weights = self._weights
        if weights is None:
            self._uncounted()
            return
        device, ways = self._device, list(self._ways(weights, self._device))
        for values in ways:
            found = self._planned(values, device=device)
            if found.fits or (found.fits_after and _changed(found) <= _HARMLESS):
                break
        self._take(values, reason=_because(values, weights=weights, device=device))
        for change in found.changes:
            if has_bitsandbytes() or not _EIGHT_BITS & set(change.settings):
                self.put(f"else it does not fit: {change.cost}", change.settings)
        if not found.fits_after:
            tell(
                self.observer,
                f"this run needs {size(found.memory.peak)} on {device.name}, which has "
                f"{size(device.room)} for it: use a smaller model or another device",
            )
        kind = self.settings.adapter.kind
        self.put(_RATE.format(kind=_NAMES[kind]), {"optim.lr": _rate(weights, kind=kind)})

    def _take(self, values: Mapping[str, Any], *, reason: str) -> None:
        """Choose one of the ways, each setting with a reason of its own."""
        full = values["adapter.kind"] == "none"
        rounding = "16 bits would lose small updates" if full else "enough for frozen weights"
        reasons = {
            "model.dtype": rounding if "float32" not in values.values() or full else "for a CPU",
            "model.gradient_checkpointing": "as little as fits",
        }
        for key, value in values.items():
            self.put(reasons.get(key, reason), {key: value})

    def _ways(self, weights: int, device: Device) -> Iterator[dict[str, Any]]:
        """Yield what may be trained, the best first, among what --set leaves open."""
        given = self.settings.adapter.kind if self.asked.gives("adapter") else None
        careful = {} if weights < _TOY else {"model.gradient_checkpointing": "auto"}
        half = "float32" if device.kind == "cpu" else "bfloat16"
        if given == "none" or (given is None and weights <= _FULL):
            yield {"adapter.kind": "none", "model.dtype": "float32", **careful}
        if given == "none":
            return
        lora = {"adapter.kind": "lora", "adapter.rank": 32, "adapter.alpha": 64.0}
        yield {**lora, "model.dtype": half, **careful}
        if device.kind == "cuda" and has_bitsandbytes():
            yield {**lora, "model.dtype": half, "model.quantization": "nf4", **careful}

    def _planned(self, values: Mapping[str, Any], *, device: Device) -> Plan:
        trial = replace_layers(self, values)

        def changed(changes: dict[str, object]) -> Resolved:
            return self.asked.resolve([*trial, dotted_layer("dgpo plan", changes)])

        return plan.run(changed, device=device, typical=plan.Typical())

    def _uncounted(self) -> None:
        cpu = self._device.kind == "cpu"
        values: dict[str, Any] = {"adapter.kind": "lora", "model.gradient_checkpointing": "auto"}
        reason = "what this model needs is not counted"
        self.put(reason, values | {"model.dtype": "float32" if cpu else "bfloat16"})
        self.put(_RATE.format(kind=_NAMES["lora"]), {"optim.lr": 1e-5})

    @property
    def _device(self) -> Device:
        device = self.given or whole(self.settings.model.device)
        if device.kind == "cuda":
            return device
        return replace(device, memory=int(_CPU_SHARE * device.memory))

    @property
    def _weights(self) -> int | None:
        """Number of the model's weights; None where it is not counted."""
        settings = self.settings
        try:
            return shape_of(find_config(settings.model).config, name=settings.model.path).parameters
        except ModelError:
            return None


def replace_layers(fit: _Fit, values: Mapping[str, Any]) -> Sequence[Layer]:
    """Return the layers of a fit with these values too, and leave it as it is."""
    trial = _Fit(fit.asked, fit.observer, [*fit.layers])
    trial.put("", values)
    return trial.layers


_NAMES = {"none": "all weights", "lora": "an adapter"}
_RATE = "for {kind} of a model of this size"


# Learning rates below a number of weights, of all of them and of an adapter: the paper's 1e-6 for
# 7B, ten times that for LoRA, and more for less.
_RATES = ((_TOY, 2e-4, 1e-3), (_SMALL, 1e-5, 1e-4), (_FULL, 2e-6, 2e-5), (math.inf, 1e-6, 1e-5))


def _rate(weights: int, *, kind: str) -> float:
    full, adapter = next((full, lora) for below, full, lora in _RATES if weights < below)
    return full if kind == "none" else adapter


def _judged(reward: RewardSettings) -> str | None:
    """Return the checker that reads the answer of a completion, alone or as a term."""
    terms: Sequence[object] = (reward,)
    if isinstance(reward, SummedReward):
        terms = reward.every_term()
    kinds = [str(getattr(term, "kind", "")) for term in terms]
    return next((kind for kind in kinds if kind in CHECKERS), None)


def _sampler(device: Device, *, family: str) -> tuple[str, dict[str, Any]]:
    if device.kind == "cuda" and has_vllm():
        return "vLLM is installed, and there is a GPU", {"rollout.backend.kind": "vllm"}
    if family in NOT_SAMPLED:
        return f"hf cannot sample from {family}", {"rollout.backend.kind": "vllm"}
    reason = "no GPU for vLLM" if device.kind != "cuda" else "vLLM is not installed"
    return reason, {"rollout.backend.kind": "hf"}


def _because(values: Mapping[str, Any], *, weights: int, device: Device) -> str:
    """Return why these weights are trained."""
    named = f"{weights / 1e9:.1f} B" if weights >= 1e9 else f"{weights / 1e6:.1f} M"
    name = "a CPU" if device.kind == "cpu" else device.name
    place = f"{name} with {size(device.room)}"
    if values["adapter.kind"] == "none":
        return f"{named} weights: all can be trained on {place}"
    if "model.quantization" in values:
        return f"{named} weights: in 4 bits, to fit {place}"
    return f"{named} weights: too many to train all on {place}"


def _changed(found: Plan) -> set[str]:
    return {key for change in found.changes for key in change.settings}


def _rounded(tokens: int, step: int) -> int:
    return -(-tokens // step) * step
