"""Evaluate a model on benchmarks: k samples of every problem, each stored as soon as it is judged.

Stored samples of the same card are kept; only missing ones are drawn. A sample depends on the card,
its problem and its number alone, so that an evaluation that was killed and resumed, or extended to
a larger k, has the samples of one that was not.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from dgpo_cli.config.dump import dump_toml
from dgpo_cli.config.load import Resolved
from dgpo_cli.config.protocols import check_judge
from dgpo_cli.config.settings import Settings
from dgpo_cli.core.errors import BackendError, DataError, OutOfBudget
from dgpo_cli.core.events import Observer, phase, tell
from dgpo_cli.core.numbers import counted
from dgpo_cli.core.text import cut, visible
from dgpo_cli.core.types import Card, Prompt
from dgpo_cli.evals.eval_folder import EvalFolder
from dgpo_cli.evals.request import EvalRequest, EvalResult
from dgpo_cli.evals.running import Running
from dgpo_cli.evals.samples import REMEDY, Sample, SampleFile, sample_line, sample_of
from dgpo_cli.evals.second import ask_again
from dgpo_cli.evals.source import Drawn, Missing, Source, sample_seed
from dgpo_cli.evals.tally import report_of
from dgpo_cli.prompts.benchmarks import Benchmark, load_benchmark
from dgpo_cli.prompts.catalog import find
from dgpo_cli.prompts.settings import FilePrompts, HubPrompts
from dgpo_cli.prompts.templates import begun
from dgpo_cli.rewards.grader import (
    Grader,
    check_answers,
    check_columns,
    check_judged,
    check_own,
    grade_item,
)
from dgpo_cli.rewards.protocol import CHECKER_VERSION
from dgpo_cli.rewards.settings import IntegerReward, TermsReward
from dgpo_cli.samplers.settings import EndpointBackend, VllmServerBackend


class Stop(Protocol):
    """Says whether to stop between two batches."""

    @property
    def requested(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class DrawnSamples:
    """The samples drawn by this call: their number, tokens, and seconds of sampling.

    stopped: why they are not all, if the budget was spent.
    """

    samples: int
    tokens: int
    seconds: float
    stopped: str | None = None


@dataclass(frozen=True, slots=True)
class Cell:
    """An evaluation of one model on one benchmark, before it begins."""

    resolved: Resolved
    request: EvalRequest
    benchmark: Benchmark


def prepare(resolved: Resolved, *, request: EvalRequest, observer: Observer) -> Cell:
    """Load the benchmark, before anything large is loaded; tell its notes.

    Raises:
        ConfigError, DataError, BackendError: the benchmark cannot be loaded.
    """
    benchmark = load(resolved, request=request, observer=observer)
    for note in benchmark.notes:
        tell(observer, note)
    return Cell(resolved, request, benchmark)


@contextmanager
def open_source(cells: Sequence[Cell], *, observer: Observer) -> Iterator[Source]:
    """Start what all cells, which are of one model, draw from.

    Raises:
        ModelError, ConfigError, BackendError: it cannot be started.
    """
    first = cells[0]
    backend = first.resolved.settings.rollout.backend
    if isinstance(backend, EndpointBackend):
        from dgpo_cli.evals.endpoint_source import EndpointSource

        endpoint = EndpointSource(backend, observer=observer, budget=first.request.budget)
        for cell in cells:
            endpoint.open(cell.resolved.settings)
        yield endpoint
        return
    if isinstance(backend, VllmServerBackend):  # before torch, which takes longer to load
        from dgpo_cli.samplers.vllm.server import SharedServers

        SharedServers(backend).check()
    from dgpo_cli.engine.setup import sampling_engine, widest
    from dgpo_cli.evals.engine_source import EngineSource

    adapter = first.request.adapter
    settings = widest([cell.resolved.settings for cell in cells])
    with sampling_engine(settings, adapter=adapter, observer=observer) as engine:
        yield EngineSource(engine, adapter=adapter)


def run(resolved: Resolved, *, request: EvalRequest, observer: Observer) -> EvalResult:
    """Evaluate a model on one benchmark; see `prepare`, `open_source` and `evaluate`."""
    cell = prepare(resolved, request=request, observer=observer)
    with open_source([cell], observer=observer) as source:
        return evaluate(cell, source=source, observer=observer)


def evaluate(cell: Cell, *, source: Source, observer: Observer) -> EvalResult:
    """Evaluate; leave card, settings, samples and report in the folder.

    Raises:
        ConfigError: the folder contains samples of another card.
        DataError, ModelError: a prompt does not fit the model.
        RunFolderBusy: another process evaluates into the folder.
    """
    request, benchmark, settings = cell.request, cell.benchmark, cell.resolved.settings
    card = source.describe(cell.resolved, benchmark=benchmark, protocol=request.protocol)
    if request.stop_when is not None:
        card = replace(card, protocol={**card.protocol, "stop_when": request.stop_when})
    folder = EvalFolder(request.out or default_out(benchmark.name, request.name, card))
    running = Running(
        benchmark.prompts,
        bench=benchmark.name,
        model=request.name,
        k=request.k,
        price=request.price,
        max_cost=None if request.budget is None else request.budget.most,
        stop_when=request.stop_when,
        greedy=settings.rollout.temperature == 0,
    )
    with folder.lock(), Grader(settings.reward.judge(), observer=observer) as grader:
        folder.begin(card, settings=dump_toml(cell.resolved), fresh=request.fresh)
        try:
            samples, drawn = fill(
                source, running, settings=settings, grader=grader, folder=folder, observer=observer
            )
        except BackendError as error:
            there = counted(folder.samples.count(), "sample")
            raise BackendError(
                f"{error}; {there} kept in {folder.path}; run the same command to resume"
            ) from error
        k = running.rounds if running.enough or drawn.stopped else request.k
        if k == 0:
            raise OutOfBudget(drawn.stopped or "")
        if request.second_opinion:
            samples = ask_again(
                folder.samples, samples, k=k, reward=settings.reward.judge(), observer=observer
            )
        evaluation = report_of(
            samples,
            card=card,
            k=k,
            ids=[prompt.id for prompt in benchmark.prompts],
            second_opinion=request.second_opinion,
            sampled_tokens=drawn.tokens,
            sampling_s=drawn.seconds,
            price=request.price,
        )
        folder.write_report(evaluation, card)
    return EvalResult(
        evaluation=evaluation,
        card=card,
        out=folder.path,
        sampled=drawn.samples,
        stopped=drawn.stopped,
    )


def load(resolved: Resolved, *, request: EvalRequest, observer: Observer) -> Benchmark:
    """Load the benchmark under the settings' template and system turn.

    Raises:
        DataError: two problems have one id, or the data or an answer is not valid.
    """
    prompts = resolved.settings.prompts
    columns = dict(request.columns or {})
    reward = resolved.settings.reward.judge()
    told = check_own(reward, observer=observer)
    if not isinstance(reward, TermsReward):
        check_judge(request.bench, kind=reward.kind)
    if (
        not columns
        and find(request.bench) is None
        and isinstance(prompts, FilePrompts | HubPrompts)
    ):
        columns = {"problem": prompts.problem_column, "answer": prompts.answer_column}
    benchmark = load_benchmark(
        request.bench,
        template=prompts.template,
        system=prompts.system,
        problem_column=columns.get("problem", "problem"),
        answer_column=columns.get("answer", "answer"),
        data=request.data,
        strict=request.strict,
        integers=isinstance(reward, IntegerReward),
        others=reward.wants_columns,
        seed=resolved.settings.seed,
        observer=observer,
    )
    ids = [prompt.id for prompt in benchmark.prompts]
    if len(set(ids)) < len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise DataError(f"{request.bench}: two problems have the id {twice!r}; give each its own")
    check_answers(benchmark.prompts, reward=reward)
    check_columns(benchmark.prompts, told=told)
    asked = tuple(begun(prompt, prefix=prompts.assistant_prefix) for prompt in benchmark.prompts)
    return replace(benchmark, prompts=asked)


def default_out(bench: str, name: str, card: Card) -> Path:
    """Return the default folder of a card: the same evaluation finds its samples again."""
    return Path("evals") / f"{bench}-{name}-{card.key[:8]}"


def fill(
    source: Source,
    running: Running,
    *,
    settings: Settings,
    grader: Grader,
    folder: EvalFolder,
    observer: Observer,
    stop: Stop | None = None,
    redraw: str | None = None,
) -> tuple[list[Sample], DrawnSamples]:
    """Draw the samples 0 to k - 1 of every problem that the folder lacks; return all that it has.

    Sample 0 of every problem comes first, then sample 1, and so on: an unfinished folder is an
    evaluation with a smaller k. What the source gives is judged and on the disk before it is asked
    for more. With running.stop_when, samples that were begun before the error was small enough
    are stored too.

    Args:
        running: counts the samples, those that are stored too, and says when they suffice.
        stop: checked before every sample is begun; if requested, the stored samples are returned.
        redraw: if a stored sample is damaged, draw all of them again and print this.

    Raises:
        DataError: without `redraw`, a stored sample is broken or was changed.
    """
    samples = _whole(folder.samples, running, settings, observer=observer, redraw=redraw)
    running.add(samples)
    there = {sample.key for sample in samples}
    wanted = [(prompt, index) for index in range(running.k) for prompt in running.prompts]
    lacking = [pair for pair in wanted if (pair[0].id, pair[1]) not in there]
    missing = [] if running.finished else lacking
    before, kept = len(samples), len(wanted) - len(lacking)
    if kept and missing:
        tell(
            observer,
            f"{folder.path}: {kept} of {len(wanted)} samples are stored; drawing the others",
        )
    if missing:
        grader.start()
    drawing = _drawn(
        source, missing, running=running, settings=settings, stop=stop, stored=samples[:]
    )
    keeper = _Keeper(samples, running, settings, grader, folder.samples, observer)
    spent: str | None = None

    def so_far() -> str:
        # Counted in the file: a signal may have come between writing a batch and counting it.
        there_now = folder.samples.count() - (before - kept)
        return f"{there_now} of {len(wanted)} samples are kept in {folder.path}"

    try:
        with (
            phase(observer, "evaluation", total=len(missing), unit="samples") as advance,
            closing(drawing),
        ):
            keeper.take(drawing, advance=advance)
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(f"stopped; {so_far()}; run the same command to resume") from stop
    except OutOfBudget as error:
        spent = f"{error}; {so_far()}; run the same command with a larger --max-cost to resume"
    return samples, DrawnSamples(keeper.count, keeper.tokens, keeper.seconds, spent)


def _whole(
    file: SampleFile,
    running: Running,
    settings: Settings,
    *,
    observer: Observer,
    redraw: str | None,
) -> list[Sample]:
    """Return the stored samples; with `redraw`, none of them if one is damaged."""
    try:
        return stored(file, running.prompts, seed=settings.seed, observer=observer)
    except DataError as error:
        if redraw is None:
            raise
        tell(observer, f"{redraw}, the stored samples are damaged: {error}")
        file.path.unlink()
        return []


@dataclass(slots=True)
class _Keeper:
    """Judges samples as they are drawn, stores them, and says how far they have come.

    count, tokens, seconds: of the samples that it has taken, and of drawing them.
    """

    samples: list[Sample]  # those before included; it adds to them
    running: Running
    settings: Settings
    grader: Grader
    file: SampleFile
    observer: Observer
    count: int = 0
    tokens: int = 0
    seconds: float = 0.0
    noted: bool = False

    def take(self, drawing: Generator[list[Drawn]], *, advance: Callable[[int], object]) -> None:
        """Keep all that is drawn; at an interrupt, what is in flight too, as it is paid for."""
        self._report()
        began = time.perf_counter()
        try:
            for drawn in drawing:
                self.seconds += time.perf_counter() - began
                self._keep(drawn, advance)
                began = time.perf_counter()
        except KeyboardInterrupt as interrupt:
            with suppress(StopIteration, KeyboardInterrupt):
                self._keep(drawing.throw(interrupt), advance)
            raise

    def _keep(self, drawn: Sequence[Drawn], advance: Callable[[int], object]) -> None:
        lines, failed = _judged(drawn, settings=self.settings, grader=self.grader)
        if failed is not None and not self.noted:
            self.noted = True
            tell(self.observer, f"a sample is not judged: {cut(visible(failed), 200)}")
        self.file.append(lines)
        new = list(map(sample_of, lines))
        self.samples.extend(new)
        self.running.add(new)
        self.count += len(new)
        self.tokens += sum(sample.tokens or 0 for sample in new)
        advance(len(lines))
        self._report()

    def _report(self) -> None:
        self.observer.on(
            self.running.event(drawn=self.count, tokens=self.tokens, seconds=self.seconds)
        )


def _drawn(
    source: Source,
    missing: Sequence[Missing],
    *,
    running: Running,
    settings: Settings,
    stop: Stop | None,
    stored: Sequence[Sample],
) -> Generator[list[Drawn]]:
    """Draw what is missing, some rounds at a time if the error decides how many it takes."""

    def begun(part: Sequence[Missing]) -> Iterator[Missing]:
        for pair in part:
            if running.finished or (stop is not None and stop.requested):
                return
            yield pair

    at = 0
    while True:  # once also if nothing is missing: what is stored counts in a budget
        goal = running.goal()
        end = bisect_left(missing, goal, key=lambda pair: pair[1])
        part = begun(missing[at:end])
        with closing(source.draw(part, settings=settings, stored=stored)) as drawing:
            yield from drawing
        at, stored = end, ()  # those of this command are counted as they come
        if at == len(missing) or running.finished or (stop is not None and stop.requested):
            return


def _judged(
    drawn: Sequence[Drawn], *, settings: Settings, grader: Grader
) -> tuple[list[dict[str, Any]], str | None]:
    """Judge completions; return their lines, and why a reward of the user's failed, if one did."""
    verdicts = grader.grade([grade_item(each.prompt, each.completion) for each in drawn])
    check_judged(verdicts)
    failed = next((verdict.note for verdict in verdicts if not verdict.is_scored), None)
    lines = [
        sample_line(
            each.prompt,
            each.completion,
            verdict,
            index=each.index,
            temperature=settings.rollout.temperature,
            checker=CHECKER_VERSION,
        )
        for each, verdict in zip(drawn, verdicts, strict=True)
    ]
    return lines, failed


def stored(
    file: SampleFile, prompts: Sequence[Prompt], *, seed: int, observer: Observer
) -> list[Sample]:
    """Read the stored samples, which must be unchanged and belong to the benchmark.

    Raises:
        DataError: one is broken or was changed; the message names it.
    """
    if file.mend():
        tell(observer, f"{file.path}: removed its last line, which was torn or damaged")
    known = {prompt.id: prompt for prompt in prompts}
    samples = []
    for line in file.lines():
        name, index = line["prompt_id"], line["index"]
        changed = _changed(line, known.get(name), seed=sample_seed(seed, name, index))
        if changed is not None:
            raise DataError(f"{file.path}: sample {index} of problem {name!r}: {changed}; {REMEDY}")
        samples.append(sample_of(line))
    return samples


def _changed(line: Mapping[str, Any], prompt: Prompt | None, *, seed: int) -> str | None:
    """Return how a stored sample differs from one that would be drawn now, if it does."""
    if prompt is None:
        return "the benchmark has no such problem"
    asked = [{"role": m.role, "content": m.content} for m in prompt.messages]
    if line["answer"] != prompt.answer:
        return "its answer is not the benchmark's"
    if line.get("messages", asked) != asked:
        return "its prompt is not the benchmark's"
    if line.get("seed", seed) != seed:
        return f"its seed is {line['seed']!r}, not {seed}"
    return None
