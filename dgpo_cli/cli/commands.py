"""What all commands share: help, errors on the command line, exit codes.

Exit codes: 0 done, 1 a failed run, 2 usage or settings, 3 a bar not reached, 130 Ctrl-C.
Typer's error messages name neither the value nor the fix, so they are not used.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import typer
from typer.core import TyperCommand, TyperGroup

from dgpo_cli.cli import help
from dgpo_cli.core.errors import ConfigError, DgpoError, Interrupted, in_one_line
from dgpo_cli.ui import console

FAILED = 1
USAGE = 2
NOT_REACHED = 3
INTERRUPTED = 130
ORDER = "dgpo_cli.order"  # in ctx.meta: the options as they were typed, by parameter


class Command(TyperCommand):
    """A command with dgpo's help and error messages."""

    allow_extra_args = True  # parse_args refuses them itself

    def get_help(self, ctx: Any) -> str:
        """Return the help as it is printed."""
        return help.page(self, ctx)

    def make_parser(self, ctx: Any) -> Any:
        """Return typer's parser; it leaves the order of the options in ctx.meta."""
        parser = super().make_parser(ctx)
        parse = parser.parse_args

        def parse_args(args: list[str]) -> Any:
            found, rest, order = parse(args)
            ctx.meta[ORDER] = [param.name for param in order]
            return found, rest, order

        parser.parse_args = parse_args  # type: ignore[method-assign]
        return parser

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the command line.

        Raises:
            ConfigError: an error in it, or too many arguments.
        """
        with _one_line_errors(ctx):
            rest = super().parse_args(ctx, args)
        if rest and not ctx.resilient_parsing:
            raise _explained(f"{' '.join(rest)}: {_too_many(rest[0], ctx)}", ctx)
        return rest


class CommandGroup(TyperGroup):
    """Several commands, with the help that lists them."""

    def get_help(self, ctx: Any) -> str:
        """Return the help as it is printed."""
        return help.page(self, ctx)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Find the command of the first argument.

        Raises:
            ConfigError: no such command.
        """
        if args[0] not in self.commands and not ctx.resilient_parsing:
            raise _explained(f"{args[0]}: unknown command{_meant(args[0], self.commands)}", ctx)
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments before the name of the command.

        Raises:
            ConfigError: an error in them, or no command follows.
        """
        with _one_line_errors(ctx):
            rest = super().parse_args(ctx, args)
        if not rest and not ctx._protected_args and not ctx.resilient_parsing:
            *first, last = self.commands
            raise _explained(f"{ctx.command_path}: add {', '.join(first)} or {last}", ctx)
        return rest


@contextmanager
def _one_line_errors(ctx: Any) -> Iterator[None]:
    """Turn typer's errors into one line: the value, the option, the fix."""
    try:
        yield
    except typer.TyperException as error:
        param: Any = getattr(error, "param", None)
        option: str | None = getattr(error, "option_name", None)
        known = {name: each for each in ctx.command.get_params(ctx) for name in each.opts}
        if param is not None:
            message = _refused(param, error)
        elif option in known:
            what = help.takes(known[option])
            message = f"{option}: needs a value, {what}" if what else f"{option}: takes no value"
        elif option is not None:
            message = f"{option}: unknown option{_meant(option, known)}"
        else:
            message = " ".join(error.format_message().split()).rstrip(".")
        raise _explained(message, ctx) from error


def _refused(param: Any, error: Any) -> str:
    """Return the error for a wrong or missing value of an option or argument."""
    what = help.takes(param)
    name = param.opts[0] if param.opts[0].startswith("-") else what
    cause: BaseException | None = error.__cause__
    if cause is None and error.message:  # a path that is there, but cannot be read
        why = f"{error.message[0].lower()}{error.message[1:].rstrip('.')}"
        return f"{name}: {why}" if name != what else why
    if cause is None:
        return f"give {name} {what}" if name != what else f"give {name}"
    from pydantic import ValidationError

    from dgpo_cli.core.refusal import one_of, problem, shown
    from dgpo_cli.core.text import cut

    if not isinstance(cause, ValidationError):
        return f"{name}: {cause}"
    details = cause.errors(include_url=False)[0]
    given = cut(shown(details["input"]))
    choices = param.type_descriptor.choices
    why = one_of(given, list(map(str, choices))) if choices else problem(details)
    return f"{name}={given}: {why}"


def _too_many(first: str, context: Any) -> str:
    """Return the error for an extra argument; it may be the name of a preset."""
    from dgpo_cli.config.presets import preset_names

    takes_preset = any("--preset" in param.opts for param in context.command.params)
    if takes_preset and first in preset_names():
        return f"unexpected argument; did you mean --preset {first}?"
    return "unexpected argument"


def _meant(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.7)
    return f"; did you mean {near[0]}?" if near else ""


def _explained(message: str, ctx: Any) -> ConfigError:
    """Add the command that shows the help."""
    more = f"ee {ctx.command_path} --help"
    return ConfigError(f"{message} S{more}" if message.endswith("?") else f"{message}; s{more}")


def take_debug(arguments: list[str]) -> tuple[list[str], bool]:
    """Remove --debug from the arguments, wherever it is before a "--"."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    rest = [argument for argument in arguments[:end] if argument != "--debug"]
    return [*rest, *arguments[end:]], len(rest) < end


class Guard:
    """Prints how a command ended; use it as a context, then its exit code.

    result: what typer returned: the code of an early exit, also for Ctrl-C.
    """

    def __init__(self, *, debug: bool) -> None:
        self.result: object = None
        self.code = FAILED
        self._debug = debug

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if error is None:
            try:
                console.flush()
            except Exception as found:
                error = found
        if error is None:
            code = self.result if isinstance(self.result, int) else 0
            self.code = _explain(Interrupted()) if code == INTERRUPTED else code
        elif isinstance(error, KeyboardInterrupt):
            self.code = _explain(Interrupted(str(error)))
        elif isinstance(error, Exception):
            if self._debug and not isinstance(error, (BrokenPipeError, Interrupted)):
                console.show_traceback(error)
            self.code = _explain(error)
        else:
            return False
        return True


@contextmanager
def last_words() -> Iterator[None]:
    """Keep the message of a KeyboardInterrupt, which typer would drop.

    One more Ctrl-C while the first one ends the run has none; what the first said holds.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        said: BaseException | None = stop
        while said is not None and not (isinstance(said, KeyboardInterrupt) and said.args):
            said = said.__context__
        raise Interrupted(str(said or "")) from stop


def _explain(error: Exception) -> int:
    """Print the error, in one line; return the exit code."""
    match error:
        case Interrupted():
            console.aside(str(error) or "interrupted")
            return INTERRUPTED
        case DgpoError():
            console.error(str(error))
            return error.exit_code
        case typer.Abort():
            return _explain(Interrupted())
        case BrokenPipeError():
            console.forget_stdout()
            return FAILED
        case OSError(strerror=str()):
            console.error(in_one_line(error))
        case _:
            console.error(f"{in_one_line(error)} (--debug shows where)")
    return FAILED
