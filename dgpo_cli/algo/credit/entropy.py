"""A credit rule like GTPO's: weight in proportion to the policy's entropy."""

from __future__ import annotations

from typing import ClassVar, Literal

from dgpo_cli.schema import Frozen


class EntropyCredit(Frozen):
    """w proportional to the entropy, row mean 1. Source: GTPO, arXiv 2508.04349."""

    needs_reference: ClassVar[bool] = False

    rule: Literal["entropy"] = "entropy"
