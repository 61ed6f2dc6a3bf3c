"""What --data and --reward stand for, as values of settings. No torch here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dgpo_cli.config.changes import plain_name, run_name
from dgpo_cli.config.layers import Layer, dotted_layer
from dgpo_cli.config.load import Resolved, resolve
from dgpo_cli.config.settings import Settings
from dgpo_cli.config.tree import flatten, known_leaves
from dgpo_cli.core.errors import ConfigError
from dgpo_cli.prompts.catalog import find, load_manifest, own_names
from dgpo_cli.prompts.manifests import HubManifest

SUMS = "sums"
CHECKERS = ("integer", "math", "choice")
DATA_FORMS = (
    "a file of problems (.jsonl, .json, .csv or .parquet), a dataset of the hub as OWNER/NAME, or "
    f"{SUMS}"
)
REWARD_FORMS = f"{', '.join(CHECKERS)}, FILE.py:FUNCTION, MODULE:FUNCTION or an http address"
_LONGEST_NAME = 40  # characters of a model's or a file's name in that of a run folder
_DATA_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FUNCTION = re.compile(r"(?:.+\.py|[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):[A-Za-z_]\w*")


def data_values(text: str) -> dict[str, Any]:
    """Return the settings that say where the problems are, by dotted name.

    Raises:
        ConfigError: it is no file, no id of the hub and not sums.
    """
    path = Path(text)
    if text == SUMS:
        return {"prompts.kind": "sums"}
    if path.is_file():
        return {"prompts.kind": "file", "prompts.path": text}
    if path.is_dir():
        raise ConfigError(f"--data {text}: is a folder; give one file of it, or {DATA_FORMS}")
    if _HUB_ID.fullmatch(text) and path.suffix.lower() not in _DATA_SUFFIXES:
        return {"prompts.kind": "hub", "prompts.dataset": text}
    if find(text) is not None:
        raise ConfigError(
            f"--data {text}: is a benchmark, for dgpo eval --bench {text}, not to be trained on; "
            f"give {DATA_FORMS}"
        )
    raise ConfigError(f"--data {text}: no such file; give {DATA_FORMS}")


def _training_files(dataset: str) -> str | None:
    """Return the training files of a benchmark's dataset that has its problems in a folder.

    Other folders may have the same problems in another form.
    """
    for name in own_names():
        manifest = load_manifest(name)
        if not isinstance(manifest, HubManifest) or manifest.dataset != dataset:
            continue
        folder, _, file = manifest.files[0].rpartition("/")
        if folder and file.startswith("test-"):
            return f"{folder}/train-*"
    return None


def reward_values(text: str) -> dict[str, Any]:
    """Return the settings of a reward, by dotted name.

    Raises:
        ConfigError: it is neither a checker, nor a function, nor an address.
    """
    if text in CHECKERS:
        return {"reward.kind": text}
    if text.startswith(("http://", "https://")):
        return {"reward.kind": "http", "reward.url": text}
    if _FUNCTION.fullmatch(text):
        return {"reward.kind": "python", "reward.path": text}
    if text.endswith(".py"):
        raise ConfigError(f"--reward {text}: name the function too, as in {text}:score")
    raise ConfigError(f"--reward {text}: give {REWARD_FORMS}")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a command line says about a run: a preset or a file, a model, data and a reward of
    one's own, --set and the other flags.
    """

    preset: str | None = None
    config: Path | None = None
    model: str | None = None
    data: str | None = None
    reward: str | None = None
    overrides: Sequence[str] = ()
    flags: Mapping[str, tuple[str, Any]] = field(default_factory=dict)

    @property
    def has_recipe(self) -> bool:
        """Whether a preset or a file gives what is not said here."""
        return self.preset is not None or self.config is not None

    def check_trainable(self) -> None:
        """Refuse a command that does not say what to train.

        Raises:
            ConfigError: it has neither a recipe nor both a model and data.
        """
        if self.has_recipe or (self.model and self.data):
            return
        if self.model:
            raise ConfigError(f"--model {self.model}: give --data too: {DATA_FORMS}")
        if self.data:
            raise ConfigError(
                f"--data {self.data}: give --model too, a hub id or the folder of a model"
            )
        raise ConfigError(
            "give --preset NAME (dgpo preset list shows them), --config FILE.toml, or a model and "
            "data of your own: --model M --data FILE"
        )

    def gives(self, key: str) -> bool:
        """Whether a setting, or anything in a section, is given by --set or a flag."""
        given = [argument.partition("=")[0].strip() for argument in self.overrides]
        return any(
            each == key or each.startswith(f"{key}.") or key.startswith(f"{each}.")
            for each in (*given, *self._own(), *self.flags)
        )

    def resolve(self, chosen: Sequence[Layer] = ()) -> Resolved:
        """Resolve the settings; `chosen` is below --set, and above a preset or a file.

        Raises:
            ConfigError: a line for each error.
        """
        return resolve(
            preset=self.preset,
            config=self.config,
            chosen=(*self._below(), *chosen),
            overrides=self.overrides,
            flags={**self._own(), **self.flags},
        )

    def words(self) -> list[str]:
        """Return it as options that any command takes: the other flags as --set."""
        given = {"--preset": self.preset, "--config": self.config, "--model": self.model}
        given |= {"--data": self.data, "--reward": self.reward}
        named = [word for name, each in given.items() if each is not None for word in (name, each)]
        flags = [f"{key}={value}" for key, (_, value) in self.flags.items()]
        changes = [word for each in (*self.overrides, *flags) for word in ("--set", each)]
        return [*map(str, named), *changes]

    def bare(self) -> Asked:
        """Return the recipe that a run folder is named after: nothing that changes it."""
        if self.has_recipe:
            return Asked(self.preset, self.config)
        return Asked(model=self.model, data=self.data)

    @property
    def name(self) -> str:
        """The name of the recipe: of the preset, of the file, or of model and data."""
        if self.config is not None:
            return self.config.stem
        if self.preset is not None:
            return self.preset
        assert self.model is not None and self.data is not None
        model = re.split(r"[/:]", self.model.rstrip("/"))[-1]
        data = self.data.rpartition("/")[2]
        stem = data if data == self.data == SUMS else Path(data).stem
        return plain_name(f"{model[:_LONGEST_NAME]}-{stem[:_LONGEST_NAME]}")

    def run_folder(self) -> Path:
        """Return the run folder that is named after the recipe and what differs from it."""
        try:
            recipe = self.bare().resolve()
        except ConfigError:  # it is complete only with --set
            recipe = resolve()
        return Path("runs") / run_name(self.name, recipe=recipe, resolved=self.resolve())

    def _own(self) -> dict[str, tuple[str, Any]]:
        """Return --model, --data and --reward as flags."""
        own: dict[str, tuple[str, Any]] = {}
        if self.model is not None:
            own["model.path"] = ("--model", self.model)
        if self.data is not None:
            own |= {key: ("--data", value) for key, value in data_values(self.data).items()}
        if self.reward is not None:
            own |= {key: ("--reward", value) for key, value in reward_values(self.reward).items()}
        return own

    def _below(self) -> Iterator[Layer]:
        """Yield what is below --set: the kinds that it needs where no recipe gives them, that of
        --reward, and what --data sets besides the place, which a preset has for its own data.
        """
        if not self.has_recipe:
            yield dotted_layer("--set", dict(self._implied()))
        if self.reward is not None:
            yield dotted_layer("--reward", reward_values(self.reward))
        if self.data is None:
            return
        values = data_values(self.data)
        if values["prompts.kind"] != "sums":
            values |= {"prompts.problem_column": "problem", "prompts.answer_column": "answer"}
        if values["prompts.kind"] == "hub":
            files = _training_files(str(self.data))
            values |= {"prompts.revision": None, "prompts.split": "train", "prompts.files": files}
        yield dotted_layer("--data", values)

    def _implied(self) -> Iterator[tuple[str, Any]]:
        """Yield the kinds that are given, and those that have the settings after --set:
        adapter.rank is LoRA's. What is chosen may then be of that kind.
        """
        given = {key: value for key, (_, value) in {**self._own(), **self.flags}.items()}
        for argument in self.overrides:
            key, _, value = (part.strip() for part in argument.partition("="))
            given[key] = value
        defaults = flatten(Settings())
        for key, value in given.items():
            leaves = known_leaves().get(key, ())
            if leaves and leaves[0].choice is not None:
                yield key, value
                continue
            variants = [leaf.variant for leaf in leaves]
            tag, _, kind = (variants[0] if variants else "").partition("=")
            if tag and not self.gives(tag) and f"{tag}={defaults[tag]}" not in variants:
                yield tag, kind
