"""The policy and its reference: one model with an adapter on or off, or two models."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dgpo_cli.core.errors import ConfigError
from dgpo_cli.core.token_texts import completion_text, spelled
from dgpo_cli.policy import load, quantization, token_pass
from dgpo_cli.policy.batching import Rows, on_grid, pad_rows
from dgpo_cli.policy.head import check_head, class_name, decoder_of, head_of
from dgpo_cli.policy.layers import Layers
from dgpo_cli.policy.packing import (
    Packed,
    Predicted,
    can_pack,
    can_pad,
    check_share,
    lone_hidden,
    packed_hidden,
    padded_hidden,
)
from dgpo_cli.policy.shape import context_length
from dgpo_cli.policy.token_pass.tiles import check_heads

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from dgpo_cli.algo.truncation import Truncation
    from dgpo_cli.parallel.gathered import Gathered
    from dgpo_cli.parallel.sequence import Lane
    from dgpo_cli.policy.cache import CacheKind, FixedRows, RowCache
    from dgpo_cli.policy.head import Head
    from dgpo_cli.policy.token_pass import TokenColumns

T = TypeVar("T")

CANARY = "Compute 12+34. First 2+4=6, then 10+30=40, so that 12+34=46. The answer is 46."


class Policy:
    """A causal model to train or sample from, and its frozen reference.

    With an adapter, the reference is the same model with the adapter off: no second copy.
    Satisfies samplers.steps.Generator and samplers.base.TrainedWeights.
    """

    in_memory = True

    def __init__(
        self,
        model: Any,
        *,
        tokenizer: Any,
        reference: Any | None,
        has_adapter: bool,
        untouched: bool = False,
        compute: torch.dtype | None = None,
        sharded: bool = False,
        notes: Sequence[str] = (),
    ) -> None:
        """Take a loaded model; `reference` is a second model, None with an adapter or without
        a reference.

        Args:
            untouched: whether the base weights are those of `model.path`.
            compute: dtype of matrix products; None: that of the weights.
            sharded: whether each rank has a part of the weights (parallel/sharding.py); every
                pass is then collective.
            notes: for the user, about the models.

        Raises:
            ModelError: a model's logits are not supported, or the vocabularies differ.
        """
        self.model = model
        self.tokenizer = tokenizer
        self.has_adapter = has_adapter
        self.untouched = untouched
        self.compute = compute
        self._reference = reference
        self.lane: Lane | None = None
        self.listener: Callable[[str], None] | None = None  # gets notes as they come
        self._base = model.get_base_model() if has_adapter else model
        self.sharded = sharded
        self._fixed = False if sharded else None  # whether rows may be at fixed addresses
        self._head = head_of(self._base, compute=compute)
        self._reference_head = (
            self._head if reference is None else head_of(reference, compute=compute)
        )
        self.inside(lambda: check_head(self._base, head=self.head))
        load.check_ends(self.stop_ids, vocab_size=self.head.vocab_size)
        models = [self._base] if reference is None else [self._base, reference]
        self.packs = all(self._inside(model, partial(can_pack, model)) for model in models)
        self.pads = self.packs or all(
            self._inside(model, partial(can_pad, model)) for model in models
        )
        self.notes = list(dict.fromkeys(notes))
        if not self.pads:
            self.notes.append(
                f"padding changes the results of {class_name(self._base)}: each sequence is "
                "computed alone, which takes longer"
            )
        self.layers = Layers(model, reference=reference, packs=self.packs, tell=self.note)
        if has_adapter and compute is not None and not sharded:
            load.multiply_adapter_in_autocast(model)
        if reference is not None:
            self._inside(reference, lambda: check_head(reference, head=self.reference_head))
            check_heads(self._head, self._reference_head)

    def inside(self, work: Callable[[], T]) -> T:
        """Return work(), which may use the head and run passes; for what a method here does not do.

        Where the weights are sharded, every rank must do it. See `sharding.run_inside`.
        """
        return self._inside(self._base, work)

    def _inside(self, model: Any, work: Callable[[], T], *, keep: bool = False) -> T:
        if not self.sharded:
            return work()
        from dgpo_cli.parallel.sharding import run_inside

        return run_inside(model, work, keep=keep)

    def whole(self) -> AbstractContextManager[None]:
        """Hold all weights of a sharded policy whole, to sample: ranks decode different lengths.

        Every rank must enter and leave it.
        """
        if not self.sharded:
            return nullcontext()
        from dgpo_cli.parallel.sharding import whole

        return whole(self._base)

    @property
    def head(self) -> Head:
        """The head; of a sharded policy it is whole only in `inside`."""
        return self._head.now(self._base)

    @property
    def reference_head(self) -> Head:
        """The head of the reference; the policy's without a second model."""
        if self._reference is None:
            return self.head
        return self._reference_head.now(self._reference)

    # What the sampler needs.

    @functools.cached_property
    def device(self) -> torch.device:
        return self.head.weight.device

    @property
    def computed_dtype(self) -> torch.dtype:
        """The dtype that rounds hidden states and head."""
        return self.compute or self._head.weight.dtype

    @property
    def pad_id(self) -> int:
        """The tokenizer's, or 0 if it is outside the embedding, which looks up padding too."""
        own = int(self.tokenizer.pad_token_id)
        return own if own < self.embeddings else 0

    @property
    def embeddings(self) -> int:
        """Number of token ids that the model accepts: rows of its input embedding."""
        return int(self._base.get_input_embeddings().weight.shape[0])

    @property
    def stop_ids(self) -> frozenset[int]:
        """EOS tokens of the tokenizer and of the model's generation config."""
        return load.stop_ids_of(self._base.generation_config, self.tokenizer)

    @functools.cached_property
    def _sampling(self) -> tuple[CacheKind, bool]:
        """The kind of caches, and whether prompts of different lengths go together."""
        from dgpo_cli.policy.cache import cache_is_right, cache_kind

        decoder = decoder_of(self._base)
        with self.computing():
            kind = cache_kind(decoder)
            for padded in (True, False):
                if kind is not None and cache_is_right(decoder, kind, padded=padded):
                    return kind, padded
        raise ConfigError(
            f"rollout.backend.kind=hf cannot sample from {class_name(self._base)}: its state "
            "cannot hold several completions; set rollout.backend.kind=vllm if vLLM supports the "
            "model"
        )

    @property
    def pads_prompts(self) -> bool:
        """See Generator.pads_prompts."""
        return self._sampling[1]

    @property
    def context(self) -> int | None:
        """Context length in tokens; None if the model's config does not give it."""
        return context_length(self._base.config.get_text_config().to_dict())

    def new_cache(self) -> RowCache:
        """See Generator.new_cache."""
        return self._sampling[0].new()

    def next_logits(self, ids: Tensor, *, mask: Tensor, positions: Tensor, cache: Any) -> Tensor:
        """See Generator.next_logits."""
        with self.computing():
            hidden = cache.feed(decoder_of(self._base), ids, mask=mask, positions=positions)
        return self.head.logits(hidden)

    def fixed_rows(self) -> FixedRows | None:
        """See Generator.fixed_rows. Not where weights are sharded: their hooks wait for others."""
        from dgpo_cli.policy.cache import fixed_is_right

        (kind, padded), decoder = self._sampling, decoder_of(self._base)
        if self._fixed is None:
            with self.computing():
                self._fixed = fixed_is_right(decoder, kind, dtype=self.compute, padded=padded)
        return kind.fixed(decoder, dtype=self.compute) if self._fixed else None

    def fixed_logits(self, rows: FixedRows) -> Tensor:
        """See Generator.fixed_logits."""
        with self.computing():
            hidden = rows.feed(decoder_of(self._base))
        return self.head.logits(hidden)

    def decode(self, token_ids: Sequence[int]) -> str:
        return completion_text(self.tokenizer, token_ids)

    def spell(self, token_ids: Sequence[int]) -> str:
        return spelled(self.tokenizer, token_ids)

    # What a sampler with its own copy of the weights needs.

    @property
    def adapter_rank(self) -> int:
        """Largest rank of the adapter, 0 without one."""
        if not self.has_adapter:
            return 0
        config = self.model.active_peft_config
        return max([int(config.r), *map(int, (config.rank_pattern or {}).values())])

    def tensors(self) -> Sequence[tuple[str, torch.Tensor]] | Gathered:
        """Return the weights as in a checkpoint, not copied where possible.

        Tied weights come once. Not for a policy with an adapter.
        """
        if self.sharded:
            from dgpo_cli.parallel.gathered import Gathered

            return Gathered(self.model)
        from transformers.core_model_loading import revert_weight_conversion

        own = {name for name, _ in [*self.model.named_parameters(), *self.model.named_buffers()]}
        state = {name: t for name, t in self.model.state_dict().items() if name in own}
        return list(revert_weight_conversion(self.model, state).items())

    def canary_ids(self) -> tuple[int, ...]:
        """Return the token ids of a fixed text."""
        return tuple(self.tokenizer.encode(CANARY, add_special_tokens=False))

    def logprobs_of(
        self, ids: Sequence[int], *, temperature: float, adapter: bool = True
    ) -> list[float]:
        """Return the log-probability in nats of every token after the first. Without the lane.

        adapter: False disables the adapter.
        """
        import torch

        rows = pad_rows([(ids[:1], ids[1:])], pad_id=self.pad_id).to(self.device)
        off = self.model.disable_adapter() if self.has_adapter and not adapter else nullcontext()
        with torch.no_grad(), off:
            tokens = Predicted.of(rows, shares=self.packs)
            found: list[float] = self._logprobs(tokens, temperature).tolist()
        return found

    def release(self) -> None:
        """See TrainedWeights.release: what torch keeps for its next tensors."""
        import torch

        if self.device.type == "cuda":
            with torch.cuda.device(self.device):
                torch.cuda.empty_cache()

    def use_device(self) -> None:
        """Let the calling thread use the policy's device, if that is a GPU: each has its own."""
        import torch

        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)

    # What the trainer needs.

    @property
    def vocab_size(self) -> int:
        """Width of the logits, padded rows included."""
        return self._head.vocab_size

    @property
    def even_length(self) -> float | None:
        """Length in tokens at which attention costs as much as everything else; None if prompts
        cannot be shared.

        A block of width D has about 12 D^2 weights, each with 2 operations per token; attention
        over W tokens needs 2 D W.
        """
        return 12.0 * self._head.weight.shape[1] if self.packs else None

    @property
    def is_eager(self) -> bool:
        """Whether attention is transformers' eager one."""
        return bool(self._base.config._attn_implementation == "eager")

    @property
    def has_reference(self) -> bool:
        return self.has_adapter or self._reference is not None

    def hidden(self, packed: Packed) -> Tensor:
        """Return the policy's final hidden states [S, D] of packed sequences."""
        return self.inside(lambda: self._forward(self._base, packed))

    def reference_hidden(self, packed: Packed) -> Tensor:
        """Return the reference's, on the same layout, so that equal weights give equal bits."""
        assert self.has_reference
        model = self._base if self._reference is None else self._reference
        off: AbstractContextManager[None] = nullcontext()
        if self.has_adapter:
            compiled = self.layers.compiled
            off = self.layers.without_adapter() if compiled else self.model.disable_adapter()
        with off:
            # The head of a second model is used after this pass.
            return self._inside(
                model, lambda: self._forward(model, packed), keep=self._reference is not None
            )

    def share_rows(self, lane: Lane) -> None:
        """Let the ranks of a lane share each micro-batch, from now on. Collective.

        They give `token_columns` and `token_logprobs` the same rows, and get the same numbers.

        Raises:
            ConfigError: the model cannot be shared in this way.
        """
        models = [self._base] if self._reference is None else [self._base, self._reference]
        for model in models:
            self._inside(model, partial(check_share, model, lane=lane, packs=self.packs))
        self.layers.leave_uncompiled("with parallel.sequence")
        self.lane = lane

    def predicted(self, rows: Rows) -> Predicted:
        """Return the completion tokens of rows, packed: those that this rank computes."""
        return Predicted.of(rows, shares=self.packs, lane=self.lane)

    def token_hidden(self, rows: Rows) -> Tensor:
        """Return the policy's final hidden states that predict the n completion tokens of
        `predicted`, [n, D]."""
        tokens = self.predicted(rows)
        return self.hidden(tokens.packed)[tokens.places]

    def token_columns(
        self,
        rows: Rows,
        *,
        temperature: float,
        reference: bool,
        reference_logprobs: bool = False,
        truncation: Truncation | None = None,
    ) -> TokenColumns:
        """Return the statistics of the N completion tokens, in the order of the mask, from one
        forward pass, without storing all logits.

        The policy's log-probabilities are differentiable if gradients are on. Without the
        reference the distance is 0.

        reference_logprobs: return the reference's, too, if it runs.
        truncation: the sampler's, which makes log-probabilities those over the tokens that it
            keeps: those in `rows.kept`, or else those that it keeps by the weights as they are.
        """
        import torch

        tokens = self.predicted(rows)
        other = None
        if reference:
            with torch.no_grad():
                other = self.reference_hidden(tokens.packed)[tokens.places]

        second = reference and self._reference is not None
        found: list[TokenColumns] = []

        def work() -> Tensor:
            columns = token_pass.token_pass(
                self.hidden(tokens.packed)[tokens.places],
                other,
                head=self.head,
                reference_head=self.reference_head if second else None,
                ids=tokens.ids,
                temperature=temperature,
                want_reference_logprobs=reference_logprobs,
                support=tokens.support(truncation),
            )
            found.append(columns)
            return columns.logprobs

        logprobs = self.inside(work)  # the backward pass of a sharded model starts from these
        if second:
            self._release_reference()
        return tokens.all_columns(replace(found[0], logprobs=logprobs))

    def token_logprobs(
        self, rows: Rows, *, temperature: float, truncation: Truncation | None = None
    ) -> Tensor:
        """Return differentiable log-probabilities of the completion tokens, float32 [B, T].

        Positions outside the mask are 0. truncation: see `token_columns`.
        """
        tokens = self.predicted(rows)
        return on_grid(self._logprobs(tokens, temperature, truncation=truncation), rows.mask)

    def _logprobs(
        self, tokens: Predicted, temperature: float, *, truncation: Truncation | None = None
    ) -> Tensor:
        def work() -> Tensor:
            return token_pass.token_logprobs(
                self.hidden(tokens.packed)[tokens.places],
                head=self.head,
                ids=tokens.ids,
                temperature=temperature,
                support=tokens.support(truncation),
            )

        return tokens.completed(self.inside(work))[0]

    def _release_reference(self) -> None:
        """Shard the head of the second model again."""
        if self.sharded and self._reference is not None:
            from dgpo_cli.parallel.sharding import release

            release(self._reference)

    def _forward(self, model: Any, packed: Packed) -> Tensor:
        padded = padded_hidden if self.pads else lone_hidden
        forward = packed_hidden if self.packs else padded
        with self.computing():
            return forward(decoder_of(model), packed)

    def note(self, text: str) -> None:
        """Tell the user something about the model; before an engine has it, when it gets it."""
        self.notes.append(text)
        if self.listener is not None:
            self.listener(text)

    def computing(self) -> AbstractContextManager[Any]:
        """Run forward passes in `compute`. Gradient checkpointing restores this in backward."""
        if self.compute is None or self.sharded:  # gathered weights are in that dtype
            return nullcontext()
        import torch

        # A weight's copy is used once; a cache would keep all of them until the pass ends.
        return torch.autocast(self.device.type, dtype=self.compute, cache_enabled=False)

    @property
    def has_dropout(self) -> bool:
        """Whether two forward passes in training mode may differ."""
        return bool(load.dropouts(self.model))

    @contextmanager
    def training(self) -> Iterator[None]:
        """Use training mode: the adapter's dropout is on, and transformers' checkpointing.

        Compiled layers without dropout need no graph of their own for it.
        """
        if self.layers.compiled and not self.has_dropout:
            yield
            return
        self.model.train()
        try:
            yield
        finally:
            self.model.eval()

    def trainable(self) -> list[tuple[str, torch.nn.Parameter]]:
        """Return the named parameters that the optimiser updates."""
        return [(n, p) for n, p in self.model.named_parameters() if p.requires_grad]

    def parameter_counts(self) -> dict[str, int]:
        """Return the number of parameters held and trained, each weight once."""
        models = [self.model] if self._reference is None else [self.model, self._reference]
        held = {id(p): quantization.size_of(p) for model in models for p in model.parameters()}
        return {
            "held": sum(held.values()),
            "trained": sum(p.numel() for _, p in self.trainable()),
        }

    def save(self, folder: Path, *, adapter: dict[str, torch.Tensor] | None = None) -> None:
        """Write the model or adapter, and the tokenizer, in the format of transformers or peft.

        Collective for a sharded model's adapter; its weights are written by another way.

        adapter: what `gathered_adapter` gave; it is not gathered again then.
        """
        if self.has_adapter:
            if adapter is None and self.sharded:
                adapter = self.gathered_adapter()
            self.model.save_pretrained(str(folder), state_dict=adapter, save_embedding_layers=False)
        else:
            self.model.save_pretrained(str(folder))
        self.tokenizer.save_pretrained(str(folder))

    def gathered_adapter(self) -> dict[str, torch.Tensor]:
        """Return the whole tensors of a sharded model's adapter. Collective."""
        from dgpo_cli.parallel.gathered import whole_of

        named = self.model.named_parameters()
        return {name: whole_of(weight).cpu() for name, weight in named if "lora_" in name}
