"""Runs code of the user's own: a file under a private name, or a module."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import os
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from dgpo_cli.core.errors import ConfigError
from dgpo_cli.core.own_code.files import (
    defined_in,
    files_of,
    is_file,
    module_file,
    sha256,
    split_spec,
)
from dgpo_cli.core.text import visible

_PACKAGE = f"{Path(__file__).parents[2]}{os.sep}"
_PREFIX = "dgpo_own_"
_LOADED: dict[tuple[str, str], ModuleType] = {}  # by file and the digest of all that it is made of
_LOCK = threading.RLock()


def load_own(spec: str) -> Any:
    """Return what a spec names: a class or a function.

    A file that has not changed is run once; its path is relative to the working directory.

    Raises:
        ConfigError: there is no such file, module or name, or its code fails; one line.
    """
    where, name = split_spec(spec)
    with _LOCK:
        module = _load_file(spec, Path(where)) if is_file(where) else _load_module(spec, where)
    try:
        return getattr(module, name)
    except AttributeError:
        raise ConfigError(_no_such_name(spec, where, name, names=vars(module))) from None


def _no_such_name(spec: str, where: str, name: str, *, names: Mapping[str, Any]) -> str:
    public = [each for each in names if not each.startswith("_")]
    near = difflib.get_close_matches(name, public, n=1)
    if near:
        return f"{spec}: {where} has no {name}; did you mean {where}:{near[0]}?"
    own = defined_in(Path(str(names.get("__file__") or "")))
    has = f"it defines {', '.join(own[:8])}" if own else "it defines no class or function"
    return f"{spec}: {where} has no {name}; {has}"


def _load_file(spec: str, path: Path) -> ModuleType:
    files = files_of(spec, path)
    target = path.resolve()
    digest = hashlib.sha256("".join(map(sha256, files.values())).encode("ascii")).hexdigest()
    key = str(target), digest
    if key not in _LOADED:
        place = hashlib.sha256(str(target).encode("utf-8", "surrogateescape")).hexdigest()[:12]
        module = ModuleType(f"{_PREFIX}{target.stem}_{place}")
        module.__file__ = str(target)
        before = sys.modules.get(module.__name__)
        sys.modules[module.__name__] = module
        try:
            with _telling(spec, path), _beside(target.parent, list(files)[1:]):
                # Not through an importer: what runs is what was digested, not a cache of it.
                exec(compile(files[path], str(target), "exec"), module.__dict__)
        except BaseException:
            sys.modules.pop(module.__name__)
            if before is not None:
                sys.modules[module.__name__] = before
            raise
        _LOADED[key] = module
    return _LOADED[key]


def _load_module(spec: str, where: str) -> ModuleType:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        with _telling(spec, module_file(spec, where)):
            return importlib.import_module(where)
    finally:
        sys.path.remove(here)


@contextmanager
def _telling(spec: str, path: Path) -> Iterator[None]:
    """Turn an error of the user's code into one line with the place in it."""
    try:
        yield
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{spec}: {where_it_failed(error, folder=path.parent)}") from error


def where_it_failed(error: BaseException, *, folder: Path) -> str:
    """Return an error of the user's code in one line: file, line, type and message.

    folder: where the code is; the innermost line of it counts.
    """
    text = visible(" ".join(str(error).split()))
    said = f"{type(error).__name__}: {text}" if text else type(error).__name__
    if isinstance(error, SyntaxError) and error.filename:
        name, line, said = error.filename, error.lineno, f"{type(error).__name__}: {error.msg}"
    else:
        root = str(folder.resolve())
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if _is_own(frame.filename, root=root)]
        if not own:
            return said
        name, line = own[-1].filename, own[-1].lineno
    path = Path(name)
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return f"{shown}, line {line}: {said}"


def _is_own(file: str, *, root: str) -> bool:
    """Whether a file is the user's: in the folder, and neither an installed package nor dgpo."""
    return (
        file.startswith(f"{root}{os.sep}")
        and "site-packages" not in file
        and not file.startswith(_PACKAGE)
    )


@contextmanager
def _beside(folder: Path, neighbours: list[Path]) -> Iterator[None]:
    """Make a folder importable, and its modules distinct from others of the same names."""
    names = {_top(path, folder) for path in neighbours}
    hidden = _taken(names)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        _taken(names)
        sys.modules.update(hidden)


def _top(path: Path, folder: Path) -> str:
    """Return the name that a neighbour is imported by, or its package."""
    return path.resolve().relative_to(folder).parts[0].removesuffix(".py")


def _taken(names: set[str]) -> dict[str, ModuleType]:
    """Take modules of these names, and those inside them, out of sys.modules; return them."""
    found = [name for name in sys.modules if name.partition(".")[0] in names]
    return {name: sys.modules.pop(name) for name in found}
