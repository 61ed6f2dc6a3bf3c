"""Laws of the help: options in groups, defaults that say something, examples that run."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main

from dgpo_cli.cli import help
from dgpo_cli.cli.main import app
from dgpo_cli.config.load import resolve
from dgpo_cli.core.errors import ConfigError
from tests.cli.helpers import COLOUR, dgpo, in_process, on_terminal, run_python, without_escapes

ROOT: Any = typer.main.get_command(app)


def commands(group: Any = ROOT, *before: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, *before, name)
        else:
            yield (*before, name), command


def examples(text: str) -> list[str]:
    lines = text.partition(help.EXAMPLES)[2].splitlines()
    return [line.strip() for line in lines if line.strip().startswith("dgpo ")]


COMMANDS = dict(commands())
EACH = pytest.mark.parametrize(
    "words", [(), *COMMANDS], ids=lambda words: " ".join(words) or "root"
)
EXAMPLES = [line for command in COMMANDS.values() for line in examples(command.help)]


def parsed(line: str) -> dict[str, Any]:
    """Read a command line as dgpo does, and run nothing."""
    program, *words = shlex.split(line)
    context = ROOT.make_context(program, words)
    while hasattr(context.command, "commands"):
        rest = [*context._protected_args, *context.args]
        name, command, rest = context.command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)
    return dict(context.params)


@pytest.mark.parametrize("line", EXAMPLES)
def test_every_example_is_a_command_line_that_dgpo_takes(line: str) -> None:
    found = parsed(line)
    if found.get("preset"):
        resolve(preset=found["preset"], overrides=found.get("overrides") or ())


@pytest.mark.parametrize("line", ["dgpo train --pre tiny", "dgpo merge run", "dgpo frob"])
def test_an_example_that_dgpo_refuses_is_found(line: str) -> None:
    with pytest.raises(ConfigError):
        parsed(line)


def test_every_command_has_two_examples() -> None:
    few = {words for words, each in COMMANDS.items() if len(examples(each.help)) < 2}
    assert few == {("preset", "list")}  # it has nothing to choose


def test_examples_fit_a_terminal_of_80_columns() -> None:
    assert max(map(len, EXAMPLES)) <= 76


@pytest.mark.parametrize("columns", [50, 80, 120])
@EACH
def test_the_help_fits_the_width(
    words: tuple[str, ...], columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    text = in_process(*words, "--help").stdout
    _, *lines = text.partition(help.EXAMPLES)[0].splitlines()  # a command line is not broken
    long = [line for line in lines if len(line) > columns and len(line.split()) > 2]
    assert long == []
    if words == ("train",):  # others have short texts only
        assert max(map(len, lines)) > min(columns, 100) - 10


@EACH
def test_no_default_says_nothing(words: tuple[str, ...]) -> None:
    text = in_process(*words, "--help").stdout
    for empty in ("none]", "off]", "None]", "False]", "default: no-", "(none)", "(off)", "[]"):
        assert empty not in text


def test_every_option_of_a_command_is_in_a_group() -> None:
    lost = [
        (*words, param.name)
        for words, command in COMMANDS.items()
        for param in command.params
        if param.rich_help_panel is None
    ]
    assert lost == []


def test_the_help_of_dgpo_lists_commands_by_what_they_are_for() -> None:
    text = in_process("--help").stdout
    places = [text.index(f"\n{title}:\n") for title in ("Train", "Evaluate", "Look", "Machine")]
    assert places == sorted(places)
    evaluate = text.partition("\nEvaluate:\n")[2].partition("\n\n")[0]
    names = [line.split()[0] for line in evaluate.splitlines()]
    assert names == ["eval", "compare", "regrade", "check", "bench"]


def test_the_usage_names_what_must_be_given() -> None:
    first = in_process("merge", "--help").stdout.splitlines()[0]
    assert first == "Usage: dgpo merge RUN --out DIR [OPTIONS]"


def test_defaults_and_ranges_are_told() -> None:
    text = " ".join(in_process("eval", "--help").stdout.split())
    assert "Samples of each problem. [at least 1; default: 32; 1 if greedy]" in text
    assert "list where it disagrees. [default: on]" in text


def test_the_help_is_coloured_on_a_terminal_and_plain_in_a_pipe() -> None:
    shown = on_terminal(sys.executable, "-m", "dgpo_cli", "train", "--help").out
    assert COLOUR.search(shown)
    assert "  --preset NAME  " in without_escapes(shown)
    assert "\x1b" not in dgpo("train", "--help").out


def test_the_help_imports_nothing_that_is_slow() -> None:
    code = (
        "import sys\nfrom dgpo_cli.__main__ import main\ntry:\n    main()\nfinally:\n"
        "    slow = {'rich.markdown', 'pygments', 'markdown_it', 'pydantic', 'torch', 'numpy'}\n"
        "    sys.stderr.write(' '.join(sorted(slow & set(sys.modules))))\n"
    )
    assert run_python(code, "--help").err == ""
    assert run_python(code, "train", "--help").err == "pydantic"  # typer reads options with it


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("train --steps x", "--steps=x: must be a whole number; see dgpo train --help"),
        (
            "train --view panle",
            "--view=panle: must be one of auto, panel, lines; did you mean panel? "
            "See dgpo train --help",
        ),
        ("train --frobnicate", "--frobnicate: unknown option; see dgpo train --help"),
        ("train --sett a=b", "--sett: unknown option; did you mean --set? See dgpo train --help"),
        ("train -x", "-x: unknown option; see dgpo train --help"),
        (
            "train tiny",
            "tiny: unexpected argument; did you mean --preset tiny? See dgpo train --help",
        ),
        ("preset show a b", "b: unexpected argument; see dgpo preset show --help"),
        ("train --preset", "--preset: needs a value, NAME; see dgpo train --help"),
        ("eval --fresh=1", "--fresh: takes no value; see dgpo eval --help"),
        ("eval", "give --bench NAME|FILE; see dgpo eval --help"),
        ("eval --bench sums --k 0", "--k=0: must be at least 1; see dgpo eval --help"),
        (
            "serve --model m --port 70000",
            "--port=70000: must be at most 65535; see dgpo serve --help",
        ),
        ("push run", "give USER/NAME; see dgpo push --help"),
        ("check x --timeout y", "--timeout=y: must be a number; see dgpo check --help"),
        ("trian", "trian: unknown command; did you mean train? See dgpo --help"),
        ("preset", "dgpo preset: add list, show or copy; see dgpo preset --help"),
        ("--nope train", "--nope: unknown option; see dgpo --help"),
    ],
)
def test_a_mistake_is_told_with_the_value_and_the_fix(line: str, said: str) -> None:
    ended = in_process(*line.split())
    assert (ended.exit_code, ended.stdout, ended.stderr) == (2, "", f"error: {said}\n")
