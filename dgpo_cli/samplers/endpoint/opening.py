"""The first words with an endpoint: is it one, has it the model, and which parameters it takes."""

from __future__ import annotations

import asyncio
import difflib
import re
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from dgpo_cli.core.errors import BackendError, ConfigError, DgpoError
from dgpo_cli.samplers.endpoint.client import Answer, Client, Failed, Secret
from dgpo_cli.samplers.endpoint.wire import (
    Asking,
    Dialect,
    NotAnAnswer,
    learnt,
    parameters,
    reply_of,
    usage_of,
)
from dgpo_cli.samplers.settings import EndpointBackend

T = TypeVar("T")

PATHS = {"chat": "/chat/completions", "completions": "/completions"}
_PROBE = "Hi"
_LIST_TIMEOUT_S = 10.0
_PROBE_TIMEOUT_S = 300.0  # a server may have to load the model first
_ROUNDS = 12  # more refusals than there are parameters
_TRIES = 3  # of a probe that a busy server turned away
_LONGEST_WAIT_S = 20.0
_LISTS_ALL = 32  # a server with so few models lists every name that it takes
_NAMED = 8


@dataclass(frozen=True, slots=True)
class Opened:
    """What the first words said.

    models: what it lists; None if it has no list. served: the name that the model itself gave.
    server, version: of the program. longest: tokens of prompt and completion that it takes.
    probe_tokens: of prompt and completion of the probe; None if it does not count.
    """

    asking: Asking
    dialect: Dialect
    models: tuple[str, ...] | None
    served: str | None
    server: str | None
    version: str | None
    longest: int | None
    probe_tokens: tuple[int | None, int | None]


def served_models(backend: EndpointBackend, key: Secret) -> tuple[str, ...] | None:
    """Return the names of the models that an endpoint lists; None if it has no list.

    Raises:
        BackendError, ConfigError: it cannot be reached, or wants another key.
    """

    async def ask() -> tuple[str, ...] | None:
        client = Client(backend, key)
        try:
            return _names(await _listed(client, backend=backend, key=key))
        finally:
            await client.close()

    return run_to_end(ask())


def run_to_end(work: Coroutine[Any, Any, T]) -> T:
    """Return what a coroutine returns, also in a thread whose loop runs, as that of a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as own:
        return own.submit(asyncio.run, work).result()


def open_endpoint(
    backend: EndpointBackend, key: Secret, *, asking: Asking, tell: Callable[[str], None]
) -> Opened:
    """Reach an endpoint, check that it serves the model, and learn what it takes.

    One token is sampled. tell: takes notes on what the endpoint does not take.

    Raises:
        ConfigError: it refuses the key, the model or a parameter that the score depends on.
        BackendError: it cannot be reached, or is not an OpenAI-compatible API.
    """

    async def talk() -> Opened:
        client = Client(backend, key)
        try:
            listed = await _listed(client, backend=backend, key=key)
            _check_listed(asking.model, _names(listed), backend=backend)
            dialect, answer = await _probe(client, backend=backend, key=key, asking=asking)
            return await _described(client, listed, answer, asking=asking, dialect=dialect)
        finally:
            await client.close()

    opened = run_to_end(talk())
    if "seed" in opened.dialect.refused:
        tell(f"{backend.url}: takes no seed; samples drawn again would differ")
    longest, limit = opened.longest, asking.max_completion_tokens
    if longest is not None and limit >= longest:
        raise ConfigError(
            f"rollout.max_completion_tokens={limit}: {backend.url} takes {longest} tokens, prompt "
            f"included; --set rollout.max_completion_tokens={longest // 2}"
        )
    return opened


async def _listed(client: Client, *, backend: EndpointBackend, key: Secret) -> Any:
    """Return what the endpoint says of its models; None if it says nothing that we know."""
    try:
        return (await client.get("/models", timeout_s=_LIST_TIMEOUT_S)).body
    except Failed as error:
        if error.status in (401, 403) or error.status is None:
            raise _fatal(error, backend=backend, key=key) from None
        return None


def _entries(listed: Any) -> list[Mapping[str, Any]] | None:
    found = listed.get("data", listed.get("models")) if isinstance(listed, dict) else listed
    if not isinstance(found, list):
        return None
    return [entry for entry in found if isinstance(entry, dict)]


def _names(listed: Any) -> tuple[str, ...] | None:
    entries = _entries(listed)
    if entries is None:
        return None
    names = (entry.get("id", entry.get("name")) for entry in entries)
    return tuple(name for name in names if isinstance(name, str))


def _check_listed(model: str, names: tuple[str, ...] | None, *, backend: EndpointBackend) -> None:
    """Refuse a name that is not in a list that has to be complete."""
    if names is None or not 0 < len(names) <= _LISTS_ALL:
        return
    if not {model, f"{model}:latest", f"models/{model}"} & set(names):
        raise not_served(model, names, backend=backend)


def not_served(model: str, names: tuple[str, ...], *, backend: EndpointBackend) -> ConfigError:
    """Return the error for a model that an endpoint does not have; `names`: what it has."""
    near = difflib.get_close_matches(model, names, n=1)
    shown = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
    hint = f"; did you mean {near[0]}?" if near else f"; give one of {shown}" if names else ""
    return ConfigError(f"--model {model}: {backend.url} does not serve it{hint}")


async def _probe(
    client: Client, *, backend: EndpointBackend, key: Secret, asking: Asking
) -> tuple[Dialect, Answer]:
    """Sample one token, as often as it takes to learn what the endpoint takes."""
    dialect, tries = Dialect(), 0
    for _ in range(_ROUNDS):
        body = _probe_body(asking, dialect)
        try:
            answer = await client.post(
                PATHS[asking.api], body, timeout_s=min(backend.request_timeout_s, _PROBE_TIMEOUT_S)
            )
            reply_of(answer.body, asking=asking, seed=0)
            return dialect, answer
        except NotAnAnswer as error:
            raise BackendError(f"{backend.url}: not an OpenAI-compatible API: {error}") from None
        except Failed as error:
            if error.status in (400, 422):
                if _ran_into_limit(error):
                    return dialect, Answer({}, {})
                known = learnt(
                    dialect, asking=asking, body=body, message=str(error), param=error.param
                )
                if known is None or known == dialect:
                    raise _fatal(error, backend=backend, key=key) from None
                dialect = known
                continue
            tries += 1
            if error.status is None or not error.may_pass or tries >= _TRIES:
                raise _probe_failed(error, backend=backend, key=key, asking=asking) from None
            await asyncio.sleep(min(_LONGEST_WAIT_S, error.wait_s or 2.0**tries))
    raise BackendError(f"{backend.url}: refuses one parameter after another")


def _probe_body(asking: Asking, dialect: Dialect) -> dict[str, Any]:
    body = parameters(replace(asking, max_completion_tokens=dialect.least), dialect)
    if asking.api == "chat":
        body["messages"] = [{"role": "user", "content": _PROBE}]
        if asking.prefix is not None:
            body["messages"].append({"role": "assistant", "content": asking.prefix})
    else:
        body["prompt"] = _PROBE
    return body if "seed" in dialect.refused else {**body, "seed": 0}


def _ran_into_limit(error: Failed) -> bool:
    """Whether a model that thinks found its one token too few, which proves that it is there."""
    return re.search(r"could not finish|output limit was reached", str(error), re.I) is not None


def _probe_failed(
    error: Failed, *, backend: EndpointBackend, key: Secret, asking: Asking
) -> DgpoError:
    if error.status in (404, 405) and "model" in str(error).lower():
        return ConfigError(f"--model {asking.model}: {backend.url} does not serve it: {error}")
    if error.status in (404, 405):
        return BackendError(
            f"{backend.url}: has no {PATHS[asking.api]} ({error}); give the address that ends "
            "before it, often in /v1"
        )
    if error.status is None and error.may_pass and "JSON" in str(error):
        return BackendError(f"{backend.url}: not an OpenAI-compatible API: {error}")
    return _fatal(error, backend=backend, key=key)


def _fatal(error: Failed, *, backend: EndpointBackend, key: Secret) -> DgpoError:
    return fatal(error, backend=backend, has_key=bool(key.value))


def fatal(error: Failed, *, backend: EndpointBackend, has_key: bool) -> DgpoError:
    """Return the error for the user that says what to do about a failed request."""
    if error.status in (401, 403):
        key = f"refuses the key in {backend.api_key_env}" if has_key else "asks for a key"
        return ConfigError(
            f"{backend.url}: {key} ({error}); set {backend.api_key_env}, or name another "
            "variable with --api-key-env"
        )
    if error.status == 402 or error.code == "insufficient_quota":
        return BackendError(f"{backend.url}: the account has no credit left ({error})")
    return BackendError(f"{backend.url}: {error}")


async def _described(
    client: Client, listed: Any, answer: Answer, *, asking: Asking, dialect: Dialect
) -> Opened:
    entries = _entries(listed) or []
    own = next((entry for entry in entries if entry.get("id") == asking.model), {})
    longest = own.get("max_model_len")
    served = answer.body.get("model") if isinstance(answer.body, dict) else None
    return Opened(
        asking=asking,
        dialect=dialect,
        models=_names(listed),
        served=served if isinstance(served, str) else None,
        server=answer.headers.get("server"),
        version=await _version(client) if own.get("owned_by") in ("vllm", "sglang") else None,
        longest=longest if type(longest) is int else None,
        probe_tokens=usage_of(answer.body),
    )


async def _version(client: Client) -> str | None:
    """Ask a vLLM or SGLang server for its version."""
    for path in ("/version", "/get_server_info"):
        try:
            body = (await client.get(f"/..{path}", timeout_s=_LIST_TIMEOUT_S)).body
        except Failed:
            continue
        if isinstance(body, dict) and isinstance(body.get("version"), str):
            return str(body["version"])
    return None
