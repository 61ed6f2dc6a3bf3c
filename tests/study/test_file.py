"""The file of a study: variants, their names, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from dgpo_cli.core.errors import ConfigError
from dgpo_cli.study.fields import combined
from dgpo_cli.study.file import StudyFile, read_file
from dgpo_cli.study.search import Span


def study(folder: Path, text: str) -> StudyFile:
    path = folder / "rules.toml"
    path.write_text(text)
    return read_file(path)


def refused(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        study(folder, text)
    return str(caught.value)


def test_variants_are_the_product_of_the_axes_and_the_named_ones(tmp_path: Path) -> None:
    found = study(
        tmp_path,
        """
        preset = "tiny"
        seeds = [3, 5]
        [set]
        train.steps = 7
        [axes]
        "credit.rule" = ["uniform", "entropy"]
        "optim.lr" = [1e-4, 2e-5]
        [variants.small]
        "credit.tau" = 0.02
        """,
    )
    assert [each.name for each in found.variants] == [
        "rule=uniform,lr=0.0001",
        "rule=uniform,lr=2e-5",
        "rule=entropy,lr=0.0001",
        "rule=entropy,lr=2e-5",
        "small",
    ]
    assert found.variants[1].settings == {"credit.rule": "uniform", "optim.lr": 2e-5}
    assert (found.seeds, found.baseline) == ((3, 5), "rule=uniform,lr=0.0001")
    settings = found.resolve(found.variants[1]).settings
    assert (settings.train.steps, settings.credit.rule, settings.optim.lr) == (7, "uniform", 2e-5)
    assert (
        found.resolve(
            next(each for each in found.variants if each.name == "small")
        ).settings.credit.rule
        == "dgpo"
    )


def test_a_number_of_seeds_stands_for_the_first_ones(tmp_path: Path) -> None:
    assert study(tmp_path, 'preset = "tiny"\nseeds = 3').seeds == (0, 1, 2)


def test_without_axes_and_variants_the_recipe_is_the_variant(tmp_path: Path) -> None:
    (only,) = study(tmp_path, 'preset = "tiny"\nseeds = 1').variants
    assert (only.name, only.settings) == ("tiny", {})


def test_a_file_of_settings_is_beside_the_study(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("[optim]\nlr = 5e-4\n")
    found = study(tmp_path, 'settings = "mine.toml"\nseeds = 1')
    assert found.resolve(found.variants[0]).settings.optim.lr == 5e-4


def test_the_baseline_may_be_the_value_that_one_variant_has(tmp_path: Path) -> None:
    text = 'preset = "tiny"\nseeds = 1\nbaseline = "entropy"\n[axes]\n"credit.rule" = '
    assert study(tmp_path, text + '["uniform", "entropy"]').baseline == "rule=entropy"
    assert "no such variant; did you mean" not in refused(tmp_path, text + '["uniform"]')


def test_names_show_what_differs_and_are_safe_in_a_path() -> None:
    assert combined({"credit.rule": "my/rules.py:Mine"}) == "rule=rules.py-Mine"
    assert combined({"a.kind": "x", "b.kind": True}) == "a.kind=x,b.kind=true"
    assert combined({"prompts.operations": [2, 3]}) == "operations=2-3"


def test_a_search_has_lists_and_ranges(tmp_path: Path) -> None:
    found = study(
        tmp_path,
        """
        preset = "tiny"
        seeds = 2
        [tune]
        seeds = [1000]
        kind = "random"
        trials = 4
        optim.lr = {low = 1e-5, high = 1e-3, log = true}
        "optim.beta2" = [0.9, 0.99]
        """,
    )
    assert found.search is not None and found.search.trials == 4
    assert found.space.values == {
        "optim.lr": Span(low=1e-5, high=1e-3, log=True),
        "optim.beta2": (0.9, 0.99),
    }


HEAD = 'preset = "tiny"\nseeds = 2\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('presets = "tiny"\nseeds = 1', "presets is unknown; did you mean preset?"),
        ('preset = "tiny"', "seeds is required"),
        (HEAD + "optim = 1", "optim is unknown; settings are in [set]"),
        ('preset = "tiny"\nseeds = []', "seeds=[]: must not be empty"),
        ('preset = "tiny"\nseeds = 0', "a number of them from 1"),
        ('preset = "tiny"\nseeds = true', "must be a list"),
        ('preset = "tiny"\nseeds = [1, 1]', "1 is listed twice"),
        ("hours = 0\n" + HEAD, "hours=0: must be greater than 0 (Wall-clock hours"),
        ('preset = "tinny"\nseeds = 1', "did you mean tiny?"),
        (HEAD + 'settings = "no.toml"', "preset=tiny and settings=no.toml: give one of them"),
        (HEAD + '[set]\n"optim.lrr" = 1', "optim.lrr (rules.toml [set]): unknown setting; did"),
        (HEAD + '[variants.u]\ncredit.rule = "unifrm"', "credit.rule=unifrm (rules.toml, u): must"),
        (HEAD + "[set]\nseed = 3", "list them as seeds"),
        (HEAD + '[axes]\n"optim.lr" = 1e-4', "must be a list of its values"),
        (HEAD + '[axes]\n"optim.lr" = [1e-4, -1.0]', "must be greater than 0"),
        (HEAD + '[axes]\n"optim.lr" = [1e-4, 1e-4]', "has 0.0001 twice; list each value once"),
        (HEAD + '[axes]\n"optim.lr" = []', "optim.lr=[]: must have at least one value"),
        (HEAD + '[variants."a/b"]\n"optim.lr" = 1e-4', "cannot be the name of a folder"),
        (HEAD + "[variants.ess-0.9]\ncredit.target_ess = 0.9", 'write [variants."ess-0.9"]'),
        (HEAD + "[variants]\nsmall = 3", "must be a table of settings"),
        (
            HEAD + '[variants.u]\n"credit.rule" = "uniform"\n"credit.tau" = 1.0',
            "rule uniform has no tau",
        ),
        ('baseline = "unl"\n' + HEAD + "[variants.uni]\n", "no such variant; did you mean uni?"),
        (HEAD + '[eval]\nbench = "sums"\nkk = 2', "kk is unknown; did you mean k?"),
        (HEAD + "[eval]\nk = 2", "bench is required"),
        (HEAD + '[tune]\nseeds = [9]\n"optim.lr" = []', "must be a list of values"),
        (HEAD + "[tune]\nseeds = [9]", "name what to search"),
        (HEAD + '[tune]\nseeds = [1]\n"optim.lr" = [1e-4]', "1 is a seed of the comparison"),
        (HEAD + '[tune]\nseeds = [9]\nhalvin = 2\n"optim.lr" = [1e-4]', "did you mean halving?"),
        (HEAD + '[tune]\nseeds = [9]\nkind = "random"\n"optim.lr" = [1e-4]', "needs trials"),
        (HEAD + '[tune]\nseeds = [9]\n"optim.lr" = {low = 1e-5, high = 1e-3}', "a grid needs"),
        (HEAD + '[tune]\nseeds = [9]\n"optim.lr" = [2.0]', "must be less than 1"),
        (
            HEAD + '[tune]\nseeds = [9]\nhalving = 2\n"optim.lr" = [1e-4, 2e-4, 4e-4]',
            "halving=2: needs at least 4 trials, and there are 3",
        ),
        (
            HEAD + '[set]\n"optim.schedule" = "linear"\n'
            '[tune]\nseeds = [9]\nhalving = 2\n"optim.lr" = [1e-4, 2e-4, 4e-4, 8e-4]',
            "set optim.schedule=constant",
        ),
    ],
)
def test_a_fault_is_named_with_its_fix(tmp_path: Path, text: str, said: str) -> None:
    found = refused(tmp_path, text)
    assert said in found
    assert len(found.splitlines()) == 1


SHIPPED = sorted((Path(__file__).parents[2] / "benchmarks/studies").glob("*.toml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_studies_of_the_benchmarks_are_accepted(path: Path) -> None:
    found = read_file(path)
    assert found.baseline == "uniform" and found.search is not None
