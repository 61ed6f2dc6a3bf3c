"""TRL's step, as benchmarks/step.py compares it with ours."""

from __future__ import annotations

import tempfile

import torch
from step_methods import LORA, LR, Clock, rows_of, shake, smollm2, tokenizer
from torch import Tensor


class Trl:
    """TRL's trainer with its own optimiser, on batches that are already sampled and scored."""

    def __init__(
        self, case: str, folder: str | None, *, beta: float, size: int, checkpointing: bool
    ) -> None:
        from datasets import Dataset
        from peft import LoraConfig
        from trl import GRPOConfig, GRPOTrainer

        model = smollm2(folder)
        self.rows, self.advantages = rows_of(case, model.config.vocab_size)
        pieces = len(self.advantages) // size
        config = GRPOConfig(
            output_dir=tempfile.gettempdir(),
            loss_type="dapo",
            beta=beta,
            epsilon_high=0.28,
            learning_rate=LR,
            num_generations=4,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=pieces,
            max_completion_length=64,
            gradient_checkpointing=checkpointing,
            bf16=False,
            use_cpu=True,
            report_to="none",
        )
        lora = LoraConfig(
            r=LORA.rank,
            lora_alpha=int(LORA.alpha),
            lora_dropout=0.0,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        )
        self.trainer = GRPOTrainer(
            model=model,
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
            args=config,
            train_dataset=Dataset.from_dict({"prompt": ["1+1?"] * len(self.advantages)}),
            processing_class=tokenizer(),
            peft_config=lora,
        )
        # Trainer.train sets these before the first micro-batch.
        self.trainer.current_gradient_accumulation_steps = pieces
        if checkpointing:
            self.trainer.model.gradient_checkpointing_enable(
                gradient_checkpointing_kwargs=config.gradient_checkpointing_kwargs
            )
        shake(self.trainer.model)
        self.size, self.clock = size, Clock()
        self.optimizer = self.trainer.create_optimizer()
        self.optimizer.step = self.clock.timed("optimiser", self.optimizer.step)
        backbone = model.get_decoder()
        named = {
            on: self.clock.timed(name, backbone.forward)
            for on, name in ((True, "policy forward"), (False, "reference forward"))
        }
        backbone.forward = lambda *a, **k: named[torch.is_grad_enabled()](*a, **k)

    def step(self) -> float:
        """Take one step; return the gradient's norm."""
        trainer, model, rows = self.trainer, self.trainer.model.train(), self.rows
        columns = {
            "prompt_ids": rows.prompt_ids,
            "prompt_mask": rows.prompt_mask.long(),
            "completion_ids": rows.completion_ids,
            "completion_mask": rows.mask.long(),
            "advantages": self.advantages,
        }
        if trainer.beta:
            columns["ref_per_token_logps"] = self._reference_logprobs(columns)
        with self.clock.phase("token pass, loss"):
            for start in range(0, len(self.advantages), self.size):
                inputs = {k: v[start : start + self.size] for k, v in columns.items()}
                inputs["num_items_in_batch"] = rows.mask.sum()
                loss = trainer._compute_loss(model, inputs)
                with self.clock.phase("backward"):
                    loss.backward()
            trained = [p for p in model.parameters() if p.requires_grad]
            norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
        return float(norm)

    def _reference_logprobs(self, columns: dict[str, Tensor]) -> Tensor:
        """What the trainer does after sampling when beta is not zero."""
        from trl.models.utils import disable_gradient_checkpointing

        trainer = self.trainer
        keywords = trainer.args.gradient_checkpointing_kwargs
        with (
            self.clock.phase("token pass, loss"),
            torch.no_grad(),
            disable_gradient_checkpointing(trainer.model, keywords),
            trainer.model.disable_adapter(),
        ):
            found: torch.Tensor
            found, _, _ = trainer._get_per_token_logps_and_entropies(
                trainer.model,
                torch.cat([columns["prompt_ids"], columns["completion_ids"]], dim=1),
                torch.cat([columns["prompt_mask"], columns["completion_mask"]], dim=1),
                columns["completion_ids"].shape[1],
                batch_size=self.size,
            )
        return found
