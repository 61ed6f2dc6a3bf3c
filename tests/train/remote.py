"""A sampler with weights of its own, as a vLLM server has them, in this process: a copied model."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence

from dgpo_cli.core.events import Observer
from dgpo_cli.core.types import Advance, Completion
from dgpo_cli.policy.fingerprint import trained_fingerprint
from dgpo_cli.policy.policy import Policy
from dgpo_cli.samplers.base import Row, SamplingParams, Share
from dgpo_cli.samplers.hf import HfSampler

THREAD = "dgpo-sampling"
LIMIT_S = 120.0  # no wait of a test is longer; one that ends by it has failed


class TwinSampler:
    """Samples from a copy of the policy, which only `sync` makes equal to it again.

    on_sample: called with the number of the sample (from 1) while it is under way.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        on_sample: Callable[[int], None] | None = None,
        batch_size: int = 64,
    ) -> None:
        self._policy = policy
        self._twin = Policy(
            copy.deepcopy(policy.model),
            tokenizer=policy.tokenizer,
            reference=None,
            has_adapter=policy.has_adapter,
        )
        self._inner = HfSampler(self._twin, batch_size=batch_size)
        self._on_sample = on_sample or (lambda number: None)
        self._busy = threading.Lock()
        self.cancelled = threading.Event()
        self.waits_no_more = False
        self.version = 0
        self.samples: list[tuple[int, str, int]] = []  # version, thread, prompts
        self.prepared = 0

    def prepare(self, observer: Observer) -> None:
        assert threading.current_thread() is threading.main_thread()
        self.prepared += 1
        if self.prepared == 1:
            self._take()

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        seeds: Sequence[Sequence[int]],
        params: SamplingParams,
        observer: Observer,
    ) -> list[tuple[Completion, ...]]:
        assert self._busy.acquire(blocking=False), "two samples at once"
        try:
            version, before = self.version, trained_fingerprint(self._twin.trainable())
            self.samples.append((version, threading.current_thread().name, len(prompts)))
            self._on_sample(len(self.samples))
            found = self._inner.sample(prompts, seeds=seeds, params=params, observer=observer)
            assert (self.version, trained_fingerprint(self._twin.trainable())) == (version, before)
            return found
        finally:
            self._busy.release()

    def sync(self, *, policy_version: int) -> None:
        assert self._busy.acquire(blocking=False), "synced in the middle of a sample"
        try:
            self.version = policy_version
            self._inner.sync(policy_version=policy_version)
            self._take()
        finally:
            self._busy.release()

    def rest(self) -> None:
        assert not self._busy.locked(), "asleep in the middle of a sample"

    def wait_no_more(self) -> None:
        self.waits_no_more = True

    def cancel(self) -> None:
        self.cancelled.set()

    def _take(self) -> None:
        self._twin.model.load_state_dict(self._policy.model.state_dict())


class SharedTwinSampler(TwinSampler):
    """One that draws its share of each round; `versions` are those that its draws had."""

    sleeps = False

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy, batch_size=4)  # every rank gets some
        self.versions: list[int] = []

    def draw(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        seeds: Sequence[Sequence[int]],
        params: SamplingParams,
        advance: Advance,
        share: Share,
    ) -> dict[Row, Completion]:
        assert self._busy.acquire(blocking=False), "two samples at once"
        try:
            version = self.version
            found = self._inner.draw(
                prompts, seeds=seeds, params=params, advance=advance, share=share
            )
            assert self.version == version
            self.versions += [version] * bool(found)
            return found
        finally:
            self._busy.release()


def sampling_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == THREAD]
