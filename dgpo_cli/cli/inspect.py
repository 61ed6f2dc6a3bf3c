"""dgpo inspect: where the credit of a completion went, token by token."""

from __future__ import annotations

from dgpo_cli.cli import inspect_options as own
from dgpo_cli.cli import options
from dgpo_cli.cli.inspect_files import Files
from dgpo_cli.cli.inspect_views import View
from dgpo_cli.core.errors import ConfigError
from dgpo_cli.ui import console


def inspect(
    source: own.Source = None,
    group: own.Group = None,
    sample: own.Sample = None,
    at: own.At = None,
    what: own.What = None,
    fit: own.Fit = False,
    full: own.Full = False,
    steps: own.Steps = False,
    pair: own.Pair = False,
    top: own.Top = 10,
    rule: own.Rule = None,
    tau: own.Tau = None,
    kappa: own.Kappa = None,
    target_ess: own.TargetEss = None,
    model: own.Model = None,
    reference: own.Reference = None,
    adapter: options.Adapter = None,
    rollouts: own.Rollouts = None,
    prompt: own.Prompt = None,
    completion: own.Completion = None,
    html: own.Html = None,
    svg: own.Svg = None,
    png: own.Png = None,
    as_json: own.Json = False,
) -> None:
    """Show the tokens of a completion coloured by credit weight, with the numbers behind it.

    Reads what a run has stored, or computes it for any models: --model M --reference R
    --rollouts FILE, or --prompt TEXT --completion TEXT. --rule, --tau, --kappa and --target-ess
    show the weights as they would be. With --html, --svg or --png only the names of the files are
    printed.

    Examples:
      The most telling completion of a run
        dgpo inspect runs/tiny
      The weights at another temperature, as a page
        dgpo inspect runs/tiny --tau 1.0 --html credit.html
    """
    own.check_numbers(tau=tau, kappa=kappa, target_ess=target_ess)
    own.check_source(source=source, rollouts=rollouts, prompt=prompt, completion=completion)
    views = {"--json": as_json, "--at": at is not None, "--pair": pair, "--steps": steps}
    own.check_views({**views, "--full": full}, sample=sample, prompt=prompt, what=what, html=html)
    if prompt == "-" and completion == "-":
        raise ConfigError("--prompt=- and --completion=-: only one of them can be stdin")
    files = Files(html=html, svg=svg, png=png)
    files.check()
    from dgpo_cli.policy.settings import ModelSettings

    for name in filter(None, (model, reference if model else None)):
        options.reach(ModelSettings(path=name))
    from dgpo_cli.inspect import inspect as workflow
    from dgpo_cli.inspect.request import Choice, Models, Origin, WhatIf
    from dgpo_cli.live.bars import bars

    origin = Origin(
        source=source,
        rollouts=rollouts,
        prompt=own.read_text(prompt, flag="--prompt"),
        completion=own.read_text(completion, flag="--completion"),
    )
    one = not (as_json or html)  # a picture is of one completion
    with bars() as observer:
        inspection = workflow.run(
            origin,
            models=Models(model=model, reference=reference, adapter=adapter),
            choice=Choice(group=group, sample=sample, one=one, pair=pair),
            what_if=WhatIf(rule=rule, tau=tau, kappa=kappa, target_ess=target_ess),
            at=at,
            observer=observer,
        )
    view = View(
        inspection, what=what or "weight", fit=fit, full=full, steps=steps, pair=pair, top=top
    )
    for line in files.write(inspection, draw=view.draw):
        (console.note if as_json else console.say)(line)
    if as_json:
        from dgpo_cli.inspect import as_json as inspection_json

        console.stream(inspection_json.chunks(inspection))
    elif not files.asked:
        view.show()
