"""Options that commands share, and their way to settings. No torch, no pydantic."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dgpo_cli.cli import completion
from dgpo_cli.cli.help import CHANGE, OUTPUT, READ, RUN
from dgpo_cli.core.errors import ConfigError
from dgpo_cli.ui import console

if TYPE_CHECKING:
    from dgpo_cli.config.layers import Layer
    from dgpo_cli.config.load import Resolved
    from dgpo_cli.config.shorthand import Asked
    from dgpo_cli.core.types import Price
    from dgpo_cli.planning.budget import Device
    from dgpo_cli.policy.settings import ModelSettings
    from dgpo_cli.prompts.settings import PromptSettings
    from dgpo_cli.samplers.endpoint.budget import Budget


PresetName = Annotated[
    str,
    typer.Argument(
        help="Name of a preset.",
        metavar="NAME",
        autocompletion=completion.preset,
        rich_help_panel=READ,
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        help="Preset that ships with dgpo; dgpo preset list names them.",
        metavar="NAME",
        autocompletion=completion.preset,
        rich_help_panel=RUN,
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(help="Settings from a TOML file.", metavar="FILE.toml", rich_help_panel=RUN),
]
Model = Annotated[
    str | None,
    typer.Option(
        help="Hub id or folder of a model, in place of that of a preset or file.",
        metavar="M",
        rich_help_panel=RUN,
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        help="The problems: a file (.jsonl, .json, .csv, .parquet), a dataset of the hub, or sums.",
        metavar="FILE|OWNER/NAME|sums",
        rich_help_panel=RUN,
    ),
]
Reward = Annotated[
    str | None,
    typer.Option(
        help="What judges completions: integer, math, choice, a Python function as FILE.py:NAME or "
        "MODULE:NAME, or an http address.",
        metavar="R",
        show_default="the preset's or file's, else by the answers",
        autocompletion=completion.reward,
        rich_help_panel=RUN,
    ),
]
Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        help="Hub id or folder of a model, with default settings; may be repeated.",
        metavar="M",
        rich_help_panel=RUN,
    ),
]
Presets = Annotated[
    list[str] | None,
    typer.Option(
        "--preset",
        help="Preset that ships with dgpo; dgpo preset list names them. May be repeated.",
        metavar="NAME",
        autocompletion=completion.preset,
        rich_help_panel=RUN,
    ),
]
Configs = Annotated[
    list[Path] | None,
    typer.Option(
        "--config",
        help="Settings from a TOML file; may be repeated.",
        metavar="FILE.toml",
        rich_help_panel=RUN,
    ),
]
Adapter = Annotated[
    Path | None,
    typer.Option(
        help="Folder of a LoRA adapter to put on the model.", metavar="DIR", rich_help_panel=RUN
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Change one setting, as in --set optim.lr=1e-6; may be repeated. "
        "Nothing after the = unsets it.",
        metavar="KEY=VALUE",
        autocompletion=completion.override,
        rich_help_panel=CHANGE,
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        help="Same as --set seed=N.",
        metavar="N",
        show_default="the preset's, else 0",
        rich_help_panel=CHANGE,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print it as JSON.", rich_help_panel=OUTPUT)]
Markdown = Annotated[
    bool,
    typer.Option(
        "--markdown", help="Print the scores as a table in Markdown.", rich_help_panel=OUTPUT
    ),
]
Csv = Annotated[
    bool,
    typer.Option(
        "--csv",
        help="Print the scores as CSV, with all digits and both intervals.",
        rich_help_panel=OUTPUT,
    ),
]
Latex = Annotated[
    bool,
    typer.Option(
        "--latex",
        help="Print the scores as a table in LaTeX, for booktabs.",
        rich_help_panel=OUTPUT,
    ),
]
Endpoint = Annotated[
    str | None,
    typer.Option(
        "--endpoint",
        help="Evaluate a model behind this OpenAI-compatible API; --model is its name there.",
        metavar="URL",
        rich_help_panel=RUN,
    ),
]
ApiKeyEnv = Annotated[
    str | None,
    typer.Option(
        "--api-key-env",
        help="Environment variable that holds the endpoint's key.",
        metavar="VAR",
        show_default="DGPO_API_KEY",
        rich_help_panel=RUN,
    ),
]
TokenPrice = Annotated[
    str | None,
    typer.Option(
        "--price",
        help="Price of a million prompt tokens and of a million completion tokens, as in 0.5,2; "
        "the report then shows the cost.",
        metavar="IN,OUT",
        rich_help_panel=RUN,
    ),
]
MaxCost = Annotated[
    float | None,
    typer.Option(
        "--max-cost",
        help="Send no request that could make the cost exceed X; stored samples count too.",
        metavar="X",
        rich_help_panel=RUN,
    ),
]
Answers = Annotated[
    bool,
    typer.Option(
        "--answers",
        help="Print the expected answers too, which are left out by default.",
        rich_help_panel=OUTPUT,
    ),
]
Flags = dict[str, tuple[str, Any]]


def one_of(given: dict[str, object | None], *, why: str) -> str:
    """Return the name of the given option.

    Raises:
        ConfigError: none or several are given.
    """
    chosen = [name for name, value in given.items() if value is not None]
    if len(chosen) > 1:
        raise ConfigError(f"{' and '.join(chosen)}: give only one of them")
    if not chosen:
        *first, last = given
        raise ConfigError(f"give {', '.join(first)} or {last} {why}")
    return chosen[0]


def flags_of(**given: tuple[str, Any]) -> Flags:
    """Return the given flags; keywords are dotted leaves with __ for the dots."""
    return {
        key.replace("__", "."): (name, value)
        for key, (name, value) in given.items()
        if value is not None
    }


def resolve(
    *,
    preset: str | None = None,
    config: Path | None = None,
    protocol: Layer | None = None,
    overrides: list[str] | None,
    flags: Flags,
    quiet: bool = False,
    run_code: bool = True,
) -> Resolved:
    """Resolve settings and, unless `quiet`, print notes on dropped values."""
    from dgpo_cli.config.load import resolve as resolve_layers

    resolved = resolve_layers(
        preset=preset,
        config=config,
        protocol=protocol,
        overrides=overrides or (),
        flags=flags,
        run_code=run_code,
    )
    for line in () if quiet else resolved.notes:
        console.note(line)
    return resolved


def settle(asked: Asked, *, kept: Path | None = None, device: Device | None = None) -> Resolved:
    """Resolve what a command line asks for, with what its model and data decide; print notes.

    kept: settings of the run that is resumed. device: where the run is to fit, else this machine.

    Raises:
        ConfigError: a setting is wrong, or there is no such data.
        DataError: the data is broken.
        ModelError: there is no such model.
        BackendError: the hub does not give them.
    """
    if asked.data is None:
        resolved = asked.resolve()
    else:
        settings = asked.resolve().settings
        if kept is None:
            announce(settings.prompts)
        if kept is None and not asked.has_recipe:
            reach(settings.model)
        from dgpo_cli.planning.fit import fitted

        resolved = fitted(asked, kept=kept, device=device, observer=console.Notes())
    for line in resolved.notes:
        console.note(line)
    from dgpo_cli.config.foreign import template_note

    if note := template_note(resolved):
        console.note(note)
    return resolved


def print_choices(resolved: Resolved, *, kept: bool = False) -> None:
    """Print what was chosen for a model and data of one's own, with the reasons.

    kept: it was chosen when the run began.
    """
    from dgpo_cli.core.refusal import shown
    from dgpo_cli.planning.fit import chosen_in

    if rows := chosen_in(resolved):
        when = "when the run began; it keeps" if kept else "for this model and data; --set changes"
        console.note(f"chosen {when} them:")
    for key, value, reason in rows:
        text = shown(value).replace("\n", "\\n")
        console.aside(f"      {key}={text}  ({reason})")


def begun_in(folder: Path) -> Path | None:
    """Return the settings of the run that has begun in a folder, if there is one."""
    from dgpo_cli.runs.run_folder import RunFolder

    return RunFolder(folder).begun_settings()


def changing(
    by: str, asked: Asked, *, chosen: Sequence[Layer] = ()
) -> Callable[[dict[str, object]], Resolved]:
    """Return a function that resolves these settings with more changes, made by command `by`.

    chosen: for the model and data.
    """

    def changed(changes: dict[str, object]) -> Resolved:
        more = {key: (by, value) for key, value in changes.items()}
        return replace(asked, flags={**asked.flags, **more}).resolve(chosen)

    return changed


def resolve_run(
    run: Path,
    *,
    protocol: Layer | None = None,
    overrides: list[str] | None = None,
    flags: Flags | None = None,
    quiet: bool = False,
    run_code: bool = False,
) -> Resolved:
    """Resolve the settings of a run folder, with changes.

    run_code: as for config.load.resolve; most commands on a run use no code of the user's own.

    Raises:
        ConfigError: it is not a run folder.
    """
    settings_file = run / "settings.toml"
    if not settings_file.is_file():
        fault = "no settings.toml in it" if run.exists() else "no such folder"
        raise ConfigError(f"{run}: {fault}; name a run folder")
    return resolve(
        config=settings_file,
        run_code=run_code,
        protocol=protocol,
        overrides=overrides,
        flags=flags or {},
        quiet=quiet,
    )


def print_settings(resolved: Resolved, names: Collection[str] | None = None) -> None:
    """Print key, value and source of all settings, or of those in `names`."""
    from dgpo_cli.config.dump import describe

    rows = [row[:3] for row in describe(resolved) if names is None or row.leaf in names]
    console.table(rows, styles=("bold", "", "dim"))


def announce(prompts: PromptSettings) -> None:
    """Print a note if the prompts are on the hub, before anything slow is imported."""
    sources = prompts.sources if prompts.kind == "mixture" else (prompts,)
    for source in sources:
        if source.kind == "hub":
            from dgpo_cli.hub.calls import asked

            console.note(f"{source.dataset}: asking {asked()}")


def reach(model: ModelSettings) -> None:
    """Check that the hub has a model, before anything slow is imported.

    Raises:
        BackendError: it does not.
    """
    from dgpo_cli.hub.model import reach_model

    reach_model(model, observer=console.Notes())


def endpoint_flags(
    url: str | None,
    *,
    key: str | None,
    run: object,
    preset: object,
    config: object,
    adapter: object,
) -> Flags:
    """Return the settings that --endpoint and --api-key-env stand for.

    Raises:
        ConfigError: they do not go with another option.
    """
    if url is None:
        if key is not None:
            raise ConfigError("--api-key-env: give --endpoint URL too")
        return {}
    if key is not None and key not in os.environ:  # which may be a key, and is not repeated
        raise ConfigError(
            "--api-key-env: no environment variable has this name; set it, or leave the option out"
        )
    others = {"--run": run, "--preset": preset, "--config": config, "--adapter": adapter}
    for name, value in others.items():
        if value:
            raise ConfigError(
                f"--endpoint and {name}: an endpoint has its own weights; give --model NAME, its "
                "name for the model, instead"
            )
    return flags_of(
        rollout__backend__kind=("--endpoint", "endpoint"),
        rollout__backend__url=("--endpoint", url),
        rollout__backend__api_key_env=("--api-key-env", key),
    )


def only_model(flags: Flags, *, overrides: list[str] | None) -> str:
    """Return the name of the one model that the endpoint serves.

    Raises:
        ConfigError: it serves several, or does not say.
        BackendError: it cannot be reached.
    """
    from dgpo_cli.samplers.endpoint.client import key_of
    from dgpo_cli.samplers.endpoint.opening import served_models
    from dgpo_cli.samplers.settings import EndpointBackend

    backend = resolve(overrides=overrides, flags=flags).settings.rollout.backend
    assert isinstance(backend, EndpointBackend)
    names = served_models(backend, key_of(backend)) or ()
    if len(names) == 1:
        console.note(f"evaluating {names[0]}, the only model of {backend.url}")
        return names[0]
    found = f"serves {len(names)} models" if names else "does not list its models"
    shown = f"--model, one of {', '.join(names[:20])}" if names else "--model NAME"
    raise ConfigError(f"{backend.url}: {found}; give {shown}")


def parse_price(text: str | None) -> Price | None:
    """Read --price IN,OUT.

    Raises:
        ConfigError: it is not of that form.
    """
    if text is None:
        return None
    from dgpo_cli.core.types import Price

    try:
        prompt, completion = map(float, text.split(","))
    except ValueError:
        prompt = completion = math.nan
    if not (0 <= prompt < math.inf and 0 <= completion < math.inf):
        raise ConfigError(
            f"--price {text}: give the price of a million prompt tokens and of a million "
            "completion tokens, as in 0.5,2"
        )
    return Price(prompt, completion)


def parse_budget(most: float | None, *, price: Price | None) -> Budget | None:
    if most is None:
        return None
    from dgpo_cli.samplers.endpoint.budget import Budget

    if price is None:
        raise ConfigError(f"--max-cost {most:g}: give --price IN,OUT too")
    if not 0 < most < math.inf:
        raise ConfigError(f"--max-cost {most:g}: must be a number above 0")
    return Budget(price, most)
