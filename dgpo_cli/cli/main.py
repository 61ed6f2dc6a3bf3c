"""The command `dgpo` and its subcommands. Imports nothing heavy."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NoReturn

import typer

from dgpo_cli import __version__
from dgpo_cli.cli import completion
from dgpo_cli.cli.check import check, regrade
from dgpo_cli.cli.commands import Command, CommandGroup, Guard, take_debug
from dgpo_cli.cli.eval import compare, evaluate
from dgpo_cli.cli.evaluate.bench import bench_app
from dgpo_cli.cli.evaluate.rollout import rollout
from dgpo_cli.cli.inspect import inspect
from dgpo_cli.cli.machine import doctor, plan
from dgpo_cli.cli.publish import merge, push
from dgpo_cli.cli.report import report, view
from dgpo_cli.cli.serve import serve
from dgpo_cli.cli.settings import init, preset_app, settings
from dgpo_cli.cli.study import study
from dgpo_cli.cli.train import train
from dgpo_cli.ui import console

# OpenMP threads wait for each other by spinning. With libgomp's default, a second program on the
# same cores makes a step of a small model ten times slower; this value costs a tenth on an idle
# machine and a factor of two on a busy one. Read once, when torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "5000")


class Root(CommandGroup):
    """The group of all commands; runs them under a Guard and takes --debug anywhere."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> NoReturn:
        """Run the command line and end the process."""
        console.tolerate_encodings()
        completion.prepare()
        arguments, debug = take_debug(list(sys.argv[1:] if args is None else args))
        with Guard(debug=debug) as guard:
            guard.result = super().main(
                arguments or ["--help"],
                prog_name or "dgpo",
                complete_var,
                False,
                windows_expand_args,
                **extra,
            )
        sys.exit(guard.code)


app = typer.Typer(
    cls=Root,
    name="dgpo",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        console.say(f"dgpo {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the version and exit.",
            callback=_print_version,
            is_eager=True,
        ),
    ] = False,
    debug: Annotated[
        bool,
        typer.Option(
            "--debug",
            help="Show the traceback of an error; may stand anywhere.",
        ),
    ] = False,
) -> None:
    """Train language models with DGPO (arXiv 2605.03327): sample, train, evaluate, inspect.

    Start with: dgpo train --preset tiny; with your own data: dgpo init
    """


_COMMANDS: dict[str, dict[str, tuple[Callable[..., None], str]]] = {
    "Train": {
        "train": (train, "Train a model with DGPO, GRPO, DAPO or Dr. GRPO."),
        "study": (study, "Train variants with the same seeds, to compare them."),
        "plan": (plan, "Report what a run needs: memory, time, disk."),
        "rollout": (rollout, "Sample completions and check their answers."),
    },
    "Evaluate": {
        "eval": (evaluate, "Evaluate a model: Avg@k, pass@k, maj@k."),
        "compare": (compare, "Compare evaluations, problem by problem."),
        "regrade": (regrade, "Judge stored samples again with today's checker."),
        "check": (check, "Try the answer checker on completions of your own."),
    },
    "Look": {
        "inspect": (inspect, "Show where the credit of a completion went."),
        "report": (report, "Write a run, or several, as one page."),
        "view": (view, "Write the samples of evaluations as one page."),
    },
    "Publish": {
        "merge": (merge, "Write a trained model as a plain folder."),
        "push": (push, "Upload a trained model to the Hugging Face hub."),
    },
    "Settings": {
        "init": (init, "Write settings for a model and data of your own."),
        "settings": (settings, "Explain a setting, or list them all."),
    },
    "Machine": {
        "doctor": (doctor, "Check this machine and report what to fix."),
        "serve": (serve, "Start a vLLM server to sample from."),
    },
}
for _panel, _group in _COMMANDS.items():
    for _name, (_function, _short) in _group.items():
        app.command(_name, cls=Command, short_help=_short, rich_help_panel=_panel)(_function)
app.add_typer(bench_app, name="bench", cls=CommandGroup, rich_help_panel="Evaluate")
app.add_typer(preset_app, name="preset", cls=CommandGroup, rich_help_panel="Settings")
