"""Section of gpu.py: the update of TRL's GRPOTrainer on the same rows, as fast as it can be set."""

from __future__ import annotations

import gc
import importlib.util
import tempfile
from contextlib import nullcontext
from typing import Any

import torch
from gpu_bench import RANK, TINY, WIDTHS, Bench, Skipped
from gpu_training import three_rows


def updates(bench: Bench) -> None:
    """Time TRL's update: with a reference and without, with Liger's kernels where installed."""
    for name in ("trl", "datasets"):
        if importlib.util.find_spec(name) is None:
            raise Skipped(f"{name} is not installed")
    liger = importlib.util.find_spec("liger_kernel") is not None and bench.cuda
    for kernels in (False, True) if liger else (False,):
        trainer, optimizer, columns = _trainer(bench, liger=kernels)
        for beta in (0.001,) if kernels else (0.001, 0.0):
            trainer.beta = beta
            bench.fresh()
            wall = 0.0
            for _ in range(2):
                start = bench.settle()
                _update(trainer, optimizer, columns, bench=bench)
                wall = bench.settle() - start
            ids = columns["prompt_ids"].numel() + columns["completion_ids"].numel()
            name = f"trl GRPO {'with' if beta else 'without'} a reference"
            bench.say(
                name + (", Liger" if kernels else ""),
                seconds=wall,
                tokens_per_s=ids / wall,
                peak_gib=bench.peak_gib(),
            )
        del trainer, optimizer, columns
        gc.collect()
    if not liger:
        bench.say("trl with Liger", skipped="liger-kernel is not installed, or no GPU")


def _trainer(bench: Bench, *, liger: bool) -> tuple[Any, Any, dict[str, Any]]:
    """Return TRL's trainer, its optimiser, and a batch that is sampled and scored."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM
    from trl import GRPOConfig, GRPOTrainer

    shape = WIDTHS["small" if bench.small else "7B"]
    sizes, _ = three_rows(bench)
    with torch.device(bench.device):
        config = Qwen2Config(**shape, max_position_embeddings=32_768, tie_word_embeddings=False)
        model: Any = Qwen2ForCausalLM._from_config(config, dtype=torch.bfloat16)
    count = len(sizes)
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=GRPOConfig(
            output_dir=tempfile.gettempdir(),
            loss_type="dapo",
            beta=0.001,
            num_generations=count,
            per_device_train_batch_size=1,
            gradient_accumulation_steps=count,
            max_completion_length=sizes[0][1],
            gradient_checkpointing=True,
            gradient_checkpointing_kwargs={"use_reentrant": False},
            bf16=bench.cuda,
            use_cpu=not bench.cuda,
            report_to="none",
            use_liger_kernel=liger,
        ),
        train_dataset=Dataset.from_dict({"prompt": ["1+1?"] * count}),
        processing_class=AutoTokenizer.from_pretrained(str(TINY)),
        peft_config=LoraConfig(
            r=RANK, lora_alpha=RANK, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
    )
    if liger:  # Trainer.train would do it
        from transformers.integrations.liger import apply_liger_kernel

        apply_liger_kernel(trainer.model, trainer.args.liger_kernel_config)
    trainer.current_gradient_accumulation_steps = count
    trainer.model.gradient_checkpointing_enable({"use_reentrant": False})
    trainer.model.enable_input_require_grads()
    draw = torch.Generator().manual_seed(1)
    prompt, whole = sizes[0][0], sum(sizes[0])
    ids = torch.randint(5, shape["vocab_size"], (count, whole), generator=draw).to(bench.device)
    columns = {
        "prompt_ids": ids[:, :prompt],
        "prompt_mask": torch.ones_like(ids[:, :prompt]),
        "completion_ids": ids[:, prompt:],
        "completion_mask": torch.ones_like(ids[:, prompt:]),
        "advantages": torch.tensor([(-1.0) ** i for i in range(count)], device=bench.device),
    }
    return trainer, trainer.create_optimizer(), columns


def _update(trainer: Any, optimizer: Any, columns: dict[str, Any], *, bench: Bench) -> None:
    """What TRL does with a batch that is sampled and scored: the reference, loss and step."""
    from trl.models.utils import disable_gradient_checkpointing

    model = trainer.model.train()
    cast = torch.autocast(bench.device.type, torch.bfloat16) if bench.cuda else nullcontext()
    columns = dict(columns)
    if trainer.beta:
        keywords = trainer.args.gradient_checkpointing_kwargs
        ids = torch.cat([columns["prompt_ids"], columns["completion_ids"]], dim=1)
        with (
            torch.no_grad(),
            cast,
            disable_gradient_checkpointing(model, keywords),
            model.disable_adapter(),
        ):
            found = trainer._get_per_token_logps_and_entropies(
                model, ids, torch.ones_like(ids), columns["completion_ids"].shape[1], batch_size=1
            )
        columns["ref_per_token_logps"] = found[0]
    for row in range(len(columns["advantages"])):
        inputs = {k: v[row : row + 1] for k, v in columns.items()}
        inputs["num_items_in_batch"] = columns["completion_mask"].sum()
        with cast:
            loss = trainer._compute_loss(model, inputs)
        loss.backward()
    torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
    optimizer.step()
    optimizer.zero_grad()
