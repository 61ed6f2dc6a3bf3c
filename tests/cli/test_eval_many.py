"""dgpo eval of several models and benchmarks: order, failures, resuming, and the table."""

from __future__ import annotations

import csv
import io
import json
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from dgpo_cli.cli.evaluate.many import Chosen, benches, chosen
from dgpo_cli.core.errors import BackendError, ConfigError, ModelError
from dgpo_cli.core.resources import resource_dir
from dgpo_cli.engine import setup
from dgpo_cli.evals import evaluate
from dgpo_cli.evals.matrix.many import distinct
from dgpo_cli.hub import model as hub_model
from tests.api_server import Api, is_probe, serve
from tests.cli.helpers import in_process as dgpo
from tests.evals.evaluations import Asked, boxed, install, problems

TINY = str(resource_dir("data") / "tiny")
SMALL = ["--set", "train.threads=1", "--set", "reward.workers=1"]
Command = Callable[..., Result]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with the benchmarks three.jsonl and two.jsonl."""
    monkeypatch.chdir(tmp_path)
    problems(tmp_path)
    rows = {"5+5": "10", "6+6": "12"}
    lines = [{"id": name, "problem": name, "answer": gold} for name, gold in rows.items()]
    (tmp_path / "two.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def run(*more: str, bench: str = "three.jsonl,two.jsonl", k: int = 2) -> Result:
    batch = [] if "--endpoint" in more else ["--set", "rollout.backend.batch_size=4"]
    return dgpo("eval", "--bench", bench, "--k", str(k), *SMALL, *batch, *more)


def cells(ended: Result) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(ended.stdout)))


def test_models_keep_the_order_in_which_they_were_typed() -> None:
    order = ["bench", "preset", "model", "k", "run", "model"]
    found = chosen(order, model=["a", "b"], run=[Path("r")], preset=["p"])
    assert [(each.option, each.value) for each in found] == [
        *(("--preset", "p"), ("--model", "a"), ("--run", "r"), ("--model", "b")),
    ]
    assert chosen([], model=None, run=None, preset=None) == []
    with pytest.raises(ConfigError, match="--model a: given twice"):
        chosen([], model=["a", "b", "a"])


def test_a_name_that_is_there_twice_gets_the_folder_it_is_in_or_a_number() -> None:
    names = ["m", "m", "other", "m", "m"]
    sources = ["a/m", "b/m", "x/other", "b/m", "m"]
    assert distinct(names, sources=sources) == ["a-m", "b-m", "other", "b-m-2", "m"]
    assert Chosen("--model", "Qwen/Qwen3-4B").name == "Qwen3-4B"


def test_a_comma_separates_benchmarks_unless_a_file_has_it_in_its_name(folder: Path) -> None:
    (folder / "a,b.jsonl").touch()
    assert benches("sums,aime2024") == ["sums", "aime2024"]
    assert benches("a,b.jsonl") == ["a,b.jsonl"]
    assert benches("./a,b.jsonl, sums") == ["./a,b.jsonl", "sums"]
    assert benches("sums,a,b.jsonl,c") == ["sums", "a,b.jsonl", "c"]
    for wrong, why in (
        ("sums,", "missing"),
        (",", "missing"),
        ("", "missing"),
        ("sums,sums", "sums is in it twice"),
        ("aime25,AIME_2025", "aime2025 is in it twice"),
    ):
        with pytest.raises(ConfigError, match=why):
            benches(wrong)


def test_every_model_is_loaded_once_and_its_cells_have_a_folder_each(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, Asked(boxed))
    loads = []
    load = setup.load_for_sampling
    monkeypatch.setattr(
        setup, "load_for_sampling", lambda *a, **b: loads.append(1) or load(*a, **b)
    )
    ended = run("--preset", "tiny", "--model", "embedded:tiny", "--preset", "smoke-absent")
    assert ended.exit_code == 2  # before anything is loaded
    assert loads == []
    ended = run("--preset", "tiny", "--model", "embedded:tiny", "--csv")
    assert ended.exit_code == 0, ended.stderr
    assert len(loads) == 2
    rows = cells(ended)
    assert [(row["bench"], row["model"]) for row in rows] == [
        *(("three", "tiny"), ("three", "embedded:tiny")),
        *(("two", "tiny"), ("two", "embedded:tiny")),
        *(("mean", "tiny"), ("mean", "embedded:tiny")),
    ]
    folders = [row["folder"] for row in rows if row["folder"]]
    assert len(set(folders)) == 4 and all(Path(each, "report.json").is_file() for each in folders)
    # The same command draws nothing more.
    asked = install(monkeypatch, Asked(boxed))
    again = run("--preset", "tiny", "--model", "embedded:tiny", "--csv")
    assert (again.stdout, asked.seeds) == (ended.stdout, [])


def test_a_cell_is_the_evaluation_of_one_model_on_one_benchmark(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, Asked(boxed))
    many = run("--preset", "tiny", "--csv")
    (three,) = [row for row in cells(many) if row["bench"] == "three"]
    asked = install(monkeypatch, Asked(boxed))
    (alone,) = cells(run("--preset", "tiny", "--csv", bench="three.jsonl"))
    assert asked.seeds == []  # its samples were found
    assert alone == three


def test_out_is_a_folder_of_folders(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Asked(boxed))
    ended = run("--preset", "tiny", "--model", "embedded:tiny", "--out", "here")
    assert ended.exit_code == 0, ended.stderr
    found = sorted(path.name for path in Path("here").iterdir())
    assert found == ["three-embedded:tiny", "three-tiny", "two-embedded:tiny", "two-tiny"]


def test_a_benchmark_has_one_column_for_models_that_fail_too(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, Asked(boxed))
    for models in (["tiny", "absent"], ["absent", "tiny"]):
        named = {"tiny": "--preset=tiny", "absent": "--model=org/absent"}
        ended = run(*(named[each] for each in models), "--json")
        assert ended.exit_code == 1
        found = json.loads(ended.stdout)
        assert (found["models"], found["benchmarks"]) == (models, ["three", "two"])


def test_what_fails_is_told_and_the_others_go_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, Asked(boxed))
    real = setup.load_for_sampling
    calls = []

    def load(*given: object, **more: object) -> object:
        calls.append(1)
        if len(calls) == 1:
            raise ValueError("no such architecture \x1b[31m")
        return real(*given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(setup, "load_for_sampling", load)
    ended = run("--model", "embedded:tiny", "--preset", "tiny", "--csv")
    assert ended.exit_code == 1
    assert "2 of 4 evaluations failed; run the same command" in ended.stderr
    rows = {(row["bench"], row["model"]): row for row in cells(ended)}
    for bench in ("three", "two"):
        assert rows[bench, "embedded:tiny"]["failure"].startswith("ValueError: no such")
        assert rows[bench, "tiny"]["avg_at_k"]
    assert "\x1b" not in ended.stderr + ended.stdout
    assert run("--model", "embedded:tiny", "--preset", "tiny").exit_code == 0


def test_a_cell_that_fails_costs_no_other(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Asked(boxed))
    other = Path("here/three-tiny")
    assert run("--preset", "tiny", "--seed", "9", "--out", str(other), bench="three.jsonl")
    ended = run("--preset", "tiny", "--out", "here", "--json")
    assert ended.exit_code == 1
    data = json.loads(ended.stdout)
    assert [cell["k"] for cell in data["cells"]] == [None, 2]
    assert "contains samples of another evaluation" in data["cells"][0]["failure"]
    assert data["means"][0]["avg_at_k"] is None


def test_a_benchmark_that_cannot_be_fetched_is_asked_for_once_and_missing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, Asked(boxed))
    real, asked = evaluate.load_benchmark, []

    def load(name: str, **more: object) -> object:
        if name == "two.jsonl":
            asked.append(name)
            raise BackendError("the hub does not answer")
        return real(name, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(evaluate, "load_benchmark", load)
    ended = run("--preset", "tiny", "--model", "embedded:tiny")
    assert (ended.exit_code, asked) == (1, ["two.jsonl"])
    assert "tiny on two.jsonl will be missing: the hub does not answer" in ended.stderr
    assert "2 of 4 evaluations failed" in ended.stderr


def test_a_model_that_cannot_be_reached_is_missing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, Asked(boxed))

    def reach(settings: object, *, observer: object) -> None:
        if getattr(settings, "path", "") == "org/gone":
            raise ModelError("org/gone is gone")

    monkeypatch.setattr(hub_model, "reach_model", reach)
    ended = run("--model", "org/gone", "--preset", "tiny", "--markdown")
    assert ended.exit_code == 1
    assert "| gone | org/gone is gone |" in ended.stdout.replace("<code>", "").replace(
        "</code>", ""
    )


@pytest.mark.parametrize(
    "wrong",
    [
        ["--bench", "three.jsonl,absent"],
        ["--bench", "three.jsonl,./three.jsonl"],
        ["--model", "./absent"],
        ["--run", "absent"],
        ["--preset", "absent"],
        ["--set", "no.such=1"],
        ["--data", "two.jsonl"],
        ["--card"],
        ["--publish", "model", "--model", "embedded:tiny"],
        ["--adapter", "x", "--model", "embedded:tiny"],
    ],
    ids=" ".join,
)
def test_what_cannot_work_is_refused_before_the_first_sample(
    folder: Path, monkeypatch: pytest.MonkeyPatch, wrong: list[str]
) -> None:
    asked = install(monkeypatch, Asked(boxed))
    Path("model").mkdir()
    Path("model/config.json").write_text("{}")
    ended = run("--preset", "tiny", *wrong)
    assert (ended.exit_code, asked.seeds, Path("evals").exists()) == (2, [], False), ended.stderr


def test_after_ctrl_c_the_table_of_what_is_there_is_printed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, Asked(boxed, fail_after=2))  # three.jsonl is 6 samples, two batches
    ended = run("--preset", "tiny", "--csv")
    assert ended.exit_code == 130
    three, two, mean = cells(ended)
    assert three["avg_at_k"] and two["failure"] == mean["avg_at_k"] == ""
    assert "samples are kept in" in ended.stderr
    install(monkeypatch, Asked(boxed, fail_after=0))
    shown = run("--preset", "tiny", bench="three.jsonl,two.jsonl")
    assert "not evaluated" in shown.stdout
    install(monkeypatch, Asked(boxed))
    assert run("--preset", "tiny").exit_code == 0


def test_min_score_is_for_each_cell(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Asked(boxed))
    ended = run("--preset", "tiny", "--min-score", "1%", k=4)
    assert ended.exit_code == 3
    assert "--min-score 1.0%: tiny on two: the lower end of the 95% interval" in ended.stderr
    assert "tiny on three: the lower end" not in ended.stderr


def test_several_evaluations_as_json_are_the_documented_table(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, Asked(boxed))
    data = json.loads(run("--preset", "tiny", "--json").stdout)
    assert (data["version"], data["models"], data["benchmarks"]) == (1, ["tiny"], ["three", "two"])
    assert [cell["n_problems"] for cell in data["cells"]] == [3, 2]


def test_models_behind_an_endpoint_are_rows_and_share_a_budget_that_stored_samples_count_in(
    folder: Path,
) -> None:
    with serve(Api(models=("tiny", "large"))) as api:

        def evaluate(*more: str) -> Result:
            models = ["--endpoint", api.address, "--model", "large", "--model", "tiny"]
            few = ["--price", "1e6,1e6", "--set", "rollout.max_completion_tokens=30"]
            return run(*models, *few, *more, bench="sums", k=1)

        def drawn() -> int:
            return sum(not is_probe(body) for body in api.asked)

        short = evaluate("--max-cost", "1800", "--csv")
        assert short.exit_code == 1 and "--max-cost 1800" in short.stderr
        before = drawn()
        again = evaluate("--max-cost", "1800", "--csv")
        assert (again.exit_code, drawn()) == (1, before)
        whole = evaluate("--csv")
        assert whole.exit_code == 0, whole.stderr
        assert drawn() == 60
    rows = cells(whole)
    assert [row["model"] for row in rows] == ["large", "tiny"]
    assert sum(float(row["cost"]) for row in rows) > 1800


def test_one_model_at_a_time_is_in_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Asked(boxed))
    real = setup.load_for_sampling
    before: list[weakref.ref[object]] = []

    def load(*given: object, **more: object) -> object:
        assert [each() for each in before] == [None] * len(before)
        policy = real(*given, **more)  # type: ignore[arg-type]
        before.append(weakref.ref(policy.model))
        return policy

    monkeypatch.setattr(setup, "load_for_sampling", load)
    models = ["--preset", "tiny", "--model", "embedded:tiny", "--model", TINY]
    ended = run(*models, bench="three.jsonl,two.jsonl")
    assert ended.exit_code == 0, ended.stderr + ended.stdout
    assert len(before) == 3
