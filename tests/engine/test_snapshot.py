"""A policy that is looked at as it was, and is afterwards what it is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from dgpo_cli.config.settings import Settings
from dgpo_cli.engine.engine import Engine
from dgpo_cli.policy.policy import Policy
from tests.engines import equal, weights_of
from tests.policy import tiny

IDS = [3, 9, 12, 30, 7, 21]
MAKERS: dict[str, Callable[[], Policy]] = {
    "tied": tiny.make_policy,
    "lora": lambda: tiny.make_lora_policy(apart=0.05),
    "bfloat16": lambda: tiny.make_policy(dtype=torch.bfloat16),
}


def move(policy: Policy, seed: int) -> None:
    tiny.nudge((p for _, p in policy.trainable()), scale=0.1, seed=seed)


@pytest.mark.parametrize("kind", MAKERS)
def test_inside_the_policy_is_as_it_was_and_afterwards_as_it_is_to_the_bit(kind: str) -> None:
    policy = MAKERS[kind]()
    engine = Engine(Settings(), policy=policy)
    for seed in (1, 3):  # the second in the place of the first
        engine.keep_weights()
        then, said = weights_of(policy), policy.logprobs_of(IDS, temperature=1.0)
        move(policy, seed)
        now = weights_of(policy)
        assert not equal(now, then)
        for _ in range(2):
            with engine.kept_weights():
                assert equal(weights_of(policy), then)
                assert policy.logprobs_of(IDS, temperature=1.0) == said
            assert equal(weights_of(policy), now)
        move(policy, seed + 1)


def test_what_fails_inside_leaves_the_policy_as_it_is() -> None:
    policy = tiny.make_lora_policy(apart=0.05)
    engine = Engine(Settings(), policy=policy)
    engine.keep_weights()
    move(policy, 1)
    now = weights_of(policy)
    with pytest.raises(KeyError), engine.kept_weights():
        raise KeyError
    assert equal(weights_of(policy), now)
