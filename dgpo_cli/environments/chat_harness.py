"""A plain chat loop for environments of the package verifiers, in the environment's process.

verifiers finds it by the name of this module. Its own loops run as programs of their own, one for
each conversation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

import httpx
from verifiers.v1 import (
    Harness,
    HarnessConfig,
    ModelContext,
    ProgramResult,
    Runtime,
    TaskData,
    Trace,
)
from verifiers.v1.dialects.chat import message_to_wire
from verifiers.v1.harnesses.utils.mcp import call_mcp, connect_mcp

__all__ = ["ChatHarness"]

_DONE = ProgramResult(0, "", "")


class ChatHarness(Harness[HarnessConfig]):  # type: ignore[misc]
    """Sends the conversation, runs the tools that the model calls, until it calls none."""

    APPENDS_SYSTEM_PROMPT = True
    SUPPORTS_MCP = True
    SUPPORTS_RESUME = True
    EXECUTES_CODE = False
    NEEDS_CONTAINER = False

    async def launch(
        self,
        ctx: ModelContext,
        trace: Trace,
        runtime: Runtime,
        endpoint: str,
        secret: str,
        mcp_urls: dict[str, str],
        data: TaskData,
    ) -> ProgramResult:
        """Run the loop. A turn that the environment refuses ends it."""
        messages = self._opening(data)
        servers_of = {
            name: {"url": url, "timeout": self.config.tool_timeout}
            for name, url in mcp_urls.items()
        }
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(httpx.AsyncClient(timeout=None))
            tools, dispatch, servers = await connect_mcp({"mcpServers": servers_of}, stack)
            while True:
                response = await client.post(
                    f"{endpoint.rstrip('/')}/chat/completions",
                    headers={"Authorization": f"Bearer {secret}"},
                    json={
                        "model": ctx.model,
                        "messages": messages,
                        **({"tools": tools} if tools else {}),
                    },
                )
                if response.is_error:  # verifiers has kept why
                    return _DONE
                said = response.json()["choices"][0]["message"]
                messages.append(said)
                calls: Sequence[Mapping[str, Any]] = said.get("tool_calls") or ()
                if not calls:
                    return _DONE
                for call in calls:
                    name = call["function"]["name"]
                    content = await _called(call["function"], dispatch=dispatch, servers=servers)
                    told = {"role": "tool", "tool_call_id": call["id"], "name": name}
                    messages.append({**told, "content": content})

    def _opening(self, data: TaskData) -> list[dict[str, Any]]:
        system, prompt = self.resolve_prompt(data)
        messages = [] if system is None else [{"role": "system", "content": system}]
        if isinstance(prompt, str):
            return [*messages, {"role": "user", "content": prompt}]
        return [*messages, *map(message_to_wire, prompt or ())]


async def _called(
    function: Mapping[str, Any], *, dispatch: Mapping[str, Any], servers: Mapping[str, Any]
) -> Any:
    """Return what a tool answers, or what is wrong with the call."""
    name = function["name"]
    try:
        arguments = json.loads(function["arguments"] or "{}")
    except json.JSONDecodeError as error:
        return f"error: the arguments are not JSON ({error})"
    if not isinstance(arguments, dict):
        return "error: the arguments must be a JSON object"
    if name not in dispatch:
        return f"error: there is no tool {name!r}"
    return await call_mcp(dict(servers), dict(dispatch), name, arguments)
