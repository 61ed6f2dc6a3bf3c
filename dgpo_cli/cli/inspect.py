"""dgpo inspect: where the credit of a completion went, token by token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dgpo_cli.cli import console, options
from dgpo_cli.cli import inspect_options as own
from dgpo_cli.errors import ConfigError

if TYPE_CHECKING:
    from dgpo_cli.report.measure import What
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
    what: own.What = None,
    full: own.Full = False,
    steps: own.Steps = False,
    pair: own.Pair = False,
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
    views = {"--json": as_json, "--at": at is not None, "--pair": pair, "--steps": steps}
    own.check_views({**views, "--full": full}, sample=sample, what=what)
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
            choice=Choice(group=group, sample=sample, one=not as_json, pair=pair),
            what_if=WhatIf(rule=rule, tau=tau, kappa=kappa, target_ess=target_ess),
            at=at,
            progress=bars,
            on_event=bars.event,
        )
    if as_json:
        from dgpo_cli.report import inspection_json

        console.stream(inspection_json.chunks(inspection))
        return
    if pair:
        _show_pair(inspection, what=what or "weight", full=full)
    else:
        _show(inspection, what=what or "weight", full=full, steps=steps, top=top)


def _show_pair(inspection: Inspection, *, what: What, full: bool) -> None:
    """Draw two completions beside each other, through the pager."""
    from dgpo_cli.report import pair_view, ramp

    right, wrong = inspection.completions
    picture = pair_view.render(
        right,
        wrong,
        inspection=inspection,
        width=console.picture_width(),
        color=ramp.depth_of(console.stdout()),
        what=what,
        whole=full,
    )
    console.page(picture)


def _show(inspection: Inspection, *, what: What, full: bool, steps: bool, top: int) -> None:
    """Draw what was asked for: one token, or the completion and what a what-if changes.

    What may be long goes through the pager.
    """
    from dgpo_cli.report import heatmap, ramp, step_table, token_detail, what_if

    depth = ramp.depth_of(console.stdout())
    width = console.picture_width()
    for shown in inspection.completions:
        if inspection.detail is not None:
            console.show(token_detail.render(inspection, width=width, color=depth))
            continue
        if steps:
            table = step_table.render(
                shown, inspection=inspection, width=width, color=depth, what=what
            )
            console.page(table)
            continue
        picture = heatmap.render(
            shown,
            inspection=inspection,
            width=width,
            top=top,
            color=depth,
            what=what,
            whole=full,
        )
        (console.page if full else console.show)(picture)
        if shown.stored is not None:
            console.show(
                what_if.render(shown, inspection=inspection, width=width, top=top, color=depth)
            )
