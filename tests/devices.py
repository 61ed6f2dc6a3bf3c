"""Tests on another device: DGPO_TEST_DEVICE=cuda pytest tests/algo tests/policy/test_token_pass.py

Tensors that a file of tests makes are on that device. What the package makes itself is left alone,
so that a tensor which it makes in the wrong place is found out.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors

_TESTS = str(Path(__file__).parent)


class OnDevice(TorchFunctionMode):
    """Makes the tensors of test files on a device; random ones have the numbers of a CPU."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self._device = torch.device(device)
        self._makers = _device_constructors()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if not sys._getframe(1).f_code.co_filename.startswith(_TESTS):
            return func(*args, **kwargs)
        if func is torch.Tensor.numpy:
            return args[0].cpu().numpy()
        if func in self._makers and kwargs.get("device") is None:
            if kwargs.get("generator") is not None:
                return func(*args, **kwargs).to(self._device)
            kwargs["device"] = self._device
        return func(*args, **kwargs)
