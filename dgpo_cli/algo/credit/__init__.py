"""Credit rules: one file and one line in the union each."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from dgpo_cli.algo.credit.base import CreditRule
from dgpo_cli.algo.credit.dgpo import DgpoCredit
from dgpo_cli.algo.credit.entropy import EntropyCredit
from dgpo_cli.algo.credit.proportional import ProportionalCredit
from dgpo_cli.algo.credit.surprisal import SurprisalCredit
from dgpo_cli.algo.credit.top_entropy import TopEntropyCredit
from dgpo_cli.algo.credit.uniform import UniformCredit
from dgpo_cli.algo.credit.value import ValueCredit

CreditSettings = Annotated[
    DgpoCredit
    | UniformCredit
    | EntropyCredit
    | TopEntropyCredit
    | ProportionalCredit
    | SurprisalCredit
    | ValueCredit,
    Field(discriminator="rule"),
]

__all__ = [
    "CreditRule",
    "CreditSettings",
    "DgpoCredit",
    "EntropyCredit",
    "ProportionalCredit",
    "SurprisalCredit",
    "TopEntropyCredit",
    "UniformCredit",
    "ValueCredit",
]
