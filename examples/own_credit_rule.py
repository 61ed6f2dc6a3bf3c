"""A credit rule and a loss of one's own, and two training steps with them.

    dgpo train --preset tiny --set credit.rule=examples/own_credit_rule.py:Surprise

Run as a script, it trains the model that ships with dgpo: no GPU, no network, a few seconds.
"""

# --8<-- [start:rule]
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from dgpo_cli import CreditRule, Loss, TokenStats


class Surprise(CreditRule):
    """More credit where the policy was surprised by the token that it sampled."""

    needs_reference: ClassVar[bool] = False  # True: stats.hellinger_sq is measured too

    power: float = Field(1.0, ge=0, description="Power of the surprise; 0 is GRPO.")

    def token_scores(self, stats: TokenStats, mask: Tensor, *, vocab_size: int) -> Tensor:
        """Return a score of at least 0 for every token, [B, T]; weights are T s / sum s."""
        return (-stats.old_logprobs).clamp(min=0.01) ** self.power


# --8<-- [end:rule]


# --8<-- [start:loss]
class Unclipped(Loss):
    """-rho A: REINFORCE with importance weights, capped."""

    cap: float = Field(5.0, gt=1, description="A larger ratio has no gradient.")

    def token_losses(
        self,
        logprobs: Tensor,  # [B, T], with gradient
        *,
        old_logprobs: Tensor,
        token_advantages: Tensor,  # the completion's advantage times the token's weight
        mask: Tensor,  # bool: the tokens that the policy wrote
        reference_logprobs: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss of every token, its ratio, and whether a bound holds it back."""
        ratio = (logprobs - old_logprobs).exp()
        losses = -ratio.clamp(max=self.cap) * token_advantages
        ratio = ratio.detach()
        return losses, ratio, ratio > self.cap


# --8<-- [end:loss]


def main() -> None:
    # --8<-- [start:run]
    from dgpo_cli import Message, Prompt, load_settings, training_engine

    settings = load_settings(
        overrides={
            "credit.rule": f"{__file__}:Surprise",
            "credit.power": 0.5,
            "loss.kind": f"{__file__}:Unclipped",
            "rollout.group_size": 8,
            "rollout.max_completion_tokens": 48,
            "model.path": "embedded:tiny",
            "model.device": "cpu",
            "optim.lr": 1e-4,
        }
    )
    sums = {"(81-19)*4?": "248", "(9*14)-60?": "66", "(24+33)*7?": "399", "(70-12)*3?": "174"}
    prompts = [
        Prompt(id=text, messages=(Message("user", text),), answer=answer, source="examples")
        for text, answer in sums.items()
    ]
    with training_engine(settings) as engine:
        for step in range(2):
            seeds = [[100 * step + 8 * i + j for j in range(8)] for i in range(len(prompts))]
            groups = engine.score(engine.sample(prompts, seeds=seeds))
            batch = engine.make_batch(groups)
            metrics = engine.update(batch, step=step)
            engine.sync()
            right = sum(v.outcome == "correct" for group in groups for v in group.verdicts)
            print(f"step {step + 1}: {right} of 32 correct, ", end="")
            print(f"largest weight {float(batch.credit.weights.max()):.2f}, ", end="")
            print(f"gradient {metrics['optim/grad_norm']:.3f}")
        row = int(batch.advantages.abs().argmax())
        ids = batch.completion_ids[row][batch.mask[row]].tolist()
        weights = batch.credit.weights[row].tolist()
        for at, weight in zip(ids, weights, strict=False):
            print(f"{engine.policy.tokenizer.decode([at])!r:>8} {weight:6.3f}")
    # --8<-- [end:run]


if __name__ == "__main__":
    main()
