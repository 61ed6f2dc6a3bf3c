"""What the sections of gpu.py share: the device, models with random weights, an update."""

from __future__ import annotations

import dataclasses
import functools
import gc
import importlib.metadata
import json
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from dgpo_cli.algo.credit import CreditRule, DgpoCredit, UniformCredit
from dgpo_cli.algo.losses import ClipLoss
from dgpo_cli.config.load import resolve
from dgpo_cli.core.resources import resource_dir
from dgpo_cli.engine.learn import Learner
from dgpo_cli.engine.optimizers import build_adamw
from dgpo_cli.engine.piece import Recipe
from dgpo_cli.planning.devices import named
from dgpo_cli.planning.memory import memory_of
from dgpo_cli.planning.plan import Typical, job_of
from dgpo_cli.policy import load
from dgpo_cli.policy.batching import Rows, pad_rows
from dgpo_cli.policy.load_policy import load_policy
from dgpo_cli.policy.load_sharded import Spread
from dgpo_cli.policy.policy import Policy
from dgpo_cli.policy.settings import LoraAdapter, ModelSettings, NoAdapter
from dgpo_cli.policy.shape import shape_of

GIB = 2**30
TINY = resource_dir("data") / "tiny"
PEAK = 989e12  # dense bfloat16 of an H100 or H200 SXM, operations a second
RANK = 64
WIDTHS: dict[str, dict[str, Any]] = {
    "7B": {
        "vocab_size": 152_064,
        "hidden_size": 3584,
        "intermediate_size": 18_944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
    },
    "32B": {
        "vocab_size": 152_064,
        "hidden_size": 5120,
        "intermediate_size": 27_648,
        "num_hidden_layers": 64,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
    },
    "small": {
        "vocab_size": 2048,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
}
DGPO, UNIFORM = DgpoCredit(), UniformCredit()
Size = tuple[int, int]  # tokens of a prompt and of its completion


class Skipped(Exception):
    """A section cannot run here; the message says why."""


@dataclass(frozen=True, slots=True)
class Update:
    """An update that was measured: of how many tokens, its seconds and peaks in GiB."""

    tokens: int
    seconds: float
    mfu: float
    hfu: float
    peak_gib: float
    device_gib: float


@dataclass(frozen=True, slots=True)
class Model:
    """A policy with random weights, and the settings that it was loaded by."""

    policy: Policy
    settings: ModelSettings
    adapter: LoraAdapter | NoAdapter

    @property
    def lora(self) -> bool:
        return isinstance(self.adapter, LoraAdapter)

    @property
    def recomputes(self) -> bool:
        return self.settings.gradient_checkpointing != "none"

    @property
    def weights(self) -> int:
        """How many weights multiply every token: the adapter and the embedding left out."""
        named = self.policy.model.named_parameters()
        return sum(p.numel() for n, p in named if "lora_" not in n and "embed_tokens" not in n)

    def planned(self, sizes: Sequence[Size], *, tokens: int) -> int:
        """Return the peak of an update by `dgpo plan`, the sampler left out, in bytes."""
        adapter = {k: v for k, v in self.adapter.model_dump().items() if k in ("kind", "rank")}
        given = {f"model.{k}": v for k, v in self.settings.model_dump(exclude_none=True).items()}
        given |= {f"adapter.{k}": v for k, v in adapter.items()}
        given |= {
            "rollout.backend.kind": "vllm-server",  # elsewhere
            "prompts.max_prompt_tokens": max(p for p, _ in sizes),
            "rollout.max_completion_tokens": max(c for _, c in sizes),
        }
        texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in given.items()}
        overrides = [f"{k}={v}" for k, v in texts.items()]
        settings = resolve(preset="qwen7b-lora", overrides=overrides).settings
        config = json.loads((Path(self.settings.path) / "config.json").read_text())
        device = named("h100")
        job = job_of(
            settings,
            shape=shape_of(config, name="benchmark"),
            typical=Typical(),
            device=device,
        )
        rows = len(sizes)
        job = dataclasses.replace(
            job, prompts=rows, group_size=1, updates=1, micro_rows=rows, micro_tokens=tokens
        )
        return memory_of(job, device).during("training")


class Bench:
    """The device, the sizes, and where rows go."""

    def __init__(self, device: str, *, small: bool, pipe: Any, method: str) -> None:
        self.device, self.small = torch.device(device), small
        self.cuda = self.device.type == "cuda"
        self._pipe, self._method = pipe, method
        self._folders = ExitStack()
        if small and not self.cuda:  # layers are traced and wrapped, without a compiler's minutes
            traced = functools.partial(torch.compile, backend="eager")
            mock.patch.object(torch, "compile", traced).start()

    def say(self, case: str, **values: Any) -> None:
        """Send a row."""
        self._pipe.send(("row", {"case": case, **values}))

    def goal(
        self, case: str, value: float, *, least: float | None = None, most: float | None = None
    ) -> None:
        """Send a figure beside its goal, which tiny shapes on a CPU are not judged by."""
        reached = (least is None or value >= least) and (most is None or value <= most)
        bounds = {"at least": least, "at most": most}
        words = " and ".join(f"{k} {v:g}" for k, v in bounds.items() if v is not None)
        judged = self.cuda and not self.small
        self.say(case, value=value, goal=words, reached=reached if judged else None)

    def apart(
        self,
        function: Callable[..., None],
        *arguments: Any,
        environment: dict[str, str] | None = None,
    ) -> None:
        """Call function(self, *arguments) in a process of its own, before the device is woken.

        Raises:
            RuntimeError: it failed.
        """
        assert not torch.cuda.is_initialized()
        context: Any = multiprocessing.get_context(self._method)
        process = context.Process(
            target=_apart, args=(self, function, arguments, environment or {})
        )
        process.start()
        process.join()
        if process.exitcode:
            raise RuntimeError(f"{function.__name__} ended with {process.exitcode}")

    def folder(self) -> Path:
        """Return a new folder, which goes with this process."""
        return Path(self._folders.enter_context(tempfile.TemporaryDirectory()))

    def wait(self) -> None:
        """Wait for the device."""
        if self.cuda:
            torch.cuda.synchronize()

    def settle(self) -> float:
        """Wait for the device and return the time."""
        self.wait()
        return time.perf_counter()

    def seconds(self, call: Callable[[], object], *, rounds: int = 3) -> float:
        """Return the median time of a call, after one to warm up."""
        call()
        times = []
        for _ in range(rounds):
            start = self.settle()
            call()
            times.append(self.settle() - start)
        return sorted(times)[rounds // 2]

    def fresh(self) -> None:
        """Give back what is not in use and forget the peak."""
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak_gib(self) -> float:
        return torch.cuda.max_memory_reserved() / GIB if self.cuda else 0.0

    def outside_gib(self) -> float:
        """What the device holds besides torch's memory: context, kernels, workspaces."""
        if not self.cuda:
            return 0.0
        free, total = torch.cuda.mem_get_info()
        return (total - free - torch.cuda.memory_reserved()) / GIB

    def model(
        self,
        shape: str,
        *,
        layers: int | None = None,
        lora: bool = True,
        apart: float = 1e-3,
        spread: Spread | None = None,
        checkpoint: Path | None = None,
        **settings: Any,
    ) -> Model:
        """Load a policy as a run does, but with random weights.

        Args:
            layers: of the shape; None: all.
            apart: how far the adapter is off its base.
            spread: how the weights are sharded.
            checkpoint: of the adapter.
            settings: of the model, besides bfloat16 products and full checkpointing.
        """
        self.fresh()  # wrapped layers refer to themselves: an earlier model is not gone by itself
        folder = self.folder()
        write_model(folder, {**WIDTHS["small" if self.small else shape]}, layers=layers)
        own: dict[str, Any] = {
            "path": str(folder),
            "device": str(self.device),
            "dtype": "bfloat16" if lora else "float32",
            "compute": "bfloat16",
            "compile": "off",
            "gradient_checkpointing": "full",
        }
        chosen = ModelSettings.model_validate(own | settings)
        adapter = LoraAdapter(rank=RANK, alpha=float(RANK)) if lora else NoAdapter()
        with mock.patch.object(load, "from_pretrained", random_weights):
            policy = load_policy(
                chosen,
                adapter=adapter,
                seed=0,
                with_reference=True,
                spread=spread,
                checkpoint=checkpoint,
            )
        for name, parameter in policy.model.named_parameters():
            if lora and apart and checkpoint is None and "lora_B" in name:
                parameter.data.normal_(std=apart)
        return Model(policy, chosen, adapter)

    def batch(self, policy: Policy, sizes: Sequence[Size]) -> tuple[Rows, torch.Tensor]:
        """Return rows of random tokens and advantages of either sign."""
        generator = torch.Generator().manual_seed(1)

        def draw(count: int) -> list[int]:
            return torch.randint(policy.vocab_size, (count,), generator=generator).tolist()

        rows = pad_rows([(draw(p), draw(c)) for p, c in sizes], pad_id=0)
        signs = torch.tensor([(-1.0) ** i for i in range(len(sizes))])
        return rows, signs

    def recipe(
        self, sizes: Sequence[Size], *, rule: CreditRule, tokens: int, updates: int = 1
    ) -> Recipe:
        return Recipe(
            rule=rule,
            loss=ClipLoss(),
            temperature=1.0,
            max_completion_tokens=32_768,
            group_size=len(sizes) // updates,
            micro_batch_size=4096,
            micro_batch_tokens=tokens,
            updates=updates,
            max_grad_norm=1.0,
        )

    def update(
        self,
        case: str,
        model: Model,
        sizes: Sequence[Size],
        *,
        tokens: int,
        rule: CreditRule = DGPO,
        updates: int = 1,
        rounds: int = 2,
    ) -> Update:
        """Time the last of some rounds of measuring and updating, the first update fused with its
        measuring pass; send a row."""
        self.fresh()
        policy = model.policy
        learner = Learner(policy, adamw_of(policy))
        rows, signs = self.batch(policy, sizes)
        recipe = self.recipe(sizes, rule=rule, tokens=tokens, updates=updates)
        wall = 0.0
        for _ in range(rounds):
            start = self.settle()
            batch = learner.measure(rows, signs, recipe=recipe)
            learner.update(batch, recipe=recipe)
            wall = self.settle() - start
        count = sum(map(sum, sizes))
        # Forward twice, backward (twice in full training), and what later updates measure first.
        passes = 2.0 + (0 if model.lora else 1) + (updates - 1) / updates
        passes += 1 if rule.needs_reference else 0
        scale = 2 * count * model.weights / wall / PEAK
        found = Update(
            tokens=count,
            seconds=wall,
            mfu=passes * scale,
            hfu=(passes + model.recomputes) * scale,
            peak_gib=self.peak_gib(),
            device_gib=self.peak_gib() + self.outside_gib(),
        )
        self.say(
            case,
            seconds=wall,
            tokens_per_s=count / wall,
            mfu=found.mfu,
            hfu=found.hfu,
            peak_gib=found.peak_gib,
            d=float(batch.stats.hellinger_sq[batch.mask].mean()),
            logprob=float(batch.stats.old_logprobs[batch.mask].mean()),
        )
        return found


def adamw_of(policy: Policy) -> torch.optim.AdamW:
    return build_adamw(policy, lr=1e-6, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)


def write_model(folder: Path, shape: dict[str, Any], *, layers: int | None = None) -> None:
    """Write the configuration of a Qwen2 of this shape, and the embedded model's tokenizer."""
    from transformers import Qwen2Config

    if layers is not None:
        shape["num_hidden_layers"] = min(layers, shape["num_hidden_layers"])
    config = Qwen2Config(
        **shape,
        max_position_embeddings=32_768,
        tie_word_embeddings=False,
        architectures=["Qwen2ForCausalLM"],
    )
    config.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(TINY / name, folder / name)


def random_weights(
    settings: ModelSettings, *, location: str, folder: Path | None = None, **more: Any
) -> Any:
    """Stand for load.from_pretrained: draw the weights on the device."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    device = more.get("device_map") or load.pick_device(settings.device)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(
            AutoConfig.from_pretrained(location), dtype=getattr(torch, settings.dtype)
        )


def forked_too_late(device: str) -> bool:
    """Whether this process is a copy of one that had woken CUDA, and cannot use it."""
    return device.startswith("cuda") and torch.cuda._is_in_bad_fork()


def machine(bench: Bench) -> None:
    """Say what this runs on."""
    packages = ("torch", "transformers", "peft", "trl", "triton", "liger-kernel")
    versions = {}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "none"
    card: dict[str, Any] = {"card": "none", "cpus": os.cpu_count()}
    if bench.cuda:
        own = torch.cuda.get_device_properties(0)
        card |= {"card": own.name, "gib": own.total_memory / GIB, "cuda": torch.version.cuda}
    bench.say("machine", **card, **versions)


def _apart(
    bench: Bench,
    function: Callable[..., None],
    arguments: tuple[Any, ...],
    environment: dict[str, str],
) -> None:
    os.environ.update(environment)
    function(bench, *arguments)
