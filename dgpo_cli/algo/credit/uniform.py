"""The credit rule of GRPO and DAPO: every token has weight 1."""

from __future__ import annotations

from typing import ClassVar, Literal

from dgpo_cli.schema import Frozen


class UniformCredit(Frozen):
    """w = 1."""

    needs_reference: ClassVar[bool] = False

    rule: Literal["uniform"] = "uniform"
