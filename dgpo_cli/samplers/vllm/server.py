"""The servers of `rollout.backend.kind = "vllm-server"`: started by others, here or elsewhere."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Literal

from dgpo_cli.core.errors import BackendError, CalledOff
from dgpo_cli.core.events import NOBODY, Observer, phase, tell
from dgpo_cli.samplers.http_json import (
    UNREACHED,
    Address,
    ServerGone,
    ServerSaysNo,
    ServerSlow,
)
from dgpo_cli.samplers.vllm.client import Served, VllmClient, endpoint
from dgpo_cli.samplers.vllm.gate import key_file, read_key
from dgpo_cli.samplers.vllm.process import own_folder, remove_tree

if TYPE_CHECKING:
    from dgpo_cli.samplers.settings import VllmServerBackend

_POLL_S = 1.0
_NOTICE_S = 0.2  # a wait that is called off ends within this time
_LOOK_S = 5.0  # time in which a server must say whether it is ready

# What a server of another name than the model's is: noted, since the canary compares weights;
# refused if it does not take ours; refused.
Another = Literal["noted", "given ours", "refused"]

_State = str | BackendError | None  # not ready yet; never will be; ready


class SharedServers:
    """Servers at known addresses. They are waited for, never started or ended."""

    sleeps = False
    shared = True

    def __init__(
        self,
        settings: VllmServerBackend,
        *,
        model: str | None = None,
        another: Another = "noted",
    ) -> None:
        """model: what is to be served, as the settings name it; without it no name is compared."""
        key = os.environ.get(settings.api_key_env) or None
        self.clients: Sequence[VllmClient] = tuple(
            VllmClient(Address(url, key or partial(read_key, key_file(url)), login=url.login))
            for url in settings.urls
        )
        self._settings = settings
        self._model = model
        self._another = another
        self._folder: Path | None = None
        self._observer: Observer = NOBODY
        self._served: dict[VllmClient, Served] = {}
        self._off = False  # no event: a signal handler sets it

    @property
    def folder(self) -> Path:
        if self._folder is None:
            self._folder = own_folder(self._settings.sync_dir)
        return self._folder

    def start(self, observer: Observer) -> None:
        """Wait until every server is ready.

        Raises:
            BackendError: one is not, or serves another model.
        """
        self._observer = observer
        with phase(observer, "waiting", total=len(self.clients), unit="servers") as advance:
            self._wait(self.clients, advance=advance)
        for client in self.clients:
            self._compare_names(client)

    def check(self) -> None:
        """Look at every server once.

        Raises:
            BackendError: waiting cannot make one of them ready.
        """
        for state in self._look(self.clients, before=False).values():
            if isinstance(state, BackendError):
                raise state

    def bring_back(self, client: VllmClient, error: Exception) -> None:
        """Wait for a server that did not answer; somebody may be starting it again."""
        self._wait((client,), after=error)

    def wait_no_more(self) -> None:
        """See RemoteSampler.wait_no_more."""
        self._off = True

    def _wait(
        self,
        clients: Sequence[VllmClient],
        *,
        after: Exception | None = None,
        advance: Callable[[int], None] = lambda count: None,
    ) -> None:
        """Wait until these are ready, and say why they are not whenever that changes.

        after: why one is waited for that was ready before.
        """
        deadline = time.monotonic() + self._settings.startup_timeout_s
        told = dict.fromkeys(clients, "")
        while told:
            for client, state in self._look(told, before=after is not None).items():
                if isinstance(state, BackendError):
                    raise state
                if state is None:
                    del told[client]
                    advance(1)
                elif time.monotonic() >= deadline:
                    raise self._too_late(client, said=str(after or state))
                elif state != told[client]:
                    told[client] = state
                    tell(self._observer, self._waits_for(client, state))
            if told:
                self._pause()

    def _pause(self) -> None:
        """Let some time pass between two looks. Raises CalledOff."""
        until = time.monotonic() + min(_POLL_S, self._settings.startup_timeout_s)
        while not self._off and (left := until - time.monotonic()) > 0:
            time.sleep(min(_NOTICE_S, left))
        if self._off:
            raise CalledOff("no longer waiting for vLLM servers")

    def _look(self, clients: Iterable[VllmClient], *, before: bool) -> dict[VllmClient, _State]:
        """Look at all of them at once, in threads: nothing here keeps Ctrl-C waiting."""
        found: SimpleQueue[tuple[VllmClient, _State]] = SimpleQueue()

        def look(client: VllmClient) -> None:
            try:
                state = self._state(client, before=before)
            except Exception as error:  # it would end this thread alone, and the wait never
                said = " ".join(f"{type(error).__name__}: {error}".split())
                state = BackendError(f"{client}: {said}; set rollout.backend.urls")
            found.put((client, state))

        left = set(clients)
        for client in left:
            threading.Thread(target=look, args=(client,), daemon=True).start()
        states: dict[VllmClient, _State] = {}
        while len(states) < len(left) and not self._off:
            with suppress(Empty):
                client, state = found.get(timeout=_NOTICE_S)
                states[client] = state
        return states

    def _state(self, client: VllmClient, *, before: bool) -> _State:
        """Return why a server is not ready, None if it is, or the error that waiting cannot fix.

        before: it was ready once, so that there is a server of that name.
        """
        path = "/health"
        try:
            client.check_health(timeout_s=_LOOK_S)
            path = "/v1/models"
            self._served[client] = client.served(timeout_s=_LOOK_S)
        except ServerGone as error:
            if error.may_pass or before:
                return str(error)
            return BackendError(f"{client}: {error}; set rollout.backend.urls")
        except (ServerSlow, ServerSaysNo) as error:
            said = f"GET {path}: {error}" if isinstance(error, ServerSaysNo) else str(error)
            if isinstance(error, ServerSlow) or error.may_pass:
                return _other_server(client) or said
            return BackendError(f"{client}: {said}{self._fix(client, error)}")
        except BackendError as error:
            return error
        return None

    def _fix(self, client: VllmClient, error: ServerSaysNo) -> str:
        """Return what to do about an answer that will be the same next time."""
        if error.status == 401 and client.address.login is not None:
            return "; the user and password in its address in rollout.backend.urls are wrong"
        if error.status == 401:
            name, file = self._settings.api_key_env, key_file(client.address.url)
            if os.environ.get(name):
                return f"; the key in {name} is not the server's"
            known = f"the key in {file} is not the server's" if file.exists() else "it needs a key"
            return (
                f"; {known}: set {name} to the key that it was started with, or give the user and "
                "password in its address again (they are not stored)"
            )
        if error.status == 404:
            return (
                "; not a vLLM server: set rollout.backend.urls to the address of one, without /v1, "
                f"or evaluate another server's model with dgpo eval {endpoint(client)} --model NAME"
            )
        return ""

    def _waits_for(self, client: VllmClient, state: str) -> str:
        return (
            f"waiting for {client} ({state}) up to {self._settings.startup_timeout_s:g} s "
            "(rollout.backend.startup_timeout_s)"
        )

    def _too_late(self, client: VllmClient, *, said: str) -> BackendError:
        return BackendError(
            f"{client}: no vLLM server is ready there after "
            f"{self._settings.startup_timeout_s:g} s ({said}); start it with dgpo serve, or set "
            "rollout.backend.urls"
        )

    def _compare_names(self, client: VllmClient) -> None:
        """Note or refuse a server whose name for the model is not ours; it may be the same model.

        Raises:
            BackendError: it is refused.
        """
        served = self._served[client]
        names = {_last_name(name) for name in (served.model, served.root) if name is not None}
        if self._model is None or _last_name(self._model) in names:
            return
        found = f"{client} serves {served.model}"
        if self._another == "noted" or (self._another == "given ours" and client.takes_weights()):
            tell(self._observer, f"{found}; the model of this run is {self._model}")
            return
        raise BackendError(
            f"{found}, not {self._model}; start it with dgpo serve --model {self._model}, or set "
            "model.path to the model that it serves"
        )

    def went_well(self) -> None:
        """Nothing is counted here."""

    def close(self) -> None:
        """Remove the folder of weights; the servers are not ours to end."""
        if self._folder is not None:
            remove_tree(self._folder)


def _other_server(client: VllmClient) -> BackendError | None:
    """Return an error for a server that lists models, but is not vLLM: it is not about to start."""
    try:
        client.served(timeout_s=_LOOK_S)
    except BackendError as error:
        return error
    except UNREACHED:
        pass
    return None


def _last_name(model: str) -> str:
    return Path(model).name.lower()
