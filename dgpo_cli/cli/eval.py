"""dgpo eval and compare: scores of a model, and of two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dgpo_cli.cli import completion, options
from dgpo_cli.cli.commands import FAILED, NOT_REACHED, ORDER, last_words
from dgpo_cli.cli.evaluate import many
from dgpo_cli.cli.evaluate.flags import MANY, least_score, parse_columns, stop_margin
from dgpo_cli.cli.help import CHANGE, OUTPUT, READ, RUN
from dgpo_cli.core.errors import ConfigError
from dgpo_cli.ui import console

if TYPE_CHECKING:
    from dgpo_cli.config.load import Resolved
    from dgpo_cli.core.types import Card, Evaluation
    from dgpo_cli.evals.request import EvalRequest, EvalResult


Bench = Annotated[
    str,
    typer.Option(
        help="Name of a benchmark, its manifest (.toml), or a file of problems; several with "
        "commas between them.",
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
Runs = Annotated[
    list[Path] | None,
    typer.Option(
        "--run",
        help="Run folder: its settings and its newest checkpoint; may be repeated.",
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
        help="Folder for the samples and the report; of several evaluations, for a folder of each. "
        "Stored samples are not drawn again.",
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
    ctx: typer.Context,
    bench: Bench,
    k: K = None,
    stop_when: StopWhen = None,
    protocol: ProtocolName = None,
    run: Runs = None,
    preset: options.Presets = None,
    config: options.Configs = None,
    model: options.Models = None,
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
    """Evaluate models: sample each problem k times and report Avg@k with its error.

    --run takes a trained model, --preset and --config the model of a preset or a settings file
    before training, --model any other; without any of them the newest run under ./runs is
    evaluated.
    Settings: preset or run < protocol < --set < flags. Samples are stored as they arrive: the same
    command resumes an evaluation that was stopped, and a larger --k draws only what is missing.
    Several models and benchmarks end in one table.

    Examples:
      The newest run, eight samples of each problem
        dgpo eval --bench sums --k 8
      A model of the hub, on AIME 2025
        dgpo eval --bench aime2025 --model Qwen/Qwen2.5-7B-Instruct
      A model behind an API
        dgpo eval --bench aime2025 --endpoint http://127.0.0.1:8000 --model NAME
      Two models on two benchmarks
        dgpo eval --bench aime2024,aime2025 --model Qwen/Qwen3-4B --run runs/dgpo
    """
    flags = options.endpoint_flags(
        endpoint, key=api_key_env, run=run, preset=preset, config=config, adapter=adapter
    )
    cost = options.parse_price(price)
    budget = options.parse_budget(max_cost, price=cost)
    if endpoint is not None:  # before --set, which may have settings of it
        overrides = ["rollout.backend.kind=endpoint", *(overrides or ())]
        model = model or [options.only_model(flags, overrides=overrides)]
    models = many.chosen(
        ctx.meta.get(ORDER, ()), model=model, run=run, preset=preset, config=config
    )
    models = models or [many.Chosen("--run", str(_newest_run()))]
    benches = many.benches(bench)
    form = _form(json=as_json, markdown=as_markdown, csv=as_csv, latex=as_latex)
    least = least_score(min_score, k=k or MANY)
    enough = stop_margin(stop_when, k=k or MANY)
    names = parse_columns(columns)
    if publish is not None:
        from dgpo_cli.publish.model_folder import check

        check(publish)
    from dgpo_cli.evals.request import EvalRequest

    request = EvalRequest(
        bench=bench,
        k=k or MANY,
        name="",
        out=out,
        adapter=adapter,
        data=data,
        columns=names,
        strict=strict,
        fresh=fresh,
        second_opinion=second_opinion,
        stop_when=enough,
        price=cost,
        budget=budget,
    )
    asked = many.Asked(
        request,
        k=k,
        by_error={"--min-score": min_score, "--stop-when": stop_when},
        protocol=protocol,
        overrides=overrides,
        flags=flags | options.flags_of(seed=("--seed", seed)),
    )
    if len(models) == len(benches) == 1:
        resolved, request = many.settle(asked, models[0], benches[0])
        result = _sample(resolved, request, quiet=as_json)
        _publish(publish, [] if result.stopped else [result.out])
        if not answers:
            result = replace(result, evaluation=result.evaluation.without_answers())
        _report(result, name=request.name, least=least, with_card=with_card, form=form)
    else:
        many.check_asked(asked, models, benches, publish=publish, with_card=with_card)
        ended = many.evaluate(asked, models, benches, quiet=as_json)
        _publish(publish, ended.folders)
        many.report(ended, least=least, form=form)


def compare(
    evaluations: Evaluations,
    force: Force = False,
    answers: options.Answers = False,
    as_json: options.Json = False,
    as_markdown: options.Markdown = False,
    as_csv: options.Csv = False,
    as_latex: options.Latex = False,
) -> None:
    """Compare evaluations with the first: the difference with its errors, and the flips.

    Problems are paired. Runs made under different protocols, in different environments or on
    different problems are refused.

    Examples:
      Is the second better than the first?
        dgpo compare evals/sums-base evals/sums-tiny
      The differences as JSON
        dgpo compare evals/sums-base evals/sums-tiny --json
      Their scores as a table for a paper
        dgpo compare evals/sums-base evals/sums-tiny --latex
    """
    form = _form(json=as_json, markdown=as_markdown, csv=as_csv, latex=as_latex)
    from dgpo_cli.evals import compare as workflow
    from dgpo_cli.evals.views import comparison, comparison_json

    runs = [comparison_json.read_run(path) for path in evaluations]
    pairs = workflow.run(runs, force=force)
    if form == "json":
        console.say_json(comparison_json.to_json(pairs, answers=answers))
    elif form is not None:
        from dgpo_cli.evals.matrix import exports
        from dgpo_cli.evals.matrix.table import table_of

        console.raw(exports.written(table_of(runs), form=form))
    else:
        console.show(comparison.render(pairs))


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


def _publish(folder: Path | None, evaluations: Sequence[Path]) -> None:
    """Write scores into a model folder, if one is given."""
    if folder is not None and evaluations:
        from dgpo_cli.publish.model_folder import publish_evaluations

        publish_evaluations(folder, evaluations, observer=console.Notes())


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
        console.error(many.not_reached(lower, least=least))
        raise typer.Exit(NOT_REACHED)


def as_data(evaluation: Evaluation, card: Card) -> dict[str, Any]:
    """Return the report as report.json and --json have it."""
    from dgpo_cli.evals.views.evaluation_json import to_json

    return to_json(evaluation, card)


def show(evaluation: Evaluation, card: Card | None, *, name: str = "") -> None:
    """Print the report, the score last; the card, if given, above it."""
    from dgpo_cli.evals.views.evaluation import render

    console.show(render(evaluation, card, name=name))
