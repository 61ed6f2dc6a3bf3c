"""Benchmarks that dgpo ships are fixed and held out; files serve as benchmarks too."""

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgpo_cli.core.errors import ConfigError, DataError
from dgpo_cli.core.types import Message
from dgpo_cli.prompts import catalog
from dgpo_cli.prompts.benchmarks import Benchmark, benchmark_names, load_benchmark, load_manifest
from dgpo_cli.prompts.manifests import HubManifest
from dgpo_cli.prompts.sums import held_out
from tests.hub.hub_server import Hub, serving

HUB = 'kind = "hub"\ntitle = "t"\ndataset = "a/b"\nfile = "c"\nproblems = 1\nmaximum = 999\n'
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


def test_a_folder_is_no_benchmark_and_no_data_and_said_to_be_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"^{tmp_path}: is a folder; give a file of problems"):
        load_benchmark(str(tmp_path))
    with pytest.raises(ConfigError, match=f"^--data {tmp_path}: is a folder; give a file"):
        load_benchmark("aime2024", data=tmp_path)
    with pytest.raises(ConfigError, match=f"^--data {tmp_path}/x: no such file; give a file"):
        load_benchmark("aime2024", data=tmp_path / "x")


@pytest.mark.parametrize("name", ["../benchmarks/sums", "", "."])
def test_only_plain_names_reach_a_manifest(name: str) -> None:
    with pytest.raises(ConfigError, match="no such benchmark or file"):
        load_benchmark(name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind = ", "not TOML"),
        ('kind = "sums"\ntitle = "t"\noperations = 0\ncount = 3', "operations"),
        ('kind = "sums"\ntitle = "t"\noperations = 1', "count"),
        (
            'kind = "moon"\ntitle = "t"\noperations = 1\ncount = 3',
            "kind=moon: must be sums, hub, file",
        ),
        ('title = "t"', "kind: give one of sums, hub, file"),
        ('kind = "hub"\ntitle = "t"\noperations = 1\ncount = 3', "file: is required"),
        (f'{HUB}revision = "main"\n[answers]\na = 1', "revision"),
        (f'{HUB}revision = "{"0" * 40}"\n[answers]\na = 1000', "not in range"),
        (f'{HUB}revision = "{"0" * 40}"\n[answers]\na = 1\nb = 2', "2 answers for problems=1"),
        (f'{HUB}revision = "{"0" * 40}"\n[answers]\na = 1\n[remarks]\nb = "x"', "remark on b"),
        ('kind = "sums"\ntitle = "t"\noperations = 1\ncount = 3\ncolour = 1', "colour"),
    ],
)
def test_a_broken_manifest_names_file_and_field(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    (folder / "bad.toml").write_text(text)
    monkeypatch.setattr(catalog, "resource_dir", lambda name: tmp_path)
    with pytest.raises(DataError, match=rf"bad\.toml: .*{message}"):
        load_benchmark("bad")


def test_generated_problems_that_changed_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    text = f'kind = "sums"\ntitle = "t"\noperations = 1\ncount = 3\nsha256 = "{"0" * 64}"'
    (folder / "moved.toml").write_text(text)
    monkeypatch.setattr(catalog, "resource_dir", lambda name: tmp_path)
    with pytest.raises(DataError, match="moved: the generated problems have sha256"):
        load_benchmark("moved")


# ---------------------------------------------------------------- named benchmarks


AIMES = ("aime2024", "aime2025", "aime2026")
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def hub_manifest(name: str) -> HubManifest:
    manifest = load_manifest(name)
    assert isinstance(manifest, HubManifest)
    return manifest


def rows_of(name: str) -> list[dict[str, Any]]:
    """Problems of our own with the ids and answers of the examination."""
    return [
        {"id": each, "problem": f"What is $\\frac{{{number}}}{{2}}$?\nÉ", "answer": answer}
        for number, (each, answer) in enumerate(hub_manifest(name).answers.items())
    ]


def save(rows: list[dict[str, Any]], path: Path) -> Path:
    """Write rows in the format of the path's suffix."""
    match path.suffix:
        case ".jsonl":
            path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
        case ".json":
            path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
        case ".csv":
            with path.open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
        case ".parquet":
            pa = pytest.importorskip("pyarrow")
            import pyarrow.parquet as pq

            pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("name", AIMES)
def test_the_manifests_of_aime_hold_the_two_contests_in_order(name: str) -> None:
    manifest = hub_manifest(name)
    year = name.removeprefix("aime")
    ids = [f"{year}-{contest}-{number}" for contest in ("I", "II") for number in range(1, 16)]
    assert list(manifest.answers) == ids
    assert manifest.problems == len(ids) == 30
    assert manifest.protocol == "boxed"
    assert (manifest.minimum, manifest.maximum) == (0, 999)


PINNED = {
    "aime2024": ("Maxwell-Jia/AIME_2024", "8d88b2876a82a080e2f172cc9b25d0d9d2cb4792"),
    "aime2025": ("math-ai/aime25", "563bb8404243c5f09de6ec262f2db674fe5bce9b"),
    "aime2026": ("math-ai/aime26", "79037aebdb6580008fb960d17cb21fd3099083e3"),
}


@pytest.mark.parametrize("name", AIMES)
def test_the_datasets_are_pinned_to_a_commit(name: str) -> None:
    manifest = hub_manifest(name)
    assert (manifest.dataset, manifest.revision) == PINNED[name]


@pytest.mark.parametrize("name", ["aime2024", "aime2025"])
def test_independent_copies_agree_with_the_key(name: str) -> None:
    path = SHARED / f"{name}.jsonl"
    if not path.is_file():
        pytest.skip(f"no {path}")
    bench = load_benchmark(name, data=path, strict=True)
    assert len(bench.prompts) == 30
    assert [prompt.id for prompt in bench.prompts] == list(hub_manifest(name).answers)
    assert bench.notes == (f"{name} ({path}): 30 of 30 answers agree with the key (by id)",)


@pytest.mark.parametrize("name", AIMES)
def test_the_hub_gives_the_pinned_file_and_local_copies_the_same_digest(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    manifest = hub_manifest(name)
    columns = manifest.columns
    theirs = [
        {columns.id: row["id"], columns.problem: row["problem"], columns.answer: row["answer"]}
        for row in rows_of(name)
    ]
    content = save(theirs, tmp_path / manifest.file).read_bytes()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("dgpo_cli.hub.calls._offline_reason", "")
    with serving(Hub(manifest.dataset, manifest.revision, {manifest.file: content})) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        bench = load_benchmark(name, template="{problem} Box it.")
    assert (bench.dataset, bench.revision) == (manifest.dataset, manifest.revision)
    assert bench.prompts[0].messages == (Message("user", f"{rows_of(name)[0]['problem']} Box it."),)
    assert bench.prompts[0].source == name
    local = load_benchmark(name, data=save(rows_of(name), tmp_path / "copy.jsonl"))
    assert (local.dataset, local.revision) == ("copy.jsonl", None)
    assert local.sha256 == bench.sha256
    assert local.protocol == bench.protocol == "boxed"
    if manifest.sha256 is not None:  # our problems are not theirs, and that is said
        assert any(manifest.sha256[:12] in note for note in bench.notes)


def as_tuple(bench: Benchmark) -> tuple[tuple[str, str, str], ...]:
    return tuple((p.id, p.text, p.answer) for p in bench.prompts)


TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=30)


@settings(max_examples=15, deadline=None)
@given(
    texts=st.lists(TEXTS, min_size=30, max_size=30),
    as_text=st.booleans(),
    upper=st.booleans(),
)
def test_the_digest_is_the_same_over_the_formats(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], as_text: bool, upper: bool
) -> None:
    folder = tmp_path_factory.mktemp("formats")
    rows = [
        {
            "Id" if upper else "id": row["id"],
            "PROBLEM" if upper else "problem": f"Number {number}: {text} \nand",
            "Answer" if upper else "answer": f"{row['answer']:03}" if as_text else row["answer"],
        }
        for number, (row, text) in enumerate(zip(rows_of("aime2026"), texts, strict=True))
    ]
    paths = [save(rows, folder / f"copy.{kind}") for kind in ("jsonl", "json", "csv", "parquet")]
    found = [load_benchmark("aime2026", data=path) for path in paths]
    assert len({bench.sha256 for bench in found}) == 1
    assert len({as_tuple(bench) for bench in found}) == 1
    triples = [list(each) for each in as_tuple(found[0])]
    text = json.dumps(triples, separators=(",", ":"))
    assert found[0].sha256 == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("field", ["id", "problem", "answer"])
def test_the_digest_changes_with_every_field(tmp_path: Path, field: str) -> None:
    rows = rows_of("aime2025")
    before = load_benchmark("aime2025", data=save(rows, tmp_path / "a.jsonl"), strict=False)
    rows[7][field] = {"id": "other", "problem": "Why?", "answer": 1}[field]
    after = load_benchmark("aime2025", data=save(rows, tmp_path / "b.jsonl"), strict=False)
    assert after.sha256 != before.sha256


def test_a_template_does_not_change_the_digest(tmp_path: Path) -> None:
    path = save(rows_of("aime2024"), tmp_path / "a.jsonl")
    one = load_benchmark("aime2024", data=path)
    two = load_benchmark("aime2024", data=path, template="Q {problem}", system="S")
    assert one.sha256 == two.sha256
    assert one.prompts != two.prompts


def test_a_strict_load_lists_the_faults_and_the_way_on(tmp_path: Path) -> None:
    rows = rows_of("aime2026")
    for number in range(15):
        rows[number]["answer"] = "x"
    path = save(rows, tmp_path / "a.jsonl")
    with pytest.raises(DataError) as caught:
        load_benchmark("aime2026", data=path)
    first, *lines = str(caught.value).splitlines()
    assert "aime2026" in first
    assert "15 faults" in first
    assert "--no-strict" in first
    assert lines[0] == "  line 1: answer is not an integer"
    assert lines[-1] == "  and 5 more faults"
    assert len(lines) == 11
    notes = load_benchmark("aime2026", data=path, strict=False).notes
    assert [note.partition("): ")[2] for note in notes[:11]] == [line.strip() for line in lines]


def test_a_file_repeated_32_times_stops_a_strict_load_and_counts_once_otherwise(
    tmp_path: Path,
) -> None:
    path = save(rows_of("aime2024") * 32, tmp_path / "a.jsonl")
    with pytest.raises(DataError, match="960 rows, 30 problems each repeated 32 times"):
        load_benchmark("aime2024", data=path)
    bench = load_benchmark("aime2024", data=path, strict=False)
    once = load_benchmark("aime2024", data=save(rows_of("aime2024"), tmp_path / "b.jsonl"))
    assert bench.prompts == once.prompts
    assert bench.sha256 == once.sha256
    assert "960 rows, 30 problems each repeated 32 times" in bench.notes[0]


def test_line_ends_of_other_systems_are_the_same_text(tmp_path: Path) -> None:
    rows = rows_of("aime2025")
    before = load_benchmark("aime2025", data=save(rows, tmp_path / "a.csv"))
    for row in rows:
        row["problem"] = row["problem"].replace("\n", "\r\n") + "\r\n"
    assert load_benchmark("aime2025", data=save(rows, tmp_path / "b.csv")).prompts == before.prompts


@pytest.mark.parametrize("field", ["problem", "answer"])
def test_an_escape_at_the_very_beginning_is_not_taken_for_a_space(
    tmp_path: Path, field: str
) -> None:
    rows = rows_of("aime2025")
    rows[0][field] = "\frac{70}{1}"
    with pytest.raises(DataError, match=r"line 1: control character U\+000C in the .*\\frac"):
        load_benchmark("aime2025", data=save(rows, tmp_path / "a.jsonl"))


def test_columns_of_ones_own_go_before_those_of_the_manifest(tmp_path: Path) -> None:
    rows = [
        {
            "question": row["problem"],
            "problem": "see question",
            "gold": {"answer": row["answer"]},
            "answer": "see gold",
        }
        for row in rows_of("aime2025")
    ]
    path = save(rows, tmp_path / "a.jsonl")
    bench = load_benchmark(
        "aime2025", data=path, problem_column="question", answer_column="gold.answer"
    )
    rows_there = rows_of("aime2025")
    assert [p.answer for p in bench.prompts] == [str(row["answer"]) for row in rows_there]
    assert [p.text for p in bench.prompts] == [row["problem"] for row in rows_there]


def test_a_missing_column_is_named_with_those_that_are_there(tmp_path: Path) -> None:
    path = save([{"question": "1+1?", "answer": 2}], tmp_path / "a.jsonl")
    with pytest.raises(
        DataError, match=r"line 1: no field 'problem' \(fields: 'question', 'answer'"
    ):
        load_benchmark("aime2025", data=path)


def test_settings_columns_of_another_file_do_not_hide_those_of_the_benchmark(
    tmp_path: Path,
) -> None:
    path = save(rows_of("aime2025"), tmp_path / "a.jsonl")
    bench = load_benchmark("aime2025", data=path, problem_column="prompt", answer_column="gold")
    assert bench == load_benchmark("aime2025", data=path)


def test_columns_that_differ_by_case_alone_must_agree(tmp_path: Path) -> None:
    rows = rows_of("aime2025")
    for row in rows:
        row["Answer"], row["ANSWER"] = row.pop("answer"), 5
    with pytest.raises(DataError, match="line 1: fields 'Answer' and 'ANSWER' disagree"):
        load_benchmark("aime2025", data=save(rows, tmp_path / "a.jsonl"))


def test_a_header_that_names_a_column_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("id,problem,answer,answer\n1,2,3,4\n")
    for name in ("aime2024", None):
        with pytest.raises(DataError, match="has 'answer' twice"):
            load_benchmark(name or str(path), data=path if name else None)


def test_a_problem_may_be_a_single_message(tmp_path: Path) -> None:
    rows = rows_of("aime2024")
    path = save(rows, tmp_path / "a.jsonl")
    for row in rows:
        row["problem"] = [{"role": "user", "content": row["problem"]}]
    bench = load_benchmark("aime2024", data=save(rows, tmp_path / "b.jsonl"))
    assert bench.prompts == load_benchmark("aime2024", data=path).prompts
    rows[3]["problem"].insert(0, {"role": "system", "content": "Think."})
    with pytest.raises(DataError, match="line 4: the problem must be text"):
        load_benchmark("aime2024", data=save(rows, tmp_path / "c.jsonl"))


def test_data_is_for_benchmarks_of_the_hub_alone(tmp_path: Path) -> None:
    path = save(rows_of("aime2024"), tmp_path / "a.jsonl")
    for name in ("sums", str(path)):
        with pytest.raises(ConfigError, match="leave out --data"):
            load_benchmark(name, data=path)
    with pytest.raises(ConfigError, match="no such file"):
        load_benchmark("aime2024", data=tmp_path / "none.jsonl")


# ---------------------------------------------------------------- files of one's own


OWN = [{"problem": f"{n}+1?", "answer": n + 1} for n in range(4)]


def test_own_files_have_no_protocol_and_one_digest_in_every_format(tmp_path: Path) -> None:
    kinds = ("jsonl", "json", "csv", "parquet")
    found = [load_benchmark(str(save(OWN, tmp_path / f"mine-{kind}.{kind}"))) for kind in kinds]
    assert {bench.sha256 for bench in found} == {
        hashlib.sha256(
            json.dumps(
                [["", row["problem"], str(row["answer"])] for row in OWN], separators=(",", ":")
            ).encode()
        ).hexdigest()
    }
    first = found[0]
    assert (first.protocol, first.revision, first.dataset) == (None, None, "mine-jsonl.jsonl")
    assert first.notes == ()
    named = [{"id": f"p{n}", **row} for n, row in enumerate(OWN)]
    assert load_benchmark(str(save(named, tmp_path / "c.csv"))).sha256 != first.sha256


def test_own_files_may_have_general_answers(tmp_path: Path) -> None:
    path = save([*OWN, {"problem": "Half?", "answer": "1/2"}], tmp_path / "mine.jsonl")
    (note,) = load_benchmark(str(path)).notes
    assert "1 of 5 answers are not plain integers" in note
    assert "the first is that of problem 'mine:5'" in note
    assert "1/2" not in note
    assert load_benchmark(str(path), integers=False).notes == ()
    with pytest.raises(DataError, match="not plain integers"):
        load_benchmark(str(path), strict=True)


def test_own_files_with_lost_backslashes_are_noted(tmp_path: Path) -> None:
    path = save([{"problem": "What is 2\times3?", "answer": 6}], tmp_path / "mine.jsonl")
    (note,) = load_benchmark(str(path)).notes
    assert "control character U+0009" in note
    assert "\\times" in note
    with pytest.raises(DataError, match="a fault in the data; fix it"):
        load_benchmark(str(path), strict=True)


def test_own_conversations_keep_their_turns(tmp_path: Path) -> None:
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "1+1?"},
    ]
    path = save([{"problem": turns, "answer": 2}], tmp_path / "mine.jsonl")
    (prompt,) = load_benchmark(str(path), template="Q {problem}", system="S").prompts
    assert prompt.messages == (Message("system", "Be brief."), Message("user", "Q 1+1?"))
