"""dgpo eval and compare: scores of a model, and of two."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dgpo_cli.cli import completion, options
from dgpo_cli.cli.commands import FAILED, NOT_REACHED, last_words
from dgpo_cli.cli.help import CHANGE, OUTPUT, READ, RUN
from dgpo_cli.core.errors import ConfigError
from dgpo_cli.core.numbers import percent
from dgpo_cli.ui import console

if TYPE_CHECKING:
    from dgpo_cli.config.load import Resolved
    from dgpo_cli.core.types import Card, Evaluation
    from dgpo_cli.evals.request import EvalRequest, EvalResult

_MARGIN = re.compile(r"(?:±|\+/?-)?\s*(\d+\.?\d*|\.\d+)\s*%?")

Bench = Annotated[
    str,
    typer.Option(
        help="Name of a benchmark, its manifest (.toml), or a file of problems.",
        metavar="NAME|FILE",
        autocompletion=completion.bench,
        rich_help_panel=RUN,
    ),
]
K = Annotated[
    int | None,
    typer.Option(
        "--k",
        help="Samples of each problem.",
        metavar="N",
        min=1,
        show_default="32; 1 if greedy",
        rich_help_panel=RUN,
    ),
]
_MANY = 32
StopWhen = Annotated[
    str | None,
    typer.Option(
        help="Stop once the score is known to ±X percentage points, the half width of its 95% "
        "interval over reruns; 4 samples of each problem at least, --k at most.",
        metavar="X",
        rich_help_panel=RUN,
    ),
]
ProtocolName = Annotated[
    str | None,
    typer.Option(
        "--protocol",
        help="Prompt, sampling and answer format under one name, such as boxed or dapo; settings "
        "for the settings as they are.",
        metavar="NAME",
        show_default="the benchmark's",
        autocompletion=completion.protocol,
        rich_help_panel=CHANGE,
    ),
]
Run = Annotated[
    Path | None,
    typer.Option(
        help="Run folder: its settings and its newest checkpoint.",
        metavar="DIR",
        autocompletion=completion.run,
        show_default="the newest run under ./runs",
        rich_help_panel=RUN,
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(
        help="Local copy of the benchmark's data: JSONL, JSON, CSV or Parquet.",
        metavar="FILE",
        rich_help_panel=RUN,
    ),
]
Columns = Annotated[
    str | None,
    typer.Option(
        help="Column names of the file, as in problem=question,answer=gold.",
        metavar="NAMES",
        show_default="problem=problem,answer=answer",
        rich_help_panel=RUN,
    ),
]
Strict = Annotated[
    bool | None,
    typer.Option(
        "--strict/--no-strict",
        help="Stop at faults in the data, or only report them.",
        show_default="strict for named benchmarks",
        rich_help_panel=RUN,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        help="Folder for the samples and the report. Stored samples are not drawn again.",
        metavar="DIR",
        show_default="evals/BENCH-MODEL-CARD",
        rich_help_panel=OUTPUT,
    ),
]
Fresh = Annotated[
    bool,
    typer.Option(
        "--fresh", help="Discard the samples in the folder and start over.", rich_help_panel=OUTPUT
    ),
]
MinScore = Annotated[
    str | None,
    typer.Option(
        help="Exit with 3 when the lower end of the 95% interval over reruns is below X, "
        "a share such as 0.6 or percent such as 60%.",
        metavar="X",
        rich_help_panel=OUTPUT,
    ),
]
SecondOpinion = Annotated[
    bool,
    typer.Option(
        "--second-opinion/--no-second-opinion",
        help="Ask the math checker too, and list where it disagrees.",
        show_default="on",
        rich_help_panel=OUTPUT,
    ),
]
Publish = Annotated[
    Path | None,
    typer.Option(
        help="Write the score into the card (README.md) and .eval_results of this model folder, "
        "as the Hugging Face hub shows scores. Nothing is uploaded.",
        metavar="DIR",
        rich_help_panel=OUTPUT,
    ),
]
WithCard = Annotated[
    bool,
    typer.Option(
        "--card",
        help="Print the card too: every setting, version and file that affects the score. It is "
        "always in card.json and --json.",
        rich_help_panel=OUTPUT,
    ),
]
Evaluations = Annotated[
    list[Path],
    typer.Argument(
        help="Folders of evaluations, their report.json, or logs of inspect_ai or lighteval; the "
        "first is the baseline.",
        metavar="A B [C ...]",
        rich_help_panel=READ,
    ),
]
Force = Annotated[
    bool,
    typer.Option(
        "--force",
        help="Compare even where protocol, environment or problems differ.",
        rich_help_panel=READ,
    ),
]


def evaluate(
    bench: Bench,
    k: K = None,
    stop_when: StopWhen = None,
    protocol: ProtocolName = None,
    run: Run = None,
    preset: options.Preset = None,
    model: options.Model = None,
    adapter: options.Adapter = None,
    endpoint: options.Endpoint = None,
    api_key_env: options.ApiKeyEnv = None,
    price: options.TokenPrice = None,
    max_cost: options.MaxCost = None,
    data: Data = None,
    columns: Columns = None,
    strict: Strict = None,
    out: Out = None,
    fresh: Fresh = False,
    min_score: MinScore = None,
    second_opinion: SecondOpinion = True,
    publish: Publish = None,
    overrides: options.Set = None,
    seed: options.Seed = None,
    with_card: WithCard = False,
    answers: options.Answers = False,
    as_json: options.Json = False,
    as_markdown: options.Markdown = False,
    as_csv: options.Csv = False,
    as_latex: options.Latex = False,
) -> None:
    """Evaluate a model: sample each problem k times and report Avg@k with its error.

    --run takes a trained model, --preset a preset's model before training, --model any other;
    without any of them the newest run under ./runs is evaluated.
    Settings: preset or run < protocol < --set < flags. Samples are stored as they arrive: the same
    command resumes an evaluation that was stopped, and a larger --k draws only what is missing.

    Examples:
      The newest run, eight samples of each problem
        dgpo eval --bench sums --k 8
      A model of the hub, on AIME 2025
        dgpo eval --bench aime2025 --model Qwen/Qwen2.5-7B-Instruct
      A model behind an API
        dgpo eval --bench aime2025 --endpoint http://127.0.0.1:8000 --model NAME
    """
    flags = options.endpoint_flags(
        endpoint, key=api_key_env, run=run, preset=preset, adapter=adapter
    )
    cost = options.parse_price(price)
    budget = options.parse_budget(max_cost, price=cost)
    if endpoint is not None and model is None:
        model = options.only_model(flags)
    if run is None and preset is None and model is None:
        run = _newest_run()
    options.one_of(
        {"--run": run, "--preset": preset, "--model": model}, why="to say what to evaluate"
    )
    form = _form(json=as_json, markdown=as_markdown, csv=as_csv, latex=as_latex)
    least = _least(min_score, k=k or _MANY)
    enough = _margin(stop_when, k=k or _MANY)
    names = parse_columns(columns)
    if publish is not None:
        from dgpo_cli.publish.model_folder import check

        check(publish)
    from dgpo_cli.config.checks import check_built
    from dgpo_cli.config.protocols import protocol_for
    from dgpo_cli.evals.request import EvalRequest, Subject, trained

    chosen = protocol_for(bench, name=protocol)
    layer = None if chosen is None else chosen.layer()
    flags |= options.flags_of(model__path=("--model", model), seed=("--seed", seed))
    if run is not None:
        resolved = options.resolve_run(run, protocol=layer, overrides=overrides, flags=flags)
        subject = trained(run, resolved, adapter=adapter, observer=console.Notes())
    else:
        resolved = options.resolve(preset=preset, protocol=layer, overrides=overrides, flags=flags)
        subject = Subject(resolved, adapter, preset or Path(str(model)).name)
    check_built(subject.resolved.settings, training=False, endpoint=True)
    by_error = {"--min-score": min_score, "--stop-when": stop_when}
    request = EvalRequest(
        bench=bench,
        k=_count(k, temperature=subject.resolved.settings.rollout.temperature, by_error=by_error),
        name=subject.name,
        out=out,
        protocol=chosen,
        adapter=subject.adapter,
        data=data,
        columns=names,
        strict=strict,
        fresh=fresh,
        second_opinion=second_opinion,
        stop_when=enough,
        price=cost,
        budget=budget,
    )
    result = _sample(subject.resolved, request, quiet=as_json)
    if publish is not None and result.stopped is None:
        from dgpo_cli.publish.model_folder import publish_evaluations

        publish_evaluations(publish, [result.out], observer=console.Notes())
    if not answers:
        result = replace(result, evaluation=result.evaluation.without_answers())
    _report(result, name=subject.name, least=least, with_card=with_card, form=form)


def compare(
    evaluations: Evaluations,
    force: Force = False,
    answers: options.Answers = False,
    as_json: options.Json = False,
) -> None:
    """Compare evaluations with the first: the difference with its errors, and the flips.

    Problems are paired. Runs made under different protocols, in different environments or on
    different problems are refused.

    Examples:
      Is the second better than the first?
        dgpo compare evals/sums-base evals/sums-tiny
      The differences as JSON
        dgpo compare evals/sums-base evals/sums-tiny --json
    """
    from dgpo_cli.evals import compare as workflow
    from dgpo_cli.evals.views import comparison, comparison_json

    runs = [comparison_json.read_run(path) for path in evaluations]
    pairs = workflow.run(runs, force=force)
    if as_json:
        console.say_json(comparison_json.to_json(pairs, answers=answers))
    else:
        console.show(comparison.render(pairs))


def parse_columns(text: str | None) -> dict[str, str] | None:
    """Read problem=NAME,answer=NAME, one of them or both.

    Raises:
        ConfigError: it is not of that form.
    """
    if text is None:
        return None
    pairs = [part.partition("=") for part in text.split(",")]
    found = {key.strip(): name.strip() for key, _, name in pairs}
    good = set(found) <= {"problem", "answer"} and all(found.values())
    if not good or len(found) < len(pairs):
        raise ConfigError(
            f"--columns {text}: give problem=NAME,answer=NAME, one of them or both, once each"
        )
    return found


def _count(k: int | None, *, temperature: float, by_error: Mapping[str, str | None]) -> int:
    """Return --k, by default 32, or 1 where samples of a problem are all alike.

    by_error: flags that go by the error over reruns, with their values.

    Raises:
        ConfigError: greedy decoding leaves nothing to what a flag asks for.
    """
    if temperature > 0:
        return _MANY if k is None else k
    if k is not None and k > 1:
        raise ConfigError(
            f"--k {k}: greedy samples of a problem (rollout.temperature=0) are all alike; give "
            "--k 1, or leave it out"
        )
    for flag, text in by_error.items():
        if text is not None:
            raise ConfigError(
                f"{flag} {text}: greedy decoding has no error over reruns; leave it out"
            )
    return 1


def _least(text: str | None, *, k: int) -> float | None:
    least = parse_share(text)
    if least is not None and k < 2:
        raise ConfigError(f"--min-score {text}: --k 1 has no error to go by; give --k 2 or more")
    return least


def _margin(text: str | None, *, k: int) -> float | None:
    from dgpo_cli.stats.stopping import LEAST_ROUNDS

    margin = parse_margin(text)
    if margin is not None and k < LEAST_ROUNDS:
        raise ConfigError(
            f"--stop-when {text}: --k {k} leaves nothing to stop; give --k {LEAST_ROUNDS} or more"
        )
    return margin


def parse_margin(text: str | None) -> float | None:
    """Read --stop-when: percentage points, as in 1.5, ±1.5, +-1.5 or 1.5%; return a share.

    Raises:
        ConfigError: it is not of that form, or not between 0 and 50.
    """
    if text is None:
        return None
    found = _MARGIN.fullmatch(text.strip())
    points = float(found[1]) if found else 0.0
    if not 0 < points < 50:
        raise ConfigError(
            f"--stop-when {text}: give percentage points above 0 and below 50, as in 1.5"
        )
    return points / 100


def _sample(resolved: Resolved, request: EvalRequest, *, quiet: bool) -> EvalResult:
    if resolved.settings.rollout.backend.kind != "endpoint":
        options.reach(resolved.settings.model)
    from dgpo_cli.live.evaluating.panel import evaluating
    from dgpo_cli.prompts.benchmarks import prefetch

    with last_words(), evaluating(quiet=quiet) as observer:
        if request.data is None:
            prefetch(request.bench, observer=observer)
        from dgpo_cli.evals import evaluate as workflow  # seconds, after what may fail

        return workflow.run(resolved, request=request, observer=observer)


def _newest_run() -> Path:
    from dgpo_cli.runs.run_folder import newest_run

    found = newest_run(completion.RUNS)
    if found is None:
        raise ConfigError(
            "no model given, and no run under ./runs: give --model MODEL "
            "(a folder or a name on the hub), --run RUN (a trained model), or --preset NAME"
        )
    console.note(f"evaluating {found}, the newest run; --run, --model or --preset choose another")
    return found


def _form(**asked: bool) -> str | None:
    """Return the one form in which to print that is asked for; None: for a terminal."""
    given = {f"--{name}": True for name, wanted in asked.items() if wanted}
    return options.one_of(dict(given), why="")[2:] if given else None


def _report(
    result: EvalResult, *, name: str, least: float | None, with_card: bool, form: str | None
) -> None:
    """Print the report; exit with 3 if the score is not shown to reach `least`."""
    if form == "json":
        console.say_json(as_data(result.evaluation, result.card))
    elif form is not None:
        from dgpo_cli.evals.matrix import exports
        from dgpo_cli.evals.matrix.table import finished, make_table

        console.raw(exports.written(make_table([finished(result, model=name)]), form=form))
    else:
        show(result.evaluation, result.card if with_card else None, name=name)
        console.say(f"written to {result.out}")
        console.suggest(["view", result.out], ["compare", result.out, "OTHER"])
    if result.stopped is not None:
        console.error(result.stopped)
        raise typer.Exit(FAILED)
    if least is None:
        return
    lower = result.evaluation.rerun_95.low
    if not lower >= least:  # NaN does not
        found = "unknown" if math.isnan(lower) else f"{percent(lower)}, below it"
        console.error(
            f"--min-score {percent(least)}: the lower end of the 95% interval over reruns "
            f"is {found}"
        )
        raise typer.Exit(NOT_REACHED)


def parse_share(text: str | None) -> float | None:
    """Read --min-score: a share from 0 to 1, or percent with the sign.

    Raises:
        ConfigError: it is neither.
    """
    if text is None:
        return None
    percent = text.rstrip().endswith("%")
    try:
        value = float(text.rstrip().removesuffix("%"))
    except ValueError:
        value = math.nan
    share = value / 100 if percent else value
    if not 0 <= share <= 1:  # NaN too
        raise ConfigError(f"--min-score {text}: give a share from 0 to 1, or percent, as in 60%")
    return share


def as_data(evaluation: Evaluation, card: Card) -> dict[str, Any]:
    """Return the report as report.json and --json have it."""
    from dgpo_cli.evals.views.evaluation_json import to_json

    return to_json(evaluation, card)


def show(evaluation: Evaluation, card: Card | None, *, name: str = "") -> None:
    """Print the report, the score last; the card, if given, above it."""
    from dgpo_cli.evals.views.evaluation import render

    console.show(render(evaluation, card, name=name))
