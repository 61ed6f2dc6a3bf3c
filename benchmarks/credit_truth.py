"""Which credit rule points at the tokens where the outcome is decided, and what its gradient is.

    python benchmarks/credit_truth.py [--small] [--run DIR | --model DIR] [--steps 10 60]
        [--rule RULE ...] [--cache DIR] [--json FILE]

Trains with uniform credit by the command (or takes a run folder). At each of --steps:

- Weights. Problems that were not trained on, and are neither always nor never solved, get --group
  completions each; the value of every prefix is the mean reward of --k continuations of the policy.
  These are the truth. The gradient of every token's log-probability is taken, too, which is what a
  weight multiplies.
- Gradients. --batches times, a step of the run (its group size and advantages) is sampled from
  problems that were not trained on, and the gradient of every rule taken; also that of uniform
  credit on some tokens alone: of wrong or right completions, by how improbable they were. They are
  hashed to --width numbers (a count sketch), which keeps inner products to 1 in sqrt(width).

What was found is kept in --cache, a file for each problem and batch: the same command goes on after
Ctrl-C, and another rule costs its own gradients alone. Errors are over problems and batches
(bootstrap). truth_tables.py says what the columns mean.

RULE is a rule with settings, `dgpo,target_ess=0.6`, or a class of a file, `mine.py:Mine,mix=0.3`.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from truth_tables import Problem, gradient_table, print_table, sure, weight_table

from dgpo_cli.algo.credit import CreditRule, ValueCredit
from dgpo_cli.config.load import load_settings, resolve
from dgpo_cli.config.settings import Settings
from dgpo_cli.core.seeds import derive_seed
from dgpo_cli.core.types import Prompt, ScoredGroup, TokenStats
from dgpo_cli.engine.engine import Engine
from dgpo_cli.engine.setup import completion_seeds, training_engine
from dgpo_cli.engine.values.estimate import estimate
from dgpo_cli.policy.batching import Rows, pad_rows, pairs_of
from dgpo_cli.policy.scoring import token_stats
from dgpo_cli.prompts.datasets import sum_prompt
from dgpo_cli.prompts.settings import SumsPrompts
from dgpo_cli.prompts.sums import held_out

RULES: tuple[str, ...] = (
    "uniform",
    "dgpo,tau=0.5",
    "dgpo,tau=0.02",
    "dgpo,target_ess=0.9",
    "dgpo,target_ess=0.6",
    "entropy",
    "top-entropy",
    "proportional",
    "surprisal",
    "surprisal,mix=0,cap=1000",
    "value,continuations=0",
)
# Tokens of wrong and of right completions by their surprisal, -log p, from and below.
PARTS: dict[str, tuple[bool, float, float]] = {
    "wrong, s < 0.1": (False, 0.0, 0.1),
    "wrong, s 0.1 to 0.7": (False, 0.1, 0.7),
    "wrong, s > 0.7": (False, 0.7, math.inf),
    "right, s < 0.1": (True, 0.0, 0.1),
    "right, s 0.1 to 0.7": (True, 0.1, 0.7),
    "right, s > 0.7": (True, 0.7, math.inf),
}
SCREEN = 16  # completions that show whether a problem is neither always nor never solved
AT_ONCE, CANDIDATES = 32, 1024  # problems that are screened at a time, and at most


@dataclass(frozen=True)
class Plan:
    """What is estimated at each step of training."""

    problems: int
    group: int
    k: int
    batches: int
    width: int
    seed: int = 0


def rule_of(spec: str, *, preset: str) -> CreditRule:
    """Return the rule of `NAME,setting=value,...`."""
    name, *given = spec.split(",")
    changes = [f"credit.{each}" for each in given]
    rule = resolve(preset=preset, overrides=[f"credit.rule={name}", *changes]).settings.credit
    if isinstance(rule, ValueCredit) and rule.continuations:
        raise SystemExit(f"{spec}: its continuations are not sampled; give continuations=0")
    return rule


def problems(settings: Settings, *, count: int, seed: int) -> list[Prompt]:
    """Return problems of the test split, which no run trains on, of the run's kind."""
    prompts = settings.prompts
    if not isinstance(prompts, SumsPrompts):
        raise SystemExit(f"prompts.kind={prompts.kind}: only sums have problems for this; see sums")
    each = -(-count // len(prompts.operations))
    found = [
        sum_prompt(problem, template=prompts.template, system=prompts.system, source="held out")
        for operations in prompts.operations
        for problem in held_out(operations, count=each, max_operand=prompts.max_operand, seed=seed)
    ]
    random.Random(seed).shuffle(found)
    return found[:count]


def chosen(engine: Engine, *, plan: Plan) -> list[Prompt]:
    """Return problems that some of SCREEN completions solve and some do not.

    What is measured are other completions: a choice by their own outcomes would bias it.
    """
    every, found = problems(engine.settings, count=CANDIDATES, seed=7), []
    for start in range(0, len(every), AT_ONCE):
        some = every[start : start + AT_ONCE]
        groups = sampled(engine, some, scope="screen", count=SCREEN, seed=plan.seed)
        found += [g.prompt for g in groups if 0 < sum(g.rewards) < len(g.rewards)]
        if len(found) >= plan.problems:
            break
    return found[: plan.problems]


def sampled(
    engine: Engine, prompts: Sequence[Prompt], *, scope: str, count: int, seed: int
) -> list[ScoredGroup]:
    ids = [prompt.id for prompt in prompts]
    seeds = completion_seeds(seed, scope=scope, ids=ids, count=count)
    return engine.score(engine.sample(prompts, seeds=seeds))


def measured(engine: Engine, groups: Sequence[ScoredGroup]) -> tuple[Rows, TokenStats]:
    """Return the completions as rows and their statistics, distances of all of them."""
    rows = pad_rows(pairs_of(groups), pad_id=engine.policy.pad_id)
    stats = token_stats(
        engine.policy,
        rows,
        temperature=engine.settings.rollout.temperature or 1.0,
        micro_batch_size=64,
        with_reference=True,
    )
    return rows, stats


def logprobs_of(engine: Engine, rows: Rows) -> Tensor:
    """Return the log-probabilities of the completions' tokens [M, T], with their graph.

    A plain pass, whose graph can be run backward many times.
    """
    prompts, lengths = rows.prompt_mask.sum(dim=1).tolist(), rows.lengths.tolist()
    width = max(p + n for p, n in zip(prompts, lengths, strict=True))
    ids = torch.zeros(len(lengths), width, dtype=torch.int64)
    for row, (p, n) in enumerate(zip(prompts, lengths, strict=True)):
        ids[row, :p] = rows.prompt_ids[row, rows.prompt_mask[row]]
        ids[row, p : p + n] = rows.completion_ids[row, :n]  # what follows is not seen by these
    logits = engine.policy.model(input_ids=ids).logits.float()
    logits = logits / (engine.settings.rollout.temperature or 1.0)
    chosen = logits[:, :-1].log_softmax(dim=-1).gather(2, ids[:, 1:, None]).squeeze(2)
    at = torch.tensor(prompts)[:, None] - 1 + torch.arange(rows.mask.shape[1])
    own: Tensor = chosen.gather(1, at.clamp(max=width - 2))
    return own * rows.mask


def gradient(engine: Engine, total: Tensor) -> Tensor:
    """Return the gradient of a number in all trained weights, as one row; its graph stays."""
    weights = [weight for _, weight in engine.policy.trainable()]
    found = torch.autograd.grad(total, weights, retain_graph=True)
    return torch.cat([each.reshape(-1) for each in found]).float()


# Weights against values.


def problem_of(engine: Engine, prompt: Prompt, *, plan: Plan) -> dict[str, Any]:
    """Sample a problem's completions; return all that weights are held against."""
    [group] = sampled(engine, [prompt], scope="truth", count=plan.group, seed=plan.seed)
    found = estimate(engine, [group], continuations=plan.k, seed=plan.seed, siblings=False)
    rows, stats = measured(engine, [group])
    products = []
    for row, length in enumerate(rows.lengths.tolist()):
        own = logprobs_of(engine, rows.take(torch.tensor([row])))[0]
        each = torch.stack([gradient(engine, own[at]) for at in range(length)])
        products.append(each @ each.T)
    curves = [found[0, row] for row in range(plan.group)]
    return {"group": group, "curves": curves, "rows": rows, "stats": stats, "products": products}


def each_problem(
    engine: Engine, rules: Sequence[CreditRule], *, plan: Plan, cache: Path
) -> Iterator[Problem]:
    """Yield what rules make of each problem, from the cache where it is there."""
    for prompt in chosen(engine, plan=plan):
        key = derive_seed(prompt.id, plan.group, plan.k, plan.seed)
        kept = recalled(cache / f"problem-{key:x}.pt")
        if not kept:
            kept = problem_of(engine, prompt, plan=plan)
            write(cache / f"problem-{key:x}.pt", kept)
            print(".", end="", file=sys.stderr, flush=True)
        group, curves, stats = kept["group"], kept["curves"], kept["stats"]
        # r - V_0: a baseline that does not depend on the other completions.
        worth = [r - c.points[0].value for r, c in zip(group.rewards, curves, strict=True)]
        advantages = torch.tensor(worth)
        stats = replace(stats, **moves_of([group], rules))
        credit = [weights_of(engine, rule, stats, kept["rows"].mask, advantages) for rule in rules]
        yield Problem.of(
            curves,
            sure=[sure(curve) for curve in curves],
            right=[reward > 0.5 for reward in group.rewards],
            advantages=worth,
            weights=credit,
            products=kept["products"],
        )


def weights_of(
    engine: Engine, rule: CreditRule, stats: TokenStats, mask: Tensor, advantages: Tensor
) -> Tensor:
    vocab_size = engine.policy.vocab_size
    return rule.credit_for(stats, mask, advantages, vocab_size=vocab_size).weights.float()


def moves_of(groups: Sequence[ScoredGroup], rules: Sequence[CreditRule]) -> dict[str, Any]:
    """Return the field of the statistics that the rule `value` needs, from siblings alone."""
    if not any(rule.needs_values for rule in rules):
        return {}
    found = estimate(None, groups, continuations=0, seed=0)
    rows = [found[i, j].moves() for i, g in enumerate(groups) for j in range(len(g.completions))]
    moves = torch.zeros(len(rows), max(map(len, rows)))
    for row, own in enumerate(rows):
        moves[row, : len(own)] = torch.tensor(own)
    return {"value_moves": moves}


# Gradients of whole steps.


class Sketch:
    """Hashes gradients to a few numbers; the same for every one."""

    def __init__(self, size: int, *, width: int) -> None:
        generator = torch.Generator().manual_seed(1)
        self._place = torch.randint(width, (size,), generator=generator)
        self._sign = torch.randint(2, (size,), generator=generator).float() * 2 - 1
        self.width = width

    def __call__(self, gradient: Tensor) -> Tensor:
        return torch.zeros(self.width).index_add_(0, self._place, gradient * self._sign)


def each_batch(
    engine: Engine, rules: dict[str, CreditRule], *, plan: Plan, cache: Path
) -> Iterator[Tensor]:
    """Yield the hashed gradient of each rule, then of each part, on a step's completions."""
    rollout = engine.settings.rollout
    size = sum(weight.numel() for _, weight in engine.policy.trainable())
    sketch = Sketch(size, width=plan.width)
    per = rollout.prompts_per_step
    every = problems(engine.settings, count=plan.batches * per, seed=8)
    for number in range(plan.batches):
        file = cache / f"batch-{number}-{per}-{plan.width}-{plan.seed}.pt"
        kept = recalled(file)
        if not kept:
            some = every[number * per : (number + 1) * per]
            groups = sampled(
                engine, some, scope="batch", count=rollout.group_size, seed=plan.seed + 1
            )
            kept = {"groups": groups, "gradients": {}}
        missing = [spec for spec in (*rules, *PARTS) if spec not in kept["gradients"]]
        if missing:
            new = {spec: rules.get(spec) for spec in missing}
            kept["gradients"] |= batch_gradients(engine, kept["groups"], new, sketch=sketch)
            write(file, kept)
            print(".", end="", file=sys.stderr, flush=True)
        yield torch.stack([kept["gradients"][spec] for spec in (*rules, *PARTS)])


def batch_gradients(
    engine: Engine,
    groups: Sequence[ScoredGroup],
    rules: dict[str, CreditRule | None],  # None: a part
    *,
    sketch: Sketch,
) -> dict[str, Tensor]:
    """Return the gradient of each rule: of sum A w log p over all tokens by their number."""
    advantages = torch.tensor(engine.settings.advantage.of_step(groups, mask_truncated=False))
    rows, stats = measured(engine, groups)
    stats = replace(stats, **moves_of(groups, [rule for rule in rules.values() if rule]))
    learnt = torch.nonzero(advantages).squeeze(1)
    factors = {}
    for spec, rule in rules.items():
        if rule is None:
            right, low, high = PARTS[spec]
            within = (-stats.old_logprobs >= low) & (-stats.old_logprobs < high)
            weights = (rows.mask & within & ((advantages > 0) == right)[:, None]).float()
        else:
            weights = weights_of(engine, rule, stats, rows.mask, advantages)
        factors[spec] = weights * advantages[:, None]
    found = {spec: torch.zeros(sketch.width) for spec in rules}
    for part in learnt.split(64):
        own = rows.take(part)
        logprobs = logprobs_of(engine, own)
        for spec, factor in factors.items():
            total = (logprobs * factor[part, : own.mask.shape[1]]).sum() / int(rows.mask.sum())
            hashed = sketch(gradient(engine, total))
            found[spec] += hashed
    return found


# The cache and the command.


def recalled(file: Path) -> dict[str, Any]:
    return dict(torch.load(file, weights_only=False)) if file.exists() else {}


def write(file: Path, kept: dict[str, Any]) -> None:
    """Write a file of the cache so that no half of one is left."""
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(kept, file.with_suffix(".part"))
    file.with_suffix(".part").rename(file)


def open_engine(settings: Settings, checkpoint: Path) -> AbstractContextManager[Engine]:
    """Open a checkpoint with its reference, whatever rule it was trained by."""
    credit = load_settings("tiny").credit
    return training_engine(settings.model_copy(update={"credit": credit}), checkpoint=checkpoint)


def trained(args: argparse.Namespace) -> Path:
    """Return a run folder with checkpoints at the steps; train it if there is none."""
    if args.run is not None:
        return Path(args.run)
    out: Path = args.cache / args.preset
    last = max(args.steps)
    if not (out / "checkpoints" / f"step-{last:06d}").exists():
        print(f"training {last} steps with uniform credit", file=sys.stderr, flush=True)
        changes = ["credit.rule=uniform", "train.checkpoint_every=10", "eval.every=0", *args.set]
        changes += [f"train.keep_checkpoints={last}", "train.threads=1", "reward.workers=1"]
        if args.model is not None:
            changes.append(f"model.path={args.model}")
        command = [sys.executable, "-m", "dgpo_cli", "train", "--preset", args.preset]
        command += ["--steps", str(last), "--out", str(out)]
        command += [part for change in changes for part in ("--set", change)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return out


def report_of(args: argparse.Namespace, run: Path, *, step: int, plan: Plan) -> dict[str, Any]:
    """Estimate and print what is found at a step."""
    rules = {spec: rule_of(spec, preset=args.preset) for spec in (*RULES, *args.rule)}
    cache = args.cache / f"{run.name}-step-{step}"
    settings = load_settings(file=run / "settings.toml")
    with open_engine(settings, run / "checkpoints" / f"step-{step:06d}") as engine:
        found = list(each_problem(engine, list(rules.values()), plan=plan, cache=cache))
        weights = weight_table(found, specs=list(rules))
        print_table(weights, title=f"{run.name}, step {step}")
        batches = torch.stack(list(each_batch(engine, rules, plan=plan, cache=cache)))
        gradients = gradient_table(batches, specs=[*rules, *PARTS])
        print_table(gradients, title=f"{run.name}, step {step}")
    return {"run": run.name, "step": step, "weights": weights, "gradients": gradients}


def plain(value: Any) -> Any:
    """Return figures as JSON has them: to four digits, and null for what is not a number."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, float):
        return float(f"{value:.4g}") if math.isfinite(value) else None
    return value


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", help="a run folder with a checkpoint at each of --steps")
    parser.add_argument("--model", help="a model to train: a folder of SmolLM2, say")
    parser.add_argument("--preset", help="default: tiny; with --model smollm2-lora")
    parser.add_argument("--set", action="append", default=[], help="a setting of the training")
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 60], help="multiples of 10")
    parser.add_argument("--problems", type=int, default=32)
    parser.add_argument("--group", type=int, default=16, help="completions of a problem")
    parser.add_argument("--k", type=int, default=64, help="continuations of a prefix")
    parser.add_argument("--batches", type=int, default=48)
    parser.add_argument("--width", type=int, default=32768, help="numbers of a hashed gradient")
    parser.add_argument("--small", action="store_true", help="8 problems of 8, K=32, 12 batches")
    parser.add_argument("--rule", action="append", default=[], help="another rule to judge")
    parser.add_argument("--cache", type=Path, default=Path("runs/credit-truth"))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    args.preset = args.preset or ("tiny" if args.model is None else "smollm2-lora")
    if args.small:
        args.problems, args.group, args.k, args.batches = 8, 8, 32, 12
    torch.set_num_threads(1)
    plan = Plan(args.problems, args.group, args.k, args.batches, args.width)
    run = trained(args)
    report = [report_of(args, run, step=step, plan=plan) for step in args.steps]
    if args.json:
        figures = {"k": plan.k, "group": plan.group, "width": plan.width, "steps": report}
        args.json.write_text(json.dumps(plain(figures), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
