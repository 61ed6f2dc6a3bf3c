r"""Hostile answers, and a process that has them judged: `python -m tests.rewards.hostile math 1`.

It prints what came out, how long each took at most, the most memory that any worker ever had and
which processes are left. In a process of its own, so that the numbers are of nothing else.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

from dgpo_cli.rewards.protocol import Check, Task
from dgpo_cli.rewards.workers.pool import WorkerPool

MATRIX = r"\begin{pmatrix}" + r"\\".join("&".join("7" * 60) for _ in range(60)) + r"\end{pmatrix}"
ANSWERS = {
    "tower of powers": "9^{9^{9^{9}}}",
    "tower without braces": "9^9^9^9^9",
    "tall tower of powers": "2^{" * 2_000 + "2" + "}" * 2_000,
    "power of a power": "(10^{10})^{10^{10}}",
    "factorial": "(10^{12})!",
    "factorials": "9" + "!" * 20,
    "binomial": r"\binom{10000000}{5000000}",
    "sum of 20,000 terms": "+".join(["1"] * 20_000),
    "sum of 20,000 variables": "+".join(f"x_{{{i}}}" for i in range(20_000)),
    "sum to a trillion": r"\sum_{i=1}^{10^{12}} \frac{1}{i}",
    "product to a million": r"\prod_{i=1}^{1000000} i",
    "3,000 nested brackets": "(" * 3_000 + "1" + ")" * 3_000,
    "3,000 nested braces": "{" * 3_000 + "1" + "}" * 3_000,
    "3,000 nested square brackets": "[" * 3_000 + "1" + "]" * 3_000,
    "600 nested brackets": "(" * 600 + "1" + ")" * 600,
    "nested fractions": r"\frac{" * 300 + "1" + "}{2}" * 300,
    "nested roots": r"\sqrt{" * 500 + "2" + "}" * 500,
    "60x60 matrix": MATRIX,
    "60x60 determinant": rf"\det{MATRIX}",
    "power of a 60x60 matrix": rf"{MATRIX}^{{1000}}",
    "expansion": "(x+y+z)^{500}",
    "4,000 digits": "7" * 4_000,
    "1,000 digits to the 1,000": "7" * 1_000 + "^{1000}",
    "set of 2,000": r"\{" + ",".join(map(str, range(2_000))) + r"\}",
    "integral": r"\int_0^1 x^{x^{x^{x}}} dx",
}
MEGABYTES = 2_000_000
FILLERS = {
    "2 MB of a tower": "9^{",
    "2 MB of factorials": "!",
    "2 MB of a sum": "1+",
    "2 MB of brackets": "(",
    "2 MB of braces": "{",
    "2 MB of boxes": r"\boxed{",
    "2 MB of closed boxes": r"\boxed{1}",
    "2 MB of empty boxes": r"\boxed{ }",
    "2 MB of bare boxes": r"\boxed 1",
    "2 MB of boxes offered together": r"\boxed{1} or ",
    "2 MB of backslashes": "\\",
    "2 MB of matrix": r"1&1\\",
    "2 MB of digits": "7",
    "2 MB of spaces": " ",
    "2 MB of less-than signs": "<",
    "2 MB of thinking": "<think>",
    "2 MB of thinking ended": "</think>",
    "2 MB of the word box": "box",
    "2 MB of answer lines": "Answer: ",
    "2 MB of the word answer": "answer ",
    "2 MB of ordinals": "1^{th",
    "2 MB of units": r"\text{ cm}",
}
PROBE: Task = ("5", r"so \boxed{5}", "stop")
BOTH = {"where": "boxed-or-answer-line"}
CHECKS = {
    "integer": Check("dgpo_cli.rewards.answer:check_integer", BOTH),
    "math": Check("dgpo_cli.rewards.math:check_math", BOTH),
    "second": Check("dgpo_cli.rewards.second_opinion:judge"),
    "memory": Check("tests.rewards.checks:misbehave"),
}


def filled() -> dict[str, str]:
    return {name: filler * (MEGABYTES // len(filler)) for name, filler in FILLERS.items()}


def tasks_of(kind: str) -> tuple[dict[str, Task], Task]:
    """The hostile tasks of a checker by name, and one whose answer is right."""
    if kind == "memory":
        return {"allocations without end": ("creep", "", "stop")}, ("", "5", "stop")
    if kind == "second":  # which is sent pieces of at most some thousand characters
        return {
            f"{name}, {form}": ("204", f"{form}\n{text[:4096]}", "stop")
            for name, text in ANSWERS.items()
            for form in ("line", "ending")
        }, ("5", "box\n5", "stop")
    texts = {name: rf"\boxed{{{answer}}}" for name, answer in {**ANSWERS, **filled()}.items()}
    texts |= {f"{name}, bare": text for name, text in filled().items()}
    return {name: ("204", text, "stop") for name, text in texts.items()}, PROBE


def main(kind: str, timeout_s: float) -> None:
    tasks, probe = tasks_of(kind)
    seconds: dict[str, float] = {}
    outcomes: dict[str, str] = {}
    probes: set[str] = set()
    with WorkerPool(CHECKS[kind], workers=2, timeout_s=timeout_s) as pool:
        for name, task in tasks.items():
            while len(pool.pids) < 2 or not all(worker.ready for worker in pool._workers):
                pool.run([probe, probe])  # until both have imported what they need
            began = time.monotonic()
            (outcome, _), (other, _) = pool.run([task, probe])
            seconds[name] = time.monotonic() - began
            outcomes[name] = outcome
            probes.add(other)
    children = Path(f"/proc/self/task/{Path('/proc/thread-self').readlink().name}/children")
    result = {
        "outcomes": outcomes,
        "probes": sorted(probes),
        "slowest": max(seconds, key=lambda name: seconds[name]),
        "slowest_s": max(seconds.values()),
        "rss_kib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss,
        "left": children.read_text().split(),
    }
    sys.stdout.write(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
