r"""Checks integer answers, as in AIME: pure Python, linear in the text, without evaluation.

The place of the answer:

| written | verdict |
| --- | --- |
| before the last </think>, or after an unclosed <think> | not read |
| several boxes | the complete, non-empty one that closes last; an outer box before its inner |
| `\boxed{1} or \boxed{2}`, with "and", a comma, nothing | together: a list, where gold is one; |
| | otherwise ways to write one answer, all of which must be correct |
| `\boxed{20`, `\boxed{}` | skipped: an earlier complete box counts |
| `\boxed 204`, `\fbox{204}`, `\framebox{204}` | boxes; the bare one ends at the line, formula or |
| | sentence |
| `-\boxed{7}`, `\frac{\boxed{7}}{2}`, `10^{\boxed{7}}`, `\boxed{7}!`, `(\boxed{7}, 3)` | the |
| | whole expression: a box that is part of one is not the answer |
| `x+y=\boxed{7}`, `2x=\boxed{7}`, `x \approx \boxed{7}`, `\boxed{7}\text{ cm}` | 7: left of a box |
| | may stand what it is the value of, right of it a unit |
| `n \ge \boxed{7}`, `\ne\boxed{7}`, "not \boxed{7}", `\boxed{7}` percent | not 7 |
| `Answer: 204`, `answer is: 204` | the last one, in any case, anywhere in a line |
| `Answer:` and nothing after it | the next line |
| `Answer: The largest n is 204.` | 204: what the sentence states |
| `Answer: 204. By 3 cases.` | 204: the line ends with the sentence, unless the next takes it back |
| `#### 204` in the last line, and no answer line | an answer line, as in GSM8K |
| `<answer>204</answer>` | an answer line; the later of both counts |
| a box and an answer line | the box, with `boxed-or-answer-line`, unless the answer line comes |
| | later, is a tag or opens its own line (or the box gives no answer), and gives an answer |
| the last number | only with `last-number`, and never in a truncated text |

`thinking.py` has the other marks of thoughts; a prompt that ends inside a thought acts as a
<think> before the completion. The setting `reward.extract` selects the forms that count.

What equals 204 (with 204 for any integer):

| written | verdict |
| --- | --- |
| `0204`, `204.`, `204.00`, `+204`, `(204)`, `[204]`, `\{204\}`, `**204**`, `$204$`, `\$204` | 204 |
| `\text{...}`, `\mathrm{...}`, `\textbf{...}` and other fonts around or beside | 204 |
| units, degree signs, words: `204\text{ cm}^2`, `204^\circ`, `204th`, `The answer is 204` | 204 |
| `1,016`, `1{,}016`, `1,\!016`, `1\,016`, `1 016`: groups of three, one kind of separator | 1016 |
| `x = 100 + 104 = 204`, `\to`, `\equiv`: the right side; in `aligned` too | 204 |
| `m = 3, n = 5 \Rightarrow 204`, `\implies`, `\therefore`: what is concluded | 204 |
| `204 = x`: the left side, where the right is but a variable | 204 |
| left of the last `=`: `x`, `m+n`, `a_1`, `f(2)`, `|AB|`, words; or no unknown at all | 204 |
| `2x = 204`, `x^2+y^2 = 204`, `xy = 204`, `x-5 = 204`, `n! = 204`: equations | wrong |
| `204, as desired`, `204 where x = 5`, `since`, `because`: asides and reasons | 204 |
| `204 \pmod{1000}`, `204_{10}` | 204: notation, the residue and the base ten |
| decimal digits of any script, Unicode minus and en dash; invisible characters | as ASCII |
| `\\boxed{\\text{204}}`: escaped once too often | 204 |
| `204, 205`, `204 or 205`, `x = 204, y = 3` | wrong: more than one answer |
| `\frac{208}{2}`, `5!`, `2^3`, `|-3|`, `2.04\times10^2`, `3 \cdot 4`, `16 \bmod 7` | wrong |
| `5\%`, `5 percent`, `5 million`, `\approx 5`, `< 5`, `not 5`, `5x`, `x5`, `5_8` | wrong |
| `close to 5`, `divisible by 5`, `the number after 5`, `wrong: 5`, `5 is excluded` | wrong |
| `204.05`, `204,5`, `20 4`, `(1,204)`, `\text{two hundred four}`, over 2,048 characters | wrong |

The line of `\frac{208}{2}` is a choice: these may equal 204, but nothing is evaluated.

Outcomes: `correct` and `wrong` as above; `out_of_range` is a wrong integer outside the bounds, if
set, with gold inside; `no_answer` if nothing of the expected form was found; `truncated` instead
of `no_answer` for a completion that its token limit ended. A truncated completion that had already
given a complete answer (a closed box, a closed tag, an answer line with its line end) is judged by
it, as evaluation harnesses do; an answer that only the limit ended may lack digits and does not
count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dgpo_cli.rewards.integer import read_integer
from dgpo_cli.rewards.reading.extract import Extraction, find_answer

if TYPE_CHECKING:
    from dgpo_cli.core.types import FinishReason, Outcome
    from dgpo_cli.rewards.settings import Extract

MAX_SHOWN_CHARS = 200  # of an extracted answer that is not an integer


def check_integer(
    gold: str,
    text: str,
    *,
    finish_reason: FinishReason,
    where: Extract,
    minimum: int | None = None,
    maximum: int | None = None,
) -> tuple[Outcome, str | None]:
    """Judge the completion `text` against the integer `gold`.

    Returns the outcome and the extracted answer: digits if it is an integer, else its first
    characters, or None without an answer.

    Raises:
        ValueError: `gold` is not an integer.
    """
    wanted = read_integer(gold)
    if wanted is None:
        raise ValueError(f"gold={gold[:MAX_SHOWN_CHARS]!r} is not an integer")
    cut = finish_reason == "length"
    found, given = read_answer(text, where=where, cut=cut)
    if found is None:
        return ("truncated" if cut else "no_answer"), None
    if given is None:
        return "wrong", found.text.strip()[:MAX_SHOWN_CHARS]
    if given == wanted:
        return "correct", given
    # A gold answer outside the bounds shows that they do not fit the data.
    beyond = _is_beyond(int(given), minimum, maximum)
    if beyond and not _is_beyond(int(wanted), minimum, maximum):
        return "out_of_range", given
    return "wrong", given


def read_answer(
    text: str, *, where: Extract, cut: bool = False
) -> tuple[Extraction | None, str | None]:
    """Return the answer in `text` and, if it is an integer, its digits."""
    found = find_answer(
        text, where=where, cut=cut, is_answer=lambda answer: read_integer(answer) is not None
    )
    if found is None:
        return None, None
    integers = {read_integer(part) for part in found.parts or (found.text,)}
    return found, integers.pop() if len(integers) == 1 else None


def _is_beyond(value: int, minimum: int | None, maximum: int | None) -> bool:
    return (minimum is not None and value < minimum) or (maximum is not None and value > maximum)
