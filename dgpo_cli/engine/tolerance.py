"""What an engine is started with, and how much its log-probabilities may differ from the trainer's
by rounding. No torch here."""

from __future__ import annotations

from dgpo_cli.config.settings import Settings
from dgpo_cli.samplers.canary import TOLERANCES
from dgpo_cli.samplers.settings import HfBackend, VllmBackend


def roughest_dtype(settings: Settings) -> str:
    """Return the coarser dtype of sampler and trainer, a key of TOLERANCES."""
    backend = settings.rollout.backend
    if isinstance(backend, HfBackend):
        return settings.model.dtype  # the sampler is the policy itself
    if settings.model.quantization != "none":
        return settings.model.quantization
    # A server does not report its dtype; nearly all use bfloat16.
    other = (
        engine_dtype(settings, backend)
        if isinstance(backend, VllmBackend)
        else settings.model.dtype
    )
    return max((settings.model.dtype, other), key=lambda name: TOLERANCES[name])


def logprob_tolerance(settings: Settings) -> float:
    """Return how much log-probabilities of sampler and trainer may differ, in nats a token."""
    backend = settings.rollout.backend
    own = getattr(backend, "canary_tolerance", None)
    return own or TOLERANCES[roughest_dtype(settings)]


def engine_dtype(settings: Settings, backend: VllmBackend) -> str:
    """Return the dtype of an engine that dgpo starts."""
    return settings.model.dtype if backend.dtype == "auto" else backend.dtype


def model_length(settings: Settings) -> int:
    """Return the longest sequence of an engine that dgpo starts, in tokens."""
    backend = settings.rollout.backend
    own = backend.max_model_len if isinstance(backend, VllmBackend) else None
    return own or settings.prompts.max_prompt_tokens + settings.rollout.max_completion_tokens
