"""dgpo inspect: where the credit of a completion went, token by token."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from dgpo_cli.cli import completion as complete
from dgpo_cli.cli import options
from dgpo_cli.cli.help import CHANGE, OUTPUT, READ, RUN, SHOW
from dgpo_cli.core.errors import ConfigError
from dgpo_cli.core.text import cut
from dgpo_cli.inspect.views import measure
from dgpo_cli.ui import console, output

Source = Annotated[
    Path | None,
    typer.Argument(
        help="Run folder, or file of rollouts.",
        metavar="[RUN|ROLLOUTS.jsonl]",
        autocompletion=complete.run,
        show_default="--rollouts, or the newest run under ./runs",
        rich_help_panel=READ,
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        help="Compute the statistics with this policy: hub id or folder.",
        metavar="M",
        show_default="show what training stored",
        rich_help_panel=RUN,
    ),
]
Reference = Annotated[
    str | None,
    typer.Option(
        help="Reference for --model: hub id or folder.",
        metavar="R",
        show_default="M without its adapter",
        rich_help_panel=RUN,
    ),
]
ChatTemplate = Annotated[
    list[str] | None,
    typer.Option(
        "--chat-template",
        help="Argument of the model's chat template, for prompts without token ids, such as "
        "enable_thinking=false; repeatable.",
        metavar="NAME=VALUE",
        show_default="the template's own",
        rich_help_panel=RUN,
    ),
]
Rollouts = Annotated[
    Path | None,
    typer.Option(
        help="Lines of JSON with prompts and completions: of dgpo rollout, or of any program.",
        metavar="FILE.jsonl",
        show_default="the first argument",
        rich_help_panel=READ,
    ),
]
Prompt = Annotated[
    str | None,
    typer.Option(
        help="The prompt of a completion of your own; - reads stdin, @FILE a file.",
        metavar="TEXT",
        show_default="those of a run or file",
        rich_help_panel=READ,
    ),
]
Completion = Annotated[
    str | None,
    typer.Option(
        help="A completion of your own, with --prompt and --model; - reads stdin, @FILE a file.",
        metavar="TEXT",
        show_default="those of a run or file",
        rich_help_panel=READ,
    ),
]
Group = Annotated[
    int | None,
    typer.Option(
        help="Show the completions of this prompt, from 0.",
        metavar="I",
        min=0,
        show_default="that of the completion with the lowest effective token fraction; all with "
        "--json",
        rich_help_panel=SHOW,
    ),
]
Sample = Annotated[
    int | None,
    typer.Option(
        help="Show this completion of the prompt, from 0.",
        metavar="J",
        min=0,
        show_default="the one with the lowest effective token fraction; all with --json",
        rich_help_panel=SHOW,
    ),
]
At = Annotated[
    int | None,
    typer.Option(
        help="Show everything about this token, from 0: alternatives, factors, bytes.",
        metavar="N",
        min=0,
        show_default="the whole completion",
        rich_help_panel=SHOW,
    ),
]
Value = Annotated[
    int | None,
    typer.Option(
        "--value",
        help="Show where the outcome was decided: the expected reward after each token, estimated "
        "by K completions sampled from there; 0: by those of the prompt that are there.",
        metavar="K",
        min=0,
        show_default="not estimated",
        rich_help_panel=RUN,
    ),
]
Rule = Annotated[
    str | None,
    typer.Option(
        help="Show the weights of another credit rule: dgpo, uniform, entropy, top-entropy, "
        "proportional, surprisal, value, or a class of yours, as in my_rule.py:Mine.",
        metavar="RULE",
        autocompletion=complete.credit_rule,
        show_default="the run's, else dgpo",
        rich_help_panel=CHANGE,
    ),
]
Tau = Annotated[
    float | None,
    typer.Option(
        help="Show the weights with another tau.",
        metavar="X",
        show_default="the run's, else 0.5",
        rich_help_panel=CHANGE,
    ),
]
Kappa = Annotated[
    float | None,
    typer.Option(
        help="Show the weights with another power of the entropy gate.",
        metavar="X",
        show_default="the run's, else 1",
        rich_help_panel=CHANGE,
    ),
]
TargetEss = Annotated[
    float | None,
    typer.Option(
        help="Show the weights with the tau that gives this effective token fraction.",
        metavar="X",
        show_default="the run's, else tau is fixed",
        rich_help_panel=CHANGE,
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Show the weights with another setting of the credit rule, as in --set "
        "credit.share=0.3, or with --value another of model, rollout or reward; may be repeated.",
        metavar="KEY=VALUE",
        autocompletion=complete.override,
        rich_help_panel=CHANGE,
    ),
]
What = Annotated[
    measure.What | None,
    typer.Option(
        "--what",
        help="What the colours show; advantage is the token's own, A x w; value, with --value, how "
        "far the expected reward moves.",
        show_default="weight",
        rich_help_panel=SHOW,
    ),
]
Fit = Annotated[
    bool,
    typer.Option(
        "--fit",
        help="Scale the colours to the range of the completion's weights.",
        show_default="1/2 to 2, none from 0.8 to 1.25",
        rich_help_panel=SHOW,
    ),
]
Full = Annotated[
    bool,
    typer.Option(
        "--full",
        help="Show the whole text, through the pager on a terminal.",
        show_default="the passages around the top tokens where the text is long",
        rich_help_panel=SHOW,
    ),
]
Steps = Annotated[
    bool,
    typer.Option(
        "--steps", help="Show the credit of each line, sentence and clause.", rich_help_panel=SHOW
    ),
]
Pair = Annotated[
    bool,
    typer.Option(
        "--pair",
        help="Show a correct and a wrong completion of a prompt side by side: "
        "of pairs that begin alike, the longest.",
        rich_help_panel=SHOW,
    ),
]
Top = Annotated[
    int,
    typer.Option(
        help="How many of the most weighted, or most changed, tokens to list.",
        metavar="N",
        min=0,
        rich_help_panel=SHOW,
    ),
]
Html = Annotated[
    Path | None,
    typer.Option(
        help="Write all completions as one page for a browser; it needs no network.",
        metavar="FILE.html",
        rich_help_panel=OUTPUT,
    ),
]
Svg = Annotated[
    Path | None,
    typer.Option(help="Draw this view as SVG.", metavar="FILE.svg", rich_help_panel=OUTPUT),
]
Png = Annotated[
    Path | None,
    typer.Option(
        help="Draw this view as PNG (needs the extra png).",
        metavar="FILE.png",
        rich_help_panel=OUTPUT,
    ),
]


def inspect(
    source: Source = None,
    group: Group = None,
    sample: Sample = None,
    at: At = None,
    what: What = None,
    fit: Fit = False,
    full: Full = False,
    steps: Steps = False,
    pair: Pair = False,
    value: Value = None,
    top: Top = 10,
    rule: Rule = None,
    tau: Tau = None,
    kappa: Kappa = None,
    target_ess: TargetEss = None,
    overrides: Set = None,
    model: Model = None,
    reference: Reference = None,
    adapter: options.Adapter = None,
    chat_template: ChatTemplate = None,
    rollouts: Rollouts = None,
    prompt: Prompt = None,
    completion: Completion = None,
    html: Html = None,
    svg: Svg = None,
    png: Png = None,
    as_json: options.Json = False,
) -> None:
    """Show the tokens of a completion coloured by credit weight, with the numbers behind it.

    Reads the credit that a run stored, or computes it for any models: --model M --reference R
    --rollouts FILE, or --prompt TEXT --completion TEXT. --rule, --tau, --kappa and --target-ess
    show the weights of another credit rule or setting. With --html, --svg or --png only the names
    of the files are printed.

    Examples:
      The most telling completion of a run
        dgpo inspect runs/tiny
      The weights with another tau, as a page
        dgpo inspect runs/tiny --tau 1.0 --html credit.html
      The token that decided the outcome
        dgpo inspect runs/tiny --value 16
    """
    _check_numbers(value=value, tau=tau, kappa=kappa, target_ess=target_ess)
    ours, theirs = _split_overrides(overrides or (), has_value=bool(value))
    _check_source(source=source, rollouts=rollouts, prompt=prompt, completion=completion)
    views = {"--json": as_json, "--at": at is not None, "--pair": pair, "--steps": steps}
    _check_views({**views, "--full": full}, sample=sample, prompt=prompt, what=what, html=html)
    _check_value(value, what=what, prompt=prompt)
    if prompt == "-" and completion == "-":
        raise ConfigError("--prompt=- and --completion=-: only one of them can be stdin")
    arguments = _arguments(chat_template, model=model)
    files = output.asked(html=html, svg=svg, png=png)
    from dgpo_cli.policy.settings import ModelSettings

    for name in filter(None, (model, reference if model else None)):
        options.reach(ModelSettings(path=name))
    from dgpo_cli.inspect import inspect as workflow
    from dgpo_cli.inspect.output import InspectOutput
    from dgpo_cli.inspect.request import Models, Origin, Selection, Values, WhatIf
    from dgpo_cli.live.bars import bars

    origin = Origin(
        source=source,
        rollouts=rollouts,
        prompt=_read_text(prompt, flag="--prompt"),
        completion=_read_text(completion, flag="--completion"),
    )
    one = not (as_json or html)  # a picture is of one completion
    with bars() as observer:
        inspection = workflow.run(
            origin,
            models=Models(
                model=model, reference=reference, adapter=adapter, chat_template=arguments
            ),
            choice=Selection(group=group, sample=sample, one=one, pair=pair),
            what_if=WhatIf(rule, tau, kappa, target_ess, ours),
            at=at,
            values=None if value is None else Values(value, theirs),
            observer=observer,
        )
    view = InspectOutput(
        inspection, what=what or "weight", fit=fit, full=full, steps=steps, pair=pair, top=top
    )
    for line in view.write(files):
        (console.note if as_json else console.say)(line)
    if as_json:
        from dgpo_cli.inspect import as_json as inspection_json

        console.stream(inspection_json.chunks(inspection))
    elif not files:
        view.show()


def _arguments(given: Sequence[str] | None, *, model: str | None) -> Mapping[str, object] | None:
    """Read --chat-template. Raises ConfigError as `prompts.chat_template` does."""
    if not given:
        return None
    if model is None:
        raise ConfigError(f"--chat-template {given[0]}: goes with --model M; give both, or neither")
    from dgpo_cli.config.load import resolve

    resolved = resolve(overrides=[f"prompts.chat_template.{each}" for each in given])
    return resolved.settings.prompts.chat_template


def _check_numbers(
    *, value: int | None, tau: float | None, kappa: float | None, target_ess: float | None
) -> None:
    """Raise ConfigError for numbers out of range."""
    from dgpo_cli.core.types.values import MANY_CONTINUATIONS  # pydantic, which help does not load

    if value is not None and value > MANY_CONTINUATIONS:
        raise ConfigError(f"--value={value}: must be at most {MANY_CONTINUATIONS}")
    if tau is not None and not tau > 0:
        raise ConfigError(f"--tau={tau:g}: must be greater than 0; the paper's is 0.5")
    if kappa is not None and not kappa >= 0:
        raise ConfigError(f"--kappa={kappa:g}: must be at least 0; the paper's is 1")
    if target_ess is not None and not 0 < target_ess < 1:
        raise ConfigError(
            f"--target-ess={target_ess:g}: must be between 0 and 1, a share of the tokens; try 0.9"
        )
    if tau is not None and target_ess is not None:
        raise ConfigError(
            f"--tau={tau:g} and --target-ess={target_ess:g}: the second finds tau; give one"
        )


def _check_views(
    views: Mapping[str, bool],
    *,
    sample: int | None,
    prompt: str | None,
    what: str | None,
    html: Path | None,
) -> None:
    """Raise ConfigError for views that exclude each other; earlier `views` win."""
    asked = [name for name, is_asked in views.items() if is_asked]
    if what is not None and asked[:1] in (["--json"], ["--at"]):
        raise ConfigError(f"{asked[0]} and --what: it shows every number; leave out --what")
    if len(asked) > 1 and asked not in (["--json", "--at"], ["--pair", "--full"]):
        raise ConfigError(f"{asked[0]} and {asked[1]}: give only one of them")
    if "--pair" in asked and sample is not None:
        raise ConfigError(f"--pair and --sample={sample}: a pair is chosen in the whole --group")
    if "--pair" in asked and prompt is not None:
        raise ConfigError(
            "--pair and --completion: a pair needs two completions; give a run or --rollouts"
        )
    if "--pair" in asked and html is not None:
        raise ConfigError(
            "--pair and --html: the page shows one completion at a time; leave out --pair, or draw "
            "the pair with --svg or --png"
        )
    if "--at" in asked and html is not None:
        raise ConfigError(
            "--at and --html: the page shows the numbers of every token; leave out --at, "
            "or draw the token with --svg or --png"
        )


def _split_overrides(
    overrides: Sequence[str], *, has_value: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return settings of the credit rule, and those of what estimates values.

    Raises:
        ConfigError: one is neither, or has its own option.
    """
    ours, theirs = [], []
    for each in overrides:
        key = each.partition("=")[0].strip()
        section, _, name = key.partition(".")
        if section == "credit":
            if name in ("rule", "tau", "kappa", "target_ess"):
                raise ConfigError(f"--set {each}: give --{name.replace('_', '-')} instead")
            ours.append(each)
        elif section not in ("model", "rollout", "reward"):
            also = "; --value takes settings of model, rollout and reward too" if has_value else ""
            only = "only credit.KEY=VALUE changes the weights shown"
            raise ConfigError(f"--set {each}: {only}{also}")
        elif key == "model.path":
            raise ConfigError(f"--set {each}: give --model instead")
        elif not has_value:
            raise ConfigError(
                f"--set {each}: goes with --value K, of at least 1, which samples; give both"
            )
        else:
            theirs.append(each)
    return tuple(ours), tuple(theirs)


def _check_value(value: int | None, *, what: str | None, prompt: str | None) -> None:
    """Raise ConfigError for values without completions whose answer is known."""
    if what == "value" and value is None:
        raise ConfigError("--what value: goes with --value K, which estimates it; give both")
    if value is not None and prompt is not None:
        raise ConfigError(
            "--value and --completion: nothing says which answer is correct; write prompt, "
            "completion and answer as a line of --rollouts FILE.jsonl"
        )


def _check_source(
    *, source: Path | None, rollouts: Path | None, prompt: str | None, completion: str | None
) -> None:
    """Raise ConfigError for completions from two sources, or half of a typed one."""
    if source is not None and rollouts is not None:
        raise ConfigError(f"{source} and --rollouts={rollouts}: give only one of them")
    file = source or rollouts
    if prompt is not None and file is not None:
        raise ConfigError(f"{file} and --prompt: give only one of them")
    if (prompt is None) == (completion is None):
        return
    if prompt is not None:
        number = f"; --group {prompt} chooses a prompt by its number" if prompt.isdigit() else ""
        raise ConfigError(f"--prompt={cut(prompt, 40)}: give --completion TEXT too{number}")
    assert completion is not None
    number = (
        f"; --sample {completion} chooses a completion by its number"
        if completion.isdigit()
        else ""
    )
    raise ConfigError(f"--completion={cut(completion, 40)}: give --prompt TEXT too{number}")


def _read_text(value: str | None, *, flag: str) -> str | None:
    """Return a text given on the command line: itself, stdin for -, or a file for @FILE.

    @@ at the start stands for @ itself.

    Raises:
        ConfigError: the file cannot be read.
    """
    if value == "-":
        return _decoded(sys.stdin.buffer.read(), name="stdin", flag=flag)
    if value is None or not value.startswith("@"):
        return value
    if value.startswith("@@"):
        return value[1:]
    try:
        return _decoded(Path(value[1:]).read_bytes(), name=value[1:], flag=flag)
    except OSError as error:
        raise ConfigError(
            f"{flag}={value}: cannot be read: {error.strerror or error}; @@ stands for @ itself"
        ) from error


def _decoded(data: bytes, *, name: str, flag: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{flag}: {name}: not UTF-8; save it as UTF-8") from error
