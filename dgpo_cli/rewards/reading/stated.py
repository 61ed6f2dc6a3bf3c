r"""Reads the sentence of an answer line: "The final answer is 7.25." states 7.25.

The answer follows the last "is", "are", "equals" or the like outside formulas, without a reason or
condition after it. A sentence that denies, changes the number ("half of n is 3") or states several
things is kept whole.
"""

from __future__ import annotations

import re

MOST_WORDS = 4  # of an answer; a longer line is a remark
MAX_CHARS = 1024

_FORMULA = re.compile(r"\$\$.*?\$\$|\$.*?\$|\\\(.*?\\\)|\\\[.*?\\\]|\\[A-Za-z]+(?:\s*\{[^{}]*\})?")
_MASK = "\x01"
_STATES = re.compile(
    r"(?:\b(?:is|are|equals|be|becomes|get|have|find|obtain|gives|yields|has)"
    r"|(?<=\bit)['’]s)\b"
    r"(?:\s+(?:equal\s+to|exactly|simply|therefore|thus|hence|indeed|just|given\s+by)\b)*\s*:?\s*",
    re.IGNORECASE,
)
_WORD = re.compile(r"[A-Za-z]{2,}")
_CHANGES = re.compile(
    r"\b(?:not|never|no|none|neither|nor|cannot|wrong|incorrect|false|unless|whether|either|twice"
    r"|half|double|triple|thrice|almost|if)\b|n['’]t\b",
    re.IGNORECASE,
)
_CONDITION = re.compile(r"\s*(?:for|when|with|since|because|as|given|where|if|by)\b", re.IGNORECASE)
_HENCE = re.compile(r"\s*(?:so|thus|hence|therefore|then|and\s+so)\b", re.IGNORECASE)
_CLAUSE = re.compile(r"[,;]|\band\b|\bor\b", re.IGNORECASE)
_SAYS = re.compile(r"\b(?:is|are|equals|be)\b|=|[0-9]", re.IGNORECASE)
# After the answer: a reason, another notation, or the case in which it holds.
_AFTER_ANSWER = rf"(?<=[0-9A-Za-z{_MASK})\]}}!%])[*_]*,?\s+"
_REASON = re.compile(
    rf"{_AFTER_ANSWER}(?:because|since|which|that\s+is|i\.e\.|namely|in\s+total|in\s+all|altogether"
    r"|as\s+(?:desired|required|claimed|expected|shown|wanted)|(?:or\s+)?equivalently)(?![A-Za-z])",
    re.IGNORECASE,
)
_CASE = re.compile(rf"{_AFTER_ANSWER}(?:when|where|for|if|as|at)\b", re.IGNORECASE)
_OTHER_CASE = re.compile(r"\b(?:and|or|otherwise|else|but)\b|[,;]", re.IGNORECASE)
_NAME = re.compile(rf"[\s*_`]*(?:{_MASK}{{1,12}}|[A-Za-z])[\s*_`]*")
_STARTS = re.compile(rf"[\s*_`]*(?:[-+−±≈~$€£¥\\({{\[|0-9.√π∞∅{_MASK}]|[A-Za-z](?![A-Za-z]))")
_NOUN = re.compile(r"[\s*_`\"“]*[A-Za-z]+(?:[ -][A-Za-z]+){0,2}[\s*_`\"”.!]*")
_NO_NOUN = re.compile(
    r"[\s*_`]*(?:the|a|an|not|also|in|at|of|as|to|very|too|given|shown|above|below|found|obtained"
    r"|boxed|unknown|unclear|correct|right|true\s+that|false\s+that)\b",
    re.IGNORECASE,
)
_POINTS = re.compile(
    r"\b(?:see|above|below|box|boxed|earlier|previous|following|shown|given|explained|stated|same"
    r"|answer|solution|unknown|unclear)\b",
    re.IGNORECASE,
)


def stated(line: str) -> str:
    """Return the answer that the sentence `line` states, or `line` itself."""
    if len(line) > MAX_CHARS:
        return line
    masked = _masked(line)
    found: re.Match[str] | None = None
    for verb in _STATES.finditer(masked):
        if found is not None and _CASE.search(masked, found.end(), verb.start()):
            break  # of "It is 12 if n is even" the first one counts, else the last
        found = verb
    begin = 0
    if found is not None and _is_plain(masked[: found.start()], masked[found.end() :]):
        begin = found.end()
    elif not _STARTS.match(masked):
        return line
    return line[begin : _end_of_answer(masked, begin)].strip() or line


def _end_of_answer(masked: str, begin: int) -> int:
    """Return the end of the answer that starts at `begin`."""
    reason, case = _REASON.search(masked, begin), _CASE.search(masked, begin)
    end = reason.start() if reason else len(masked)
    if case is not None and case.start() < end and not _OTHER_CASE.search(masked, case.end(), end):
        return case.start()
    return end


def looks_like_answer(text: str) -> bool:
    """Whether `text` is an answer, not a remark such as "see the box above"."""
    masked = _masked(text[:MAX_CHARS])
    if not masked.strip(" \t\r\n*_`#.") or _POINTS.search(masked):
        return False
    return len(_WORD.findall(masked)) <= MOST_WORDS


def _masked(line: str) -> str:
    """Return `line` with every formula masked, at the same length."""
    return _FORMULA.sub(lambda found: _MASK * len(found[0]), line)


def _is_plain(subject: str, rest: str) -> bool:
    """Whether "`subject` is `rest`" states one answer, `rest`."""
    if _CHANGES.search(subject) or not rest.strip():
        return False
    if not (_STARTS.match(rest) or (_NOUN.fullmatch(rest) and not _NO_NOUN.match(rest))):
        return False
    *before, last = _CLAUSE.split(subject)
    if not _WORD.search(last) and not _NAME.fullmatch(last):
        return False  # "2x is 34"
    if _HENCE.match(last) or (before and _CONDITION.match(before[0])):
        return True
    return not any(_SAYS.search(clause) for clause in before)
