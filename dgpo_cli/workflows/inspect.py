"""Where the credit of some completions went: from stored statistics, or computed afresh."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgpo_cli.algo.credit import CreditRule, DgpoCredit
from dgpo_cli.config.load import resolve
from dgpo_cli.errors import ConfigError, DataError
from dgpo_cli.types import (
    InspectedCompletion,
    InspectedToken,
    Inspection,
    Progress,
    TokenStats,
)
from dgpo_cli.workflows.fresh_stats import fresh_stats
from dgpo_cli.workflows.pairing import pair_of
from dgpo_cli.workflows.rollouts import RolloutLine, read_lines
from dgpo_cli.workflows.run_folder import RunFolder, newest_run
from dgpo_cli.workflows.run_tokens import TokenTexts

if TYPE_CHECKING:
    pass

RUNS = Path("runs")


def run(
    *,
    source: Path | None,
    model: str | None,
    reference: str | None,
    adapter: Path | None,
    rollouts: Path | None,
    prompt: int | None,
    completion: int | None,
    one: bool,
    tau: float | None,
    kappa: float | None,
    progress: Progress,
    on_event: Callable[[str], None],
    pair: bool = False,
) -> Inspection:
    """Inspect a run folder, a rollouts file, or a rollouts file under a model and a reference.

    Args:
        source: run folder or rollouts file; None is the newest run under ./runs.
        model, reference, adapter: compute the statistics afresh with these.
        rollouts: the rollouts file for `model`, if `source` is not given.
        prompt, completion: only this prompt (counted from 0 in the file) and this completion.
        one: of the completions that are left, only the most telling one.
        tau, kappa: weights under these instead of the stored or published ones.
        pair: of the completions that are left, a right and a wrong one of one prompt, in this
            order, instead of one.
    """
    path, name = _locate(source or rollouts)
    everything = read_lines(path)
    lines = _chosen(everything, prompt=prompt, completion=completion, path=path)
    if pair:
        lines = list(pair_of(lines, path=path))
    elif one:
        lines = [min(lines, key=_evenness)]
    if model is not None:
        found, policy = fresh_stats(
            lines,
            everything=everything,
            model=model,
            reference=reference,
            adapter=adapter,
            progress=progress,
        )
        texts = TokenTexts(policy.tokenizer.backend_tokenizer)
        rule = _rule(None, tau=tau, kappa=kappa)
        return _inspection(
            [
                _completion(
                    stats.line,
                    columns=(stats.logprobs, stats.entropy, stats.hellinger_sq),
                    rule=rule,
                    vocab_size=policy.vocab_size,
                    advantage=stats.advantage,
                    texts=texts.of(stats.line.completion.token_ids),
                )
                for stats in found
            ],
            model=f"{model} with the adapter {adapter}" if adapter else model,
            reference=reference or model,
            rule=rule,
            vocab_size=policy.vocab_size,
        )
    if reference is not None or adapter is not None:
        raise ConfigError("--reference and --adapter need --model")
    missing = next((line for line in lines if line.stats is None), None)
    if missing is not None:
        raise DataError(
            f"{path}: no token statistics in it; give --model and --reference (or --adapter) "
            "to compute them"
        )
    on_event(f"{path}: statistics as training stored them")
    return _from_stored(lines, name=name, path=path, tau=tau, kappa=kappa)


def _locate(source: Path | None) -> tuple[Path, str]:
    """Return the rollouts file and the name to show for it."""
    if source is None:
        source = newest_run(RUNS)
        if source is None:
            raise ConfigError(
                "no run under ./runs; name a run folder or a rollouts file, "
                "or train one with: dgpo train --preset tiny"
            )
    if source.is_dir():
        files = RunFolder(source).rollouts()
        if not files:
            raise DataError(f"{source}: no rollouts in it; is it a run folder?")
        return files[-1], f"{source} {files[-1].stem}"
    if not source.exists():
        raise ConfigError(f"{source}: no such run folder or rollouts file")
    return source, str(source)


def _chosen(
    lines: list[RolloutLine], *, prompt: int | None, completion: int | None, path: Path
) -> list[RolloutLine]:
    """Return the lines of the prompt and completion asked for, all where nothing is asked."""
    ids = list(dict.fromkeys(line.prompt.id for line in lines))
    if prompt is not None:
        if not 0 <= prompt < len(ids):
            raise ConfigError(f"--prompt {prompt}: {path} has prompts 0 to {len(ids) - 1}")
        lines = [line for line in lines if line.prompt.id == ids[prompt]]
    if completion is not None:
        found = [line for line in lines if line.index == completion]
        if not found:
            highest = max(line.index for line in lines)
            raise ConfigError(f"--completion {completion}: {path} has completions 0 to {highest}")
        lines = found
    return lines


def _evenness(line: RolloutLine) -> float:
    """Return the effective fraction of a line's stored weights; lines without an advantage, or
    without statistics, come last: their weights move nothing."""
    if line.stats is None or not line.advantage:
        return 2.0
    weights = line.stats.weights
    return sum(weights) ** 2 / (len(weights) * sum(w * w for w in weights))


def _rule(stored: dict[str, Any] | None, *, tau: float | None, kappa: float | None) -> CreditRule:
    """Return the stored credit rule, the published one, or DGPO's with another tau or kappa."""
    if stored is None or (stored["rule"] != "dgpo" and (tau is not None or kappa is not None)):
        stored = {"rule": "dgpo"}
    changes = {k: v for k, v in (("tau", tau), ("kappa", kappa)) if v is not None}
    overrides = [f"credit.{k}={v}" for k, v in ({**stored, **changes}).items() if v is not None]
    return resolve(overrides=overrides).settings.credit


def _from_stored(
    lines: Sequence[RolloutLine],
    *,
    name: str,
    path: Path,
    tau: float | None,
    kappa: float | None,
) -> Inspection:
    """Recompute scores and weights from the stored distances and entropies."""
    tokens = TokenTexts.of_run(path)
    rule = _rule(lines[0].stats.credit if lines[0].stats else None, tau=tau, kappa=kappa)
    found = []
    for line in lines:
        assert line.stats is not None
        columns = (line.stats.logprobs, line.stats.entropy, line.stats.hellinger_sq)
        found.append(
            _completion(
                line,
                columns=columns,
                rule=_rule(line.stats.credit, tau=tau, kappa=kappa),
                vocab_size=line.stats.vocab_size,
                advantage=line.advantage or 0.0,
                texts=tokens.of(line.completion.token_ids),
            )
        )
    return _inspection(
        found,
        model=name,
        reference="the initial model",
        rule=rule,
        vocab_size=lines[0].stats.vocab_size if lines[0].stats else 0,
    )


def _completion(
    line: RolloutLine,
    *,
    columns: Sequence[Sequence[float]],
    rule: CreditRule,
    vocab_size: int,
    advantage: float,
    texts: Sequence[str],
) -> InspectedCompletion:
    """Apply the rule to one completion's statistics."""
    import torch

    from dgpo_cli.algo.summary import effective_fractions

    logprobs, entropy, distance = (torch.tensor(column)[None] for column in columns)
    stats = TokenStats(old_logprobs=logprobs, entropy=entropy, hellinger_sq=distance)
    mask = torch.ones(logprobs.shape, dtype=torch.bool)
    credit = rule.credit(stats, mask, vocab_size=vocab_size)
    values = (logprobs, entropy, distance, credit.scores, credit.weights)
    rows = zip(line.completion.token_ids, texts, *(v[0].tolist() for v in values), strict=True)
    return InspectedCompletion(
        prompt_id=line.prompt.id,
        index=line.index,
        prompt=line.prompt.text,
        answer=line.prompt.answer,
        outcome=line.verdict.outcome,
        finish_reason=line.completion.finish_reason,
        reward=line.verdict.reward,
        advantage=advantage,
        effective_fraction=float(effective_fractions(credit.weights, mask)[0]),
        tau=rule.tau if isinstance(rule, DgpoCredit) else None,
        tokens=tuple(InspectedToken(*row) for row in rows),
    )


def _inspection(
    completions: list[InspectedCompletion],
    *,
    model: str,
    reference: str,
    rule: CreditRule,
    vocab_size: int,
) -> Inspection:
    dgpo = rule if isinstance(rule, DgpoCredit) else None
    return Inspection(
        model=model,
        reference=reference,
        rule=rule.rule,
        tau=dgpo.tau if dgpo else None,
        kappa=dgpo.kappa if dgpo else None,
        vocab_size=vocab_size,
        completions=tuple(completions),
    )
