"""What flows through dgpo. Everything may import it; it imports nothing of ours, and no torch."""

from __future__ import annotations

from dgpo_cli.core.types.evaluation import (
    Card as Card,
)
from dgpo_cli.core.types.evaluation import (
    Disagreement as Disagreement,
)
from dgpo_cli.core.types.evaluation import (
    Evaluation as Evaluation,
)
from dgpo_cli.core.types.evaluation import (
    Interval as Interval,
)
from dgpo_cli.core.types.evaluation import (
    LengthSummary as LengthSummary,
)
from dgpo_cli.core.types.evaluation import (
    Price as Price,
)
from dgpo_cli.core.types.evaluation import (
    ProblemResult as ProblemResult,
)
from dgpo_cli.core.types.inspection import (
    Alternative as Alternative,
)
from dgpo_cli.core.types.inspection import (
    InspectedCompletion as InspectedCompletion,
)
from dgpo_cli.core.types.inspection import (
    InspectedToken as InspectedToken,
)
from dgpo_cli.core.types.inspection import (
    Inspection as Inspection,
)
from dgpo_cli.core.types.inspection import (
    SettingChange as SettingChange,
)
from dgpo_cli.core.types.inspection import (
    StoredCredit as StoredCredit,
)
from dgpo_cli.core.types.inspection import (
    TokenDetail as TokenDetail,
)
from dgpo_cli.core.types.inspection import (
    ValueSource as ValueSource,
)
from dgpo_cli.core.types.rollout import (
    CHECKED_OUTCOMES as CHECKED_OUTCOMES,
)
from dgpo_cli.core.types.rollout import (
    LIMITS as LIMITS,
)
from dgpo_cli.core.types.rollout import (
    OUTCOMES as OUTCOMES,
)
from dgpo_cli.core.types.rollout import (
    Advance as Advance,
)
from dgpo_cli.core.types.rollout import (
    Batch as Batch,
)
from dgpo_cli.core.types.rollout import (
    Completion as Completion,
)
from dgpo_cli.core.types.rollout import (
    Credit as Credit,
)
from dgpo_cli.core.types.rollout import (
    FinishReason as FinishReason,
)
from dgpo_cli.core.types.rollout import (
    Group as Group,
)
from dgpo_cli.core.types.rollout import (
    KeptTokens as KeptTokens,
)
from dgpo_cli.core.types.rollout import (
    Message as Message,
)
from dgpo_cli.core.types.rollout import (
    Outcome as Outcome,
)
from dgpo_cli.core.types.rollout import (
    Prompt as Prompt,
)
from dgpo_cli.core.types.rollout import (
    Reply as Reply,
)
from dgpo_cli.core.types.rollout import (
    ScoredGroup as ScoredGroup,
)
from dgpo_cli.core.types.rollout import (
    StepMetrics as StepMetrics,
)
from dgpo_cli.core.types.rollout import (
    TokenStats as TokenStats,
)
from dgpo_cli.core.types.rollout import (
    Verdict as Verdict,
)
from dgpo_cli.core.types.run import (
    Diagnosis as Diagnosis,
)
from dgpo_cli.core.types.run import (
    Finding as Finding,
)
from dgpo_cli.core.types.run import (
    Glimpse as Glimpse,
)
from dgpo_cli.core.types.run import (
    RunRecord as RunRecord,
)
from dgpo_cli.core.types.run import (
    Shown as Shown,
)
from dgpo_cli.core.types.run import (
    StoredCheckpoint as StoredCheckpoint,
)
from dgpo_cli.core.types.run import (
    StoredSamples as StoredSamples,
)
from dgpo_cli.core.types.run import (
    StoredSetting as StoredSetting,
)
from dgpo_cli.core.types.study import (
    StudyRecord as StudyRecord,
)
from dgpo_cli.core.types.study import (
    StudyRun as StudyRun,
)
from dgpo_cli.core.types.study import (
    StudyState as StudyState,
)
from dgpo_cli.core.types.study import (
    Trial as Trial,
)
from dgpo_cli.core.types.study import (
    Tuned as Tuned,
)
from dgpo_cli.core.types.study import (
    Variant as Variant,
)
from dgpo_cli.core.types.values import (
    ValueCurve as ValueCurve,
)
from dgpo_cli.core.types.values import (
    ValuePoint as ValuePoint,
)
