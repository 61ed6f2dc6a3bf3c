"""Builds an engine and its parts from settings."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dgpo_cli.config.checks import check_local
from dgpo_cli.config.settings import Settings, needs_reference, parallel_kind
from dgpo_cli.core.errors import ConfigError
from dgpo_cli.core.events import NOBODY, Observer, tell
from dgpo_cli.core.seeds import derive_seed
from dgpo_cli.engine.engine import Engine
from dgpo_cli.engine.optimizers import build_optimizer
from dgpo_cli.engine.rehearsal import rehearse
from dgpo_cli.engine.stored import StoredPolicy, load_stored
from dgpo_cli.engine.tolerance import model_length
from dgpo_cli.environments.process import EnvProcess
from dgpo_cli.parallel.place import await_meeting
from dgpo_cli.parallel.ranks import ALONE, Ranks, Seat, TorchRanks, Watcher
from dgpo_cli.parallel.sequence import open_lane
from dgpo_cli.policy.load import load_tokenizer
from dgpo_cli.policy.load_policy import load_for_sampling, load_policy
from dgpo_cli.policy.policy import Policy
from dgpo_cli.prompts.settings import PlayedPrompts, env_source
from dgpo_cli.prompts.templates import check_arguments
from dgpo_cli.rewards.grader import Grader
from dgpo_cli.rewards.played import EnvironmentReward
from dgpo_cli.samplers.base import Sampler
from dgpo_cli.samplers.ranked import RankedSampler
from dgpo_cli.samplers.settings import EndpointBackend, HfBackend, VllmBackend

if TYPE_CHECKING:
    import torch

    from dgpo_cli.policy.load_sharded import Spread
    from dgpo_cli.policy.settings import CheckpointingKind


# Where users configure torch's allocator.
_ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")


def training_engine(
    settings: Settings,
    *,
    checkpoint: Path | None = None,
    ranks: Ranks = ALONE,
    reward_log: Path | None = None,
    observer: Observer = NOBODY,
) -> Engine:
    """Load the policy and its reference; return an engine with all four verbs.

    Sets torch's threads, and the seed of the global generators, which dropout draws from. Use the
    engine as a context, which ends the workers that check answers.

    Args:
        checkpoint: folder of a checkpoint whose weights the policy takes.
        ranks: every one of them builds the same engine at the same time.
        reward_log: the file that gets what reward functions of the user's print; None: nowhere.
        observer: gets notes on the model and the progress of long work.

    Raises:
        ModelError: the model, adapter or checkpoint cannot be loaded.
        ConfigError: the settings do not fit the machine.

    Examples:
        >>> from dgpo_cli import load_settings, training_engine
        >>> with training_engine(load_settings("tiny")) as engine:
        ...     print(f"{engine.policy.parameter_counts()['trained']:,} parameters are trained")
        460,800 parameters are trained
    """
    set_threads(settings.train.threads)
    rehearse(settings)
    _check_template(settings, folder=checkpoint)
    _let_segments_grow(settings)
    own = settings.seed if ranks.leads else derive_seed(settings.seed, "rank", str(ranks.number))
    seed_everything(own)  # two ranks must not drop out the same
    policy = load_policy(
        settings.model,
        adapter=settings.adapter,
        seed=settings.seed,
        with_reference=needs_reference(settings),
        checkpoint=checkpoint,
        spread=_spread(settings, ranks=ranks),
        checkpointing=_checkpointing(settings, ranks=ranks, observer=observer),
    )
    lane = open_lane(ranks)
    if lane is not None:
        policy.share_rows(lane)
    if policy.layers.compiled:
        tell(observer, "compiling layers: the first steps take up to two minutes longer")
    optim = settings.optim
    return _engine(
        settings,
        policy=policy,
        optimizer=build_optimizer(
            policy,
            kind=optim.kind,
            lr=optim.lr,
            betas=(optim.beta1, optim.beta2),
            eps=optim.eps,
            weight_decay=optim.weight_decay,
        ),
        ranks=ranks,
        reward_log=reward_log,
        observer=observer,
    )


def meet_ranks(
    settings: Settings, *, seat: Seat, watch: Watcher, note: Callable[[str], None]
) -> TorchRanks:
    """Meet the other ranks of a run, with a GPU of this rank's own where there are some.

    note: shows one.

    Raises:
        DgpoError: rank 0 cannot be reached.
        ModelError: the device is not there.
        RuntimeError: not all ranks came.
    """
    import torch

    from dgpo_cli.policy.load import pick_device

    device = pick_device(settings.model.device)
    if device.type == "cuda":  # a starter may show each rank only its own
        device = torch.device("cuda", seat.local % torch.cuda.device_count())
        torch.cuda.set_device(device)
    limit_s = settings.parallel.timeout_s
    if not seat.hosts:
        await_meeting(seat.address, seat.port, limit_s=limit_s, tell=note)
    return TorchRanks(
        seat,
        device=device,
        sequence=settings.parallel.sequence,
        collective=parallel_kind(settings) in ("shard", "hybrid"),
        timeout_s=limit_s,
        watch=watch,
    )


def _checkpointing(settings: Settings, *, ranks: Ranks, observer: Observer) -> CheckpointingKind:
    """Return the kind of gradient checkpointing; say which one auto takes.

    The leader's device decides for all ranks, whose passes must do the same exchanges.
    """
    kind = settings.model.gradient_checkpointing
    if kind != "auto":
        return kind
    from dgpo_cli.planning.devices import whole
    from dgpo_cli.planning.plan import chosen_checkpointing

    found = None
    if ranks.leads:
        found = chosen_checkpointing(settings, device=whole(settings.model.device))
    kind, why = ranks.share(found)
    tell(observer, f"gradient checkpointing: {kind} ({why})")
    return kind


def _spread(settings: Settings, *, ranks: Ranks) -> Spread | None:
    """Return how the weights are sharded over the ranks; None: each has all.

    Raises:
        ConfigError: the machines have different numbers of ranks.
    """
    kind = parallel_kind(settings)
    if kind not in ("shard", "hybrid"):
        return None
    import socket

    from dgpo_cli.parallel.sharding import make_mesh
    from dgpo_cli.policy.load import pick_device
    from dgpo_cli.policy.load_sharded import Spread

    hosts = ranks.gather(socket.gethostname())
    sizes = {hosts.count(host) for host in hosts}
    if kind == "hybrid" and len(sizes) > 1:
        raise ConfigError(
            f"parallel.kind=hybrid: the machines have {' and '.join(map(str, sorted(sizes)))} "
            "ranks, and must have equally many; set parallel.kind=shard"
        )
    device = pick_device(settings.model.device).type
    mesh = make_mesh(kind, device_type=device, node_size=min(sizes))
    return Spread(ranks, mesh, offload=settings.parallel.reference == "offload")


def sampling_engine(
    settings: Settings, *, adapter: Path | None = None, observer: Observer = NOBODY
) -> Engine:
    """Load a model; return an engine that can sample and score, with no reference or optimiser.

    With vLLM its weights are in vLLM alone: here are tokenizer and config.

    Args:
        adapter: folder of a saved adapter to sample with.
        observer: gets notes on the model and the progress of long work.

    Raises:
        ModelError: the model or adapter cannot be loaded.

    Examples:
        >>> from dgpo_cli import Message, Prompt, load_settings, sampling_engine
        >>> prompt = Prompt("a sum", (Message("user", "12+7?"),), answer="19", source="typed")
        >>> with sampling_engine(load_settings("tiny")) as engine:
        ...     (group,) = engine.score(engine.sample([prompt], seeds=[[1, 2]]))
        >>> [verdict.outcome for verdict in group.verdicts]
        ['correct', 'correct']
    """
    set_threads(settings.train.threads)
    _check_template(settings, folder=adapter)
    policy: Policy | StoredPolicy
    if isinstance(settings.rollout.backend, HfBackend):
        policy = load_for_sampling(settings.model, adapter=adapter)
    else:
        policy = load_stored(settings.model, adapter=adapter)
    return _engine(settings, policy=policy, optimizer=None, observer=observer)


def widest(every: Sequence[Settings]) -> Settings:
    """Return the first of some settings, with room in a vLLM engine for the widest of them.

    They differ in what is drawn, not in the model: one engine is started for all.
    """
    first = every[0]
    backends = [settings.rollout.backend for settings in every]
    if len(every) == 1 or not isinstance(backends[0], VllmBackend):
        return first
    own = [backend for backend in backends if isinstance(backend, VllmBackend)]
    room = {
        "max_model_len": max(map(model_length, every)),
        "max_num_seqs": max(backend.max_num_seqs for backend in own),
    }
    backend = backends[0].model_copy(update=room)
    rollout = first.rollout.model_copy(update={"backend": backend})
    return first.model_copy(update={"rollout": rollout})


def _engine(
    settings: Settings,
    *,
    policy: Policy | StoredPolicy,
    optimizer: torch.optim.Optimizer | None,
    ranks: Ranks = ALONE,
    reward_log: Path | None = None,
    observer: Observer,
) -> Engine:
    if isinstance(policy, Policy):
        for note in policy.notes:
            tell(observer, note)
        policy.listener = partial(tell, observer)
    prompts, environment, grader = settings.prompts, None, None
    if isinstance(prompts, PlayedPrompts) and isinstance(settings.reward, EnvironmentReward):
        environment = EnvProcess(env_source(prompts), log=reward_log) if ranks.leads else None
    elif ranks.leads:
        limit = settings.rollout.max_completion_tokens
        grader = Grader(settings.reward, limit=limit, log=reward_log, observer=observer)
    return Engine(
        settings,
        policy=policy,
        sampler=make_sampler(settings, policy=policy, ranks=ranks),
        grader=grader,
        environment=environment,
        optimizer=optimizer,
        ranks=ranks,
        observer=observer,
    )


def make_sampler(
    settings: Settings, *, policy: Policy | StoredPolicy, ranks: Ranks = ALONE
) -> Sampler:
    """Return the sampler that `rollout.backend` names. A vLLM engine starts on first use.

    ranks: all of them make it, at the same time.
    """
    backend = settings.rollout.backend
    check_local(settings)
    assert not isinstance(backend, EndpointBackend)
    if isinstance(backend, HfBackend):
        assert isinstance(policy, Policy)
        from dgpo_cli.samplers.hf import HfSampler

        if ranks.count == 1:
            return HfSampler(policy, batch_size=backend.batch_size)
        with _whole(policy):  # it tries forward passes
            own = HfSampler(policy, batch_size=backend.batch_size)
        return RankedSampler(
            own, ranks=ranks, among=ranks.count, while_drawing=partial(_whole, policy)
        )
    from dgpo_cli.engine.vllm_setup import make_vllm_sampler

    return make_vllm_sampler(
        settings,
        backend=backend,
        policy=policy,
        ranks=ranks,
    )


@contextmanager
def _whole(policy: Policy) -> Iterator[None]:
    """Let the calling thread sample with the policy. Collective."""
    policy.use_device()
    with policy.whole():
        yield


def completion_seeds(seed: int, *, scope: str, ids: list[str], count: int) -> list[list[int]]:
    """Return `count` seeds for each prompt id, different for each scope, prompt and sample."""
    return [[derive_seed(seed, scope, name, j) for j in range(count)] for name in ids]


def _check_template(settings: Settings, *, folder: Path | None) -> None:
    """Check the chat template's arguments before the weights are loaded, which takes longer.

    Raises:
        ConfigError: the template does not read one.
    """
    arguments = settings.prompts.chat_template
    if arguments:
        check_arguments(load_tokenizer(settings.model, folder=folder), arguments)


def _let_segments_grow(settings: Settings) -> None:
    """Let torch enlarge its segments of a GPU's memory, in place of adding more of them.

    Micro-batches of many lengths would leave gaps in fixed segments, and one live tensor would
    keep a whole segment from vLLM. This is of this process alone: vLLM's sleep wants memory of
    another kind. Not with CUDA IPC: handles of such segments need what many containers forbid.
    """
    import torch

    from dgpo_cli.policy.load import pick_device

    by_user = any(os.environ.get(name) for name in _ALLOCATOR)
    ipc = getattr(settings.rollout.backend, "weight_transfer", None) == "ipc"
    if by_user or ipc or pick_device(settings.model.device).type != "cuda":
        return
    change = getattr(torch._C, "_accelerator_setAllocatorSettings", None)
    change = change or torch.cuda.memory._set_allocator_settings  # of torch before 2.10
    change("expandable_segments:True")


def set_threads(count: int) -> None:
    """Set torch's CPU threads; 0 leaves them as they are."""
    import torch

    if count:
        torch.set_num_threads(count)


def seed_everything(seed: int) -> None:
    """Seed the global generators, for what has no generator of its own (dropout)."""
    import random

    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
