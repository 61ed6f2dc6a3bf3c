"""Changes of settings that make a run fit, least harmful first, each as far as needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dgpo_cli.config.settings import Settings, parallel_kind
from dgpo_cli.planning.budget import Device, MemoryNeed, SettingsChange
from dgpo_cli.planning.memory import AUTOMATIC
from dgpo_cli.policy.settings import NoAdapter
from dgpo_cli.samplers.settings import HfBackend, VllmBackend

# The memory that changed settings need, and whether they fit.
Weigh = Callable[[dict[str, object]], tuple[MemoryNeed, bool]]

_LEAST_COMPLETION = 256
_LEAST_SHARE = 0.15
_MOST_GPUS = 1024


@dataclass(frozen=True, slots=True)
class _Remedy:
    """Forms of one change, the mildest first, and its cost."""

    forms: tuple[dict[str, object], ...]
    cost: str


def remedies(
    settings: Settings, *, device: Device, weigh: Weigh
) -> tuple[tuple[SettingsChange, ...], MemoryNeed, bool]:
    """Return the changes, the memory with all of them, and whether that fits.

    Each remedy is taken in its mildest form that makes the run fit, or else in the form that needs
    the least memory. Finally changes that are no longer needed are dropped, most harmful first.
    """
    taken: list[tuple[dict[str, object], str]] = []
    memory, fits = weigh({})
    for remedy in _all(settings, device=device):
        before = _merged(taken)
        best: tuple[int, dict[str, object], MemoryNeed] | None = None
        for form in remedy.forms:
            after, fits = weigh(before | form)
            if fits or best is None or after.peak < best[0]:
                best = (after.peak, form, after)
            if fits:
                break
        if best is not None and (fits or best[0] < memory.peak):
            taken.append((best[1], remedy.cost))
            memory = best[2]
        if fits:
            break
    if fits:
        for item in reversed(taken):
            fewer = [other for other in taken if other is not item]
            if weigh(_merged(fewer))[1]:
                taken = fewer
    after, fits = weigh(_merged(taken))
    return tuple(_priced(taken, weigh=weigh)), after, fits


def _merged(taken: list[tuple[dict[str, object], str]]) -> dict[str, object]:
    return {key: value for changes, _ in taken for key, value in changes.items()}


def _priced(
    taken: list[tuple[dict[str, object], str]], *, weigh: Weigh
) -> Iterator[SettingsChange]:
    """Yield each change with what it saves at the peak after those before it."""
    before = weigh({})[0].peak
    for number, (changes, cost) in enumerate(taken, start=1):
        after = weigh(_merged(taken[:number]))[0].peak
        yield SettingsChange(settings=changes, saves=before - after, cost=cost)
        before = after


def _all(settings: Settings, *, device: Device) -> Iterator[_Remedy]:
    """Yield all remedies, the least harmful first."""
    yield _smaller_micro_batches(settings)
    yield _more_checkpointing(settings, device=device)
    sharded = parallel_kind(settings) in ("shard", "hybrid")
    if sharded:
        yield from _other_layouts(settings)
    if settings.optim.kind == "adamw" and device.kind != "mps" and not sharded:
        yield _Remedy(
            ({"optim.kind": "adamw8bit"},), "optimiser state in 8 bits; same learning curve"
        )
    yield from _smaller_sampler(settings)
    if sharded:
        yield _more_devices(settings)
    yield from _fewer_weights(settings, device=device)
    if isinstance(settings.rollout.backend, VllmBackend):
        yield from _smaller_sampler(settings)  # again, for the smaller weights
    yield _shorter(settings)


def _smaller_micro_batches(settings: Settings) -> _Remedy:
    optim = settings.optim
    longest = settings.prompts.max_prompt_tokens + settings.rollout.max_completion_tokens
    step = settings.rollout.prompts_per_step * settings.rollout.group_size
    limit, fit = optim.micro_batch_size, max(1, optim.micro_batch_tokens // longest)
    rows = min(limit or step, step, fit)
    forms: list[dict[str, object]] = []
    while rows > 1:
        rows //= 2
        fewer: dict[str, object] = {"optim.micro_batch_size": rows} if limit else {}
        forms.append({**fewer, "optim.micro_batch_tokens": rows * longest})
    if not forms and optim.micro_batch_tokens > longest:
        forms.append({"optim.micro_batch_tokens": longest})
    return _Remedy(tuple(forms), "more, smaller passes; same results")


def _more_checkpointing(settings: Settings, *, device: Device) -> _Remedy:
    now, last = settings.model.gradient_checkpointing, "offload"
    kinds = (*AUTOMATIC, last) if device.kind == "cuda" else AUTOMATIC
    tried = AUTOMATIC if now == "auto" else kinds[: kinds.index(now) + 1] if now in kinds else kinds
    forms: tuple[dict[str, object], ...] = tuple(
        {"model.gradient_checkpointing": kind} for kind in kinds if kind not in tried
    )
    return _Remedy(forms, "activations are computed again: backward takes up to half as long again")


def _other_layouts(settings: Settings) -> Iterator[_Remedy]:
    """Yield what sharding can do about memory on as many devices."""
    parallel = settings.parallel
    if settings.adapter.kind == "none" and parallel.reference == "shard":
        change: dict[str, object] = {"parallel.reference": "offload"}
        yield _Remedy((change,), "the reference comes from the host's memory in every pass")
    shares = [n for n in (2, 4) if n > parallel.sequence and not parallel.gpus % n]
    forms: tuple[dict[str, object], ...] = tuple({"parallel.sequence": n} for n in shares)
    yield _Remedy(forms, "devices share a completion: attention waits for exchanges")


def _more_devices(settings: Settings) -> _Remedy:
    parallel = settings.parallel
    counts = [parallel.gpus * n for n in (2, 4, 8) if parallel.gpus * n <= _MOST_GPUS]
    return _Remedy(tuple({"parallel.gpus": n} for n in counts), "weights are split over more")


def _smaller_sampler(settings: Settings) -> Iterator[_Remedy]:
    backend = settings.rollout.backend
    forms: list[dict[str, object]] = []
    if isinstance(backend, HfBackend):
        rows = min(
            backend.batch_size, settings.rollout.prompts_per_step * settings.rollout.group_size
        )
        while rows > 1:
            rows //= 2
            forms.append({"rollout.backend.batch_size": rows})
    elif isinstance(backend, VllmBackend):
        yield from _smaller_engine(settings, backend=backend)
        share = backend.gpu_memory_utilization
        while share - 0.05 >= _LEAST_SHARE - 1e-9:
            share = round(share - 0.05, 2)
            forms.append({"rollout.backend.gpu_memory_utilization": share})
        share = backend.gpu_memory_utilization
        while share + 0.05 <= 0.9 + 1e-9:  # the share may also be too small for the weights
            share = round(share + 0.05, 2)
            forms.append({"rollout.backend.gpu_memory_utilization": share})
    yield _Remedy(tuple(forms), "fewer rows at a time: sampling takes longer")


def _smaller_engine(settings: Settings, *, backend: VllmBackend) -> Iterator[_Remedy]:
    if settings.model.dtype == "float32" and backend.dtype == "auto":
        cost = "vLLM computes in 16 bits; off_policy corrects for it"
        yield _Remedy(({"rollout.backend.dtype": "bfloat16"},), cost)
    gpus, split = settings.parallel.gpus, backend.tensor_parallel_size
    splits = [n for n in (2, 4, 8) if n > split and not gpus % n]
    forms: tuple[dict[str, object], ...] = tuple(
        {"rollout.backend.tensor_parallel_size": n} for n in splits
    )
    yield _Remedy(forms, "an engine on several devices: fewer engines")


def _fewer_weights(settings: Settings, *, device: Device) -> Iterator[_Remedy]:
    full = isinstance(settings.adapter, NoAdapter)
    if full:
        change: dict[str, object] = {
            "adapter.kind": "lora",
            "adapter.rank": 64,
            "adapter.alpha": 64.0,
            "adapter.targets": "all-linear",
        }
        yield _Remedy((change,), "trains an adapter, not the model; raise optim.lr tenfold")
    if settings.model.dtype == "float32":
        yield _Remedy(({"model.dtype": "bfloat16"},), "rounds frozen weights to 16 bits")
    sharded = parallel_kind(settings) in ("shard", "hybrid")
    if settings.model.quantization == "none" and device.kind != "mps" and not sharded:
        cost = "rounds frozen weights to 4 bits; slower, needs bitsandbytes"
        yield _Remedy(({"model.quantization": "nf4"},), cost)


def _shorter(settings: Settings) -> _Remedy:
    tokens, prompt = settings.rollout.max_completion_tokens, settings.prompts.max_prompt_tokens
    forms: list[dict[str, object]] = []
    while tokens // 2 >= _LEAST_COMPLETION:
        tokens //= 2
        change: dict[str, object] = {"rollout.max_completion_tokens": tokens}
        if settings.optim.micro_batch_tokens > tokens + prompt:
            change["optim.micro_batch_tokens"] = tokens + prompt
        forms.append(change)
    return _Remedy(tuple(forms), "longer completions are truncated and count as wrong")
