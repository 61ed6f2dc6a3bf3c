r"""Each rule of the answer checker, broken once: some case must notice."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import dgpo_cli

ROOT = Path(dgpo_cli.__file__).parents[1]
TESTS = [
    "tests/rewards/test_answer.py",
    "tests/rewards/test_integer.py",
    "tests/rewards/test_boxes.py",
    "tests/rewards/test_place.py",
]

# file in rewards/, what stands there, what is put in its place
MUTATIONS: list[tuple[str, str, str]] = [
    ("../thinking.py", "if mark in _OPENERS:", "if False:"),
    ("../thinking.py", "return at + len(mark)", "return 0"),
    ("../thinking.py", 'at = text.rfind("<", 0, at)', 'at = text.find("<", 0, at)'),
    ("boxes.py", "if end < 0 or _is_blank(text, begin, end):", "if end < 0:"),
    ("boxes.py", "boxed|fbox|framebox", "boxed|framebox"),
    ("boxes.py", '("\\\\boxed", "\\\\fbox", "\\\\framebox")', '("\\\\boxed", "\\\\framebox")'),
    ("boxes.py", '("\\\\boxed", "\\\\fbox", "\\\\framebox")', '("\\\\boxed", "\\\\fbox")'),
    ("boxes.py", "if span.doubled else content", "if False else content"),
    ("boxes.py", "if closes and _name_before", "if False and _name_before"),
    ("boxes.py", "spans = _offered_together(text, start, span)", "spans = [span]"),
    ("boxes.py", "while len(spans) < _MAX_TOGETHER:", "while len(spans) < 2:"),
    ("boxes.py", "if stop is None and cut and end == len(text):", "if False:"),
    (
        "boxes.py",
        "                break\n            return span",
        "                pass\n            return span",
    ),
    ("extract.py", "(?:[ \\t]+is)?", ""),
    (
        "extract.py",
        "if opens_line and not tag and not _opens_line(text, start, found):",
        "if False:",
    ),
    ("extract.py", "opens_line and not tag and", "opens_line and"),
    ("extract.py", "or _marked_line(text, start, cut=cut)", ""),
    ("extract.py", 'or (at > start and text[at - 1] != "\\n")', ""),
    ("extract.py", "if whole is not None:", "if False:"),
    ("extract.py", "if line is None or not is_answer(stated(line)):", "if line is None:"),
    ("extract.py", "if line is None or not is_answer(stated(line)):", "if True:"),
    (
        "extract.py",
        "opens_line = all(map(is_answer, found.parts or (found.text,)))",
        "opens_line = True",
    ),
    (
        "extract.py",
        "opens_line = all(map(is_answer, found.parts or (found.text,)))",
        "opens_line = False",
    ),
    ("extract.py", "if lines_passed and (bullet", "if False and (bullet"),
    ("extract.py", "line = _TAIL.split(line, maxsplit=1)[0]\n", "pass\n"),
    (
        "extract.py",
        "line = _SENTENCE_END.split(line, maxsplit=1)[0].strip()",
        "line = line.strip()",
    ),
    ("extract.py", 'f"≈{line[1:]}" if line.startswith("~") else line', "line"),
    (
        "extract.py",
        "number = None if cut else _last_number(text, start)",
        "number = _last_number(text, start)",
    ),
    ("extract.py", "if end < 0 and bound >= len(text) and cut:", "if False:"),
    ("extract.py", "if box is not None or where", "if where"),
    ("answer.py", "if len(integers) == 1 else None", ""),
    ("stated.py", "if _CHANGES.search(subject) or not rest.strip():", "if not rest.strip():"),
    ("stated.py", "return not any(_SAYS.search(clause) for clause in before)", "return True"),
    ("stated.py", "if not _WORD.search(last) and not _NAME.fullmatch(last):", "if False:"),
    ("stated.py", "and not _OTHER_CASE.search(masked, case.end(), end)", ""),
    ("stated.py", "end = reason.start() if reason else len(masked)", "end = len(masked)"),
    ("stated.py", "or _POINTS.search(masked)", ""),
    ("surroundings.py", "(word := _WORD_LEFT.search(near)) is not None", "False"),
    ("surroundings.py", "(word := _WORD_RIGHT.match(after)) is not None", "False"),
    ("surroundings.py", "(other := _OR_RIGHT.match(after)) is not None", "False"),
    ("surroundings.py", "if related is not None and not listed", "if False and not listed"),
    ("surroundings.py", "and not _NO_RELATION.search(near)", ""),
    ("surroundings.py", "if group is not None:", "if False:"),
    ("surroundings.py", "if sides.bound or _binds_left(sides)", "if _binds_left(sides)"),
    ("surroundings.py", "_binds_left(sides) or _binds_right(sides)", "_binds_right(sides)"),
    ("surroundings.py", "_binds_left(sides) or _binds_right(sides)", "_binds_left(sides)"),
    ("surroundings.py", "return False  # emphasis", "pass"),
    ("surroundings.py", "continue  # a cell of a table", "pass"),
    ("surroundings.py", "if at_line_start and (bullet", "if False and (bullet"),
    ("surroundings.py", 'if owner is not None and not _is_harmless(owner["name"]):', "if False:"),
    (
        "surroundings.py",
        'if owner is not None and not _is_harmless(owner["name"]):',
        "if owner is not None:",
    ),
    ("answer.py", "if beyond and not", "if not"),
    ("answer.py", '"truncated" if cut else', '"truncated" if False else'),
    ("spelling.py", 'dict.fromkeys(map(ord, "−–﹣"), "-")', "{}"),
    ("spelling.py", "_FOREIGN_DIGIT.sub(_as_ascii, answer.translate(_TRANSLATION))", "answer"),
    ("spelling.py", "answer.translate(_TRANSLATION)", "answer"),
    ("spelling.py", '_DEGREE.sub(" degrees ", answer)', "answer"),
    ("spelling.py", '_ORDINAL.sub(" ", ', '("").join(('),
    ("spelling.py", '_ROWS.sub(" ", ', '("").join(('),
    ("spelling.py", "answer = _DOUBLED.sub", "_DOUBLED.sub"),
    ("spelling.py", 'answer = UNIT_FRACTION.sub(r" \\\\text{ units} ", answer)', "pass"),
    ("spelling.py", 'answer = _SPELLED_OUT.sub(" ", answer)', "pass"),
    ("spelling.py", 'answer = _MODULUS.sub(" ", answer)', "pass"),
    ("spelling.py", 'answer = _IN_BASE_TEN.sub(" ", answer)', "pass"),
    ("spelling.py", "if _CHOICE.match(answer) else", "if False else"),
    ("integer.py", "[0-9]{3} (?:(?P=sep)", "[0-9]{2,3} (?:(?P=sep)"),
    ("integer.py", r"(?:(?P=sep)[0-9]{3})*", r"(?:[,\ ][0-9]{3})*"),
    ("integer.py", "[1-9][0-9]{0,2}", "[0-9]{1,3}"),
    ("integer.py", r",\\! | ", ""),
    ("integer.py", 'if not whole or decimals.strip("0"):', "if not whole:"),
    ("integer.py", 'whole.lstrip("0") or "0"', "whole"),
    ("integer.py", 'if sign == "-" and digits != "0"', 'if sign == "-"'),
    ("integer.py", 'if sign == "-" and digits != "0"', "if False"),
    ("integer.py", 'if kind == "number" and not number:', 'if kind == "number":'),
    ("integer.py", "not number and not sign:", "not sign:"),
    ("integer.py", "            if not harmless:\n                return None", "            pass"),
    ("integer.py", "last = statement[right:]", "last = statement"),
    ("integer.py", "if right and last and all(map(_is_variable, last))", "if False"),
    ("integer.py", "if right and not _names_a_value(", "if False and not _names_a_value("),
    ("integer.py", "and _names_a_value(last):", "and True:"),
    ("integer.py", "if not any(map(_is_unknown, left)):", "if False:"),
    ("integer.py", 'if left[0] == ("sign", "-"):', "if False:"),
    ("integer.py", "if _PRODUCT.fullmatch(value) and _is_unknown(atom):", "if False:"),
    ("integer.py", 'self._add("bad", char)  # x^2; in 204 m^2 it is a unit', "pass"),
    ("integer.py", 'self._add("bad")  # (1,234) is a pair', "pass"),
    ("integer.py", 'self._add("bad", char)  # minutes of arc, feet', "pass"),
    ("integer.py", "ratio = _is_unknown", "ratio = False and _is_unknown"),
    ("integer.py", 'if ("separator", "or") in atoms or len(said) > 1:', "if len(said) > 1:"),
    (
        "integer.py",
        'if ("separator", "or") in atoms or len(said) > 1:',
        'if ("separator", "or") in atoms:',
    ),
    ("integer.py", "if not all(map(_is_harmless, part))", "if part"),
    ("integer.py", "if arrows and arrows[-1] < len(atoms) - 1:", "if False:"),
    ("integer.py", "if has_number and _is_word(kind) and value.lower() in v.REASONS:", "if False:"),
    ("integer.py", 'if "and" in kinds and (', "if False and ("),
    ("integer.py", 'self._add("bad" if unequal or negated', 'self._add("bad" if negated'),
    ("integer.py", 'self._add("bad" if unequal or negated', 'self._add("bad" if unequal'),
    ("integer.py", 'or before[-1:] in ("<", ">")', ""),
    ("integer.py", 'if base is not None and self._last() == "number":', "if False:"),
    ("integer.py", "if power is not None and _is_word(self._last()):", "if False:"),
    ("integer.py", "if power is not None and _is_word(self._last()):", "if power is not None:"),
    ("integer.py", "if touches and self._atoms[-1][1].isascii():", "if False:"),
    ("integer.py", 'self._add("separator" if self._depth == 0 else "bad", char)', "pass"),
    ("integer.py", '"separator" if self._depth == 0 else "bad"', '"separator"'),
    ("integer.py", "if not _ROW_GOES_ON.match(self._text, position):", "if True:"),
    ("integer.py", "if not _ROW_GOES_ON.match(self._text, position):", "if False:"),
    ("integer.py", "and not self._has_number():", "and False:"),
    ("integer.py", '            self._add("bad", name)', "            pass"),
    ("vocabulary.py", '"percent percents', '"percents'),
    ("vocabulary.py", "thousand ", ""),
    ("vocabulary.py", "not no none", "no none"),
    ("vocabulary.py", "times twice", "twice"),
    ("vocabulary.py", 'and kind != "touching"', ""),
    ("vocabulary.py", 'if kind == "text" and word in _TEXT_UNIT_LETTERS:', "if False:"),
    ("vocabulary.py", "_DENIED_CHARS.isdisjoint(word)", "True"),
    ("vocabulary.py", "not greek and", ""),
]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package and of its tests, to be broken."""
    folder = tmp_path_factory.mktemp("copy") / "project"
    for name in ("dgpo_cli", "tests"):
        ignore = shutil.ignore_patterns("__pycache__", "snapshots")
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def suite_passes(folder: Path) -> bool:
    command = [sys.executable, "-B", "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *TESTS]
    environment = {"PYTHONPATH": str(folder), "PATH": "/usr/bin:/bin", "HOME": str(folder)}
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False)
    assert ended.returncode in (0, 1, 2), ended.stderr.decode()
    return ended.returncode == 0


@pytest.mark.mutation
def test_the_copy_passes_as_it_is(copy: Path) -> None:
    assert suite_passes(copy)


@pytest.mark.mutation
@pytest.mark.parametrize(("file", "before", "after"), MUTATIONS)
def test_a_broken_rule_is_noticed(copy: Path, file: str, before: str, after: str) -> None:
    path = copy / "dgpo_cli" / "rewards" / file
    whole = path.read_text(encoding="utf-8")
    assert before in whole, "the rule is written differently now: write its mutation anew"
    path.write_text(whole.replace(before, after), encoding="utf-8")
    try:
        assert not suite_passes(copy)
    finally:
        path.write_text(whole, encoding="utf-8")
