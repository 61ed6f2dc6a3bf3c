"""The data of `dgpo inspect`: tokens and the numbers behind their credit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dgpo_cli.core.schema import Count, Terms, Text, Whole
from dgpo_cli.core.types.rollout import FinishReason, Outcome
from dgpo_cli.core.types.values import ValueCurve


@dataclass(frozen=True, slots=True)
class SettingChange:
    """A setting that changed within a run. step: steps that were finished by then.

    old, new: as JSON holds them; None: unset, or the rule or kind of that time has none.
    """

    step: Count
    setting: Text
    old: Any = None
    new: Any = None


@dataclass(frozen=True, slots=True)
class InspectedToken:
    """One completion token with the numbers behind its credit; entropy and logprob in nats.

    hex: the bytes that it stands for, two digits each; empty where the tokenizer cannot tell.
    environment: the policy did not write it; its numbers are 0 and mean nothing.
    """

    id: int
    text: str
    logprob: float
    entropy: float
    hellinger_sq: float
    score: float
    weight: float
    hex: str = ""
    environment: bool = False


@dataclass(frozen=True, slots=True)
class StoredCredit:
    """The credit that a completion was trained with, kept where another one is shown.

    parameters: every setting of the rule. tau: that of the weights, None if the rule
    has none. weights: one per token.
    """

    rule: str
    parameters: Mapping[str, Any]
    tau: float | None
    effective_fraction: float
    weights: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class InspectedCompletion:
    """One completion of a group, token by token. `advantage` is the completion's, not a token's.

    outcome is None, reward and advantage are NaN if the rollouts lack them.
    tau: that of its weights; None if the rule has none.
    noise_floor: of hellinger_sq, as measured; None if it was not.
    stored: the credit that trained, if a what-if shows another; else None.
    prefix: what the assistant's turn begins with, before the completion.
    terms: the value of each term of the reward; NaN where it does not apply or failed.
    note: why the completion is unscored, or what a reward of the user's says.
    values: the expected reward along it; None if it was not estimated.
    """

    prompt_id: str
    index: int
    prompt: str
    answer: str
    outcome: Outcome | None
    finish_reason: FinishReason
    reward: float
    advantage: float
    effective_fraction: float
    tau: float | None
    tokens: tuple[InspectedToken, ...]
    stored: StoredCredit | None = None
    noise_floor: float | None = None
    prefix: str = ""
    terms: Terms = ()
    note: str | None = None
    values: ValueCurve | None = None

    @property
    def own(self) -> tuple[InspectedToken, ...]:
        """The tokens that the policy wrote."""
        return tuple(token for token in self.tokens if not token.environment)


@dataclass(frozen=True, slots=True)
class Alternative:
    """A token that could have come at some place, with its probability there under both models.

    The probabilities are of the logits divided by the sampling temperature.
    """

    id: int
    text: str
    hex: str
    policy: float
    reference: float


@dataclass(frozen=True, slots=True)
class TokenDetail:
    """Everything about the token at `position` (from 0) of the one completion that is shown.

    alternatives: the likeliest tokens of either model and the sampled one, by the policy's
        probability; empty where no model was run.
    policy_rank, reference_rank: place of the sampled token among all, from 1; 0 if not known.
    weights: which weights gave them; empty if none did.
    hint: the command that computes them, or why none can; empty if they are there.
    """

    position: int
    alternatives: tuple[Alternative, ...] = ()
    policy_rank: int = 0
    reference_rank: int = 0
    temperature: float = 1.0
    weights: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class ValueSource:
    """What the values of an inspection are estimated from.

    continuations: sampled from every prefix; 0: completions of the group alone.
    model: that sampled them. later: updates that it is ahead of the policy that sampled the
        completions; negative: behind it; None: not known.
    """

    continuations: Count
    model: Text
    later: Whole | None = None


@dataclass(frozen=True, slots=True)
class Inspection:
    """The result of `dgpo inspect`: where the credit of some completions went.

    rule: the credit rule that gave the weights; tau and kappa are None where it has none.
    parameters: every setting of the rule.
    vocab_size: width of the policy's logits; the gate h of a token is entropy / log vocab_size.
    source: the file or other source of the completions.
    computed: the statistics were computed now, and not by training.
    detail: of one token of the one completion.
    changes: settings that changed before the run trained on these completions.
    values: what the completions' values are estimated from; None if they are not.
    """

    model: str
    reference: str
    rule: str
    tau: float | None
    kappa: float | None
    vocab_size: int
    completions: tuple[InspectedCompletion, ...]
    source: str = ""
    computed: bool = False
    parameters: Mapping[str, Any] = field(default_factory=dict)
    detail: TokenDetail | None = None
    changes: tuple[SettingChange, ...] = ()
    values: ValueSource | None = None
