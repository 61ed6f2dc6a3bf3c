"""The charts of the page, in groups. A metric that a run lacks is left out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Curve:
    """A metric and its name in a chart."""

    metric: str
    label: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart. Several runs are compared by its first curve.

    stacked: the curves are parts of a whole. band: metrics of the band around the first curve.
    level: a setting to compare with, and its name. about: one line below the chart.
    """

    key: str
    title: str
    unit: str
    curves: tuple[Curve, ...]
    stacked: bool = False
    log: bool = False
    floor: float | None = None
    ceiling: float | None = None
    band: tuple[str, str] | None = None
    level: tuple[str, str] | None = None
    about: str = ""


@dataclass(frozen=True, slots=True)
class PanelGroup:
    title: str
    panels: tuple[Panel, ...]


def _curves(listed: str) -> tuple[Curve, ...]:
    """Parse curves from "metric label, metric label"."""
    return tuple(Curve(*each.split(" ", 1)) for each in listed.split(", "))


def _quantiles(name: str) -> tuple[Curve, ...]:
    return tuple(Curve(f"{name}_{each}", each) for each in ("max", "p99", "p90", "p50"))


REWARD = Panel("reward", "Reward", "mean of the step's completions", _curves("reward/mean reward"))
OUTCOMES = Panel(
    "outcomes",
    "Outcomes of completions",
    "share",
    _curves(
        "outcome/correct correct, outcome/wrong wrong, outcome/out_of_range out of range, "
        "outcome/no_answer no answer, outcome/truncated truncated, outcome/timeout timeout, "
        "outcome/crash crash, outcome/error reward failed, outcome/scored scored"
    ),
    stacked=True,
    floor=0.0,
    ceiling=1.0,
)
SPLIT = Panel(
    "split",
    "Groups by outcome",
    "share",
    _curves(
        "split/signal signal, split/all_right all-correct, split/all_wrong all-wrong, "
        "split/no_answer no answer, split/truncated truncated, split/unjudged unjudged, "
        "split/filtered filtered"
    ),
    stacked=True,
    floor=0.0,
    ceiling=1.0,
    about="Only groups with signal move the policy.",
)
LENGTHS = Panel(
    "lengths",
    "Completion length",
    "tokens",
    _curves("completion/length_mean mean"),
    floor=0.0,
    band=("completion/length_min", "completion/length_max"),
    level=("rollout.max_completion_tokens", "limit"),
    about="The band runs from the shortest to the longest completion of a step.",
)
TURNS = Panel(
    "turns",
    "Turns of a completion",
    "turns",
    _curves("env/turns_mean mean, env/turns_max most"),
    floor=0.0,
)
FOREIGN = Panel(
    "foreign",
    "Tokens that the environment wrote",
    "share of a completion",
    _curves("env/tokens_share share"),
    floor=0.0,
    ceiling=1.0,
)
EFFECTIVE = Panel(
    "effective",
    "Effective token fraction",
    "1: every token counts alike, GRPO",
    _curves("credit/effective_fraction effective"),
)
DISTANCE = Panel(
    "distance",
    "Distance d from the reference",
    "squared Hellinger",
    (
        Curve("policy/hellinger_sq_mean", "mean"),
        *_quantiles("policy/hellinger_sq"),
        *_curves("noise/floor noise, noise/hellinger_sq_mean noise mean"),
    ),
    log=True,
    about="0, as in the first step, is drawn at the bottom.",
)
ENTROPY = Panel(
    "entropy", "Entropy of the policy", "nats", _curves("policy/entropy entropy"), floor=0.0
)
GRADIENT = Panel(
    "grad",
    "Gradient norm before clipping",
    "",
    _curves("optim/grad_norm norm"),
    floor=0.0,
    level=("optim.max_grad_norm", "clipped above"),
)
_TAU = _curves("credit/tau_p50 median, credit/tau_min min, credit/tau_max max")
_CLIPPED = _curves("loss/clip_frac clipped, loss/clip_high above, loss/clip_low below")
_RATIO = _curves("loss/ratio_max largest, loss/ratio_min smallest")
_GAP = _curves("sampler/logprob_gap_mean mean, sampler/logprob_gap_max max")
_KEPT = _curves("off_policy/ess sample size, off_policy/kept_frac tokens kept")
_PHASES = _curves(
    "time/sample_s sample, time/score_s score, time/statistics_s statistics, "
    "time/update_s update, time/sync_s sync, time/values_s values"
)
_SPEED = _curves("throughput/tokens_per_s tokens")
_MEMORY = _curves("memory/device_peak device, memory/process_peak process")
_CREDIT = (
    EFFECTIVE,
    Panel("weights", "Credit weight w", "GRPO: 1", _quantiles("credit/weight"), log=True),
    DISTANCE,
    Panel("scores", "Credit score s", "", _quantiles("credit/score"), log=True),
    Panel("gate", "Entropy gate h", "entropy / log V", _quantiles("policy/gate"), floor=0.0),
    Panel("tau", "Tau found", "", _TAU, log=True),
    Panel("variation", "Variation of the weights", "cv", _curves("credit/weight_cv cv"), floor=0.0),
)
_UPDATE = (
    ENTROPY,
    Panel("loss", "Loss", "", _curves("loss/value loss")),
    GRADIENT,
    Panel("clip", "Clipped tokens", "share", _CLIPPED, floor=0.0),
    Panel("kl", "KL divergence from the reference", "nats", _curves("loss/kl KL"), floor=0.0),
    Panel("ratio", "Ratio of new to old policy", "1: on-policy", _RATIO),
    Panel("lr", "Learning rate", "", _curves("optim/lr lr"), floor=0.0),
)
_SAMPLER = (
    Panel(
        "gap",
        "Sampler against trainer",
        "nats",
        _GAP,
        log=True,
        about="How far the log-probabilities of the sampled tokens are apart.",
    ),
    Panel("k3", "Divergence k3 of sampler and trainer", "", _curves("sampler/k3 k3"), log=True),
    Panel("off-policy", "Kept by the off-policy correction", "share", _KEPT, floor=0.0),
)
_COST = (
    Panel("phases", "Time of a step by phase", "seconds", _PHASES, stacked=True, floor=0.0),
    Panel("throughput", "Throughput", "tokens a second", _SPEED, floor=0.0),
    Panel("memory", "Memory", "bytes", _MEMORY, floor=0.0),
)
GROUPS = (
    PanelGroup("Outcomes", (OUTCOMES, SPLIT, LENGTHS, TURNS, FOREIGN)),
    PanelGroup("Credit", _CREDIT),
    PanelGroup("Policy and update", _UPDATE),
    PanelGroup("Sampler", _SAMPLER),
    PanelGroup("Time", _COST),
)
STUDY = (
    Panel("signal", "Groups with signal", "share", _curves("split/signal signal"), floor=0.0),
    GRADIENT,
    Panel("noise", "Variance of the gradient", "", _curves("optim/grad_variance variance")),
    EFFECTIVE,
    ENTROPY,
    replace(LENGTHS, about=""),
    DISTANCE,
    Panel("step", "Time of a step", "seconds", _curves("time/step_s step"), floor=0.0),
)
PICTURE = (REWARD, OUTCOMES, LENGTHS, EFFECTIVE, DISTANCE, ENTROPY)


def named_by_settings(metrics: Iterable[str]) -> PanelGroup:
    """Return the charts of terms of the reward and of sources, whose names a run's settings give.

    metrics: the names of all of the run's.
    """
    names = sorted(metrics)
    decides = tuple(_between("reward/", names, "_decides"))
    values = tuple(Curve(f"reward/{term.label}_mean", term.label) for term in decides)
    sources = tuple(_between("source/", names, "_reward"))
    return PanelGroup(
        "Reward by term and source",
        (
            Panel("terms", "Terms of the reward", "mean before the weight", values),
            Panel("decides", "Groups that a term decides", "share", decides, floor=0.0),
            Panel("sources", "Reward by source", "mean", sources),
        ),
    )


def _between(start: str, names: Iterable[str], end: str) -> Iterator[Curve]:
    """Yield the curves whose metric has this start and end, labelled with what is between."""
    for name in names:
        if name.startswith(start) and name.endswith(end):
            yield Curve(name, name[len(start) : -len(end)])
