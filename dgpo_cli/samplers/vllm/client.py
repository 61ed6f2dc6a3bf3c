"""Client of one vLLM server: token ids in, token ids and log-probabilities out.

Written for vLLM 0.32's OpenAI-compatible server; `dgpo serve` starts one with the right flags.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from dgpo_cli.core.errors import BackendError
from dgpo_cli.core.events import Observer
from dgpo_cli.core.types import FinishReason
from dgpo_cli.samplers.http_json import (
    UNREACHED,
    Address,
    Connection,
    ServerGone,
    ServerSaysNo,
)
from dgpo_cli.samplers.vllm.command import WORKER
from dgpo_cli.samplers.vllm.gate import RELOAD

if TYPE_CHECKING:
    from dgpo_cli.samplers.base import SamplingParams
    from dgpo_cli.samplers.stopping import StopStrings


CONTROL_TIMEOUT_S = 30.0
LOAD_TIMEOUT_S = 1800.0  # for a large model on a slow disk
Asleep = Literal["weights", "kv_cache"]  # what sleeps, by vLLM's tags


@dataclass(frozen=True, slots=True)
class ServerCompletion:
    """One completion from the server; log-probabilities in nats."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True)
class Served:
    """The base model that a server serves, and its longest sequence in tokens.

    root: where the server has the model from; None if it does not say.
    """

    model: str
    max_model_len: int | None
    root: str | None = None


@dataclass(frozen=True, slots=True)
class Configured:
    """How a server takes full weights.

    reload: name of its reload from a folder. transfer: name of its weight transfer, if any.
    dtype: torch's name of the type that it computes in, if known.
    """

    reload: str
    transfer: str | None = None
    dtype: str | None = None


class VllmClient:
    """Client of one server. `draw` takes the connection to use, one per thread."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._configured: Configured | None = None

    def __str__(self) -> str:
        return self.address.url

    def connect(self) -> Connection:
        return self.address.connect()

    def call(
        self, method: str, path: str, body: Any = None, *, timeout_s: float = CONTROL_TIMEOUT_S
    ) -> Any:
        """Send one request on its own connection. Raises what Connection.request raises."""
        connection = self.connect()
        try:
            return connection.request(method, path, body, timeout_s=timeout_s)
        finally:
            connection.close()

    def check_health(self, *, timeout_s: float = CONTROL_TIMEOUT_S) -> None:
        """Raise what Connection.request raises unless the server is ready."""
        self.call("GET", "/health", timeout_s=timeout_s)

    def check_alive(self) -> None:
        """Raise ServerGone or ServerSlow if the server is gone, so that it is brought back."""
        try:
            self.check_health()
        except ServerSaysNo as error:
            raise ServerGone(str(error)) from error

    def is_ready(self) -> bool:
        """Whether the server is ready."""
        try:
            self.check_health()
        except UNREACHED:
            return False
        return True

    def served(self, *, timeout_s: float = CONTROL_TIMEOUT_S) -> Served:
        """Ask for the base model. Raises BackendError if this is not one vLLM server."""
        answer = self.call("GET", "/v1/models", timeout_s=timeout_s)
        try:
            names = [str(card["id"]) for card in answer["data"]]
            if any(card.get("owned_by", "vllm") != "vllm" for card in answer["data"]):
                raise BackendError(
                    f"{self}: serves {', '.join(names[:3])}, but is not vLLM; evaluate what any "
                    f"OpenAI-compatible server has with dgpo eval {endpoint(self)} --model NAME"
                )
            (base,) = [card for card in answer["data"] if card.get("parent") is None]
            length, root = base.get("max_model_len"), base.get("root")
            return Served(
                str(base["id"]),
                None if length is None else int(length),
                None if root is None else str(root),
            )
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise BackendError(
                f"{self}: /v1/models is not that of a vLLM server with one model; set "
                "rollout.backend.urls to the base address of a server started by dgpo serve, or "
                f"evaluate another server's model with dgpo eval {endpoint(self)} --model NAME"
            ) from error

    def takes_weights(self) -> bool:
        """Whether the server has vLLM's development interface, which takes weights."""
        try:
            self.call("GET", "/is_sleeping")
        except ServerSaysNo:
            return False
        return True

    def draw(
        self,
        connection: Connection,
        prompt: Sequence[int],
        *,
        model: str,
        seed: int,
        params: SamplingParams,
        stop_ids: Sequence[int],
        cache_salt: str,
        timeout_s: float,
        strings: StopStrings | None = None,
    ) -> ServerCompletion:
        """Draw one completion of a prompt.

        strings: those of params.stop, if any: where they end, whatever the server's detokeniser
            makes of characters that are spread over tokens.

        Raises:
            BackendError: the server's answer lacks the ids or log-probabilities.
            ServerGone, ServerSlow, ServerSaysNo: see there.
        """
        body = {
            "model": model,
            "prompt": list(prompt),
            "n": 1,
            "seed": seed,
            "temperature": params.temperature,
            "top_p": params.top_p,
            "top_k": params.top_k,
            "max_tokens": params.room(prompt),
            # The policy's stop tokens count, not the server's.
            "ignore_eos": True,
            "stop_token_ids": list(stop_ids),
            "logprobs": 0,
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
            "skip_special_tokens": False,
            "add_special_tokens": False,
            # Keeps prefix-cache blocks of older weights from matching.
            "cache_salt": cache_salt,
        }
        if strings is not None:
            body |= {"stop": list(params.stop), "include_stop_str_in_output": True}
        answer = connection.request("POST", "/v1/completions", body, timeout_s=timeout_s)
        return self._drawn(answer, stop_ids=stop_ids, strings=strings)

    def _drawn(
        self, answer: Any, *, stop_ids: Sequence[int], strings: StopStrings | None
    ) -> ServerCompletion:
        try:
            (choice,) = answer["choices"]
            ids = tuple(map(int, choice["token_ids"]))
            logprobs = tuple(map(float, choice["logprobs"]["token_logprobs"]))
            reason = choice["finish_reason"]
        except (TypeError, KeyError, ValueError) as error:
            raise BackendError(
                f"{self}: the answer to /v1/completions lacks token ids or log-probabilities; "
                "dgpo is tested with vLLM 0.32"
            ) from error
        stopped = bool(ids) and ids[-1] in stop_ids
        if strings is not None:
            end = strings.end(ids)
            ids = ids[:end]
            logprobs = logprobs[: len(ids)]
            by_string = end is not None or isinstance(choice.get("stop_reason"), str)
            stopped = by_string or (bool(ids) and ids[-1] in stop_ids)
            reason = "stop" if stopped else reason
        if not ids or len(ids) != len(logprobs) or (reason == "stop") != stopped:
            raise BackendError(
                f"{self}: inconsistent answer of {len(ids)} token ids, {len(logprobs)} "
                f"log-probabilities and finish reason {reason}; dgpo is tested with vLLM 0.32"
            )
        return ServerCompletion(ids, logprobs, "stop" if reason == "stop" else "length")

    def score(self, ids: Sequence[int], *, model: str, cache_salt: str) -> list[float]:
        """Return the log-probability of every token after the first."""
        body = {
            "model": model,
            "prompt": list(ids),
            "max_tokens": 1,
            "temperature": 0.0,
            "prompt_logprobs": 0,
            "add_special_tokens": False,
            "cache_salt": cache_salt,
        }
        answer = self.call("POST", "/v1/completions", body, timeout_s=LOAD_TIMEOUT_S)
        try:
            rows = answer["choices"][0]["prompt_logprobs"][1:]
            found = [
                float(row[str(token)]["logprob"]) for token, row in zip(ids[1:], rows, strict=True)
            ]
        except (TypeError, KeyError, ValueError, IndexError) as error:
            raise BackendError(
                f"{self}: its answer lacks log-probabilities of the prompt, so its weights cannot "
                "be checked; dgpo is tested with vLLM 0.32"
            ) from error
        return found

    def margin(
        self, ids: Sequence[int], *, model: str, temperature: float, cache_salt: str
    ) -> float:
        """Return how many nats the likeliest next token is above the second."""
        body = {
            "model": model,
            "prompt": list(ids),
            "max_tokens": 1,
            "seed": 0,
            "temperature": temperature,
            "logprobs": 2,
            "return_tokens_as_token_ids": True,
            "add_special_tokens": False,
            "cache_salt": cache_salt,
        }
        answer = self.call("POST", "/v1/completions", body, timeout_s=LOAD_TIMEOUT_S)
        try:
            (next_ones,) = answer["choices"][0]["logprobs"]["top_logprobs"]
            first, second, *_ = sorted(map(float, next_ones.values()), reverse=True)
        except (TypeError, KeyError, ValueError, IndexError, AttributeError) as error:
            raise BackendError(
                f"{self}: its answer lacks the log-probabilities of the two likeliest tokens; dgpo "
                "is tested with vLLM 0.32"
            ) from error
        return first - second

    def load_adapter(self, name: str, folder: Path) -> None:
        """Load an adapter under a new name. Raises BackendError if the server refuses."""
        body = {"lora_name": name, "lora_path": str(folder)}
        try:
            self.call("POST", "/v1/load_lora_adapter", body, timeout_s=LOAD_TIMEOUT_S)
        except ServerSaysNo as error:
            raise BackendError(
                f"{self}: cannot load the adapter in {folder}: {error}; start the server with dgpo "
                "serve, and make sure that it can read that folder (rollout.backend.sync_dir)"
            ) from error

    def unload_adapter(self, name: str) -> None:
        """Unload an adapter, if it is loaded."""
        try:
            self.call("POST", "/v1/unload_lora_adapter", {"lora_name": name})
        except ServerSaysNo as error:
            if error.status != 404:
                raise

    def reload_weights(self, folder: Path) -> None:
        """Replace the model's weights by those in a folder and clear the cache.

        Raises:
            BackendError: the server refuses.
        """
        try:
            body = {"method": self.configured().reload, "kwargs": {"weights_path": str(folder)}}
            self.call("POST", "/collective_rpc", body, timeout_s=LOAD_TIMEOUT_S)
            self.reset_cache()
        except ServerSaysNo as error:
            raise BackendError(
                f"{self}: cannot load new weights from {folder}: {error}; start the server with "
                "dgpo serve (on another machine: with --updates-from-anywhere), and make sure that "
                "it can read that folder (rollout.backend.sync_dir)"
            ) from error

    def reset_cache(self) -> None:
        """Clear what older weights cached. Raises BackendError if the server refuses."""
        answer = self.call("POST", "/reset_prefix_cache")
        if not isinstance(answer, dict) or answer.get("success") is not True:
            raise BackendError(
                f"{self}: the prefix cache was not reset: another client is using it"
            )

    def configured(self) -> Configured:
        """Ask once how the server takes weights."""
        if self._configured is None:
            info = self.call("GET", "/server_info?config_format=json", timeout_s=LOAD_TIMEOUT_S)
            self._configured = _configured(info)
        return self._configured

    def forget(self) -> None:
        """Forget the configuration: it may be another server now."""
        self._configured = None

    # vLLM's weight transfer: four calls around weights that travel separately.

    def init_transfer(self, info: dict[str, Any]) -> None:
        """Tell the workers where the weights come from."""
        self._control("/init_weight_transfer_engine", {"init_info": info})

    def start_update(self) -> None:
        """Prepare every layer for new weights."""
        try:
            self._control("/start_weight_update")
        except ServerSaysNo:
            # A trainer that ended during an update has left it open.
            self._control("/finish_weight_update")
            self._control("/start_weight_update")

    def update(self, info: dict[str, Any]) -> None:
        """Let the workers receive the weights; return when they have them."""
        self._control("/update_weights", {"update_info": info})

    def finish_update(self) -> None:
        """Compute with the new weights, and clear the cache."""
        self._control("/finish_weight_update")
        self.reset_cache()

    def world_size(self) -> int:
        """Return the number of workers."""
        return int(self.call("GET", "/get_world_size")["world_size"])

    def _control(self, path: str, body: Any = None) -> None:
        self.call("POST", path, body, timeout_s=LOAD_TIMEOUT_S)

    # Memory between phases. Whatever sleeps, requests wait until everything is awake.

    def sleep(self) -> None:
        """Free the memory of weights and cache until `wake`.

        Adapters stay loaded, and the prefix cache is emptied.

        Raises:
            BackendError: the server cannot.
            ServerGone, ServerSlow
        """
        try:
            self.call("POST", "/sleep?level=1", timeout_s=LOAD_TIMEOUT_S)
        except ServerSaysNo as error:
            self.check_alive()
            raise BackendError(
                f"{self}: cannot free its memory between phases: {error}; end other processes on "
                "its device, or set rollout.backend.sleep=off and a lower gpu_memory_utilization"
            ) from error

    def wake(self, what: Asleep | None = None) -> None:
        """Take memory back, for one of the two or for all that sleeps.

        Raises:
            BackendError: there is not enough.
            ServerGone, ServerSlow
        """
        query = "" if what is None else f"?tags={what}"
        try:
            self.call("POST", f"/wake_up{query}", timeout_s=LOAD_TIMEOUT_S)
        except ServerSaysNo as error:
            self.check_alive()
            raise BackendError(
                f"{self}: cannot take back its memory of the device for {what or 'sampling'}: "
                f"{error}; end other processes there, or lower "
                "rollout.backend.gpu_memory_utilization"
            ) from error


def endpoint(client: VllmClient) -> str:
    """Return the option that evaluates what a server has, whatever its kind."""
    return f"--endpoint {client.address.url}"


def _configured(info: Any) -> Configured:
    """Read the configuration; an older vLLM gives less of it, or text."""
    reload = RELOAD if WORKER in json.dumps(info) else "reload_weights"  # vLLM's own
    config = info.get("vllm_config") if isinstance(info, dict) else None
    if not isinstance(config, dict):
        return Configured(reload)
    transfer = config.get("weight_transfer_config") or {}
    return Configured(
        reload, transfer.get("backend"), (config.get("model_config") or {}).get("dtype")
    )


class Fleet(Protocol):
    """The servers of a sampler."""

    @property
    def clients(self) -> Sequence[VllmClient]: ...

    @property
    def shared(self) -> bool:
        """Whether others may restart a server or change its weights."""
        ...

    @property
    def sleeps(self) -> bool:
        """Whether the servers free their memory while the trainer works."""
        ...

    @property
    def folder(self) -> Path:
        """A folder for the transfer of weights, which the servers can read."""
        ...

    def wait_no_more(self) -> None:
        """See RemoteSampler.wait_no_more."""
        ...

    def start(self, observer: Observer) -> None:
        """Make every server ready. Raises BackendError."""
        ...

    def bring_back(self, client: VllmClient, error: Exception) -> None:
        """Make a server ready again after `error`. Raises BackendError."""
        ...

    def went_well(self) -> None:
        """Called after a complete round of sampling."""
        ...

    def close(self) -> None:
        """End the servers that were started, and remove `folder`."""
        ...
