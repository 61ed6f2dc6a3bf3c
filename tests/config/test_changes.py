"""Laws of settings that change within a run: which may, how they are told, and a run's name."""

from __future__ import annotations

from pathlib import Path

import pytest

from dgpo_cli.config.changes import differences, run_name
from dgpo_cli.config.load import resolve
from dgpo_cli.config.tree import change_of, known_leaves
from dgpo_cli.core.schema import Change

FIXED = "model.path model.revision adapter.kind adapter.rank adapter.alpha adapter.dropout "
FIXED += "adapter.targets adapter.rslora adapter.dora optim.kind "
FIXED += "prompts.kind prompts.problem_column prompts.answer_column prompts.dataset "
FIXED += "prompts.revision prompts.split prompts.files prompts.env prompts.env_args"
FREE = """
prompts.timeout_s
model.device model.compile model.gradient_checkpointing
rollout.backend.batch_size rollout.backend.max_num_seqs rollout.backend.retries
rollout.backend.request_timeout_s rollout.backend.startup_timeout_s
rollout.backend.canary_tolerance rollout.backend.gpu_memory_utilization rollout.backend.cache_gib
rollout.backend.tensor_parallel_size rollout.backend.enforce_eager rollout.backend.sleep
rollout.backend.weight_transfer rollout.backend.urls rollout.backend.api_key_env
rollout.backend.sync_dir rollout.backend.sync_host rollout.backend.max_in_flight
reward.workers reward.api_key_env reward.max_in_flight reward.retries
optim.micro_batch_size optim.micro_batch_tokens
train.steps train.checkpoint_every train.keep_checkpoints train.rollouts_every train.threads
train.stop_signal
eval.every eval.bench eval.data eval.k eval.protocol eval.temperature eval.top_p eval.top_k
eval.max_completion_tokens
track.to track.project track.name track.mode parallel.kind parallel.gpus
parallel.reference parallel.sequence parallel.timeout_s
"""
LEARNT = """
prompts.max_turns prompts.max_turn_tokens reward.correct_at
seed model.dtype model.compute model.attention model.quantization model.trust_remote_code
prompts.template prompts.system prompts.chat_template prompts.assistant_prefix
prompts.max_prompt_tokens prompts.operations prompts.max_operand
prompts.drop_overlap prompts.path
rollout.prompts_per_step rollout.group_size rollout.temperature rollout.top_p rollout.top_k
rollout.max_completion_tokens rollout.stop rollout.dynamic_sampling rollout.max_rounds
rollout.overlap rollout.backend.kind rollout.backend.max_model_len rollout.backend.dtype
rollout.backend.quantization rollout.backend.url rollout.backend.api
rollout.backend.reasoning_effort rollout.backend.extra_body
reward.extract reward.correct reward.wrong reward.timeout_s reward.overlong.buffer_tokens
reward.overlong.penalty reward.kind reward.minimum reward.maximum reward.choices
prompts.sources
prompts.select.low prompts.select.high prompts.select.window prompts.select.again_every
reward.terms reward.path reward.group reward.batch_size reward.correct_at reward.memory_gib
reward.url
advantage.baseline advantage.std advantage.normalize
credit.rule credit.tau credit.kappa credit.target_ess credit.target_ess_over credit.max_weight
credit.noise_every credit.sign credit.refresh credit.share credit.share_over credit.mix credit.cap
credit.continuations
loss.kind loss.aggregation loss.mask_truncated loss.kl loss.clip_low loss.clip_high loss.dual_clip
loss.sequence_clip_low loss.sequence_clip_high loss.weight_min loss.weight_max
off_policy.correction off_policy.mode off_policy.cap
optim.lr optim.warmup_steps optim.schedule optim.weight_decay optim.beta1 optim.beta2 optim.eps
optim.max_grad_norm optim.updates_per_step optim.grad_noise
"""


@pytest.mark.parametrize(
    ("change", "names"),
    [(Change.FREE, FREE), (Change.LEARNT, LEARNT), (Change.FIXED, FIXED)],
    ids=lambda value: value.name if isinstance(value, Change) else "",
)
def test_every_setting_is_known_to_be_free_learnt_or_fixed(change: Change, names: str) -> None:
    """A new setting fails here until somebody has thought about what it does to a run."""
    assert {key for key in known_leaves() if change_of(key) == change} == set(names.split())


def test_a_setting_that_nobody_marked_counts_as_learnt() -> None:
    assert change_of("credit.a_new_one") == Change.LEARNT


def told(old: list[str], new: list[str]) -> list[tuple[str, object, object]]:
    before, after = (resolve(preset="tiny", overrides=each) for each in (old, new))
    return [(each.setting, each.old, each.new) for each in differences(before, after)]


def test_another_variant_is_one_difference_and_what_was_set_in_it() -> None:
    assert told([], ["credit.rule=uniform"]) == [("credit.rule", "dgpo", "uniform")]
    assert told(["credit.tau=0.02"], ["credit.rule=uniform"]) == [
        ("credit.rule", "dgpo", "uniform"),
        ("credit.tau", 0.02, None),
    ]
    assert told(["credit.rule=uniform"], ["credit.target_ess=0.9"]) == [
        ("credit.rule", "uniform", "dgpo"),
        ("credit.target_ess", None, 0.9),
    ]


def test_equal_settings_do_not_differ_however_they_were_given() -> None:
    assert told(["prompts.operations=[2]", "optim.lr=0.0002"], ["optim.lr=2e-4"]) == []
    assert told([], ["prompts.system="]) == []


def test_a_list_of_tables_may_change_where_all_fields_that_differ_may(tmp_path: Path) -> None:
    file = tmp_path / "terms.toml"
    file.write_text(
        '[reward]\nkind = "terms"\n[[reward.terms]]\nkind = "http"\nurl = "http://one/"\n'
        '[[reward.terms]]\nkind = "integer"\nweight = 2.0\n'
    )

    def change(*overrides: str) -> tuple[Change, bool]:
        before, after = (resolve(config=file, overrides=each) for each in ((), overrides))
        (found,) = differences(before, after)
        assert found.setting == "reward.terms"
        return found.change, found.learnt

    free, key = "reward.terms.0.max_in_flight=2", "reward.terms.0.api_key_env=KEY"
    assert change(free) == change(free, key) == (Change.FREE, False)
    assert change("reward.terms.0.url=http://two/") == (Change.LEARNT, True)
    assert change(free, "reward.terms.1.weight=3") == (Change.LEARNT, True)
    assert change("reward.terms=[{kind = 'integer', weight = 2}]") == (Change.LEARNT, True)


def test_a_table_is_one_difference() -> None:
    table = "prompts.chat_template"
    assert told([f"{table}.a=1"], [f"{table}.a=1", f"{table}.b=[x]"]) == [
        (table, {"a": 1}, {"a": 1, "b": "[x]"})
    ]
    assert told([], [f"{table}={{}}"]) == []


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], "tiny"),
        (["credit.rule=dgpo", "optim.lr=2e-4"], "tiny"),
        (["train.steps=5", "eval.every=0", "track.to=[]", "model.device=cpu"], "tiny"),
        (["credit.rule=uniform"], "tiny-uniform"),
        (["seed=3", "credit.tau=0.02"], "tiny-seed3-tau0.02"),
        (["optim.lr=1e-5", "optim.beta1=0.8"], "tiny-lr1e-5-beta1-0.8"),
        (["adapter.kind=lora", "adapter.rank=4"], "tiny-lora-rank4"),
        (["advantage.std=none", "loss.aggregation=constant"], "tiny-std-none-constant"),
        (["rollout.dynamic_sampling=true", "reward.minimum="], "tiny-dynamic_sampling-no-minimum"),
        (["prompts.kind=file", "prompts.path=../my data/x.jsonl"], "tiny-file-x.jsonl"),
        (["model.path=Qwen/Qwen2.5-7B"], "tiny-Qwen2.5-7B"),
        (["prompts.operations=[1, 2]"], "tiny-operations1-2"),
        (["prompts.chat_template.enable_thinking=false"], "tiny-enable_thinking-false"),
    ],
)
def test_a_name_says_what_is_learnt_otherwise(overrides: list[str], name: str) -> None:
    recipe, resolved = resolve(preset="tiny"), resolve(preset="tiny", overrides=overrides)
    assert run_name("tiny", recipe=recipe, resolved=resolved) == name


def test_a_name_leaves_out_the_defaults_of_another_kind() -> None:
    recipe = resolve()
    assert recipe.settings.reward.timeout_s != 60
    other = resolve(overrides=("reward.kind=python", "reward.path=a/my.py:score"))
    assert other.settings.reward.timeout_s == 60  # the default of that kind
    assert run_name("tiny", recipe=recipe, resolved=other) == "tiny-python-score"


def test_a_recipe_with_an_adapter_says_that_there_is_none() -> None:
    recipe = resolve(preset="smollm2-lora")
    full = resolve(preset="smollm2-lora", overrides=["adapter.kind=none"])
    assert run_name("smollm2-lora", recipe=recipe, resolved=full) == "smollm2-lora-adapter-none"


MANY = ["seed=17", "rollout.group_size=8", "rollout.prompts_per_step=4", "optim.lr=3e-4"]
MANY += ["credit.tau=0.0001", "loss.clip_high=0.2", "off_policy.correction=none"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([*MANY, "optim.eps=1e-6"], [*MANY, "optim.eps=1e-7"]),
        (["prompts.template=A/{problem}"], ["prompts.template=B/{problem}"]),
        (["prompts.system=../../etc"], ["prompts.system=.."]),
    ],
)
def test_long_and_strange_values_become_a_short_hash_of_their_own(
    one: list[str], other: list[str]
) -> None:
    recipe = resolve(preset="tiny")
    first, second = (
        run_name("tiny", recipe=recipe, resolved=resolve(preset="tiny", overrides=each))
        for each in (one, other)
    )
    assert first != second
    for name in (first, second):
        assert len(name) <= 64 + len("tiny")
        assert name.replace("-", "").replace("_", "").replace(".", "").isalnum()


@pytest.mark.parametrize(("flag", "words"), [("true", ("on", "full")), ("false", ("off", "none"))])
def test_a_flag_of_an_earlier_version_is_the_word_that_took_its_place(
    flag: str, words: tuple[str, str], tmp_path: Path
) -> None:
    (file := tmp_path / "settings.toml").write_text(
        f"[model]\ncompile = {flag}\ngradient_checkpointing = {flag}\n", encoding="utf-8"
    )
    old = resolve(config=file)
    names = ("model.compile", "model.gradient_checkpointing")
    new = resolve(overrides=[f"{key}={word}" for key, word in zip(names, words, strict=True)])
    assert (old.settings.model.compile, old.settings.model.gradient_checkpointing) == words
    assert differences(old, new) == ()
