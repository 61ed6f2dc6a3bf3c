"""Samples of a model behind an API, and what its card says of it."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any

from dgpo_cli import __version__
from dgpo_cli.config.load import Resolved
from dgpo_cli.config.protocols import Protocol
from dgpo_cli.config.settings import Settings
from dgpo_cli.core.errors import BackendError, ConfigError, OutOfBudget
from dgpo_cli.core.events import Observer, tell
from dgpo_cli.core.types import Card, Prompt, Reply
from dgpo_cli.evals.card import build_card
from dgpo_cli.evals.samples import Sample
from dgpo_cli.evals.source import Drawn, Missing, sample_seed
from dgpo_cli.prompts.benchmarks import Benchmark
from dgpo_cli.samplers.endpoint.budget import Budget
from dgpo_cli.samplers.endpoint.client import Answer, Client, Failed, key_of, pools_for
from dgpo_cli.samplers.endpoint.fleet import Fleet, Job, Landed
from dgpo_cli.samplers.endpoint.opening import PATHS, Opened, fatal, open_endpoint
from dgpo_cli.samplers.endpoint.wire import (
    Asking,
    filtered,
    parameters,
    reply_of,
    request_body,
)
from dgpo_cli.samplers.settings import EndpointBackend

GRACE_S = 5.0  # for answers in flight when an evaluation stops: they are paid for
_LOOK_S = 1.0  # at most between two looks at the requests in flight
_NO_TOKENS = 1024  # of a chat template, if the endpoint does not count the probe's
_PER_TURN = 8  # tokens around a message
_FILTERS = ("content_filter", "content_policy_violation", "responsibleaipolicyviolation")


class EndpointSource:
    """Draws from one endpoint. budget: shared by all evaluations of a command."""

    def __init__(
        self, backend: EndpointBackend, *, observer: Observer, budget: Budget | None = None
    ) -> None:
        self._backend, self._observer, self._budget = backend, observer, budget
        self._key = key_of(backend)
        self._longest = 0  # completion so far, in tokens
        self._window: float | None = None  # of requests in flight, as learnt so far
        self._opened: dict[str, Opened] = {}
        self._prompt_tokens: dict[str, int] = {}  # by the text of a prompt, as the endpoint counts

    def open(self, settings: Settings) -> Opened:
        """Ask the endpoint, once, whether it takes requests under these settings.

        Raises:
            ConfigError, BackendError: it does not.
        """
        asking = asking_of(settings)
        name = repr(asking)
        if name not in self._opened:
            note = partial(tell, self._observer)
            opened = open_endpoint(self._backend, self._key, asking=asking, tell=note)
            self._opened[name] = opened
            if self._budget is not None and None not in opened.probe_tokens:
                prompt, completion = (count or 0 for count in opened.probe_tokens)
                self._budget.spent += self._budget.price.of(prompt=prompt, completion=completion)
        return self._opened[name]

    def describe(
        self, resolved: Resolved, *, benchmark: Benchmark, protocol: Protocol | None
    ) -> Card:
        """See Source.describe. The endpoint checks the prompts itself."""
        opened = self.open(resolved.settings)
        return build_card(
            resolved,
            protocol=protocol,
            benchmark=benchmark,
            stop=None,
            subject=_subject(opened, self._backend),
            environment=_environment(opened),
        )

    def draw(
        self, wanted: Iterator[Missing], *, settings: Settings, stored: Sequence[Sample]
    ) -> Generator[list[Drawn]]:
        """See Source.draw. An interrupt yields what comes of the requests in flight.

        Raises:
            BackendError: the endpoint refuses, or a request failed too often.
            OutOfBudget: the next request may cost more than is left.
        """
        opened = self.open(settings)
        path, limit = PATHS[opened.asking.api], self._backend.max_in_flight
        self._count(stored, settings=settings)
        fleet: Fleet[Missing] = Fleet(
            Client(self._backend, self._key, pools=pools_for(limit)),
            path,
            limit=limit,
            window=self._window,
            retries=self._backend.retries,
            budget=self._budget,
            tell=partial(tell, self._observer),
        )
        make = partial(self._job, opened=opened, settings=settings)
        try:
            yield from self._drawn(fleet, wanted, make)
        finally:
            self._window = fleet.window
            fleet.close()

    def _drawn(
        self, fleet: Fleet[Missing], wanted: Iterator[Missing], make: Any
    ) -> Generator[list[Drawn]]:
        over: list[Landed[Missing]] = []
        try:
            while True:
                while fleet.room > 0 and (pair := next(wanted, None)) is not None:
                    fleet.submit(make(pair))
                if not fleet.outstanding:
                    return
                landed = fleet.take(timeout_s=_LOOK_S)
                self._observer.on(fleet.state)
                if found := [_drawn(each) for each in landed if each.reply is not None]:
                    yield found
                over = [each for each in landed if each.reply is None]
                if over:
                    break
        except KeyboardInterrupt:
            late = fleet.land(grace_s=GRACE_S)
            if found := [_drawn(each) for each in late if each.reply is not None]:
                yield found
            raise
        late = fleet.land(grace_s=GRACE_S)
        if found := [_drawn(each) for each in late if each.reply is not None]:
            yield found
        raise self._ended(over)

    def _job(self, pair: Missing, *, opened: Opened, settings: Settings) -> Job[Missing]:
        prompt, index = pair
        seed = sample_seed(settings.seed, prompt.id, index)
        asking = opened.asking
        worst = self._worst(prompt, opened=opened)

        def read(answer: Answer) -> Reply:
            reply = reply_of(answer.body, asking=asking, seed=seed)
            if reply.prompt_tokens:
                self._prompt_tokens[_text(prompt)] = reply.prompt_tokens
            self._measure(reply, limit=asking.max_completion_tokens)
            return reply

        def cost(reply: Reply) -> float:
            price = None if self._budget is None else self._budget.price
            if price is None or reply.prompt_tokens is None or reply.completion_tokens is None:
                return worst
            return price.of(prompt=reply.prompt_tokens, completion=reply.completion_tokens)

        return Job(
            pair,
            request_body(prompt, seed=seed, asking=asking, dialect=opened.dialect),
            read=read,
            reply_to=partial(_refusal, seed=seed),
            worst=worst,
            cost=cost,
        )

    def _measure(self, reply: Reply, *, limit: int) -> None:
        """Learn how long a completion may be, and say so if that is more than was asked for."""
        length = reply.completion_tokens or 0
        if length > limit >= self._longest:
            tell(
                self._observer,
                f"{self._backend.url}: a completion has {length:,} tokens, more than "
                f"rollout.max_completion_tokens={limit}: the endpoint does not keep to it",
            )
        self._longest = max(self._longest, length)

    def _worst(self, prompt: Prompt, *, opened: Opened) -> float:
        """Return the most that a request for a sample can cost: a token is a byte at least."""
        if self._budget is None:
            return 0.0
        text = _text(prompt)
        tokens = self._prompt_tokens.get(text)
        if tokens is None:
            around = opened.probe_tokens[0]
            tokens = len(text.encode()) + (_NO_TOKENS if around is None else around)
            tokens += _PER_TURN * len(prompt.messages)
        limit = max(opened.asking.max_completion_tokens, self._longest)
        return self._budget.price.of(prompt=tokens, completion=limit)

    def _count(self, stored: Sequence[Sample], *, settings: Settings) -> None:
        """Count what the stored samples have cost; the limit, where tokens were not counted."""
        if self._budget is None:
            return
        for sample in stored:
            completion = settings.rollout.max_completion_tokens
            completion = completion if sample.tokens is None else sample.tokens
            prompt = sample.prompt_tokens
            prompt = settings.prompts.max_prompt_tokens if prompt is None else prompt
            self._budget.spent += self._budget.price.of(prompt=prompt, completion=completion)

    def _ended(self, over: Sequence[Landed[Missing]]) -> Exception:
        failed = next((each for each in over if each.error is not None), None)
        if failed is None or failed.error is None:
            budget = self._budget
            assert budget is not None
            return OutOfBudget(
                f"--max-cost {budget.most:g}: {budget.spent:.4g} is spent, and one more sample may "
                "cost more than is left"
            )
        error = fatal(failed.error, backend=self._backend, has_key=bool(self._key.value))
        if failed.error.status in (400, 413, 422):
            prompt, index = failed.key
            return BackendError(f"problem {prompt.id!r}, sample {index}: {error}")
        return error if isinstance(error, BackendError) else BackendError(str(error))


def asking_of(settings: Settings) -> Asking:
    """Return what the requests of an evaluation under these settings ask for.

    Raises:
        ConfigError: arguments for a chat template that is not used.
    """
    backend, rollout = settings.rollout.backend, settings.rollout
    assert isinstance(backend, EndpointBackend)
    if backend.api == "completions" and settings.prompts.chat_template:
        raise ConfigError(
            "rollout.backend.api=completions: uses no chat template; set prompts.chat_template= "
            "(nothing), or rollout.backend.api=chat"
        )
    return Asking(
        model=settings.model.path,
        api=backend.api,
        temperature=rollout.temperature,
        top_p=rollout.top_p,
        top_k=rollout.top_k,
        max_completion_tokens=rollout.max_completion_tokens,
        stop=rollout.stop,
        reasoning_effort=backend.reasoning_effort,
        chat_template={
            name: list(value) if isinstance(value, tuple) else value
            for name, value in (settings.prompts.chat_template or {}).items()
        },
        prefix=settings.prompts.assistant_prefix,
        extra=backend.extra_body or {},
    )


def _drawn(landed: Landed[Missing]) -> Drawn:
    assert landed.reply is not None
    return Drawn(*landed.key, landed.reply)


def _text(prompt: Prompt) -> str:
    return "\n\n".join(message.content for message in prompt.messages)


def _refusal(error: Failed, *, seed: int) -> Reply | None:
    """Return the sample of a prompt that a content filter refused; None for another refusal."""
    signs = f"{error.code or ''} {error}".lower()
    refused = error.status in (400, 403) and any(sign in signs for sign in _FILTERS)
    return filtered(seed) if refused else None


def _subject(opened: Opened, backend: EndpointBackend) -> dict[str, Any]:
    asking, dialect = opened.asking, opened.dialect
    sent = [name for name in parameters(asking, dialect) if name not in ("model", *asking.extra)]
    missing = ["token ids", "log-probabilities", "stop tokens"]
    missing += ["chat template"] if asking.api == "chat" else []
    cut = asking.stop and "include_stop_str_in_output" in dialect.refused
    missing += ["the string that ended a completion"] if cut else []
    missing += ["seeds"] if "seed" in dialect.refused else []
    entries = {
        "reasoning_effort": asking.reasoning_effort,
        "extra_body": dict(asking.extra) or None,
    }
    return {
        "model": asking.model,
        "endpoint": str(backend.url),
        "api": asking.api,
        "served": opened.served,
        "parameters": sorted([*sent, *([] if "seed" in dialect.refused else ["seed"])]),
        **{name: value for name, value in entries.items() if value is not None},
        "not_given": missing,
    }


def _environment(opened: Opened) -> dict[str, Any]:
    return {
        "versions": {
            "dgpo": __version__,
            "httpx2": version("httpx2"),
            **({"server": opened.version} if opened.version is not None else {}),
        },
        "server": opened.server,
    }
