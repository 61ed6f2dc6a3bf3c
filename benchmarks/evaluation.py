"""What `dgpo eval` costs beside the model, and how much of it is the model.

    python benchmarks/evaluation.py [--problems 30] [--k 32] [--tokens 8000] [--profile]
    python benchmarks/evaluation.py --memory DIR [--server URL]

First with a sampler that answers at once: CPU seconds of this process and its workers to judge,
store and report problems x k completions, with and without the second opinion, to judge the
stored ones again, and to write them twice on one page (`dgpo view`), with the page's size. Then
`dgpo eval --bench sums --k 32` with the embedded model: the share of the evaluation that is spent
in the model's forward passes, and the calls with the largest own time.

With --memory nothing of this: the peak memory of dgpo's own process when vLLM samples from the
model in a folder. It is an engine that dgpo starts, where vLLM is installed, or a server of `dgpo
serve --model DIR`, to which the weights are sent.
"""

from __future__ import annotations

import argparse
import cProfile
import io
import json
import pstats
import random
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from dgpo_cli.config.load import Resolved, resolve
from dgpo_cli.core.events import NOBODY, Observer
from dgpo_cli.core.types import Completion
from dgpo_cli.engine import setup
from dgpo_cli.evals import evaluate, regrade
from dgpo_cli.evals.page import stored
from dgpo_cli.evals.page.page import view_page
from dgpo_cli.evals.request import EvalRequest
from dgpo_cli.policy.policy import Policy
from dgpo_cli.samplers.base import SamplingParams

ENDINGS = (
    r"so the answer is \boxed{%d}.",
    r"and therefore $x = %d$. Answer: %d",
    r"</think> We get $\boxed{\text{%d}}$",
    r"which is \boxed{\dfrac{%d}{7}}",
    "and now I have lost the thread (%d)",
)


class InstantSampler:
    """Gives completions that were made before the clock started."""

    def __init__(self, ready: Sequence[Completion]) -> None:
        self._ready = iter(ready)

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        seeds: Sequence[Sequence[int]],
        params: SamplingParams,
        observer: Observer,
    ) -> list[tuple[Completion, ...]]:
        return [tuple(next(self._ready) for _ in own) for own in seeds]

    def sync(self, *, policy_version: int) -> None:
        """There are no weights."""


def completions(count: int, *, tokens: int) -> list[Completion]:
    """Make completions of formulas and words, about four characters a token."""
    rng = random.Random(0)
    words = ("so", "we", "have", "$x^2+3y$", "thus", r"\frac{a}{b}", "the", "angle", "(17,", "4)")
    made = []
    for number in range(count):
        body = " ".join(rng.choices(words, k=tokens * 4 // 6))
        ending = ENDINGS[min(number % 10, len(ENDINGS) - 1) if number % 10 > 5 else 0]
        value = rng.randrange(1000)
        text = f"<think>\n{body}\n" + ending % ((value,) * ending.count("%d"))
        ids = tuple(rng.randrange(150_000) for _ in range(tokens))
        made.append(Completion(ids, (), text, "stop", 0, number))
    return made


@contextmanager
def sampler(make: Callable[..., Any]) -> Iterator[None]:
    """Put another sampler in the place of the settings' one."""
    names = vars(setup)
    before, names["make_sampler"] = names["make_sampler"], make
    try:
        yield
    finally:
        names["make_sampler"] = before


def cpu_seconds() -> float:
    """Return the CPU time of this process and of the workers that have ended."""
    uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in uses)


def problems_file(folder: Path, *, count: int) -> Path:
    path = folder / "problems.jsonl"
    rows = [{"id": str(i), "problem": f"{i}?", "answer": str(i * 31 % 1000)} for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(resolved: Resolved, out: Path, bench: str, k: int, *, second: bool) -> None:
    request = EvalRequest(bench=bench, k=k, name="x", out=out, second_opinion=second)
    evaluate.run(
        resolved,
        request=request,
        observer=NOBODY,
    )


def bookkeeping(folder: Path, *, problems: int, k: int, tokens: int) -> None:
    """Print what judging, storing, reporting and judging again cost."""
    bench = str(problems_file(folder, count=problems))
    resolved = resolve(
        preset="tiny", overrides=["reward.workers=1", "reward.extract=boxed-or-answer-line"]
    )
    figures = {}
    for name, second in (("warm-up", False), ("without", False), ("with", True)):
        count = 1 if name == "warm-up" else k
        made = completions(problems * count, tokens=tokens)
        with sampler(lambda settings, made=made, **_: InstantSampler(made)):
            start = cpu_seconds()
            run(resolved, folder / name, bench, count, second=second)
        figures[name] = cpu_seconds() - start
    again = cpu_seconds()
    regrade.run(folder / "without", observer=NOBODY)
    again = cpu_seconds() - again
    shown = cpu_seconds()
    page = view_page(stored.run([folder / "without", folder / "with"], observer=NOBODY))
    shown = cpu_seconds() - shown
    size = (folder / "without" / "samples.jsonl").stat().st_size
    what = f"{problems} x {k} samples of {tokens} tokens ({size / 2**20:.0f} MiB)"
    print(f"{what}, CPU seconds:")
    print(f"  judge, store, report                       {figures['without']:6.2f}")
    print(f"  the same with the second opinion           {figures['with']:6.2f}")
    print(f"  regrade                                    {again:6.2f}")
    print(f"  view, twice on one page of {len(page) / 2**20:5.1f} MiB       {shown:6.2f}")


def forward_share(folder: Path, *, profile: bool) -> None:
    """Print how much of an evaluation of the embedded model is the model."""
    resolved = resolve(preset="tiny")
    spent = {"forward": 0.0}
    plain = Policy.next_logits

    def timed(self: Policy, *args: Any, **named: Any) -> Any:
        start = time.process_time()
        try:
            return plain(self, *args, **named)
        finally:
            spent["forward"] += time.process_time() - start

    parts: dict[str, list[float]] = {"whole": [], "forward": []}
    begin = evaluate.fill

    def fill(*args: Any, **named: Any) -> Any:
        parts["whole"].append(time.process_time())
        return begin(*args, **named)

    Policy.next_logits, evaluate.fill = timed, fill  # type: ignore[method-assign]
    profiler = cProfile.Profile()
    for number in range(4):
        spent["forward"] = 0.0
        run(resolved, folder / f"sums-{number}", "sums", 32, second=True)
        parts["whole"][-1] = time.process_time() - parts["whole"][-1]
        parts["forward"].append(spent["forward"])
    Policy.next_logits = plain  # type: ignore[method-assign]
    shares = [f / w for f, w in zip(parts["forward"][1:], parts["whole"][1:], strict=True)]
    print("\ndgpo eval --bench sums --k 32 with the embedded model, CPU time from the first prompt")
    print("to the report:")
    for whole, forward in zip(parts["whole"][1:], parts["forward"][1:], strict=True):
        print(f"  {whole:5.2f} s, in forward passes {forward:5.2f} s = {forward / whole:.1%}")
    print(f"  median share {sorted(shares)[len(shares) // 2]:.1%}")
    if profile:
        profiler.runcall(run, resolved, folder / "sums-profile", "sums", 32, second=True)
        text = io.StringIO()
        pstats.Stats(profiler, stream=text).sort_stats("tottime").print_stats(25)
        print(text.getvalue())


def memory(model: Path, folder: Path, *, server: str | None) -> None:
    """Print the peak memory of this process in an evaluation of eight samples by vLLM."""
    backend = [
        *("rollout.backend.kind=vllm", "rollout.backend.cache_gib=0.5"),
        "rollout.backend.enforce_eager=true",
    ]
    if server is not None:
        backend = ["rollout.backend.kind=vllm-server", f'rollout.backend.urls=["{server}"]']
    resolved = resolve(
        overrides=[
            *(f"model.path={model}", "model.device=cpu", "reward.workers=1", *backend),
            *("rollout.max_completion_tokens=16", "prompts.max_prompt_tokens=200"),
        ]
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run(resolved, folder / "memory", str(problems_file(folder, count=8)), 1, second=False)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    files = sum(file.stat().st_size for file in model.glob("*.safetensors"))
    print(f"weights in files        {files / 2**20:8,.0f} MiB")
    print(f"dgpo before the model   {before / 2**10:8,.0f} MiB")
    print(f"dgpo, peak              {peak / 2**10:8,.0f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=30)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=8000)
    parser.add_argument("--profile", action="store_true", help="also show where the time goes")
    parser.add_argument("--memory", type=Path, metavar="DIR", help="a model for vLLM to load")
    parser.add_argument("--server", metavar="URL", help="a server of that model")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        if args.memory is not None:
            memory(args.memory, Path(name), server=args.server)
            return
        bookkeeping(Path(name), problems=args.problems, k=args.k, tokens=args.tokens)
        forward_share(Path(name), profile=args.profile)


if __name__ == "__main__":
    main()
