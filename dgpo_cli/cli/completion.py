"""Shell completion: settings and their values, presets, benchmarks, run folders, studies.

bash splits words at = and : and replaces only what follows the last of them, which typer does not
handle. `prepare` removes the part before it from the words, and the functions here restore it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, MutableMapping
from pathlib import Path
from types import ModuleType

from dgpo_cli.config.presets import preset_names

ASKED = "_DGPO_COMPLETE"  # set by the shell for a completion
_BEFORE = "_DGPO_COMPLETE_BEFORE"
_BREAKS = "=:"
RUNS = Path("runs")
EVALS = Path("evals")
STUDIES = Path("studies")

Offers = list[tuple[str, str]]


def prepare(environ: MutableMapping[str, str] = os.environ) -> None:
    """Prepare for a completion, if one is asked for."""
    shell = environ.get(ASKED, "").removeprefix("complete_")
    if not shell:
        return
    # Typer renders markup in the help of each completion, with a module that is slow to import.
    # This help has no markup.
    plain = ModuleType("typer.rich_utils")
    plain.rich_render_text = str  # type: ignore[attr-defined]
    sys.modules.setdefault("typer.rich_utils", plain)
    if shell == "bash":
        _mend_words(environ)


def _mend_words(environ: MutableMapping[str, str]) -> None:
    broken = environ.get("COMP_WORDS", "").split("\n")[: int(environ.get("COMP_CWORD", "0")) + 1]
    words: list[str] = []
    for at, word in enumerate(broken):
        glued = at > 0 and (word in _BREAKS or broken[at - 1] in _BREAKS)
        if glued and word and broken[at - 1]:
            words[-1] += word
        else:
            words.append(word)
    *first, last = words
    piece = "" if broken[-1] and broken[-1] in _BREAKS else broken[-1]
    option, equals, value = last.partition("=")
    if last.startswith("-") and equals:
        first.append(option)
    else:
        value = last
    environ["COMP_WORDS"] = "\n".join([*first, piece])
    environ["COMP_CWORD"] = str(len(first))
    environ[_BEFORE] = value[: len(value) - len(piece)]


def _offered(incomplete: str, known: Iterable[tuple[str, str]]) -> Offers:
    before = os.environ.get(_BEFORE, "")
    whole = before + incomplete
    return [(name[len(before) :], about) for name, about in known if name.startswith(whole)]


def preset(incomplete: str) -> Offers:
    """Offer the presets."""
    return _offered(incomplete, ((name, "") for name in preset_names()))


def override(incomplete: str) -> Offers:
    """Offer what --set takes: names of settings, then values."""
    from dgpo_cli.config.reference import completions

    return _offered(incomplete, completions(os.environ.get(_BEFORE, "") + incomplete))


def setting(incomplete: str) -> Offers:
    """Offer the names of settings, and of their sections."""
    from dgpo_cli.config.tree import known_leaves

    names = {key.partition(".")[0] for key in known_leaves()} if "." not in incomplete else set()
    return _offered(incomplete, ((name, "") for name in [*sorted(names), *known_leaves()]))


def credit_rule(incomplete: str) -> Offers:
    """Offer the credit rules."""
    from dgpo_cli.config.reference import values_of

    return _offered(incomplete, ((name, "") for name in values_of("credit.rule")))


def reward(incomplete: str) -> Offers:
    """Offer the checkers; the shell offers files if none matches."""
    from dgpo_cli.config.shorthand import CHECKERS

    return _offered(incomplete, ((name, "") for name in CHECKERS))


def bench(incomplete: str) -> Offers:
    """Offer the benchmarks, also behind a comma; the shell offers files if none matches."""
    from dgpo_cli.prompts.catalog import benchmark_names

    before, comma, _ = (os.environ.get(_BEFORE, "") + incomplete).rpartition(",")
    return _offered(incomplete, ((before + comma + name, "") for name in benchmark_names()))


def protocol(incomplete: str) -> Offers:
    """Offer the evaluation protocols."""
    from dgpo_cli.config.protocols import SETTINGS, protocol_names

    return _offered(incomplete, ((name, "") for name in (*protocol_names(), SETTINGS)))


def evaluation(incomplete: str) -> Offers:
    """Offer the folders of ./evals, newest first; the shell offers others if none matches."""
    found = {file.parent: file.stat().st_mtime for file in EVALS.glob("*/card.json")}
    newest = sorted(found, key=lambda folder: found[folder], reverse=True)
    return _offered(incomplete, ((str(folder), "") for folder in newest))


def run(incomplete: str) -> Offers:
    """Offer the run folders of ./runs and of the typed folder, newest first."""
    return _folders(incomplete, {RUNS: "settings.toml"})


def run_or_study(incomplete: str) -> Offers:
    """Offer the studies of ./studies, too."""
    return _folders(incomplete, {RUNS: "settings.toml", STUDIES: "study.toml"})


def _folders(incomplete: str, marks: Mapping[Path, str]) -> Offers:
    """Offer the folders that have their place's file; there, and in the typed folder."""
    typed = Path(os.environ.get(_BEFORE, "") + incomplete + "x").parent  # x: dir/ is dir
    places = [(place, mark) for root, mark in marks.items() for place in (root, typed)]
    found = {file for place, mark in places for file in place.glob(f"*/{mark}")}
    newest = sorted(found, key=lambda file: file.stat().st_mtime, reverse=True)
    return _offered(incomplete, ((str(file.parent), "") for file in newest))


def part(incomplete: str) -> Offers:
    """Offer the variants of the studies under ./studies."""
    found = {file.stem for file in STUDIES.glob("*/settings/*.toml")}
    return _offered(incomplete, ((name, "") for name in sorted(found)))
