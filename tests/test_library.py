"""Laws of what `from dgpo_cli import ...` gives: light, typed, and what the commands compute."""

from __future__ import annotations

import ast
import doctest
import inspect
import json
import math
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch

import dgpo_cli
from dgpo_cli.algo.credit import CreditRule, DgpoCredit, UniformCredit
from dgpo_cli.config.load import load_settings, resolve
from dgpo_cli.core.errors import ConfigError, DataError
from dgpo_cli.engine.setup import sampling_engine
from dgpo_cli.inspect.rollout_file import read_rollouts
from dgpo_cli.policy.scoring import CreditMeter, credit_weights, stats_of_logits, token_stats
from dgpo_cli.rewards.grader import GradeItem, Grader, judge_answer
from dgpo_cli.rewards.settings import IntegerReward
from dgpo_cli.stats.comparison import compare_counts
from dgpo_cli.stats.estimators import estimate, pass_at
from tests import engines
from tests.policy import tiny

ROOT = Path(__file__).parents[1]
DISTANCE_FORM = (5, 7, 40)  # B, T, V


def test_importing_the_package_imports_nothing_of_weight() -> None:
    code = (
        "import sys; before = set(sys.modules); import dgpo_cli; dir(dgpo_cli)\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["dgpo_cli"]


def test_settings_statistics_and_answers_need_no_torch() -> None:
    code = (
        "from dgpo_cli import Prompt, estimate, judge_answer, load_settings\n"
        "load_settings('tiny'); estimate([1], k=2); judge_answer('Answer: 3', gold='3')\n"
        "import sys; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_public_name_has_one_home_and_its_type_is_seen() -> None:
    tree = ast.parse(Path(dgpo_cli.__file__).read_text(encoding="utf-8"))
    typed = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module not in ("__future__", "typing")
        for alias in node.names
        if alias.name != "import_module"
    }
    homes = {name: f"dgpo_cli.{room}" for name, room in dgpo_cli._HOME.items()}
    assert typed == homes
    assert sorted(typed) == dgpo_cli.__all__ and set(typed) <= set(dir(dgpo_cli))
    assert (ROOT / "dgpo_cli/py.typed").exists()


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'dgpo_cli' has no attribute 'load_setings'"):
        _ = dgpo_cli.load_setings
    assert not hasattr(dgpo_cli, "Evaluator")


@pytest.mark.parametrize("name", dgpo_cli.__all__)
def test_public_functions_have_an_example_that_is_true(name: str) -> None:
    value = getattr(dgpo_cli, name)
    assert name == "StepMetrics" or value.__doc__
    if inspect.isfunction(value):
        assert value.__doc__ is not None and "Examples:\n" in value.__doc__
    if inspect.isfunction(value) or name in ("Engine", "Grader"):
        (example,) = (e for e in doctest.DocTestFinder(recurse=False).find(value, globs={}))
        said: list[str] = []
        assert doctest.DocTestRunner().run(example, out=said.append).failed == 0, "".join(said)


def test_the_example_runs_in_a_script() -> None:
    ended = subprocess.run(
        [sys.executable, str(ROOT / "examples/library.py")],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert lines[0].startswith("step 1: ") and lines[1].startswith("step 2: ")
    weights = [
        float(line.split("'")[2].split()[0]) for line in lines if line[:9].strip()[:1] == "'"
    ]
    assert len(weights) > 10
    assert sum(weights) / len(weights) == pytest.approx(1.0, abs=1e-3) and max(weights) > 2
    assert "outcome='correct', extracted='248'" in ended.stdout
    assert "32 rows; the first: (81-19)*4?" in ended.stdout


# Settings.


def test_overrides_lie_on_the_preset_as_those_of_the_command_line_do() -> None:
    found = load_settings("tiny", overrides={"optim.lr": 3e-5, "credit.kappa": 0})
    assert found == resolve(preset="tiny", overrides=["optim.lr=3e-5", "credit.kappa=0"]).settings


def test_a_file_is_read_and_the_order_of_overrides_does_not_matter(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text("seed = 7\n[credit]\nrule = 'uniform'\n")
    assert load_settings(file=str(file)) == resolve(config=file).settings
    for names in (("credit.rule", "credit.tau"), ("credit.tau", "credit.rule")):
        values = {"credit.rule": "dgpo", "credit.tau": 0.25}
        found = load_settings(file=file, overrides={name: values[name] for name in names})
        assert found.credit == DgpoCredit(tau=0.25)


def test_a_wrong_override_is_named_with_its_value() -> None:
    with pytest.raises(ConfigError, match=r"optim\.lr=-1 \(overrides\)") as error:
        load_settings("tiny", overrides={"optim.lr": -1})
    assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match=r"preset='tiny' and file='a\.toml': give one of them"):
        load_settings("tiny", file="a.toml")
    with pytest.raises(ConfigError, match=r"optim\.lrr"):
        load_settings("tiny", overrides={"optim.lrr": 1.0})


def test_what_a_change_of_variant_drops_is_warned_of() -> None:
    with pytest.warns(UserWarning, match=r"credit.tau"):
        load_settings("tiny", overrides={"credit.rule": "uniform"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_settings("tiny", overrides={"credit.tau": 1.0})


# Credit.


def test_credit_of_logits_and_of_models_is_that_of_training() -> None:
    policy = tiny.make_policy(apart=0.05)
    engine = engines.make_engine(policy, credit=DgpoCredit(tau=0.002))
    groups = engine.score(engine.sample(engines.PROMPTS, seeds=[[1, 2, 3]] * len(engines.PROMPTS)))
    batch = engine.make_batch(groups, every_distance=True)
    logits = torch.zeros(2, *batch.mask.shape, policy.vocab_size)
    pairs = [(list(g.prompt_ids), list(c.token_ids)) for g in groups for c in g.completions]
    for which, model in enumerate((policy.model, policy._reference)):
        for row, (prompt, ids) in enumerate(pairs):
            with torch.no_grad():
                own = model(torch.tensor([prompt + ids])).logits[0]
            logits[which, row, : len(ids)] = own[len(prompt) - 1 : -1]
    stats = stats_of_logits(logits[0], logits[1], batch.mask, temperature=0.8)
    assert float(stats.hellinger_sq.max()) > 1e-5
    weights = credit_weights(logits[0], logits[1], batch.mask.long(), 0.002, temperature=0.8)
    assert float(weights.max()) > 1.05
    meter = CreditMeter(
        policy.model,
        reference=policy._reference,
        tokenizer=policy.tokenizer,
        rule=DgpoCredit(tau=0.002),
        temperature=0.8,
        micro_batch_size=2,
    )
    policy.model.train()
    measured = meter.weights(
        prompt_ids=batch.prompt_ids,
        prompt_mask=batch.prompt_mask.long(),
        completion_ids=batch.completion_ids,
        completion_mask=batch.mask.long(),
        advantages=torch.ones(len(batch.mask)),
    )
    assert policy.model.training
    for mine, trained in (
        (stats.entropy, batch.stats.entropy),
        (stats.hellinger_sq, batch.stats.hellinger_sq),
        (weights, batch.credit.weights),
        (measured, batch.credit.weights),
    ):
        torch.testing.assert_close(mine, trained, rtol=2e-4, atol=2e-5)


def test_a_meter_takes_the_adapter_off_and_runs_no_reference_that_is_not_needed() -> None:
    lora = tiny.make_lora_policy(apart=0.05)
    rows = tiny.rows_of_pairs(tiny.random_pairs([(4, 9), (4, 6), (4, 7)]))
    given = {
        "prompt_ids": rows.prompt_ids,
        "prompt_mask": rows.prompt_mask,
        "completion_ids": rows.completion_ids,
        "completion_mask": rows.mask,
        "advantages": torch.tensor([1.0, -1.0, 0.0]),
    }

    def weights(rule: CreditRule) -> torch.Tensor:
        return CreditMeter(lora.model, tokenizer=lora.tokenizer, rule=rule).weights(**given)

    own = weights(DgpoCredit(tau=0.01))
    stats = token_stats(lora, rows, temperature=1.0, micro_batch_size=3, with_reference=True)
    expected = DgpoCredit(tau=0.01).credit(stats, rows.mask, vocab_size=lora.vocab_size).weights
    torch.testing.assert_close(own[:2], expected[:2], rtol=1e-5, atol=1e-6)
    assert float(own[:2].max()) > 1.1
    assert torch.equal(own[2], rows.mask[2].float())
    only = weights(DgpoCredit(tau=0.01, sign="negative"))
    assert torch.equal(only[0], rows.mask[0].float()) and torch.equal(only[1], own[1])
    assert torch.equal(weights(UniformCredit()), rows.mask.float())


def _logits(*, apart: float = 0.3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    policy = 3 * torch.randn(DISTANCE_FORM, generator=generator)
    reference = policy + apart * torch.randn(DISTANCE_FORM, generator=generator)
    mask = torch.arange(DISTANCE_FORM[1]) < torch.tensor([[7], [3], [1], [5], [0]])
    return policy, reference, mask


@pytest.mark.parametrize("at_once", [1, 100, 1 << 22])
def test_credit_of_logits_equals_its_definition_in_float64(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dgpo_cli.policy.scoring._MOST", at_once)
    policy, reference, mask = _logits()
    policy[0, 0, :5] = reference[0, 0, :5] = -math.inf
    stats = stats_of_logits(policy, reference, mask, temperature=0.7)
    p, q = ((each.double() / 0.7).softmax(dim=-1) for each in (policy, reference))
    entropy = torch.special.entr(p).sum(dim=-1)
    distance = 1 - (p * q).sqrt().sum(dim=-1)
    for found, exact in ((stats.entropy, entropy), (stats.hellinger_sq, distance)):
        torch.testing.assert_close(found[mask].double(), exact[mask], rtol=1e-5, atol=1e-6)
        assert (found[~mask] == 0).all()
    weights = credit_weights(policy, reference, mask, 0.02, 0.5, temperature=0.7)
    scores = distance * (entropy / math.log(DISTANCE_FORM[2])).sqrt()
    for row, length in enumerate(mask.sum(dim=1).tolist()):
        exact = length * (scores[row, :length] / 0.02).softmax(dim=0)
        torch.testing.assert_close(weights[row, :length].double(), exact, rtol=1e-4, atol=1e-6)
    assert (weights[~mask] == 0).all()


def test_equal_logits_are_no_distance_apart_and_share_the_credit_evenly() -> None:
    policy, _, mask = _logits()
    for reference in (policy.clone(), None):
        assert torch.equal(credit_weights(policy, reference, mask), mask.float())


def test_logits_that_do_not_fit_are_refused_by_name() -> None:
    policy, reference, mask = _logits()
    short = reference[..., :-1]
    for message, arguments in (
        (r"policy_logits: .*must be floating \[B, T, V\]", (policy[0], None, mask)),
        (r"reference_logits: \[5, 7, 39\]; must be", (policy, short, mask)),
        (r"mask: torch.float32 .*must be 0 and 1, \[5, 7\]", (policy, None, mask * 0.5)),
        (r"mask: torch.bool \[7, 5\]; must be", (policy, None, mask.T)),
        (r"greater than 0", (policy, None, mask, 0.0)),
    ):
        with pytest.raises(ValueError, match=message):
            credit_weights(*arguments)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="temperature=0: must be positive"):
        credit_weights(policy, None, mask, temperature=0)


# Answers.


def _children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


def test_an_integer_is_judged_as_the_commands_do_and_in_this_process() -> None:
    texts = [r"\boxed{204}", r"\boxed{7}", "no idea", "Answer: 204", "204"]
    items = [GradeItem("204", text) for text in texts]
    before = _children()
    found = [judge_answer(text, gold="204") for text in texts]
    assert _children() == before
    with Grader(IntegerReward(workers=1)) as grader:
        assert found == grader.grade(items)
    assert judge_answer(r"\boxed{2", gold="2", finish_reason="length").outcome == "truncated"
    assert judge_answer("so 204", gold="204", extract="last-number").outcome == "correct"


def test_an_answer_that_needs_for_ever_times_out_and_leaves_no_process() -> None:
    before = _children()
    endless = r"\boxed{\int_0^1 x^{x^{x^{x}}} dx}"
    assert judge_answer(endless, gold="1/2", kind="math", timeout_s=0.5).outcome == "timeout"
    assert judge_answer(r"\boxed{0.5}", gold="1/2", kind="math").outcome == "correct"
    assert _children() == before


@pytest.mark.parametrize("kind", ["integer", "math"])
def test_a_gold_answer_that_cannot_be_compared_with_is_refused(kind: str) -> None:
    with pytest.raises(DataError, match="answer="):
        judge_answer(r"\boxed{1}", gold="", kind=kind)  # type: ignore[arg-type]


def test_the_end_of_an_engine_ends_its_workers() -> None:
    before = _children()
    settings = load_settings("tiny", overrides={"reward.workers": 1, "model.device": "cpu"})
    with sampling_engine(settings) as engine:
        engine.score(engine.sample(engines.PROMPTS[:1], seeds=[[1]]))
        assert len(_children() - before) == 1
    assert _children() == before


def test_a_batch_that_is_no_whole_number_of_groups_is_not_trained_on() -> None:
    engine = engines.make_engine(tiny.make_policy())
    groups = engine.score(engine.sample(engines.PROMPTS[:1], seeds=[[1, 2, 3]]))
    two = [replace(groups[0], completions=groups[0].completions[:2], advantages=(0.5, -0.5))]
    with pytest.raises(ConfigError, match=r"rollout.group_size=3: 2 completions are not"):
        engine.make_batch(two)
    with pytest.raises(ConfigError, match=r"rollout.group_size=3: 5 completions are not"):
        engine.make_batch([*groups, *two])


@pytest.mark.parametrize("named", [{"kind": "maths"}, {"extract": "boxes"}])
def test_an_unknown_kind_of_answer_is_no_integer(named: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=next(iter(named.values()))):
        judge_answer("Answer: 3", gold="3", **named)  # type: ignore[arg-type]


# Rollouts.


def _lines(*texts: str) -> str:
    return "".join(json.dumps({"prompt": "p", "completion": text}) + "\n" for text in texts)


def test_rollouts_of_a_run_are_read_step_by_step(tmp_path: Path) -> None:
    folder = tmp_path / "rollouts"
    folder.mkdir()
    (folder / "step-000010.jsonl").write_text(_lines("c", "d"))
    (folder / "step-000001.jsonl").write_text(_lines("a", "b"))
    assert [row.completion.text for row in read_rollouts(tmp_path)] == ["a", "b", "c", "d"]
    assert [row.completion.text for row in read_rollouts(str(tmp_path), step=10)] == ["c", "d"]
    file = folder / "step-000001.jsonl"
    assert [row.completion.text for row in read_rollouts(file)] == ["a", "b"]
    with pytest.raises(DataError, match=r"step=10: .* is not the folder of a run"):
        read_rollouts(file, step=10)
    with pytest.raises(DataError, match=r"has no rollouts"):
        read_rollouts(folder)
    with pytest.raises(DataError, match=r"step-000002"):
        list(read_rollouts(tmp_path, step=2))


# Statistics.


def test_an_estimate_has_the_mean_and_pass_at_of_its_counts() -> None:
    found = estimate([4, 0, 3, 1], k=4)
    assert (found.k, found.n_problems, found.avg_at_k) == (4, 4, 0.5)
    assert found.stderr_rerun == pytest.approx(math.sqrt((3 + 3) / (16 * 3)) / 4)
    assert found.stderr_problems == pytest.approx(math.sqrt((4 + 4 + 1 + 1) / 16 / 3 / 4))
    assert found.rerun_95.low < 0.5 < found.rerun_95.high
    assert found.problems_95.low < found.rerun_95.low < found.rerun_95.high < found.problems_95.high
    shares = [pass_at(2, correct=c, k=4) for c in (4, 0, 3, 1)]
    assert found.pass_at_k[2] == pytest.approx(sum(shares) / 4)


@pytest.mark.parametrize(("correct", "k"), [([], 4), ([1], 0), ([5], 4), ([-1], 4)])
def test_counts_that_cannot_be_are_refused(correct: list[int], k: int) -> None:
    with pytest.raises(ValueError, match=rf"k={k}"):
        estimate(correct, k=k)
    with pytest.raises(ValueError, match=rf"k={k}"):
        compare_counts(correct, [1], k_before=k, k_after=4)


def test_counts_of_different_problems_are_not_compared() -> None:
    with pytest.raises(ValueError, match="1 problems before, 2 after: must be the same"):
        compare_counts([1], [1, 2], k_before=4, k_after=4)
    with pytest.raises(ValueError, match="1 after, 2 named: must be the same"):
        compare_counts([1], [1], k_before=4, k_after=4, problems=[("a", "1"), ("b", "2")])
