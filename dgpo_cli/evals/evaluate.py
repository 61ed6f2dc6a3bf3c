"""Evaluate a model on a benchmark: k samples of every problem, each stored as soon as it is drawn.

Stored samples of the same card are kept; only missing ones are drawn. A sample depends on the card,
its problem and its number alone, so that an evaluation that was killed and resumed, or extended to
a larger k, has the samples of one that was not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from dgpo_cli.config.dump import dump_toml
from dgpo_cli.config.load import Resolved
from dgpo_cli.core.errors import DataError
from dgpo_cli.core.events import Observer, phase, tell
from dgpo_cli.core.seeds import derive_seed
from dgpo_cli.core.types import Card, Prompt
from dgpo_cli.engine.engine import Engine
from dgpo_cli.engine.setup import sampling_engine
from dgpo_cli.evals.card import build_card
from dgpo_cli.evals.eval_folder import EvalFolder
from dgpo_cli.evals.request import EvalRequest, EvalResult
from dgpo_cli.evals.samples import REMEDY, Key, Sample, SampleFile, sample_line, sample_of
from dgpo_cli.evals.second import ask_again
from dgpo_cli.evals.tally import report_of
from dgpo_cli.prompts.benchmarks import Benchmark, benchmark_names, load_benchmark
from dgpo_cli.prompts.settings import FilePrompts, HubPrompts
from dgpo_cli.rewards.answer import CHECKER_VERSION
from dgpo_cli.rewards.grader import check_answers

Missing = tuple[Prompt, int]  # a problem and the number of one of its samples
_DEFAULT_BATCH = 1024  # completions, for a sampler whose settings do not say


class Stop(Protocol):
    """Says whether to stop between two batches."""

    @property
    def requested(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class DrawnSamples:
    """The samples drawn by this call: their number, tokens, and seconds of sampling."""

    samples: int
    tokens: int
    seconds: float


def run(
    resolved: Resolved,
    *,
    request: EvalRequest,
    observer: Observer,
) -> EvalResult:
    """Evaluate; leave card, settings, samples and report in the folder.

    Raises:
        ConfigError: the folder contains samples of another card.
        DataError: a problem is longer than prompts.max_prompt_tokens: a score over the others
            would not be the benchmark's.
        ModelError: a prompt opens with two BOS tokens.
        RunFolderBusy: another process evaluates into the folder.
    """
    settings = resolved.settings
    benchmark = load(resolved, request=request, observer=observer)
    for note in benchmark.notes:
        tell(observer, note)
    with sampling_engine(settings, adapter=request.adapter, observer=observer) as engine:
        card = build_card(
            resolved,
            protocol=request.protocol,
            benchmark=benchmark,
            policy=engine.policy,
            adapter=request.adapter,
            prompt_ids=encode_all(engine, benchmark.prompts),
        )
        folder = EvalFolder(request.out or default_out(benchmark.name, request.name, card))
        with folder.lock():
            folder.begin(card, settings=dump_toml(resolved), fresh=request.fresh)
            samples, drawn = fill(
                engine,
                benchmark.prompts,
                k=request.k,
                folder=folder,
                observer=observer,
            )
            if request.second_opinion:
                samples = ask_again(
                    folder.samples, samples, k=request.k, reward=settings.reward, observer=observer
                )
            evaluation = report_of(
                samples,
                card=card,
                k=request.k,
                ids=[prompt.id for prompt in benchmark.prompts],
                second_opinion=request.second_opinion,
                sampled_tokens=drawn.tokens,
                sampling_s=drawn.seconds,
            )
            folder.write_report(evaluation, card)
    return EvalResult(evaluation=evaluation, card=card, out=folder.path, sampled=drawn.samples)


def load(resolved: Resolved, *, request: EvalRequest, observer: Observer) -> Benchmark:
    """Load the benchmark under the settings' template and system turn.

    Raises:
        DataError: two problems have one id, or the data or an answer is not valid.
    """
    prompts = resolved.settings.prompts
    columns = dict(request.columns or {})
    own_file = request.bench not in benchmark_names()
    if not columns and own_file and isinstance(prompts, FilePrompts | HubPrompts):
        columns = {"problem": prompts.problem_column, "answer": prompts.answer_column}
    benchmark = load_benchmark(
        request.bench,
        template=prompts.template,
        system=prompts.system,
        problem_column=columns.get("problem", "problem"),
        answer_column=columns.get("answer", "answer"),
        data=request.data,
        strict=request.strict,
        integers=resolved.settings.reward.kind == "integer",
        observer=observer,
    )
    ids = [prompt.id for prompt in benchmark.prompts]
    if len(set(ids)) < len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise DataError(f"{request.bench}: two problems have the id {twice!r}; give each its own")
    check_answers(benchmark.prompts, reward=resolved.settings.reward)
    return benchmark


def default_out(bench: str, name: str, card: Card) -> Path:
    """Return the default folder of a card: the same evaluation finds its samples again."""
    return Path("evals") / f"{bench}-{name}-{card.key[:8]}"


def fill(
    engine: Engine,
    prompts: Sequence[Prompt],
    *,
    k: int,
    folder: EvalFolder,
    observer: Observer,
    stop: Stop | None = None,
    redraw: str | None = None,
) -> tuple[list[Sample], DrawnSamples]:
    """Draw the samples 0 to k - 1 of every problem that the folder lacks; return all, in order.

    Sample 0 of every problem comes first, then sample 1, and so on: an unfinished folder is an
    evaluation with a smaller k. Batches are as large as the sampler takes; each is judged and on
    the disk before the next begins.

    Args:
        stop: checked before every batch; if requested, the stored samples are returned.
        redraw: if a stored sample is damaged, draw all of them again and print this.

    Raises:
        DataError: without `redraw`, a stored sample is broken or was changed.
    """
    try:
        samples = stored(folder.samples, prompts, seed=engine.settings.seed, observer=observer)
    except DataError as error:
        if redraw is None:
            raise
        tell(observer, f"{redraw}, the stored samples are damaged: {error}")
        folder.samples.path.unlink()
        samples = []
    there = {sample.key for sample in samples}
    wanted = [(prompt, index) for index in range(k) for prompt in prompts]
    missing = [pair for pair in wanted if (pair[0].id, pair[1]) not in there]
    kept = len(wanted) - len(missing)
    if kept and missing:
        tell(
            observer,
            f"{folder.path}: {kept} of {len(wanted)} samples are stored; drawing the others",
        )
    if missing and engine.grader is not None:
        engine.grader.start()
    before = len(samples)
    engine.take_times()
    try:
        with phase(engine.observer, "evaluation", total=len(missing), unit="samples") as advance:
            size = batch_size(engine)
            for batch in (missing[at : at + size] for at in range(0, len(missing), size)):
                if stop is not None and stop.requested:
                    break
                lines = _draw(engine, batch)
                folder.samples.append(lines)
                samples += map(sample_of, lines)
                advance(len(lines))
    except KeyboardInterrupt as stop:
        # Counted in the file: the signal may have come between writing a batch and counting it.
        there_now = folder.samples.count() - (before - kept)
        raise KeyboardInterrupt(
            f"stopped; {there_now} of {len(wanted)} samples are kept in {folder.path}; "
            "run the same command to resume"
        ) from stop
    drawn = samples[before:]
    seconds = engine.take_times().get("time/sample_s", 0.0)
    return samples, DrawnSamples(len(drawn), sum(sample.tokens for sample in drawn), seconds)


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
        changed = _changed(line, known.get(name), seed=derive_seed(seed, "eval", name, index))
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
        return f"its answer is {line['answer']!r}, the benchmark's is {prompt.answer!r}"
    if line.get("messages", asked) != asked:
        return "its prompt is not the benchmark's"
    if line.get("seed", seed) != seed:
        return f"its seed is {line['seed']!r}, not {seed}"
    return None


def batch_size(engine: Engine) -> int:
    """Return the number of completions that the sampler takes at once."""
    return int(getattr(engine.settings.rollout.backend, "batch_size", _DEFAULT_BATCH))


def _draw(engine: Engine, batch: Sequence[Missing]) -> list[dict[str, Any]]:
    """Sample and judge a batch; return its lines in the batch's order."""
    settings = engine.settings
    numbers: dict[str, list[int]] = {}
    prompts: dict[str, Prompt] = {}
    for prompt, index in batch:
        prompts[prompt.id] = prompt
        numbers.setdefault(prompt.id, []).append(index)
    seeds = [
        [derive_seed(settings.seed, "eval", name, index) for index in own]
        for name, own in numbers.items()
    ]
    scored = engine.score(engine.sample(list(prompts.values()), seeds=seeds))
    checker = CHECKER_VERSION
    lines: dict[Key, dict[str, Any]] = {}
    for group, own in zip(scored, numbers.values(), strict=True):
        judged = zip(own, group.completions, group.verdicts, strict=True)
        for index, completion, verdict in judged:
            lines[group.prompt.id, index] = sample_line(
                group.prompt,
                completion,
                verdict,
                index=index,
                temperature=settings.rollout.temperature,
                checker=checker,
            )
    return [lines[prompt.id, index] for prompt, index in batch]


def encode_all(engine: Engine, prompts: Sequence[Prompt]) -> list[tuple[int, ...]]:
    """Return the token ids of every prompt.

    Raises:
        DataError: one is too long.
        ConfigError: the model has no embedding for one of its tokens.
    """
    limit = engine.settings.prompts.max_prompt_tokens
    encoded = [engine.encode(prompt) for prompt in prompts]
    for prompt, ids in zip(prompts, encoded, strict=True):
        if len(ids) > limit:
            raise DataError(
                f"{prompt.source}: problem {prompt.id} has {len(ids)} tokens, "
                f"prompts.max_prompt_tokens={limit}; raise it"
            )
    return encoded
