"""Conversations over the protocol with vLLM: a turn is asked for with all tokens before it."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from dgpo_cli.core.events import NOBODY
from dgpo_cli.core.seeds import derive_seed
from dgpo_cli.engine.turns import Limits, Players, Renderer
from dgpo_cli.environments.process import EnvProcess
from dgpo_cli.environments.source import EnvSource
from dgpo_cli.samplers.base import SamplingParams
from tests.policy import tiny
from tests.samplers.fake_vllm import STOP, FakeVllm, FakeWeights, drawn, logprob
from tests.samplers.vllm_cases import sampler_of

pytestmark = pytest.mark.usefixtures("short_waits")
GAMES = Path(__file__).parents[1] / "environments" / "games.py"


def test_a_turn_is_asked_for_with_the_tokens_of_all_before_it(server: FakeVllm) -> None:
    """The fake draws by prompt and seed, so that another context gives other tokens."""
    sampler = sampler_of(server, weights=FakeWeights(adapter=False))
    params = SamplingParams(temperature=0.5, top_p=1.0, top_k=0, max_completion_tokens=60)
    with closing(EnvProcess(EnvSource("environment", f"{GAMES}:Count"))) as process:
        players = Players(
            process,
            renderer=Renderer(tiny.char_tokenizer()),
            limits=Limits(turns=3, tokens=60, turn_tokens=7),
            stop_ids=frozenset([STOP]),
            spell=lambda ids: " ".join(map(str, ids)),
            checked=lambda prompt, ids: ids,
            observer=NOBODY,
        )
        groups = players.play(
            process.tasks(), seeds=[[1, 2]] * 4, sample=sampler.sample, params=params
        )
    for group in groups:
        for completion, seed in zip(group.completions, (1, 2), strict=True):
            ids, context = completion.token_ids, list(group.prompt_ids)
            edges = [0, *(edge for span in completion.environment for edge in span), len(ids)]
            turns = list(zip(edges[::2], edges[1::2], strict=True))
            assert len(turns) == 3
            for number, (start, stop) in enumerate(turns):
                own = derive_seed(seed, "turn", number) if number else seed
                asked = [*context, *ids[:start]]
                assert list(ids[start:stop]) == drawn(asked, seed=own, weight=0.0, limit=7)
                assert completion.sampling_logprobs[start:stop] == tuple(
                    logprob(i, weight=0.0, temperature=0.5) for i in ids[start:stop]
                )
