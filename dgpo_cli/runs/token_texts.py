"""Text and bytes of token ids, by the tokenizers library alone if no model is loaded."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from dgpo_cli.core.errors import DataError
from dgpo_cli.core.token_texts import token_texts
from dgpo_cli.runs.run_folder import RunFolder


class TokenTexts:
    """The text of single token ids, and their bytes in hex."""

    def __init__(self, decode: Callable[[Sequence[int]], str], *, backend: Any | None) -> None:
        """
        Args:
            decode: keeps special tokens.
            backend: tokenizer of the tokenizers library; None: bytes are unknown.
        """
        self._decode = decode
        self._bytes = None if backend is None else TokenBytes(backend)

    @classmethod
    def of_backend(cls, backend: Any) -> TokenTexts:
        return cls(
            lambda ids: backend.decode(list(ids), skip_special_tokens=False), backend=backend
        )

    @classmethod
    def of_model(cls, tokenizer: Any) -> TokenTexts:
        """Use the tokenizer of a loaded model."""
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is not None:
            return cls.of_backend(backend)
        return cls(
            lambda ids: str(tokenizer.decode(list(ids), skip_special_tokens=False)), backend=None
        )

    @classmethod
    def of_run(cls, rollouts: Path) -> TokenTexts:
        """Use the tokenizer in the folder of a run's rollouts.

        Raises:
            DataError: it is missing or cannot be read.
        """
        from tokenizers import Tokenizer

        file = RunFolder(rollouts.parent.parent).tokenizer_dir / "tokenizer.json"
        if not file.exists():
            raise DataError(f"{rollouts}: no {file} to show its tokens with; give --model")
        try:
            return cls.of_backend(Tokenizer.from_file(str(file)))
        except Exception as error:  # the library raises nothing more precise
            raise DataError(f"{file}: not a tokenizer: {error}; give --model") from error

    def texts(self, ids: Sequence[int]) -> tuple[str, ...]:
        """Return the text of every token; joined, they are the completion."""
        return token_texts(ids, decode=self._decode)

    def after(self, before: int | None, token_id: int) -> str:
        """Return the text of a token after another."""
        ids = [token_id] if before is None else [before, token_id]
        return self.texts(ids)[-1]

    def hexes(self, ids: Sequence[int]) -> list[str]:
        """Return the bytes of every token in hex."""
        if self._bytes is None:
            return [""] * len(ids)
        return [self._bytes.of(i).hex() for i in ids]


_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _byte_level_alphabet() -> dict[str, int]:
    """Return the byte that each character of a byte-level vocabulary stands for.

    Bytes that are printable in Latin-1 stand for themselves; the others follow in order from
    U+0100. Source: Radford et al., "Language Models are Unsupervised Multitask Learners".
    """
    own = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    moved = [byte for byte in range(0x100) if byte not in own]
    return {chr(byte): byte for byte in own} | {chr(0x100 + at): b for at, b in enumerate(moved)}


class TokenBytes:
    """The bytes of token ids, from the vocabulary of a tokenizer of the `tokenizers` library.

    A token that is a part of a character has no text, but bytes.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._added = {
            int(token_id): str(token.content)
            for token_id, token in tokenizer.get_added_tokens_decoder().items()
        }
        steps = list(_steps(tokenizer.decoder))
        kinds = {step["type"] for step in steps}
        self._alphabet = _byte_level_alphabet() if "ByteLevel" in kinds else None
        self._has_bytes = "ByteFallback" in kinds
        self._replaced = [pair for step in steps for pair in _replacements(step)]
        self._found: dict[int, bytes] = {}

    def of(self, token_id: int) -> bytes:
        """Return the bytes of a token; none for an id outside the vocabulary."""
        if token_id not in self._found:
            self._found[token_id] = self._look_up(token_id)
        return self._found[token_id]

    def _look_up(self, token_id: int) -> bytes:
        if token_id in self._added:
            return _utf8(self._added[token_id])
        token = self._tokenizer.id_to_token(token_id)
        if token is None:
            return b""
        if self._has_bytes and (match := _BYTE.fullmatch(token)):
            return bytes.fromhex(match[1])
        for pattern, content in self._replaced:
            token = token.replace(pattern, content)
        if self._alphabet is None:
            return _utf8(token)
        return b"".join(
            bytes([self._alphabet[char]]) if char in self._alphabet else _utf8(char)
            for char in token
        )


def _steps(decoder: Any) -> Iterator[dict[str, Any]]:
    """Yield the steps of a decoder; sequences are flattened."""
    if decoder is None:
        return
    waiting = [json.loads(decoder.__getstate__())]
    while waiting:
        step = waiting.pop(0)
        if step["type"] == "Sequence":
            waiting = [*step["decoders"], *waiting]
        else:
            yield step


def _replacements(step: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the texts that a decoder replaces, with their replacements."""
    if step["type"] == "Metaspace":
        yield str(step["replacement"]), " "
    if step["type"] == "Replace" and isinstance(step["pattern"].get("String"), str):
        yield step["pattern"]["String"], str(step["content"])


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", errors="surrogatepass")
