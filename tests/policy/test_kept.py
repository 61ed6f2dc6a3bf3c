"""Log-probabilities over what a truncated sampler keeps, against a float64 twin."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from dgpo_cli.algo.truncation import Truncation
from dgpo_cli.core.types import KeptTokens
from dgpo_cli.policy.head import Head
from dgpo_cli.policy.token_pass import (
    Support,
    Tiles,
    TokenColumns,
    statistics,
    token_logprobs,
    token_pass,
)
from dgpo_cli.policy.token_pass.kept import joined, split, taken
from tests.policy.test_token_logprobs import gradients, relative
from tests.policy.token_cases import CUTS, DTYPES, FORMS, noise, random_case, twin, twin_logits

RULES = [Truncation(0.8, 0), Truncation(1.0, 4), Truncation(0.6, 12)]
T = 0.8
COUNT, VOCAB = 37, 211


def twin_sets(logits: Tensor, rule: Truncation, ids: Tensor) -> tuple[Tensor, Tensor]:
    """The sets from float64 logits, bool [N, V], with the drawn tokens; and which these are new."""
    kept = torch.zeros(logits.shape, dtype=torch.bool)
    for line, row in enumerate(logits.softmax(-1).tolist()):
        order = sorted(range(len(row)), key=lambda token: -row[token])[: rule.top_k or len(row)]
        total, held = sum(row[token] for token in order), 0.0
        for token in order:
            if held >= rule.top_p * total:
                break
            kept[line, token] = True
            held += row[token]
    lines = torch.arange(len(ids))
    outside = ~kept[lines, ids]
    kept[lines, ids] = True
    return kept, outside


def masks(kept: KeptTokens, vocab: int) -> Tensor:
    found = torch.zeros(len(kept.counts), vocab, dtype=torch.bool)
    found[torch.arange(len(found)).repeat_interleave(kept.counts), kept.ids.long()] = True
    assert int(found.sum()) == len(kept.ids) == int(kept.counts.sum())
    return found


def exact_logprobs(logits: Tensor, kept: Tensor, ids: Tensor) -> Tensor:
    """From float64 logits: the chosen one less the log of the sum over its set, one by one."""
    rows = [
        row[token] - row[own].exp().sum().log()
        for row, own, token in zip(logits, kept, ids, strict=True)
    ]
    return torch.stack(rows)


def case(
    form: tuple[float, float | None, bool], dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Head, Head, Tensor]:
    """Every third token is the likeliest; most of the others are not kept."""
    hidden, other, head, second, ids = random_case(COUNT, 24, VOCAB, form, dtype)
    ids[::3] = twin_logits(hidden, head, T).argmax(dim=-1)[::3]
    return hidden, other, head, second, ids


def truncated(
    form: tuple[float, float | None, bool], support: Support, tiles: Tiles | None = None
) -> TokenColumns:
    hidden, other, head, second, ids = case(form)
    return token_pass(
        hidden,
        other,
        head=head,
        reference_head=second,
        ids=ids,
        temperature=T,
        want_reference_logprobs=True,
        support=support,
        tiles=tiles,
    )


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("tiles", [None, *CUTS])
def test_values_and_gradients_equal_the_twin(
    form: tuple[float, float | None, bool], rule: Truncation, tiles: Tiles | None
) -> None:
    """Of hidden states, of the head's weights and of its bias."""
    hidden, _, head, _, ids = case(form)
    inputs = [hidden.requires_grad_(), head.weight.requires_grad_()]
    if head.bias is not None:
        inputs.append(head.bias.requires_grad_())
    pull = noise(COUNT, seed=8)
    logits = twin_logits(hidden, head, T)
    kept, _ = twin_sets(logits.detach(), rule, ids)
    found = token_logprobs(
        hidden, head=head, ids=ids, temperature=T, support=Support(rule), tiles=tiles
    )
    exact = exact_logprobs(logits, kept, ids)
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=1e-5)
    pairs = zip(gradients(found, pull, inputs), gradients(exact, pull, inputs), strict=True)
    assert max(relative(a, b) for a, b in pairs) < 1e-6


@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_a_head_in_16_bits_keeps_the_same_law(dtype: torch.dtype) -> None:
    hidden, _, head, _, ids = case(FORMS[1], dtype)
    inputs = [hidden.requires_grad_(), head.weight.requires_grad_()]
    pull = noise(COUNT, seed=8)
    support = Support(RULES[0])
    found = token_logprobs(hidden, head=head, ids=ids, temperature=T, support=support)
    logits = twin_logits(hidden, head, T)
    exact = exact_logprobs(logits, twin_sets(logits.detach(), RULES[0], ids)[0], ids)
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=1e-5)
    pairs = zip(gradients(found, pull, inputs), gradients(exact, pull, inputs), strict=True)
    assert max(relative(a, b) for a, b in pairs) < 2 * torch.finfo(dtype).eps


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("form", FORMS)
def test_the_pass_gives_sets_and_both_logprobs_over_them(
    form: tuple[float, float | None, bool], rule: Truncation
) -> None:
    """The reference's over the policy's set. A drawn token that is not kept is in its set."""
    hidden, other, head, second, ids = case(form)
    found = truncated(form, Support(rule))
    mine, theirs = twin_logits(hidden, head, T), twin_logits(other, second, T)
    kept, outside = twin_sets(mine, rule, ids)
    assert found.kept is not None and found.reference_logprobs is not None
    assert torch.equal(masks(found.kept, VOCAB), kept)
    assert torch.equal(found.kept.outside, outside) and 0 < int(outside.sum()) < COUNT
    near = {"rtol": 0, "atol": 1e-5}
    torch.testing.assert_close(found.logprobs.double(), exact_logprobs(mine, kept, ids), **near)
    exact = exact_logprobs(theirs, kept, ids)
    torch.testing.assert_close(found.reference_logprobs.double(), exact, **near)


@pytest.mark.parametrize("form", FORMS)
def test_entropy_and_distance_stay_those_of_the_whole_vocabulary_to_the_bit(
    form: tuple[float, float | None, bool],
) -> None:
    hidden, other, head, second, ids = case(form)
    plain = token_pass(hidden, other, head=head, reference_head=second, ids=ids, temperature=T)
    found = truncated(form, Support(RULES[0]))
    assert torch.equal(found.entropy, plain.entropy)
    assert torch.equal(found.hellinger_sq, plain.hellinger_sq)
    exact = twin(twin_logits(hidden, head, T), twin_logits(other, second, T), ids)
    torch.testing.assert_close(found.entropy.double(), exact.entropy, rtol=0, atol=1e-5)


@pytest.mark.parametrize("tiles", [None, *CUTS])
def test_logprobs_alone_are_those_of_the_pass_bit_for_bit(tiles: Tiles | None) -> None:
    """So that a ratio between the two is exactly 1, and with gradients as without."""
    found = truncated(FORMS[1], Support(RULES[0]), tiles)
    hidden, _, head, _, ids = case(FORMS[1])
    for live in (False, True):
        for support in (Support(RULES[0]), Support(RULES[0], found.kept)):
            hidden.requires_grad_(live)
            alone = token_logprobs(
                hidden, head=head, ids=ids, temperature=T, support=support, tiles=tiles
            )
            assert torch.equal(alone, found.logprobs)


def test_known_sets_hold_whatever_the_weights_and_the_rest_are_found() -> None:
    """Half of the tokens have the sets of other weights."""
    hidden, other, head, second, ids = case(FORMS[0])
    rule = RULES[0]
    old, _ = twin_sets(twin_logits(other + 0.3, second, T), rule, ids)
    now, outside = twin_sets(twin_logits(hidden, head, T), rule, ids)
    known = torch.arange(COUNT) % 2 == 0
    sets = KeptTokens(
        torch.where(known, old.sum(dim=1), 0).int(),
        old[known].nonzero()[:, 1].int(),
        torch.zeros(COUNT, dtype=torch.bool),
    )
    found = truncated(FORMS[0], Support(rule, sets))
    expected = torch.where(known[:, None], old, now)
    assert not torch.equal(expected, now)
    assert found.kept is not None
    assert torch.equal(masks(found.kept, VOCAB), expected)
    assert torch.equal(found.kept.outside, outside & ~known)
    exact = exact_logprobs(twin_logits(hidden, head, T), expected, ids)
    torch.testing.assert_close(found.logprobs.double(), exact, rtol=0, atol=1e-5)


def test_all_but_one_hidden_leaves_a_probability_of_1_and_no_gradient() -> None:
    hidden, _, head, _, _ = case(FORMS[0])
    ids = twin_logits(hidden, head, T).argmax(dim=-1)
    hidden.requires_grad_()
    found = token_logprobs(
        hidden, head=head, ids=ids, temperature=T, support=Support(Truncation(1.0, 1))
    )
    found.sum().backward()
    assert found.tolist() == [0.0] * COUNT
    assert hidden.grad is not None and float(hidden.grad.abs().max()) < 1e-5


@pytest.mark.parametrize("rule", RULES)
def test_a_token_without_a_finite_logit_shows_it_and_leaves_the_others_alone(
    rule: Truncation,
) -> None:
    """The trainer then skips the step; nothing here may fail."""
    hidden, _, head, _, ids = case(FORMS[0])
    whole = token_logprobs(hidden, head=head, ids=ids, temperature=T, support=Support(rule))
    broken = hidden.clone()
    broken[5] = torch.nan
    found = token_logprobs(broken, head=head, ids=ids, temperature=T, support=Support(rule))
    assert found.isnan().tolist() == [line == 5 for line in range(COUNT)]
    rest = torch.arange(COUNT) != 5
    torch.testing.assert_close(found[rest], whole[rest], rtol=0, atol=1e-6)


def test_no_tokens_give_no_sets() -> None:
    hidden, other, head, second, ids = case(FORMS[0])
    found = token_pass(
        hidden[:0],
        other[:0],
        head=head,
        reference_head=second,
        ids=ids[:0],
        temperature=T,
        support=Support(RULES[0]),
    )
    assert found.kept is not None and len(found.kept.counts) == len(found.kept.ids) == 0


def test_sets_are_cut_into_rows_and_joined_again() -> None:
    found = truncated(FORMS[0], Support(RULES[0])).kept
    assert found is not None
    mask = torch.zeros(5, 12, dtype=torch.bool)
    for row, length in enumerate((12, 3, 9, 1, 12)):
        mask[row, :length] = True
    rows = split(found, mask)
    whole = joined(rows, mask)
    assert whole is not None
    assert torch.equal(whole.counts, found.counts) and torch.equal(whole.ids, found.ids)
    assert torch.equal(whole.outside, found.outside)
    gaps = joined([rows[0], None, None, rows[3], None], mask)
    assert gaps is not None and int((gaps.counts == 0).sum()) == 3 + 9 + 12
    assert joined([None] * 5, mask) is None
    own = mask[:, :3].new_zeros(37)
    own[[4, 20, 36]] = True
    part = taken(found, own)
    assert torch.equal(masks(part, VOCAB), masks(found, VOCAB)[own])


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    pytest.importorskip("triton")
    monkeypatch.setattr(statistics, "fused_on", lambda like: True)
    yield


@pytest.mark.parametrize("form", FORMS)
def test_the_kernel_hides_the_same_tokens(
    form: tuple[float, float | None, bool], request: pytest.FixtureRequest
) -> None:
    """Tiles of which everything is hidden among them."""

    def run() -> tuple[Tensor, Tensor]:
        hidden, _, head, _, ids = case(form)
        hidden.requires_grad_()
        found = token_logprobs(
            hidden,
            head=head,
            ids=ids,
            temperature=T,
            support=Support(RULES[1]),
            tiles=Tiles(9, 50, 9),
        )
        return found, torch.autograd.grad(found.sum(), [hidden])[0]

    plain, plain_slope = run()
    request.getfixturevalue("fused")
    found, slope = run()
    torch.testing.assert_close(found, plain, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(slope, plain_slope, rtol=1e-5, atol=1e-6)
