"""Run folders as training leaves them, with a checkpoint after two updates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dgpo_cli.config.dump import dump_toml
from dgpo_cli.config.load import Resolved, resolve
from dgpo_cli.core.formats import TrainerState
from dgpo_cli.engine.checkpoint import save_checkpoint
from dgpo_cli.policy.load_policy import load_policy
from dgpo_cli.policy.policy import Policy
from dgpo_cli.runs.run_folder import RunFolder
from tests.engine import checkpoints, updates
from tests.policy import tiny

STEPS = (2, 4)
LORA = ("adapter.kind=lora", "adapter.rank=3", "adapter.alpha=6")


def make_run(out: Path, base: Path, *overrides: str) -> tuple[Resolved, Policy]:
    """Make a run of `base` in `out`, checkpoints of STEPS in it; return its last policy."""
    resolved = resolve(overrides=[f"model.path={base}", "model.device=cpu", *overrides])
    settings = resolved.settings
    policy = load_policy(settings.model, adapter=settings.adapter, seed=1, with_reference=False)
    folder = RunFolder(out)
    out.mkdir(parents=True)
    folder.settings_file.write_text(dump_toml(resolved), encoding="utf-8")
    optimizer = checkpoints.adamw_of(policy)
    batch = updates.make_batch if policy.has_reference else None
    for step in range(1, STEPS[-1] + 1):
        if batch is not None:
            assert updates.run_update(policy, optimizer, batch(policy)).applied
        else:
            tiny.nudge((p for _, p in policy.trainable()), scale=0.02, seed=step)
        metrics: dict[str, Any] = {"reward/mean": step / 8, "outcome/correct": step / 10}
        folder.write_metrics(step, {**metrics, "policy/hellinger_sq_mean": float("nan")})
        if step in STEPS:
            save_checkpoint(
                folder.checkpoint_dir(step),
                policy=policy,
                optimizer=optimizer,
                state=TrainerState(step=step, policy_version=step, bad_streak=0),
            )
    return resolved, policy
