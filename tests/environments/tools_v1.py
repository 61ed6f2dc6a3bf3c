"""A taskset of verifiers whose task has a tool: it knows a number that the model does not."""

from __future__ import annotations

from collections.abc import Iterable

import verifiers.v1 as vf

__all__ = ["VaultTaskset"]


class VaultToolset(vf.Toolset[vf.ToolsetConfig]):
    TOOL_PREFIX = "vault"

    @vf.tool
    def open_box(self, number: int) -> str:
        """Return what is in a box."""
        return f"box {number} has {number * 7}"


class VaultTask(vf.Task[vf.TaskData]):
    @classmethod
    def toolsets(cls, config: vf.TaskConfig) -> list[vf.Toolset]:
        return [VaultToolset(vf.ToolsetConfig())]

    @vf.reward
    async def found(self, trace: vf.Trace) -> float:
        said = [m.content or "" for m in trace.branches[-1].messages if m.role == "assistant"]
        return float("21" in said[-1])


class VaultTaskset(vf.Taskset[VaultTask, vf.TasksetConfig]):
    def load(self) -> Iterable[VaultTask]:
        yield VaultTask(vf.TaskData(id="vault", prompt="What is in box 3?", system_prompt="Look."))


if __name__ == "__main__":
    VaultToolset.run()
