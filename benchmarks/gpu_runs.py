"""Sections of gpu.py about whole runs: memory over time, resuming, sharing, learning."""

from __future__ import annotations

import gc
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from gpu_bench import DGPO, GIB, TINY, Bench, adamw_of

from dgpo_cli.config.load import resolve
from dgpo_cli.core.formats import TrainerState
from dgpo_cli.engine.checkpoint import load_trainer, rng_state, save_checkpoint, set_rng_state
from dgpo_cli.engine.learn import Learner
from dgpo_cli.engine.optimizers import Snapshot
from dgpo_cli.engine.setup import _let_segments_grow
from dgpo_cli.policy.policy import Policy

ROOT = Path(__file__).resolve().parents[1]
EXPANDABLE = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
SMOLLM2: dict[str, Any] = {
    "vocab_size": 49_152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "rope_theta": 100_000.0,
    "tie_word_embeddings": True,
    "max_position_embeddings": 8192,
}
_TAKE = """
import sys, torch
room = torch.empty(int(sys.argv[1]), dtype=torch.uint8, device=sys.argv[2])
room[::4096] = 1
print(int(room[::4096].sum()))
"""
_READ = """
import pickle, sys, torch
with open(sys.argv[1], "rb") as file:
    tensor = pickle.load(file)
print(float(tensor.double().sum()))
tensor.mul_(2)
if tensor.is_cuda:
    torch.cuda.synchronize()
"""


def memory(bench: Bench) -> None:
    """Updates of varied lengths, with and without segments that grow."""
    for growing in (False, True):
        bench.apart(_varied, growing)


def _varied(bench: Bench, growing: bool) -> None:
    """Ten updates of half the layers; what torch holds beyond what is in use; its release."""
    name = "segments that grow" if growing else "segments of fixed size"
    if growing:
        given = [f"model.device={bench.device}"]
        _let_segments_grow(resolve(preset="qwen7b-lora", overrides=given).settings)
    top, tokens, count = (60, 192, 3) if bench.small else (6000, 16_384, 10)
    model = bench.model("7B", layers=14)
    learner = Learner(model.policy, adamw_of(model.policy))
    generator = torch.Generator().manual_seed(3)
    peaks: list[tuple[float, float]] = []
    for _ in range(count):
        lengths = torch.randint(top // 8, top, (4,), generator=generator).tolist()
        sizes = [(16, int(n)) for n in lengths]
        rows, signs = bench.batch(model.policy, sizes)
        recipe = bench.recipe(sizes, rule=DGPO, tokens=tokens)
        learner.update(learner.measure(rows, signs, recipe=recipe), recipe=recipe)
        if bench.cuda:
            most = torch.cuda.max_memory_allocated() / GIB
            peaks.append((most, torch.cuda.max_memory_reserved() / GIB))
    if not bench.cuda:
        bench.say(name, updates=count)
        return
    grown = [segment.get("is_expandable", False) for segment in torch.cuda.memory_snapshot()]
    used, held = peaks[-1]
    bench.say(
        name,
        updates=count,
        grown=any(grown),
        allocated_gib=used,
        reserved_gib=held,
        reserved_first_gib=peaks[0][1],
    )
    bench.goal(f"{name}: reserved over allocated", held / used, most=1.1)
    _release(bench, name)


def _release(bench: Bench, name: str) -> None:
    """Give torch's cache back, and let another process take what a sampler would."""
    start = bench.settle()
    gc.collect()
    torch.cuda.empty_cache()
    used, held = torch.cuda.memory_allocated() / GIB, torch.cuda.memory_reserved() / GIB
    seconds = bench.settle() - start
    bench.say(f"{name}: released", seconds=seconds, allocated_gib=used, reserved_gib=held)
    command = [sys.executable, "-c", _TAKE, str(36 * GIB), str(bench.device)]
    got = subprocess.run(command, capture_output=True, text=True, check=False)
    why = got.stderr.strip().splitlines()[-1:]
    bench.say(f"{name}: 36 GiB in another process", taken=got.returncode == 0, why=why)


def resume(bench: Bench) -> None:
    """A run that is killed and resumed, beside one that is not; what is saved and restored."""
    _round_trip(bench)
    steps = 4 if bench.small else 20
    folder = bench.folder()
    every: dict[str, Any] = {"train.checkpoint_every": steps // 4}
    start = time.perf_counter()
    whole = _train(bench, folder / "whole", every, steps=steps)
    killed = _train(bench, folder / "killed", every, steps=steps)
    while killed.poll() is None and len(_metrics(folder / "killed")) < steps // 2 + 1:
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    at = len(_metrics(folder / "killed"))
    resumed = _train(bench, folder / "killed", every, steps=steps)
    _end(whole, folder / "whole")
    _end(resumed, folder / "killed")
    bench.say("killed and resumed", steps=steps, killed_after=at, s=time.perf_counter() - start)
    keys = ("reward/mean", "loss/value", "optim/grad_norm", "policy/hellinger_sq_mean")
    pairs = zip(_metrics(folder / "whole"), _metrics(folder / "killed"), strict=True)
    same = [all(a.get(k) == b.get(k) for k in keys) for a, b in pairs]
    bench.say("steps that are equal to the bit", equal=sum(same), of=steps)


def _round_trip(bench: Bench) -> None:
    """Snapshot, checkpoint and generators give back what they took, to the bit."""
    sizes = [(16, 48)] * 2 if bench.small else [(64, 300)] * 2
    model = bench.model("7B", layers=2)
    policy = model.policy
    optimizer = adamw_of(policy)
    learner = Learner(policy, optimizer)
    rows, signs = bench.batch(policy, sizes)
    recipe = bench.recipe(sizes, rule=DGPO, tokens=4096)
    snapshot = Snapshot(policy)
    snapshot.take()
    before = _weights(policy)
    learner.update(learner.measure(rows, signs, recipe=recipe), recipe=recipe)
    after = _weights(policy)
    snapshot.exchange()
    swapped = _weights(policy)
    snapshot.exchange()
    back = _weights(policy)
    bench.say(
        "snapshot",
        moved=not _equal(before, after),
        taken=_equal(before, swapped),
        given_back=_equal(after, back),
    )
    folder = bench.folder() / "checkpoint"
    state = TrainerState(
        step=1, policy_version=1, bad_streak=0, draws=1, prompts=2, data="0a", noise_floor=None
    )
    save_checkpoint(folder, policy=policy, optimizer=optimizer, state=state)
    loaded = bench.model("7B", layers=2, checkpoint=folder)
    own = adamw_of(loaded.policy)
    load_trainer(folder, optimizer=own)
    bench.say(
        "checkpoint",
        weights=_equal(after, _weights(loaded.policy)),
        moments=_equal(_moments(optimizer), _moments(own)),
    )
    kept = rng_state()
    first = torch.rand(8), torch.rand(8, device=bench.device)
    set_rng_state(kept)
    second = torch.rand(8), torch.rand(8, device=bench.device)
    bench.say("generators", same=_equal(list(first), list(second)))


def _weights(policy: Policy) -> list[torch.Tensor]:
    return [weight.detach().clone() for _, weight in policy.trainable()]


def _moments(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [own[key] for own in optimizer.state.values() for key in ("exp_avg", "exp_avg_sq")]


def _equal(these: list[torch.Tensor], those: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(these, those, strict=True))


def _train(
    bench: Bench, out: Path, given: dict[str, Any], *, steps: int, preset: str = "tiny"
) -> subprocess.Popen[bytes]:
    """Start a training run; what it says is kept beside its folder."""
    given = {"model.device": str(bench.device), "eval.every": 0} | given
    if bench.small:
        given = {"rollout.prompts_per_step": 2, "reward.workers": 1} | given
    command = [sys.executable, "-m", "dgpo_cli", "train", f"--preset={preset}", f"--out={out}"]
    command += [f"--steps={steps}", "--view=lines", "--resume=auto"]
    command += [f"--set={key}={value}" for key, value in given.items()]
    path = os.pathsep.join([str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    environment = os.environ | {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
    with out.with_suffix(".log").open("a") as said:
        return subprocess.Popen(command, env=environment, stdout=said, stderr=said)


def _end(process: subprocess.Popen[bytes], out: Path) -> None:
    if process.wait():
        raise RuntimeError(out.with_suffix(".log").read_text()[-1500:])


def _metrics(out: Path) -> list[dict[str, Any]]:
    """Return the steps that a run has finished."""
    try:
        text = (out / "metrics.jsonl").read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def ipc(bench: Bench) -> None:
    """Weights of this process, seen and changed by another one."""
    for environment in ({}, EXPANDABLE) if bench.cuda else ({},):
        bench.apart(_lent, bool(environment), environment=environment)


def _lent(bench: Bench, expandable: bool) -> None:
    from multiprocessing.reduction import ForkingPickler

    import torch.multiprocessing as sharing

    sharing.set_sharing_strategy("file_system")
    whole = torch.arange(4096, device=bench.device).float().bfloat16()
    part = whole[1024:2048]  # a handle is that of the whole block; the place in it goes along
    expected = float(part.double().sum())
    file = bench.folder() / "handle"
    file.write_bytes(bytes(ForkingPickler.dumps(part)))
    bench.settle()
    command = [sys.executable, "-c", _READ, str(file)]
    got = subprocess.run(command, capture_output=True, text=True, check=False)
    bench.say(
        "lent to another process" + (", segments that grow" if expandable else ""),
        read=got.returncode == 0 and float(got.stdout) == expected,
        changed=float(part.double().sum()) == 2 * expected,
        others_unchanged=float(whole[:1024].double().sum()) == float(sum(range(1024))),
        why=got.stderr.strip().splitlines()[-1:],
    )


def learn(bench: Bench) -> None:
    """The embedded model, which must learn."""
    out = bench.folder() / "tiny"
    _end(_train(bench, out, {}, steps=3 if bench.small else 100), out)
    rewards = [row["reward/mean"] for row in _metrics(out)]
    first, last = statistics.mean(rewards[:5]), statistics.mean(rewards[-5:])
    bench.say(f"tiny, reward of {len(rewards)} steps", first_five=first, last_five=last)
    bench.goal("tiny: reward gained", last - first, least=0.2)


def smollm2(bench: Bench) -> None:
    """A run of the preset smollm2-lora, with random weights: speed, and where the time goes."""
    folder = bench.folder()
    given: dict[str, Any] = {"model.path": str(folder / "model"), "credit.noise_every": 0}
    if bench.small:
        given["rollout.max_completion_tokens"] = 4
    _write_smollm2(bench, folder / "model")
    start, steps = time.perf_counter(), 2 if bench.small else 20
    out = folder / "run"
    _end(_train(bench, out, given, steps=steps, preset="smollm2-lora"), out)
    wall = time.perf_counter() - start
    late = _metrics(out)[steps // 2 :]
    times = {
        key: statistics.median(row.get(key, 0.0) for row in late)
        for key in late[-1]
        if key.startswith("time/")
    }
    rate = statistics.median(row["throughput/tokens_per_s"] for row in late)
    bench.say(f"smollm2-lora, {steps} steps", seconds=wall, tokens_per_s=rate, **times)


def _write_smollm2(bench: Bench, folder: Path) -> None:
    """Write random weights in SmolLM2's shapes, with the embedded model's tokenizer."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    shape = dict(SMOLLM2)
    if bench.small:
        shape |= {"num_hidden_layers": 2, "hidden_size": 72, "intermediate_size": 96}
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(str(TINY))
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    LlamaForCausalLM(LlamaConfig(**shape, **ends)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
