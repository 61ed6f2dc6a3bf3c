"""Which environment is meant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class EnvSource:
    """Which environment: kind "environment" or "verifiers", its name and its arguments.

    timeout_s: longest wait for an answer of a conversation.
    """

    kind: str
    env: str
    args: Mapping[str, Any] = field(default_factory=dict)
    timeout_s: float = 60.0
