"""Contamination: prompts that contain a problem of a benchmark."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence

from dgpo_cli.core.types import Prompt

LONG = 13
SHORT = 8
# Words and numbers, and the signs that make one sum another; marks of LaTeX and commas go.
_TOKENS = re.compile(r"\w+|[-+*/^=<>]")

Grams = tuple[str, ...]


def find_contamination(
    prompts: Sequence[Prompt], benchmarks: Mapping[str, Sequence[str]]
) -> dict[str, list[str]]:
    """Return, for every benchmark, the ids of the prompts that contain a problem of it.

    Texts are compared as lower-case words, numbers and signs of arithmetic (NFKC), so that white
    space and the marks of LaTeX do not count. A prompt contains a problem if

    - one of its turns is the problem, or
    - they share 13 tokens in a row, or
    - the problem has 8 to 12 tokens and is in the prompt as a whole.

    Shorter problems are found by the first rule only: prompts contain them by chance.

    Args:
        benchmarks: the bare problems of each, without a template.

    Source: 13-grams, and shorter ones for short texts: GPT-3, arXiv 2005.14165, appendix C.
    """
    whole, grams = _index(benchmarks)
    widths = sorted({len(gram) for gram in grams})
    found: dict[str, list[str]] = {name: [] for name in benchmarks}
    for prompt in prompts:
        hits: set[str] = set()
        for turn in prompt.messages:
            tokens = _tokens(turn.content)
            hits |= whole.get(tokens, set())
            for width in widths:
                for gram in _grams(tokens, width):
                    if gram in grams:
                        hits |= grams[gram]
        for name in hits:
            found[name].append(prompt.id)
    return found


def _index(
    benchmarks: Mapping[str, Sequence[str]],
) -> tuple[dict[Grams, set[str]], dict[Grams, set[str]]]:
    """Map whole problems, and grams of problems, to the names of their benchmarks."""
    whole: dict[Grams, set[str]] = {}
    grams: dict[Grams, set[str]] = {}
    for name, problems in benchmarks.items():
        for problem in problems:
            tokens = _tokens(problem)
            whole.setdefault(tokens, set()).add(name)
            if len(tokens) >= SHORT:
                for gram in _grams(tokens, min(LONG, len(tokens))):
                    grams.setdefault(gram, set()).add(name)
    return whole, grams


def _tokens(text: str) -> Grams:
    return tuple(_TOKENS.findall(unicodedata.normalize("NFKC", text).lower()))


def _grams(tokens: Grams, width: int) -> Iterator[Grams]:
    return (tokens[start : start + width] for start in range(len(tokens) - width + 1))
