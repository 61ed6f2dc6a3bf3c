"""Laws of the user's own code: what is run, under which name, by which digest, and each fault."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from dgpo_cli.core.errors import ConfigError
from dgpo_cli.core.own_code import Spec, digests_of, load_own, own_code_of
from dgpo_cli.core.schema import Frozen


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(path: str, text: str) -> Path:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def sha256(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def refusal(spec: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_own(spec)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_file_that_has_not_changed_is_run_once() -> None:
    written("own.py", "class Mine: pass\nclass Other: pass\n")
    mine = load_own("own.py:Mine")
    assert load_own("own.py:Mine") is mine
    assert load_own("./own.py:Mine") is mine
    assert load_own("own.py:Other").__module__ == mine.__module__


def test_a_changed_file_is_run_again_even_if_size_and_time_are_the_same() -> None:
    file = written("own.py", "def f(): return 1\n")
    times = (file.stat().st_atime, file.stat().st_mtime)
    assert load_own("own.py:f")() == 1
    file.write_text("def f(): return 2\n")
    os.utime(file, times)
    assert load_own("own.py:f")() == 2


def test_two_files_of_one_name_are_two_modules_each_with_its_own_neighbour() -> None:
    for number, folder in enumerate("ab"):
        written(f"{folder}/own.py", "import helper\ndef f(): return helper.NUMBER\n")
        written(f"{folder}/helper.py", f"NUMBER = {number}\n")
    assert [load_own(f"{folder}/own.py:f")() for folder in "aba"] == [0, 1, 0]
    assert "helper" not in sys.modules and "own" not in sys.modules


def test_a_file_shadows_no_module_and_its_neighbour_only_while_it_runs() -> None:
    import json

    written("json.py", "from colorsys import NUMBER\ndef f(): return NUMBER\n")
    written("colorsys.py", "NUMBER = 7\n")
    path = list(sys.path)
    assert load_own("json.py:f")() == 7
    assert sys.path == path and sys.modules["json"] is json
    import colorsys

    assert hasattr(colorsys, "rgb_to_hsv")


def test_a_module_of_the_working_directory_is_found() -> None:
    written("pack_of_mine/__init__.py", "")
    written("pack_of_mine/inner.py", "def f(): return 3\n")
    assert load_own("pack_of_mine.inner:f")() == 3
    assert load_own("posixpath:join")("a", "b") == "a/b"


def test_the_digest_is_that_of_the_file_and_runs_nothing() -> None:
    written("own.py", "raise SystemExit\n")
    assert digests_of("own.py:f")["own.py"] == sha256("own.py")
    written("mod_of_mine.py", "raise SystemExit\n")
    assert digests_of("mod_of_mine:f")["mod_of_mine"] == sha256("mod_of_mine.py")


class Term(Frozen):
    path: Spec


class Tree(Frozen):
    term: Term | None = None
    terms: tuple[Term, ...] = ()


def test_the_code_of_settings_is_every_file_and_the_neighbours_that_they_import() -> None:
    written("a/own.py", "import json\nfrom parts import one\ndef f():\n    import late.inner\n")
    written("a/parts/__init__.py", "from . import two\n")
    for name in ("a/parts/one.py", "a/parts/two.py", "a/late/inner.py", "a/unused.py"):
        written(name, "")
    written("pack_of_mine/__init__.py", "")
    written("pack_of_mine/inner.py", "from .other import x\nimport os\n")
    written("pack_of_mine/other.py", "x = 1\n")
    tree = Tree(term=Term(path="a/own.py:f"), terms=(Term(path="pack_of_mine.inner:f"),))
    found = own_code_of(tree)
    names = ("a/own.py", "a/parts/__init__.py", "a/parts/one.py", "a/parts/two.py")
    files = {name: sha256(name) for name in (*names, "a/late/inner.py")}
    modules = {"pack_of_mine.inner": sha256("pack_of_mine/inner.py")}
    modules |= {"pack_of_mine": sha256("pack_of_mine/__init__.py")}
    modules |= {"pack_of_mine.other": sha256("pack_of_mine/other.py")}
    assert found == files | modules


@pytest.mark.parametrize(
    ("text", "spec", "said"),
    [
        (None, "own.py:f", "own.py:f: own.py in {here}: no such file or directory"),
        ("class Mine: pass", "own.py:Mime", "own.py:Mime: own.py has no Mime; did you mean "
                                            "own.py:Mine?"),
        ("class A: pass\ndef b(): pass", "own.py:xyzzy",
         "own.py:xyzzy: own.py has no xyzzy; it defines A, b"),
        ("x = (", "own.py:f", "own.py:f: own.py, line 1: SyntaxError: '(' was never closed"),
        ("\nimport nowhere_to_be_found", "own.py:f",
         "own.py:f: own.py, line 2: ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        ("def g():\n  1 / 0\ng()", "own.py:f",
         "own.py:f: own.py, line 2: ZeroDivisionError: division by zero"),
        ("import json\njson.loads('x\\n')", "own.py:f",
         "own.py:f: own.py, line 2: JSONDecodeError: Expecting value: line 1 column 1 (char 0)"),
        ("import sys\nsys.exit(3)", "own.py:f", "own.py:f: own.py, line 2: SystemExit: 3"),
        ("raise ValueError('two\\nlines')", "own.py:f",
         "own.py:f: own.py, line 1: ValueError: two lines"),
        ("class Mine: pass", "own.py", "own.py: names no class or function; did you mean "
                                       "own.py:Mine?"),
        ("class A: pass\nclass B: pass", "own.py:", "own.py: names no class or function; it has "
                                                    "A, B; write own.py:NAME"),
        (None, "mine", "mine: names no class or function; write my_file.py:NAME or "
                       "package.module:NAME"),
        (None, "own.py:a b", "own.py:a b: a b after the colon is not the name of a class or "
                             "function"),
        (None, "src/own:f", "src/own:f: src/own is neither a file nor a module; a path ends in "
                            ".py"),
        (None, "nowhere_at_all.x:f", "nowhere_at_all.x:f: no module nowhere_at_all; a file ends "
                                     "in .py"),
        (None, "math:sqrt", "math:sqrt: math is not a module of Python source"),
    ],
)  # fmt: skip
def test_a_fault_of_own_code_is_told_in_one_line(
    text: str | None, spec: str, said: str, here: Path
) -> None:
    if text is not None:
        written("own.py", text)
    assert refusal(spec) == said.format(here=here)


def test_a_fault_in_a_neighbour_is_told_where_it_is() -> None:
    written("a/own.py", "import helper\n")
    written("a/helper.py", "\n\nimport nowhere_to_be_found\n")
    assert refusal("a/own.py:f").startswith("a/own.py:f: a/helper.py, line 3: ModuleNotFound")


def test_the_place_of_a_fault_is_in_the_users_code_not_in_what_it_calls() -> None:
    written("site-packages/installed.py", "def f():\n    1 / 0\n")
    written(
        "own.py",
        "import sys\nsys.path.append('site-packages')\nimport installed\n"
        "sys.path.pop()\ninstalled.f()\n",
    )
    assert refusal("own.py:f") == "own.py:f: own.py, line 5: ZeroDivisionError: division by zero"
    Path("null.py").write_bytes(b"x = 1\n\0")
    assert refusal("null.py:f").endswith("Error: source code string cannot contain null bytes")


def test_a_file_that_failed_is_run_again_once_it_is_mended() -> None:
    written("own.py", "f = 1 / 0\n")
    before = set(sys.modules)
    refusal("own.py:f")
    assert set(sys.modules) == before
    written("own.py", "f = 1\n")
    assert load_own("own.py:f") == 1


def test_a_setting_refuses_what_is_no_spec_without_running_anything() -> None:
    written("own.py", "raise SystemExit\n\nclass Mine: pass\n")
    with pytest.raises(ValidationError, match=r"did you mean own\.py:Mine"):
        Term(path="own.py")
    term: Any = Term(path="own.py:Mine")
    assert term.path == "own.py:Mine"
