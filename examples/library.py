# %% [markdown]
# # dgpo as a library
#
# Two training steps of the model that ships with dgpo, and a look at what they did. It needs no
# GPU and no network, and takes a few seconds. Run it as a script, or cell by cell.

# %%
import json
import tempfile
from pathlib import Path

import torch

from dgpo_cli import (
    Message,
    Prompt,
    ScoredGroup,
    compare_counts,
    credit_weights,
    estimate,
    judge_answer,
    load_settings,
    read_rollouts,
    training_engine,
)

# %% [markdown]
# ## Settings
#
# A preset with some values changed; `dgpo settings` explains each. So early in a run the paper's
# tau would leave all weights at 1: `target_ess` has it found for each completion instead.

# %%
GROUP = 8
settings = load_settings(
    "tiny",
    overrides={"rollout.group_size": GROUP, "credit.target_ess": 0.5, "model.device": "cpu"},
)

# %% [markdown]
# ## Two steps
#
# The four verbs of the engine: sample, score, make_batch, update. The loop of `dgpo train` makes
# the same calls. A completion depends on the weights, its prompt and its own seed.

# %%
SUMS = {"(81-19)*4?": "248", "(9*14)-60?": "66", "(24+33)*7?": "399", "(70-12)*3?": "174"}
prompts = [
    Prompt(id=question, messages=(Message("user", question),), answer=answer, source="examples")
    for question, answer in SUMS.items()
]
steps: list[list[ScoredGroup]] = []
with training_engine(settings) as engine:
    for step in range(2):
        seeds = [[1000 * step + GROUP * i + j for j in range(GROUP)] for i in range(len(prompts))]
        groups = engine.score(engine.sample(prompts, seeds=seeds))
        batch = engine.make_batch(groups)
        metrics = engine.update(batch, step=step)
        engine.sync()
        steps.append(groups)
        right = sum(v.outcome == "correct" for group in groups for v in group.verdicts)
        print(f"step {step + 1}: {right} of {len(prompts) * GROUP} correct, ", end="")
        print(f"gradient {metrics['optim/grad_norm']:.3f}")

# %% [markdown]
# ## Where the credit went
#
# The weights of the tokens of one completion, mean 1: high where the policy has moved away from
# the reference and is unsure. The last step trained with them.

# %%
row = int(batch.advantages.abs().argmax())
completion = [c for group in groups for c in group.completions][row]
pieces = [engine.policy.tokenizer.decode([i]) for i in completion.token_ids]
weights = batch.credit.weights[row].tolist()
for piece, weight in zip(pieces, weights, strict=False):
    print(f"{piece!r:>8} {weight:6.3f} {'#' * round(10 * weight)}")

# %% [markdown]
# `credit_weights` gives the same numbers for logits of your own: here random ones.

# %%
generator = torch.Generator().manual_seed(0)
logits = torch.randn(1, 12, 50, generator=generator)
reference = logits + 0.2 * torch.randn(1, 12, 50, generator=generator)
shares = credit_weights(logits, reference, mask=torch.ones(1, 12), tau=0.001)
print("weights", [f"{weight:.2f}" for weight in shares[0].tolist()])

# %% [markdown]
# ## Check an answer
#
# Integers are compared in this process; general mathematics in one that is killed at a deadline.

# %%
print(judge_answer(r"So the sum is \boxed{0248}.", gold="248"))
print(judge_answer(r"Hence $x = \boxed{\frac{2}{4}}$", gold="0.5", kind="math"))

# %% [markdown]
# ## Read rollouts
#
# Of the folder of a run, of `dgpo rollout`, or of any program: a prompt and a completion will do.

# %%
with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / "rollouts.jsonl"
    lines = [
        {"prompt": group.prompt.text, "completion": completion.text, "reward": verdict.reward}
        for group in groups
        for completion, verdict in zip(group.completions, group.verdicts, strict=True)
    ]
    file.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    rows = list(read_rollouts(file))
print(f"{len(rows)} rows; the first: {rows[0].prompt.text} {rows[0].completion.text!r}")

# %% [markdown]
# ## Statistics
#
# Correct samples of each problem give Avg@k, its error over reruns and over other problems, and
# pass@k; two of them a paired comparison.

# %%
before, after = (
    [sum(verdict.outcome == "correct" for verdict in group.verdicts) for group in groups]
    for groups in steps
)
found = estimate(after, k=GROUP)
print(f"Avg@{GROUP} {found.avg_at_k:.3f}, pass@{GROUP} {found.pass_at_k[GROUP]:.3f}")
print(f"standard error over reruns {found.stderr_rerun:.3f}, problems {found.stderr_problems:.3f}")
change = compare_counts(before, after, k_before=GROUP, k_after=GROUP)
print(f"change {change.difference:+.3f}, p = {change.p_rerun:.3f} over reruns")
