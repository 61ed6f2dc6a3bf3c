"""The documented, versioned data of `dgpo inspect --json`: docs/inspect.schema.json says it all.

Texts are raw model text. A number that is not finite or not known is null.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from dgpo_cli.core.types import InspectedCompletion, Inspection, StoredCredit, TokenDetail
from dgpo_cli.inspect.views.header import share_of_top
from dgpo_cli.inspect.views.measure import gate
from dgpo_cli.inspect.views.ranking import ranked
from dgpo_cli.ui.jsonable import jsonable

VERSION = 2
TOP_SHARES = {"top_1_percent": 0.01, "top_5_percent": 0.05, "top_10_percent": 0.1}


def to_json(inspection: Inspection) -> dict[str, Any]:
    """Return the whole of it."""
    return {
        **_head(inspection),
        "completions": [
            {
                **_completion(each),
                "tokens": list(_tokens(each, vocab_size=inspection.vocab_size)),
            }
            for each in inspection.completions
        ],
    }


def chunks(inspection: Inspection) -> Iterator[str]:
    """Yield `to_json` as text in parts, a token a line.

    It is ASCII, so that no text in it can steer a terminal.
    """
    yield _opened(_head(inspection), last='"completions": [')
    for number, each in enumerate(inspection.completions):
        yield (",\n" if number else "\n") + _opened(_completion(each), last='"tokens": [')
        for at, token in enumerate(_tokens(each, vocab_size=inspection.vocab_size)):
            yield (",\n" if at else "\n") + _dumped(token)
        yield "]}"
    yield "]}\n"


def _dumped(value: object) -> str:
    return json.dumps(value, ensure_ascii=True, allow_nan=False)


def _opened(fields: Mapping[str, object], *, last: str) -> str:
    """Write an object a field a line, up to the list that is its last."""
    lines = [f"{_dumped(key)}: {_dumped(value)}" for key, value in fields.items()]
    return "{" + ",\n".join([*lines, last])


def _head(inspection: Inspection) -> dict[str, Any]:
    return {
        "version": VERSION,
        "source": inspection.source,
        "statistics": "computed" if inspection.computed else "stored",
        "model": inspection.model,
        "reference": inspection.reference,
        "rule": inspection.rule,
        "tau": jsonable(inspection.tau),
        "kappa": jsonable(inspection.kappa),
        "parameters": jsonable(dict(inspection.parameters)),
        "vocab_size": inspection.vocab_size,
        "changes": [asdict(each) for each in inspection.changes],
        "detail": _detail(inspection.detail),
    }


def _detail(detail: TokenDetail | None) -> dict[str, Any] | None:
    if detail is None:
        return None
    known = bool(detail.alternatives)
    return {
        "position": detail.position,
        "weights": detail.weights or None,
        "temperature": detail.temperature,
        "policy_rank": detail.policy_rank if known else None,
        "reference_rank": detail.reference_rank if known else None,
        "alternatives": [
            {
                "id": each.id,
                "text": each.text,
                "bytes": each.hex or None,
                "policy": jsonable(each.policy),
                "reference": jsonable(each.reference),
            }
            for each in detail.alternatives
        ],
        "hint": detail.hint or None,
    }


def _completion(shown: InspectedCompletion) -> dict[str, Any]:
    weights = [token.weight for token in shown.tokens]
    total = math.fsum(weights)
    return {
        "prompt_id": shown.prompt_id,
        "index": shown.index,
        "prompt": shown.prompt,
        "answer": shown.answer,
        "outcome": shown.outcome,
        "finish_reason": shown.finish_reason,
        "reward": jsonable(shown.reward),
        "advantage": jsonable(shown.advantage),
        "effective_fraction": jsonable(shown.effective_fraction),
        "tau": jsonable(shown.tau),
        "noise_floor": jsonable(shown.noise_floor),
        "invariants": jsonable(
            {
                "mean_weight": total / len(weights) if weights else math.nan,
                "advantage_sum": math.fsum(w * shown.advantage for w in weights),
                "advantage_sum_expected": len(weights) * shown.advantage,
            }
        ),
        "shares": {
            name: jsonable(share_of_top(weights, share)) for name, share in TOP_SHARES.items()
        },
        "stored": _stored(shown.stored),
    }


def _stored(stored: StoredCredit | None) -> dict[str, Any] | None:
    if stored is None:
        return None
    found: dict[str, Any] = jsonable(
        {
            "rule": stored.rule,
            "parameters": dict(stored.parameters),
            "tau": stored.tau,
            "effective_fraction": stored.effective_fraction,
            "weights": stored.weights,
        }
    )
    return found


def _tokens(shown: InspectedCompletion, *, vocab_size: int) -> Iterator[dict[str, Any]]:
    """Yield the tokens in order, each with its rank by weight, from 1."""
    ranks = {at: rank for rank, at in enumerate(ranked(shown.tokens, top=len(shown.tokens)), 1)}
    for at, token in enumerate(shown.tokens):
        numbers = {
            "logprob": token.logprob,
            "entropy": token.entropy,
            "gate": gate(token.entropy, vocab_size=vocab_size),
            "hellinger_sq": token.hellinger_sq,
            "score": token.score,
            "weight": token.weight,
            "advantage": token.weight * shown.advantage,
        }
        yield {
            "id": token.id,
            "text": token.text,
            "bytes": token.hex or None,
            **{name: x if math.isfinite(x) else None for name, x in numbers.items()},
            "rank": ranks[at],
        }
