"""dgpo merge: a checkpoint as a plain model folder."""

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
Checkpoint = Annotated[
    int | None,
    typer.Option(
        help="Step of the checkpoint.",
        metavar="STEP",
        show_default="the newest",
        rich_help_panel=READ,
    ),
]
Dtype = Annotated[
    Literal["bfloat16", "float16", "float32"],
    typer.Option(help="Data type of the weights that are written.", rich_help_panel=OUTPUT),
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
    console.suggest(["eval", "--bench", "aime2025", "--model", result.out])
