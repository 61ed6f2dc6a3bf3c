"""Laws of conversations with an environment: what is sampled from, kept, limited and judged."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from dgpo_cli.algo.overlong import is_truncated
from dgpo_cli.config.settings import OptimSettings, Settings
from dgpo_cli.core.errors import ConfigError
from dgpo_cli.core.types import Group
from dgpo_cli.engine.engine import Engine
from dgpo_cli.engine.turns import Renderer
from dgpo_cli.environments.process import EnvProcess
from dgpo_cli.policy.policy import Policy
from dgpo_cli.prompts.settings import EnvironmentPrompts, env_source
from dgpo_cli.rewards.played import EnvironmentReward
from dgpo_cli.samplers.hf import HfSampler
from dgpo_cli.samplers.settings import RolloutSettings
from tests.policy import tiny
from tests.recorder import Recorder

GAMES = str(Path(__file__).parents[1] / "environments" / "games.py")
# The mark of a role, the text, the end of the turn; the last one opens the assistant's.
CHAT = (
    "{% for m in messages %}{{ '<assistant>' if m['role'] == 'assistant' else '<user>' }}"
    "{{ m['content'] }}<end>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
G = 2


def policy_with(template: str = CHAT) -> Policy:
    policy = tiny.make_policy(apart=0.05)
    policy.tokenizer = copy.deepcopy(policy.tokenizer)
    policy.tokenizer.chat_template = template
    return policy


@contextmanager
def engine_of(
    policy: Policy,
    *,
    game: str = "Count",
    args: dict[str, Any] | None = None,
    limit: int = 40,
    reward: EnvironmentReward | None = None,
    observer: Any = None,
    **prompts: Any,
) -> Iterator[Engine]:
    played = EnvironmentPrompts(
        env=f"{GAMES}:{game}", env_args=args, **{"max_turn_tokens": 8, **prompts}
    )
    settings = Settings(
        prompts=played,
        reward=reward or EnvironmentReward(),
        rollout=RolloutSettings(
            prompts_per_step=4, group_size=G, temperature=0.9, max_completion_tokens=limit
        ),
        optim=OptimSettings(micro_batch_size=4),
    )
    engine = Engine(
        settings,
        policy=policy,
        sampler=HfSampler(policy, batch_size=16),
        environment=EnvProcess(env_source(played)),
        **({} if observer is None else {"observer": observer}),
    )
    with engine:
        yield engine


def played(engine: Engine, *, only: slice = slice(None)) -> list[Group]:
    assert engine._environment is not None
    prompts = engine._environment.tasks()
    seeds = [[100 * i + j for j in range(G)] for i in range(len(prompts))]
    return engine.sample(prompts[only], seeds=seeds[only])


def every(groups: Sequence[Group]) -> list[Any]:
    return [c for g in groups for c in g.completions]


def test_one_turn_is_what_the_sampler_gives_to_the_bit() -> None:
    policy = policy_with()
    with engine_of(policy, args={"turns": 1}, max_turn_tokens=None) as engine:
        groups = played(engine)
        settings = engine.settings
    plain = Engine(settings, policy=policy, sampler=HfSampler(policy, batch_size=16))
    expected = plain.sample(
        [g.prompt for g in groups], seeds=[[100 * i, 100 * i + 1] for i in range(4)]
    )
    assert [(g.prompt_ids, g.completions) for g in groups] == [
        (g.prompt_ids, g.completions) for g in expected
    ]


def test_turns_keep_their_tokens_and_the_template_is_between_them() -> None:
    policy = policy_with()
    with engine_of(policy, args={"turns": 3}) as engine:
        groups = played(engine)
    spell = policy.spell
    for n, group in enumerate(groups):
        assert spell(group.prompt_ids) == f"<user>{n}+1?<end><assistant>"
        for completion in group.completions:
            assert len(completion.environment) == 2
            for turn, (start, stop) in enumerate(completion.environment, start=1):
                between = spell(completion.token_ids[start:stop])
                said = f"<user>{turn}+{n}?<end><assistant>"
                # A turn that the policy ended itself is not ended again.
                ended = completion.token_ids[start - 1] == tiny.END
                assert between == (said if ended else f"<end>{said}")
                assert completion.sampling_logprobs[start:stop] == (0.0,) * (stop - start)
            assert all(
                x < 0
                for x, own in zip(completion.sampling_logprobs, completion.written, strict=True)
                if own
            )


def test_each_turn_is_sampled_from_all_that_was_before_it() -> None:
    """The trainer's log-probabilities of the whole are the sampler's of each turn."""
    policy = policy_with()
    with engine_of(policy, args={"turns": 3}) as engine:
        groups = played(engine)
        found = engine.logprobs(groups).logprobs
    for completion, own in zip(every(groups), found, strict=True):
        gaps = [abs(a - b) for a, b in zip(completion.sampling_logprobs, own, strict=True)]
        assert max(gaps) < 1e-4


def test_a_conversation_depends_on_its_seed_and_not_on_its_neighbours() -> None:
    policy = policy_with()
    with engine_of(policy) as engine:
        first, again = played(engine), played(engine)
        alone = played(engine, only=slice(2, 3))
    assert every(first) == every(again)
    assert [g.verdicts for g in first] == [g.verdicts for g in again]
    assert [c.token_ids for c in alone[0].completions] == [
        c.token_ids for c in first[2].completions
    ]
    assert len({c.token_ids for c in every(first)}) > 4


def test_the_environment_gives_rewards_terms_and_outcomes() -> None:
    with engine_of(policy_with(), reward=EnvironmentReward(correct_at=0.12)) as engine:
        scored = engine.score(played(engine))
    for group in scored:
        for completion, verdict in zip(group.completions, group.verdicts, strict=True):
            own = [completion.token_ids[t] for t, w in enumerate(completion.written) if w]
            letters = sum(token >= len(tiny.SPECIAL) for token in own)
            assert verdict.reward == pytest.approx(letters / 100)
            assert verdict.outcome == ("correct" if verdict.reward >= 0.12 else "wrong")
            assert dict(verdict.terms)["turns"] == 3.0
    assert any(group.has_signal for group in scored)


def test_a_step_learns_from_the_policys_tokens() -> None:
    policy = policy_with()
    with engine_of(policy) as engine:
        groups = engine.score(played(engine))
        batch = engine.make_batch(groups)
    assert batch.lengths.tolist() == [c.length for g in groups for c in g.completions]
    assert not batch.credit.weights[~batch.mask].any()
    assert float((batch.stats.old_logprobs - torch.tensor(0.0))[batch.mask].max()) < 0


def test_turns_and_tokens_are_limited() -> None:
    policy = policy_with()
    with engine_of(policy, args={"turns": 9}, max_turns=2) as engine:
        few = played(engine)
    assert all(len(c.environment) <= 1 for c in every(few))
    assert all(is_truncated(c) for c in every(few) if c.environment)
    with engine_of(policy, args={"turns": 9}, limit=20) as engine:
        short = played(engine)
    for completion in every(short):
        assert len(completion.token_ids) <= 20 and completion.written[-1]
        assert is_truncated(completion)
    assert all(dict(v.terms)["turns"] < 9 for g in short for v in g.verdicts)


def test_what_fails_is_unscored_and_has_one_turn() -> None:
    with engine_of(policy_with(), game="Trouble", timeout_s=2.0) as engine:
        assert engine._environment is not None
        tasks = {p.id: p for p in engine._environment.tasks()}
        chosen = [tasks[name] for name in ("fine", "early", "raise")]
        groups = engine.sample(chosen, seeds=[[1, 2], [3, 4], [5, 6]])
    fine, early, raised = (list(g.verdicts) for g in groups)
    assert all(not math.isnan(v.reward) for v in fine)
    for group in (early, raised):
        assert all(v.outcome == "error" and math.isnan(v.reward) for v in group)
    assert early[0].note == "tests/environments/games.py, line 49: OSError: no sandbox is left"
    assert all(c.length > 0 and not c.environment for c in groups[1].completions)


def test_a_template_that_changes_earlier_turns_is_told_once() -> None:
    """This one drops what the assistant said before its last turn."""
    dropping = (
        "{% for m in messages %}{% if m['role'] == 'assistant' %}<assistant>"
        "{{ m['content'] if loop.revindex < 3 else 'old' }}{% else %}<user>{{ m['content'] }}"
        "{% endif %}<end>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    observer = Recorder()
    with engine_of(policy_with(dropping), observer=observer) as engine:
        kept = played(engine)
        played(engine)
    told = [text for text in observer.notes if "changes earlier turns" in text]
    assert len(told) == 1
    assert any(c.environment for c in every(kept))


def test_a_template_without_earlier_turns_is_refused() -> None:
    last_only = "<user>{{ messages[-1]['content'] }}<end><assistant>"
    with (
        engine_of(policy_with(last_only)) as engine,
        pytest.raises(ConfigError, match="leaves out"),
    ):
        played(engine)


def test_a_model_without_a_template_is_refused() -> None:
    tokenizer = copy.deepcopy(tiny.char_tokenizer())
    tokenizer.chat_template = None
    with pytest.raises(ConfigError, match="has no chat template"):
        Renderer(tokenizer)
