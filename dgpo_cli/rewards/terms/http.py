"""The term that asks a server of the user's: a judge, or a sandbox that runs what a model wrote.

A request is a POST with JSON:

    {"version": 1, "completions": [{"prompt_id": "7", "answer": "42", "columns": {...},
     "messages": [{"role": "user", "content": "..."}],
     "text": "...", "tokens": 5, "finish_reason": "stop"}]}

The answer has a score for each, in order: a number, true, false, null (the term does not apply),
or an object with `score`, and `outcome` and `note` if it likes; or one with `error`, which leaves
the completion unscored:

    {"scores": [1.0, true, {"score": 0.5, "outcome": "wrong", "note": "no proof"},
                null, {"error": "no rating"}]}
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from dgpo_cli.core.errors import ConfigError
from dgpo_cli.core.schema import Change, Frozen
from dgpo_cli.core.text import cut
from dgpo_cli.rewards.terms.base import (
    Done,
    RewardTerm,
    Scorer,
    Shared,
    TermScore,
    calls_of,
    failed,
    told_score,
)
from dgpo_cli.rewards.terms.call import MAX_NOTE_CHARS, score_of

if TYPE_CHECKING:
    import httpx2

    from dgpo_cli.rewards.item import GradeItem

_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_FIRST_PAUSE_S = 0.5  # before the second try; doubled by each further one
_LONGEST_PAUSE_S = 30.0
_NOTE_CHARS = 300


class OwnServer(Frozen):
    """A server, and how it is asked."""

    url: str = Field(
        pattern=r"^https?://[^\s/?#]\S*$", description="Where completions are sent to."
    )
    api_key_env: Annotated[str | None, Change.FREE] = Field(
        None,
        min_length=1,
        description="Environment variable with a key, sent as a bearer token; unset: none is sent.",
    )
    group: bool = Field(
        False, description="Send the completions of one prompt, all of them, at a time."
    )
    batch_size: int = Field(16, ge=1, description="Most completions of one request.")
    max_in_flight: Annotated[int, Change.FREE] = Field(
        8, ge=1, le=256, description="Most requests at the same time."
    )
    retries: Annotated[int, Change.FREE] = Field(
        3, ge=0, le=20, description="Further tries of a request that may succeed later."
    )
    correct_at: float | None = Field(
        None, description="A score from here on is correct, any other is wrong; unset: neither."
    )
    timeout_s: float = Field(60.0, gt=0, le=86400, description="Longest wait for an answer.")


class HttpTerm(OwnServer, RewardTerm):
    """A server of yours."""

    judges: ClassVar[bool] = True
    wants_columns: ClassVar[bool] = True

    kind: Literal["http"] = "http"

    def scorer(self, shared: Shared) -> Scorer:
        return _Asker(self)


class _Failed(Exception):
    """A request without scores; the message says why."""


class _Asker:
    """Sends the completions, several requests at a time."""

    def __init__(self, term: HttpTerm) -> None:
        self._term = term
        self._client: httpx2.Client | None = None
        self._closed = False

    def start(self) -> None: ...

    def wait(self) -> None: ...

    def score(self, items: Sequence[GradeItem], *, done: Done) -> list[TermScore]:
        if self._client is None:
            self._client = self._open()
        calls = list(calls_of(items, most=self._term.batch_size, group=self._term.group))
        found: list[TermScore] = []
        with ThreadPoolExecutor(self._term.max_in_flight, "reward") as pool:
            try:
                for call, scores in zip(calls, pool.map(self._scores, calls), strict=True):
                    found += scores
                    done(len(call))
            except BaseException:  # Ctrl-C
                self._closed = True
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return found

    def close(self) -> None:
        self._closed = True
        if self._client is not None:
            self._client.close()

    def _open(self) -> httpx2.Client:
        import httpx2

        name = self._term.api_key_env
        key = os.environ.get(name, "").strip() if name is not None else ""
        if name is not None and not key:
            raise ConfigError(f"{name} is not set; the reward {self._term.label} names it")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        limits = httpx2.Limits(max_connections=self._term.max_in_flight)
        timeout = httpx2.Timeout(self._term.timeout_s, connect=min(10.0, self._term.timeout_s))
        return httpx2.Client(headers=headers, timeout=timeout, limits=limits)

    def _scores(self, call: Sequence[GradeItem]) -> list[TermScore]:
        try:
            return [self._score(each) for each in self._ask(call)]
        except _Failed as error:
            late = isinstance(error.__cause__, TimeoutError)
            return [failed("timeout" if late else "error", str(error))] * len(call)

    def _score(self, given: Any) -> TermScore:
        if isinstance(given, Mapping):
            if given.keys() == {"error"}:
                return failed("error", cut(str(given["error"]), MAX_NOTE_CHARS))
            known = {"score", "outcome", "note"}
            if "score" not in given or given.keys() - known:
                return failed("error", f"the server answered {_shown(given)} for a completion")
            given = (given["score"], given.get("outcome"), given.get("note"))
        elif isinstance(given, list):
            return failed("error", f"the server answered {_shown(given)} for a completion")
        value, outcome, note = score_of(given)
        if outcome == "error":
            note = f"the server {note}"
        return told_score(value, outcome, note, correct_at=self._term.correct_at)

    def _ask(self, call: Sequence[GradeItem]) -> list[Any]:
        """Return what the server says of each completion of a call.

        Raises:
            _Failed: it says nothing usable.
        """
        body = {"version": 1, "completions": [_told(item) for item in call]}
        for attempt in range(self._term.retries + 1):
            if self._closed:
                raise _Failed("stopped")
            try:
                return self._tried(body, count=len(call))
            except _MayPass as error:
                if attempt == self._term.retries:
                    tries = f" ({attempt + 1} tries)" if attempt else ""
                    raise _Failed(f"{error}{tries}") from error.__cause__
                pause = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**attempt)
                time.sleep(min(_LONGEST_PAUSE_S, max(pause, error.wait_s)))
        raise AssertionError("the last try raises")

    def _tried(self, body: Any, *, count: int) -> list[Any]:
        import httpx2

        url = self._term.url
        try:
            status, headers, given = self._posted(body)
        except httpx2.TimeoutException as error:
            told = f"{url}: no answer in timeout_s={self._term.timeout_s:g}"
            raise _MayPass(told) from TimeoutError(str(error))
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            reason = str(error).strip() or type(error).__name__
            raise _MayPass(f"{url}: {cut(reason, _NOTE_CHARS)}") from None
        if status != 200:
            told = f"{url} answered {status}: {_first_line(given)}"
            if status in _AGAIN:
                raise _MayPass(told, wait_s=_wait(headers.get("retry-after")))
            raise _Failed(told)
        try:
            scores = json.loads(given)["scores"]
        except (ValueError, TypeError, KeyError, RecursionError):
            raise _Failed(f"{url} answered no scores: {_first_line(given)}") from None
        if not isinstance(scores, list) or len(scores) != count:
            has = f"{len(scores):,} scores" if isinstance(scores, list) else "no list of scores"
            raise _Failed(f"{url} answered {has} for {count:,} completions")
        return scores

    def _posted(self, body: Any) -> tuple[int, Mapping[str, str], bytes]:
        """Return status, headers and text of an answer that is complete within the deadline.

        The client's own limit is that of each read, and a server may send a byte at a time.
        """
        import httpx2

        assert self._client is not None
        until = time.monotonic() + self._term.timeout_s
        parts: list[bytes] = []
        with self._client.stream("POST", self._term.url, json=body) as answer:
            for part in answer.iter_bytes():
                parts.append(part)
                if time.monotonic() > until:
                    raise httpx2.ReadTimeout("the answer is not complete")
        return answer.status_code, answer.headers, b"".join(parts)


class _MayPass(Exception):
    """A try that failed; another may not."""

    def __init__(self, message: str, *, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.wait_s = wait_s


def _told(item: GradeItem) -> dict[str, Any]:
    return {
        "prompt_id": item.prompt_id,
        "messages": [{"role": turn.role, "content": turn.content} for turn in item.messages],
        "text": item.text,
        "tokens": len(item.token_ids),
        "finish_reason": item.finish_reason,
        "answer": item.gold,
        "columns": dict(item.columns),
    }


def _first_line(given: bytes) -> str:
    lines = given.decode(errors="replace").strip().splitlines()
    return cut(next(iter(lines), "nothing"), _NOTE_CHARS)


def _shown(value: Any) -> str:
    return cut(re.sub(r"\s+", " ", repr(value)), _NOTE_CHARS)


def _wait(header: str | None) -> float:
    """Return the seconds of a Retry-After; 0 without a number."""
    try:
        return max(0.0, float(header or 0))
    except ValueError:
        return 0.0
