"""The text of single tokens, where one character may be spread over several of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dgpo_cli.core.thinking import is_part_of_mark

REPLACEMENT = "\ufffd"  # what decoders give for bytes that are not (yet) a character
MAX_PARTS = 4  # a UTF-8 character has at most 4 bytes, so at most 4 tokens


def completion_text(tokenizer: Any, token_ids: Sequence[int]) -> str:
    """Return the text of a completion without special tokens, except those that mark thoughts."""
    added: Mapping[int, Any] = getattr(tokenizer, "added_tokens_decoder", {})
    special = {token_id: str(token) for token_id, token in added.items() if token.special}
    marks = {token_id for token_id, text in special.items() if is_part_of_mark(text)}
    if marks.isdisjoint(token_ids):
        return str(tokenizer.decode(list(token_ids), skip_special_tokens=True))
    kept = [i for i in token_ids if i not in special or i in marks]
    return str(tokenizer.decode(kept, skip_special_tokens=False))


def spelled(tokenizer: Any, token_ids: Sequence[int]) -> str:
    """Return the text of token ids, all special tokens included."""
    return str(tokenizer.decode(list(token_ids), skip_special_tokens=False))


def token_texts(
    token_ids: Sequence[int], *, decode: Callable[[Sequence[int]], str]
) -> tuple[str, ...]:
    """Return the text of every token; joined, the texts are the decoded completion.

    A character that is split over several tokens belongs to the token that completes it; the others
    have the text "". Tokens that never become a character have U+FFFD, as `decode` gives it. Each
    token is decoded after the last whole one, because some decoders strip a leading space.
    """
    texts: list[str] = []
    before: Sequence[int] = ()
    before_text = ""
    start = 0
    while start < len(token_ids):
        size = 1
        for size in range(1, min(MAX_PARTS, len(token_ids) - start) + 1):
            part = token_ids[start : start + size]
            text = decode([*before, *part])[len(before_text) :]
            if not text.endswith(REPLACEMENT):
                break
        if REPLACEMENT in text:  # no character begins here
            size, part = 1, token_ids[start : start + 1]
            text = decode(part)
        texts.extend([""] * (size - 1))
        texts.append(text)
        before, before_text = part, decode(part)
        start += size
    return tuple(texts)
