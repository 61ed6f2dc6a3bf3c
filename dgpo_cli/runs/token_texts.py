"""How token ids read, by the tokenizers library alone where no model is loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dgpo_cli.core.errors import DataError
from dgpo_cli.core.token_texts import token_texts
from dgpo_cli.runs.run_folder import RunFolder


class TokenTexts:
    """The text of single token ids, and their bytes in hex."""

    def __init__(self, decode: Callable[[Sequence[int]], str], *, backend: Any | None) -> None:
        """Take a decoder that keeps special tokens, and the tokenizer of the tokenizers library.

        Without the second, bytes are not known.
        """
        from dgpo_cli.runs.token_bytes import TokenBytes

        self._decode = decode
        self._bytes = None if backend is None else TokenBytes(backend)

    @classmethod
    def of_backend(cls, backend: Any) -> TokenTexts:
        return cls(
            lambda ids: backend.decode(list(ids), skip_special_tokens=False), backend=backend
        )

    @classmethod
    def of_model(cls, tokenizer: Any) -> TokenTexts:
        """Take the tokenizer of a model that is loaded."""
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is not None:
            return cls.of_backend(backend)
        return cls(
            lambda ids: str(tokenizer.decode(list(ids), skip_special_tokens=False)), backend=None
        )

    @classmethod
    def of_run(cls, rollouts: Path) -> TokenTexts:
        """Find the tokenizer beside a run's rollouts.

        Raises:
            DataError: there is none, or it cannot be read.
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
        """Return the text of every token; joined they are the completion."""
        return token_texts(ids, decode=self._decode)

    def after(self, before: int | None, token_id: int) -> str:
        """Return the text of a token that would follow another."""
        ids = [token_id] if before is None else [before, token_id]
        return self.texts(ids)[-1]

    def hexes(self, ids: Sequence[int]) -> list[str]:
        """Return the bytes of every token in hex."""
        if self._bytes is None:
            return [""] * len(ids)
        return [self._bytes.of(i).hex() for i in ids]
