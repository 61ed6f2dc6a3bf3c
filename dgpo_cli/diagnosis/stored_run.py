"""Diagnoses of a run in progress (`Watch`) and of a run folder (`diagnose_run`)."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from dgpo_cli.algo.losses import ClipLoss
from dgpo_cli.config.dump import with_stored_sources
from dgpo_cli.config.foreign import template_owner
from dgpo_cli.config.load import resolve
from dgpo_cli.core.codec import parsed
from dgpo_cli.core.errors import DataError
from dgpo_cli.core.events import NOBODY, Diagnosed, Event, Observer, StepDone, tell
from dgpo_cli.core.formats import prefix_of
from dgpo_cli.core.thinking import OPENER, after_thinking, ends_in_thought
from dgpo_cli.core.types import Diagnosis, StepMetrics
from dgpo_cli.diagnosis.diagnose import EXPLAINS, diagnose
from dgpo_cli.diagnosis.facts import Facts, TermFacts, UnreadExample
from dgpo_cli.diagnosis.history import FIRST, LAST, Line
from dgpo_cli.engine.tolerance import logprob_tolerance
from dgpo_cli.prompts.settings import SumsPrompts
from dgpo_cli.rewards.played import EnvironmentReward
from dgpo_cli.rewards.protocol import Extract
from dgpo_cli.rewards.reading.extract import extract
from dgpo_cli.rewards.settings import RewardValues, SummedReward
from dgpo_cli.rewards.terms.checked import CheckedTerm
from dgpo_cli.runs.run_folder import RunFolder
from dgpo_cli.runs.token_texts import TokenTexts

if TYPE_CHECKING:
    from dgpo_cli.config.settings import Settings

# Steps without a diagnosis after which it is over: near its threshold it comes and goes.
CLEAR_STEPS = 5
EXCERPT = 80  # characters of a completion's end
MAX_LINES = 64  # of a rollouts file, searched for an example
PROMPT_END = 8  # tokens of a prompt that show whether it ends in a thought
NEWEST = 3  # rollouts files that are searched
# The strictest first: it mistakes the least for an answer.
_FORMS: tuple[Extract, ...] = ("boxed", "answer-line", "boxed-or-answer-line", "last-number")
assert set(_FORMS) == set(get_args(Extract))


@dataclass(frozen=True, slots=True)
class DiagnosisChange:
    """The diagnoses that appeared and disappeared at a step."""

    appeared: tuple[Diagnosis, ...] = ()
    gone: tuple[Diagnosis, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """One line each. They may hold text of a model: escape it before printing."""
        return (*map(appeared_text, self.appeared), *map(gone_text, self.gone))


class Watch:
    """The diagnoses of a run in progress; starts from the metrics in its folder.

    An observer: after every step it reports all diagnoses, and notes those that are new or over.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        folder: RunFolder,
        template_owner: str = "",
        observer: Observer = NOBODY,
    ) -> None:
        self._observer = observer
        self._facts = facts_of(settings, template_owner=template_owner)
        self._folder = folder
        lines = folder.metric_ends(first=FIRST, last=LAST)
        self._start: list[Line] = list(lines[:FIRST])
        self._last: deque[Line] = deque(lines[FIRST:], maxlen=LAST)
        self._seen: dict[str, Diagnosis] = {}
        self._example: tuple[Path | None, UnreadExample | None] = (None, None)

    @property
    def current(self) -> tuple[Diagnosis, ...]:
        """Diagnoses of the last CLEAR_STEPS steps, the most important first."""
        return tuple(self._seen.values())

    def on(self, event: Event) -> None:
        """Diagnose after a finished step and report."""
        if isinstance(event, StepDone):
            for note in self.add(event.step, event.metrics).notes:
                tell(self._observer, note)
            self._observer.on(Diagnosed(event.step, self.current))

    def add(self, step: int, metrics: StepMetrics) -> DiagnosisChange:
        """Add the metrics of a finished step."""
        line = {"step": float(step), **metrics}
        if len(self._start) < FIRST:
            self._start.append(line)
        else:
            self._last.append(line)
        found = {each.key: each for each in self._diagnose()}
        appeared = tuple(each for key, each in found.items() if key not in self._seen)
        # A suppressed diagnosis is not over.
        covered = {*found, *(key for cause in found for key in EXPLAINS[cause])}
        old = {key: each for key, each in self._seen.items() if key not in covered}
        gone = tuple(each for each in old.values() if step - each.step >= CLEAR_STEPS)
        kept = {key: each for key, each in old.items() if each not in gone}
        self._seen = {**found, **kept}
        return DiagnosisChange(appeared, gone)

    def _diagnose(self) -> tuple[Diagnosis, ...]:
        return diagnose(
            [*self._start, *self._last],
            facts=self._facts,
            find_unread=self._unread,
        )

    def _unread(self) -> UnreadExample | None:
        """Read the rollouts only when there are new ones: their files may be large."""
        newest = next(reversed(self._folder.rollouts()), None)
        if newest != self._example[0]:
            self._example = (newest, unread_example(self._folder))
        return self._example[1]


def diagnose_run(
    folder: RunFolder, *, lines: Sequence[Line] | None = None
) -> tuple[Diagnosis, ...]:
    """Diagnose a run at its last step; return the most important first.

    lines: its metrics; None reads the first and last lines of their file.

    Raises:
        ConfigError: its settings cannot be read.
    """
    resolved = resolve(config=folder.settings_file, run_code=False)
    owner = template_owner(with_stored_sources(resolved, folder.settings_file))
    return diagnose(
        folder.metric_ends(first=FIRST, last=LAST) if lines is None else lines,
        facts=facts_of(resolved.settings, template_owner=owner),
        find_unread=lambda: unread_example(folder),
    )


def facts_of(settings: Settings, *, template_owner: str = "") -> Facts:
    """Return the settings that thresholds and advice depend on.

    template_owner: the preset whose template is around other problems than its own, if any.
    """
    rollout, optim, prompts = settings.rollout, settings.optim, settings.prompts
    return Facts(
        prompts_per_step=rollout.prompts_per_step,
        group_size=rollout.group_size,
        max_completion_tokens=rollout.max_completion_tokens,
        temperature=rollout.temperature,
        dynamic_sampling=rollout.dynamic_sampling,
        extract=settings.reward.extract,
        template=prompts.template,
        timeout_s=settings.reward.timeout_s,
        workers=settings.reward.workers,
        lr=optim.lr,
        warmup_steps=optim.warmup_steps,
        total_steps=settings.train.steps,
        max_grad_norm=optim.max_grad_norm,
        updates_per_step=optim.updates_per_step,
        clip_high=settings.loss.clip_high if isinstance(settings.loss, ClipLoss) else None,
        kl=settings.loss.kl,
        has_adapter=settings.adapter.kind != "none",
        dtype=settings.model.dtype,
        logprob_tolerance=logprob_tolerance(settings),
        correction=settings.off_policy.of(rollout.backend.kind).level,
        operations=prompts.operations if isinstance(prompts, SumsPrompts) else (),
        worst=getattr(settings.reward, "wrong", 0.0),
        template_owner=template_owner,
        terms=() if isinstance(settings.reward, RewardValues) else _terms(settings.reward),
        terms_summed=settings.advantage.normalize == "sum",
    )


def _terms(reward: SummedReward | EnvironmentReward) -> tuple[TermFacts, ...]:
    return tuple(
        TermFacts(
            name=term.label,
            kind=str(getattr(term, "kind", "")),
            weight=term.weight,
            judges=term.judges,
            checks=isinstance(term, CheckedTerm),
        )
        for term in reward.every_term()
    )


def appeared_text(diagnosis: Diagnosis) -> str:
    """Return the note on a new diagnosis."""
    return f"{diagnosis.headline}: {diagnosis.evidence}. Change first: {diagnosis.advice}"


def gone_text(diagnosis: Diagnosis) -> str:
    """Return the note on a diagnosis that is over."""
    return f"resolved since step {diagnosis.step}: {diagnosis.headline}"


def unread_example(folder: RunFolder) -> UnreadExample | None:
    """Find completions without an answer in the newest rollouts."""
    for path in reversed(folder.rollouts()[-NEWEST:]):
        texts = list(_unread_texts(path))
        if texts:
            thinking = sum(after_thinking(text) is None for text in texts)
            return UnreadExample(
                ending=texts[0].removeprefix(OPENER)[-EXCERPT:],
                readable_as=_form_of(texts),
                in_thought=thinking > len(texts) / 2,
            )
    return None


def _unread_texts(path: Path) -> Iterator[str]:
    with path.open("rb") as file:
        for raw in islice(file, MAX_LINES):
            try:
                line = parsed(raw, where=str(path))
            except DataError:
                return  # damaged; `dgpo inspect` says where
            if isinstance(line, dict) and line.get("outcome") == "no_answer":
                text = prefix_of(line) + str(line.get("completion", ""))
                yield OPENER + text if _starts_in_thought(line, path=path) else text


def _starts_in_thought(line: dict[str, Any], *, path: Path) -> bool:
    """Read it from the line; earlier versions have only the ids of the prompt."""
    known, ids = line.get("starts_in_thought"), line.get("prompt_token_ids")
    if isinstance(known, bool) or not isinstance(ids, list):
        return known is True
    try:
        return ends_in_thought("".join(TokenTexts.of_run(path).texts(ids[-PROMPT_END:])))
    except (DataError, TypeError, OverflowError):
        return False


def _form_of(texts: list[str]) -> str | None:
    """Return the value of reward.extract that finds an answer in most of these texts."""
    found = Counter(
        form for form in _FORMS for text in texts if extract(text, where=form) is not None
    )
    return next((form for form in _FORMS if found[form] > len(texts) / 2), None)
