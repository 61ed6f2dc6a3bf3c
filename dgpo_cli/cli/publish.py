"""dgpo merge and dgpo push: a trained model as a plain folder, or on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from dgpo_cli.cli import completion, options
from dgpo_cli.cli.help import OUTPUT, READ
from dgpo_cli.core.numbers import size
from dgpo_cli.ui import console

Run = Annotated[
    Path,
    typer.Argument(
        help="Run folder.", metavar="RUN", autocompletion=completion.run, rich_help_panel=READ
    ),
]
Out = Annotated[
    Path, typer.Option(help="New folder for the model.", metavar="DIR", rich_help_panel=OUTPUT)
]
Dtype = Annotated[
    Literal["bfloat16", "float16", "float32"],
    typer.Option(help="Data type of the weights that are written.", rich_help_panel=OUTPUT),
]
Repo = Annotated[
    str, typer.Argument(help="Repository on the hub.", metavar="USER/NAME", rich_help_panel=OUTPUT)
]
Private = Annotated[
    bool, typer.Option("--private", help="Make the repository private.", rich_help_panel=OUTPUT)
]
Merged = Annotated[
    bool,
    typer.Option(
        "--merged",
        help="Upload a plain model in bfloat16 instead of the adapter.",
        rich_help_panel=OUTPUT,
    ),
]
Checkpoint = Annotated[
    int | None,
    typer.Option(
        help="Step of the checkpoint.",
        metavar="STEP",
        show_default="the newest",
        rich_help_panel=READ,
    ),
]
Evals = Annotated[
    list[Path] | None,
    typer.Option(
        "--eval",
        help="Folder of an evaluation of these weights, whose score is uploaded too. Repeatable.",
        metavar="DIR",
        rich_help_panel=READ,
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Print what would be uploaded, and upload nothing.",
        rich_help_panel=OUTPUT,
    ),
]


def merge(run: Run, out: Out, checkpoint: Checkpoint = None, dtype: Dtype = "bfloat16") -> None:
    """Write the trained model of a run as a plain folder that transformers and vLLM load.

    A LoRA adapter is added to the weights; 4-bit weights are unpacked. The tokenizer comes with it.

    Examples:
      The newest checkpoint as a model folder
        dgpo merge runs/tiny --out model
      An earlier one in full precision
        dgpo merge runs/tiny --out model --checkpoint 50 --dtype float32
    """
    resolved = options.resolve_run(run)
    options.reach(resolved.settings.model)
    from dgpo_cli.publish import merge as workflow

    result = workflow.run(
        resolved,
        run=run,
        out=out,
        step=checkpoint,
        dtype=dtype,
        observer=console.Notes(),
    )
    apart = result.difference
    console.say(f"merged {result.checkpoint} in {dtype}, {size(result.size)}")
    console.say(
        f"log-probabilities against the policy's: at most {apart.largest:.2g} apart, "
        f"{apart.mean:.2g} on average, over {apart.tokens} fixed tokens; rounding alone makes "
        f"{apart.rounding:.2g}"
    )
    console.say(f"written to {result.out}")
    console.suggest(["eval", "--bench", resolved.settings.eval.bench, "--model", result.out])


def push(
    run: Run,
    repo: Repo,
    private: Private = False,
    merged: Merged = False,
    checkpoint: Checkpoint = None,
    evaluations: Evals = None,
    dry_run: DryRun = False,
) -> None:
    """Upload the adapter or model of a run to the Hugging Face hub, with a card made from the run.

    The token is HF_TOKEN or that of hf auth login; HF_ENDPOINT names another hub. Only safetensors,
    the tokenizer, the card and scores are uploaded: no optimiser state, no samples. The scores are
    those that training measured of these weights, and those of --eval.

    Examples:
      See what would be uploaded
        dgpo push runs/tiny me/tiny-sums --dry-run
      Upload a plain model, to a private repository
        dgpo push runs/tiny me/tiny-sums --merged --private
    """
    resolved = options.resolve_run(run)
    if merged:
        options.reach(resolved.settings.model)
    from dgpo_cli.publish import push as workflow

    result = workflow.run(
        resolved,
        run=run,
        repo=repo,
        private=private,
        merged=merged,
        step=checkpoint,
        dry_run=dry_run,
        evaluations=evaluations or (),
        observer=console.Notes(),
    )
    console.table([(name, size(count)) for name, count in result.files], styles=("bold", ""))
    if result.address is not None:
        console.say(f"uploaded to {result.address}")
        return
    console.say(f"would be uploaded to {repo}, with this card:")
    for line in result.card.splitlines():
        console.say(line)
    console.suggest(["push", run, repo, *(["--merged"] if merged else [])])
