"""What flows through the engine: prompts, completions, groups, batches, statistics.

Everything may import this file; it imports nothing of ours and no torch at run time.
P prompts, G group size, B = P * G completions, L prompt tokens, T completion tokens, V vocabulary.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor

FinishReason = Literal["stop", "length"]
Outcome = Literal["correct", "wrong", "no_answer", "truncated", "out_of_range", "timeout", "crash"]
OUTCOMES: tuple[Outcome, ...] = (
    "correct",
    "wrong",
    "no_answer",
    "truncated",
    "out_of_range",
    "timeout",
    "crash",
)
StepMetrics = dict[str, float]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question with a known answer. `source` names the file, benchmark or generator."""

    id: str
    messages: tuple[Message, ...]
    answer: str
    source: str

    @property
    def text(self) -> str:
        """The last user turn, as people read it."""
        return next((m.content for m in reversed(self.messages) if m.role == "user"), "")


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled completion; `token_ids` are the sampler's own and include EOS where it came.

    sampling_logprobs: the sampler's log-probability in nats of each token, one per token id, of
    the logits divided by the sampling temperature.
    policy_version: optimiser updates that the sampling weights had seen.
    """

    token_ids: tuple[int, ...]
    sampling_logprobs: tuple[float, ...]
    text: str
    finish_reason: FinishReason
    policy_version: int
    seed: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the answer checker says of one completion, and the reward that follows."""

    outcome: Outcome
    extracted: str | None
    reward: float


@dataclass(frozen=True, slots=True)
class Group:
    """All completions of one prompt in one rollout."""

    prompt: Prompt
    prompt_ids: tuple[int, ...]
    completions: tuple[Completion, ...]


@dataclass(frozen=True, slots=True)
class ScoredGroup:
    """A group with a verdict and an advantage for each completion.

    penalties: what was added to each reward for the completion's length before the advantages
        were computed, 0 or less; empty where lengths were not looked at.
    """

    prompt: Prompt
    prompt_ids: tuple[int, ...]
    completions: tuple[Completion, ...]
    verdicts: tuple[Verdict, ...]
    advantages: tuple[float, ...]
    penalties: tuple[float, ...] = ()

    @property
    def rewards(self) -> tuple[float, ...]:
        return tuple(verdict.reward for verdict in self.verdicts)

    @property
    def has_signal(self) -> bool:
        """Whether any completion of the group moves the policy."""
        return any(advantage != 0.0 for advantage in self.advantages)

    @property
    def is_mixed(self) -> bool:
        """Whether some completions are correct and some are not, whatever their rewards."""
        correct = sum(verdict.outcome == "correct" for verdict in self.verdicts)
        return 0 < correct < len(self.verdicts)


@dataclass(frozen=True, slots=True)
class TokenStats:
    """Per-token statistics over the whole vocabulary; zero where the mask is False.

    noise_floor: what rounding alone makes of hellinger_sq, as the policy and itself in another
        batch layout have it; None where it was not measured.
    """

    old_logprobs: Tensor  # float32 [B, T], no gradient
    entropy: Tensor  # float32 [B, T], nats
    hellinger_sq: Tensor  # float32 [B, T], in [0, 1]
    noise_floor: float | None = None


# What kept the tau of a completion above the one that its target asks for: nothing, the noise of
# the distance, the cap on weights, or scores too equal to get there with any tau.
LIMITS = ("none", "noise", "cap", "ties")


@dataclass(frozen=True, slots=True)
class Credit:
    """What a credit rule returns; scores and weights are zero where the mask is False.

    tau: the temperature that each row's weights were made with, NaN where none makes a
        difference, because the row's scores are equal. None: the rule has no such thing.
    limit: index into LIMITS; None where tau was not looked for.
    """

    scores: Tensor  # float32 [B, T]
    weights: Tensor  # float32 [B, T], row mean 1 on the mask
    tau: Tensor | None = None  # float64 [B]
    limit: Tensor | None = None  # int64 [B]

    def put(self, index: Tensor, rows: Credit) -> None:
        """Write the rows `index` (int64 [M]) in place."""
        for mine, new in zip(self._columns(), rows._columns(), strict=True):
            if mine is not None and new is not None:
                mine[index] = new

    def _columns(self) -> tuple[Tensor | None, ...]:
        return self.scores, self.weights, self.tau, self.limit


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded tensors of B completions: prompts left-padded, completions right-padded.

    Row i is completion `i % G` of group `i // G` while the batch is whole.
    """

    prompt_ids: Tensor  # int64 [B, L]
    prompt_mask: Tensor  # bool [B, L]
    completion_ids: Tensor  # int64 [B, T]
    mask: Tensor  # bool [B, T], True on completion tokens, EOS included
    advantages: Tensor  # float32 [B]
    stats: TokenStats
    credit: Credit
    sampling_logprobs: Tensor | None = None  # float32 [B, T], nats; None: those of the trainer
    counted: Tensor | None = None  # bool [B], rows that enter loss and normaliser; None: all
    policy_logprobs: Tensor | None = None  # float32 [B, T], before the update; None: old_logprobs

    @property
    def lengths(self) -> Tensor:
        """Completion tokens of each row, int64 [B]."""
        return self.mask.sum(dim=1)

    def counting(self, index: Tensor) -> Tensor:
        """Return the rows of `index` (int64 [M]) that enter loss and normaliser."""
        return index if self.counted is None else index[self.counted[index]]


Advance = Callable[[int], None]


class Progress(Protocol):
    """Who listens to how far a phase has come. The engine reports; only the CLI draws."""

    def phase(self, name: str, *, total: int, unit: str) -> AbstractContextManager[Advance]:
        """Open a phase of `total` units; the returned callable adds finished units."""
        ...


class SilentProgress:
    """Listens to nothing."""

    def phase(self, name: str, *, total: int, unit: str) -> AbstractContextManager[Advance]:
        return nullcontext(lambda amount: None)


@dataclass(frozen=True, slots=True)
class InspectedToken:
    """One completion token with the numbers behind its credit; entropy and logprob in nats.

    hex: the bytes that it stands for, two digits each; empty where the tokenizer cannot tell.
    """

    id: int
    text: str
    logprob: float
    entropy: float
    hellinger_sq: float
    score: float
    weight: float
    hex: str = ""


@dataclass(frozen=True, slots=True)
class StoredCredit:
    """The credit that a completion was trained with, kept where another one is shown.

    parameters: every setting of the rule. tau: the temperature that the weights were made with,
    None where the rule has none. weights: one per token.
    """

    rule: str
    parameters: Mapping[str, Any]
    tau: float | None
    effective_fraction: float
    weights: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class InspectedCompletion:
    """One completion of a group, token by token. `advantage` is the completion's, not a token's.

    outcome is None, reward and advantage are NaN, where the rollouts do not tell them.
    tau: the temperature that its weights were made with; None where the rule has none.
    stored: the credit that trained, where a what-if shows another; else None.
    """

    prompt_id: str
    index: int
    prompt: str
    answer: str
    outcome: Outcome | None
    finish_reason: FinishReason
    reward: float
    advantage: float
    effective_fraction: float
    tau: float | None
    tokens: tuple[InspectedToken, ...]
    stored: StoredCredit | None = None


@dataclass(frozen=True, slots=True)
class Alternative:
    """A token that could have come at some place, with its probability there under both models.

    The probabilities are of the logits divided by the sampling temperature.
    """

    id: int
    text: str
    hex: str
    policy: float
    reference: float


@dataclass(frozen=True, slots=True)
class TokenDetail:
    """Everything about the token at `position` (from 0) of the one completion that is shown.

    alternatives: the likeliest tokens of either model and the sampled one, by the policy's
        probability; empty where no model was run.
    policy_rank, reference_rank: place of the sampled token among all, from 1; 0 if not known.
    weights: which weights gave them; empty if none did.
    hint: the command that computes them, or why it cannot be told; empty where they are there.
    """

    position: int
    alternatives: tuple[Alternative, ...] = ()
    policy_rank: int = 0
    reference_rank: int = 0
    temperature: float = 1.0
    weights: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Inspection:
    """What `dgpo inspect` shows: where the credit of some completions went.

    rule: the credit rule that gave the weights; tau and kappa are None where it has none.
    parameters: every setting of the rule.
    vocab_size: width of the policy's logits; the gate h of a token is entropy / log vocab_size.
    source: the file, or what else, the completions are from.
    computed: whether the statistics were computed now, and not by training.
    detail: of one token of the one completion.
    """

    model: str
    reference: str
    rule: str
    tau: float | None
    kappa: float | None
    vocab_size: int
    completions: tuple[InspectedCompletion, ...]
    source: str = ""
    computed: bool = False
    parameters: Mapping[str, Any] = field(default_factory=dict)
    detail: TokenDetail | None = None


@dataclass(frozen=True, slots=True)
class Card:
    """Everything that moves the score of an evaluation; each value is what JSON can hold.

    protocol: benchmark and data set, prompt, sampling, checker: what comparable scores share.
    subject: model, revision, adapter, tokenizer, chat template, prompt ids: what is compared.
    environment: backend, library versions, hardware.
    """

    protocol: dict[str, Any]
    subject: dict[str, Any]
    environment: dict[str, Any]

    @property
    def key(self) -> str:
        """SHA-256 of the whole card, in hex; evaluations with the same key may share samples."""
        text = json.dumps(asdict(self), sort_keys=True, ensure_ascii=True, allow_nan=False)
        return hashlib.sha256(text.encode("ascii")).hexdigest()


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval of 95 %, or a bracket between two ways of counting."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class LengthSummary:
    """Completion tokens of `count` completions; everything else is NaN where there are none.

    p10, p50, p90: quantiles, interpolated between the neighbouring lengths.
    """

    count: int
    mean: float
    p10: float
    p50: float
    p90: float
    max: float


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A sample on which the second opinion differs from the verdict; it settles nothing.

    index: the sample's number within its problem, from 0. outcome: what was counted.
    second: the outcome of the second opinion.
    """

    problem_id: str
    index: int
    gold: str
    extracted: str | None
    outcome: Outcome
    second: str


@dataclass(frozen=True, slots=True)
class ProblemResult:
    """How the k samples of one problem of a benchmark ended.

    majority: chance that the most frequent answer is the right one, ties drawn evenly.
    outcomes, lengths: one per sample, in the order of the samples; lengths in tokens.
    """

    id: str
    answer: str
    correct: int
    majority: float
    outcomes: tuple[Outcome, ...]
    lengths: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What `dgpo eval` reports; all shares and scores are between 0 and 1, NaN is unknown.

    stderr_rerun, rerun_95: error over reruns with the same problems.
    stderr_problems, problems_95: error over problems drawn anew, clustered by problem.
    pass_at_k: unbiased pass@j for every j from 1 to k.
    unjudged: share of samples whose check ran into its deadline or crashed.
    tokens_per_s: of what was sampled now; NaN where all samples were there already.
    duplicates: samples that repeat an earlier one of the same problem byte for byte.
    """

    bench: str
    k: int
    n_problems: int
    avg_at_k: float
    stderr_rerun: float
    rerun_95: Interval
    stderr_problems: float
    problems_95: Interval
    pass_at_k: dict[int, float]
    maj_at_k: float
    truncated: float
    no_answer: float
    out_of_range: float
    unjudged: float
    lengths: LengthSummary
    lengths_right: LengthSummary
    lengths_wrong: LengthSummary
    tokens_per_s: float
    duplicates: int
    disagreements: tuple[Disagreement, ...]
    problems: tuple[ProblemResult, ...]

    @property
    def if_truncated(self) -> Interval:
        """Avg@k with the truncated samples counted as all wrong, and as all right."""
        return Interval(self.avg_at_k, self.avg_at_k + self.truncated)


@dataclass(frozen=True, slots=True)
class Finding:
    """What `dgpo doctor` found of one thing. fix: what to do about it; empty where it is fine."""

    name: str
    state: Literal["ok", "warn", "fail"]
    found: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One thing that is wrong with a run, as its metrics show it.

    key: its stable name, such as "no_signal". step: the step at which it was seen last.
    headline: one line. evidence: the numbers behind it; it may hold text of a model, which is
    made visible where it is shown. advice: the first thing to change.
    """

    key: str
    step: int
    headline: str
    evidence: str
    advice: str


@dataclass(frozen=True, slots=True)
class Shown:
    """A completion as a live view shows it; `prompt` and `text` are as they were drawn."""

    prompt: str
    text: str
    outcome: Outcome
    reward: float


@dataclass(frozen=True, slots=True)
class Glimpse:
    """What a training step drew, in short: how much, and a few of the completions."""

    step: int
    completions: int
    groups: int
    shown: tuple[Shown, ...]


@dataclass(frozen=True, slots=True)
class StoredCheckpoint:
    """A complete checkpoint of a run. written: Unix time, seconds."""

    step: int
    size: int
    written: float


@dataclass(frozen=True, slots=True)
class StoredSetting:
    """A setting as the run folder holds it, and as it would be typed after --set.

    source: the layer it came from, such as "preset tiny"; empty for a default. default: what it
    would be otherwise; None where this version has none.
    """

    key: str
    value: str
    source: str
    default: str | None


@dataclass(frozen=True, slots=True)
class StoredSamples:
    """Some completions of the newest rollouts. step: that of the rollouts.

    lengths: tokens of each completion; those shown may be fewer.
    """

    step: int
    inspection: Inspection
    lengths: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RunRecord:
    """All that a run folder holds, as `dgpo report` shows it; texts are untrusted.

    metrics: the lines of metrics.jsonl, each with its step; evals: those of evals.jsonl.
    total: steps that the run is to have; None if unknown. state: "running" while a process holds
    the folder. bad_batches: steps whose loss or gradient was not finite. notes: what could not be
    read, a line each.
    """

    name: str
    path: str
    state: Literal["finished", "running", "stopped"]
    total: int | None
    metrics: tuple[Mapping[str, float | None], ...]
    evals: tuple[Mapping[str, Any], ...]
    settings: tuple[StoredSetting, ...]
    checkpoints: tuple[StoredCheckpoint, ...]
    samples: StoredSamples | None
    diagnoses: tuple[Diagnosis, ...]
    bad_batches: tuple[int, ...]
    notes: tuple[str, ...]
