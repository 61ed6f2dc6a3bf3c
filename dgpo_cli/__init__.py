"""dgpo: train language models with DGPO (arXiv 2605.03327), sample, evaluate, inspect credit.

The names below are what a program may rely on: `from dgpo_cli import load_settings`. Each is
loaded when it is first asked for, so that importing the package costs nothing.
"""

TYPE_CHECKING = False  # type checkers take it for that of typing, which would cost 26 modules
if TYPE_CHECKING:
    from dgpo_cli.algo.credit import (
        CreditRule,
        DgpoCredit,
        EntropyCredit,
        ProportionalCredit,
        SurprisalCredit,
        TopEntropyCredit,
        UniformCredit,
        ValueCredit,
    )
    from dgpo_cli.algo.losses import Loss
    from dgpo_cli.config.load import load_settings
    from dgpo_cli.config.settings import Settings
    from dgpo_cli.core.errors import ConfigError, DataError, DgpoError, ModelError
    from dgpo_cli.core.types import (
        Batch,
        Completion,
        Credit,
        Group,
        Interval,
        Message,
        Prompt,
        ScoredGroup,
        StepMetrics,
        TokenStats,
        Verdict,
    )
    from dgpo_cli.engine.engine import Engine
    from dgpo_cli.engine.setup import sampling_engine, training_engine
    from dgpo_cli.environments.environment import Environment, EnvScore, EnvTask, Episode, Said
    from dgpo_cli.inspect.rollout_file import read_rollouts
    from dgpo_cli.policy.scoring import CreditMeter, credit_weights
    from dgpo_cli.rewards.grader import GradeItem, Grader, judge_answer
    from dgpo_cli.rewards.terms.call import RewardCompletion
    from dgpo_cli.runs.rollouts import RolloutLine
    from dgpo_cli.stats.comparison import Comparison, compare_counts
    from dgpo_cli.stats.estimators import Estimate, estimate

__version__ = "0.1.0"
_HOMES = {
    "algo.credit": "CreditRule DgpoCredit EntropyCredit ProportionalCredit SurprisalCredit "
    "TopEntropyCredit UniformCredit ValueCredit",
    "algo.losses": "Loss",
    "config.load": "load_settings",
    "config.settings": "Settings",
    "core.errors": "ConfigError DataError DgpoError ModelError",
    "core.types": "Batch Completion Credit Group Interval Message Prompt ScoredGroup StepMetrics "
    "TokenStats Verdict",
    "engine.engine": "Engine",
    "engine.setup": "sampling_engine training_engine",
    "environments.environment": "Environment EnvScore EnvTask Episode Said",
    "inspect.rollout_file": "read_rollouts",
    "policy.scoring": "CreditMeter credit_weights",
    "rewards.grader": "GradeItem Grader judge_answer",
    "rewards.terms.call": "RewardCompletion",
    "runs.rollouts": "RolloutLine",
    "stats.comparison": "Comparison compare_counts",
    "stats.estimators": "Estimate estimate",
}
_HOME = {name: room for room, names in _HOMES.items() for name in names.split()}

__all__ = [
    "Batch",
    "Comparison",
    "Completion",
    "ConfigError",
    "Credit",
    "CreditMeter",
    "CreditRule",
    "DataError",
    "DgpoCredit",
    "DgpoError",
    "Engine",
    "EntropyCredit",
    "EnvScore",
    "EnvTask",
    "Environment",
    "Episode",
    "Estimate",
    "GradeItem",
    "Grader",
    "Group",
    "Interval",
    "Loss",
    "Message",
    "ModelError",
    "Prompt",
    "ProportionalCredit",
    "RewardCompletion",
    "RolloutLine",
    "Said",
    "ScoredGroup",
    "Settings",
    "StepMetrics",
    "SurprisalCredit",
    "TokenStats",
    "TopEntropyCredit",
    "UniformCredit",
    "ValueCredit",
    "Verdict",
    "compare_counts",
    "credit_weights",
    "estimate",
    "judge_answer",
    "load_settings",
    "read_rollouts",
    "sampling_engine",
    "training_engine",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value  # asked for once
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
