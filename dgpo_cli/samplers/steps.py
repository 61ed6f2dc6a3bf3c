"""Steps of sampled rows: a prefill, then one token a row at a time.

On a GPU a step of a few milliseconds is a thousand kernels, which Python launches more slowly than
they run: a CUDA graph of the step launches them at once.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch

from dgpo_cli.core.text import cut

if TYPE_CHECKING:
    from torch import Tensor

Step = Callable[[], None]


class FixedRows(Protocol):
    """Rows whose tensors keep their addresses: see policy.cache.FixedRows."""

    addresses: int
    shape: tuple[int, int]

    @property
    def tokens(self) -> Tensor: ...

    def load(self, cache: Any, *, rows: Tensor, mask: Tensor) -> None: ...

    def select(self, rows: Tensor) -> None: ...

    def make_room(self) -> None: ...

    def fed(self) -> None: ...

    def free(self) -> None: ...


class Generator(Protocol):
    """A causal language model with a cache and a tokenizer."""

    @property
    def device(self) -> Any: ...

    @property
    def pad_id(self) -> int: ...

    @property
    def stop_ids(self) -> frozenset[int]:
        """Token ids that end a completion."""
        ...

    @property
    def pads_prompts(self) -> bool:
        """Whether prompts of different lengths can be sampled together.

        Raises:
            ConfigError: the model cannot be sampled from here.
        """
        ...

    def new_cache(self) -> Any:
        """Return an empty cache; its `select` keeps rows by number."""
        ...

    def next_logits(self, ids: Tensor, *, mask: Tensor, positions: Tensor, cache: Any) -> Tensor:
        """Return the logits after the last token of each row, float32 [B, V].

        Args:
            ids: the next tokens, int64 [B, T]; mask: int64 [B, L], of all tokens so far.
            positions: int64 [B, T].
        """
        ...

    def fixed_rows(self) -> FixedRows | None:
        """Return rows at fixed addresses; None if the model cannot be decoded there."""
        ...

    def fixed_logits(self, rows: Any) -> Tensor:
        """Return the logits after `rows.tokens`, float32 [B, V]."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of a completion without special tokens."""
        ...

    def spell(self, token_ids: Sequence[int]) -> str:
        """Return the text of token ids, special tokens included."""
        ...


class Runner(Protocol):
    """Runs steps that only read and write tensors at fixed addresses."""

    @property
    def problem(self) -> str | None:
        """Why steps are slower than they might be; None: they are not."""
        ...

    def run(self, step: Step, *, key: object) -> None:
        """Run a step. Steps with equal keys do the same work on the same addresses."""
        ...

    def release(self) -> None:
        """Forget what was captured, because addresses change or sampling is over."""
        ...


class EagerRunner:
    """Runs each step as it is."""

    problem = None

    def run(self, step: Step, *, key: object) -> None:
        step()

    def release(self) -> None:
        pass


class GraphRunner:
    """Runs the first step of a key as it is, which warms up, and captures the second.

    A step that waits for the device cannot be captured: from then on all are run as they are.
    """

    def __init__(self) -> None:
        self.problem: str | None = None
        self._warm: set[object] = set()
        self._graphs: dict[object, torch.cuda.CUDAGraph] = {}
        self._side: torch.cuda.Stream | None = None
        self._pool: Any = None

    def run(self, step: Step, *, key: object) -> None:
        """See Runner.run."""
        if self.problem is None and key not in self._warm:
            self._warm_up(step)
            self._warm.add(key)
            return
        if self.problem is None and key not in self._graphs:
            self._capture(step, key=key)
        if self.problem is None:
            self._graphs[key].replay()
        else:
            step()

    def release(self) -> None:
        """See Runner.release. What the graphs held goes back to the device."""
        if self._warm:
            torch.cuda.synchronize()
            self._warm.clear()
            self._graphs.clear()
            self._pool = None
            torch.cuda.empty_cache()

    def _warm_up(self, step: Step) -> None:
        """Run a step on the stream of captures; find out whether it waits for the device."""
        if self._side is None:
            self._side = torch.cuda.Stream()
        current = torch.cuda.current_stream()
        self._side.wait_stream(current)
        mode = torch.cuda.get_sync_debug_mode()
        # It says at its first use that it does not see every wait; `_capture` meets the others.
        warnings.filterwarnings("ignore", message="Synchronization debug mode")
        with torch.cuda.stream(self._side):
            torch.cuda.set_sync_debug_mode("error")
            try:
                step()
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                self.problem = _first_line(error)
            finally:
                torch.cuda.set_sync_debug_mode(mode)
        current.wait_stream(self._side)
        if self.problem is not None:
            step()

    def _capture(self, step: Step, *, key: object) -> None:
        """Capture a step, which does not run it. One that waits within a library fails here."""
        graph = torch.cuda.CUDAGraph()
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        try:
            # Other threads may allocate meanwhile. A capture that fails leaves its stream in use.
            with (
                torch.cuda.stream(torch.cuda.current_stream()),
                torch.cuda.graph(
                    graph, pool=self._pool, stream=self._side, capture_error_mode="thread_local"
                ),
            ):
                step()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self.problem = _first_line(error)
            # Else torch believes that the capture goes on.
            with contextlib.suppress(RuntimeError, AttributeError):
                torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), self._pool)
            return
        self._graphs[key] = graph


def _first_line(error: Exception) -> str:
    return cut((str(error).strip() or type(error).__name__).splitlines()[0], 200)


class GrowingLines:
    """Rows in a cache that grows; ended ones are dropped when they are many enough."""

    def __init__(self, generator: Generator, *, dropped: float) -> None:
        """dropped: the share of ended rows at which they are dropped."""
        self._generator = generator
        self._dropped = dropped
        self._cache: Any = None
        self._mask = self._positions = torch.empty(0)

    def prefill(self, ids: Tensor, *, mask: Tensor, rows: Tensor) -> Tensor:
        """Run distinct prompts; return the first logits of `rows`, which may repeat them."""
        self._cache, logits, positions = prefilled(self._generator, ids, mask=mask)
        self._cache.select(rows)
        self._mask, self._positions = mask[rows], positions[rows, -1:]
        return logits[rows]

    def step(self, tokens: Tensor) -> Tensor:
        """Feed one token a row; return the next logits, float32 [B, V]."""
        self._mask = torch.nn.functional.pad(self._mask, (0, 1), value=1)
        self._positions = self._positions + 1
        return self._generator.next_logits(
            tokens[:, None], mask=self._mask, positions=self._positions, cache=self._cache
        )

    def wanted(self, alive: int, *, of: int) -> int:
        """Return to how many rows to go when `alive` have not ended.

        Dropping copies the cache: doing it for every row would cost more than it saves.
        """
        return alive if 1.0 - alive / of >= self._dropped else of

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these."""
        self._cache.select(rows)
        self._mask, self._positions = self._mask[rows], self._positions[rows]

    def release(self) -> None:
        """Free the rows."""
        self._cache = None


class FixedLines:
    """Rows at fixed addresses, for steps that a runner can repeat: their number only halves."""

    def __init__(self, generator: Generator, *, fixed: FixedRows, runner: Runner) -> None:
        self._generator = generator
        self._fixed, self._runner = fixed, runner
        self._logits = torch.empty(0)
        self._addresses = 0

    def prefill(self, ids: Tensor, *, mask: Tensor, rows: Tensor) -> Tensor:
        """See GrowingLines."""
        cache, logits, _ = prefilled(self._generator, ids, mask=mask)
        self._fixed.load(cache, rows=rows, mask=mask)
        if len(self._logits) < len(rows):
            self._runner.release()
            self._logits = logits.new_empty(len(rows), logits.shape[1])
        return logits[rows]

    def step(self, tokens: Tensor) -> Tensor:
        """See GrowingLines. The logits are overwritten by the next step."""
        fixed, generator = self._fixed, self._generator
        fixed.make_room()
        if fixed.addresses != self._addresses:
            self._runner.release()
            self._addresses = fixed.addresses
        fixed.tokens.copy_(tokens)
        logits = self._logits[: len(tokens)]
        self._runner.run(lambda: _write(logits, generator.fixed_logits(fixed)), key=fixed.shape)
        fixed.fed()
        return logits

    def wanted(self, alive: int, *, of: int) -> int:
        """See GrowingLines. Every number of rows is a graph, so there are few."""
        while -(-of // 2) >= alive and of > 1:
            of = -(-of // 2)
        return of

    def keep(self, rows: Tensor) -> None:
        """See GrowingLines."""
        self._fixed.select(rows)

    def release(self) -> None:
        """Free the rows, and what is left of graphs on them."""
        self._fixed.free()
        self._logits = torch.empty(0)
        self._runner.release()


def _write(logits: Tensor, found: Tensor) -> None:
    logits.copy_(found)


def prefilled(generator: Generator, ids: Tensor, *, mask: Tensor) -> tuple[Any, Tensor, Tensor]:
    """Return the cache of prompts, their next logits [P, V] and positions [P, L].

    ids, mask: int64 [P, L]
    """
    positions = (mask.cumsum(dim=1) - 1).clamp_min(0)
    cache = generator.new_cache()
    logits = generator.next_logits(ids, mask=mask, positions=positions, cache=cache)
    return cache, logits, positions
