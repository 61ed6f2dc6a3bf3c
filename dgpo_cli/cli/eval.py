"""dgpo eval: Avg@k, pass@k and maj@k of a model on a benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from dgpo_cli.cli import console, options

if TYPE_CHECKING:
    from dgpo_cli.config.load import Resolved
    from dgpo_cli.types import Evaluation

Bench = Annotated[
    str, typer.Option(help="Name of a benchmark, or a file of problems.", metavar="NAME|FILE")
]
K = Annotated[int, typer.Option("--k", help="Samples of each problem.", metavar="N", min=1)]
Run = Annotated[
    Path | None,
    typer.Option(
        help="Run folder: its settings and its newest checkpoint.",
        metavar="DIR",
        show_default="none",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        help="Folder for report.json and samples.jsonl.",
        metavar="DIR",
        show_default="evals/BENCH-MODEL-K",
    ),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print the report as JSON.", show_default="off"),
]


class _Subject(NamedTuple):
    """What is evaluated: settings, the adapter on the model, if any, and a name for files."""

    resolved: Resolved
    adapter: Path | None
    name: str


def evaluate(
    bench: Bench,
    k: K = 32,
    run: Run = None,
    preset: options.Preset = None,
    model: options.Model = None,
    adapter: options.Adapter = None,
    out: Out = None,
    overrides: options.Set = None,
    seed: options.Seed = None,
    as_json: Json = False,
) -> None:
    """Evaluate a model: sample each problem k times and report Avg@k with its error.

    --run takes a trained model, --preset a recipe's model before training, --model any other.
    """
    options.one_of(
        {"--run": run, "--preset": preset, "--model": model}, why="to say what to evaluate"
    )
    flags = options.flags_of(model__path=("--model", model), seed=("--seed", seed))
    if run is not None:
        subject = _from_run(run, adapter=adapter, overrides=overrides, flags=flags)
    else:
        resolved = options.resolve(preset=preset, overrides=overrides, flags=flags)
        subject = _Subject(resolved, adapter, preset or Path(str(model)).name)
    from dgpo_cli.config.checks import check_built

    check_built(subject.resolved.settings, prompts=False)
    out = out or Path("evals") / f"{Path(bench).stem}-{subject.name}-{k}"
    _report(_sample(subject, bench=bench, k=k, out=out), out=out, as_json=as_json)


def _sample(subject: _Subject, *, bench: str, k: int, out: Path) -> Evaluation:
    from dgpo_cli.cli.bars import Bars
    from dgpo_cli.workflows import evaluate as workflow

    with Bars() as bars:
        return workflow.run(
            subject.resolved,
            bench=bench,
            k=k,
            out=out,
            adapter=subject.adapter,
            progress=bars,
            on_event=bars.event,
        )


def _report(evaluation: Evaluation, *, out: Path, as_json: bool) -> None:
    """Write report.json beside the samples, and print the report."""
    from dgpo_cli.report import evaluation as report

    data = report.to_json(evaluation)
    (out / "report.json").write_text(console.as_json(data), encoding="utf-8")
    if as_json:
        console.say_json(data)
    else:
        console.show(report.render(evaluation))
        console.say(f"written to {out}")


def _from_run(
    run: Path, *, adapter: Path | None, overrides: list[str] | None, flags: options.Flags
) -> _Subject:
    """Take settings and the newest checkpoint from a run folder."""
    from dgpo_cli.errors import ConfigError
    from dgpo_cli.workflows.run_folder import newest_checkpoint

    settings_file = run / "settings.toml"
    if not settings_file.is_file():
        raise ConfigError(f"--run={run}: no settings.toml in it; give the folder of a training run")
    checkpoint = newest_checkpoint(run)
    name = run.resolve().name
    resolved = options.resolve(config=settings_file, overrides=overrides, flags=flags)
    if resolved.settings.adapter.kind == "lora":
        return _Subject(resolved, adapter or checkpoint, name)
    if adapter is not None:
        raise ConfigError(f"--adapter={adapter}: this run trained no adapter; leave it out")
    flags = {**flags, "model.path": ("--run", str(checkpoint))}
    resolved = options.resolve(config=settings_file, overrides=overrides, flags=flags)
    return _Subject(resolved, None, name)
