"""Environments of the package verifiers (version 0.4): their tasksets, tools and rewards.

verifiers calls a model through an endpoint. This one is in the same process; it finds the
conversation by the id of its trace and asks the trainer for the turn, so that what the model
wrote keeps its tokens.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from typing import Any

from dgpo_cli.core.errors import ConfigError
from dgpo_cli.environments.environment import (
    ChatMessage,
    Environment,
    EnvScore,
    EnvTask,
    Episode,
    Said,
)

_HARNESS = "dgpo_chat"  # verifiers looks harnesses up among the modules, by a name without dots
_SESSION = "X-Session-ID"
_CALL = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL)
_CLOSED = "</think>"


class FromVerifiers(Environment):
    """A taskset of verifiers, with one conversation an episode."""

    def __init__(self, name: str, args: Mapping[str, Any]) -> None:
        """args: the fields of the taskset's settings.

        Raises:
            ConfigError: the package is missing, or there is no such taskset.
        """
        try:
            import verifiers.v1 as vf
        except ImportError as error:
            raise ConfigError(
                f"the package verifiers is missing ({error}); pip install 'dgpo-cli[verifiers]'"
            ) from error
        self._vf = vf
        agent: dict[str, Any] = {"runtime": {"type": "subprocess"}}
        if vf.default_harness_id(name) == "bash":  # the taskset brings none
            from dgpo_cli.environments import chat_harness

            sys.modules.setdefault(_HARNESS, chat_harness)
            agent["harness"] = {"id": _HARNESS}
        config = vf.resolve_env_config({"taskset": {"id": name, **args}, "agent": agent})
        self._env = vf.load_environment(config)
        self._talks: dict[str, _Talk] = {}
        self._stack = AsyncExitStack()
        self._context: Any = None

    def tasks(self) -> Iterable[EnvTask]:
        """Return the tasks of the taskset."""
        if not self._env.taskset.bounded:
            raise ConfigError("the taskset is endless; dgpo needs a finite one")
        for number, task in enumerate(self._env.taskset):
            data = task.data
            system = [] if data.system_prompt is None else [_message("system", data.system_prompt)]
            prompt = data.prompt
            if isinstance(prompt, str):
                own = [_message("user", prompt)]
            else:
                own = [_message(m.role, _text(m.content)) for m in prompt or ()]
            answer = getattr(data, "answer", "")
            name = data.id or data.name or str(number)
            yield EnvTask(name, [*system, *own], answer=str(answer), data=task)

    async def start(self) -> None:
        """Serve the endpoint, and what all conversations share."""
        from aiohttp import web

        app = web.Application(client_max_size=1 << 30)
        app.router.add_post("/v1/chat/completions", self._complete)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        await self._stack.enter_async_context(self._env.serving())
        client = self._vf.EvalClientConfig(
            base_url=f"http://127.0.0.1:{port}/v1", api_key_var="DGPO_POLICY_KEY"
        )
        self._context = self._vf.ModelContext(model="policy", client=client)

    async def stop(self) -> None:
        await self._stack.aclose()

    async def play(self, task: EnvTask, episode: Episode) -> EnvScore:
        """Run an episode; its trace has the rewards.

        Raises:
            RuntimeError: verifiers recorded an error.
        """
        talk, mine = _Talk(episode), []

        def begun(trace: Any) -> None:
            mine.append(trace.id)
            self._talks[trace.id] = talk

        try:
            (slot,) = self._env.slots(task.data)
            played = await self._env.run_slot(slot, self._context, on_trace=begun)
        finally:
            for name in mine:
                self._talks.pop(name, None)
        if talk.problem is not None:
            raise RuntimeError(talk.problem)
        errors = [*played.errors, *(e for trace in played.traces for e in trace.errors)]
        if errors or not played.ok:
            raise RuntimeError(errors[-1].message if errors else "the episode did not succeed")
        (trace,) = [each for each in played.traces if each.id in mine][-1:]
        terms = {name: reward.score for name, reward in trace.rewards.items() if reward is not None}
        metrics = {name: value for name, value in trace.metrics.items() if value is not None}
        return EnvScore(trace.reward, terms={**metrics, **terms})

    async def _complete(self, request: Any) -> Any:
        """Answer a request of the endpoint."""
        from aiohttp import web

        talk = self._talks.get(request.headers.get(_SESSION, ""))
        if talk is None:
            return web.json_response({"error": {"message": "no such conversation"}}, status=404)
        body = await request.json()
        try:
            said = await talk.turn(body["messages"], body.get("tools"))
        except ValueError as error:
            talk.problem = str(error)
            return web.json_response({"error": {"message": str(error)}}, status=400)
        return web.json_response(completion_of(said))


class _Talk:
    """A conversation as verifiers sees it: every request has all of it."""

    def __init__(self, episode: Episode) -> None:
        self._episode = episode
        self._seen: list[ChatMessage] = []
        self.problem: str | None = None

    async def turn(self, messages: list[ChatMessage], tools: list[Any] | None) -> Said:
        """Return the model's next turn.

        Raises:
            ValueError: the conversation does not go on from where it was.
        """
        plain = [_plain(each) for each in messages]
        size = len(self._seen)
        goes_on = len(plain) > size + 1 and plain[size]["role"] == "assistant"
        same = all(
            one["role"] == other["role"]
            and (one["role"] == "assistant" or one["content"] == other["content"])
            for one, other in zip(plain, self._seen, strict=False)
        )
        if size and not (goes_on and same):
            raise ValueError(
                "earlier turns of the conversation were changed, or it has a second branch; dgpo "
                "trains on one conversation that grows"
            )
        if not size:
            self._episode.messages = []
        new = plain[size + 1 :] if size else plain
        self._seen = plain
        return await self._episode.turn(*new, tools=tools)


def completion_of(said: Said) -> dict[str, Any]:
    """Return a turn as an OpenAI endpoint would: thoughts and tool calls in fields of their own.

    A tool call is JSON between the marks that Qwen and Hermes models write.
    """
    thought, closed, rest = said.text.rpartition(_CLOSED)
    calls = []
    for number, found in enumerate(_CALL.findall(rest)):
        try:
            call = json.loads(found)
            arguments = json.dumps(call.get("arguments") or {})
            function = {"name": str(call["name"]), "arguments": arguments}
        except (ValueError, KeyError, AttributeError):
            continue  # no call; the text stays
        calls.append({"id": f"call_{number}", "type": "function", "function": function})
    text = _CALL.sub("", rest) if calls else rest
    message: dict[str, Any] = {"role": "assistant", "content": text.strip()}
    if closed:
        message["reasoning_content"] = thought.removeprefix("<think>").strip()
    if calls:
        message["tool_calls"] = calls
    reason = "tool_calls" if calls else said.finish_reason
    return {
        "id": "dgpo",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": "policy",
        "choices": [{"index": 0, "message": message, "finish_reason": reason}],
        "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
    }


def _plain(message: ChatMessage) -> ChatMessage:
    return {**message, "content": _text(message.get("content"))}


def _text(content: Any) -> str:
    """Return the text of a message; it may come in parts.

    Raises:
        ValueError: a part is no text.
    """
    if content is None or isinstance(content, str):
        return content or ""
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else part.type
        if kind != "text":
            raise ValueError(f"a message has a part of the type {kind}; dgpo reads texts")
        texts.append(part["text"] if isinstance(part, dict) else part.text)
    return "\n".join(texts)


def _message(role: str, content: str) -> ChatMessage:
    return {"role": role, "content": content}
