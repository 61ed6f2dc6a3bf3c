"""Laws of packing: what is packed is what stands alone, and nothing crosses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dgpo_cli.policy import load, packing
from dgpo_cli.policy.head import decoder_of
from dgpo_cli.policy.packing import (
    Packed,
    Shared,
    can_pack,
    can_pad,
    pack,
    packed_hidden,
    padded_hidden,
)
from dgpo_cli.policy.policy import Policy
from tests.policy import families, tiny

LENGTHS = (9, 3, 7, 1, 5)
PACKING = ["qwen2-tied", "qwen2-untied", "granite-scaled", "cohere-scaled"]


def sequences(*, seed: int = 0, lengths: tuple[int, ...] = LENGTHS) -> tuple[Tensor, Tensor]:
    """Return ids and mask of five sequences, each somewhere in its line."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, tiny.VOCAB, (5, 12), generator=generator)
    places = torch.arange(12)[None]
    starts = torch.tensor([0, 4, 5, 11, 2])[:, None].clamp(max=12 - max(lengths))
    return ids, (places >= starts) & (places < starts + torch.tensor(lengths)[:, None])


def alone(model: torch.nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    """Return the hidden states of every sequence in a forward pass of its own, [S, D]."""
    lines = [line[kept][None] for line, kept in zip(ids, mask, strict=True)]
    decoder = decoder_of(model)
    return torch.cat([decoder(input_ids=x, use_cache=False).last_hidden_state[0] for x in lines])


def test_a_rectangle_and_back_is_the_identity() -> None:
    ids, mask = sequences()
    packed = pack(ids, mask)
    assert (packed.lines, packed.width, len(packed.ids)) == (5, 9, sum(LENGTHS))
    assert torch.equal(packed.ids, ids[mask])
    expected = [position for length in LENGTHS for position in range(length)]
    assert packed.positions.tolist() == expected
    values = torch.randn(len(packed.ids), 2, 3)
    rectangle = packed.rectangle(values)
    assert torch.equal(packed.take(rectangle), values)
    filled = torch.arange(9)[None] < torch.tensor(LENGTHS)[:, None]
    assert torch.equal(rectangle[filled], values)
    assert rectangle.isfinite().all()


def test_sequences_of_one_length_are_their_rectangle_without_a_copy() -> None:
    ids, mask = sequences(lengths=(6,) * 5)
    packed = pack(ids, mask)
    assert packed.full and packed.slots.tolist() == list(range(30))
    assert not pack(*sequences()).full
    values = torch.randn(30, 2, 3)
    rectangle = packed.rectangle(values)
    assert rectangle.data_ptr() == values.data_ptr() == packed.take(rectangle).data_ptr()
    assert torch.equal(rectangle, values.view(5, 6, 2, 3))


@pytest.mark.parametrize("lengths", [LENGTHS, (7,) * 5], ids=["uneven", "even"])
@pytest.mark.parametrize("family", PACKING)
def test_packed_is_what_each_sequence_gives_alone_forward_and_backward(
    family: str, lengths: tuple[int, ...]
) -> None:
    gradients = []
    for forward in (packed_hidden, padded_hidden, None):
        model = tiny.build_model(family)
        assert can_pack(model)
        ids, mask = sequences(lengths=lengths)
        packed = pack(ids, mask)
        hidden = forward(model.get_decoder(), packed) if forward else alone(model, ids, mask)
        weights = torch.linspace(-1, 1, hidden.numel()).view_as(hidden)
        (hidden * weights).sum().backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    for one, other, twin in zip(*gradients, strict=True):
        scale = float(twin.norm()) + 1e-12
        assert float((one - twin).norm()) <= 2e-6 * scale
        assert float((one - other).norm()) <= 2e-6 * scale


@pytest.mark.parametrize("family", families.ALL)
def test_no_family_lets_a_neighbour_or_padding_into_a_sequence(family: str) -> None:
    gradients, states = [], []
    for together in (True, False):
        policy = tiny.make_policy(family)
        load.without_dropout(policy.model)
        ids, mask = sequences()
        with policy.training():
            packed = pack(ids, mask)
            hidden = policy.hidden(packed) if together else alone(policy.model, ids, mask)
            weights = torch.linspace(-1, 1, hidden.numel()).view_as(hidden)
            (hidden * weights).sum().backward()
        states.append(hidden.detach())
        gradients.append([p.grad for p in policy.model.parameters() if p.grad is not None])
    torch.testing.assert_close(*states, rtol=0, atol=1e-4)
    largest = max(float(twin.norm()) for twin in gradients[1])
    for one, twin in zip(*gradients, strict=True):  # some are 0 but for rounding
        assert float((one - twin).norm()) <= 1e-3 * float(twin.norm()) + 1e-6 * largest


@pytest.mark.parametrize("family", [*families.ATTENTION, *families.RECURRENT])
def test_rounding_to_16_bits_is_not_taken_for_padding_let_in(family: str) -> None:
    exact, model = (tiny.build_model(family).to(d) for d in (torch.float32, torch.bfloat16))
    assert can_pad(model) and can_pack(model) == can_pack(exact)


@pytest.mark.parametrize("family", [*families.RECURRENT, *families.NOT_SAMPLED])
def test_layers_with_a_state_are_not_packed(family: str) -> None:
    assert not can_pack(tiny.build_model(family))


def test_a_model_that_lets_padding_in_is_run_one_sequence_at_a_time() -> None:
    """Its last norm adds the mean over the whole row."""
    model = tiny.build_model("llama")
    model.model.norm.register_forward_hook(
        lambda module, inputs, output: output + output.mean(dim=1, keepdim=True)
    )
    policy = Policy(model, tokenizer=tiny.char_tokenizer(), reference=None, has_adapter=False)
    assert not policy.packs and not policy.pads
    ids, mask = sequences()
    with torch.no_grad():
        assert torch.equal(policy.hidden(pack(ids, mask)), alone(model, ids, mask))


SHARED = Shared(owners=torch.tensor([0, 1, 0, 3, 1]), lengths=torch.tensor([4, 2, 4, 0, 2]))


def beginning_alike() -> tuple[Tensor, Tensor, Tensor]:
    """Return ids and mask, and which of the tokens on the mask another line has already."""
    ids, mask = sequences()
    places = mask.nonzero()
    again = torch.zeros(len(places), dtype=torch.bool)
    for line, (owner, length) in enumerate(
        zip(SHARED.owners.tolist(), SHARED.lengths.tolist(), strict=True)
    ):
        if owner != line:
            starts = [int(mask[each].int().argmax()) for each in (line, owner)]
            for place in range(length):
                ids[line, starts[0] + place] = ids[owner, starts[1] + place]
            again |= (places[:, 0] == line) & (places[:, 1] < starts[0] + length)
    return ids, mask, again


def test_what_is_shared_is_in_the_row_once_and_in_the_rectangle_in_every_line() -> None:
    ids, mask, again = beginning_alike()
    packed = pack(ids, mask, shared=SHARED)
    assert len(packed.ids) == sum(LENGTHS) - 4 - 2
    assert torch.equal(packed.ids, ids[mask][~again])
    filled = torch.arange(9)[None] < torch.tensor(LENGTHS)[:, None]
    assert torch.equal(packed.rectangle(packed.ids)[filled], ids[mask])
    expected = torch.cat([torch.arange(length) for length in LENGTHS])
    assert torch.equal(packed.rectangle(packed.positions)[filled], expected)
    assert torch.equal(packed.take(packed.rectangle(packed.ids)), packed.ids)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", PACKING)
def test_sharing_a_beginning_changes_no_hidden_state_and_no_gradient(
    family: str, checkpointing: bool
) -> None:
    ids, mask, again = beginning_alike()
    states, gradients = [], []
    for shares in (True, False):
        model = tiny.build_model(family).train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        packed = pack(ids, mask, shared=SHARED if shares else None)
        hidden = packed_hidden(model.get_decoder(), packed)
        # One loss on the states of all lines: those that are shared count once for each.
        whole = packed.rectangle(hidden)[torch.arange(9)[None] < torch.tensor(LENGTHS)[:, None]]
        weights = torch.linspace(-1, 1, whole.numel()).view_as(whole)
        (whole * weights).sum().backward()
        states.append(whole.detach())
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    assert again.sum() == 6
    torch.testing.assert_close(*states, rtol=0, atol=1e-5)
    for one, twin in zip(*gradients, strict=True):
        assert float((one - twin).norm()) <= 2e-6 * (float(twin.norm()) + 1e-12)


@torch.no_grad()
def test_no_token_sees_another_sequence() -> None:
    model = tiny.build_model("qwen2-untied")
    ids, mask = sequences()
    before = packed_hidden(model.get_decoder(), pack(ids, mask))
    other = ids.clone()
    other[2] = (other[2] + 7) % tiny.VOCAB
    after = packed_hidden(model.get_decoder(), pack(other, mask))
    start, stop = sum(LENGTHS[:2]), sum(LENGTHS[:3])
    same = torch.ones(len(before), dtype=torch.bool)
    same[start:stop] = False
    assert torch.equal(before[same], after[same])
    assert not torch.equal(before[~same], after[~same])


@torch.no_grad()
def test_the_future_is_hidden_within_a_sequence() -> None:
    model = tiny.build_model("qwen2-untied")
    ids, mask = sequences()
    before = packed_hidden(model.get_decoder(), pack(ids, mask))
    ids[0, 8] = (ids[0, 8] + 7) % tiny.VOCAB  # the last token of the first sequence
    after = packed_hidden(model.get_decoder(), pack(ids, mask))
    assert torch.equal(before[:8], after[:8])
    assert not torch.equal(before[8], after[8])


def test_gradient_checkpointing_computes_the_same_again() -> None:
    gradients = []
    for checkpointing in (False, True):
        model = tiny.build_model("qwen2-untied").train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        packed_hidden(model.get_decoder(), pack(*sequences())).square().sum().backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_models_with_sliding_windows_or_another_attention_are_padded() -> None:
    assert not can_pack(tiny.build_model("gemma2-softcap"))
    model = tiny.build_model("qwen2-untied")
    model.set_attn_implementation("eager")
    assert not can_pack(model)


def test_a_model_that_packs_wrongly_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.build_model("qwen2-untied")
    assert can_pack(model)

    def one_sequence(decoder: object, packed: Packed) -> Tensor:  # nothing keeps the two apart
        whole = pack(packed.ids[None], torch.ones_like(packed.ids, dtype=torch.bool)[None])
        return packed_hidden(decoder, whole)

    monkeypatch.setattr(packing, "packed_hidden", one_sequence)
    assert not can_pack(model)


def test_a_model_that_shares_wrongly_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.build_model("qwen2-untied")

    def padding_instead(self: Packed, values: Tensor) -> Tensor:  # nothing but the first line's
        spread = values.new_zeros((self.lines * self.width, *values.shape[1:]))
        spread[self.slots] = values
        return spread.view(self.lines, self.width, *values.shape[1:])

    monkeypatch.setattr(Packed, "rectangle", padding_instead)
    assert not can_pack(model)


@torch.no_grad()
def test_sparse_attention_stays_sparse() -> None:
    """Families that choose keys ask for the name of their attention, which is not to change."""
    model = tiny.build_model("deepseek_v32", index_topk=4)
    ids = sequences()[0]
    model.set_attn_implementation("eager")
    expected = model(input_ids=ids, use_cache=False).logits
    model.set_attn_implementation("sdpa")
    assert not can_pack(model)
    found = model(input_ids=ids, use_cache=False).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    dense = tiny.build_model("deepseek_v32", index_topk=12)
    assert (dense(input_ids=ids, use_cache=False).logits - expected).abs().max() > 0.1
