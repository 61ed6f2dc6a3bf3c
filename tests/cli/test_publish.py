"""Laws of dgpo eval --publish: scores go into a model's folder, and nowhere else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from dgpo_cli.evals.request import EvalResult
from dgpo_cli.policy.fingerprint import weights_fingerprint
from tests.cli.conftest import Install
from tests.cli.helpers import in_process as dgpo
from tests.publish import scores

COMMAND = ["eval", "--bench", "aime2026", "--data", "copy", "--preset", "tiny", "--publish"]


@pytest.fixture
def model(tmp_path: Path, wide_folder: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes((wide_folder / name).read_bytes())
    return folder


def evaluated(folder: Path, *, weights: object) -> EvalResult:
    subject = {"model": "m", "weights": weights}
    out = scores.aime_folder(folder, subject=subject)
    card = scores.card_of(scores.AIME, **subject)
    return EvalResult(evaluation=scores.aime(), card=card, out=out, sampled=0)


def test_a_score_goes_into_the_files_of_its_model(
    workflow: Install, model: Path, tmp_path: Path
) -> None:
    workflow("evaluate", returns=evaluated(tmp_path / "e", weights=weights_fingerprint(model)))
    ended = dgpo(*COMMAND, str(model), "--json")
    assert ended.exit_code == 0, ended.stderr
    entry = yaml.safe_load((model / ".eval_results" / "dgpo-aime2026.yaml").read_text())
    assert entry[0]["value"] == 20.0 and "source" not in entry[0]
    assert (model / "README.md").is_file() and "scores written to" in ended.stderr
    assert ended.stdout.startswith("{")  # notes do not mix with the data


def test_a_score_of_other_weights_goes_into_no_model(
    workflow: Install, model: Path, tmp_path: Path
) -> None:
    workflow("evaluate", returns=evaluated(tmp_path / "e", weights={"sha256": "other"}))
    ended = dgpo(*COMMAND, str(model))
    assert ended.exit_code == 2 and "is of other weights, those of m" in ended.stderr
    assert not (model / "README.md").exists()


def test_a_clone_without_weights_takes_any_score(
    workflow: Install, model: Path, tmp_path: Path
) -> None:
    (model / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    workflow("evaluate", returns=evaluated(tmp_path / "e", weights={"sha256": "any"}))
    assert dgpo(*COMMAND, str(model)).exit_code == 0


def test_a_folder_that_cannot_take_scores_is_refused_before_sampling(
    workflow: Install, model: Path, tmp_path: Path
) -> None:
    calls = workflow("evaluate")
    (model / "README.md").write_text("---\na: [1\n---\n")
    for folder, words in ((tmp_path / "none", "no such folder"), (model, "not valid YAML")):
        ended = dgpo(*COMMAND, str(folder))
        assert ended.exit_code == 2 and words in ended.stderr and calls == []


def test_an_evaluation_that_the_budget_stopped_is_not_published(
    workflow: Install, model: Path, tmp_path: Path
) -> None:
    done = evaluated(tmp_path / "e", weights=weights_fingerprint(model))
    workflow("evaluate", returns=replace(done, stopped="--max-cost 1: reached"))
    assert dgpo(*COMMAND, str(model)).exit_code == 1
    assert not (model / "README.md").exists()


def test_a_score_through_an_endpoint_says_that_its_weights_are_unknown(
    workflow: Install, model: Path, tmp_path: Path
) -> None:
    out = scores.aime_folder(tmp_path / "e", subject={"model": "served"})
    card = scores.card_of(scores.AIME, model="served")
    workflow("evaluate", returns=EvalResult(scores.aime(), card, out, sampled=0))
    ended = dgpo(*COMMAND, str(model))
    assert ended.exit_code == 0 and "nothing shows that it is of these" in ended.stderr
