"""A vLLM server as an API like any other: it answers as the engine of this process does."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dgpo_cli.core.resources import resource_dir
from dgpo_cli.samplers.vllm.gate import key_file, read_key
from tests.cli.helpers import in_process as dgpo
from tests.processes import left_behind
from tests.vllm.conftest import MARK, serving

K = 16
_Z = 2.58  # 99 of 100 differences by chance are smaller, in standard errors
BENCH = "sums-easy"
RENDERED = "<|user|>{problem}<|assistant|>"  # as the model's chat template does
SETTINGS = ("rollout.max_completion_tokens=64", "reward.workers=1", "train.threads=1")


@pytest.fixture(scope="module")
def tiny_served() -> Iterator[str]:
    """The address of a server of the embedded model."""
    folder = str(resource_dir("data") / "tiny")
    with serving(folder, "--max-num-seqs", "32") as url:
        yield url
    assert left_behind(MARK, within_s=10) == []


def evaluated(
    out: Path, template: str, *options: str
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return report and samples of an evaluation through the command line."""
    settings = (*SETTINGS, f"prompts.template={template}")
    sets = [part for setting in settings for part in ("--set", setting)]
    given = ("--bench", BENCH, "--k", str(K), "--out", str(out))
    ended = dgpo("eval", *given, *sets, *options)
    assert ended.exit_code == 0, ended.output
    lines = (out / "samples.jsonl").read_text().splitlines()
    return json.loads((out / "report.json").read_text()), list(map(json.loads, lines))


@pytest.fixture(scope="module")
def plain_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model without its chat template."""
    folder = tmp_path_factory.mktemp("plain") / "tiny"
    shutil.copytree(resource_dir("data") / "tiny", folder)
    (folder / "chat_template.jinja").unlink()
    return folder


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_an_endpoint_scores_as_the_engine_of_this_process(
    api: str,
    tiny_served: str,
    plain_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """chat: the server renders the template; completions: its text is the prompt's own."""
    monkeypatch.setenv("DGPO_API_KEY", read_key(key_file(tiny_served)) or "")
    model, template = "embedded:tiny", "{problem}"
    if api == "completions":
        model, template = str(plain_model), RENDERED
    own, _ = evaluated(tmp_path / "own", template, "--model", model, "--set", "model.device=cpu")
    endpoint = (
        *("--endpoint", tiny_served, "--model", str(resource_dir("data") / "tiny")),
        *("--set", f"rollout.backend.api={api}"),
    )
    there, answered = evaluated(tmp_path / "there", template, *endpoint)
    allowed = _Z * math.hypot(own["stderr_rerun"], there["stderr_rerun"])
    assert abs(own["avg_at_k"] - there["avg_at_k"]) < allowed
    assert own["lengths"]["mean"] == pytest.approx(there["lengths"]["mean"], abs=0.5)
    for line in answered:  # the ids that the engine of this process samples from
        assert line["prompt_tokens"] == len(line["prompt_id"]) + 3
    if api == "completions":
        bare, _ = evaluated(tmp_path / "bare", "{problem}", *endpoint)
        assert abs(own["avg_at_k"] - bare["avg_at_k"]) > allowed  # the test can fail
