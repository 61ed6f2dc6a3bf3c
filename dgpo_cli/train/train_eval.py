"""Evaluations during training: the same code as `dgpo eval`, on the weights as they are.

Each has a folder of its own under evals/ of the run, and a line in evals.jsonl. It draws from
seeds of its own, so that a run with evaluations learns what the run without them does.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from dgpo_cli.config.changes import change_text
from dgpo_cli.config.dump import dump_toml
from dgpo_cli.config.layers import Layer
from dgpo_cli.config.load import Resolved, layered
from dgpo_cli.config.protocols import Protocol, protocol_for
from dgpo_cli.core.codec import filled
from dgpo_cli.core.events import Evaluated, Observer
from dgpo_cli.core.formats import EVAL, EvalRecord
from dgpo_cli.core.types import Evaluation
from dgpo_cli.evals.engine_source import EngineSource
from dgpo_cli.evals.eval_folder import EvalFolder
from dgpo_cli.evals.evaluate import fill, prepare
from dgpo_cli.evals.request import EvalRequest
from dgpo_cli.evals.running import Running
from dgpo_cli.evals.tally import report_of
from dgpo_cli.rewards.grader import Grader
from dgpo_cli.runs.history import changes_behind
from dgpo_cli.runs.run_folder import RunFolder
from dgpo_cli.train.interrupt import Interrupt

if TYPE_CHECKING:
    from dgpo_cli.config.settings import EvalSettings
    from dgpo_cli.engine.engine import Engine


def eval_settings(resolved: Resolved) -> tuple[Resolved, Protocol | None]:
    """Return the settings of a run's evaluations, and the protocol that they follow.

    Settings: the run's < the protocol's < those of the section eval.

    Raises:
        ConfigError: there is no such protocol, or the values do not go together.
    """
    own = resolved.settings.eval
    protocol = protocol_for(own.bench, name=own.protocol)
    changes = {
        name: value
        for name in ("temperature", "top_p", "top_k", "max_completion_tokens")
        if (value := getattr(own, name)) is not None
    }
    layers = [] if protocol is None else [protocol.layer()]
    return layered(resolved, *layers, Layer("section eval", {"rollout": changes})), protocol


class RunEvaluations:
    """The evaluations of one run; as a context it ends its graders."""

    def __init__(
        self,
        resolved: Resolved,
        *,
        folder: RunFolder,
        observer: Observer,
    ) -> None:
        """Load the benchmark, before anything large is loaded.

        Raises:
            ConfigError, DataError, BackendError: the benchmark cannot be loaded.
        """
        self._own: EvalSettings = resolved.settings.eval
        self._total = resolved.settings.train.steps
        self._folder = folder
        self._observer = observer
        self._resolved, self._protocol = eval_settings(resolved)
        request = EvalRequest(
            bench=self._own.bench,
            k=self._own.k,
            name="run",
            data=None if self._own.data is None else Path(self._own.data),
        )
        self._benchmark = prepare(self._resolved, request=request, observer=observer).benchmark
        self._grader = Grader(self._resolved.settings.reward.judge(), observer=observer)

    def __enter__(self) -> Self:
        self._grader.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._grader.close()

    def due(self, step: int) -> bool:
        """Whether the weights after `step` steps need an evaluation and have none."""
        wanted = step % self._own.every == 0 or step == self._total
        return wanted and not any(line["step"] == step for line in self._folder.read_evals())

    def run(self, engine: Engine, *, step: int, interrupt: Interrupt) -> None:
        """Evaluate the policy of a training engine after `step` steps.

        Samples that a killed run left are used. An evaluation that is interrupted between two
        batches is finished when the run resumes.

        Raises:
            DataError: a problem is longer than prompts.max_prompt_tokens.
        """
        settings = self._resolved.settings
        behind = changes_behind(self._folder.checkpoint_dir(step))
        trained = {
            "step": step,
            "policy_version": engine.policy_version,
            "sha256": engine.fingerprint(),
            **({"changed": list(map(change_text, behind))} if behind else {}),
        }
        source = EngineSource(engine, adapter=None, trained=trained)
        prompts, bench = self._benchmark.prompts, self._benchmark.name
        card = source.describe(self._resolved, benchmark=self._benchmark, protocol=self._protocol)
        target = EvalFolder(self._folder.eval_dir(step))
        with target.lock():
            target.begin(card, settings=dump_toml(self._resolved), fresh=not target.is_of(card))
            samples, drawn = fill(
                source,
                Running(
                    prompts, bench=bench, k=self._own.k, greedy=settings.rollout.temperature == 0
                ),
                settings=settings,
                grader=self._grader,
                folder=target,
                observer=self._observer,
                stop=interrupt,
                redraw=f"evaluating again after step {step}",
            )
            if len(samples) < self._own.k * len(self._benchmark.prompts):
                return
            evaluation = report_of(
                samples,
                card=card,
                k=self._own.k,
                ids=[prompt.id for prompt in self._benchmark.prompts],
                second_opinion=False,
                sampled_tokens=drawn.tokens,
                sampling_s=drawn.seconds,
            )
            target.write_report(evaluation, card)
        out = str(target.path.relative_to(self._folder.path))
        self._folder.write_eval(step, _line(evaluation, step=step, out=out))
        curve = tuple(self._folder.read_evals())
        self._observer.on(Evaluated(step, evaluation, curve))


def _line(evaluation: Evaluation, *, step: int, out: str) -> dict[str, Any]:
    """Return the line of evals.jsonl."""
    record = filled(
        EvalRecord,
        evaluation,
        step=step,
        pass_at_k=evaluation.pass_at_k[evaluation.k],
        length_mean=evaluation.lengths.mean,
        out=out,
    )
    return EVAL.dump(record)
