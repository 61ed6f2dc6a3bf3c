"""Python code of the user's own that settings name: "my_rule.py:Mine" or "package.module:Mine".

A file runs under a private module name, so that it shadows nothing and two files of one name are
two modules. While it runs, its folder is importable: a neighbour that it imports at the top is its
own, whatever else has that name. What ran is known by digests: of the file, and of the neighbours
that its import statements name, and theirs.
"""

from dgpo_cli.core.own_code.files import digests_of, is_spec
from dgpo_cli.core.own_code.load import load_own, where_it_failed
from dgpo_cli.core.own_code.settings import (
    SPEC_ERROR,
    STAND_IN,
    OwnVariant,
    Spec,
    own_code_of,
    own_files,
)

__all__ = [
    "SPEC_ERROR",
    "STAND_IN",
    "OwnVariant",
    "Spec",
    "digests_of",
    "is_spec",
    "load_own",
    "own_code_of",
    "own_files",
    "where_it_failed",
]
