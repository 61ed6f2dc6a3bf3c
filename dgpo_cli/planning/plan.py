"""Plans a run before anything is loaded: memory, time, disk, and changes that make it fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict

from dgpo_cli.config.checks import check_trainable
from dgpo_cli.config.dump import dump_toml
from dgpo_cli.config.load import Resolved
from dgpo_cli.config.settings import Settings, needs_reference, parallel_kind
from dgpo_cli.core.errors import ConfigError, ModelError
from dgpo_cli.core.io import write_new
from dgpo_cli.core.numbers import percent, size, whole_percent
from dgpo_cli.planning.budget import (
    Choice,
    Device,
    DiskPart,
    Exchange,
    MemoryNeed,
    Network,
    PhaseTime,
    Plan,
    SettingsChange,
)
from dgpo_cli.planning.cost import ASSUMPTIONS, LEAVING, compute_of, samples_beside, times_of
from dgpo_cli.planning.devices import NO_BFLOAT16, share_of
from dgpo_cli.planning.host import host_of
from dgpo_cli.planning.job import NODE, Job, Layout, Sampling
from dgpo_cli.planning.memory import (
    AUTOMATIC,
    MALLOC,
    SPARE,
    memory_of,
    settled,
)
from dgpo_cli.planning.problems import problems_of
from dgpo_cli.planning.remedies import remedies
from dgpo_cli.planning.scaling import choices_of
from dgpo_cli.planning.traffic import networks_of, traffic_of
from dgpo_cli.policy.config_file import find_config
from dgpo_cli.policy.settings import CheckpointingKind, LoraAdapter
from dgpo_cli.policy.shape import EXPERT_FAMILIES, KNOWN_FAMILIES, ModelShape, shape_of
from dgpo_cli.samplers.settings import HfBackend, VllmBackend, VllmServerBackend

ELEMENT = {"float32": 4, "bfloat16": 2, "float16": 2}
_TYPICAL_PROMPT = 256
# Bytes per token of a rollout file, its five numbers included; measured on the embedded model: 94.
_ROLLOUT_TOKEN = 100

# Resolves the settings with some changed.
Changed = Callable[[dict[str, object]], Resolved]


@dataclass(frozen=True, slots=True)
class Typical:
    """Lengths for the estimate of time, in tokens; None for the default."""

    prompt: int | None = None
    completion: int | None = None


def run(
    changed: Changed,
    *,
    device: Device,
    typical: Typical,
    repair: bool = True,
    compare: bool = False,
) -> Plan:
    """Plan a run.

    Args:
        changed: resolves the settings of the run with some changed.
        repair: search for changes that make it fit.
        compare: compare numbers of devices, as is always done for more than one.

    Raises:
        ModelError: the model's config is not available, or its family is not supported.
    """
    settings = changed({}).settings
    device = share_of(device, ranks=settings.parallel.gpus)
    found = find_config(settings.model)
    shape = shape_of(found.config, name=settings.model.path)

    def job(changes: dict[str, object]) -> Job:
        return job_of(changed(changes).settings, shape=shape, typical=typical, device=device)

    def fits(changes: dict[str, object]) -> tuple[MemoryNeed, bool]:
        candidate = job(changes)
        memory = memory_of(candidate, device)
        fine = memory.peak <= device.room and not problems_of(candidate, device)
        return memory, fine and _trainable(changed(changes).settings)

    now = job({})
    memory, fine = fits({})
    changes: tuple[SettingsChange, ...] = ()
    after, fits_after = None, fine
    if not fine and repair:
        changes, after, fits_after = remedies(settings, device=device, weigh=fits)
    return Plan(
        model=settings.model.path,
        origin=found.origin,
        parameters=shape.parameters,
        active=shape.active,
        trained=now.trained,
        checkpointing=now.checkpointing,
        device=device,
        devices=now.layout.gpus,
        memory=memory,
        host=host_of(now, device),
        problems=problems_of(now, device),
        **_costs(now, device, compare=compare),
        steps=settings.train.steps,
        step_samples=now.rows,
        step_tokens=now.rows * now.typical_completion,
        disk=disk_of(settings, job=now),
        changes=changes,
        after=after,
        fits_after=fits_after,
        notes=tuple(_notes(settings, now, memory, device)),
    )


class _Costs(TypedDict):
    times: tuple[PhaseTime, ...]
    exchanges: tuple[Exchange, ...]
    networks: tuple[Network, ...]
    choices: tuple[Choice, ...]


def _costs(job: Job, device: Device, *, compare: bool) -> _Costs:
    times = () if problems_of(job, device) else times_of(job, device)
    exchanges = traffic_of(job)
    compare = (compare or job.layout.gpus > 1) and device.kind == "cuda"
    return {
        "times": times,
        "exchanges": exchanges,
        "networks": networks_of(exchanges, job, device, compute=compute_of(times)) if times else (),
        "choices": choices_of(job, device) if compare else (),
    }


def apply(plan: Plan, changed: Changed, *, to: Path) -> None:
    """Write the settings with the plan's changes to a new TOML file.

    Raises:
        ConfigError: it exists, or cannot be written.
    """
    resolved = changed({k: v for c in plan.changes for k, v in c.settings.items()})
    hardware = f'hardware = "{resolved.hardware}"\n\n' if resolved.hardware else ""
    text = hardware + dump_toml(resolved)
    write_new(to, text, what=f"--apply={to}")


def job_of(settings: Settings, *, shape: ModelShape, typical: Typical, device: Device) -> Job:
    """Return the numbers of a run that its plan depends on."""
    model, rollout, optim, adapter = (
        settings.model,
        settings.rollout,
        settings.optim,
        settings.adapter,
    )
    prompt, completion = settings.prompts.max_prompt_tokens, rollout.max_completion_tokens
    lora = adapter if isinstance(adapter, LoraAdapter) else None
    size = 0
    if lora is not None:
        size = shape.adapter_parameters(rank=lora.rank, targets=lora.targets)
    compute = _compute_bytes(settings, device)
    kind = model.gradient_checkpointing
    if kind == "auto" and not _is_counted(settings, shape):
        kind = "none" if device.kind == "cpu" else "full"
    job = Job(
        shape=shape,
        element=ELEMENT[model.dtype],
        packed=model.quantization == "nf4",
        adapter=size,
        rank=lora.rank if lora is not None else 0,
        distance=needs_reference(settings),
        apart=settings.credit.whole_batch,
        refreshed=settings.credit.refresh == "update" and optim.updates_per_step > 1,
        tables=3 + settings.loss.needs_reference + settings.credit.needs_values,
        # A CPU's own memory is the host's.
        checkpointing="full" if kind == "offload" and device.kind == "cpu" else kind,
        state=optim.kind,
        prompt=prompt,
        completion=completion,
        typical_prompt=typical.prompt or min(prompt, _TYPICAL_PROMPT),
        typical_completion=typical.completion or completion,
        prompts=rollout.prompts_per_step,
        group_size=rollout.group_size,
        updates=optim.updates_per_step,
        micro_rows=optim.micro_batch_size,
        micro_tokens=optim.micro_batch_tokens,
        sampling=_sampling_of(settings, device),
        workers=settings.reward.processes,
        layout=layout_of(settings),
        overlap=rollout.overlap > 0,
        compute=compute,
        eager=shape.eager or model.attention == "eager",
        repeats=device.kind == "cuda" and (compute or ELEMENT[model.dtype]) == ELEMENT["float32"],
        kept=rollout.top_k if _keeps_sets(settings) else 0,
        continuations=getattr(settings.credit, "continuations", 0),
    )
    return settled(job, device)


def _keeps_sets(settings: Settings) -> bool:
    """Whether a truncated sampler's sets stay in memory, for updates after the first."""
    rollout = settings.rollout
    waits = rollout.dynamic_sampling or rollout.overlap > 0
    return rollout.truncation is not None and (waits or settings.optim.updates_per_step > 1)


def chosen_checkpointing(settings: Settings, *, device: Device) -> tuple[CheckpointingKind, str]:
    """Return the kind of gradient checkpointing that `model.gradient_checkpointing` stands for on
    a device, and why; the reason is empty unless it is auto.

    Args:
        device: its room is what counts.
    """
    kind = settings.model.gradient_checkpointing
    if kind != "auto":
        return kind, ""
    device = share_of(device, ranks=settings.parallel.gpus)
    try:
        found = find_config(settings.model)
        shape = shape_of(found.config, name=settings.model.path)
        job = job_of(settings, shape=shape, typical=Typical(), device=device)
    except ModelError:
        return "none" if device.kind == "cpu" else "full", _UNCOUNTED
    return job.checkpointing, _chosen_because(job, device)


_UNCOUNTED = "what this model needs is not counted"


def _is_counted(settings: Settings, shape: ModelShape) -> bool:
    """Whether the model's activations are counted as they are."""
    known = shape.family in KNOWN_FAMILIES | EXPERT_FAMILIES
    return known and not shape.eager and settings.model.attention != "eager"


def _chosen_because(job: Job, device: Device) -> str:
    """Return why auto takes the job's kind of gradient checkpointing."""
    if not job.chosen:
        return _UNCOUNTED
    needs = f"{size(memory_of(job, device).during('training'))} in training"
    if job.checkpointing != "none":
        before = AUTOMATIC[AUTOMATIC.index(job.checkpointing) - 1]
        more = memory_of(replace(job, checkpointing=before), device).during("training")
        needs += f", {size(more)} with {before}"
    spare = percent(SPARE, digits=0)
    return f"needs {needs}; the device has {size(device.room)}, of which {spare} are kept free"


def layout_of(settings: Settings) -> Layout:
    parallel = settings.parallel
    return Layout(
        kind=parallel_kind(settings),
        gpus=parallel.gpus,
        sequence=parallel.sequence,
        offload=parallel.reference == "offload",
    )


def _sampling_of(settings: Settings, device: Device) -> Sampling:
    backend = settings.rollout.backend
    if isinstance(backend, HfBackend):
        return Sampling("hf", rows=backend.batch_size, share=0.0)
    if not isinstance(backend, VllmBackend):
        assert isinstance(backend, VllmServerBackend)  # check_trainable has refused an endpoint
        return Sampling("vllm-server", rows=backend.max_num_seqs, share=0.0, element=2)
    dtype = settings.model.dtype if backend.dtype == "auto" else backend.dtype
    auto = device.kind == "cuda" and not settings.rollout.overlap
    return Sampling(
        "vllm",
        rows=backend.max_num_seqs,
        share=backend.gpu_memory_utilization,
        element=ELEMENT[dtype],
        split=backend.tensor_parallel_size,
        sleeps=auto if backend.sleep == "auto" else backend.sleep == "on",
    )


def _compute_bytes(settings: Settings, device: Device) -> int | None:
    """Return the bytes per number of rounded products; see policy.load.compute_dtype."""
    has = device.kind == "cuda" and device.name not in NO_BFLOAT16
    auto = settings.model.compute == "auto" and has and settings.model.dtype != "float16"
    return 2 if auto or settings.model.compute == "bfloat16" else None


def _trainable(settings: Settings) -> bool:
    try:
        check_trainable(settings)
    except ConfigError:
        return False
    return True


def disk_of(settings: Settings, *, job: Job) -> tuple[DiskPart, ...]:
    """Return the disk space of a run, the model's own files included."""
    train = settings.train
    weights = job.trained * (job.element if job.full else 4)
    state = job.trained * {"adamw": 8, "adamw8bit": 2, "paged-adamw8bit": 2}[job.state]
    made = -(-train.steps // train.checkpoint_every)
    count = min(train.keep_checkpoints, made) + (1 if made > train.keep_checkpoints else 0)
    files = 1 + train.steps // train.rollouts_every
    return (
        DiskPart("model", job.shape.parameters * 2, "download in 16 bits; 0 if already here"),
        DiskPart("checkpoints", count * (weights + state), f"{count} at once, optimiser included"),
        DiskPart(
            "rollouts",
            files * job.rows * job.typical_completion * _ROLLOUT_TOKEN,
            f"{files} files of {job.rows:,} completions",
        ),
    )


def _notes(settings: Settings, job: Job, memory: MemoryNeed, device: Device) -> list[str]:
    notes = []
    known = KNOWN_FAMILIES | EXPERT_FAMILIES
    if job.shape.family not in known:
        notes.append(
            f"{job.shape.family} is counted as a Llama-like decoder; the counts are tested on "
            f"{', '.join(sorted(known))} only"
        )
    if job.eager:
        notes.append("eager attention keeps the whole matrix of a layer: counted, not measured")
    if settings.model.dtype == "bfloat16" and device.name in NO_BFLOAT16:
        notes.append(f"{device.name} has no bfloat16 arithmetic; set model.dtype=float16")
    if memory.part("allocator") and device.kind == "cpu":
        notes.append(
            f"{MALLOC}=65536 in the environment saves the allocator's "
            f"{size(memory.part('allocator'))}: freed blocks are returned at once; steps of small "
            "models then took up to a third longer"
        )
    if job.chosen:
        why = _chosen_because(job, device)
        notes.append(f"model.gradient_checkpointing=auto takes {job.checkpointing}: it {why}")
    if job.layout.gpus > 1:
        notes.append(_ranks_note(job))
    if device.kind != "cpu":
        notes.append("tested on CPUs; the reserves for CUDA, its allocator and vLLM are assumed")
    if _keeps_sets(settings) and not job.kept:
        notes.append(
            f"rollout.top_p={settings.rollout.top_p:g} alone does not bound the number of kept "
            f"tokens, which later updates need: {size(job.rows * job.completion * 400)} in every "
            "process at 100 for each sampled token (sampling/kept_mean says how many); "
            "rollout.top_k=512 bounds it"
        )
    if job.overlap:
        notes.append(_overlap_note(job))
    if job.continuations:
        notes.append(
            f"credit.continuations={job.continuations}: {whole_percent(LEAVING)} of the "
            "continuations are assumed to leave a completion at each of its tokens, and to be "
            "sampled again from there; prefixes that a group shares, and groups without signal, "
            "cost less"
        )
    if times_of(job, device):
        notes.append(
            f"times are for prompts of {job.typical_prompt:,} and completions of "
            f"{job.typical_completion:,} tokens (--prompt-tokens, --completion-tokens); "
            f"{ASSUMPTIONS}"
        )
    else:
        notes.append(f"{device.name}: speed unknown, so there is no estimate of time")
    return notes


def _ranks_note(job: Job) -> str:
    words = "communication is counted in bytes that a device sends; links reach 80% of their rate"
    if job.layout.gpus > NODE:
        words += (
            f", a machine has {NODE} devices, and each of them a link of its own to the network"
        )
    return words


def _overlap_note(job: Job) -> str:
    if samples_beside(job):
        return (
            "with rollout.overlap=1 a step takes the longer of sampling and the rest: the servers "
            "run on devices of their own"
        )
    return (
        "rollout.overlap=1 is assumed to save no time with an engine on the trainer's device; "
        "rollout.backend.kind=vllm-server samples on another"
    )
