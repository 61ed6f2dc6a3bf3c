"""Laws of stop strings: where a completion ends does not depend on how it was sampled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgpo_cli.config.load import resolve
from dgpo_cli.core.errors import ConfigError
from dgpo_cli.core.events import NOBODY
from dgpo_cli.core.types import Completion
from dgpo_cli.samplers.base import SamplingParams
from dgpo_cli.samplers.hf import HfSampler
from dgpo_cli.samplers.steps import EagerRunner
from dgpo_cli.samplers.stopping import StopStrings, Watch
from tests.policy import tiny
from tests.samplers.fake_vllm import STOP, FakeVllm, FakeWeights, drawn, spelled
from tests.samplers.test_hf import PARAMS, make_policy, make_prompts
from tests.samplers.vllm_cases import PARAMS as SERVED
from tests.samplers.vllm_cases import PROMPTS, SEEDS, sampler_of

PIECES = ["a", "b", "ab", "ba", "\n", "\n\n", " a", "é", "}", "a}b"]


def pieces(ids: Sequence[int]) -> str:
    """Tokens of several characters, and the two halves of one."""
    halves = (b"\xc3", b"\xa9")
    parts = (PIECES[i].encode() if i < len(PIECES) else halves[i - len(PIECES)] for i in ids)
    return b"".join(parts).decode(errors="replace")


def slow_end(ids: Sequence[int], strings: Sequence[str]) -> int | None:
    """The whole text again after every token."""
    for count in range(1, len(ids) + 1):
        if any(string in pieces(ids[:count]) for string in strings):
            return count
    return None


TOKENS = st.lists(st.integers(0, len(PIECES) + 1), max_size=30)
STRINGS = st.lists(st.text("ab\né} ", min_size=1, max_size=4), min_size=1, max_size=3)


@given(ids=TOKENS, strings=STRINGS)
def test_the_end_is_the_first_token_after_which_the_text_has_a_string(
    ids: list[int], strings: list[str]
) -> None:
    assert StopStrings(strings, spell=pieces).end(ids) == slow_end(ids, strings)


@given(ids=TOKENS, strings=STRINGS, step=st.integers(1, 8))
def test_how_often_one_looks_does_not_move_the_end(
    ids: list[int], strings: list[str], step: int
) -> None:
    watch = Watch(StopStrings(strings, spell=pieces), rows=3, stop_ids=frozenset())
    found: list[int] = []
    for at in range(0, len(ids), step):
        found += watch.see([2], [[token] for token in ids[at : at + step]])
    end = slow_end(ids, strings)
    assert watch.ends == ({} if end is None else {2: end})
    assert found == ([] if end is None else [0])


def test_what_comes_after_an_end_token_ends_nothing() -> None:
    watch = Watch(StopStrings(["b"], spell=pieces), rows=2, stop_ids=frozenset({4}))
    assert watch.see([0, 1], [[0, 0], [4, 1], [1, 1]]) == [1]
    assert watch.see([0, 1], [[1, 1]]) == []
    assert watch.ends == {1: 2}


def test_only_a_window_is_decoded_and_only_where_a_string_may_end() -> None:
    asked: list[int] = []

    def spell(ids: Sequence[int]) -> str:
        asked.append(len(ids))
        return pieces(ids)

    strings = StopStrings(["a}"], spell=spell)
    assert strings.end([1, 0] * 500 + [8]) == 1001
    assert asked == [2, 2, 2, 6]  # three tokens alone, and one window


def sampled(
    strings: tuple[str, ...], *, limit: int = 24, fixed: bool = False, **more: Any
) -> list[tuple[Completion, ...]]:
    runner = EagerRunner() if fixed else None
    sampler = HfSampler(make_policy(), batch_size=more.pop("batch_size", 256), runner=runner,
                        unseen=more.pop("unseen", 1))  # fmt: skip
    prompts, seeds = make_prompts([5, 2, 9]), [[10 * i + j for j in range(6)] for i in range(3)]
    params = replace(PARAMS, stop=strings, max_completion_tokens=limit)
    return sampler.sample(prompts, seeds=seeds, params=params, observer=NOBODY)


def expected(free: list[tuple[Completion, ...]], strings: tuple[str, ...]) -> list[Any]:
    """Cut what was sampled without stop strings."""
    tokenizer = tiny.char_tokenizer()
    groups = []
    for group in free:
        own = []
        for each in group:
            ids = each.token_ids
            for count in range(1, len(ids) + 1):
                if any(string in tokenizer.decode(ids[:count]) for string in strings):
                    text = tokenizer.decode(ids[:count], skip_special_tokens=True)
                    each = replace(
                        each,
                        token_ids=ids[:count],
                        sampling_logprobs=each.sampling_logprobs[:count],
                        text=text,
                        finish_reason="stop",
                    )
                    break
            own.append(each)
        groups.append(tuple(own))
    return groups


@pytest.mark.parametrize("how", [
    {}, {"unseen": 8}, {"fixed": True, "unseen": 8}, {"fixed": True, "unseen": 5},
    {"batch_size": 4}, {"batch_size": 1, "unseen": 3},
])  # fmt: skip
def test_a_completion_is_that_without_stop_strings_up_to_the_first(how: dict[str, Any]) -> None:
    free = sampled(())
    texts = [each.text for group in free for each in group if len(each.text) > 6]
    # Two that are there, one of them late, and one that is not.
    strings = (texts[0][3:5], texts[-1][-1], "<no>")
    wanted = expected(free, strings)
    found = sampled(strings, **how)
    for group, twins in zip(found, wanted, strict=True):
        for each, twin in zip(group, twins, strict=True):
            assert each.token_ids == twin.token_ids
            assert each.sampling_logprobs == pytest.approx(twin.sampling_logprobs, abs=1e-5)
            assert (each.text, each.finish_reason) == (twin.text, twin.finish_reason)
    changed = sum(
        a != b for g, h in zip(free, wanted, strict=True) for a, b in zip(g, h, strict=True)
    )
    assert 2 < changed < 18  # some end by a string, some by an end token


def test_a_string_that_the_last_token_completes_is_a_stop() -> None:
    free = sampled(())
    one = next(each for group in free for each in group if len(each.token_ids) > 7)
    decode = tiny.char_tokenizer().decode
    string = decode(one.token_ids[5:7])
    at = StopStrings([string], spell=decode).end(one.token_ids)
    assert at is not None
    found = {each.seed: each for group in sampled((string,), limit=at) for each in group}
    assert (found[one.seed].finish_reason, len(found[one.seed].token_ids)) == ("stop", at)
    assert decode(found[one.seed].token_ids).endswith(string)


def test_sampling_ends_as_soon_as_all_have_their_string() -> None:
    class Counting:
        def __init__(self) -> None:
            self.policy, self.steps = make_policy(), 0

        def __getattr__(self, name: str) -> Any:
            return getattr(self.policy, name)

        def next_logits(self, *args: Any, **named: Any) -> Any:
            self.steps += 1
            return self.policy.next_logits(*args, **named)

    generator = Counting()
    letters = tuple({*(tiny.char_tokenizer().decode([i]) for i in range(2, 18))})[:16]
    params = SamplingParams(0.9, 1.0, 0, 500, stop=letters)
    (group,) = HfSampler(generator, batch_size=8).sample(
        make_prompts([4]), seeds=[[1, 2, 3]], params=params, observer=NOBODY
    )
    assert generator.steps == max(len(each.token_ids) for each in group) < 500


# vLLM: the fake spells tokens with letters, and a character over two tokens.


@pytest.mark.usefixtures("short_waits")
@pytest.mark.parametrize("strings", [("b",), ("fg", "ba"), ("é",), ("\ufffd",), ("zz", "cc")])
def test_vllm_ends_where_the_law_says(server: FakeVllm, strings: tuple[str, ...]) -> None:
    sampler = sampler_of(server, weights=FakeWeights(adapter=True))
    params = replace(SERVED, stop=strings)
    found = sampler.sample(PROMPTS, seeds=SEEDS, params=params, observer=NOBODY)
    law = StopStrings(strings, spell=spelled)
    ended = 0
    for prompt, own, group in zip(PROMPTS, SEEDS, found, strict=True):
        for seed, each in zip(own, group, strict=True):
            ids = drawn(prompt, seed=seed, weight=0.0, limit=9)
            end = law.end(ids)
            assert each.token_ids == tuple(ids[:end])
            assert len(each.sampling_logprobs) == len(each.token_ids)
            stopped = end is not None or ids[-1] == STOP
            assert each.finish_reason == ("stop" if stopped else "length")
            ended += end is not None
    assert ended
    assert all(body["stop"] == list(strings) for body in server.bodies if body["max_tokens"] == 9)


@pytest.mark.usefixtures("short_waits")
def test_nothing_is_asked_of_vllm_without_stop_strings(server: FakeVllm) -> None:
    sampler = sampler_of(server, weights=FakeWeights(adapter=True))
    sampler.sample(PROMPTS, seeds=SEEDS, params=SERVED, observer=NOBODY)
    assert server.bodies and not any("stop" in body for body in server.bodies)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ('[""]', "must not be empty"),
        (str([str(n) for n in range(17)]), "at most 16"),
        ("3", "must be a list"),
    ],
)
def test_stop_strings_are_few_and_none_is_empty(value: str, said: str) -> None:
    with pytest.raises(ConfigError, match=rf"^rollout\.stop.*{said}"):
        resolve(overrides=[f"rollout.stop={value}"])
    assert resolve(overrides=['rollout.stop=["</answer>", "\\n\\n"]']).settings.rollout.stop == (
        "</answer>",
        "\n\n",
    )
