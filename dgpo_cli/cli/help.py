"""The help of every command: options in groups, defaults, examples to copy.

Typer's own help imports a markdown parser and a syntax highlighter, which takes longer than the
rest of `dgpo --help`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rich.text import Text
from typer.core import TyperCommand, TyperGroup

from dgpo_cli.ui import console

# Groups of options.
RUN = "What to run"
READ = "What to read"
SHOW = "What to show"
CHANGE = "What to change"
OUTPUT = "Output"
NETWORK = "Network"
MACHINE = "Machine"
HELP = "Help"
EXAMPLES = "Examples:"  # begins the last paragraph of a command's docstring
_WIDEST = 110  # columns; longer lines are hard to read
_NARROWEST = 40
_COLUMN = 30  # last column in which texts begin; a longer name gets its own line


def takes(param: Any) -> str:
    """Return the placeholder of an option or argument: N, FILE, auto|panel|lines."""
    if getattr(param, "is_flag", False):
        return ""
    if param.metavar is not None:
        return str(param.metavar)
    choices = param.type_descriptor.choices
    return "|".join(map(str, choices)) if choices else str(param.name).upper()


def page(command: TyperCommand | TyperGroup, ctx: Any) -> str:
    """Return the help of a command, as wide as the terminal."""
    width = max(_NARROWEST, min(_WIDEST, shutil.get_terminal_size().columns))
    return console.drawn(_lines(command, ctx, width=width), width=width).rstrip("\n")


def _lines(command: TyperCommand | TyperGroup, ctx: Any, *, width: int) -> Iterator[Text]:
    text, _, shown = (command.help or "").partition(EXAMPLES)
    params: list[Any] = [*command.get_params(ctx)]
    yield Text.assemble(("Usage: ", "bold"), " ".join([ctx.command_path, *_usage(command, params)]))
    for paragraph in filter(None, text.split("\n\n")):
        yield Text()
        yield from wrapped(Text(" ".join(paragraph.split())), indent=2, width=width)
    groups: dict[str, list[tuple[Text, Text]]] = {}
    for name, inner in getattr(command, "commands", {}).items():
        group = groups.setdefault(inner.rich_help_panel or "Commands", [])
        group.append((Text(name, style="bold cyan"), Text(inner.get_short_help_str(1000))))
    for param in sorted(params, key=lambda param: param.rich_help_panel is None):
        group = groups.setdefault(param.rich_help_panel or HELP, [])
        group.append((_name(param), _about(param)))
    longest = max(len(name) for entries in groups.values() for name, _ in entries)
    for title, entries in groups.items():
        yield Text()
        yield Text(f"{title}:", style="bold")
        for name, about in entries:
            yield from entry(
                name, about, column=min(_COLUMN, 2 * width // 5, longest + 4), width=width
            )
    if shown.strip():
        yield Text()
        yield Text(EXAMPLES, style="bold")
        for line in shown.strip("\n").splitlines():
            yield Text(line, style="cyan" if line.strip().startswith("dgpo ") else "")


def _usage(command: TyperCommand | TyperGroup, params: Sequence[Any]) -> Iterator[str]:
    yield from (takes(param) for param in params if not param.opts[0].startswith("-"))
    for param in params:
        if param.required and param.opts[0].startswith("-"):
            yield f"{param.opts[0]} {takes(param)}"
    yield "COMMAND ..." if isinstance(command, TyperGroup) else "[OPTIONS]"


def _name(param: Any) -> Text:
    if not param.opts[0].startswith("-"):
        return Text(takes(param), style="bold cyan")
    short_first = sorted(param.opts, key=len)
    names = "/".join([", ".join(short_first), *param.secondary_opts])
    return Text.assemble((names, "bold cyan"), (f" {takes(param)}".rstrip(), "cyan"))


def _about(param: Any) -> Text:
    facts = [*_range(param), *_default(param)]
    known = f"  [{'; '.join(facts)}]" if facts else ""
    return Text(param.help or "").append(known, style="dim")


def _default(param: Any) -> Iterator[str]:
    """Yield the default of an option, or that it is required."""
    shown = getattr(param, "show_default", True)
    if param.required:
        if param.opts[0].startswith("-"):
            yield "required"
    elif isinstance(shown, str):
        yield f"default: {shown}"
    elif shown and param.default is not None:
        if not getattr(param, "is_flag", False):
            yield f"default: {_short(param.default)}"
        elif param.secondary_opts:
            yield f"default: {'on' if param.default else 'off'}"


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _range(param: Any) -> Iterator[str]:
    match param.min, param.max:
        case None | 0, None:
            return
        case low, None:
            yield f"at least {low:g}"
        case None, high:
            yield f"at most {high:g}"
        case low, high:
            yield f"{low:g} to {high:g}"


def entry(name: Text, about: Text, *, column: int, width: int) -> Iterator[Text]:
    """Yield the lines of a name with its text to the right, or below a long name."""
    head = Text("  ").append_text(name)
    lines = list(wrapped(about, indent=column, width=width))
    if len(head) + 2 > column:
        yield head
    elif lines:
        lines[0] = head.append_text(lines[0][len(head) :])
    yield from lines


def wrapped(text: Text, *, indent: int, width: int) -> Iterator[Text]:
    """Yield the lines of a text that begins at column `indent`."""
    lines: Iterable[Text] = text.wrap(console.stdout(), max(20, width - indent))
    for line in lines:
        line.rstrip()
        yield Text(" " * indent).append_text(line)
