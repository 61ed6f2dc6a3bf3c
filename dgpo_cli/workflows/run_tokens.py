"""The tokens of a run's rollouts as text, by the tokenizer that the run has stored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dgpo_cli.errors import DataError
from dgpo_cli.models.token_texts import token_texts
from dgpo_cli.workflows.run_folder import RunFolder


class TokenTexts:
    """The text of single token ids, read with the tokenizers library alone: no model is loaded."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    @classmethod
    def of_run(cls, rollouts: Path) -> TokenTexts:
        """Find the tokenizer beside a run's rollouts."""
        from tokenizers import Tokenizer

        file = RunFolder(rollouts.parent.parent).tokenizer_dir / "tokenizer.json"
        if not file.exists():
            raise DataError(f"{rollouts}: no {file} to show its tokens with; give --model")
        return cls(Tokenizer.from_file(str(file)))

    def of(self, ids: Sequence[int]) -> tuple[str, ...]:
        return token_texts(
            ids, decode=lambda part: self._tokenizer.decode(list(part), skip_special_tokens=False)
        )
