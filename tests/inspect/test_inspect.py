"""Laws of inspect: what training stored is what it shows, and computing afresh agrees."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from dgpo_cli.core.errors import ConfigError, DataError
from dgpo_cli.runs.run_folder import RunFolder
from tests.inspect.looks import look, stored_lines
from tests.train.test_train import run_tiny


def test_stored_statistics_give_the_weights_that_training_used(trained: Path) -> None:
    inspection = look(source=trained)
    lines = stored_lines(trained)
    assert len(inspection.completions) == len(lines) == 16
    assert (inspection.rule, inspection.tau, inspection.kappa) == ("dgpo", 0.5, 1.0)
    for shown, line in zip(inspection.completions, lines, strict=True):
        assert [t.id for t in shown.tokens] == line["token_ids"]
        assert [t.weight for t in shown.tokens] == pytest.approx(line["weights"], rel=1e-6)
        assert [t.hellinger_sq for t in shown.tokens] == pytest.approx(line["hellinger_sq"])
        assert shown.advantage == line["advantage"]
        assert "".join(t.text for t in shown.tokens).startswith(line["completion"])
        length, weights = len(line["weights"]), line["weights"]
        fraction = sum(weights) ** 2 / (length * sum(w * w for w in weights))
        assert shown.effective_fraction == pytest.approx(fraction, rel=1e-5)


def test_computed_afresh_from_the_checkpoint_it_is_the_same(trained: Path) -> None:
    rollouts = RunFolder(trained).rollouts()[-1]
    checkpoint = RunFolder(trained).checkpoint_dir(2)
    stored = look(source=trained)
    fresh = look(model=str(checkpoint), reference="embedded:tiny", rollouts=rollouts)
    for one, other in zip(stored.completions, fresh.completions, strict=True):
        assert one.advantage == other.advantage
        for a, b in zip(one.tokens, other.tokens, strict=True):
            assert b.logprob == pytest.approx(a.logprob, abs=1e-5)
            assert b.hellinger_sq == pytest.approx(a.hellinger_sq, rel=1e-3, abs=1e-9)
            assert b.weight == pytest.approx(a.weight, rel=1e-5)


def test_a_model_against_itself_has_no_distance_and_even_weights(trained: Path) -> None:
    rollouts = RunFolder(trained).rollouts()[-1]
    inspection = look(model="embedded:tiny", reference="embedded:tiny", rollouts=rollouts, group=0)
    tokens = [token for shown in inspection.completions for token in shown.tokens]
    assert all(token.hellinger_sq == 0.0 and token.weight == 1.0 for token in tokens)


def test_other_tau_and_kappa_are_arithmetic_on_the_stored_numbers(trained: Path) -> None:
    import math

    shown = look(source=trained, tau=0.01, kappa=0.0).completions[0]
    powers = [math.exp(token.hellinger_sq / 0.01) for token in shown.tokens]
    for token, power in zip(shown.tokens, powers, strict=True):
        assert token.score == pytest.approx(token.hellinger_sq)
        assert token.weight == pytest.approx(len(powers) * power / sum(powers), rel=1e-4)


def test_one_is_the_least_even_completion_with_an_advantage(trained: Path) -> None:
    everything = look(source=trained).completions
    (one,) = look(source=trained, one=True).completions
    moving = [shown for shown in everything if shown.advantage != 0]
    assert one.effective_fraction == min(shown.effective_fraction for shown in moving)
    assert one.advantage != 0


def test_group_and_sample_choose_and_are_checked(trained: Path) -> None:
    (shown,) = look(source=trained, group=2, sample=3).completions
    line = stored_lines(trained)[2 * 4 + 3]
    assert (shown.prompt_id, shown.index) == (line["prompt_id"], 3)
    with pytest.raises(ConfigError, match=r"--group 4: .* has groups 0 to 3"):
        look(source=trained, group=4)
    with pytest.raises(ConfigError, match=r"--sample 9: .* has samples 0 to 3"):
        look(source=trained, sample=9)


def _plain(trained: Path, path: Path, *, drop: tuple[str, ...]) -> Path:
    """The run's rollouts as another program might write them, without some fields."""
    extra = ("advantage", "weights", "scores", "entropy", "hellinger_sq", "logprobs", "credit")
    with path.open("w") as file:
        for line in stored_lines(trained):
            kept = {k: v for k, v in line.items() if k not in (*extra, *drop)}
            file.write(json.dumps(kept) + "\n")
    return path


def test_rollouts_without_statistics_need_a_model(trained: Path, tmp_path: Path) -> None:
    path = _plain(trained, tmp_path / "plain.jsonl", drop=())
    with pytest.raises(DataError, match="give --model and --reference"):
        look(source=path)


def test_advantages_and_token_ids_that_are_missing_are_made(trained: Path, tmp_path: Path) -> None:
    whole = look(source=trained)
    checkpoint = str(RunFolder(trained).checkpoint_dir(2))
    path = _plain(
        trained, tmp_path / "text.jsonl", drop=("token_ids", "prompt_token_ids", "messages")
    )
    fresh = look(model=checkpoint, reference="embedded:tiny", rollouts=path)
    for one, other in zip(whole.completions, fresh.completions, strict=True):
        assert other.advantage == pytest.approx(one.advantage)
        assert [t.id for t in other.tokens] == [t.id for t in one.tokens]
        assert [t.weight for t in other.tokens] == pytest.approx([t.weight for t in one.tokens])


def test_what_cannot_be_inspected_says_why(trained: Path, tmp_path: Path) -> None:
    rollouts = RunFolder(trained).rollouts()[-1]
    with pytest.raises(ConfigError, match="no such run folder"):
        look(source=tmp_path / "nothing")
    with pytest.raises(DataError, match="has no rollouts"):
        look(source=tmp_path)
    with pytest.raises(ConfigError, match="--model needs --reference"):
        look(model="embedded:tiny", rollouts=rollouts)
    with pytest.raises(ConfigError, match="need --model"):
        look(source=trained, reference="embedded:tiny")
    lines = stored_lines(trained)
    lines[0]["token_ids"][0] = 10_000
    path = tmp_path / "foreign.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    with pytest.raises(DataError, match="token id 10000 is not in the model's vocabulary"):
        look(model="embedded:tiny", reference="embedded:tiny", rollouts=path)


def test_without_a_source_the_newest_run_is_shown(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"no run under \./runs"):
        look()
    for name, changed in (("b-old", 1_000_000_000), ("a-new", 1_000_000_100), ("c-old", 1)):
        run = tmp_path / "runs" / name
        (run / "rollouts").mkdir(parents=True)
        (run / "tokenizer").symlink_to(trained / "tokenizer")
        for file in RunFolder(trained).rollouts():
            (run / "rollouts" / file.name).write_bytes(file.read_bytes())
        (run / "metrics.jsonl").write_text("")
        os.utime(run / "metrics.jsonl", (changed, changed))
    shown = look()
    assert shown.model == "runs/a-new step-000003"
    assert shown.source == "runs/a-new/rollouts/step-000003.jsonl"
    assert len(shown.completions) == 16


@pytest.mark.parametrize("over", ["completion", "batch"])
def test_weights_of_a_tau_that_was_found_are_shown_with_it(tmp_path: Path, over: str) -> None:
    run = tmp_path / "run"
    run_tiny(
        run,
        "optim.lr=1e-3",
        "credit.target_ess=0.9",
        f"credit.target_ess_over={over}",
        "train.rollouts_every=1",
        steps=2,
    )
    inspection = look(source=run)
    assert (inspection.rule, inspection.tau) == ("dgpo", None)
    lines = stored_lines(run)
    taus = [line["tau"] for line in lines]
    assert (max(map(taus.count, taus)) > 8) == (over == "batch")  # some are held up by the cap
    for shown, line in zip(inspection.completions, lines, strict=True):
        assert [t.weight for t in shown.tokens] == pytest.approx(line["weights"], rel=1e-5)
        assert shown.tau == line["tau"] > 0
        assert line["noise_floor"] > 0
    # Another tau is another tau, and not one to look for.
    (fixed,) = look(source=run, tau=0.25, group=0, sample=0).completions
    assert fixed.tau == 0.25
    (changed,) = look(source=run, kappa=0.5, group=0, sample=0).completions
    assert changed.effective_fraction == pytest.approx(0.9, abs=2e-3)


def test_a_fixed_tau_is_every_completions(trained: Path) -> None:
    assert {shown.tau for shown in look(source=trained).completions} == {0.5}
    assert {shown.tau for shown in look(source=trained, tau=0.02).completions} == {0.02}
