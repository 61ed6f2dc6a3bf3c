"""Starts one vLLM server as dgpo's sampler needs it, and ends it with this process."""

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
from dgpo_cli.samplers.http_json import Address
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
    """Return the largest rank in a saved adapter. Raises ConfigError without one."""
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        return max([int(config["r"]), *map(int, (config.get("rank_pattern") or {}).values())])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"--adapter {folder}: no adapter_config.json with a rank; give a folder saved by peft"
        ) from error


def with_room(flags: ServerFlags) -> ServerFlags:
    """Return the flags with the rank and real path of their adapter."""
    if flags.adapter is None:
        return flags
    # vLLM resolves a relative folder from its own working directory, and then on the hub.
    folder = flags.adapter.resolve()
    return replace(flags, adapter=folder, lora_rank=max(flags.lora_rank, adapter_rank(folder)))


@dataclass(frozen=True, slots=True)
class Server:
    """A server that is ready. key_file: the file of its key, unless the key was given."""

    url: str
    key_file: Path | None
    process: OwnedProcess

    def wait(self) -> NoReturn:
        """Wait until it ends, and raise BackendError: it should not end by itself."""
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
    """Serve while the context is open; enter it when the server is ready.

    Args:
        port: 0 takes a free one.
        api_key: the key that clients must send; None makes one and stores it in a file.
        sync_dir: weights are read only from folders below it; None: from this user's temporary
            folders.

    Raises:
        BackendError: the server was not ready in time.
        ConfigError: the adapter or sync_dir cannot be read, or the key cannot be written.
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
                # vLLM checks /v1 against this key, which the environment may set.
                environment=command.environment() | {"VLLM_API_KEY": key},
            )
            process.wait_ready(VllmClient(Address(url)).is_ready, timeout_s=startup_timeout_s)
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
    """Yield the key of a server and, unless given, its file, which is removed at the end.

    SIGTERM raises SystemExit meanwhile, so that nothing is left behind.
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
    """Return the folder below which weights are read, and their required owner."""
    if sync_dir is None:
        return Path(temporary_place()), os.getuid()  # anyone may write there
    if not sync_dir.is_dir():
        raise ConfigError(f"--sync-dir {sync_dir}: no such folder; create it or give another")
    return sync_dir.resolve(), None


def _written_key(file: Path) -> str:
    try:
        return write_key(file)
    except OSError as error:
        raise ConfigError(
            f"{file}: cannot write the server's key ({error.strerror}); set XDG_STATE_HOME to a "
            "folder of yours, or give a key with --api-key-env"
        ) from error


def _claim(host: str, port: int) -> int:
    """Return the port, or a free one for 0.

    Raises:
        ConfigError: it is taken; the other server would pass for ours.
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


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
