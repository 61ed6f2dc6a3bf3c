"""dgpo check and regrade: judge completions of your own, and stored samples again."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, Literal

import typer

from dgpo_cli.cli import completion, options
from dgpo_cli.cli.commands import FAILED, USAGE
from dgpo_cli.cli.eval import as_data, show
from dgpo_cli.cli.help import CHANGE, OUTPUT, READ, RUN
from dgpo_cli.core.errors import ConfigError
from dgpo_cli.core.numbers import counted, percent, short
from dgpo_cli.rewards.protocol import Extract
from dgpo_cli.ui import console

if TYPE_CHECKING:
    from dgpo_cli.config.shorthand import Asked
    from dgpo_cli.doctor.check import CheckedCase, CheckSummary
    from dgpo_cli.doctor.trial import Trial
    from dgpo_cli.evals.request import Flip, RegradeResult
    from dgpo_cli.rewards.settings import RewardValues

AIME_RANGE = (0, 999)
DEFAULT_EXTRACT: Extract = "boxed-or-answer-line"
DEFAULT_CHOICES, MOST_CHOICES = 4, 26
LINES_AT_ONCE = 256  # of a file; a pipe is judged line by line
MOST_PRINTED = 20  # lines of what functions of the user's print
MOST_FAILURES = 10  # kinds of them
MAX_GOLD_CHARS = 80  # shown of a gold answer
STYLES = {"correct": "green", "wrong": "red", "out_of_range": "red"}
HEADER = f"{'line':>5}  {'outcome':<12}  {'gold':<8}  extracted"

Source = Annotated[
    str,
    typer.Argument(
        help='Lines of JSON such as {"gold": "204", "output": "so \\boxed{204}"}, or of dgpo '
        "rollout; - reads stdin.",
        metavar="FILE.jsonl|-",
        rich_help_panel=READ,
    ),
]
TriedReward = Annotated[
    str | None,
    typer.Option(
        "--reward",
        help="Try a reward: a Python function as FILE.py:NAME or MODULE:NAME, an http address, "
        "integer, math or choice. --set reward.X=... changes it.",
        metavar="R",
        autocompletion=completion.reward,
        rich_help_panel=RUN,
    ),
]
TriedConfig = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="Try the reward of a TOML file, with all its terms.",
        metavar="FILE.toml",
        rich_help_panel=RUN,
    ),
]
Where = Annotated[
    Extract | None,
    typer.Option(
        "--extract",
        help="Where the answer stands, as in reward.extract.",
        show_default=DEFAULT_EXTRACT,
        rich_help_panel=CHANGE,
    ),
]
Kind = Annotated[
    Literal["integer", "math", "choice"] | None,
    typer.Option(
        help="Checker: exact integers, general answers, or letters of options.",
        show_default="integer",
        rich_help_panel=CHANGE,
    ),
]
Choices = Annotated[
    int | None,
    typer.Option(
        help="Number of options, with --kind choice; their letters begin at A.",
        metavar="N",
        show_default=str(DEFAULT_CHOICES),
        rich_help_panel=CHANGE,
    ),
]
Minimum = Annotated[
    int | None,
    typer.Option(
        help="Smallest integer in range; a wrong answer outside is out_of_range.",
        metavar="N",
        show_default=f"AIME's {AIME_RANGE[0]}",
        rich_help_panel=CHANGE,
    ),
]
Maximum = Annotated[
    int | None,
    typer.Option(
        help="Largest integer in range.",
        metavar="N",
        show_default=f"AIME's {AIME_RANGE[1]}",
        rich_help_panel=CHANGE,
    ),
]
Timeout = Annotated[
    float | None,
    typer.Option(
        help="Seconds that one verdict may take; after that it is a timeout.",
        metavar="S",
        show_default="5",
        rich_help_panel=CHANGE,
    ),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print a line of JSON for each line.", rich_help_panel=OUTPUT),
]
Folder = Annotated[
    Path,
    typer.Argument(
        help="Folder of an evaluation, with samples.jsonl; or a log of inspect_ai (.eval, .json) "
        "or lighteval (details .parquet, results .json).",
        metavar="DIR|FILE",
        rich_help_panel=READ,
    ),
]
LogKind = Annotated[
    Literal["integer", "math", "choice"] | None,
    typer.Option(
        help="Checker for a log.",
        show_default="integer or choice if all answers are, else math",
        rich_help_panel=CHANGE,
    ),
]
LogOut = Annotated[
    Path | None,
    typer.Option(
        "--out",
        help="Folder to write for a log.",
        metavar="DIR",
        show_default="evals/TASK-MODEL-CARD",
        rich_help_panel=OUTPUT,
    ),
]


def check(
    source: Source,
    reward: TriedReward = None,
    config: TriedConfig = None,
    overrides: options.Set = None,
    extract: Where = None,
    kind: Kind = None,
    minimum: Minimum = None,
    maximum: Maximum = None,
    choices: Choices = None,
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Judge lines of JSON with gold and output; print each one's outcome and extracted answer.

    A line may have finish_reason (stop or length), and want: correct, incorrect, policy (either
    is fine) or an outcome; precision and recall are over the lines with want. Exits with 1 if a
    verdict is not the wanted one, with 2 if a line cannot be judged; the other lines are still
    judged.

    --reward and --config try a reward on completions before a run: scores by term, errors, time.
    Other fields of a line are the columns of the data. Exits with 1 if the reward fails on a line.

    Examples:
      Try a function of yours on sampled completions
        dgpo check rollouts.jsonl --reward my_reward.py:score
      Judge a file of answers as AIME would
        dgpo check answers.jsonl
      General answers, not only integers
        dgpo check answers.jsonl --kind math
      The letters A to J
        dgpo check answers.jsonl --kind choice --choices 10
    """
    name = "stdin" if source == "-" else source
    own = {
        "--extract": extract,
        "--kind": kind,
        "--minimum": minimum,
        "--maximum": maximum,
        "--choices": choices,
        "--timeout": timeout,
    }
    if reward is not None or config is not None:
        given = [flag for flag, value in own.items() if value is not None]
        if given:
            what = "--reward" if reward is not None else "--config"
            fix = f"reward.{'timeout_s' if given[0] == '--timeout' else given[0][2:]}"
            raise ConfigError(f"{given[0]}: does not go with {what}; give --set {fix}=... instead")
        from dgpo_cli.config.shorthand import Asked

        asked = Asked(None, config, None, None, reward, overrides or ())
        _try(source, name=name, asked=asked, as_json=as_json)
        return
    if overrides:
        raise ConfigError(f"--set {overrides[0]}: goes with --reward or --config; give one of them")
    settings = _settings(
        extract=extract or DEFAULT_EXTRACT,
        kind=kind or "integer",
        minimum=minimum,
        maximum=maximum,
        choices=choices,
        timeout=5.0 if timeout is None else timeout,
    )
    from dgpo_cli.doctor import check as workflow
    from dgpo_cli.doctor.cases import BrokenLine

    with ExitStack() as opened:
        lines: BinaryIO = sys.stdin.buffer if source == "-" else _open(source, opened)
        if not as_json:
            console.say(HEADER, style="bold")
        summary = workflow.CheckSummary()
        at_once = LINES_AT_ONCE if lines.seekable() else 1
        found = workflow.judged(lines, settings=settings, at_once=at_once)
        for each in opened.enter_context(closing(found)):
            summary.count(each)
            if isinstance(each, BrokenLine):
                console.error(f"{name}, line {each.number}: {each.why}")
            elif as_json:
                _print_json(each)
            else:
                _print_case(each)
    if not summary.checked and not summary.broken:
        raise ConfigError(f"{name}: no lines in it")
    _print_summary(summary, as_json=as_json)
    if summary.broken or summary.disagreed:
        raise typer.Exit(USAGE if summary.broken else FAILED)


def _try(source: str, *, name: str, asked: Asked, as_json: bool) -> None:
    """Try the reward that is asked for; print its scores, its failures and its time."""
    resolved = asked.resolve()
    for line in resolved.notes:
        console.note(line)
    settings = resolved.settings
    if settings.reward.kind == "environment":
        raise ConfigError(
            "reward.kind=environment: an environment judges what it has played, not lines of a "
            "file; try one of its completions with dgpo rollout"
        )
    from dgpo_cli.doctor import trial as workflow
    from dgpo_cli.live.bars import bars

    prompts = settings.prompts
    parts = [each.label for each in prompts.sources] if prompts.kind == "mixture" else []
    with ExitStack() as opened:
        lines: BinaryIO = sys.stdin.buffer if source == "-" else _open(source, opened)
        trial = workflow.run(
            lines,
            reward=settings.reward,
            parts=parts,
            limit=settings.rollout.max_completion_tokens,
            observer=opened.enter_context(bars()),
        )
    if not trial.lines:
        raise ConfigError(f"{name}: no lines in it")
    _print_trial(trial, name=name, names=tuple(settings.reward.weights), as_json=as_json)
    if trial.summary.broken or trial.summary.disagreed or trial.failures:
        raise typer.Exit(USAGE if trial.summary.broken else FAILED)


def _print_trial(trial: Trial, *, name: str, names: Sequence[str], as_json: bool) -> None:
    from dgpo_cli.doctor.cases import BrokenLine
    from dgpo_cli.doctor.trial import line_rows, value_rows

    for each in trial.lines:
        if isinstance(each, BrokenLine):
            console.error(f"{name}, line {each.number}: {each.why}")
        elif as_json:
            _print_json(each, scored=True)
    for line in trial.printed.splitlines()[-MOST_PRINTED:]:
        console.aside(f"printed: {line}")
    if trial.summary.checked and not as_json:
        rows = line_rows(trial, names=names)
        console.table(rows, styles=("dim", "", "bold", *[""] * (len(rows[0]) - 3)))
        console.say("")
        console.table(value_rows(trial), styles=("bold", *[""] * 7))
    say = console.note if as_json else console.say
    if trial.groups:
        say(f"the reward differs in {trial.differing} of {counted(trial.groups, 'group')}")
    _print_summary(trial.summary, as_json=as_json)
    for note, count in trial.failures.most_common(MOST_FAILURES):
        console.error(f"{counted(count, 'completion')} unscored: {note}")


def _settings(
    *,
    extract: Extract,
    kind: Literal["integer", "math", "choice"],
    minimum: int | None,
    maximum: int | None,
    choices: int | None,
    timeout: float,
) -> RewardValues:
    if not 0 < timeout <= 600:
        raise ConfigError(f"--timeout={timeout:g}: must be greater than 0 and at most 600 seconds")
    if kind != "integer" and (minimum is not None or maximum is not None):
        raise ConfigError(f"--minimum and --maximum are for integers; leave out --kind {kind}")
    if kind != "choice" and choices is not None:
        raise ConfigError(f"--choices={choices} is for letters; add --kind choice")
    from dgpo_cli.rewards.settings import ChoiceReward, IntegerReward, MathReward

    if kind == "math":
        return MathReward(extract=extract, timeout_s=timeout)
    if kind == "choice":
        if extract == "last-number":
            raise ConfigError("--extract last-number is for numbers; leave out --kind choice")
        if choices is not None and not 2 <= choices <= MOST_CHOICES:
            raise ConfigError(f"--choices={choices}: must be 2 to {MOST_CHOICES}")
        return ChoiceReward(
            extract=extract,
            choices=DEFAULT_CHOICES if choices is None else choices,
            timeout_s=timeout,
        )
    low = AIME_RANGE[0] if minimum is None else minimum
    high = AIME_RANGE[1] if maximum is None else maximum
    if low > high:
        raise ConfigError(
            f"--minimum={low} is above --maximum={high}: no answer is in range; give both"
        )
    return IntegerReward(extract=extract, timeout_s=timeout, minimum=low, maximum=high)


def _open(source: str, opened: ExitStack) -> BinaryIO:
    try:
        return opened.enter_context(open(source, "rb"))
    except OSError as error:
        reason = (error.strerror or "cannot be read").lower()
        raise ConfigError(
            f"{source}: {reason}; give a file of lines of JSON, or - for stdin"
        ) from (error)


def _print_json(checked: CheckedCase, *, scored: bool = False) -> None:
    from dgpo_cli.core.codec import encoded

    console.raw(encoded(checked.to_json(scored=scored)) + "\n")


def _print_case(checked: CheckedCase) -> None:
    case, shown = checked.case, checked.verdict.extracted or ""
    gold = case.item.gold[:MAX_GOLD_CHARS]
    line = f"{case.number:>5}  {checked.outcome:<12}  {gold:<8}  {shown}".rstrip()
    if checked.agrees is False:
        line += f"  <- want {case.want}"
    style = STYLES.get(checked.outcome, "yellow")
    console.say(line, style=f"bold {style}" if checked.agrees is False else style)


def _print_summary(summary: CheckSummary, *, as_json: bool) -> None:
    """Print the counts: below the table, or on stderr with --json."""
    counts = ", ".join(f"{count} {name}" for name, count in summary.outcomes.most_common())
    parts = [f"{summary.checked} checked" + (f": {counts}" if counts else "")]
    if summary.agreed or summary.disagreed:
        parts.append(f"{summary.agreed} as wanted, {summary.disagreed} not")
        parts += [
            f"{name} {percent(share)} (false {kind}: {count})"
            for name, share, count, kind in (
                ("precision", summary.precision, summary.false_positives, "positives"),
                ("recall", summary.recall, summary.false_negatives, "negatives"),
            )
            if share is not None
        ]
    if summary.broken:
        parts.append(f"{summary.broken} cannot be judged")
    (console.note if as_json else console.say)("; ".join(parts))


def regrade(
    folder: Folder,
    kind: LogKind = None,
    out: LogOut = None,
    answers: options.Answers = False,
    as_json: options.Json = False,
) -> None:
    """Judge stored samples again with today's answer checker, and list the flips.

    No model is needed. Outcomes, card and report in the folder are rewritten. A log of another
    program becomes a new folder, and the flips are against the log's verdicts.

    Examples:
      List the samples that today's checker judges differently
        dgpo regrade evals/sums-tiny
      The same as JSON
        dgpo regrade evals/sums-tiny --json
      Judge the samples of somebody else
        dgpo regrade logs/2026-01-31_aime2025.eval --out evals/theirs
    """
    from dgpo_cli.evals import regrade as workflow
    from dgpo_cli.live.bars import bars

    of_log = [flag for flag, value in (("--kind", kind), ("--out", out)) if value is not None]
    if of_log and not folder.is_file():
        raise ConfigError(
            f"{of_log[0]}: goes with a log of another program, and {folder} is not a file"
        )
    with bars() as observer:
        if folder.is_file():
            from dgpo_cli.evals.foreign import judged

            result = judged.run(folder, out=out, kind=kind, observer=observer)
        else:
            result = workflow.run(folder, observer=observer)
    where = result.out or folder
    if not answers:
        flips = tuple(replace(flip, answer=None) for flip in result.flips)
        result = replace(result, evaluation=result.evaluation.without_answers(), flips=flips)
    if as_json:
        from dgpo_cli.evals.request import REGRADE, RegradeJson

        report = as_data(result.evaluation, result.card)
        made = None if result.out is None else str(result.out)
        console.say_json(REGRADE.dump(RegradeJson(result.flips, report, result.logged, made)))
    else:
        _print_flips(result, folder=where)


def _print_flips(result: RegradeResult, *, folder: Path) -> None:
    if result.flips:
        told = result.flips[0].answer is not None
        rows = [("problem", "sample", *(["answer"] if told else []), "outcome", "extracted")]
        rows += [_row(flip) for flip in result.flips]
        console.table(rows, styles=("bold", *[""] * (len(rows[0]) - 2), "dim"))
    console.say(f"{len(result.flips)} of {result.samples} samples flipped")
    if (logged := result.logged) is not None:
        scores = ", ".join(f"{name} {short(value)}" for name, value in logged.scores.items())
        version = (logged.version or "").partition("+")[0][:16]  # or a commit
        console.say(f"{f'{logged.program} {version}'.strip()} reported {scores or 'no score'}")
    show(result.evaluation, None)
    if result.out is not None:
        console.say(f"written to {result.out}")
    console.suggest(["compare", folder, "OTHER"])


def _row(flip: Flip) -> tuple[str, ...]:
    return (
        flip.prompt_id,
        str(flip.index),
        *([] if flip.answer is None else [flip.answer]),
        f"{flip.old} -> {flip.new}",
        f"{_shown(flip.old_extracted)} -> {_shown(flip.new_extracted)}",
    )


def _shown(extracted: str | None) -> str:
    return "nothing" if extracted is None else extracted
