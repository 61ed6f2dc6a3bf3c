"""Specs, and the files behind them with their digests; runs nothing of the user's."""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path

from dgpo_cli.core.errors import ConfigError


def is_spec(text: str) -> bool:
    """Whether a text means code of one's own, and not a name that dgpo knows."""
    return ":" in text or text.endswith(".py")


def split_spec(spec: str) -> tuple[str, str]:
    """Return the file or module of a spec, and the name in it."""
    where, colon, name = spec.rpartition(":")
    if not (colon and where and name):
        raise ConfigError(_no_name(spec.strip(":")))
    if not name.isidentifier():
        raise ConfigError(f"{spec}: {name} after the colon is not the name of a class or function")
    if not is_file(where) and not all(part.isidentifier() for part in where.split(".")):
        hint = "a path ends in .py" if "/" in where else "a file ends in .py, a module has dots"
        raise ConfigError(f"{spec}: {where} is neither a file nor a module; {hint}")
    return where, name


def is_file(where: str) -> bool:
    return where.endswith(".py")


def _no_name(where: str) -> str:
    """Return the error for a spec without a name, with what the file has."""
    names = defined_in(Path(where)) if is_file(where) else []
    if len(names) == 1:
        return f"{where}: names no class or function; did you mean {where}:{names[0]}?"
    has = f"; it has {', '.join(names[:8])}" if names else ""
    form = f"{where}:NAME" if is_file(where) else "my_file.py:NAME or package.module:NAME"
    return f"{where}: names no class or function{has}; write {form}"


def defined_in(path: Path) -> list[str]:
    """Return the public classes and functions that a file defines, without running it."""
    try:
        body = ast.parse(path.read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return []
    kinds = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    return [each.name for each in body if isinstance(each, kinds) and each.name[0] != "_"]


def digests_of(spec: str) -> dict[str, str]:
    """Return the digest of each file by its name: first that of the spec, then its neighbours."""
    where, _ = split_spec(spec)
    if is_file(where):
        files = files_of(spec, Path(where))
        return {path.as_posix(): sha256(data) for path, data in files.items()}
    path = module_file(spec, where)
    top = path.parents[where.count(".") + (path.name == "__init__.py")]
    files = files_of(spec, path, root=top, inside=where.partition(".")[0])
    return {
        ".".join(each.relative_to(top).with_suffix("").parts).removesuffix(".__init__"): sha256(
            data
        )
        for each, data in files.items()
    }


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def module_file(spec: str, where: str) -> Path:
    """Return the file of a module; import nothing."""
    paths: list[str] | None = [str(Path.cwd()), *sys.path]
    name = ""
    for part in where.split("."):
        name = f"{name}.{part}".strip(".")
        found = PathFinder.find_spec(name, paths)
        if found is None:
            file = f"{where.replace('.', '/')}.py"
            hint = "a file ends in .py" if not Path(file).exists() else f"write {file}:NAME"
            raise ConfigError(f"{spec}: no module {name}; {hint}")
        paths = list(found.submodule_search_locations or ())
    if found is None or found.origin is None or not found.origin.endswith(".py"):
        raise ConfigError(f"{spec}: {where} is not a module of Python source")
    return Path(found.origin)


def files_of(
    spec: str, path: Path, *, root: Path | None = None, inside: str = ""
) -> dict[Path, bytes]:
    """Return the file and the neighbours that it needs, with their contents.

    root: the folder of the first names of imports. inside: only this package counts.

    Raises:
        ConfigError: the file cannot be read.
    """
    try:
        found = {path: path.read_bytes()}
    except OSError as error:
        reason = (error.strerror or "cannot be read").lower()
        there = "" if path.is_absolute() else f" in {Path.cwd()}"
        raise ConfigError(f"{spec}: {path}{there}: {reason}") from error
    root = path.parent if root is None else root
    waiting = [path]
    while waiting:
        here = waiting.pop()
        for name in _imported(here, found[here], root=root):
            if inside and name.partition(".")[0] != inside:
                continue
            for file in _places(root, name):
                if file not in found and file.is_file():
                    found[file] = file.read_bytes()
                    waiting.append(file)
    return found


def _places(root: Path, name: str) -> Iterator[Path]:
    """Yield the files that an import of a dotted name runs, if they exist."""
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        base = root.joinpath(*parts[:count])
        yield base.with_name(f"{base.name}.py")
        yield base / "__init__.py"


def _imported(path: Path, data: bytes, *, root: Path) -> Iterator[str]:
    """Yield the dotted names in the import statements of a file, as seen from `root`."""
    try:
        tree = ast.parse(data)
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(root).parts[: -node.level] if node.level else ()
            start = ".".join(filter(None, [*package, node.module]))
            yield from (".".join(filter(None, [start, alias.name])) for alias in node.names)
