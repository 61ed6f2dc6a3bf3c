"""Sections of gpu.py that ask whether numbers are right on the device. They measure no time."""

from __future__ import annotations

import importlib.util
import itertools
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from gpu_bench import WIDTHS, Bench, Model, Skipped

from dgpo_cli.core.errors import ModelError
from dgpo_cli.core.events import NOBODY
from dgpo_cli.policy.batching import pad_rows
from dgpo_cli.policy.head import Head
from dgpo_cli.policy.token_pass import TokenColumns, token_pass
from dgpo_cli.samplers.base import SamplingParams
from dgpo_cli.samplers.hf import HfSampler
from dgpo_cli.samplers.steps import GraphRunner

ROOT = Path(__file__).resolve().parents[1]
# What a test needs of a device goes through torch's own factories there; see tests/devices.py.
TESTED = ("tests/algo", "tests/policy/test_token_pass.py", "tests/policy/test_token_logprobs.py")
_ENDED = re.compile(r"^(tests/.+?) (PASSED|FAILED|ERROR|SKIPPED) *\[", re.MULTILINE)
_REASON = re.compile(r"^(?:FAILED|ERROR) (tests/.+?)(?: - (.*))?$", re.MULTILINE)
PASS_GOALS = {"logprob": 2e-5, "d_relative": 1e-4, "entropy": 2e-5}


def tests(bench: Bench) -> None:
    """Run tests of policy/ and algo/ on the device."""
    for name in ("pytest", "hypothesis"):
        if importlib.util.find_spec(name) is None:
            raise Skipped(f"{name} is not installed")
    if not (ROOT / "tests").is_dir():
        raise Skipped("no folder tests beside benchmarks")
    chosen = TESTED[-1:] if bench.small else TESTED
    command = [sys.executable, "-m", "pytest", "-v", "-rfE", "-p", "no:cacheprovider", *chosen]
    command += ["-o", "addopts=", "-m", "not slow and not mutation", "--color=no"]
    if bench.small:
        command += ["-k", "frozen or no_tokens"]
    environment = os.environ | {"DGPO_TEST_DEVICE": str(bench.device), "PYTHONPATH": str(ROOT)}
    environment["COLUMNS"] = "400"  # a failure is told in one line
    out, late = bench.folder() / "said", False
    with out.open("w") as said:
        try:
            subprocess.run(
                command,
                cwd=ROOT,
                env=environment,
                stdout=said,
                stderr=said,
                timeout=130,
                check=False,
            )
        except subprocess.TimeoutExpired:
            late = True
    text = out.read_text(encoding="utf-8")
    ends = Counter(end for _, end in re.findall(_ENDED, text))
    if not ends:
        raise RuntimeError(text[-2000:])
    for name, why in re.findall(_REASON, text)[:12]:
        bench.say(f"failed {name.rpartition('::')[2][:70]}", why=why[:160])
    wrong = ends["FAILED"] + ends["ERROR"]
    bench.say("tests", passed=ends["PASSED"], failed=wrong, skipped=ends["SKIPPED"], cut_off=late)
    bench.goal("tests that fail", wrong, most=0)


def token_pass_errors(bench: Bench) -> None:
    """Compare the token pass with float64, forward and in both gradients."""
    shape = WIDTHS["small" if bench.small else "7B"]
    vocab, width = shape["vocab_size"], shape["hidden_size"]
    worst = dict.fromkeys(PASS_GOALS, 0.0)
    equal = 0.0
    kinds = itertools.product((torch.float32, torch.bfloat16), (False, True), (False, True))
    for dtype, second, bent in kinds:
        generator = torch.Generator(bench.device).manual_seed(2)

        def noise(*size: int, generator: torch.Generator = generator) -> torch.Tensor:
            return torch.randn(*size, device=bench.device, generator=generator)

        weight = noise(vocab, width) / width**0.5
        moved = weight + 0.02 * noise(vocab, width) / width**0.5
        bias = (0.1 * noise(vocab)).to(dtype) if bent else None
        cap = 8.0 if bent else None
        heads = [Head(each.to(dtype), bias, 1.0, cap) for each in (weight, moved)]
        x = noise(256, width).to(dtype)
        z = (x.float() + 0.05 * noise(256, width)).to(dtype)
        ids = torch.randint(vocab, (256,), device=bench.device, generator=generator)
        found, same = _errors(x, z, heads[0], heads[1] if second else None, ids)
        name = str(dtype).removeprefix("torch.")
        kind = "two heads" if second else "one head"
        bench.say(f"pass {name}, {kind}{', bias and soft-cap' if bent else ''}", **found, d0=same)
        worst = {key: max(value, found[key]) for key, value in worst.items()}
        equal = max(equal, same)
        del weight, moved, bias, heads, x, z, ids
    for key, bound in PASS_GOALS.items():
        bench.goal(f"pass: error of {key}", worst[key], most=bound)
    bench.goal("pass: d of equal models", equal, most=0)


def _errors(
    x: torch.Tensor, z: torch.Tensor, head: Head, second: Head | None, ids: torch.Tensor
) -> tuple[dict[str, float], float]:
    """Return the errors of the pass, and the largest d of equal models."""
    import dataclasses

    def run(hidden: torch.Tensor, other: torch.Tensor, head: Head) -> TokenColumns:
        return token_pass(hidden, other, head=head, reference_head=second, ids=ids, temperature=0.8)

    live = x.clone().requires_grad_()
    weight = head.weight.clone().requires_grad_()
    found = run(live, z, dataclasses.replace(head, weight=weight))
    pull = torch.linspace(-1.0, 1.0, len(ids), device=x.device)
    slopes = torch.autograd.grad((found.logprobs * pull).sum(), [live, weight])

    def logits(hidden: torch.Tensor, head: Head, weight: torch.Tensor) -> torch.Tensor:
        z = hidden @ weight.T
        z = z if head.bias is None else z + head.bias.double()
        return (z if head.softcap is None else (z / head.softcap).tanh() * head.softcap) / 0.8

    exact = [t.detach().double().requires_grad_() for t in (x, head.weight)]
    p = logits(exact[0], head, exact[1]).log_softmax(-1)
    logprobs = p.gather(1, ids[:, None])[:, 0]
    wanted = torch.autograd.grad((logprobs * pull).sum(), exact, retain_graph=True)
    with torch.no_grad():
        other = second or head
        q = logits(z.double(), other, other.weight.double()).log_softmax(-1)
        d = 0.5 * ((p / 2).exp() - (q / 2).exp()).square().sum(-1)
        entropy = -(p.exp() * p).sum(-1)
    errors = {
        "logprob": float((found.logprobs - logprobs).detach().abs().max()),
        "d_relative": float(((found.hellinger_sq - d) / d).abs().max()),
        "entropy": float((found.entropy - entropy).abs().max()),
    }
    for name, slope, want in zip(("hidden", "head"), slopes, wanted, strict=True):
        errors[f"{name}_gradient"] = float((slope.double() - want).norm() / want.norm())
    same = token_pass(
        x, x.clone(), head=head, reference_head=None if second is None else head, ids=ids,
        temperature=0.8,
    )  # fmt: skip
    return errors, float(same.hellinger_sq.abs().max())


def policy(bench: Bench) -> None:
    """Equal models are 0 apart, however they are computed; the sampler's log-probabilities."""
    sizes = [(24, 40), (9, 61), (30, 12)] if bench.small else [(64, 300), (20, 511), (128, 64)]
    worst = 0.0
    kinds: list[dict[str, Any]] = [
        {"lora": lora, "compute": compute, "compile": compile_, "gradient_checkpointing": kept}
        for lora, compute in itertools.product((True, False), ("bfloat16", "stored"))
        for compile_, kept in (("off", "full"), ("off", "selective"), ("on", "full"))
        if compute == "bfloat16" or compile_ == "off"
    ]
    for kind in [*kinds[:3], kinds[-2]] if bench.small else kinds:
        words = (
            "LoRA" if kind["lora"] else "full",
            kind["compute"],
            kind["gradient_checkpointing"],
        )
        case = f"equal {' '.join(words)}{' compiled' if kind['compile'] == 'on' else ''}"
        try:
            model = bench.model("7B", layers=2, apart=0.0, **kind)
        except ModelError as error:
            bench.say(case, refused=str(error))
            continue
        found = _distances(bench, model, sizes)
        bench.say(case, **found)
        worst = max(worst, *found.values())
        del model
    bench.goal("equal models: d", worst, most=0)
    _gradients(bench, sizes)
    for dtype, compute in (("float32", "stored"), ("bfloat16", "bfloat16")):
        _sampled(bench, bench.model("7B", layers=2, dtype=dtype, compute=compute, apart=0.02))
    _uncaptured(bench)  # the last: what it may break is this process's memory


def _distances(bench: Bench, model: Model, sizes: list[tuple[int, int]]) -> dict[str, float]:
    """Return the largest d in a pass that measures, and in one that trains."""
    rows, _ = bench.batch(model.policy, sizes)
    rows = rows.to(bench.device)
    with torch.no_grad():
        quiet = model.policy.token_columns(rows, temperature=1.0, reference=True)
    with model.policy.training():
        live = model.policy.token_columns(rows, temperature=1.0, reference=True)
        live.logprobs.sum().backward()
    return {
        "measuring": float(quiet.hellinger_sq.abs().max()),
        "training": float(live.hellinger_sq.abs().max()),
    }


def _gradients(bench: Bench, sizes: list[tuple[int, int]]) -> None:
    """Compare the adapter's gradient with that in float32 with nothing computed again."""

    def gradient(**settings: Any) -> torch.Tensor:
        policy = bench.model("7B", layers=6, dtype="float32", apart=0.01, **settings).policy
        rows, signs = bench.batch(policy, sizes)
        rows = rows.to(bench.device)
        pull = signs.to(bench.device)[:, None] / rows.mask.sum()
        with policy.training():
            (policy.token_logprobs(rows, temperature=1.0) * pull).sum().backward()
        found = [weight.grad for _, weight in policy.trainable() if weight.grad is not None]
        return torch.cat([each.double().flatten() for each in found])

    plain = gradient(compute="stored", gradient_checkpointing="none")
    kinds: list[dict[str, Any]] = [
        {"compute": "stored", "gradient_checkpointing": kind}
        for kind in ("full", "selective", "offload")
    ]
    kinds += [{"compute": "bfloat16"}, {"compute": "bfloat16", "compile": "on"}]
    for kind in kinds[:-1] if bench.small else kinds:
        case = " ".join("compiled" if value == "on" else value for value in kind.values())
        try:
            apart = float((gradient(**kind) - plain).norm() / plain.norm())
        except ModelError as error:
            bench.say(f"gradient {case}", refused=str(error))
            continue
        most = 1e-5 if kind["compute"] == "stored" else 0.03
        bench.goal(f"gradient {case}: to float32", apart, most=most)


def _uncaptured(bench: Bench) -> None:
    """A step that cannot be captured is run as it is, and leaves torch's memory usable."""
    if not bench.cuda:
        return
    runner, count = GraphRunner(), torch.zeros((), device=bench.device)

    def step() -> None:
        if torch.cuda.is_current_stream_capturing():
            torch.cuda.current_stream().synchronize()
        count.add_(1)

    main = torch.cuda.current_stream()
    for _ in range(3):
        runner.run(step, key="a")
    same = torch.cuda.current_stream() == main
    runner.release()
    torch.cuda.empty_cache()
    bench.say("no capture", problem=runner.problem, steps=int(count), same_stream=same)


def _sampled(bench: Bench, model: Model) -> None:
    """Compare the log-probabilities of sampled tokens with a plain forward pass."""
    policy = model.policy
    generator = torch.Generator().manual_seed(4)
    prompts = [
        torch.randint(5, policy.vocab_size, (n,), generator=generator).tolist() for n in (5, 12, 9)
    ]
    seeds = [[10 * i + j for j in range(3)] for i in range(len(prompts))]
    params = SamplingParams(temperature=0.9, top_p=1.0, top_k=0, max_completion_tokens=24)
    sampler = HfSampler(policy, batch_size=16)
    groups = sampler.sample(prompts, seeds=seeds, params=params, observer=NOBODY)
    pairs = [(p, c) for p, group in zip(prompts, groups, strict=True) for c in group]
    rows = pad_rows([(p, list(c.token_ids)) for p, c in pairs], pad_id=0).to(bench.device)
    with torch.no_grad():
        own = policy.token_logprobs(rows, temperature=0.9)
    apart = {"policy": 0.0, "plain": 0.0}
    for i, (prompt, completion) in enumerate(pairs):
        sampled = torch.tensor(completion.sampling_logprobs)
        ids = torch.tensor([*prompt, *completion.token_ids], device=bench.device)[None]
        with torch.no_grad(), policy.computing():
            hidden = policy.model(ids, output_hidden_states=True).hidden_states[-1][0]
        logits = policy.head.logits(hidden[len(prompt) - 1 : -1]).double() / 0.9
        plain = logits.log_softmax(-1).gather(1, ids[0, len(prompt) :, None])[:, 0].cpu()
        count = len(sampled)
        apart["policy"] = max(apart["policy"], float((own[i, :count].cpu() - sampled).abs().max()))
        apart["plain"] = max(apart["plain"], float((plain - sampled).abs().max()))
    tokens = sum(len(c.token_ids) for _, c in pairs)
    name = model.settings.dtype
    bench.say(f"sampler {name}", tokens=tokens, to_policy=apart["policy"], to_plain=apart["plain"])
    if name == "float32":
        bench.goal("sampler: log-probability to a plain pass", apart["plain"], most=1e-3)
