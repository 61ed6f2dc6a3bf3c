"""The bytes of a text's tokens, joined, are the text's own, whatever kind of tokenizer cut it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from dgpo_cli.core.resources import resource_dir
from dgpo_cli.runs.token_texts import TokenBytes
from tests.policy.tiny import char_tokenizer

TEXTS = ["1+1=2;", " the\tcat\r\n", "é😀你好", "a\x00\x7f\x9b\u202e", "<|end|>", "▁ _"]


def embedded() -> Any:
    return Tokenizer.from_file(str(resource_dir("data") / "tiny" / "tokenizer.json"))


def sentencepiece() -> Any:
    """Words with ▁ for the space, and a token for each byte."""
    words = ["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "t", "h", "e", "1"]
    vocabulary = {word: at for at, word in enumerate(words)}
    made = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    made.add_special_tokens([AddedToken("<s>", special=True)])
    return made


def byte_level() -> Any:
    """A vocabulary of the bytes alone."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({char: at for at, char in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return made


def joined(tokenizer: Any, text: str) -> bytes:
    found = TokenBytes(tokenizer)
    return b"".join(found.of(i) for i in tokenizer.encode(text, add_special_tokens=False).ids)


@pytest.mark.parametrize("make", [embedded, sentencepiece, byte_level])
@pytest.mark.parametrize("text", TEXTS)
def test_bytes_join_to_the_text(make: Callable[[], Any], text: str) -> None:
    # A tokenizer of this kind takes a real ▁ for a space: that is lost before any token is made.
    wanted = text.replace("▁", " ") if make is sentencepiece else text
    assert joined(make(), text) == wanted.encode()


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_bytes_of_byte_level_tokens_join_to_any_text(text: str) -> None:
    assert joined(byte_level(), text) == text.encode()


def test_a_part_of_a_character_has_its_own_bytes() -> None:
    tokenizer = byte_level()
    found = TokenBytes(tokenizer)
    ids = tokenizer.encode("é", add_special_tokens=False).ids
    assert [found.of(i) for i in ids] == [b"\xc3", b"\xa9"]


def test_added_tokens_are_their_text_and_unknown_ids_nothing() -> None:
    found = TokenBytes(embedded())
    assert found.of(1) == b"<|end|>"
    assert found.of(10**9) == b""
    assert TokenBytes(sentencepiece()).of(1) == b"<s>"


def test_a_tokenizer_of_whole_words_gives_their_utf8() -> None:
    assert joined(char_tokenizer().backend_tokenizer, "12+x") == b"12+x"
