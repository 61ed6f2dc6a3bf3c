r"""Finds unusable gold answers before anything is sampled.

They are empty, a placeholder ("N/A"), a proof or other text, several lines, or incomplete: half an
interval, an unclosed brace.
"""

from __future__ import annotations

import re

MOST_WORDS = 12  # outside formulas; a longer text is not comparable
MAX_CHARS = 4096  # that the math checker reads
SHOWN_CHARS = 80

_MISSING = re.compile(
    r"(?:\\text\s*\{)?(?:N/A|n/a|N\.A\.)\}?|NaN|nan|null|NULL|None|TBD|tbd"
    r"|(?i:see|refer\s+to)\s.*|(?i:answers?)\s+(?:may\s+|will\s+)?var(?:y|ies)\W*",
)
_EMPTY = re.compile(
    r"(?:\\(?:boxed|text|textbf|mathrm|[()\[\],;!])|[\s${}.,;:?*_`-])*", re.IGNORECASE
)
_PROOF = re.compile(
    r"(?:the\s+)?proof\b|(?:we|to)\s+(?:prove|show)\b|prove\b|\\begin\s*\{proof\}|.*(?:\\qed|\\blacksquare|∎|Q\.?E\.?D\.?)\W*\Z",
    re.IGNORECASE | re.DOTALL,
)
_FORMULA = re.compile(r"\$\$.*?\$\$|\$[^$]*\$|\\\(.*?\\\)|\\\[.*?\\\]", re.DOTALL)
_ENVIRONMENT = re.compile(r"\\begin\s*\{([a-z]+\*?)\}.*?\\end\s*\{\1\}", re.DOTALL)
_COMMAND = re.compile(r"\\[A-Za-z]+")
_WORD = re.compile(r"[A-Za-z]{2,}")
_CHOICE = re.compile(r"\(?[A-Z0-9]\)")
_BREAKS_OFF = re.compile(r"(?:[=+*/^_<>≤≥]|(?<!\\)\\|-)\s*\$*\Z")
_BRACKET = re.compile(
    r"\\(?:left|right)\s*\.|\\?[{}]|\\\\|[()\[\]]|\\[lr]brace|\\[lr](?:vert|angle)"
)


def why_unusable(gold: str) -> str | None:
    """Return why no answer can be compared with `gold`, or None."""
    text = gold.strip()
    if _EMPTY.fullmatch(text):
        return "is empty" if not text else "has no content"
    if len(text) > MAX_CHARS:
        return f"has {len(text):,} characters"
    if _MISSING.fullmatch(text.strip("$ ")):
        return "is a placeholder"
    if _PROOF.match(text):
        return "is a proof"
    lines = _ENVIRONMENT.sub("environment", _FORMULA.sub("formula", text)).splitlines()
    count = sum(1 for line in lines if line.strip())
    if count > 1:
        return f"has {count:,} lines"
    words = len(_WORD.findall(_COMMAND.sub(" ", _FORMULA.sub(" ", text))))
    if words > MOST_WORDS:
        return f"is a text of {words:,} words"
    if not _CHOICE.fullmatch(text) and (_BREAKS_OFF.search(text) or not _is_closed(text)):
        return "is incomplete: a bracket, a brace or the right side is missing"
    return None


def _is_closed(text: str) -> bool:
    r"""Whether every bracket has a partner, of any kind, as in `[1, 2)` and `]1, 2[`."""
    braces = sets = rounds = squares = opened = 0
    for found in _BRACKET.finditer(text):
        match found[0]:
            case "{":
                braces += 1
            case "}":
                braces -= 1
            case "\\{" | "\\lbrace":
                sets += 1
            case "\\}" | "\\rbrace":
                sets -= 1
            case "(":
                rounds += 1
            case ")":
                rounds -= 1
            case "[" | "]":
                squares += 1
            case half if half.startswith(("\\left", "\\right")):
                opened += 1  # \right. closes anything
        if braces < 0:
            return False
    if opened:
        return braces == 0
    return braces == 0 and sets == 0 and (rounds + squares) % 2 == 0 and abs(rounds) <= squares
