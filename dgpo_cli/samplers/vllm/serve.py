"""Starts one vLLM server in the way that dgpo's sampler needs, and ends it with this process."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import NoReturn

from dgpo_cli.core.digests import check_loaded
from dgpo_cli.core.errors import BackendError, ConfigError
from dgpo_cli.samplers.http_json import Address, ServerGone, ServerSaysNo, ServerSlow
from dgpo_cli.samplers.vllm.client import VllmClient
from dgpo_cli.samplers.vllm.command import ServerFlags
from dgpo_cli.samplers.vllm.gate import GateRules, key_file, names_of, write_key
from dgpo_cli.samplers.vllm.process import (
    OwnedProcess,
    own_folder,
    remove_tree,
    temporary_place,
)

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def adapter_rank(folder: Path) -> int:
    """Return the largest rank in a saved adapter. Raises ConfigError if there is none in it."""
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        return max([int(config["r"]), *map(int, (config.get("rank_pattern") or {}).values())])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"--adapter {folder}: no adapter_config.json with a rank; give a folder that peft wrote"
        ) from error


def with_room(flags: ServerFlags) -> ServerFlags:
    """Return the flags with room for their adapter."""
    if flags.adapter is None:
        return flags
    # vLLM looks for a relative folder from wherever it runs, and on the hub after that.
    folder = flags.adapter.resolve()
    return replace(flags, adapter=folder, lora_rank=max(flags.lora_rank, adapter_rank(folder)))


@dataclass(frozen=True, slots=True)
class Server:
    """A server that takes requests. key_file: where its key lies, if it was not given."""

    url: str
    key_file: Path | None
    process: OwnedProcess

    def wait(self) -> NoReturn:
        """Wait until it ends. Raises BackendError: by itself it never should."""
        code = self.process.wait()
        raise BackendError(f"vLLM ended with exit code {code}; see its output above")


@contextmanager
def serving(
    flags: ServerFlags,
    *,
    host: str,
    port: int,
    api_key: str | None,
    sync_dir: Path | None,
    startup_timeout_s: float,
) -> Iterator[Server]:
    """Serve while the context is open: it opens when the server takes requests.

    Args:
        port: 0 takes a free one.
        api_key: what clients must send; None makes a key and leaves it in a file.
        sync_dir: weights are read only from folders below it; None: from this user's temporary
            folders.

    Raises:
        BackendError: the server never was ready.
        ConfigError: the adapter or sync_dir cannot be read, or the key not be written.
        CheckpointError: model or adapter is a damaged checkpoint.
        KeyboardInterrupt: Ctrl-C.
        SystemExit: SIGTERM, with 143.
    """
    flags = with_room(flags)
    for folder in (Path(flags.model), *([flags.adapter] if flags.adapter else [])):
        check_loaded(folder)
    place, owner = _place_of_weights(sync_dir)
    port = _claim(host, port)
    url = _url(host, port)
    with _key(url, given=api_key) as (key, file):
        rules = GateRules(
            key,
            folder=str(place),
            owner=owner,
            updates=flags.updates,
            names=None if host in LOOPBACK else names_of(host),
        )
        command = replace(flags, rules=rules)
        process = None
        folder = own_folder(None)
        try:
            process = OwnedProcess(
                command.command(host=host, port=port),
                folder=folder,
                log=None,
                # vLLM's own check of /v1 goes by a key that the environment may hold.
                environment=command.environment() | {"VLLM_API_KEY": key},
            )
            client = VllmClient(Address(url))
            process.wait_ready(lambda: _is_ready(client), timeout_s=startup_timeout_s)
            yield Server(url, file, process)
        finally:
            if process is not None:
                process.close()
            remove_tree(folder)


def _url(host: str, port: int) -> str:
    reach = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    return f"http://[{reach}]:{port}" if ":" in reach else f"http://{reach}:{port}"


@contextmanager
def _key(url: str, *, given: str | None) -> Iterator[tuple[str, Path | None]]:
    """Hold the key of a server, and the file that it lies in if it was not given.

    SIGTERM ends the process by an exception meanwhile, so that nothing is left behind.
    """
    before = signal.signal(signal.SIGTERM, _end)
    file = None if given else key_file(url)
    try:
        yield given or _written_key(key_file(url)), file
    finally:
        if file is not None:
            with suppress(OSError):
                file.unlink()
        signal.signal(signal.SIGTERM, before)


def _place_of_weights(sync_dir: Path | None) -> tuple[Path, int | None]:
    """Return the folder below which weights are read, and whose they must be."""
    if sync_dir is None:
        return Path(temporary_place()), os.getuid()  # anybody may write there
    if not sync_dir.is_dir():
        raise ConfigError(f"--sync-dir {sync_dir}: no such folder; create it or give another")
    return sync_dir.resolve(), None


def _written_key(file: Path) -> str:
    try:
        return write_key(file)
    except OSError as error:
        raise ConfigError(
            f"{file}: the server's key cannot be written there ({error.strerror}); set "
            "XDG_STATE_HOME to a folder of yours, or give a key with --api-key-env"
        ) from error


def _claim(host: str, port: int) -> int:
    """Return the port, or a free one for 0.

    Raises:
        ConfigError: it is taken: the server that holds it would pass for ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"--host {host} --port {port}: {error.strerror or error}; choose another --port"
            ) from error
        return int(probe.getsockname()[1])


def _is_ready(client: VllmClient) -> bool:
    try:
        client.check_health()
    except (ServerGone, ServerSlow, ServerSaysNo):
        return False
    return True


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
