"""The data of `dgpo inspect --json`: its types, and how it is written in parts.

Texts are raw model text. Numbers that are not finite or unknown are null. Within a version, fields
may be added; none is removed or changes its meaning.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from dgpo_cli.core.codec import Format, encoded, filled
from dgpo_cli.core.schema import Count, Real, Terms, Text, TokenId, doc
from dgpo_cli.core.types import (
    FinishReason,
    InspectedCompletion,
    Inspection,
    Outcome,
    SettingChange,
    TokenDetail,
    ValuePoint,
    ValueSource,
)
from dgpo_cli.inspect.views.header import share_of_top
from dgpo_cli.inspect.views.measure import gate
from dgpo_cli.inspect.views.ranking import ranked

Rank = Annotated[int, Field(ge=1)]
Probability = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[Real, Field(json_schema_extra={"minimum": 0, "maximum": 1.001})]
Bytes = Annotated[Text, Field(pattern="^([0-9a-f]{2})+$")] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """One completion token; numbers in nats, at the sampling temperature.

    bytes: two hex digits each; null if the tokenizer does not give them.
    """

    id: TokenId
    text: Annotated[
        Text,
        doc("A character of several tokens is the text of the last; the others are empty."),
    ]
    bytes: Bytes
    logprob: Annotated[Real, doc("Of the policy.")]
    entropy: Annotated[Real, doc("H, of the policy.")]
    gate: Annotated[
        Real,
        Field(description="h = H / log V.", json_schema_extra={"minimum": 0, "maximum": 1}),
    ]
    hellinger_sq: Annotated[Real, doc("d, squared Hellinger distance of policy and reference.")]
    score: Annotated[Real, doc("s: d h^kappa for the rule dgpo.")]
    weight: Annotated[Real, doc("w: the mean over the completion is 1.")]
    advantage: Annotated[Real, doc("A w.")]
    rank: Annotated[
        Rank | None,
        doc(
            "By weight, from 1; ties by score, by d, then by place. Null for a token that an "
            "environment wrote, whose numbers are 0."
        ),
    ]


@dataclass(frozen=True, slots=True)
class Invariants:
    """What must be equal: mean_weight and 1, up to the rounding of float32; the two sums."""

    mean_weight: Real
    advantage_sum: Annotated[Real, doc("Sum of A w over the tokens.")]
    advantage_sum_expected: Annotated[Real, doc("T A.")]


@dataclass(frozen=True, slots=True)
class Shares:
    """Share of all weight, whatever its sign, in the 1, 5 and 10% most weighted tokens.

    The last of these counts in part, so that equal weights give 0.01, 0.05 and 0.1.
    """

    top_1_percent: Share
    top_5_percent: Share
    top_10_percent: Share


@dataclass(frozen=True, slots=True)
class Stored:
    """The credit that trained, if another one is shown. weights: one per token."""

    rule: Text
    parameters: dict[str, Any]
    tau: Real | None
    effective_fraction: Share
    weights: tuple[Real, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectedJson:
    """One completion of a group."""

    prompt_id: Text
    index: Annotated[Count, doc("Which completion of its prompt, from 0.")]
    prompt: Annotated[Text, doc("The last turn of the user.")]
    answer: Annotated[Text, doc("Empty if unknown.")]
    outcome: Outcome | None
    finish_reason: FinishReason
    reward: Real
    terms: Annotated[
        Terms,
        doc("Each term of the reward before its weight; null where it does not apply or failed."),
    ]
    note: Annotated[Text | None, doc("Why it is unscored, or what the reward says.")]
    advantage: Annotated[Real, doc("A, of the whole completion.")]
    effective_fraction: Annotated[
        Share, doc("(sum w)^2 / (T sum w^2): 1 if all weights are equal.")
    ]
    tau: Annotated[Real | None, doc("The tau of these weights.")]
    noise_floor: Annotated[
        Real | None,
        doc("The d that rounding alone made in training; null if not measured."),
    ]
    invariants: Invariants
    shares: Shares
    stored: Annotated[
        Stored | None,
        doc("With --rule, --tau, --kappa or --target-ess: the credit that trained."),
    ]
    values: Annotated[
        tuple[ValuePoint, ...] | None,
        doc("With --value: the expected reward after some of the tokens; null if there is none."),
    ]
    tokens: tuple[Token, ...] = ()


@dataclass(frozen=True, slots=True)
class AlternativeJson:
    """A possible token, and its probability at the sampling temperature."""

    id: TokenId
    text: Text
    bytes: Bytes
    policy: Probability
    reference: Probability


@dataclass(frozen=True, slots=True, kw_only=True)
class DetailJson:
    """Everything about one token."""

    position: Annotated[Count, doc("Which token, from 0.")]
    weights: Annotated[
        Text | None,
        doc("The weights that gave the alternatives; null if none could be run."),
    ]
    temperature: Annotated[float, Field(gt=0)]
    policy_rank: Annotated[Rank | None, doc("Rank of the sampled token by probability, from 1.")]
    reference_rank: Rank | None
    alternatives: Annotated[
        tuple[AlternativeJson, ...],
        doc(
            "The 8 likeliest tokens of each model and the sampled one, by the policy's probability."
        ),
    ]
    hint: Annotated[
        Text | None,
        doc("The command that computes the alternatives, if there are none."),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectionJson:
    """The credit of some completions."""

    source: Annotated[Text, doc("The rollouts file; --completion for a typed text.")]
    statistics: Annotated[
        Literal["stored", "computed"],
        doc("stored: by training. computed: now, by --model."),
    ]
    model: Text
    reference: Text
    rule: Annotated[
        Text,
        doc("The credit rule of the weights; if they differ, of the first completion."),
    ]
    tau: Annotated[
        Real | None,
        doc("As set; null if the rule has none. Each completion has its own."),
    ]
    kappa: Real | None
    parameters: Annotated[dict[str, Any], doc("Every setting of the rule.")]
    vocab_size: Annotated[int, Field(ge=1, description="Width of the logits, V.")]
    changes: Annotated[
        tuple[SettingChange, ...],
        doc("Settings changed in the run before it trained on these completions, oldest first."),
    ]
    detail: Annotated[
        DetailJson | None,
        doc("With --at: one token of the only completion."),
    ]
    values: Annotated[ValueSource | None, doc("With --value: what the values are estimated from.")]
    completions: tuple[InspectedJson, ...] = ()


INSPECTION = Format(
    InspectionJson, name="inspection", what="dgpo inspect --json", version=2, stamp="version"
)
COMPLETION, TOKEN = Format(InspectedJson), Format(Token)


def to_json(inspection: Inspection) -> dict[str, Any]:
    """Return all of the data."""
    size = inspection.vocab_size
    completions = [
        _completion(each) | {"tokens": list(map(TOKEN.to_json, _tokens(each, vocab_size=size)))}
        for each in inspection.completions
    ]
    return _head(inspection) | {"completions": completions}


def chunks(inspection: Inspection) -> Iterator[str]:
    """Yield `to_json` as text in parts, a token a line."""
    yield _opened(_head(inspection), last="completions")
    for number, each in enumerate(inspection.completions):
        yield (",\n" if number else "\n") + _opened(_completion(each), last="tokens")
        for at, token in enumerate(_tokens(each, vocab_size=inspection.vocab_size)):
            yield (",\n" if at else "\n") + encoded(TOKEN.dump(token))
        yield "]}"
    yield "]}\n"


def _opened(fields: Mapping[str, object], *, last: str) -> str:
    """Return an object, a field a line, up to its last, which is a list."""
    lines = [f"{encoded(key)}: {encoded(value)}" for key, value in fields.items() if key != last]
    return "{" + ",\n".join([*lines, f'"{last}": ['])


def _head(inspection: Inspection) -> dict[str, Any]:
    head = filled(
        InspectionJson,
        inspection,
        statistics="computed" if inspection.computed else "stored",
        parameters=dict(inspection.parameters),
        detail=_detail(inspection.detail),
        completions=(),
    )
    return INSPECTION.to_json(head)


def _detail(detail: TokenDetail | None) -> DetailJson | None:
    if detail is None:
        return None
    known = bool(detail.alternatives)
    return filled(
        DetailJson,
        detail,
        weights=detail.weights or None,
        policy_rank=detail.policy_rank if known else None,
        reference_rank=detail.reference_rank if known else None,
        alternatives=tuple(
            filled(AlternativeJson, each, bytes=each.hex or None) for each in detail.alternatives
        ),
        hint=detail.hint or None,
    )


def _completion(shown: InspectedCompletion) -> dict[str, Any]:
    weights, stored = [token.weight for token in shown.own], shown.stored
    total = math.fsum(weights)
    completion = filled(
        InspectedJson,
        shown,
        invariants=Invariants(
            mean_weight=total / len(weights) if weights else math.nan,
            advantage_sum=math.fsum(w * shown.advantage for w in weights),
            advantage_sum_expected=len(weights) * shown.advantage,
        ),
        shares=Shares(*(share_of_top(weights, share) for share in (0.01, 0.05, 0.1))),
        stored=stored and filled(Stored, stored, parameters=dict(stored.parameters)),
        values=shown.values and shown.values.points,
        tokens=(),
    )
    return COMPLETION.to_json(completion)


def _tokens(shown: InspectedCompletion, *, vocab_size: int) -> Iterator[Token]:
    """Yield the tokens in order, each with its rank by weight, from 1."""
    ranks = {at: rank for rank, at in enumerate(ranked(shown.tokens, top=len(shown.tokens)), 1)}
    for at, token in enumerate(shown.tokens):
        yield filled(
            Token,
            token,
            bytes=token.hex or None,
            gate=gate(token.entropy, vocab_size=vocab_size),
            advantage=token.weight * shown.advantage,
            rank=ranks.get(at),
        )
