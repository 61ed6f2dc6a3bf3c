"""The file of a study: what is varied, with which seeds, and how it is judged. No torch here."""

from __future__ import annotations

import itertools
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from dgpo_cli.config.changes import plain_name
from dgpo_cli.config.checks import check_trainable
from dgpo_cli.config.layers import Layer, dotted_layer, parse_toml
from dgpo_cli.config.load import Resolved, resolve
from dgpo_cli.config.tree import known_leaves
from dgpo_cli.core.errors import ConfigError
from dgpo_cli.core.refusal import shown
from dgpo_cli.core.schema import Frozen, Whole
from dgpo_cli.core.text import cut
from dgpo_cli.core.types import Variant
from dgpo_cli.study.fields import (
    Seeds,
    Values,
    check_distinct,
    combined,
    filled,
    meant,
    short_names,
    unknown,
)
from dgpo_cli.study.search import Search, Space, read_search, trials_of

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=,+-]{0,119}")
_NOT_VARIED = {"seed": "seeds"}  # settings that the study itself gives, and how


class Judge(Frozen):
    """[eval]: the evaluation of the base model and of every finished run."""

    bench: str = Field(min_length=1, description="A benchmark, its manifest or a file of problems.")
    k: Whole = Field(32, ge=1, description="Samples of each problem.")
    data: str | None = Field(None, description="Local copy of a named benchmark's data.")
    protocol: str | None = Field(None, description="Protocol; unset: the benchmark's own.")


class _Head(Frozen):
    """What is beside the tables."""

    description: str = Field("", description="What the study is for.")
    preset: str | None = Field(None, description="The preset that all runs begin with.")
    settings: str | None = Field(None, description="Or a file of settings.")
    seeds: Seeds = Field(description="Seeds of every variant, or how many.")
    baseline: str | None = Field(None, description="The variant that others are compared with.")
    jobs: Whole | None = Field(None, ge=1, description="Runs side by side.")
    hours: float | None = Field(None, gt=0, description="Wall-clock hours of all its calls.")


_TABLES = ("set", "axes", "variants", "tune", "eval")


@dataclass(frozen=True, slots=True)
class StudyFile:
    """A study as its file describes it.

    path: of the file; settings, a file, is relative to its folder. common: the settings of all
    runs ([set]). baseline: the name of a variant. hours: that it may run, all calls together.
    space: empty without [tune].
    """

    path: Path
    description: str
    preset: str | None
    settings: Path | None
    seeds: tuple[int, ...]
    baseline: str
    jobs: int | None
    hours: float | None
    common: Values
    variants: tuple[Variant, ...]
    search: Search | None
    space: Space
    judge: Judge | None

    def resolve(self, variant: Variant, more: Mapping[str, Any] | None = None) -> Resolved:
        """Return the settings of a variant, with `more` on top.

        Raises:
            ConfigError: a line for each setting that is wrong.
        """
        at = f"{self.path.name}, {variant.name}"
        layers = [
            dotted_layer(f"{self.path.name} [set]", self.common),
            dotted_layer(at, variant.settings),
            dotted_layer(f"{self.path.name} [tune]", more or {}),
        ]
        found = resolve(
            preset=self.preset,
            config=self.settings,
            chosen=[_checked(layer) for layer in layers],
        )
        check_trainable(found.settings)
        return found


def _checked(layer: Layer) -> Layer:
    for name, instead in _NOT_VARIED.items():
        if name in layer.tree:
            raise ConfigError(f"{name} ({layer.name}): the study gives it; list them as {instead}")
    return layer


def read_file(path: Path, *, check: bool = True) -> StudyFile:
    """Read and check the file of a study.

    check: also resolve every variant's settings.

    Raises:
        ConfigError: a line for each thing that is wrong.
    """
    tree = _tree(path)
    head = filled(_Head, {k: v for k, v in tree.items() if k not in _TABLES}, where=str(path))
    if head.preset is not None and head.settings is not None:
        raise ConfigError(
            f"{path}: preset={head.preset} and settings={head.settings}: give one of them"
        )
    check_distinct(head.seeds, where=f"{path}: seeds")
    tables = {name: _table(tree, name, where=str(path)) for name in _TABLES}
    search, space = read_search(tables["tune"], seeds=head.seeds, where=f"{path} [tune]")
    variants = _variants(tables, recipe=head.preset or Path(head.settings or path).stem, path=path)
    found = StudyFile(
        path=path,
        description=head.description,
        preset=head.preset,
        settings=None if head.settings is None else path.parent / head.settings,
        seeds=head.seeds,
        baseline=_baseline(head.baseline, variants, where=str(path)),
        jobs=head.jobs,
        hours=head.hours,
        common=_flat(tables["set"] or {}),
        variants=variants,
        search=search,
        space=space,
        judge=None
        if tables["eval"] is None
        else filled(Judge, tables["eval"], where=f"{path} [eval]"),
    )
    if check:
        _check(found)
    return found


def _tree(path: Path) -> dict[str, Any]:
    try:
        tree = parse_toml(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text; save it as UTF-8") from error
    except OSError as error:
        reason = (error.strerror or "cannot be read").lower()
        raise ConfigError(f"{path}: {reason}; give the TOML file of a study") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be read as TOML: {error}") from error
    known = [*_Head.model_fields, *_TABLES]
    lines = [unknown(key, known, where=str(path)) for key in tree if key not in known]
    if lines:
        raise ConfigError("\n".join(lines))
    return tree


def _table(tree: Mapping[str, Any], name: str, *, where: str) -> dict[str, Any] | None:
    value = tree.get(name)
    if value is not None and not isinstance(value, dict):
        raise ConfigError(f"{where}: {name}={cut(shown(value))}: must be a table; write [{name}]")
    return value


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Values:
    """Return settings by dotted name, however the tables were written."""
    found: Values = {}
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and key not in known_leaves():
            found |= _flat(value, f"{key}.")
        else:
            found[key] = value
    return found


def _variants(
    tables: Mapping[str, dict[str, Any] | None], *, recipe: str, path: Path
) -> tuple[Variant, ...]:
    """Return the product of the axes and the named variants."""
    axes = _flat(tables["axes"] or {})
    for key, values in axes.items():
        _check_axis(key, values, where=f"{path} [axes]")
    found = [*_product(axes, path=path)] if axes else []
    for name, settings in (tables["variants"] or {}).items():
        if not isinstance(settings, dict):
            raise ConfigError(
                f"{path} [variants]: {name}={cut(shown(settings))}: must be a table of settings; "
                f"write [variants.{name}]"
            )
        values = _flat(settings)
        for key in values:
            _refuse_dotted_name(name, key, where=f"{path} [variants]")
        found.append(Variant(_safe(name, where=f"{path} [variants]"), values))
    found = found or [Variant(plain_name(recipe) or "all", {})]
    names = [each.name for each in found]
    twice = next((name for at, name in enumerate(names) if name in names[:at]), None)
    if twice is not None:
        raise ConfigError(
            f"{path}: two variants are named {twice}; name them in [variants] instead of [axes]"
        )
    return tuple(found)


def _check_axis(key: str, values: Any, *, where: str) -> None:
    """Refuse an axis that is not a list, has no value, or has one twice."""
    fault = "" if isinstance(values, list) else "must be a list of its values"
    if values == []:
        fault = "must have at least one value"
    names = [] if fault else [shown(value) for value in values]
    twice = next((name for at, name in enumerate(names) if name in names[:at]), None)
    if twice is not None:
        fault = f"has {cut(twice)} twice; list each value once"
    if fault:
        raise ConfigError(f"{where}: {key}={cut(shown(values))}: {fault}")


def _refuse_dotted_name(name: str, key: str, *, where: str) -> None:
    """Refuse [variants.dgpo-0.5], in which TOML reads two names, dgpo-0 and 5."""
    sections = {known.partition(".")[0] for known in known_leaves()}
    parts = key.split(".")
    at = next((at for at, part in enumerate(parts) if part in sections), 0)
    if at:
        whole = ".".join([name, *parts[:at]])
        raise ConfigError(
            f'{where}: {whole}: a name with a dot needs quotes; write [variants."{whole}"]'
        )


def _product(axes: Mapping[str, list[Any]], *, path: Path) -> Iterator[Variant]:
    names = short_names(list(axes))
    for values in itertools.product(*axes.values()):
        settings = dict(zip(axes, values, strict=True))
        yield Variant(_safe(combined(settings, names), where=f"{path} [axes]"), settings)


def _safe(name: str, *, where: str) -> str:
    if _NAME.fullmatch(name):
        return name
    raise ConfigError(
        f"{where}: {cut(name)} cannot be the name of a folder; use at most 120 letters, digits and "
        "._=,+- in a name, as in [variants.small]"
    )


def _baseline(name: str | None, variants: Sequence[Variant], *, where: str) -> str:
    """Return the baseline: a variant, or the one that has this value."""
    if name is None:
        return variants[0].name
    names = [each.name for each in variants]
    if name in names:
        return name
    having = [
        each.name for each in variants if name in (shown(value) for value in each.settings.values())
    ]
    if len(having) == 1:
        return having[0]
    hint = f"{' and '.join(having)} have it; name one" if having else meant(name, names)
    raise ConfigError(f"{where}: baseline={cut(name)}: no such variant; {hint}")


def _check(study: StudyFile) -> None:
    """Resolve every variant, and the ends of what its search tries."""
    lines: list[str] = []
    for variant in study.variants:
        try:
            found = study.resolve(variant)
            for values in () if study.search is None else trials_of(study.search, study.space):
                study.resolve(variant, values)
        except ConfigError as error:
            lines += str(error).splitlines()
            continue
        search, optim = study.search, found.settings.optim
        if search is not None and search.halving and optim.schedule != "constant":
            lines.append(
                f"{study.path} [tune]: halving={search.halving}: optim.schedule={optim.schedule} "
                "ends with the steps of a trial; set optim.schedule=constant, or leave halving out"
            )
    if lines:
        raise ConfigError("\n".join(dict.fromkeys(lines)))
