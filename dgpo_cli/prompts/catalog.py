"""The benchmarks that have a name: those of dgpo, and those that installed packages bring.

A package lists them under the entry point group `dgpo.benchmarks`: each entry names a package whose
folder has manifests (*.toml), or one manifest of it as `package:file.toml`. None of its code runs.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path

from dgpo_cli.core.errors import ConfigError, DataError
from dgpo_cli.core.resources import resource_dir
from dgpo_cli.prompts.manifests import AnyManifest, read_manifest

GROUP = "dgpo.benchmarks"
OURS = "dgpo"


@dataclass(frozen=True, slots=True)
class Listed:
    """A benchmark's name, its manifest, and the package it comes with; None: one's own file."""

    name: str
    path: Path
    package: str | None = OURS

    def manifest(self) -> AnyManifest:
        """Read the manifest.

        Raises:
            DataError: it is broken.
        """
        return read_manifest(self.path)


def own_names() -> tuple[str, ...]:
    """Return the names of the benchmarks of dgpo itself, sorted."""
    return tuple(listed.name for listed in _ours())


def benchmark_names() -> tuple[str, ...]:
    """Return the names of all benchmarks, sorted."""
    found, _ = all_listed()
    return tuple(sorted(listed.name for listed in found))


def find(name: str) -> Listed | None:
    """Return the benchmark of this name or alias, or whose manifest this file is; else None.

    Names and aliases are compared without case, "-" and "_".

    Raises:
        DataError: a manifest of dgpo is broken.
    """
    if name.endswith(".toml"):
        path = Path(name)
        return Listed(path.stem, path, package=None) if path.is_file() else None
    ours = {listed.name: listed for listed in _ours()}
    if name in ours:
        return ours[name]
    wanted = plain(name)
    if not wanted:
        return None
    for listed in ours.values():
        if wanted in (plain(listed.name), *map(plain, listed.manifest().aliases)):
            return listed
    theirs, _ = _of_packages()
    return next((listed for listed, keys in theirs if wanted in keys), None)


def canonical(name: str) -> str:
    """Return the name of the benchmark that `name` means; anything else as it is."""
    listed = find(name)
    return name if listed is None or listed.package is None else listed.name


def load_manifest(name: str) -> AnyManifest:
    """Return the manifest of a benchmark, by its name, alias or file.

    Raises:
        ConfigError: there is no such benchmark.
        DataError: the manifest is broken.
    """
    listed = find(name)
    if listed is None:
        raise ConfigError(unknown(name))
    return listed.manifest()


def all_listed() -> tuple[tuple[Listed, ...], tuple[str, ...]]:
    """Return all benchmarks that have a name, and what is wrong with those of packages."""
    theirs, faults = _of_packages()
    return (*_ours(), *(listed for listed, _ in theirs)), faults


def unknown(name: str) -> str:
    """Return the error for a name of neither a benchmark nor a file."""
    names = benchmark_names()
    if name.endswith(".toml"):
        return f"{name}: no such file; give the manifest of a benchmark, or one of its names"
    if name not in ("", ".") and Path(name).is_dir():
        return f"{name}: is a folder; give a file of problems, or one of {', '.join(names)}"
    spelled = {plain(each): each for each in names}
    for listed in all_listed()[0]:
        spelled |= {plain(alias): listed.name for alias in _aliases(listed)}
    near = difflib.get_close_matches(plain(name), list(spelled), n=1)
    hint = f"did you mean {spelled[near[0]]}? " if near else ""
    return f"{name}: no such benchmark or file; {hint}benchmarks: {', '.join(names)}"


def plain(name: str) -> str:
    """Return what of a name counts when two are compared."""
    return "".join(char for char in name.casefold() if char not in "-_ ")


def _aliases(listed: Listed) -> tuple[str, ...]:
    try:
        return listed.manifest().aliases
    except DataError:
        return ()


def _ours() -> tuple[Listed, ...]:
    folder = resource_dir("data") / "benchmarks"
    return tuple(Listed(path.stem, path) for path in sorted(folder.glob("*.toml")))


def _of_packages() -> tuple[list[tuple[Listed, frozenset[str]]], tuple[str, ...]]:
    """Return the benchmarks of packages with their names to compare, and what is wrong with them.

    A name that is taken keeps its meaning: dgpo's first, then by the name of the package.
    """
    entries = sorted(entry_points(group=GROUP), key=lambda entry: (_package(entry), entry.name))
    if not entries:
        return [], ()
    taken: dict[str, str] = {}
    for listed in _ours():
        taken |= dict.fromkeys((plain(listed.name), *map(plain, _aliases(listed))), OURS)
    found: list[tuple[Listed, frozenset[str]]] = []
    faults: list[str] = []
    for entry in entries:
        package = _package(entry)
        try:
            paths = list(_manifests(entry))
        except (ConfigError, ImportError, ValueError, AttributeError) as error:
            faults.append(f"package {package}: its entry point {entry.name!r} is broken: {error}")
            continue
        for path in paths:
            listed = Listed(path.stem, path, package)
            try:
                aliases = listed.manifest().aliases
            except (ConfigError, DataError) as error:
                faults.append(f"package {package}: {error}")
                continue
            if (owner := taken.get(plain(listed.name))) is not None:
                faults.append(
                    f"package {package}: its benchmark {listed.name} is not used, the name is "
                    f"{owner}'s"
                )
                continue
            keys = frozenset({plain(listed.name), *map(plain, aliases)} - taken.keys())
            taken |= dict.fromkeys(keys, package)
            found.append((listed, keys))
    return found, tuple(faults)


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else entry.value


def _manifests(entry: EntryPoint) -> Iterator[Path]:
    """Yield the manifests that an entry names.

    Raises:
        ConfigError: its package is not installed, or has none.
    """
    module, _, file = entry.value.partition(":")
    spec = find_spec(module.strip())
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(f"there is no package {module.strip()}")
    folders = [Path(folder) for folder in spec.submodule_search_locations]
    if file:
        paths = [folder / file.strip() for folder in folders]
    else:
        paths = [path for folder in folders for path in sorted(folder.glob("*.toml"))]
    there = [path for path in paths if path.is_file()]
    if not there:
        raise ConfigError(f"{folders[0]} has no {file.strip() or 'manifest (*.toml)'}")
    yield from there
