"""dgpo settings: explain settings. dgpo preset: list, show and copy presets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from dgpo_cli.cli import completion, options
from dgpo_cli.cli.commands import Command, CommandGroup
from dgpo_cli.cli.help import OUTPUT, READ, entry, wrapped
from dgpo_cli.config import presets
from dgpo_cli.core import io
from dgpo_cli.core.errors import ConfigError
from dgpo_cli.ui import console

if TYPE_CHECKING:
    from dgpo_cli.config.load import Resolved
    from dgpo_cli.config.reference import EntryKind, Setting

COLUMN = 13  # where the facts of a setting begin

Name = Annotated[
    str | None,
    typer.Argument(
        help="A setting, a section such as credit, or a part of a name.",
        metavar="[NAME]",
        show_default="all settings",
        autocompletion=completion.setting,
        rich_help_panel=READ,
    ),
]
Run = Annotated[
    Path | None,
    typer.Option(
        help="Run folder; print the values of its settings.",
        metavar="DIR",
        autocompletion=completion.run,
        rich_help_panel=READ,
    ),
]


def settings(
    name: Name = None,
    preset: options.Preset = None,
    config: options.Config = None,
    run: Run = None,
    overrides: options.Set = None,
    as_json: options.Json = False,
) -> None:
    """Explain a setting: meaning, range, default, presets, commands, effect on resuming.

    Without NAME, and for a section or a part of a name, list settings, a line each. With --preset,
    --config, --run or --set, print their values and sources too.

    Examples:
      Everything about one setting
        dgpo settings credit.tau
      The credit settings of a preset, one changed
        dgpo settings credit --preset tiny --set credit.tau=1.0
    """
    given: dict[str, object | None] = {"--preset": preset, "--config": config, "--run": run}
    if sum(value is not None for value in given.values()) > 1:
        options.one_of(given, why="")
    resolved = None
    if run is not None:
        from dgpo_cli.config.dump import with_stored_sources

        resolved = options.resolve_run(run, overrides=overrides, run_code=True)
        resolved = with_stored_sources(resolved, run / "settings.toml")
    elif preset or config or overrides:
        resolved = options.resolve(preset=preset, config=config, overrides=overrides, flags={})
    from dgpo_cli.config.reference import find

    found = find(name, resolved)
    if as_json:
        console.say_json({"version": 1, "settings": [each.to_json() for each in found]})
    elif len(found) == 1:
        _print(_explained(found[0], resolved))
    elif resolved is not None:
        here = {each.name for each in found if each.source is not None}
        if not here:
            raise ConfigError(f"{name}: these settings have none of them; see dgpo settings {name}")
        options.print_settings(resolved, here)
    else:
        _print(_listed(found))


def _print(lines: Iterable[Text]) -> None:
    console.raw(console.drawn(lines, width=console.stdout().width))


def _explained(setting: Setting, resolved: Resolved | None) -> Iterator[Text]:
    """Yield the explanation of a setting."""
    from dgpo_cli.config.reference import in_words

    width = console.stdout().width
    yield Text(setting.name, style="bold cyan")
    for variant, (about, _) in setting.meanings.items():
        for line in about.splitlines():
            yield from wrapped(
                Text(f"{variant}: {line}" if variant else line), indent=2, width=width
            )
    yield Text()
    types = [
        f"{in_words(schema)} ({variant})" if variant else in_words(schema)
        for variant, (_, schema) in setting.meanings.items()
    ]
    facts = {
        "type": "; ".join(types),
        "default": "none: it must be set" if setting.required else _value(setting.default),
        "value": _now(setting, resolved),
        "presets": _in_presets(setting),
        "used by": ", ".join(setting.used_by),
        "on resume": _ON_RESUME[setting.change.name],
        "only with": " or ".join(setting.only_with),
    }
    for name, fact in facts.items():
        if fact:
            yield from entry(Text(name, style="bold"), Text(fact), column=COLUMN, width=width)
    for kind in setting.entries:
        yield from _entry(setting.name, kind, width=width)


def _entry(name: str, kind: EntryKind, *, width: int) -> Iterator[Text]:
    """Yield what a table of a list may have, for one kind of it."""
    from dgpo_cli.config.reference import in_words

    yield Text()
    tag, _, value = kind.tag.partition("=")
    yield Text.assemble((f"[[{name}]]", "bold cyan"), f'  {tag} = "{value}"' if tag else "")
    if kind.about:
        yield from wrapped(Text(kind.about), indent=2, width=width)
    column = 6 + max(len(field.name) for field in kind.fields)
    for field in kind.fields:
        default = "required" if field.required else _value(field.default)
        fact = f"{field.about} " if field.about else ""
        text = Text(f"{fact}({in_words(field.schema)}; {default or 'empty'})")
        yield from entry(Text(f"  {field.name}", style="cyan"), text, column=column, width=width)


_ON_RESUME = {
    "FREE": "may change: it moves weights by rounding at most",
    "LEARNT": "needs --allow-change for another value: it affects what the run learns",
    "FIXED": "cannot change once the run has a checkpoint: start another run",
}


def _now(setting: Setting, resolved: Resolved | None) -> str:
    if resolved is None:
        return ""
    if setting.source is None:
        return f"none: it needs {' or '.join(setting.only_with)}"
    where = "the default" if setting.source == "default" else f"from {setting.source}"
    return f"{_value(setting.value)}, {where}"


def _in_presets(setting: Setting) -> str:
    names: dict[str, list[str]] = {}
    for preset, value in setting.presets.items():
        names.setdefault(_value(value), []).append(preset)
    if len(names) == 1 and len(setting.presets) == len(presets.preset_names()):
        return f"{next(iter(names))} in all"
    return "; ".join(f"{value} in {', '.join(each)}" for value, each in names.items())


def _value(value: object) -> str:
    from dgpo_cli.core.refusal import shown

    return "unset" if value is None else shown(value)


def _listed(found: Sequence[Setting]) -> Iterator[Text]:
    """Yield settings by section, a line each, with default and meaning."""
    from dgpo_cli.config.reference import in_words, section_about

    width = max(len(each.name) for each in found)
    sections: dict[str, list[Setting]] = {}
    for each in found:
        sections.setdefault(each.name.rpartition(".")[0], []).append(each)
    for at, (section, settings) in enumerate(sections.items()):
        if at:
            yield Text()
        if section:
            yield Text.assemble((section, "bold"), f"  {section_about(section)}")
        for each in settings:
            about, schema = next(iter(each.meanings.values()))
            default = "required" if each.required else _value(each.default)
            line = Text(f"  {each.name:<{width}}  ", style="cyan")
            line.append(f"{default:<14}  ", style="default")
            line.append(in_words(schema) if "\n" in about or not about else about, style="default")
            line.truncate(console.stdout().width, overflow="ellipsis")
            yield line


Written = Annotated[
    str | None,
    typer.Option(
        "--out",
        help="File to write; - prints it.",
        metavar="FILE.toml|-",
        show_default="MODEL-DATA.toml",
        rich_help_panel=OUTPUT,
    ),
]
Force = Annotated[
    bool, typer.Option("--force", help="Replace the file if it exists.", rich_help_panel=OUTPUT)
]
_FIRST_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"


def init(
    model: options.Model = None,
    data: options.Data = None,
    reward: options.Reward = None,
    overrides: options.Set = None,
    out: Written = None,
    force: Force = False,
) -> None:
    """Write a settings file for a model and data of your own, every line with a comment.

    On a terminal, what is not given is asked for; Enter takes the answer in brackets. What model,
    data and machine decide is chosen as dgpo train does without a preset.

    Examples:
      Ask for everything
        dgpo init
      A model and a file of problems
        dgpo init --model ./model --data problems.jsonl --out mine.toml
    """
    from dgpo_cli.config.shorthand import (
        DATA_FORMS,
        REWARD_FORMS,
        Asked,
        data_values,
        reward_values,
    )

    if model is None or data is None:
        if not console.can_ask():
            raise ConfigError("dgpo init asks only on a terminal; give --model M and --data F")
        model = model or _answer("model (a hub id or a folder)", default=_FIRST_MODEL)
        data = data or _answer(f"data ({DATA_FORMS})", default="sums", check=data_values)
        reward = reward or _answer(
            f"reward ({REWARD_FORMS})", default="by the answers", check=reward_values
        )
        reward = None if reward == "by the answers" else reward
    asked = Asked(model=model, data=data, reward=reward, overrides=overrides or ())
    target = Path(out if out is not None else f"{asked.name}.toml")
    if out != "-" and target.exists() and not force:
        raise ConfigError(f"{target}: already exists; give --force to replace it, or another --out")
    resolved = options.settle(asked)
    from dgpo_cli.config.checks import check_trainable
    from dgpo_cli.config.dump import commented_toml
    from dgpo_cli.planning.fit import comments_on

    check_trainable(resolved.settings)
    text = commented_toml(
        resolved,
        head=f"{target.stem if out != '-' else asked.name}: {model} on {data}.\n\nWritten by dgpo "
        "init. Every setting is here; dgpo settings NAME explains one.",
        comments=comments_on(resolved),
    )
    if out == "-":
        console.raw(text)
        return
    if force:
        io.write(target, text)
    else:
        io.write_new(target, text, what=f"--out {target}")
    console.say(f"written to {target}")
    console.suggest(
        ["train", "--config", target, "--dry-run"],
        ["plan", "--config", target],
        ["train", "--config", target],
    )


def _answer(question: str, *, default: str, check: Callable[[str], object] | None = None) -> str:
    """Ask until the answer is one; Enter takes the default."""
    while True:
        given = console.ask(question, default=default)
        if given == default or check is None:
            return given
        try:
            check(given)
        except ConfigError as error:
            console.error(str(error))
        else:
            return given


preset_app = typer.Typer(
    help="List, show or copy the presets that ship with dgpo.", cls=CommandGroup
)
Destination = Annotated[
    Path,
    typer.Argument(
        help="File to write, which must not exist yet, or a folder.",
        metavar="FILE",
        rich_help_panel=OUTPUT,
    ),
]


@preset_app.command("list", cls=Command, short_help="List the presets by the devices they need.")
def list_presets() -> None:
    """List the presets by the devices that they need, the smallest first.

    dgpo plan says whether another device is enough.

    Examples:
      List them
        dgpo preset list
    """
    found = sorted(presets.list_presets(), key=lambda each: (each.gpus, _gigabytes(each)))
    width = max(len(each.name) for each in found)
    lines, before = [], ""
    for each in found:
        if (needs := _needs(each)) != before:
            lines += [*([Text()] if before else []), Text(needs, style="bold")]
            before = needs
        name, purpose = Text(each.name, style="cyan"), Text(each.description)
        lines += entry(name, purpose, column=width + 6, width=console.stdout().width)
    _print(lines)
    console.suggest(["preset", "show", "tiny"], ["train", "--preset", "tiny"])


def _gigabytes(preset: presets.PresetInfo) -> int:
    """Return the memory of the preset's GPU, as it is sold; 0 for any device."""
    from dgpo_cli.planning.devices import GPUS

    if preset.hardware is None:
        return 0
    return next(size for size in _SOLD if size << 30 >= GPUS[preset.hardware].memory)


# What GPUs are sold with; a driver keeps a little of it.
_SOLD = {
    12: "12 GB",
    16: "16 GB",
    24: "24 GB",
    40: "40 GB",
    48: "48 GB",
    80: "80 GB",
    141: "141 GB",
}


def _needs(preset: presets.PresetInfo) -> str:
    if preset.hardware is None:
        return "A CPU, or any GPU"
    size = _SOLD[_gigabytes(preset)]
    return f"A GPU of {size}" if preset.gpus == 1 else f"{preset.gpus} GPUs of {size}"


@preset_app.command("show", cls=Command)
def show_preset(name: options.PresetName) -> None:
    """Print a preset: every setting, with the reason for its value.

    Examples:
      The smallest one
        dgpo preset show tiny
      The one with the paper's model
        dgpo preset show qwen32b-full
    """
    console.raw(presets.preset_text(name))


@preset_app.command("copy", cls=Command)
def copy_preset(name: options.PresetName, destination: Destination) -> None:
    """Copy a preset to a file, to change it and use it with --config.

    Examples:
      To a file
        dgpo preset copy tiny mine.toml
      Into a folder, under its own name
        dgpo preset copy qwen7b-lora .
    """
    target = presets.copy_preset(name, destination)
    console.say(f"{target}: use it with dgpo train --config {target}")
