"""Which evaluations are of the weights that are published."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dgpo_cli.core.errors import ConfigError, DataError, ModelError
from dgpo_cli.core.events import Observer, tell
from dgpo_cli.core.formats import EVAL
from dgpo_cli.core.types import Card
from dgpo_cli.evals.eval_folder import EvalFolder
from dgpo_cli.policy.fingerprint import adapter_fingerprint, weights_fingerprint
from dgpo_cli.publish.scores import Score, score_of_line
from dgpo_cli.runs.run_folder import RunFolder

_POINTER = 1024  # bytes; what Git LFS leaves in place of a file is smaller


@dataclass(frozen=True, slots=True)
class Weights:
    """A checkpoint of a run, after `step` steps. folders: where the same weights lie."""

    run: Path
    step: int
    folders: tuple[Path, ...]

    def scores(
        self, given: Sequence[tuple[Path, Score]], *, observer: Observer
    ) -> tuple[Score, ...]:
        """Return the scores of these weights: those of training, and the given ones.

        A given one replaces that of training for the same benchmark.

        Raises:
            ConfigError: one is of other weights, or two are of one benchmark.
        """
        found = {score.name: score for score in self._of_training()}
        chosen: dict[str, Path] = {}
        for path, score in given:
            if score.name in chosen:
                raise ConfigError(
                    f"--eval {path}: {chosen[score.name]} is of {score.name} too; give one of them"
                )
            check_weights(path, score, self.folders, flag="--eval", own=self._is_own(path))
            if not has_weights(score):
                tell(observer, unknown(path))
            chosen[score.name] = path
            found[score.name] = score
        return tuple(found.values())

    def _of_training(self) -> Iterator[Score]:
        folder = RunFolder(self.run)
        for line in folder.read_evals():
            if line["step"] == self.step:
                card: Card | None = None
                with suppress(DataError):  # the folder of the evaluation may be gone
                    card = EvalFolder(folder.eval_dir(self.step)).read_card()
                yield score_of_line(EVAL.read(line, where=str(folder.evals_file)), card=card)

    def _is_own(self, path: Path) -> bool:
        """Return whether a folder is what training measured after this step."""
        return path.resolve() == RunFolder(self.run).eval_dir(self.step).resolve()


def check_weights(
    path: Path, score: Score, folders: Sequence[Path], *, flag: str, own: bool = False
) -> None:
    """Check that the evaluation in `path` is of weights that lie in one of `folders`.

    Weights that an endpoint served are unknown and pass, and so do folders without weights.
    own: it is known to be.

    Raises:
        ConfigError: it is not.
    """
    subject = _subject(score)
    if own or not has_weights(score):
        return
    if "trained" in subject:
        step = subject["trained"].get("step")
        raise ConfigError(f"{flag} {path}: is of the weights after step {step} of a training run")
    adapter = subject.get("adapter")
    there = [found for each in folders if (found := _found(each, adapter=bool(adapter)))]
    known = any(map(_has_weights, folders))
    if known and (adapter or subject["weights"]) not in there:
        raise ConfigError(
            f"{flag} {path}: is of other weights, those of {subject.get('model')}"
            f"{' with another adapter' if adapter else ''}; evaluate these first"
        )


def has_weights(score: Score) -> bool:
    """Return whether the card of a score says which weights it is of."""
    return "weights" in _subject(score)


def unknown(path: Path) -> str:
    """Return the note for an evaluation through an endpoint, or of another program's log."""
    return f"{path}: its card does not name the weights, so nothing shows that it is of these"


def _subject(score: Score) -> dict[str, Any]:
    return {} if score.card is None else dict(score.card.subject)


def _has_weights(folder: Path) -> bool:
    files = folder.glob("*.safetensors")
    return any(file.stat().st_size > _POINTER for file in files)


def _found(folder: Path, *, adapter: bool) -> dict[str, str] | None:
    try:
        return adapter_fingerprint(folder) if adapter else weights_fingerprint(folder)
    except (ModelError, OSError):
        return None
