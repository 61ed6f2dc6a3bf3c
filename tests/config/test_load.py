"""Laws of the layers of settings: precedence, typing of --set, unions, what is refused and how."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from dgpo_cli.config.load import Resolved, resolve
from dgpo_cli.config.settings import Settings
from dgpo_cli.config.tree import flatten
from dgpo_cli.core.errors import ConfigError


def file_with(text: str, folder: Path) -> Path:
    path = folder / "x.toml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(*overrides: str, config: Path | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        resolve(config=config, overrides=overrides)
    return str(caught.value).splitlines()


def value(resolved: Resolved, key: str) -> object:
    return flatten(resolved.settings)[key]


def test_no_layers_give_the_defaults() -> None:
    resolved = resolve()
    assert resolved.settings == Settings()
    assert set(resolved.sources.values()) == {"default"}
    assert resolved.notes == ()


def test_a_higher_layer_wins_and_is_named_as_the_source(tmp_path: Path) -> None:
    config = file_with("[optim]\nlr = 2e-6\nbeta1 = 0.8\n[train]\nsteps = 7\n", tmp_path)
    resolved = resolve(
        config=config,
        overrides=["optim.lr=3e-6", "train.steps=8"],
        flags={"train.steps": ("--steps", 9)},
    )
    found = {k: (value(resolved, k), resolved.sources[k]) for k in resolved.sources}
    assert found["optim.eps"] == (1e-8, "default")
    assert found["optim.beta1"] == (0.8, f"file {config}")
    assert found["optim.lr"] == (3e-6, "--set")
    assert found["train.steps"] == (9, "--steps")


def test_a_preset_is_the_source_of_its_values() -> None:
    resolved = resolve(preset="tiny")
    assert resolved.sources["optim.lr"] == "preset tiny"
    assert value(resolved, "model.path") == "embedded:tiny"


def test_every_leaf_has_a_source() -> None:
    resolved = resolve(preset="tiny", overrides=["credit.rule=uniform", "adapter.kind=lora"])
    assert list(resolved.sources) == list(flatten(resolved.settings))


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["enable_thinking=false"], {"enable_thinking": False}),
        (["a=high", 'b="3"', "c=3", "d=0.5", "e=[1, 'x']"],
         {"a": "high", "b": "3", "c": 3, "d": 0.5, "e": (1, "x")}),
        (["a=1", "b=2", "a=3"], {"a": 3, "b": 2}),
        (["a=1", "a="], None),
    ],
)  # fmt: skip
def test_entries_of_a_table_are_set_one_by_one(overrides: list[str], expected: object) -> None:
    resolved = resolve(overrides=[f"prompts.chat_template.{each}" for each in overrides])
    assert value(resolved, "prompts.chat_template") == expected


def test_a_higher_layer_adds_to_a_table_and_removes_from_it(tmp_path: Path) -> None:
    config = file_with("[prompts.chat_template]\na = true\nb = 'x'\n", tmp_path)
    table = "prompts.chat_template"
    more = resolve(config=config, overrides=[f"{table}.c=1", f"{table}.a="])
    assert value(more, table) == {"b": "x", "c": 1}
    assert more.sources[table] == "--set"
    assert value(resolve(config=config, overrides=[f"{table}={{a = false}}"]), table) == {
        "a": False,
        "b": "x",
    }
    assert value(resolve(config=config, overrides=[f"{table}="]), table) is None


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("messages=x", "messages is set by dgpo or the tokenizer; leave it out"),
        ("bos_token=x", "bos_token is set by dgpo or the tokenizer; leave it out"),
        ("a.b=1", "a must be true or false, a number, text, or a list of these"),
        ("a=2020-01-01", "a must be true or false, a number, text, or a list of these"),
        ("a-b=1", "'a-b' cannot be a name; use letters, digits and _"),
    ],
)
def test_a_table_that_no_template_can_take_is_refused(override: str, said: str) -> None:
    assert refusal(f"prompts.chat_template.{override}") == [f"prompts.chat_template: {said}"]


def test_a_value_is_not_a_table() -> None:
    (line,) = refusal("prompts.chat_template=off")
    assert line == "prompts.chat_template: must be a table, such as {name = true}"


def test_preset_and_file_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give one of them"):
        resolve(preset="tiny", config=file_with("", tmp_path))


@pytest.mark.parametrize(
    ("argument", "key", "expected"),
    [
        ("optim.lr=1e-6", "optim.lr", 1e-6),
        ("optim.lr = 1e-6 ", "optim.lr", 1e-6),
        ("train.steps=1e2", "train.steps", 100),
        ("model.trust_remote_code=true", "model.trust_remote_code", True),
        ("model.gradient_checkpointing=true", "model.gradient_checkpointing", "full"),
        ("model.gradient_checkpointing=auto", "model.gradient_checkpointing", "auto"),
        ("model.compile=false", "model.compile", "off"),
        ("prompts.operations=[1, 3]", "prompts.operations", (1, 3)),
        ("model.path=Qwen/Qwen2.5-7B", "model.path", "Qwen/Qwen2.5-7B"),
        ('model.path="Qwen/Qwen2.5-7B"', "model.path", "Qwen/Qwen2.5-7B"),
        ("model.path=a=b", "model.path", "a=b"),
        ("model.revision=123", "model.revision", "123"),
        ("model.revision=1e5", "model.revision", "1e5"),
        ("model.revision=true", "model.revision", "true"),
        ("model.revision=2024-01-01", "model.revision", "2024-01-01"),
        ("model.revision=", "model.revision", None),
        ("reward.minimum=", "reward.minimum", None),
        ("prompts.system=", "prompts.system", None),
        ("prompts.template=1\nx = {problem}", "prompts.template", "1\nx = {problem}"),
        ('credit={rule = "uniform"}', "credit.rule", "uniform"),
    ],
)
def test_set_reads_toml_and_falls_back_to_text(argument: str, key: str, expected: object) -> None:
    found = value(resolve(overrides=[argument]), key)
    assert found == expected
    assert type(found) is type(expected)


def test_the_last_of_equal_sets_wins() -> None:
    assert value(resolve(overrides=["seed=1", "seed=2"]), "seed") == 2


@pytest.mark.parametrize("argument", ["optim.lr", "=3", "optim.=3", ".lr=3", ""])
def test_set_without_key_and_value_says_its_form(argument: str) -> None:
    assert refusal(argument) == [
        f"--set {argument}: needs the form key=value, for example --set optim.lr=1e-6"
    ]


def test_changing_a_tag_drops_what_the_new_variant_lacks_and_says_so() -> None:
    resolved = resolve(preset="tiny", overrides=["credit.rule=uniform"])
    assert flatten(resolved.settings.credit) == {
        "rule": "uniform",
        "sign": "both",
        "refresh": "step",
    }
    assert resolved.notes == (
        "credit.tau, credit.kappa, credit.target_ess_over, credit.max_weight, credit.noise_every "
        "from preset tiny are dropped: rule uniform has none of them",
    )


def test_changing_a_tag_keeps_what_both_variants_have(tmp_path: Path) -> None:
    config = file_with('[reward]\nkind = "integer"\ncorrect = 2.0\nmaximum = 9\n', tmp_path)
    resolved = resolve(config=config, overrides=["reward.kind=math"])
    assert value(resolved, "reward.correct") == 2.0
    assert resolved.sources["reward.correct"] == f"file {config}"
    assert resolved.notes == (
        f"reward.maximum from file {config} is dropped: kind math has no maximum",
    )


@pytest.mark.parametrize("kind", ["gspo", "cispo"])
def test_a_loss_keeps_no_bounds_of_another_kind(kind: str) -> None:
    resolved = resolve(preset="tiny", overrides=[f"loss.kind={kind}"])
    bounds = {name: flatten(resolved.settings.loss)[name] for name in _BOUNDS[kind]}
    assert bounds == _BOUNDS[kind]
    assert resolved.notes == (
        f"loss.clip_low, loss.clip_high from preset tiny are dropped: kind {kind} has none of them",
    )


_BOUNDS = {
    "gspo": {"sequence_clip_low": 3e-4, "sequence_clip_high": 4e-4},
    "cispo": {"weight_min": 0.0, "weight_max": 5.0},
}


def test_values_dropped_from_the_defaults_are_no_news() -> None:
    assert resolve(overrides=["credit.rule=uniform"]).notes == ()


def test_a_tag_may_change_in_a_nested_union() -> None:
    resolved = resolve(preset="tiny", overrides=["rollout.backend.kind=vllm"])
    assert value(resolved, "rollout.backend.gpu_memory_utilization") == 0.45
    assert len(resolved.notes) == 1 and "rollout.backend.batch_size" in resolved.notes[0]


def test_a_tag_changed_back_gives_defaults_not_dropped_values(tmp_path: Path) -> None:
    config = file_with("[credit]\ntau = 0.9\n", tmp_path)
    flags = {"credit.rule": ("--rule", "dgpo")}
    resolved = resolve(config=config, overrides=["credit.rule=uniform"], flags=flags)
    assert value(resolved, "credit.tau") == 0.5
    assert resolved.sources["credit.tau"] == "default"


def test_a_key_of_another_variant_in_the_same_layer_is_refused() -> None:
    assert refusal("credit.rule=uniform", "credit.tau=1") == [
        "credit.tau (--set): rule uniform has no tau; set credit.rule=dgpo, or leave it out"
    ]


def test_an_unknown_variant_names_the_nearest() -> None:
    assert refusal("credit.rule=unifrm") == [
        "credit.rule=unifrm: must be one of dgpo, uniform, entropy, top-entropy, proportional, "
        "surprisal, value, or a class of yours, as in my_file.py:Mine; did you mean uniform?"
    ]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("lr", "optim.lr"),
        ("group_size", "rollout.group_size"),
        ("optim.lrr", "optim.lr"),
        ("optimizer.lr", "optim.lr"),
        ("optim.lr.x", "optim.lr"),
        ("temprature", "rollout.temperature"),
        ("rollout.tau", "credit.tau"),
        ("train.adapter.rank", "adapter.rank"),
    ],
)
def test_an_unknown_key_names_the_nearest_known_one(typed: str, meant: str) -> None:
    assert refusal(f"{typed}=1") == [f"{typed} (--set): unknown setting; did you mean {meant}?"]


def test_an_unknown_key_in_a_file_names_the_file(tmp_path: Path) -> None:
    config = file_with("[optimizer]\nlr = 1\n", tmp_path)
    assert refusal(config=config) == [
        f"optimizer.lr (file {config}): unknown setting; did you mean optim.lr?"
    ]


def test_a_key_like_none_says_where_all_are_listed() -> None:
    assert refusal("xyzzy=1") == ["xyzzy (--set): unknown setting; --dry-run lists all settings"]


def test_a_value_in_place_of_a_section_names_what_is_in_it() -> None:
    assert refusal("credit=uniform") == [
        "credit=uniform (--set): is a section, not a value; it has credit.rule"
    ]


@pytest.mark.parametrize(
    ("argument", "complaint"),
    [
        ("credit.tau=0", "must be greater than 0; set for example 0.5"),
        ("seed=-1", "must be at least 0"),
        ("rollout.top_p=1.5", "must be at most 1"),
        ("optim.lr=1", "must be less than 1"),
        ("seed=2147483648", "must be less than 2147483648"),
        ("optim.lr=nan", "must be finite"),
        ("train.steps=1.5", "must be a whole number"),
        ("train.steps=true", "must be a whole number"),
        ("reward.timeout_s=abc", "must be a number"),
        ("model.trust_remote_code=maybe", "must be true or false"),
        ("model.dtype=bfloat", "must be one of float32, bfloat16, float16; did you mean"),
        ("model.path=", "must not be empty"),
        ("prompts.operations=2", "must be a list"),
        ("prompts.operations=[]", "must not be empty"),
        ("model.device=gpu", "has the wrong form; set for example auto"),
    ],
)
def test_a_refused_value_is_named_with_its_fix_in_one_line(argument: str, complaint: str) -> None:
    (line,) = refusal(argument)
    assert line.startswith(f"{argument}: {complaint}")


def test_a_refused_item_of_a_list_is_named_by_itself() -> None:
    (line,) = refusal("prompts.operations=[2, 0]")
    assert line.startswith("prompts.operations=0: must be at least 1")


def test_a_refused_value_says_which_file_or_flag_it_is_from(tmp_path: Path) -> None:
    config = file_with("[optim]\nlr = -1\n", tmp_path)
    with pytest.raises(ConfigError) as caught:
        resolve(config=config, flags={"seed": ("--seed", -2)})
    first, second = str(caught.value).splitlines()
    assert first.startswith("seed=-2 (--seed): must be at least 0")
    assert second.startswith(f"optim.lr=-1 (file {config}): must be greater than 0")


def test_a_missing_required_value_is_named() -> None:
    (line,) = refusal("prompts.kind=file")
    assert line.startswith("prompts.path: is required")


def test_all_mistakes_are_reported_at_once() -> None:
    lines = refusal("lr=1", "credit.tau=0", "seed=-1")
    assert [line.split(" ")[0].split(":")[0] for line in lines] == ["lr", "seed=-1", "credit.tau=0"]


def test_broken_toml_names_file_and_line(tmp_path: Path) -> None:
    config = file_with("seed = 1\n[optim\n", tmp_path)
    (line,) = refusal(config=config)
    assert str(config) in line
    assert "line 2" in line


@pytest.mark.parametrize("text", ["seed = 1\n[optim", "seed = [1,\n2", "seed = 1\nx = '''a"])
@pytest.mark.parametrize("end", ["", "\n"])
def test_toml_that_is_open_at_the_end_names_the_last_line(
    tmp_path: Path, text: str, end: str
) -> None:
    (line,) = refusal(config=file_with(text + end, tmp_path))
    assert "line 2" in line and "end of document" not in line


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    (line,) = refusal(config=tmp_path / "absent.toml")
    assert line == f"{tmp_path / 'absent.toml'}: no such file or directory; give a TOML file"


def test_a_file_that_cannot_be_read_is_named_without_an_option_that_was_not_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, **others: object) -> str:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_text", refuse)
    (line,) = refusal(config=tmp_path / "settings.toml")
    assert line == f"{tmp_path / 'settings.toml'}: permission denied; make it readable"


def test_a_file_that_is_not_text_is_named(tmp_path: Path) -> None:
    config = tmp_path / "x.toml"
    config.write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8" in refusal(config=config)[0]


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    config = tmp_path / "x.toml"
    config.write_bytes(b"\xef\xbb\xbfseed = 5\r\n")
    assert resolve(config=config).settings.seed == 5


def test_a_description_is_no_setting_but_only_in_files(tmp_path: Path) -> None:
    config = file_with('description = "mine"\nseed = 5\n', tmp_path)
    assert resolve(config=config).settings.seed == 5
    assert "unknown setting" in refusal("description=mine")[0]


def test_trusting_a_models_code_is_said_in_one_line() -> None:
    assert resolve().notes == ()
    told = resolve(overrides=["model.trust_remote_code=true", "model.path=me/model"])
    assert told.notes == (
        "model.trust_remote_code=true: Python code that comes with me/model runs here, with all "
        "your rights",
    )
