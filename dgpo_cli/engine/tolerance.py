"""How far rounding may put the log-probabilities of sampler and trainer apart. No torch here."""

from __future__ import annotations

from dgpo_cli.config.settings import Settings
from dgpo_cli.samplers.canary import TOLERANCES
from dgpo_cli.samplers.settings import HfBackend, VllmBackend


def roughest_dtype(settings: Settings) -> str:
    """Return the type whose rounding is the largest on either side, a key of TOLERANCES."""
    backend = settings.rollout.backend
    if isinstance(backend, HfBackend):
        return settings.model.dtype  # the sampler is the policy itself
    if settings.model.quantization != "none":
        return settings.model.quantization
    # What a server computes in is not known here; bfloat16 is what nearly all of them do.
    other = (
        engine_dtype(settings, backend)
        if isinstance(backend, VllmBackend)
        else settings.model.dtype
    )
    return max((settings.model.dtype, other), key=lambda name: TOLERANCES[name])


def logprob_tolerance(settings: Settings) -> float:
    """Return how far the log-probabilities of sampler and trainer may be apart, in nats a token."""
    backend = settings.rollout.backend
    own = None if isinstance(backend, HfBackend) else backend.canary_tolerance
    return own or TOLERANCES[roughest_dtype(settings)]


def engine_dtype(settings: Settings, backend: VllmBackend) -> str:
    """Return the type that an engine of our own computes in."""
    return settings.model.dtype if backend.dtype == "auto" else backend.dtype
