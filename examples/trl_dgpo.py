"""DGPO in TRL: its GRPOTrainer with the advantage of a completion spread over its tokens.

    python examples/trl_dgpo.py

trains the embedded model for two steps on a CPU. `DgpoTrainer` is all that another script needs:
it takes what GRPOTrainer takes, and a credit rule.
"""

# --8<-- [start:trainer]
import copy
from typing import Any

from trl import GRPOConfig, GRPOTrainer

from dgpo_cli import CreditMeter, CreditRule, DgpoCredit


class DgpoTrainer(GRPOTrainer):
    """GRPOTrainer whose advantages are those of tokens: A w in place of A.

    The weights are those of the policy that sampled; they stay for all `num_iterations`. The
    reference is the initial policy: TRL's own where `beta` has one, the base model of an adapter,
    else a copy, which takes the memory of the model once more.
    """

    def __init__(self, *args: Any, rule: CreditRule | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        rule = rule or DgpoCredit()
        model = self.accelerator.unwrap_model(self.model)
        reference = None
        if rule.needs_reference and not hasattr(model, "peft_config"):
            own = self.ref_model and self.accelerator.unwrap_model(self.ref_model)
            reference = own or copy.deepcopy(model).requires_grad_(False).eval()
        self.meter = CreditMeter(
            model,
            reference=reference,
            tokenizer=self.processing_class,
            rule=rule,
            temperature=self.temperature,
            micro_batch_size=self.args.per_device_train_batch_size,
        )

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
        names = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "advantages")
        weights = self.meter.weights(**{name: batch[name] for name in names})
        batch["advantages"] = batch["advantages"].unsqueeze(1) * weights
        return batch


# --8<-- [end:trainer]


def main() -> None:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from dgpo_cli.core.resources import resource_dir

    folder = resource_dir("data") / "tiny"
    problems = [(f"{a}+{b}?", str(a + b)) for a, b in ((12, 7), (30, 5), (8, 41), (19, 22))]

    def right(completions: Any, answer: list[str], **_: Any) -> list[float]:
        texts = [completion[0]["content"] for completion in completions]
        return [float(f"{{{gold}}}" in text) for text, gold in zip(texts, answer, strict=True)]

    trainer = DgpoTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder),
        processing_class=AutoTokenizer.from_pretrained(folder),
        reward_funcs=right,
        rule=DgpoCredit(tau=0.05),
        train_dataset=Dataset.from_dict(
            {
                "prompt": [[{"role": "user", "content": text}] for text, _ in problems],
                "answer": [gold for _, gold in problems],
            }
        ),
        args=GRPOConfig(
            output_dir="runs/trl",
            max_steps=2,
            learning_rate=1e-4,
            per_device_train_batch_size=16,
            num_generations=8,
            max_completion_length=32,
            temperature=1.0,
            use_cpu=True,
            bf16=False,
            report_to="none",
            save_strategy="no",
            logging_steps=1,
        ),
    )
    trainer.train()


if __name__ == "__main__":
    main()
