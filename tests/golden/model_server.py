"""A server that speaks vLLM's interface, as the fake one, and samples from the embedded model.

What it draws depends on the weights that it was given last, the prompt and the seed alone.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.golden.commands import REPOSITORY
from tests.samplers.fake_vllm import FakeVllm


class ModelServer(FakeVllm):
    """One server whose weights come through a folder."""

    def __init__(self) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(
            REPOSITORY / "data" / "tiny", dtype=torch.float32
        ).eval()
        self._one_at_a_time = threading.Lock()
        super().__init__()

    def take_sync(self, folder: str) -> float:
        """Take the weights in a folder; the number that the fake keeps of them stays 0."""
        weights = load_file(Path(folder) / "model.safetensors")
        with self._one_at_a_time:
            missing, unknown = self.model.load_state_dict(weights, strict=False)
        assert not unknown and set(missing) <= {"lm_head.weight"}, (missing, unknown)
        return 0.0

    def _completion(self, body: dict[str, Any]) -> tuple[int, Any]:
        with self._one_at_a_time, torch.inference_mode():
            if "prompt_logprobs" in body:
                return 200, {"choices": [{"prompt_logprobs": self._scores(body["prompt"])}]}
            return 200, {"choices": [self._drawn(body)]}

    def _scores(self, prompt: list[int]) -> list[dict[str, Any] | None]:
        logprobs = self.model(torch.tensor([prompt])).logits[0].log_softmax(-1)
        rows = zip(prompt[1:], logprobs, strict=False)
        return [None, *({str(i): {"logprob": float(row[i])}} for i, row in rows)]

    def _drawn(self, body: dict[str, Any]) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(body["seed"] % 2**63)
        ids: list[int] = list(body["prompt"])
        start, found = len(ids), []
        while len(found) < body["max_tokens"] and ids[-1] not in body["stop_token_ids"]:
            logits = self.model(torch.tensor([ids])).logits[0, -1] / body["temperature"]
            logprobs = logits.log_softmax(-1)
            ids.append(int(torch.multinomial(logprobs.exp(), 1, generator=generator)))
            found.append(float(logprobs[ids[-1]]))
        return {
            "token_ids": ids[start:],
            "logprobs": {"token_logprobs": found},
            "finish_reason": "stop" if ids[-1] in body["stop_token_ids"] else "length",
        }
