r"""The LaTeX commands and words that may surround an integer without changing it.

`\text{ minutes}` may; `\text{ percent}`, `million`, `not`, a variable and a function may not.
"""

from __future__ import annotations

from typing import Literal

# A word inside \text{}, one outside it after a space, and one outside it that touches its left.
WordKind = Literal["text", "bare", "touching"]


def words(text: str) -> frozenset[str]:
    """Return the words of `text`."""
    return frozenset(text.split())


TEXT_COMMANDS = words(
    "text textbf textit textrm textsf texttt textnormal textup textsc textsl textmd emph mbox hbox "
    "mathrm mathsf mathtt operatorname"
)
IGNORED_COMMANDS = words(
    "mathbf mathit mathnormal mathbb mathcal mathfrak mathscr mathord mathop num ang boldsymbol "
    "bm pmb boxed fbox framebox frame underline uline ensuremath displaystyle textstyle "
    "scriptstyle bf rm it tt sf bfseries left right middle big Big bigg Bigg bigl bigr Bigl Bigr "
    "biggl biggr Biggl Biggr large Large LARGE huge Huge "
    "normalsize small quad qquad thinspace medspace thickspace enspace space nobreakspace "
    "lbrace rbrace lbrack rbrack lparen rparen dollar pounds euro yen checkmark blacksquare qed "
    "null nonumber notag newline par hfill n"
)
GREEK = words(
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau "
    "upsilon phi chi psi omega Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega ell hbar"
)
EQUALITY_COMMANDS = words("rightarrow longrightarrow to equiv eq coloneqq")
HENCE_COMMANDS = words("Rightarrow implies Longrightarrow therefore")
AND_COMMANDS = frozenset(["land", "wedge"])
EQUALITY_CHARS = "≡→"
HENCE_CHARS = "⇒⟹∴"
REASONS = words("where since because")
IGNORED_CHARS = "$&*`\"“”'‘’#€£¥•。∎\x00"
IGNORED_ESCAPES = " ,;:!>()[]$#&_/\n"

PERCENT = words("percent percents percentage pct permille")
DENIALS = words(
    "not no none never neither nor impossible false invalid wrong incorrect excluded rejected "
    "discarded isn aren doesn don didn cannot unequal exceeds exceeding excluding without"
)
_CHANGES = words(
    # amounts that multiply or divide
    "cent hundred hundreds thousand thousands million millions billion billions trillion trillions "
    "dozen dozens lakh crore half halves third thirds quarter quarters fourth fourths fifth fifths "
    "sixth sixths seventh eighth eighths ninth tenth tenths "
    "hundredth hundredths thousandth thousandths bps "
    # operations
    "plus minus divided multiplied over squared cubed factorial choose mod modulo div sqrt "
    "power powers raised doubled tripled halved increased decreased reduced added subtracted "
    "inverted inverse reciprocal negated tens gross root negative log ln exp sin cos tan cot csc "
    "gcd lcm lim det pi "
    # doubt and bounds
    "fails but too either except unknown less more greater fewer "
    "least most than below above under between about around approximately approx nearly almost "
    "roughly maybe perhaps possibly up undefined infinity infinite"
)
# None of these words may be next to a number that is the answer.
CHANGING_WORDS = PERCENT | DENIALS | _CHANGES
_FUNCTIONS_IN_FRONT = words("sec max min arg")
_FACTORS_IN_FRONT = words(
    "times twice thrice double triple reciprocal inverse next previous preceding"
)
# A number after these is not the answer: the square of 204, floor 204.
_OPERATIONS_IN_FRONT = words(
    "of square cube floor ceil ceiling round eval evaluate abs sqrt root power "
    "rank trace bound base"
)
# A number after these describes another one: divisible by 204, close to 204.
_PREPOSITIONS = words("by to from near beyond opposite against until till past towards into")
_AFTER_NOUNS = words("before after within")  # the number after 204; but after 204 days
_SAYING = words(  # equal to 204, given by 204
    "equal equals given simplifies reduces evaluates comes out amounts sums converges tends leads"
)
_NUMBERS = words(
    "point two three four five six seven eight nine ten twenty thirty forty fifty sixty "
    "seventy eighty ninety"
)
_AMOUNTS_OF = words("total sum answer value result maximum minimum count")  # a total of 204
_UNIT_LETTERS = frozenset("mshgLJNWVACF")
_TEXT_UNIT_LETTERS = frozenset("u")  # for "units"; outside text it is a variable
_SHORT_UNITS = words("sq cu mm cm dm km nm kg mg lb oz ft in yd mi hr hz kw ml cl kl pm am")
_UNITS = words(
    "degrees degree deg minutes minute min mins seconds second sec secs hours hour hrs days day "
    "weeks week months month years year yrs yr meters meter metres metre kilometers kilometres "
    "centimeters centimetres inches inch feet foot yards miles units unit grams kilograms pounds "
    "dollars dollar cents ways kmh kph mph"
)
_SHORT_WORDS = words("is of in as at by to we it so be my an")
SHORT_WORDS_AND_UNITS = _SHORT_WORDS | _SHORT_UNITS
TOUCHED = "touched"  # marks a letter directly before digits
# Allowed in the name of a number: x_1, f(2, 3), |AB|, \\angle B.
NAMING_MARKS = frozenset([TOUCHED, *"_,|#'"]) | words(
    "angle triangle overline overrightarrow vec gcd lcm max min deg dim prime mathcal"
)
GREEK_COMMANDS = words(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta kappa lambda mu nu xi rho sigma tau "
    "phi varphi chi psi omega Gamma Delta Theta Lambda Sigma Phi Psi Omega ell"
)
_DENIED_CHARS = frozenset("万萬亿億千百兆或和约約")  # ten thousand, ..., or, and, about


def may_lead(word: str, kind: WordKind) -> bool:
    """Whether `word` may precede the number."""
    if not _is_harmless(word) or word.lower() in _FACTORS_IN_FRONT:
        return False
    if kind == "text" or not word.isascii():
        return True
    lower = word.lower()
    if len(word) <= 2:
        return lower == "a" or lower in _SHORT_WORDS
    return lower not in _FUNCTIONS_IN_FRONT


def operates(before: list[str]) -> bool:
    """Whether `before`, the words before a number, change it: the square of 204."""
    if not before:
        return False
    *earlier, last = (word.lower() for word in before)
    previous = earlier[-1] if earlier else ""
    if last in _PREPOSITIONS:
        return previous not in _SAYING
    if last in _AFTER_NOUNS or last == "as":  # as many as 204
        return "as" in earlier if last == "as" else bool(earlier)
    return last in _OPERATIONS_IN_FRONT and (last != "of" or previous not in _AMOUNTS_OF)


def may_follow(word: str, kind: WordKind) -> bool:
    """Whether `word` may follow the number: a unit, a noun, the rest of a sentence."""
    if not _is_harmless(word) or word.lower() in _NUMBERS:
        return False
    if not word.isascii():
        return True
    lower = word.lower()
    if len(word) == 1:
        if kind == "text" and word in _TEXT_UNIT_LETTERS:
            return True
        return word in _UNIT_LETTERS and kind != "touching"
    if kind == "touching":
        return lower in _UNITS or lower in _SHORT_UNITS
    if kind == "bare" and len(word) == 2:
        return lower in _SHORT_UNITS or lower in _SHORT_WORDS
    return True


def _is_harmless(word: str) -> bool:
    if word.isascii():
        return word.lower() not in CHANGING_WORDS
    greek = any("Ͱ" <= char <= "Ͽ" for char in word)
    return not greek and _DENIED_CHARS.isdisjoint(word)
