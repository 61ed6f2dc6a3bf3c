"""What every command is besides its function: help, mistakes on its command line, how it ends.

Exit codes: 0 done, 1 a failed run, 2 usage or settings, 3 a bar not reached, 130 Ctrl-C.
Typer's words for a mistake name neither the value nor the fix, so they are not used.
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import typer
from typer.core import TyperCommand, TyperGroup

from dgpo_cli.cli import help
from dgpo_cli.core.errors import ConfigError, DgpoError, Interrupted
from dgpo_cli.ui import console

FAILED = 1
USAGE = 2
NOT_REACHED = 3
INTERRUPTED = 130


class Command(TyperCommand):
    """A command with our help and our words for too many arguments."""

    allow_extra_args = True  # parse_args refuses them itself

    def get_help(self, ctx: Any) -> str:
        """Return the help as it is printed."""
        return help.page(self, ctx)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the command line.

        Raises:
            ConfigError: a mistake in it, or more arguments than the command takes.
        """
        with _in_our_words(ctx):
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
        """Find the command that is named first.

        Raises:
            ConfigError: there is none of that name.
        """
        if args[0] not in self.commands and not ctx.resilient_parsing:
            raise _explained(f"{args[0]}: unknown command{_meant(args[0], self.commands)}", ctx)
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read what comes before the name of the command.

        Raises:
            ConfigError: a mistake in it, or nothing comes after it.
        """
        with _in_our_words(ctx):
            rest = super().parse_args(ctx, args)
        if not rest and not ctx._protected_args and not ctx.resilient_parsing:
            *first, last = self.commands
            raise _explained(f"{ctx.command_path}: add {', '.join(first)} or {last}", ctx)
        return rest


@contextmanager
def _in_our_words(ctx: Any) -> Iterator[None]:
    """Put a mistake on the command line into one line: the value, the option, the fix."""
    try:
        yield
    except typer.TyperException as error:
        param: Any = getattr(error, "param", None)
        option: str | None = getattr(error, "option_name", None)
        known = {name: each for each in ctx.command.get_params(ctx) for name in each.opts}
        if param is not None:
            said = _refused(param, error.__cause__)
        elif option in known:
            what = help.takes(known[option])
            said = f"{option}: needs a value, {what}" if what else f"{option}: takes no value"
        elif option is not None:
            said = f"{option}: unknown option{_meant(option, known)}"
        else:
            said = " ".join(error.format_message().split()).rstrip(".")
        raise _explained(said, ctx) from error


def _refused(param: Any, cause: BaseException | None) -> str:
    """What is wrong with the value of an option or argument, or that there is none."""
    what = help.takes(param)
    name = param.opts[0] if param.opts[0].startswith("-") else what
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
    """Say that an argument is one too many; the name of a preset was meant as one."""
    from dgpo_cli.config.presets import preset_names

    takes_preset = any("--preset" in param.opts for param in context.command.params)
    if takes_preset and first in preset_names():
        return f"unexpected argument; did you mean --preset {first}?"
    return "unexpected argument"


def _meant(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.7)
    return f"; did you mean {near[0]}?" if near else ""


def _explained(said: str, ctx: Any) -> ConfigError:
    """Add the command that explains more."""
    more = f"ee {ctx.command_path} --help"
    return ConfigError(f"{said} S{more}" if said.endswith("?") else f"{said}; s{more}")


def take_debug(arguments: list[str]) -> tuple[list[str], bool]:
    """Take --debug out of the arguments, wherever it stands before a "--"."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    rest = [argument for argument in arguments[:end] if argument != "--debug"]
    return [*rest, *arguments[end:]], len(rest) < end


class Guard:
    """Tells the user how a command ended; use it as a context, and then its exit code.

    result: what typer returned: the code of an early exit, which it also makes of a Ctrl-C.
    """

    def __init__(self, *, debug: bool) -> None:
        self.result: object = None
        self.code = FAILED
        self._debug = debug

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
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
    """Keep what a KeyboardInterrupt says: typer would drop it."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise Interrupted(str(stop)) from stop


def _explain(error: Exception) -> int:
    """Tell the user what happened, in one line where it is not ours to say more."""
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
        case OSError(errno=errno.ENOSPC):
            console.error(f"no space left on the disk{_place(error)}; make room and run it again")
        case OSError(strerror=str(reason)):
            console.error(f"{reason.lower()}{_place(error)}")
        case _:
            lines = [type(error).__name__, *str(error).splitlines()]
            console.error(f"{': '.join(lines[:2])} (--debug shows where)")
    return FAILED


def _place(error: OSError) -> str:
    name = error.filename2 or error.filename  # of a copy or a rename, where it went
    return f": {name}" if name else ""
