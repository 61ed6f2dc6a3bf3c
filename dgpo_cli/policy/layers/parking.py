"""Keeps the inputs of layers in the host's memory from the forward pass to the backward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor


class Copies:
    """Copies between device and host for a device that is the host: there are none."""

    def away(self, tensor: Tensor) -> Any:
        """Begin to copy a tensor [...] to the host; return a mark for `back`."""
        return tensor

    def back(self, mark: Any) -> Any:
        """Begin to copy it back; return a mark for `arrived`. May be called again."""
        return mark

    def arrived(self, mark: Any) -> Tensor:
        """Return the tensor on the device; what is queued there from now on may read it."""
        tensor: Tensor = mark
        return tensor


class CudaCopies(Copies):
    """Copies on a stream of their own, through pinned memory.

    A tensor is held while it is copied and the layer after it is queued, and not longer: at most
    two are on the device at a time, whatever the host's lead.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._leaving: tuple[Tensor, torch.cuda.Event] | None = None

    def away(self, tensor: Tensor) -> Tensor:
        computing = torch.cuda.current_stream(self._device)
        if self._leaving is not None:
            # From here on its memory may be used again.
            computing.wait_event(self._leaving[1])
        host = _pinned(tensor)
        self._stream.wait_stream(computing)
        with torch.cuda.stream(self._stream):
            host.copy_(tensor, non_blocking=True)
        self._leaving = tensor, self._stream.record_event()
        return host

    def back(self, mark: Tensor) -> tuple[Tensor, torch.cuda.Event]:
        if self._leaving is not None:  # the forward pass is over
            torch.cuda.current_stream(self._device).wait_event(self._leaving[1])
            self._leaving = None
        # Memory of the computing stream: its next user must wait for what is queued there.
        tensor = torch.empty_like(mark, device=self._device, pin_memory=False)
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            tensor.copy_(mark, non_blocking=True)
        return tensor, self._stream.record_event()

    def arrived(self, mark: tuple[Tensor, torch.cuda.Event]) -> Tensor:
        tensor, event = mark
        torch.cuda.current_stream(self._device).wait_event(event)
        return tensor


def _pinned(tensor: Tensor) -> Tensor:
    """Return memory of the host for a tensor, from torch's cache of pinned memory."""
    return torch.empty_like(tensor, device="cpu", pin_memory=True)


class Parking:
    """The inputs of a decoder's layers.

    A layer's input leaves while the layer computes, and comes back while the layer after it, which
    is before it in backward, is computed again and pulled back. The last layer's stays.
    """

    def __init__(self, layers: int, copies: Copies | None = None) -> None:
        """copies: None: those that fit the device of the first tensor."""
        self._last = layers - 1
        self._copies = copies
        self._before: Parked | None = None

    def park(self, tensor: Tensor, *, number: int) -> Parked:
        """Take the input of a layer.

        number: the layer's, from 0; the layers of a pass come in order.
        """
        if self._copies is None:
            self._copies = CudaCopies(tensor.device) if tensor.is_cuda else Copies()
        before = self._before if number else None
        parked = Parked(tensor, before=before, copies=self._copies, stays=number == self._last)
        self._before = None if number == self._last else parked
        return parked


class Parked:
    """The input of a layer: on the device in the forward pass of the layer, and in backward."""

    def __init__(
        self, tensor: Tensor, *, before: Parked | None, copies: Copies, stays: bool
    ) -> None:
        self._copies = copies
        self._before = before
        self._here: Tensor | None = tensor
        self._requires_grad = tensor.requires_grad
        self._away = None if stays else copies.away(tensor.detach())
        self._coming: Any = None
        self.is_forward = True

    def leave(self) -> None:
        """End the forward pass of the layer."""
        self.is_forward = False
        if self._away is not None:
            self._here = None

    def tensor(self) -> Tensor:
        """Return the tensor; in backward, begin to fetch the one that is needed next."""
        if self.is_forward:
            assert self._here is not None
            return self._here
        found = self._here
        if found is None:
            self._fetch()
            found = self._copies.arrived(self._coming).requires_grad_(self._requires_grad)
            self._coming = None
        if self._before is not None:
            self._before._fetch()
        return found

    def _fetch(self) -> None:
        if self._here is None and self._coming is None:
            self._coming = self._copies.back(self._away)
