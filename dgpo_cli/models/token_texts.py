"""The text of single tokens, where one character may be spread over several of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

REPLACEMENT = "\ufffd"  # what decoders give for bytes that are not (yet) a character
MAX_PARTS = 4  # a UTF-8 character has at most 4 bytes, so at most 4 tokens


def token_texts(
    token_ids: Sequence[int], *, decode: Callable[[Sequence[int]], str]
) -> tuple[str, ...]:
    """The text of every token, such that the joined texts are the decoded completion.

    A character that is split over several tokens is the text of the token that completes it; the
    parts before have the text "". Tokens that never become a character keep what `decode` gives,
    U+FFFD. Each token is decoded behind the last whole one, because some decoders strip the space
    that starts a text.
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
