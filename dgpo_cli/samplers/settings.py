"""Settings of the samplers; one class per backend, chosen by `kind`. No torch here."""

from __future__ import annotations

import contextlib
import re
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field
from pydantic_core.core_schema import CoreSchema, no_info_plain_validator_function, str_schema

from dgpo_cli.algo.truncation import Truncation
from dgpo_cli.core.schema import Change, Frozen, JsonTable

_UNSENDABLE = re.compile(r"[\x00-\x20\x7f]")


class ServerUrl(str):
    """The address of a server without secrets, as stored, shown and compared.

    login: user and password from the address, used only to connect.
    """

    login: str | None

    def __new__(cls, text: str) -> Self:
        scheme, mark, rest = text.partition("://")
        host, slash, path = rest.partition("/")
        login, at, host = host.rpartition("@")
        url = super().__new__(cls, "".join((scheme, mark, host, slash, path)))
        url.login = login if at else None
        return url

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: object) -> CoreSchema:
        return no_info_plain_validator_function(_address, json_schema_input_schema=str_schema())


def _address(value: Any) -> ServerUrl:
    """Check an address; errors do not quote it, as it may contain a password."""
    if not isinstance(value, str):
        raise ValueError("an address must be a string")
    url = value if isinstance(value, ServerUrl) else ServerUrl(value)
    with contextlib.suppress(ValueError):
        parts = urlsplit(url)
        # urlsplit drops line breaks and tabs, and http.client sends neither spaces nor accents.
        sendable = not _UNSENDABLE.search(url) and parts.path.isascii()
        web = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        socket = parts.scheme == "unix" and parts.path.startswith("/") and "\0" not in url
        if (web and sendable) or socket:
            return url
    raise ValueError(
        "an address must be http://HOST:PORT, https://HOST or unix:/PATH, without spaces; write / "
        "and @ in a password as %2F and %40"
    )


_ENDPOINT_PATHS = ("/chat/completions", "/completions", "/models")


def _endpoint(url: ServerUrl) -> ServerUrl:
    """Check the base address of an API; whatever was copied from its documentation will do."""
    parts = urlsplit(url)
    if parts.scheme == "unix" or parts.query or parts.fragment:
        raise ValueError("an endpoint must be http://HOST:PORT/v1 or https://HOST/v1")
    path = parts.path.rstrip("/")
    for end in _ENDPOINT_PATHS:
        path = path.removesuffix(end)
    base = ServerUrl(f"{parts.scheme}://{parts.netloc}{path or '/v1'}")
    base.login = url.login
    return base


class HfBackend(Frozen):
    """Samples with the policy itself, in this process, through transformers."""

    kind: Literal["hf"] = "hf"
    batch_size: Annotated[int, Change.FREE] = Field(
        256, ge=1, description="Completions sampled at a time."
    )


class _Vllm(Frozen):
    """The settings of both vLLM backends."""

    max_num_seqs: Annotated[int, Change.FREE] = Field(
        128, ge=1, le=4096, description="Completions sampled at a time by each engine."
    )
    retries: Annotated[int, Change.FREE] = Field(
        3, ge=0, le=100, description="How often a failed request is sent again."
    )
    request_timeout_s: Annotated[float, Change.FREE] = Field(
        3600.0, gt=0, description="Seconds after which a completion has failed."
    )
    startup_timeout_s: Annotated[float, Change.FREE] = Field(
        900.0, gt=0, description="Seconds until an engine must be ready."
    )
    canary_tolerance: Annotated[float | None, Change.FREE] = Field(
        None,
        gt=0,
        description="Mean distance in nats that rounding may put between the log-probabilities "
        "of engine and trainer after a sync; unset: by the data types.",
    )


class VllmBackend(_Vllm):
    """vLLM as an engine that this process starts and ends."""

    kind: Literal["vllm"] = "vllm"
    gpu_memory_utilization: Annotated[float, Change.FREE] = Field(
        0.45, gt=0, lt=1, description="Share of the device's memory that vLLM may take."
    )
    cache_gib: Annotated[float | None, Change.FREE] = Field(
        None,
        gt=0,
        description="GiB for the key-value cache; unset: what gpu_memory_utilization leaves on a "
        "GPU, 2 on a CPU.",
    )
    max_model_len: int | None = Field(
        None,
        ge=2,
        description="Longest sequence in tokens; unset: max_prompt_tokens + max_completion_tokens.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Data type that vLLM computes in; auto: model.dtype."
    )
    quantization: Literal["auto", "none", "bitsandbytes"] = Field(
        "auto", description="Of the base in vLLM; auto: bitsandbytes for nf4 on a GPU."
    )
    tensor_parallel_size: Annotated[int, Change.FREE] = Field(
        1, ge=1, le=64, description="Devices over which vLLM splits the model."
    )
    enforce_eager: Annotated[bool, Change.FREE] = Field(
        False, description="No compilation and no CUDA graphs: faster start, slower sampling."
    )
    sleep: Annotated[Literal["auto", "on", "off"], Change.FREE] = Field(
        "auto",
        description="Free vLLM's weights and cache while the trainer works; auto: on a GPU.",
    )

    weight_transfer: Annotated[Literal["auto", "tcp", "ipc", "folder"], Change.FREE] = Field(
        "auto",
        description="How full weights reach vLLM, without an adapter: tcp, ipc (CUDA IPC, on one "
        "GPU) or folder; auto: tcp.",
    )


class VllmServerBackend(_Vllm):
    """One or more vLLM servers, started by `dgpo serve` on this machine or others."""

    kind: Literal["vllm-server"] = "vllm-server"
    urls: Annotated[tuple[ServerUrl, ...], Change.FREE] = Field(
        (ServerUrl("http://127.0.0.1:8000"),),
        min_length=1,
        description="Base addresses of the servers; passwords are not stored.",
    )
    api_key_env: Annotated[str, Change.FREE] = Field(
        "DGPO_VLLM_API_KEY",
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="Environment variable with the servers' key; if not set, dgpo sends the key "
        "that dgpo serve stored on this machine.",
    )
    sync_dir: Annotated[str | None, Change.FREE] = Field(
        None,
        min_length=1,
        description="Folder that the servers can read, for the transfer of weights; unset: this "
        "machine's folder for temporary files.",
    )
    sync_host: Annotated[str | None, Change.FREE] = Field(
        None,
        min_length=1,
        description="Address of this machine from which the servers fetch weights; unset: the one "
        "that it reaches them from.",
    )
    weight_transfer: Annotated[Literal["auto", "folder"], Change.FREE] = Field(
        "auto",
        description="How full weights reach the servers, without an adapter; auto: as each was "
        "started (dgpo serve --weight-transfer), or else through sync_dir.",
    )


_OWN_FIELDS = {
    "model": "model.path",
    "messages": "prompts",
    "prompt": "prompts",
    "n": "--k",
    "seed": "seed",
    "temperature": "rollout.temperature",
    "top_p": "rollout.top_p",
    "top_k": "rollout.top_k",
    "max_tokens": "rollout.max_completion_tokens",
    "max_completion_tokens": "rollout.max_completion_tokens",
    "reasoning_effort": "rollout.backend.reasoning_effort",
    "chat_template_kwargs": "prompts.chat_template",
}


def _extra(value: dict[str, Any] | None) -> dict[str, Any] | None:
    """Refuse what has a setting of its own, and answers that come in pieces."""
    for name in value or {}:
        if name in _OWN_FIELDS:
            raise ValueError(f"{name} is set by {_OWN_FIELDS[name]}; leave it out")
        if name == "stream":
            raise ValueError("stream: answers are read whole; leave it out")
    return value


class EndpointBackend(Frozen):
    """Any OpenAI-compatible API, for dgpo eval alone; model.path is the model's name there."""

    kind: Literal["endpoint"] = "endpoint"
    url: Annotated[ServerUrl, AfterValidator(_endpoint)] = Field(
        ServerUrl("http://127.0.0.1:8000/v1"),
        description="Base address of the API; without a path /v1 is added. Passwords are not "
        "stored.",
    )
    api: Literal["chat", "completions"] = Field(
        "chat",
        description="chat sends messages, which the server renders; completions sends their text.",
    )
    api_key_env: Annotated[str, Change.FREE] = Field(
        "DGPO_API_KEY",
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="Environment variable with the key; none is sent if it is not set.",
    )
    max_in_flight: Annotated[int, Change.FREE] = Field(
        64, ge=1, le=4096, description="Most requests at a time; fewer while the endpoint is busy."
    )
    retries: Annotated[int, Change.FREE] = Field(
        8, ge=0, le=100, description="How often a failed request is sent again."
    )
    request_timeout_s: Annotated[float, Change.FREE] = Field(
        3600.0, gt=0, description="Seconds after which a request has failed."
    )
    reasoning_effort: str | None = Field(
        None, min_length=1, description="Sent as reasoning_effort, such as low or high."
    )
    extra_body: Annotated[JsonTable, AfterValidator(_extra)] = Field(
        None, description="Added to the body of every request, such as {min_p = 0.05}."
    )


BackendSettings = Annotated[
    HfBackend | VllmBackend | VllmServerBackend | EndpointBackend, Field(discriminator="kind")
]


class RolloutSettings(Frozen):
    """How completions are sampled."""

    prompts_per_step: int = Field(16, ge=1, description="Prompts (groups) sampled in each step.")
    group_size: int = Field(16, ge=1, description="Completions sampled for each prompt (G).")
    temperature: float = Field(
        1.0,
        ge=0,
        le=10,
        description="Sampling temperature; 0: greedy, the likeliest token each time, in rollout "
        "and eval.",
    )
    top_p: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Nucleus sampling; 1 keeps every token. Training is then of the policy over "
        "the tokens that it keeps.",
    )
    top_k: int = Field(
        0,
        ge=0,
        description="Keep the k likeliest tokens, before top_p does; 0 keeps every token.",
    )
    max_completion_tokens: int = Field(1024, ge=1, description="Token limit of a completion.")
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        (),
        max_length=16,
        description="Strings that end a completion, which keeps them; the model's own end tokens "
        "end it, too.",
    )
    dynamic_sampling: bool = Field(
        False,
        description="Replace all-correct and all-wrong groups by groups of further prompts.",
    )
    max_rounds: int = Field(
        10,
        ge=1,
        le=1000,
        description="Most draws of prompts_per_step prompts per step with dynamic_sampling; "
        "after them the batch is smaller.",
    )
    overlap: int = Field(
        0,
        ge=0,
        le=1,
        description="1: sample the next batch while this one trains, one step off-policy; only "
        "with vLLM.",
    )
    backend: BackendSettings = Field(HfBackend(), description="The sampler.")

    @property
    def truncation(self) -> Truncation | None:
        """Which tokens sampling keeps; None: all."""
        return Truncation.of(temperature=self.temperature, top_p=self.top_p, top_k=self.top_k)
