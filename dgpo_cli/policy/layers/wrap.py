"""One wrapper of a decoder's layers on packed rows: compiles them, and recomputes them in backward.

Kinds of gradient checkpointing, and what a layer of S tokens keeps until its backward pass, with
hidden states of width D, attention of H heads of size Z, and R sequences of up to W tokens:

- none: everything that backward reads.
- full: its input [S, D].
- selective: its input [S, D], attention's output [R, W, H * Z] in the dtype of products, and its
  log-sum-exps, float32 [R, H, W]: everything but attention is computed again. A padded place
  counts. Attention that is no single kernel (head sizes that none supports) is computed again too.
- offload: as full, in the host's memory; the device has the inputs of at most two layers.

Compiled layers: equal models must give equal bits, and two graphs need not, because a compiler
rounds where it likes. So policy and reference, with gradients and without, run one graph: the one
that trains. Without gradients its input is cut off from what came before, and its output from what
follows, so that what it would keep for backward is freed layer by layer. The adapter is switched
off by a tensor, and a second model's weights require gradients while a layer of it runs.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._pytree import tree_map_only
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from dgpo_cli.core.text import cut
from dgpo_cli.policy.head import decoder_of
from dgpo_cli.policy.layers.parking import Parking
from dgpo_cli.policy.quantization import is_packed, size_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dgpo_cli.policy.settings import CheckpointingKind

# A smaller model's updates are too short for compilation to pay, which takes a minute or two.
_WORTH_COMPILING = 1e9

_KERNELS = (
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_fused_attention_overrideable",
)
_ATTENTION = [getattr(torch.ops.aten, n).default for n in _KERNELS if hasattr(torch.ops.aten, n)]


def _base_of(model: Any) -> Any:
    """Return the causal model itself, without peft's wrapper."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


class Layers:
    """The wrapped layers of a policy, and of a second model that is its reference.

    What is not packed runs as if they were not wrapped.
    """

    def __init__(
        self, model: Any, *, reference: Any | None, packs: bool, tell: Callable[[str], None]
    ) -> None:
        """
        Args:
            model: causal, with an adapter or without.
            reference: a second model.
            packs: whether rows are packed; else transformers recomputes whole layers.
            tell: gets notes for the user.
        """
        self._model, self._reference = model, reference
        self._packs = packs
        self._tell = tell
        self._kind: CheckpointingKind = "none"
        self._compiled: Callable[..., Any] | None = None
        self._broken = False
        self._switch: _Switch | None = None  # None: the layers are not wrapped
        self._parking: Parking | None = None

    @property
    def checkpointing(self) -> CheckpointingKind:
        """The kind of gradient checkpointing."""
        return self._kind

    def checkpoint(self, kind: CheckpointingKind) -> None:
        """Recompute in backward, from the next pass on.

        kind: not auto.
        """
        self._kind = kind
        if self._packs:
            if kind != "none":
                self._wrap()
        elif kind == "none":
            self._model.gradient_checkpointing_disable()
        else:
            if kind != "full":
                self._tell(f"gradient checkpointing: full ({kind} needs packed rows)")
                self._kind = "full"
            if hasattr(self._model, "peft_config"):
                self._model.enable_input_require_grads()
            self._model.gradient_checkpointing_enable({"use_reentrant": False})

    @property
    def compiled(self) -> bool:
        """Whether packed rows run compiled."""
        return self._compiled is not None

    def worth_compiling(self, *, sharded: bool) -> bool:
        """Whether model.compile=auto compiles."""
        weights = list(_base_of(self._model).parameters())
        return (
            self._packs
            and weights[0].device.type == "cuda"
            and sum(map(size_of, weights)) >= _WORTH_COMPILING
            and not sharded
            and self._obeys
            and not any(is_packed(p) or p.ndim > 2 for p in weights)  # 4 bits, experts
        )

    def compile(self) -> None:
        """Compile packed rows, from the next pass on.

        Shapes are dynamic: other lengths do not recompile; a row of one sequence is a second graph.
        """
        from torch import _dynamo
        from torch._functorch import config

        if not (self._packs and self._obeys):
            why = " with DoRA, or adapters of experts" if self._packs else " without packed rows"
            self._tell(f"model.compile has no effect{why}")
            return
        _dynamo.config.recompile_limit = max(_dynamo.config.recompile_limit, 64)
        # A compiler that fails must do so in a forward pass, which another can replace.
        config.force_non_lazy_backward_lowering = True
        # It warns of operations in place, which no layer has around attention.
        logging.getLogger("torch._higher_order_ops.wrap").setLevel(logging.ERROR)
        self._wrap().attach()
        self._compiled = torch.compile(_run, dynamic=True)

    def leave_uncompiled(self, why: str) -> None:
        """Run all rows uncompiled from now on, and say so if that is a change."""
        if self._compiled is not None:
            self._compiled = None
            self._tell(f"model.compile has no effect {why}")

    @property
    def _obeys(self) -> bool:
        """Whether all of an adapter is pairs of products, which a switch reaches."""
        parts = [part for part in self._model.modules() if hasattr(part, "lora_B")]
        return not any(part.lora_variant or hasattr(part, "parameter_name") for part in parts)

    def _wrap(self) -> _Switch:
        """Wrap the layers once; return the switch of the adapter in them."""
        if self._switch is None:
            own = list(decoder_of(_base_of(self._model)).layers)
            self._switch = _Switch(self._model, layers=own)
            self._parking = Parking(len(own))
            for number, layer in enumerate(own):
                layer.forward = self._wrapped(layer, number=number)
            second = () if self._reference is None else decoder_of(self._reference).layers
            for number, layer in enumerate(second):
                layer.forward = self._wrapped(layer, number=number, frozen=True)
        return self._switch

    @contextmanager
    def without_adapter(self) -> Iterator[None]:
        """Switch the adapter off for passes that are compiled."""
        with self._wrap().off():
            yield

    def _wrapped(self, layer: nn.Module, *, number: int, frozen: bool = False) -> Any:
        plain = layer.forward

        @functools.wraps(plain)
        def forward(*args: Any, **named: Any) -> Any:
            packed = named.get("packed")
            if packed is None or not args:
                return plain(*args, **named)
            call = partial(self._call, plain, args=args[1:], named=named)
            if self._compiled is None or packed.lane is not None:
                return self._recomputed(call, args[0], number=number)
            with _requiring(layer, on=frozen):
                return self._as_training(partial(self._recomputed, call, number=number), args[0])

        return forward

    @staticmethod
    def _as_training(call: Callable[[Tensor], Any], hidden: Tensor) -> Any:
        """Run a layer with gradients; cut them off if they are not wanted."""
        wanted = torch.is_grad_enabled()
        if not (wanted and hidden.requires_grad):  # nor must the first layer be a graph of its own
            hidden = hidden.detach().requires_grad_()
        with torch.enable_grad():
            found = call(hidden)
        return found if wanted else tree_map_only(torch.Tensor, torch.Tensor.detach, found)

    def _recomputed(self, call: Callable[..., Any], hidden: Tensor, *, number: int) -> Any:
        """Run a layer, which the backward pass runs again if the kind says so."""
        if not torch.is_grad_enabled():
            return call("none", hidden)
        if self._kind != "offload":
            return call(self._kind, hidden)
        assert self._parking is not None
        parked = self._parking.park(hidden, number=number)
        # The empty tensor tells of which device the state of random numbers is kept.
        found = checkpoint(
            lambda parked, _: call("none", parked.tensor(), again=not parked.is_forward),
            parked,
            hidden.detach().new_empty(0),
            use_reentrant=False,
        )
        parked.leave()
        return found

    def _call(
        self,
        plain: Any,
        kind: str,
        hidden: Tensor,
        *,
        args: tuple[Any, ...],
        named: dict[str, Any],
        again: bool = False,
    ) -> Any:
        """Run a layer, compiled if that works.

        again: in backward, where checkpointing ends it by an exception.
        """
        if self._compiled is None or named["packed"].lane is not None:
            return _run(plain, kind, hidden, args, named)
        with self._wrap().shown():
            if self._broken:
                return _run(plain, kind, hidden, args, named)
            if again:
                return self._compiled(plain, kind, hidden, args, named)
            try:
                return self._compiled(plain, kind, hidden, args, named)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:
                # It raises again what is not a compiler's.
                found = _run(plain, kind, hidden, args, named)
                self._broken = True
                self._tell(
                    f"layers run uncompiled, the compiler failed: {_first_line(error)}; "
                    "model.compile=off does not try it"
                )
                return found


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return cut(f"{type(error).__name__}: {lines[0] if lines else 'without a message'}", 200)


def _run(
    plain: Any, kind: str, hidden: Tensor, args: tuple[Any, ...], named: dict[str, Any]
) -> Any:
    """Run a layer; what is compiled."""
    if kind == "none":
        return plain(hidden, *args, **named)
    if kind == "full":
        return checkpoint(lambda x: plain(x, *args, **named), hidden, use_reentrant=False)
    return checkpoint(
        lambda x: plain(x, *args, **named), hidden, use_reentrant=False, context_fn=_CONTEXTS
    )


_CONTEXTS = partial(create_selective_checkpoint_contexts, _ATTENTION)


@contextmanager
def _requiring(layer: nn.Module, *, on: bool) -> Iterator[None]:
    """Let a frozen layer's weights look as those that are trained."""
    weights = [p for p in layer.parameters() if p.is_floating_point()] if on else []
    for weight in weights:
        weight.requires_grad_(True)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(False)


class _Switch:
    """Switches an adapter off by a tensor: peft's own way is another graph.

    Only while a packed layer runs; all else, merging and saving too, sees the adapter as it is.
    """

    def __init__(self, model: Any, *, layers: list[Any]) -> None:
        inside = [part for layer in layers for part in layer.modules() if hasattr(part, "lora_B")]
        known = {id(part) for part in inside}
        self._inside = inside
        self._outside = [
            part
            for part in model.modules()
            if hasattr(part, "_disable_adapters") and id(part) not in known
        ]
        self.hidden: Tensor | None = None  # bool [], whether the adapter is off; None: peft's way
        self._is_off = False
        self._values: tuple[Tensor, Tensor] | None = None

    def attach(self) -> None:
        """Let the adapter's products obey."""
        if self._values is not None or not self._inside:
            return
        device = next(self._inside[0].lora_B.parameters()).device
        self._values = torch.tensor(False, device=device), torch.tensor(True, device=device)
        for part in self._inside:
            for product in part.lora_B.values():
                product.register_forward_hook(self._obey)

    def _obey(self, module: Any, args: Any, out: Tensor) -> Tensor:
        return out if self.hidden is None else out.masked_fill(self.hidden, 0.0)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Let the products in a layer see whether the adapter is off."""
        if self._values is not None:
            self.hidden = self._values[self._is_off]
        try:
            yield
        finally:
            self.hidden = None

    @contextmanager
    def off(self) -> Iterator[None]:
        """Switch the adapter off."""
        self._is_off = True
        before = [part._disable_adapters for part in self._outside]
        for part in self._outside:
            part._disable_adapters = True
        try:
            yield
        finally:
            self._is_off = False
            for part, value in zip(self._outside, before, strict=True):
                part._disable_adapters = value
