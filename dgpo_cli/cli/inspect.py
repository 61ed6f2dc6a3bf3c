"""dgpo inspect: where the credit of a completion went, token by token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dgpo_cli.cli import console, options
from dgpo_cli.cli import inspect_options as own
from dgpo_cli.errors import ConfigError

if TYPE_CHECKING:
    from dgpo_cli.types import Inspection


def inspect(
    source: own.Source = None,
    group: own.Group = None,
    sample: own.Sample = None,
    at: own.At = None,
    model: own.Model = None,
    reference: own.Reference = None,
    adapter: options.Adapter = None,
    rollouts: own.Rollouts = None,
    prompt: own.Prompt = None,
    completion: own.Completion = None,
    rule: own.Rule = None,
    tau: own.Tau = None,
    kappa: own.Kappa = None,
    target_ess: own.TargetEss = None,
    top: own.Top = 10,
    as_json: own.Json = False,
) -> None:
    """Show the tokens of a completion coloured by credit weight, with the numbers behind it.

    Reads what a run has stored, or computes it for any models: --model M --reference R
    --rollouts FILE, or --prompt TEXT --completion TEXT. --rule, --tau, --kappa and --target-ess
    show the weights as they would be.
    """
    own.check_numbers(tau=tau, kappa=kappa, target_ess=target_ess)
    own.check_source(source=source, rollouts=rollouts, prompt=prompt, completion=completion)
    if prompt == "-" and completion == "-":
        raise ConfigError("--prompt=- and --completion=-: only one of them can be stdin")
    from dgpo_cli.cli.bars import Bars
    from dgpo_cli.workflows import inspect as workflow
    from dgpo_cli.workflows.inspect_request import Choice, Models, Origin, WhatIf

    origin = Origin(
        source=source,
        rollouts=rollouts,
        prompt=own.read_text(prompt, flag="--prompt"),
        completion=own.read_text(completion, flag="--completion"),
    )
    with Bars() as bars:
        inspection = workflow.run(
            origin,
            models=Models(model=model, reference=reference, adapter=adapter),
            choice=Choice(group=group, sample=sample, one=not as_json),  # a picture is of one
            what_if=WhatIf(rule=rule, tau=tau, kappa=kappa, target_ess=target_ess),
            at=at,
            progress=bars,
            on_event=bars.event,
        )
    if as_json:
        from dgpo_cli.report import inspection_json

        console.stream(inspection_json.chunks(inspection))
        return
    _show(inspection, top=top)


def _show(inspection: Inspection, *, top: int) -> None:
    """Draw what was asked for: one token, or the completion and what a what-if changes."""
    from dgpo_cli.report import heatmap, ramp, token_detail, what_if

    depth = ramp.depth_of(console.stdout())
    width = console.picture_width()
    for shown in inspection.completions:
        if inspection.detail is not None:
            console.show(token_detail.render(inspection, width=width, color=depth))
            continue
        console.show(
            heatmap.render(shown, inspection=inspection, width=width, top=top, color=depth)
        )
        if shown.stored is not None:
            console.show(
                what_if.render(shown, inspection=inspection, width=width, top=top, color=depth)
            )
