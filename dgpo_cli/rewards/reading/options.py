r"""Reads the letter of an option: `\textbf{(C)}\ 12`, `C. 12 m/s`, `option c` and `C, because ...`.

A letter alone is an option; with words beside it only where they are its text, a reason or a name
for it. An article, a pronoun, a variable, a unit or a part of a formula is none.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from dgpo_cli.rewards.spelling import in_ascii

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
MAX_REST_CHARS = 1024  # that are read after a letter

_FONT = r"\\(?:text|textbf|textrm|textit|textsf|texttt|textnormal|mbox|emph|underline)"
_EMOJI = re.compile("[\u2600-\u27a0\u27a2-\u27bf\u2b50\u2b55\ufe0f\U0001f000-\U0001faff]")
_STRUCK = re.compile(r"~~[^~\n]{0,80}~~|\\(?:cancel|sout)\s*\{[^{}]*\}")
_DOUBLED = re.compile(r"\\\\(?=[A-Za-z(]{2})")
_TAG = re.compile(r"</?(?:b|strong|em|u)>", re.IGNORECASE)
_ANSWER_TAG = re.compile(r"<(/?)answer>", re.IGNORECASE)
_TOKEN = re.compile(r"<(?:[/|][^<>\n]{0,40}|[A-Z][A-Z_]{2,30}|eos|end_of_turn|pad|s|br)>")
# A letter of its own in bold, or in a text command that no formula continues.
_EMPHASIS = re.compile(r"(\*\*|__)\s*\(?\s*([A-Za-z])\s*\)?\s*[.):,]?\s*\1")
_FONT_LETTER = re.compile(
    rf"{_FONT}\s*\{{\s*\(?\s*([A-Za-z])\s*\)?\s*[.):]?\s*\}}"
    rf"(?=\s*(?:\Z|[.,;:!)\]}}$]|\\[)\] ,;:!]|\\q?quad(?![A-Za-z])|\\\\|~|{_FONT}\s*\{{[\s:.,)~(]"
    r"|\s[A-Za-z0-9(]))"
)
_FONT_GROUP = re.compile(rf"{_FONT}\s*\{{\s*\(\s*([A-Za-z])\s*\)(?=[^{{}}]*\}})")
_MATH_FONT = re.compile(r"\\(?:mathbf|mathrm|mathit|mathsf|boldsymbol|bm)(?![A-Za-z])\s*")
_COMMAND = re.compile(
    rf"{_FONT}\s*(?=\{{)|\\(?:boxed|fbox|framebox)\s*(?=\{{)"
    r"|\\(?:left|right|displaystyle|textstyle|large|Large|bf|rm)(?![A-Za-z])|\\[()\[\]]"
    r"|[$`]|\*\*+|__+"
)
_ITALIC = re.compile(r"(?<![\w*])\*(?=\S)([^*\n]{1,200}?)(?<=\S)\*(?![\w*])")
_SPACE = re.compile(r"\\[ ,;:!]|\\q?quad(?![A-Za-z])|~|\\\\")
_BRACE = re.compile(r"(?<!\\)[{}]")
_LINE_MARK = re.compile(r"^[ \t]*(?:(?:[#>]+|[-+•●▪*])[ \t]+)+", re.MULTILINE)
_QUOTES = dict.fromkeys(map(ord, '"“”„«»'), None) | dict.fromkeys(map(ord, "’‘`´"), "'")

_LETTER = re.compile(
    r"'(?P<quoted>[A-Za-z])'|(?P<open>'?[(\[]+'?\s*)(?P<within>[A-Za-z])\s*'?[)\]]+'?"
    r"|(?P<bare>[A-Za-z])(?![A-Za-z0-9'])"
)
_MARK = re.compile(r"\)|[.:](?=\s|\Z)|\s+[-–—](?=\s)|\s*[–—]")
_SHUT = re.compile(r"[\s'.!,;:)\]}|]*")  # nothing that is said
_OPERATOR = re.compile(
    r"\s*(?:[-=+*/^_<>≤≥≠≈×·→⇒±%°|&]|\\(?:times|cdot|div|pm|mp|to|[Rr]ightarrow|in|notin|cup|cap|wedge"
    r"|vee|land|lor|leq?|geq?|neq?|approx|sim|equiv|circ|perp|parallel|propto|oplus|otimes|mid)"
    r"(?![A-Za-z]))"
)
_COMMAND_NEXT = re.compile(r"\s*\\[A-Za-z]")
_LIST = re.compile(
    r"(?:[\s,;/&+.:)(\[\]']|\b(?:or|and|then|option|choice|both)\b|\b[A-Za-z]\b)*", re.IGNORECASE
)
_OTHER = re.compile(
    r"[\s.)(\[]*(?P<joint>(?:or|and|as\s+well\s+as|plus|along\s+with|together\s+with|vs\.?|maybe|possibly|perhaps)\b|[,;/&+])"
    r"(?:[\s(\[',;]|(?:or|and|either|also|maybe|possibly|perhaps|even|option|choice|answer|along\s+with"
    r"|together\s+with|in\s+addition\s+to)\b)*"
    r"(?P<letter>[A-Z])\b(?![A-Za-z0-9'=])(?P<rest>.*)",
    re.DOTALL,
)
_ABOUT_IT = re.compile(
    r"[)\]']*\s+(?:is|was|are|can|cannot|can't|does|doesn't|has|fails|would|isn't|violates"
    r"|contradicts|gives|says|ignores)\b(?P<said>[^.\n]*)",
    re.IGNORECASE,
)
_WORKS_TOO = re.compile(
    r"\b(?:also|too|possible|plausible|valid|works?|acceptable|could|might|may)\b"
    r"|(?<!not )(?<!n't )(?<!never )(?<!in)\b(?:correct|right|true)\b",
    re.IGNORECASE,
)
_MARKED_OTHER = re.compile(
    r"(?:\b(?:or|and)|[,;])\s+(?:(?:option|choice)\s+)?(?:\([A-Z]\)|[A-Z][).:](?=\s|\Z)|[A-Z]\W*\Z)"
    r"|\s[A-Z]\)\s"
)
_NEGATION = re.compile(
    r"\b(?:not|cannot|neither|nor|never|rather\s+than|unlike|than)\b|n't\b", re.I
)
_OF_OPTIONS = re.compile(
    r"\s*(?:both|either|neither|none|all|only|any|a\s+combination|\(?[A-Z]\)?(?:\s*,\s*\(?[A-Z]\)?)*"
    r",?\s+(?:and|or|&)\s+\(?[A-Z]\)?(?:\s+only|\s+are\s+correct)?\W*\Z)",
    re.IGNORECASE,
)
_TAKES_BACK = re.compile(
    r"(?:\A|[.!?;,–—-])\s*(?:but\s+)?(?:wait|hmm+|hold\s+on|actually|scratch\s+that|correction|oops"
    r"|sorry|on\s+second\s+thought|(?<=[.!?;,–—-]\s)no(?=\s*[,.:;!–—-])"
    r"|no(?=\s*[,.:;!–—-]\s*(?:wait\b|it(?:'s|\s+is)\b|the\s+(?:answer|correct|right)\b|that(?:'s|\s+is)\b"
    r"|\(?[A-Z]\)?(?![A-Za-z']))))\b",
    re.IGNORECASE,
)
_DENIED = re.compile(
    r"\W*(?:which\s+)?(?:is\s+|are\s+|was\s+)?(?:also\s+|clearly\s+|definitely\s+|therefore\s+)?"
    r"(?:not\s+(?:the\s+)?(?:correct|right|answer|true)|wrong|incorrect|eliminated|ruled\s+out"
    r"|rejected|excluded|discarded|fails|(?:isn't|(?:can't|cannot|couldn't|might|may|could)\s+be)"
    r"\s+(?:the\s+)?(?:correct|right|answer|true|valid|ruled|excluded))\b"
)
_NO = re.compile(r"\s*(?:no|yes)\b(?!\s+[a-z])")
_IS = re.compile(r"\W*(?:is|was|are|has|does|can|will|would|should|must|says|states)\b")
_IS_RIGHT = re.compile(
    r"\W*(?:is|must\s+be|would\s+be)\s+(?:therefore\s+|thus\s+|clearly\s+|indeed\s+)?(?:the\s+)?"
    r"(?:only\s+|best\s+|most\s+(?:likely|accurate|appropriate)\s+)?"
    r"(?:correct|right|answer|best)(?:\s+(?:answer|choice|option|one))?\s*(?:[.,;!:]|\Z|because|since)",
    re.IGNORECASE,
)
_GENUS = re.compile(  # C. elegans is a worm
    r"\.\s+(?:coli|elegans|thaliana|melanogaster|subtilis|albicans|difficile|perfringens|botulinum"
    r"|diphtheriae|trachomatis|jejuni|anthracis|cereus|burgdorferi|fragilis|henselae|pertussis"
    r"|familiaris|lupus|gondii|pylori|influenzae|faecalis|histolytica|tetani|glutamicum|neoformans"
    r"|crescentus|reinhardtii|briggsae|intestinalis|rerio|discoideum|radiodurans|africanus|afarensis"
    r"|taurus|mori|mellifera|aegypti|gambiae|laevis|fumigatus|niger|nidulans|tumefaciens)\b"
)
_REASON = re.compile(
    r"\s*(?:because|since|as|due\s+to|given|where|which|with|namely|i\.e\.)(?![A-Za-z])", re.I
)
_HEDGE = re.compile(
    r"[\s,;(]*(?:or|but|if|unless|when|maybe|perhaps|possibly|although|though|however|assuming"
    r"|provided|except)\b",
    re.IGNORECASE,
)
_DOUBTS = re.compile(
    rf"{_HEDGE.pattern}|[^.\n]{{0,80}}\b(?:doubt|unlikely)\b|[^.!\n]{{0,80}}\?", re.IGNORECASE
)
# What may follow a letter without a mark: a comma, a reason, a bracket, the end of the sentence.
_GOES_ON = re.compile(
    rf"[,;]|\s+\(|[.!]\s|{_REASON.pattern}|{_HEDGE.pattern}|[\s,;(]*(?:and\s+|but\s+)?"
    r"(?:not|rather\s+than|instead\s+of|unlike)\b",
    re.IGNORECASE,
)
_NOT_IT = re.compile(r"[\s,;(]*(?:and\s+|but\s+)?(?:not|rather\s+than|instead\s+of|unlike)\b", re.I)
_LEAD = re.compile(
    r"(?:(?:so|thus|therefore|hence|the|this|my|our|final|correct|best|right|most|likely|answers?"
    r"|option|choice|letter|alternative|is|would|must|should|be|it|it's|i|we|think|believe|say"
    r"|choose|pick|select|go|going|with|will|i'd|i'll|i'm|clearly|probably|definitely|given|by|to"
    r"|corresponds|that)(?![A-Za-z'])[\s:,]*)+",
    re.IGNORECASE,
)
_PRONOUN_AGAIN = re.compile(r"[.,:;]?\s+(?:I|am|do|think|not)\b(?!\s+(?:and|or|only)\b)")
_PRONOUN = re.compile(r"\s+[a-z]")


@dataclass(frozen=True, slots=True)
class Option:
    """An option that is named in a text.

    letter: in upper case; None if several are named, or one that is taken back.
    end: where its letter ends.
    has_text: more than the letter is said of it.
    """

    letter: str | None
    end: int
    has_text: bool = False


def letter_of(gold: str) -> str | None:
    """Return the letter that `gold` is, in upper case; None if it is anything else."""
    letter = gold.strip().upper()
    return letter if len(letter) == 1 and letter in LETTERS else None


def cleaned(text: str) -> str:
    """Return `text` without markup and math delimiters; a letter in bold is in brackets."""
    if not text.isascii():
        text = _EMOJI.sub("", in_ascii(unicodedata.normalize("NFKC", text)))
    text = _ANSWER_TAG.sub(lambda tag: "\n" if tag[1] else "\nAnswer: ", text)
    text = _TAG.sub("**", _TOKEN.sub("\n", _STRUCK.sub(" ", text)))
    text = _DOUBLED.sub(r"\\", text)
    text = _FONT_LETTER.sub(r"(\1)", _EMPHASIS.sub(r"(\2)", text))
    text = _FONT_GROUP.sub(r"(\1){", text)
    text = _ITALIC.sub(r"\1", _COMMAND.sub("", _MATH_FONT.sub("", text)))
    text = _BRACE.sub("", _SPACE.sub(" ", text))
    return _LINE_MARK.sub("", text).translate(_QUOTES)


def read_option(answer: str) -> Option | None:
    """Return the option that the whole of `answer`, a box or a line, names; None if it names none.

    answer: as `cleaned` returns it.
    """
    begin = len(answer) - len(answer.lstrip(" \t\n.:,;"))
    found = option_at(answer, begin)
    if found is None and (lead := _LEAD.match(answer, begin)) is not None:
        found = option_at(answer, lead.end())
    return found


def option_at(text: str, at: int) -> Option | None:
    """Return the option that is named at `at` and by the rest of that line; None if none is."""
    found = _LETTER.match(text, at)
    if found is None:
        return None
    end = found.end()
    stop = text.find("\n", end, end + MAX_REST_CHARS)
    rest = text[end : stop if stop >= 0 else end + MAX_REST_CHARS]
    letter = found["quoted"] or found["within"] or found["bare"]
    marked = bracketed = found["open"] is not None
    if not marked and _COMMAND_NEXT.match(rest):
        return None
    if _OPERATOR.match(rest) and not (_MARK.match(rest) and rest[:1].isspace()):
        return None
    if not marked:
        if _GENUS.match(rest):
            return None
        mark = _MARK.match(rest)
        if letter == "I" and _PRONOUN_AGAIN.match(rest):
            return None
        if mark is not None:
            marked, rest = True, rest[mark.end() :]
            if mark[0] not in (")", ".") and _NO.match(rest):
                return None
    shut = _SHUT.fullmatch(rest) is not None
    if letter.islower() and not (marked or shut):
        return None
    if rest.lstrip(" '.)").startswith("?"):
        return None
    right = shut or _is_said(rest, letter=letter, marked=marked, bracketed=bracketed)
    return None if right is None else Option(letter.upper() if right else None, end, not shut)


def _is_said(rest: str, *, letter: str, marked: bool, bracketed: bool) -> bool | None:
    """Whether the text after a letter leaves it as the answer; None if it is not an option."""
    right = _IS_RIGHT.match(rest)
    if right is not None:
        after = rest[right.end() :]
        return not (_HEDGE.match(after) or _names_another(after, letter=letter))
    if _DENIED.match(rest) or ((not marked or bracketed) and _IS.match(rest)):
        return None
    if _names_another(rest, letter=letter) or (marked and _names_marked_other(rest)):
        return False
    if not (marked or _GOES_ON.match(rest)):
        return None
    if _TAKES_BACK.search(rest):
        return False
    return marked or _NOT_IT.match(rest) is not None or _DOUBTS.match(rest) is None


def _names_another(rest: str, *, letter: str) -> bool:
    """Whether the text after an option names a second one beside it."""
    single = r"\b[A-Z]\b" if letter.isupper() else r"\b[A-Za-z]\b"  # C) x has the text x
    if _LIST.fullmatch(rest) and re.search(single, rest):
        return not _OF_OPTIONS.match(rest)
    other = _OTHER.match(rest)
    if other is None or (other["letter"] == "I" and _PRONOUN.match(other["rest"])):
        return False
    about = _ABOUT_IT.match(other["rest"])
    if about is None or re.match(r"or\b", other["joint"], re.IGNORECASE):
        # "C, A train would ..." goes on with an article.
        article = other["letter"] == "A" and other["joint"] in ",;"
        return not (article and _PRONOUN.match(other["rest"]))
    return _WORKS_TOO.search(about["said"]) is not None


def _names_marked_other(rest: str) -> bool:
    other = _MARKED_OTHER.search(rest)
    if other is None or _OF_OPTIONS.match(rest):
        return False
    return _NEGATION.search(rest, 0, other.start()) is None
