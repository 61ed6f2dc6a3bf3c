"""The card of an evaluation: everything that affects its score."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from dgpo_cli import __version__
from dgpo_cli.config.dump import storable
from dgpo_cli.config.load import Resolved
from dgpo_cli.config.protocols import SETTINGS, Protocol
from dgpo_cli.config.settings import Settings
from dgpo_cli.core.own_code import own_code_of
from dgpo_cli.core.types import Card
from dgpo_cli.prompts.benchmarks import Benchmark
from dgpo_cli.rewards.protocol import CHECKER_VERSION
from dgpo_cli.rewards.settings import (
    ChoiceReward,
    IntegerReward,
    MathReward,
    RewardValues,
    TermsReward,
)


def build_card(
    resolved: Resolved,
    *,
    protocol: Protocol | None,
    benchmark: Benchmark,
    stop: Sequence[int] | None,
    subject: Mapping[str, Any],
    environment: Mapping[str, Any],
) -> Card:
    """Return the card of an evaluation on `benchmark`.

    stop: token ids that end a completion; None if they are not known.
    """
    return Card(
        protocol=_protocol(resolved, protocol=protocol, benchmark=benchmark, stop=stop),
        subject=dict(subject),
        environment={
            "backend": resolved.settings.rollout.backend.kind,
            "versions": {"dgpo": __version__},
            "python": platform.python_version(),
            **environment,
        },
    )


def _protocol(
    resolved: Resolved,
    *,
    protocol: Protocol | None,
    benchmark: Benchmark,
    stop: Sequence[int] | None,
) -> dict[str, Any]:
    settings = resolved.settings
    rollout = settings.rollout
    return {
        "name": SETTINGS if protocol is None else protocol.name,
        "changed": {} if protocol is None else protocol.changed(resolved),
        "unknown": [] if protocol is None else list(protocol.unknown),
        "bench": benchmark.name,
        "dataset": benchmark.dataset,
        "revision": benchmark.revision,
        "sha256": benchmark.sha256,
        "n_problems": len(benchmark.prompts),
        **({"options": dict(benchmark.options)} if benchmark.options else {}),
        "template": settings.prompts.template,
        "system": settings.prompts.system,
        **_turn(settings),
        "temperature": rollout.temperature,
        "top_p": rollout.top_p,
        "top_k": rollout.top_k,
        "max_completion_tokens": rollout.max_completion_tokens,
        "stop": None if stop is None else sorted(stop),
        "checker": checker_entry(settings),
        "seed": settings.seed,
    }


def _turn(settings: Settings) -> dict[str, Any]:
    """Return how the assistant's turn begins and ends, where a setting says so."""
    found = {
        "chat_template": storable(settings.prompts.chat_template),
        "assistant_prefix": settings.prompts.assistant_prefix,
        "stop_strings": list(settings.rollout.stop),
    }
    return {name: value for name, value in found.items() if value}


def _terms(reward: TermsReward) -> dict[str, Any]:
    """Return the terms that judge, and the sha256 of the user's code among them."""
    terms = [term.model_dump(mode="json", exclude={"weight", "sources"}) for term in reward.terms]
    return {"terms": terms, "code": own_code_of(reward)}


def checker_entry(settings: Settings) -> dict[str, Any]:
    """Return the card's entry for the answer checker."""
    reward = settings.reward.judge()
    integer = reward if isinstance(reward, IntegerReward) else None
    return {
        "kind": reward.kind,
        **({"extract": reward.extract} if isinstance(reward, RewardValues) else {}),
        "minimum": integer and integer.minimum,
        "maximum": integer and integer.maximum,
        **({"choices": reward.choices} if isinstance(reward, ChoiceReward) else {}),
        **(_terms(reward) if isinstance(reward, TermsReward) else {}),
        "version": CHECKER_VERSION,
        "math_verify": version("math-verify") if isinstance(reward, MathReward) else None,
    }
