"""What rules and losses of the user's own must give, and their faults in one line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dgpo_cli.core.errors import DgpoError
from dgpo_cli.core.own_code import where_it_failed
from dgpo_cli.core.types import Credit

if TYPE_CHECKING:
    from torch import Tensor

    from dgpo_cli.algo.losses import Loss

_OFF = 1e-3  # most that the mean weight of a completion may differ from 1


@contextmanager
def own_faults(name: str, *, of: object = None) -> Iterator[None]:
    """Turn a fault of the user's code into one line that begins with `name`.

    Raises:
        DgpoError: there was one.
    """
    try:
        yield
    except (DgpoError, MemoryError, torch.OutOfMemoryError) as error:
        if not isinstance(error, _Wrong):
            raise
        raise DgpoError(f"{name}: {error}") from error
    except Exception as error:
        raise DgpoError(f"{name}: {where_it_failed(error, folder=_folder(of))}") from error


def guarding(loss: Loss) -> AbstractContextManager[None]:
    """Return `own_faults` for a loss of the user's own; for dgpo's, what does nothing."""
    if not loss.is_own:
        return nullcontext()
    return own_faults(f"loss.kind={loss.kind or type(loss).__name__}", of=loss)


def _folder(of: object) -> Path:
    file = getattr(sys.modules.get(type(of).__module__), "__file__", None)
    return Path(file).parent if file else Path.cwd()


class _Wrong(DgpoError):
    """What the user's code gave cannot be used; the message does not name the code."""


def check_column(what: str, values: Any, mask: Tensor, *, signed: bool = False) -> None:
    """Check that there is a number for every token, of at least 0 unless they are signed.

    Raises:
        DgpoError: there is not.
    """
    _check_shape(what, values, mask)
    found = values[mask].double()
    wrong = ~found.isfinite() if signed else ~(found >= 0) | found.isinf()
    if bool(wrong.any()):
        value, least = float(found[wrong][0]), "" if signed else " and at least 0"
        raise _Wrong(f"{what} have {value:g} at a token; they must be finite{least}")


def check_credit(credit: Any, mask: Tensor, *, signed: bool = False) -> None:
    """Check the scores and weights of a batch.

    signed: weights may be negative.

    Raises:
        DgpoError: they cannot be used.
    """
    if not isinstance(credit, Credit):
        raise _Wrong(f"credit returned a {type(credit).__name__}; it must return a dgpo_cli.Credit")
    _check_shape("scores", credit.scores, mask)
    check_column("weights", credit.weights, mask, signed=signed)
    lengths = mask.sum(dim=1)
    means = torch.where(mask, credit.weights.double(), 0.0).sum(dim=1) / lengths.clamp(min=1)
    off = (means - 1).abs().masked_fill(lengths == 0, 0.0)
    if off.numel() and float(off.max()) > _OFF:
        mean = float(means[off.argmax()])
        raise _Wrong(f"weights of a completion have the mean {mean:g}; it must be 1")


def _check_shape(what: str, values: Any, mask: Tensor) -> None:
    if not isinstance(values, torch.Tensor):
        raise _Wrong(f"{what} are a {type(values).__name__}; they must be a tensor")
    if values.shape != mask.shape or not values.is_floating_point():
        raise _Wrong(
            f"{what} are {_form(values)}; they must be floating, {list(mask.shape)} as the mask"
        )


def _form(values: Tensor) -> str:
    return f"{str(values.dtype).removeprefix('torch.')} {list(values.shape)}"


def check_forms(found: Any, mask: Tensor) -> None:
    """Check the forms of what a loss gave; the numbers are left where they are.

    Raises:
        DgpoError: it cannot be used.
    """
    if not isinstance(found, tuple) or len(found) != 3:
        raise _Wrong("token_losses must return (losses, ratio, clipped)")
    losses, ratio, clipped = found
    _check_shape("losses", losses, mask)
    _check_shape("ratio", ratio, mask)
    if not isinstance(clipped, torch.Tensor) or clipped.shape != mask.shape:
        raise _Wrong(f"clipped must be a bool tensor, {list(mask.shape)} as the mask")
    if clipped.dtype != torch.bool:
        raise _Wrong(f"clipped is {_form(clipped)}; it must be bool")


def check_losses(found: Any, logprobs: Tensor, mask: Tensor) -> None:
    """Check what a loss gave, and that its gradient is finite.

    Raises:
        DgpoError: it cannot be used.
    """
    check_forms(found, mask)
    losses: Tensor = found[0]
    if not losses.requires_grad:
        raise _Wrong("losses have no gradient; they must depend on logprobs")
    (gradient,) = torch.autograd.grad(losses[mask].sum(), logprobs, allow_unused=True)
    if gradient is None:
        raise _Wrong("losses have no gradient; they must depend on logprobs")
    if not bool(losses.isfinite().all() & gradient.isfinite().all()):
        raise _Wrong("losses or their gradient are not finite, padding included")
