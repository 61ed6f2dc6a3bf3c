"""Samples with vLLM servers that have the policy's weights; for both vLLM backends.

The carrier (carriers.py) transfers the weights, and a canary checks that they arrived.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dgpo_cli.core.errors import BackendError
from dgpo_cli.core.events import Observer, phase
from dgpo_cli.core.types import Advance, Completion
from dgpo_cli.samplers.base import Row, SamplingParams, Share, in_order
from dgpo_cli.samplers.canary import Canary, mean_gap
from dgpo_cli.samplers.http_json import UNREACHED, Connection, ServerGone, ServerSaysNo
from dgpo_cli.samplers.stopping import StopStrings
from dgpo_cli.samplers.vllm.client import Served, ServerCompletion, VllmClient
from dgpo_cli.samplers.vllm.dispatch import Dispatch, Request

if TYPE_CHECKING:
    from dgpo_cli.samplers.base import TrainedWeights
    from dgpo_cli.samplers.vllm.carriers import Carrier
    from dgpo_cli.samplers.vllm.client import Fleet

# The hottest that vLLM allows: it separates log-probabilities with temperature from those without.
_PROBE = SamplingParams(temperature=2.0, top_p=1.0, top_k=0, max_completion_tokens=4)

_PROCESSED = "start the server with dgpo serve, or with --logprobs-mode processed_logprobs"


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of requests, and the tolerance of the canary (mean gap in nats)."""

    max_in_flight: int
    retries: int
    request_timeout_s: float
    tolerance: float
    dtype: str


class VllmSampler:
    """The sampler of `rollout.backend.kind` "vllm" and "vllm-server"."""

    def __init__(
        self, weights: TrainedWeights, *, fleet: Fleet, carrier: Carrier, limits: Limits, run: str
    ) -> None:
        """run: names this sampler's adapters and cached prompts on shared servers."""
        self._weights = weights
        self._fleet = fleet
        self._carrier = carrier
        self._limits = limits
        self._policy_version = 0
        self._run = run
        self._started = False
        self._asleep = False
        self._count = 0  # syncs so far: two of one version must not share a name
        self._expected: Sequence[float] = ()
        self._ids = weights.canary_ids()
        self._served: dict[str, Served] = {}
        self._canaries: dict[str, Canary] = {}
        self._dispatch: Dispatch | None = None
        self._cancelled = False
        self.close = weakref.finalize(self, fleet.close)

    def sync(self, *, policy_version: int) -> None:
        """Give every server the policy's current weights, and check that it has them.

        Raises:
            BackendError: a server refuses them, or the canary finds others.
        """
        self._policy_version = policy_version
        if self._started:
            self._publish_all()

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        seeds: Sequence[Sequence[int]],
        params: SamplingParams,
        observer: Observer,
    ) -> list[tuple[Completion, ...]]:
        """See Sampler.sample.

        Raises:
            BackendError: a server is gone, refuses, or fails too often.
        """
        self.prepare(observer)
        total = sum(map(len, seeds))
        with phase(observer, "sampling", total=total, unit="completions") as advance:
            found = self.draw(
                prompts, seeds=seeds, params=params, advance=advance, share=Share.all()
            )
        return in_order(found, seeds=seeds)

    def cancel(self) -> None:
        """See RemoteSampler.cancel."""
        self._cancelled = True
        self._fleet.wait_no_more()
        if self._dispatch is not None:
            self._dispatch.cancel()

    def wait_no_more(self) -> None:
        """See RemoteSampler.wait_no_more."""
        self._fleet.wait_no_more()

    def _go_on(self) -> None:
        if self._cancelled:
            raise BackendError("sampling was cancelled")

    def draw(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        seeds: Sequence[Sequence[int]],
        params: SamplingParams,
        advance: Advance,
        share: Share,
    ) -> dict[Row, Completion]:
        """See SharedSampler.draw, after `prepare`. A part is a prompt with its seeds, or with some
        if ranks would get none."""
        self._check_lengths(prompts, params=params)
        if self._fleet.shared:
            for client in self._fleet.clients:
                self._hold(client)
        rows = [(i, j) for i in range(len(prompts)) for j in range(len(seeds[i]))]
        found: dict[Row, Completion] = {}

        def on_done(index: int, drawn: ServerCompletion) -> None:
            i, j = rows[index]
            found[i, j] = self._completion(drawn, seed=seeds[i][j])
            advance(1)

        parts = _parts(prompts, seeds=seeds, most=share.rows(seeds))
        self._dispatch = self._new_dispatch(params, most=share.rows(seeds))
        self._go_on()  # after the dispatch exists: `cancel` sets the flag first
        if share.among == 1:
            self._dispatch.run(parts, on_done=on_done)
        else:

            def more() -> Sequence[Request]:
                number = share.take()
                return parts[number] if number < len(parts) else ()

            self._dispatch.run(more=more, on_done=on_done)
        self._fleet.went_well()
        return found

    def _new_dispatch(self, params: SamplingParams, *, most: int) -> Dispatch:
        stop_ids = sorted(self._weights.stop_ids)
        strings = StopStrings(params.stop, spell=self._weights.spell) if params.stop else None

        def draw(client: VllmClient, connection: Connection, request: Request) -> ServerCompletion:
            return client.draw(
                connection,
                request.prompt,
                model=self._model(client),
                seed=request.seed,
                params=params,
                stop_ids=stop_ids,
                cache_salt=self._salt,
                timeout_s=self._limits.request_timeout_s,
                strings=strings,
            )

        return Dispatch(
            self._fleet.clients,
            draw=draw,
            max_in_flight=min(self._limits.max_in_flight, most),
            retries=self._limits.retries,
            bring_back=self._bring_back,
        )

    def _completion(self, drawn: ServerCompletion, *, seed: int) -> Completion:
        ids = drawn.token_ids
        at_end = ids[-1] in self._weights.stop_ids
        return Completion(
            token_ids=ids,
            sampling_logprobs=drawn.logprobs,
            text=self._weights.decode(ids[:-1] if at_end else ids),
            finish_reason=drawn.finish_reason,
            policy_version=self._policy_version,
            seed=seed,
        )

    # The weights of the servers.

    @property
    def _salt(self) -> str:
        return f"{self._run}-{self._count}"

    def _model(self, client: VllmClient) -> str:
        return self._carrier.name(client) or self._served[client.address.url].model

    def meet(self, observer: Observer) -> str | None:
        """Return what the servers serve if nothing says that it is the policy's weights; start
        nothing.

        They are known if an engine of our own reads them, if the trainer compares them, and if
        every server is given them. Waits for servers.

        Raises:
            BackendError: a server is not ready, or serves another model.
        """
        if self._weights.in_memory or not self._fleet.shared:
            return None
        self._fleet.start(observer)
        clients = self._fleet.clients
        if not self._weights.has_adapter and all(each.takes_weights() for each in clients):
            return None
        return ", ".join(dict.fromkeys(each.served().model for each in clients))

    def prepare(self, observer: Observer) -> None:
        """See RemoteSampler.prepare. Raises BackendError."""
        if self._started:
            self._wake()
            return
        self._release()  # an engine counts the memory that is free while it starts
        self._fleet.start(observer)
        self._started = True
        with phase(observer, "syncing", total=1, unit="syncs") as advance:
            self._publish_all(first=True)
            advance(1)

    def _publish_all(self, *, first: bool = False) -> None:
        """Give every server the current weights, and drop the previous version; all are then
        awake."""
        self._count += 1
        self._carrier.renew(first=first)
        if self._weights.in_memory:
            self._expected = self._weights.logprobs_of(self._ids, temperature=1.0)
        for client in self._fleet.clients:
            try:
                self._publish(client, first=first)
            except UNREACHED as error:
                self._bring_back(client, error)
        self._asleep = False
        self._carrier.drop_older()

    def _publish(self, client: VllmClient, *, first: bool = False) -> None:
        """Give one server the weights of this version and check that it has them.

        One that sleeps takes memory for the weights first, and for the rest after them: what the
        trainer needs to send them does not come on top of everything.
        """
        if first:
            self._meet(client)
        if self._asleep:
            self._release()
            client.wake("weights")
        self._carrier.give(client)
        if self._asleep:
            self._release()
            client.wake("kv_cache")
        measured = client.score(self._ids, model=self._model(client), cache_salt=self._salt)
        self._expected = self._expected or measured
        what = f"policy version {self._policy_version}" if self._weights.in_memory else "model.path"
        canary = self._canaries[client.address.url]
        canary.check(measured, self._expected, what=what, where=str(client))
        if first:
            self._check_logprobs(client)

    def _meet(self, client: VllmClient) -> None:
        """Ask a server what it serves; with an adapter, check that it has the trainer's base."""
        url = client.address.url
        self._served[url] = client.served()
        compares = self._weights.in_memory
        first = str(self._fleet.clients[0])
        self._canaries[url] = Canary(
            tolerance=self._limits.tolerance,
            dtype=self._limits.dtype,
            witness="the trainer's" if compares else f"those that {first} gave first",
        )
        if self._weights.has_adapter and compares:
            base = self._weights.logprobs_of(self._ids, temperature=1.0, adapter=False)
            salt = f"{self._run}-base"
            measured = client.score(self._ids, model=self._served[url].model, cache_salt=salt)
            self._canaries[url].check(measured, base, what="the base model", where=str(client))

    def _check_logprobs(self, client: VllmClient) -> None:
        """Check that a server divides by the temperature before taking log-probabilities."""
        if not self._weights.in_memory:
            self._check_margin(client)
            return
        with closing(client.connect()) as connection:
            drawn = client.draw(
                connection,
                self._ids,
                model=self._model(client),
                seed=0,
                params=_PROBE,
                stop_ids=(),
                cache_salt=self._salt,
                timeout_s=self._limits.request_timeout_s,
            )
        ids = [*self._ids, *drawn.token_ids]
        count = len(drawn.token_ids)
        own = self._weights.logprobs_of(ids, temperature=_PROBE.temperature)[-count:]
        gap = mean_gap(drawn.logprobs, own)
        if not gap <= self._limits.tolerance:
            raise BackendError(
                f"{client}: its log-probabilities of sampled tokens at temperature "
                f"{_PROBE.temperature:g} differ by {gap:.3g} nats from the trainer's, more than "
                f"{self._limits.tolerance:g}; {_PROCESSED}"
            )

    def _check_margin(self, client: VllmClient) -> None:
        """Check the same without a trainer: a temperature of T divides the distance between the
        two likeliest tokens by T."""
        model, hot = self._model(client), _PROBE.temperature
        plain, divided = (
            client.margin(self._ids, model=model, temperature=t, cache_salt=self._salt)
            for t in (1.0, hot)
        )
        if abs(divided - plain) < abs(divided - plain / hot):
            raise BackendError(
                f"{client}: its log-probabilities at temperature {hot:g} are those of temperature "
                f"1; {_PROCESSED}"
            )

    def _hold(self, client: VllmClient) -> None:
        """Check that a shared server still has the last sync's weights, or sync it again."""
        try:
            model = self._model(client)
            measured = client.score(self._ids, model=model, cache_salt=self._salt)
        except UNREACHED as error:
            self._bring_back(client, error)
            return
        if not self._canaries[client.address.url].holds(measured):
            self._carrier.lost(client)  # it may be another server now
            self._publish(client)

    def _bring_back(self, client: VllmClient, error: Exception) -> None:
        """Bring back the server that raised `error`, with the weights of this version."""
        for _ in range(self._limits.retries + 1):
            if isinstance(error, ServerSaysNo) and not error.may_pass and error.status != 404:
                raise BackendError(f"{client}: {error}") from error
            self._go_on()
            self._carrier.lost(client)
            self._release()
            self._fleet.bring_back(client, error)
            try:
                self._publish(client, first=client.address.url not in self._served)
                return
            except UNREACHED as again:
                error = again
        raise BackendError(f"{client}: lost repeatedly during the sync: {error}")

    def _check_lengths(self, prompts: Sequence[Sequence[int]], *, params: SamplingParams) -> None:
        longest = max((len(each) + params.room(each) for each in prompts), default=0)
        for client in self._fleet.clients:
            limit = self._served[client.address.url].max_model_len
            if limit is not None and longest > limit:
                raise BackendError(
                    f"{client}: takes {limit} tokens, prompt and completion need {longest}; "
                    "start the server with a larger --max-model-len, or lower "
                    "rollout.max_completion_tokens"
                )

    # Memory between phases.

    @property
    def sleeps(self) -> bool:
        """See SharedRemoteSampler.sleeps."""
        return self._fleet.sleeps

    def rest(self) -> None:
        """See RemoteSampler.rest. Raises BackendError."""
        if self._asleep or not (self._started and self._fleet.sleeps):
            return
        for client in self._fleet.clients:
            with suppress(ServerGone):  # it holds no memory, and is brought back when it is to wake
                client.sleep()
        self._asleep = True

    def _wake(self) -> None:
        """Let the servers sample with the weights that they had when they fell asleep."""
        if not self._asleep:
            return
        for client in self._fleet.clients:
            try:
                self._release()
                client.wake()
            except UNREACHED as error:
                self._bring_back(client, error)
        self._asleep = False

    def _release(self) -> None:
        if not self._fleet.shared:
            self._weights.release()


def _parts(
    prompts: Sequence[Sequence[int]], *, seeds: Sequence[Sequence[int]], most: int
) -> list[list[Request]]:
    """Cut a round into parts of one prompt and at most so many completions."""
    parts: list[list[Request]] = []
    count = 0
    for prompt, own in zip(prompts, seeds, strict=True):
        requests = [Request(count + j, prompt, seed) for j, seed in enumerate(own)]
        parts += [requests[start : start + most] for start in range(0, len(own), most)]
        count += len(own)
    return parts
