"""Laws of runs with a credit rule and a loss of the user's own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from dgpo_cli.config.load import resolve
from dgpo_cli.core.errors import ConfigError, DgpoError
from dgpo_cli.core.events import Observers
from dgpo_cli.core.types import StepMetrics
from dgpo_cli.engine.rehearsal import rehearse
from dgpo_cli.report import report
from dgpo_cli.runs.history import read_changes, resolved_until
from dgpo_cli.runs.run_folder import RunFolder
from dgpo_cli.train import train
from tests.cli.helpers import in_process as dgpo
from tests.recorder import Notes, Recorder

RULE = """
import torch
from dgpo_cli import Credit, CreditRule

class Entropy(CreditRule):
    power: float = 1.0

    def token_scores(self, stats, mask, *, vocab_size):
        return stats.entropy ** self.power

class Apart(CreditRule):
    def token_scores(self, stats, mask, *, vocab_size):
        return stats.hellinger_sq.sqrt()

class Broken(CreditRule):
    how: str = "nan"

    def token_scores(self, stats, mask, *, vocab_size):
        scores = torch.ones_like(stats.entropy)
        if self.how == "shape":
            return scores[:, :1]
        if self.how == "late" and mask.shape[1] == 6:  # as in the rehearsal
            return scores
        if self.how == "raises":
            raise IndexError("out of range")
        if self.how == "list":
            return scores.tolist()
        return scores * {"nan": float("nan"), "negative": -1.0, "late": float("inf")}[self.how]

class Weights(CreditRule):
    how: str = "mean"

    def credit(self, stats, mask, *, vocab_size, rows=None):
        weights = mask.float() * 2.0
        if self.how == "tuple":
            return weights, weights
        if self.how == "negative":
            return Credit(scores=weights, weights=weights - 3.0)
        return Credit(scores=weights, weights=weights)
"""
MOVES = """
from dgpo_cli import Credit, CreditRule

class Moves(CreditRule):
    needs_values = True

    def credit(self, stats, mask, *, vocab_size, rows=None):
        moves = (stats.value_moves * mask).double()
        total = moves.sum(1, keepdim=True)
        moves = moves * mask.sum(1, keepdim=True) / total.where(total.abs() > 1e-5, total * 0 + 1)
        weights = moves.where(total.abs() > 1e-5, mask.double()).float()
        return Credit(scores=stats.value_moves, weights=weights)
"""
LOSS = """
import torch
from dgpo_cli import Loss

class Clip(Loss):
    low: float = 0.2

    def token_losses(self, logprobs, *, old_logprobs, token_advantages, mask,
                     reference_logprobs=None):
        ratio = (logprobs - old_logprobs).clamp(max=80.0).exp()
        losses = -torch.minimum(
            ratio * token_advantages, ratio.clamp(1 - self.low, 1.28) * token_advantages
        )
        ratio = ratio.detach()
        clipped = ((token_advantages > 0) & (ratio > 1.28)) | (
            (token_advantages < 0) & (ratio < 1 - self.low)
        )
        return losses, ratio, clipped

class Broken(Loss):
    how: str = ""

    def token_losses(self, logprobs, *, mask, **others):
        none = torch.zeros_like(logprobs, dtype=torch.bool)
        match self.how:
            case "two":
                return logprobs, logprobs
            case "shape":
                return logprobs.sum(dim=1), logprobs, none
            case "detached":
                return logprobs.detach(), logprobs, none
            case "nan":
                return logprobs.log(), logprobs, none
            case "clipped":
                return logprobs, logprobs, none.float()
        if mask.shape[1] == 6:  # as in the rehearsal
            return logprobs, logprobs.detach(), none
        match self.how:
            case "late":
                raise IndexError("out of range")
            case "late shape":
                return logprobs[:, :1], logprobs.detach(), none
"""
SMALL = (
    "model.device=cpu",
    "rollout.prompts_per_step=4",
    "rollout.group_size=4",
    "rollout.max_completion_tokens=48",
    "optim.updates_per_step=2",
    "reward.workers=1",
    "train.rollouts_every=1",
    "train.checkpoint_every=1",
    "eval.every=0",
)
OWN = ("credit.rule=own.py:Entropy", "loss.kind=own_loss.py:Clip")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(RULE, encoding="utf-8")
    Path("own_loss.py").write_text(LOSS, encoding="utf-8")
    return tmp_path


def trained(
    out: str,
    *overrides: str,
    steps: int = 1,
    allow_change: bool = False,
    notes: list[str] | None = None,
) -> list[StepMetrics]:
    recorder = Recorder()
    train.run(
        resolve(preset="tiny", overrides=[*SMALL, f"train.steps={steps}", *overrides]),
        out=Path(out),
        resume="auto",
        allow_change=allow_change,
        observer=Observers([recorder, Notes([] if notes is None else notes)]),
    )
    return recorder.lines


def weights(out: str) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    folder = RunFolder(Path(out)).checkpoints()[-1]
    return {
        name: each
        for file in folder.glob("*.safetensors")
        for name, each in load_file(file).items()
    }


def test_a_rule_and_a_loss_that_do_as_dgpos_own_train_as_they_do_to_the_bit() -> None:
    trained("own", *OWN, steps=2)
    trained("builtin", "credit.rule=entropy", steps=2)
    own, builtin = weights("own"), weights("builtin")
    assert own.keys() == builtin.keys()
    assert all(torch.equal(own[name], builtin[name]) for name in own)
    (line, *_) = Path("own/rollouts/step-000001.jsonl").read_text().splitlines()
    assert json.loads(line)["credit"]["rule"] == "own.py:Entropy"


def test_a_rule_that_needs_values_has_those_of_siblings_and_may_weigh_below_0() -> None:
    Path("moves.py").write_text(MOVES, encoding="utf-8")
    more = "rollout.group_size=16"
    trained("own", "credit.rule=moves.py:Moves", more)
    trained("builtin", "credit.rule=value", "credit.continuations=0", more)
    files = [Path(name, "rollouts/step-000001.jsonl").read_text() for name in ("own", "builtin")]
    own, builtin = ([json.loads(line)["weights"] for line in file.splitlines()] for file in files)
    assert min(map(min, own)) < 0
    for mine, theirs in zip(own, builtin, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-5)


def test_changed_code_is_refused_on_resume_in_one_line_and_recorded_if_allowed() -> None:
    trained("run", *OWN)
    digests = RunFolder(Path("run")).code()
    assert list(digests) == ["own.py", "own_loss.py"]
    before = Path("run/settings.toml").read_bytes()
    Path("own.py").write_text(RULE + "# another\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        trained("run", *OWN, steps=2)
    assert str(caught.value) == (
        "own.py: has changed since run began with it; give another --out to start a new run, or "
        "--allow-change to continue this one with it from step 2"
    )
    assert Path("run/settings.toml").read_bytes() == before
    notes: list[str] = []
    trained("run", *OWN, steps=2, allow_change=True, notes=notes)
    old, new = digests["own.py"][:12], RunFolder(Path("run")).code()["own.py"][:12]
    assert f"credit.code own.py was sha256 {old} until here, now sha256 {new}" in notes
    (change,) = read_changes(Path("run"))
    assert (change.step, change.setting) == (1, "credit.code own.py")
    resolved = resolve(config=Path("run/settings.toml"))
    assert resolved_until(1, resolved, changes=[change]).settings == resolved.settings
    trained("run", *OWN, steps=3)  # it is the run's own now


def test_a_changed_neighbour_is_refused_and_a_field_with_the_code_is_told() -> None:
    Path("own.py").write_text("from helper import POWER\n" + RULE, encoding="utf-8")
    Path("helper.py").write_text("POWER = 1\n", encoding="utf-8")
    trained("run", *OWN)
    Path("helper.py").write_text("POWER = 2\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"^helper.py: has changed since run"):
        trained("run", *OWN, steps=2)
    with pytest.raises(ConfigError) as caught:
        trained("run", *OWN, "credit.power=2", steps=2)
    first, second, _ = str(caught.value).splitlines()
    assert first == "credit.power: 1.0 in run, now 2.0"
    assert second.startswith("credit.code helper.py: sha256 ")


def test_a_run_whose_code_is_gone_is_still_reported_on() -> None:
    trained("run", *OWN)
    Path("own.py").unlink()
    (record,) = report.run([Path("run")])
    told = {each.key: each.value for each in record.settings}
    assert told["credit.rule"] == "own.py:Entropy"
    assert record.samples is not None and not record.notes


def faults(settings: Sequence[str]) -> str:
    with pytest.raises(ConfigError) as caught:
        rehearse(resolve(overrides=settings).settings)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("name", "how", "said"),
    [
        ("Broken", "nan", "scores have nan at a token; they must be finite and at least 0"),
        ("Broken", "negative", "scores have -1 at a token; they must be finite and at least 0"),
        ("Broken", "shape", "scores are float32 [4, 1]; they must be floating, [4, 6] as the mask"),
        ("Broken", "list", "scores are a list; they must be a tensor"),
        ("Broken", "raises", "own.py, line 25: IndexError: out of range"),
        ("Weights", "mean", "weights of a completion have the mean 2; it must be 1"),
        ("Weights", "negative", "weights have -1 at a token; they must be finite and at least 0"),
        ("Weights", "tuple", "credit returned a tuple; it must return a dgpo_cli.Credit"),
    ],
)
def test_a_rule_that_cannot_work_is_told_before_a_model_is_loaded(
    name: str, how: str, said: str
) -> None:
    rule = f"credit.rule=own.py:{name}"
    assert faults([rule, f"credit.how={how}"]) == f"{rule}: {said}"


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("two", "token_losses must return (losses, ratio, clipped)"),
        ("shape", "losses are float32 [4]; they must be floating, [4, 6] as the mask"),
        ("detached", "losses have no gradient; they must depend on logprobs"),
        ("nan", "losses or their gradient are not finite, padding included"),
        ("clipped", "clipped is float32 [4, 6]; it must be bool"),
    ],
)
def test_a_loss_that_cannot_work_is_told_before_a_model_is_loaded(how: str, said: str) -> None:
    loss = "loss.kind=own_loss.py:Broken"
    assert faults([loss, f"loss.how={how}"]) == f"{loss}: {said}"


def test_a_rule_that_uses_an_unmeasured_distance_is_refused() -> None:
    own = Path("own.py")
    with pytest.raises(ConfigError, match=r"own.py:Apart: uses stats.hellinger_sq"):
        rehearse(resolve(overrides=["credit.rule=own.py:Apart"]).settings)
    name = "class Apart(CreditRule):"
    said = own.read_text(encoding="utf-8").replace(name, f"{name}\n    needs_reference = True")
    Path("measured.py").write_text(said, encoding="utf-8")
    rehearse(resolve(overrides=["credit.rule=measured.py:Apart"]).settings)


def test_what_works_passes_the_rehearsal() -> None:
    rehearse(resolve(overrides=OWN).settings)


def test_a_rule_that_fails_at_a_later_batch_ends_the_run_in_one_line() -> None:
    with pytest.raises(DgpoError) as caught:
        trained("run", "credit.rule=own.py:Broken", "credit.how=late")
    said = "scores have inf at a token; they must be finite and at least 0"
    assert str(caught.value) == f"credit.rule=own.py:Broken: {said}"
    assert caught.value.exit_code == 1  # of a failed run


def test_a_loss_that_fails_at_a_later_batch_ends_the_run_in_one_line() -> None:
    line = next(n for n, text in enumerate(LOSS.splitlines(), 1) if "IndexError" in text)
    said = {
        "late": f"own_loss.py, line {line}: IndexError: out of range",
        "late shape": "losses are float32 [",
    }
    changes = [
        word for each in (*SMALL, "loss.kind=own_loss.py:Broken") for word in ("--set", each)
    ]
    for how, words in said.items():
        ended = dgpo(
            *["train", "--preset", "tiny", *changes, "--set", f"loss.how={how}", "--steps", "1"],
            *["--out", f"runs/{how}", "--view", "lines"],
        )
        assert ended.exit_code == 1
        assert "Traceback" not in ended.stderr
        errors = [each for each in ended.stderr.splitlines() if each.startswith("error: ")]
        assert len(errors) == 1
        assert errors[0].startswith(f"error: loss.kind=own_loss.py:Broken: {words}")


def test_the_plan_counts_the_reference_that_a_rule_of_ones_own_needs() -> None:
    text = RULE + "\nclass Far(Entropy):\n    needs_reference = True\n"
    Path("own.py").write_text(text, encoding="utf-8")
    told = {}
    for rule in ("entropy", "dgpo", "own.py:Entropy", "own.py:Far"):
        given = ("--preset", "tiny", "--gpu", "h100", "--set", f"credit.rule={rule}", "--json")
        ended = dgpo("plan", *given)
        assert ended.exit_code == 0, ended.stderr
        told[rule] = json.loads(ended.stdout)["memory"]["parts"]
    assert told["own.py:Entropy"] == told["entropy"] != told["dgpo"] == told["own.py:Far"]
