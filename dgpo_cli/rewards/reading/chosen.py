r"""Finds which option the end of a text states: "Answer: C", "the answer is (C)", a last line "C".

The last statement counts. An option that is only discussed, denied, asked about, assumed or
ascribed to others is not stated. At most `MAX_CHARS` are read, in time linear in them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from dgpo_cli.rewards.reading.options import Option, option_at, read_option
from dgpo_cli.rewards.reading.stated import looks_like_answer

MAX_CHARS = 8192
MAX_SENTENCE_CHARS = 300
MAX_LINE_CHARS = 1024

_NOUN = r"(?:answer(?:\s+(?:choice|option|letter))?|option|choice|letter|alternative|selection)"
_ADVERB = (
    r"(?:therefore|thus|hence|then|clearly|most\s+likely|likely|probably|indeed|definitely"
    r"|certainly|simply|just|actually|obviously|still|again|surely|undoubtedly|for\s+sure)"
)
_BE = r"(?:is|remains|(?:should|must|has\s+to|would|will|seems\s+to|appears\s+to)\s+be)"
_BEFORE = rf"(?:\s*[:,]?\s*(?:{_ADVERB}|the|{_NOUN}|given\s+by|labeled|as\s+follows)\b)*[\s:,]*"
_HERE = r"(?=['(\[]{0,3}[A-Za-z](?![A-Za-z0-9]))"
_IN = r"(?:[^.!?\n]|\.(?=[0-9]))"  # a sentence
_CHOOSE = r"(?:choose|pick|select|go\s+with|opt\s+for|settle\s+on|answer|conclude(?:\s+that)?)"
_WE = (
    rf"(?:(?:i|we)(?:'ll|'d|\s+will|\s+would|\s+should|\s+can|\s+must|\s+am\s+going\s+to)?|let(?:'s|\s+me))"
    rf"\s+{_CHOOSE}"
)
_IT = r"(?:it|this|that)(?:'s|\s+is|\s+must\s+be|\s+has\s+to\s+be|\s+should\s+be)"
_LEADS_TO = (
    r"(?:is|which\s+is|corresponds\s+to|matches|gives|points\s+to|closest\s+to|agrees\s+with"
    r"|leads\s+to|consistent\s+with|supports|corresponding\s+to|matching|match)"
)
_SO = (
    r"(?:so|thus|therefore|hence|ergo|consequently|accordingly|finally|overall|in\s+conclusion"
    r"|in\s+summary|conclusion|to\s+conclude|final\s+(?:decision|choice)"
    r"|(?:wait|no|actually|correction|sorry|rather|yes)(?=[,:.!—–-]))"
)
_SO_FIRST = re.compile(rf"\s*(?:and\s+)?{_SO}\b", re.IGNORECASE)
_CLAUSE = r"(?:^|(?<=[.!?;:,])[ \t]|(?<=—))[ \t']{0,8}"
_LINE = re.compile(
    rf"(?<![A-Za-z])(?:(?P<answer>answer(?:\s+(?:choice|option|letter))?)|{_NOUN})(?:\s+is)?'?(?:\s*\([^()\n]{{2,30}}\))?'?\s*(?:[:：=]|\s[-–—](?=\s))",
    re.IGNORECASE,
)
_QUALIFIED = re.compile(
    r"(?:\A|\b(?:correct|best|final|right|chosen|selected|my|our|the))\s*\Z", re.IGNORECASE
)
_STATEMENTS = tuple(
    re.compile(pattern, re.IGNORECASE | re.MULTILINE)
    for pattern in (
        # the answer ... is C
        rf"\b(?:{_NOUN}|solution|response|correct\s+statement)s?\b(?P<between>{_IN}{{0,100}}?)\b{_BE}{_BEFORE}{_HERE}",
        # so C; so it is C; I choose C; it is C
        rf"{_CLAUSE}(?:and\s+|but\s+)?{_SO}\b[,:.!—–-]?\s*(?:(?:{_IT}|{_WE}|(?:i'm|i\s+am)\s+going\s+with)"
        rf"\b)?{_BEFORE}{_HERE}",
        rf"\b(?:{_WE}|i'm\s+going\s+with|{_IT})\b{_BEFORE}{_HERE}",
        # which corresponds to option C
        rf"\b{_LEADS_TO}\s+(?:the\s+)?(?:correct\s+)?{_NOUN}\s+{_HERE}",
        r"^[ \t]*(?:final\s+|my\s+)?answer\s+" + _HERE,
    )
)
_BARE_LOWER = re.compile(r"[a-z]\b")
_IS_BRACKETED = re.compile(rf"\b{_BE}\s*:?\s*(?=\([A-Z]\))")
_LOWER_MARK = re.compile(r"\W*[a-z][).\]]")
_IS_RIGHT = re.compile(
    rf"(?:\b{_NOUN}\s+|{_CLAUSE}(?:(?:so|thus|therefore|hence|only|and|that|conclude)\s+)*"
    r"|\b(?:so|thus|therefore|hence|only|that|conclude)\s+)"
    r"(?P<option>['(\[]{0,3}(?P<letter>[A-Za-z])(?![A-Za-z0-9])['.)\]]{0,4})"
    r"(?P<text>\s*\([^()\n]{0,100}\)|:[^.:\n]{1,100}?)?,?\s+"
    rf"{_BE}\s+(?:(?:also|{_ADVERB})\s+)*(?:the\s+)?(?:(?:only|single|best|most\s+\w+)\s+)*"
    r"(?:correct|right|answer|best\s+(?:answer|choice|option))(?:\s+(?:answer|choice|option|one|response))?"
    r"(?=\s*(?:[.,;!:)\n]|\Z|(?:because|since|as|given|due|here|too)\b))",
    re.IGNORECASE | re.MULTILINE,
)
_LIMITS = re.compile(
    r"\s*,?\s*(?:but|though|although|however|while|only|if|unless|except|yet|and\s+(?:so\s+is\s+)?"
    r"(?:option\s+|choice\s+)?\(?[A-Z]\b)|\s*\?"
)
# A sentence with one of these states nothing: it supposes, or says what others say.
_SUPPOSES = re.compile(
    r"\b(?:(?<!even )if|whether|unless|suppose|supposing|assume|assuming|imagine|were|had|why"
    r"|according\s+to|told|heard|supposedly|allegedly|previous"
    r"|consider(?:ing)?(?!\s+(?:all|the|these|this|everything|that))"
    r"|(?:check|verify)(?:ing)?\s+(?:whether|if|that|option|choice))\b"
    r"|\b(?:they|one|students?|you|people|many|some|others?|someone|he|she|author|tempted)\b[^,.]*"
    r"\b(?:thinks?|says?|believes?|argues?|guess(?:es)?|expects?|choose|chooses|pick|picks|claims?"
    r"|conclude|concludes|assumes?|select|selects|answer|answered)\b",
    re.IGNORECASE,
)
# Nor does a clause with one of these: it denies or doubts.
_DENIES = re.compile(
    r"\b(?:not|never|cannot|neither|nor|no(?!\s*[,:.!—–-])(?!\s+doubt)|wrong|incorrect|false"
    r"|(?<!no )(?<!a )doubt|might|may|could|common|tempting|trap|distractors?|naive|earlier"
    r"|initially|initial|originally|either|what|which\s+would|than)\b|n't\b",
    re.IGNORECASE,
)
# What may stand between a comma and the statement, if that is a clause of its own.
_CLAUSE_BEGINS = re.compile(
    r"\s*(?:(?:and|but|yet|still|actually|now|the|our|my|we|i|this|it|only|so|then|final|correct|best|right|most|likely"
    r"|closest|nearest|option|choice|answer)\b\s*)*",
    re.IGNORECASE,
)
_REVERSES = re.compile(
    r"(?:^|(?<=[.!?])[ \t])\W*(?:but\s+)?(?:wait|hmm+|hold\s+on|actually|scratch\s+that|correction"
    r"|oops|sorry|on\s+second\s+thought|no(?=[,.:!—–-]))\b[^\n]{0,200}?\b(?:wrong|mistakes?"
    r"|mistaken|errors?|incorrect|should\s+be|should\s+have|is\s+not|isn't|can't|cannot|instead"
    r"|misread|meant|change|forgot|it's|it\s+is)\b",
    re.IGNORECASE | re.MULTILINE,
)
_DOUBTS = re.compile(
    r"(?:^|(?<=[.!?])[ \t])\W*(?:wait|hmm+|hold\s+on|actually|but|however|no(?=[,.:!—–-]))\b",
    re.IGNORECASE | re.MULTILINE,
)
_SENTENCE_EDGE = re.compile(
    r"[.!?;](?=\s)|\n|[,\s](?=(?:so|thus|therefore|hence|which\s+means)\b)", re.IGNORECASE
)
_OPTION_LINE = re.compile(r"^[ \t]*(?:option\s+|choice\s+)?\(?([A-Za-z])(?:\)|[.:](?=\s))", re.M)
_INLINE_MARK = re.compile(r"\s\(?([A-Z])\)\s")
_LONE = re.compile(r"^\W*[A-Za-z]\W*\n\Z", re.MULTILINE)
_GOES_ON = re.compile(r"\s*[a-z]")
_ROMAN = re.compile(r"^\W*II\b", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Statement:
    """What is stated, and where.

    letter: None if the statement names no one option. shown: its text.
    firm: an answer line or "the answer is", which later doubts alone do not touch.
    in_words: an answer line that names no option at all.
    """

    at: int
    end: int
    letter: str | None
    shown: str
    firm: bool
    in_words: bool = False


def last_statement(text: str, *, whole: bool, cut: bool) -> Statement | None:
    """Return the last statement in `text`, which is `cleaned`; None if it states no option.

    whole: the text has its beginning, and may open with the answer.
    cut: the token limit ended the text: a statement that only the limit ended is skipped.
    """
    found = [*_answer_lines(text, cut=cut), *_sentences(text), *_called_right(text)]
    if cut:
        found = [each for each in found if text[each.end :].strip(" .)*'")[:1] != ""]
    if not cut:
        found += _closing_line(text)
    found.sort(key=lambda each: (each.at, each.firm))
    while found:
        last = found.pop()
        after = text[last.end :]
        if not last.firm and _DOUBTS.search(after):
            continue  # "This is option B. But ..."
        if _REVERSES.search(after) and not (last.letter and _confirmed(last.letter, after)):
            return Statement(last.at, last.end, None, last.shown, last.firm)
        return last
    return _opening_line(text) if whole and not cut else None


def _confirmed(letter: str, after: str) -> bool:
    """Whether a check of the answer ended in "so C stands"."""
    stands = rf"\b(?:{letter}\)?|answer)\s+(?:still\s+)?(?:stands|holds|remains)\b"
    return re.search(stands, after) is not None


def _answer_lines(text: str, *, cut: bool) -> list[Statement]:
    lines = []
    for found in _LINE.finditer(text):
        before = _sentence_before(text, found.start())
        if _is_denied(before) or not (found["answer"] or _QUALIFIED.search(before)):
            continue  # "we check each option:"
        begin = found.end()
        while begin < len(text) and text[begin].isspace():
            begin += 1
        stop = text.find("\n", begin, begin + MAX_LINE_CHARS)
        if stop < 0 and (cut or len(text) - begin > MAX_LINE_CHARS):
            continue
        line = text[begin : stop if stop >= 0 else begin + MAX_LINE_CHARS].strip()
        option = read_option(line)
        if option is not None:
            lines.append(Statement(begin, begin + option.end, option.letter, line, firm=True))
        elif found["answer"] is not None and looks_like_answer(line):
            end = begin + len(line)
            lines.append(Statement(begin, end, None, line, firm=True, in_words=True))
    return lines


def _sentences(text: str) -> list[Statement]:
    sentences = []
    for number, pattern in enumerate(_STATEMENTS):
        for found in pattern.finditer(text):
            option = option_at(text, found.end())
            if option is None or not _is_clear(text, found, option):
                continue
            far = number > 1 or (number == 1 and "\n" in found[0].lstrip())
            if far and _BARE_LOWER.match(text, found.end()):
                continue  # n choose k
            firm = number == 0 or option.letter is None
            sentences.append(_statement(text, found.end(), option.end, option.letter, firm=firm))
    return sentences


def _is_clear(text: str, found: re.Match[str], option: Option) -> bool:
    """Whether the sentence states its option, and is not about an article or a pronoun."""
    before = ""
    if _SO_FIRST.match(found[0]) is None:
        before = _sentence_before(text, found.start())
    return not _is_denied(before, found[0]) and "?" not in text[option.end : option.end + 3]


def _is_denied(before: str, statement: str = "") -> bool:
    """Whether a sentence does not state what it says. before: its part before the statement."""
    if _SUPPOSES.search(before + statement):
        return True
    clause = before.rpartition(",")[2]
    if _CLAUSE_BEGINS.fullmatch(clause):
        before = clause
    return _DENIES.search(before + statement) is not None


def _called_right(text: str) -> list[Statement]:
    """Return "option C is correct"; several such options are not an answer."""
    called = []
    for found in _IS_RIGHT.finditer(text):
        before = _sentence_before(text, found.start("option"))
        bare = found["letter"].islower() and not found["option"].startswith("(")
        if bare or _is_denied(before, found["text"] or ""):
            continue
        if _LIMITS.match(text, found.end()):
            continue
        letter = found["letter"].upper()
        called.append(_statement(text, found.start("option"), found.end(), letter, firm=False))
    if len({each.letter for each in called}) > 1:
        last = called[-1]
        called.append(Statement(last.at, last.end, None, last.shown, firm=False))
    return called


def _statement(text: str, at: int, end: int, letter: str | None, *, firm: bool) -> Statement:
    stop = text.find("\n", end, at + MAX_LINE_CHARS)
    shown = text[at : stop if stop >= 0 else at + MAX_LINE_CHARS].strip()
    return Statement(at, end, letter, shown, firm)


def _sentence_before(text: str, at: int) -> str:
    """Return the part of the sentence before `at`."""
    begin = max(0, at - MAX_SENTENCE_CHARS)
    for edge in _SENTENCE_EDGE.finditer(text, begin, at):
        begin = edge.end()
    return text[begin:at]


def _closing_line(text: str) -> list[Statement]:
    """Return the last line if it is an option, and not one of several listed; else what it says.

    In "Thus the most likely cause is (D) a fracture." an option in brackets is the last word.
    """
    end = len(text.rstrip())
    begin = text.rfind("\n", 0, end) + 1
    whole = _whole_line(text, begin, end)
    if whole is not None:
        return [whole]
    said = []
    for found in _IS_BRACKETED.finditer(text, max(begin, end - MAX_LINE_CHARS), end):
        option = option_at(text, found.end())
        if option is not None and _is_clear(text, found, option):
            said.append(_statement(text, found.end(), option.end, option.letter, firm=False))
    return said[-1:]


def _opening_line(text: str) -> Statement | None:
    begin = len(text) - len(text.lstrip())
    end = text.find("\n", begin)
    if end < 0:
        return None  # it was the closing line
    found = _whole_line(text, begin, end)
    if found is not None and found.letter is not None and _REVERSES.search(text, end):
        return None
    return found


def _whole_line(text: str, begin: int, end: int) -> Statement | None:
    line = text[begin:end].strip()
    if not line or len(line) > MAX_LINE_CHARS:
        return None
    option = read_option(line)
    if option is not None and option.has_text and _LOWER_MARK.match(line):
        return None  # (a) The first part asks ...
    if option is not None and _BARE_LOWER.fullmatch(line) and text.strip() != line:
        return None  # a variable
    if option is None or (option.letter == "I" and _GOES_ON.match(text, end)):
        return None
    at = begin + text[begin:end].index(line)
    letters = {found[1].upper() for found in _OPTION_LINE.finditer(text)}
    listed = bool(letters - {option.letter}) or (option.letter == "I" and _ROMAN.search(text))
    inline = {found[1] for found in _INLINE_MARK.finditer(line)} - {option.letter}
    if option.has_text and (listed or inline):
        return None
    if not option.has_text and _LONE.search(text, max(0, begin - 20), begin):
        return Statement(at, at + option.end, None, line, firm=False)
    return Statement(at, at + option.end, option.letter, line, firm=False)
