"""Laws of token texts: they join to the decoded completion, whatever the tokens cut through."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dgpo_cli.core.token_texts import token_texts

EMOJI = "😀".encode()  # f0 9f 98 80


def decode_bytes(token_ids: list[int] | tuple[int, ...]) -> str:
    """A byte-level tokenizer: a token is a byte."""
    return bytes(token_ids).decode("utf-8", errors="replace")


def test_a_split_character_belongs_to_the_token_that_completes_it() -> None:
    assert token_texts(b"a" + EMOJI + b"b", decode=decode_bytes) == ("a", "", "", "", "😀", "b")


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd")))
def test_token_texts_join_to_the_decoded_completion(text: str) -> None:
    ids = text.encode()
    assert "".join(token_texts(ids, decode=decode_bytes)) == text


def test_bytes_that_are_no_character_do_not_swallow_their_neighbours() -> None:
    ids = b"\xf0" + EMOJI + b"\x80a"
    assert token_texts(ids, decode=decode_bytes) == ("\ufffd", "", "", "", "😀", "\ufffd", "a")


def test_a_decoder_that_strips_a_leading_space_loses_no_space() -> None:
    words = {1: "▁the", 2: "▁cat", 3: "s"}

    def decode(ids: list[int] | tuple[int, ...]) -> str:
        return "".join(words[token_id] for token_id in ids).replace("▁", " ").removeprefix(" ")

    assert token_texts([1, 2, 3], decode=decode) == ("the", " cat", "s")
