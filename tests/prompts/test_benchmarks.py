"""Benchmarks that dgpo ships are fixed and held out; files serve as benchmarks too."""

from pathlib import Path

import pytest

from dgpo_cli.errors import ConfigError, DataError
from dgpo_cli.prompts import benchmarks
from dgpo_cli.prompts.benchmarks import benchmark_names, load_benchmark, load_manifest
from dgpo_cli.prompts.sums import held_out
from dgpo_cli.types import Message

OPERATIONS = {"sums": 2, "sums-easy": 1, "sums-hard": 3}


def test_every_manifest_validates() -> None:
    assert set(OPERATIONS) <= set(benchmark_names())
    for name in benchmark_names():
        assert load_manifest(name).title


@pytest.mark.parametrize(("name", "operations"), OPERATIONS.items())
def test_sums_benchmarks_are_the_thirty_held_out_problems(name: str, operations: int) -> None:
    bench = load_benchmark(name)
    problems = held_out(operations)
    assert bench.name == name
    assert len(bench.prompts) == len({p.id for p in bench.prompts}) == 30
    assert [(p.text, p.answer) for p in bench.prompts] == [
        (f"{problem.expression}?", str(problem.answer)) for problem in problems
    ]
    assert {sum(p.id.count(sign) for sign in "+-*") for p in bench.prompts} == {operations}
    assert load_benchmark(name) == bench


def test_template_and_system_reach_a_benchmark() -> None:
    prompt = load_benchmark("sums", template="Q {problem}", system="S").prompts[0]
    assert prompt.messages == (Message("system", "S"), Message("user", f"Q {prompt.id}?"))


def test_a_file_is_a_benchmark(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("q,a\n1+1?,2\n1+1?,2\n2+2?,4\n")
    bench = load_benchmark(str(path), problem_column="q", answer_column="a")
    assert bench.name == "mine"
    assert [(p.text, p.answer) for p in bench.prompts] == [("1+1?", "2"), ("2+2?", "4")]
    assert len(bench.notes) == 1


def test_an_unknown_name_exits_with_the_nearest_and_the_list() -> None:
    with pytest.raises(ConfigError) as caught:
        load_benchmark("sums-eazy")
    assert caught.value.exit_code == 2
    assert "did you mean sums-easy?" in str(caught.value)
    assert all(name in str(caught.value) for name in benchmark_names())


@pytest.mark.parametrize("name", ["../benchmarks/sums", "sums.toml", "", "."])
def test_only_plain_names_reach_a_manifest(name: str) -> None:
    with pytest.raises(ConfigError, match="no such benchmark or file"):
        load_benchmark(name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind = ", "not TOML"),
        ('kind = "sums"\ntitle = "t"\noperations = 0\ncount = 3', "operations"),
        ('kind = "sums"\ntitle = "t"\noperations = 1', "count"),
        ('kind = "hub"\ntitle = "t"\noperations = 1\ncount = 3', "kind"),
        ('kind = "sums"\ntitle = "t"\noperations = 1\ncount = 3\ncolour = 1', "colour"),
    ],
)
def test_a_broken_manifest_names_file_and_field(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    (folder / "bad.toml").write_text(text)
    monkeypatch.setattr(benchmarks, "resource_dir", lambda name: tmp_path)
    with pytest.raises(DataError, match=rf"bad\.toml: .*{message}"):
        load_benchmark("bad")
