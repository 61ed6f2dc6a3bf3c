"""Every named benchmark loads from files of its form; own ones and those of packages are found."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dgpo_cli.config.load import layered, resolve
from dgpo_cli.config.protocols import load_protocol, protocol_for, protocol_names
from dgpo_cli.core.errors import BackendError, ConfigError, DataError
from dgpo_cli.prompts.benchmarks import Benchmark, is_cached, load_benchmark, prefetch
from dgpo_cli.prompts.catalog import (
    Listed,
    all_listed,
    benchmark_names,
    canonical,
    find,
    load_manifest,
    own_names,
    plain,
)
from dgpo_cli.prompts.manifests import HubManifest
from tests.hub.hub_server import Hub, serving
from tests.prompts.test_benchmarks import save
from tests.recorder import Recorder

HUBS = tuple(
    name
    for name in own_names()
    if isinstance(load_manifest(name), HubManifest) and not load_manifest(name).answers  # type: ignore[union-attr]
)
COUNTS = {
    "math-500": 500,
    "amc2023": 40,
    "hmmt-feb-2025": 30,
    "hmmt-nov-2025": 30,
    "gsm8k": 1319,
    "minerva-math": 272,
    "olympiadbench": 674,
    "brumo2025": 30,
    "aime1983-2023": 919,
    "gpqa-diamond": 198,
    "mmlu-pro": 12032,
}
SHAPES: dict[str, Any] = {  # of an answer, as the dataset writes it, and as it is judged
    "amc2023": (27.0, "27"),
    "gsm8k": ("6 * 7 = <<6*7=42>>42\n#### 2,042", "2042"),
    "olympiadbench": (["$\\frac{1}{2}$"], "$\\frac{1}{2}$"),
    "aime1983-2023": ("007", "7"),
}


def hub_manifest(name: str) -> HubManifest:
    manifest = load_manifest(name)
    assert isinstance(manifest, HubManifest)
    return manifest


def invented(name: str) -> list[dict[str, Any]]:
    """Rows of our own in the form of the dataset, as many as there must be."""
    manifest = hub_manifest(name)
    columns, count = manifest.columns, manifest.problems or 3
    answer = SHAPES.get(name, ("\\frac{1}{2}", ""))[0]
    rows: list[dict[str, Any]] = []
    for n in range(count):
        row: dict[str, Any] = {columns.problem: f"Number {n}?", columns.answer: answer}
        if columns.id != "id" or name in ("amc2023", "olympiadbench"):
            row[columns.id] = n
        if columns.options is not None:
            row[columns.options] = [f"option {n}.{at}" for at in range(3 + n % 8)]
            row[columns.answer] = "ABC"[n % 3]
        for at, wrong in enumerate(columns.wrong):
            row[columns.answer], row[wrong] = f"right {n}", f"wrong {n}.{at}"
        for field, where in manifest.where.items():
            row[field] = where.at_most
        rows.append(row)
    return rows


def left_out(name: str) -> list[dict[str, Any]]:
    """A row that the filter of the manifest leaves out, if it has one."""
    return [
        {**invented(name)[0], "ID": "2024-II-1", field: (where.at_most or 0) + 1}
        for field, where in hub_manifest(name).where.items()
    ]


@contextmanager
def hub_of(
    name: str, rows: list[dict[str, Any]], folder: Path, patch: pytest.MonkeyPatch, **traits: Any
) -> Iterator[Hub]:
    """Serve rows as the file of a benchmark, with an empty cache."""
    from huggingface_hub import constants

    manifest = hub_manifest(name)
    patch.setattr(constants, "HF_HUB_CACHE", str(folder / "cache"))
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.setattr("dgpo_cli.hub.calls._offline_reason", "")
    (file,) = manifest.files
    content = save(rows, folder / f"rows{Path(file).suffix}").read_bytes()
    hub = Hub(manifest.dataset, str(manifest.revision), {file: content}, **traits)
    with serving(hub) as running:
        patch.setenv("HF_ENDPOINT", running.url)
        yield running


def test_the_benchmarks_have_the_numbers_of_problems_of_their_sources() -> None:
    assert {name: hub_manifest(name).problems for name in COUNTS} == COUNTS
    assert set(HUBS) == set(COUNTS)


@pytest.mark.parametrize("name", HUBS)
def test_a_benchmark_loads_from_rows_of_its_datasets_form(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = hub_manifest(name)
    with hub_of(name, [*invented(name), *left_out(name)], tmp_path, monkeypatch):
        bench = load_benchmark(name)
        assert is_cached(name)
    assert (bench.name, bench.dataset, bench.revision) == (
        name,
        manifest.dataset,
        manifest.revision,
    )
    assert len(bench.prompts) == len({prompt.id for prompt in bench.prompts}) == manifest.problems
    assert bench.answer_kind == manifest.answer_kind
    if manifest.answer_kind != "choice":
        expected = SHAPES.get(name, ("", "\\frac{1}{2}"))[1]
        assert {prompt.answer for prompt in bench.prompts} == {expected}
    copy = load_benchmark(name, data=tmp_path / f"rows{Path(manifest.files[0]).suffix}")
    assert copy.sha256 == bench.sha256
    assert copy.prompts == bench.prompts


@pytest.mark.parametrize("name", own_names())
def test_a_benchmark_has_a_protocol_that_judges_its_answers(name: str) -> None:
    manifest = load_manifest(name)
    protocol = protocol_for(name, name=None)
    if manifest.protocol is None:
        assert protocol is None
        return
    assert protocol is not None
    assert manifest.protocol in protocol_names()
    resolved = layered(resolve(preset="tiny", overrides=[], flags={}), protocol.layer())
    assert protocol.changed(resolved) == {}
    reward = resolved.settings.reward
    assert reward.kind == manifest.answer_kind
    if reward.kind == "choice":
        assert reward.choices == manifest.choices  # type: ignore[union-attr]
    if reward.kind == "integer":
        bounds = (reward.minimum, reward.maximum)
        assert bounds == (manifest.minimum, manifest.maximum)  # type: ignore[union-attr]


def test_a_protocol_that_judges_other_answers_is_refused_with_the_one_that_fits() -> None:
    with pytest.raises(ConfigError, match=r"'integer' does not judge .* --protocol boxed-math"):
        protocol_for("math-500", name="dapo")
    dapo = protocol_for("gsm8k", name="dapo")
    assert dapo is not None
    assert dapo.values["reward.maximum"] is None
    plain_dapo = load_protocol("dapo")
    assert plain_dapo is not None
    assert plain_dapo.values["reward.maximum"] == 999
    assert protocol_for("gsm8k", name="settings") is None
    assert protocol_for("no-such-benchmark.jsonl", name=None) is None


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("aime25", "aime2025"),
        ("AIME_24", "aime2024"),
        ("math500", "math-500"),
        ("MATH-500", "math-500"),
        ("hmmt25", "hmmt-feb-2025"),
        ("HMMT_Nov_2025", "hmmt-nov-2025"),
        ("minerva", "minerva-math"),
        ("GSM-8K", "gsm8k"),
        ("gpqa", "gpqa-diamond"),
        ("MMLU_Pro", "mmlu-pro"),
    ],
)
def test_an_alias_in_any_spelling_is_the_benchmark(given: str, name: str) -> None:
    found = find(given)
    assert found is not None
    assert found.name == canonical(given) == name
    assert found.package == "dgpo"


def test_no_two_names_or_aliases_mean_two_benchmarks() -> None:
    spelled = [
        plain(each)
        for listed in all_listed()[0]
        for each in {plain(listed.name), *map(plain, listed.manifest().aliases)}
    ]
    assert [name for name, count in Counter(spelled).items() if count > 1] == []


@pytest.mark.parametrize(
    ("given", "meant"), [("aime-52", "aime"), ("math-5000", "math-500"), ("gsm8", "gsm8k")]
)
def test_a_near_miss_suggests_the_name(given: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"did you mean {meant}"):
        load_benchmark(given)


def test_an_alias_is_the_canonical_name_on_the_benchmark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(invented("brumo2025"), tmp_path / "copy.jsonl")
    assert load_benchmark("BRUMO-25", data=path).name == "brumo2025"


# ---------------------------------------------------------------- a benchmark of one's own

ROWS = [{"q": f"What is {n} + 1?", "a": n + 1} for n in range(3)]
MINE = """
kind = "file"
title = "Mine"
licence = "CC0"
file = "rows.jsonl"
problems = 3
protocol = "boxed"
minimum = 1
maximum = 9

[columns]
problem = "q"
answer = "a"

[settings.prompts]
template = "Say {problem}"
"""


def own(folder: Path, text: str = MINE) -> str:
    save(ROWS, folder / "rows.jsonl")
    (folder / "mine.toml").write_text(text)
    return str(folder / "mine.toml")


def test_a_column_that_a_manifest_names_must_be_in_its_file(tmp_path: Path) -> None:
    save([{"problem": "1 + 1?", "answer": 5, "gold": 2}], tmp_path / "rows.jsonl")
    text = MINE.replace("problems = 3", "").replace('"q"', '"problem"')
    (tmp_path / "mine.toml").write_text(text.replace('"a"', '"golden"'))
    with pytest.raises(DataError, match="no field 'golden'"):
        load_benchmark(str(tmp_path / "mine.toml"))


def test_a_manifest_beside_its_data_is_a_benchmark(tmp_path: Path) -> None:
    path = own(tmp_path)
    bench = load_benchmark(path)
    assert (bench.name, bench.dataset, bench.protocol) == ("mine", "rows.jsonl", "boxed")
    assert [(p.id, p.text, p.answer) for p in bench.prompts] == [
        (str(n), f"What is {n - 1} + 1?", str(n)) for n in (1, 2, 3)
    ]
    protocol = protocol_for(path, name=None)
    assert protocol is not None
    assert protocol.name == "boxed"
    assert protocol.values["prompts.template"] == "Say {problem}"
    assert (protocol.values["reward.minimum"], protocol.values["reward.maximum"]) == (1, 9)
    other = protocol_for(path, name="dapo")  # asked for by name: its own prompt
    assert other is not None
    assert "Answer:" in other.values["prompts.template"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("problems = 3", "problems = 4", "3 different problems, but there must be 4"),
        ('"rows.jsonl"', '"gone.jsonl"', r"file=gone\.jsonl: no such file beside it"),
        ("maximum = 9", "maximum = 2", "line 3: answer is not in 1 to 2"),
        ('template = "', 'colour = "', "does not fix prompts.colour"),
        ('"file"', '"hub"', "dataset: is required"),
        ("minimum = 1", 'answer_kind = "choice"', "needs columns.options or columns.wrong"),
        ('protocol = "boxed"', 'protocol = "boxd"', "did you mean boxed"),
    ],
)
def test_a_fault_in_ones_own_benchmark_is_named(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    path = own(tmp_path, MINE.replace(old, new, 1))
    with pytest.raises((ConfigError, DataError), match=message):
        protocol_for(path, name=None)
        load_benchmark(path)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no problems in it|3 different problems"),
        ([*ROWS[:2], {"q": "half \ud800?", "a": 3}], "1 half surrogate pair in the problem"),
        ([{"q": "why?"}], "no field 'a'"),
    ],
)
def test_a_fault_in_the_data_of_ones_own_benchmark_is_named(
    tmp_path: Path, rows: list[dict[str, Any]], message: str
) -> None:
    path = own(tmp_path)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "rows.jsonl").write_text(text)
    with pytest.raises(DataError, match=message):
        load_benchmark(path)
    (tmp_path / "mine.toml").write_text(f"{MINE}\n[where.level]\nat_most = 3\n")
    if rows:
        with pytest.raises(DataError, match=r"no field 'level' .*\[where\]"):
            load_benchmark(path)


def test_a_filter_takes_values_and_ranges(tmp_path: Path) -> None:
    rows = [{**row, "level": n, "kind": "ab"[n % 2]} for n, row in enumerate(ROWS)]
    text = MINE.replace("problems = 3", "problems = 1")
    path = own(tmp_path, f'{text}\n[where.level]\nat_least = 1\n[where.kind]\nany_of = ["a"]\n')
    save(rows, tmp_path / "rows.jsonl")
    assert [prompt.answer for prompt in load_benchmark(path).prompts] == ["3"]


def test_the_shards_of_a_dataset_are_read_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("dgpo_cli.hub.calls._offline_reason", "")
    names = [f"data/test-0000{n}-of-00002.parquet" for n in range(2)]
    parts = [[{"problem": f"{n}.{at}?", "answer": 10 * n + at} for at in range(2)] for n in (0, 1)]
    files = {
        name: save(rows, tmp_path / f"{at}.parquet").read_bytes()
        for at, (name, rows) in enumerate(zip(names, parts, strict=True))
    }
    path = tmp_path / "shards.toml"
    path.write_text(
        f'kind = "hub"\ntitle = "t"\ndataset = "a/b"\nrevision = "{"1" * 40}"\n'
        f"file = {json.dumps(names)}\nproblems = 4\n"
    )
    with serving(Hub("a/b", "1" * 40, files)) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        bench = load_benchmark(str(path))
    assert [(p.id, p.answer) for p in bench.prompts] == [
        ("1", "0"),
        ("2", "1"),
        ("3", "10"),
        ("4", "11"),
    ]


def test_a_manifest_without_a_commit_reads_the_newest_and_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned = hub_manifest("brumo2025")
    path = tmp_path / "newest.toml"
    path.write_text(
        f'kind = "hub"\ntitle = "t"\ndataset = "{pinned.dataset}"\nfile = "{pinned.files[0]}"\n'
        'answer_kind = "math"\nprotocol = "boxed-math"\n'
    )
    with hub_of("brumo2025", invented("brumo2025"), tmp_path, monkeypatch):
        recorder = Recorder()
        prefetch(str(path), observer=recorder)
        bench = load_benchmark(str(path))
    assert bench.revision == pinned.revision
    assert any(f"main is commit {pinned.revision}" in note for note in bench.notes)


def test_a_benchmark_of_several_files_has_their_rows_in_order(tmp_path: Path) -> None:
    text = MINE.replace('"rows.jsonl"', '["a.parquet", "b.parquet"]').replace(
        "problems = 3", "problems = 6"
    )
    path = own(tmp_path, text)
    more = [{"q": f"What is {n} + 1?", "a": n + 1} for n in (3, 4, 5)]
    for name, rows in (("a", ROWS), ("b", more)):
        save(rows, tmp_path / f"{name}.parquet")
    bench = load_benchmark(path)
    assert [prompt.answer for prompt in bench.prompts] == ["1", "2", "3", "4", "5", "6"]
    assert [prompt.id for prompt in bench.prompts] == ["1", "2", "3", "4", "5", "6"]


def test_the_published_files_wording_is_told_and_stops_nothing(tmp_path: Path) -> None:
    import hashlib

    rows = [*ROWS[:2], {"q": "What is \ufffd?", "a": 3}]
    path = own(tmp_path)
    save(rows, tmp_path / "rows.jsonl")
    with pytest.raises(DataError, match="replacement character"):
        load_benchmark(path)
    digest = hashlib.sha256((tmp_path / "rows.jsonl").read_bytes()).hexdigest()
    Path(path).write_text(f'sha256 = "{digest}"\n{MINE}')
    bench = load_benchmark(path)
    assert len(bench.prompts) == 3
    assert any("replacement character" in note for note in bench.notes)


# ---------------------------------------------------------------- benchmarks of packages


def install(folder: Path, package: str, entries: dict[str, str], files: dict[str, str]) -> None:
    """Install a package as pip leaves it: a folder of code, and its dist-info."""
    info = folder / f"{package}-1.0.dist-info"
    (folder / package).mkdir(parents=True)
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = "".join(f"{name} = {value}\n" for name, value in entries.items())
    (info / "entry_points.txt").write_text(f"[dgpo.benchmarks]\n{lines}")
    (folder / package / "__init__.py").write_text("raise RuntimeError('code of a package ran')\n")
    for name, text in files.items():
        (folder / package / name).write_text(text)


def test_an_installed_package_brings_benchmarks_and_a_broken_one_breaks_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = "".join(json.dumps(row) + "\n" for row in ROWS)
    aliased = f'aliases = ["mine-too", "aime25"]\n{MINE}'
    install(
        tmp_path,
        "abench",
        {"all": "abench"},
        {"mine.toml": aliased, "rows.jsonl": rows, "gsm8k.toml": MINE, "odd.toml": "kind = 3"},
    )
    install(tmp_path, "bbench", {"one": "bbench:mine.toml"}, {"mine.toml": MINE})
    install(tmp_path, "cbench", {"gone": "no_such_package", "none": "cbench"}, {})
    monkeypatch.syspath_prepend(str(tmp_path))
    found, faults = all_listed()
    assert Listed("mine", tmp_path / "abench" / "mine.toml", "abench") in found
    assert "mine" in benchmark_names()
    assert "mine" not in own_names()
    assert load_benchmark("mine").prompts[0].answer == "1"
    assert load_benchmark("MINE_TOO").name == canonical("mine-too") == "mine"
    assert canonical("aime25") == "aime2025"  # ours win
    text = "\n".join(faults)
    for line in (
        r"package abench: its benchmark gsm8k is not used, the name is dgpo's",
        r"package abench: .*odd\.toml: .*",
        r"package bbench: its benchmark mine is not used, the name is abench's",
        r"package cbench: its entry point 'gone' is broken: there is no package no_such_package",
        r"package cbench: its entry point 'none' is broken: .* has no manifest",
    ):
        assert re.search(line, text), (line, text)
    assert len(faults) == 5


def test_without_packages_only_ours_are_listed() -> None:
    found, faults = all_listed()
    assert [listed.name for listed in found] == list(own_names())
    assert faults == ()


def loaded(bench: Benchmark) -> list[tuple[str, str, str]]:
    return [(p.id, p.text, p.answer) for p in bench.prompts]


def test_a_gated_benchmark_says_where_to_accept_its_conditions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned = hub_manifest("brumo2025")
    path = tmp_path / "gated.toml"
    path.write_text(
        f'kind = "hub"\ntitle = "t"\ndataset = "{pinned.dataset}"\ngated = true\n'
        f'file = "{pinned.files[0]}"\nrevision = "{pinned.revision}"\nanswer_kind = "math"\n'
    )
    with (
        hub_of("brumo2025", invented("brumo2025"), tmp_path, monkeypatch, gated="Bearer x"),
        pytest.raises(BackendError) as caught,
    ):
        load_benchmark(str(path))
    assert "hf auth login" in str(caught.value)
    assert f"https://huggingface.co/datasets/{pinned.dataset}" in str(caught.value)


DOCS = Path(__file__).parents[2] / "docs"
WORDS = {"integer": "integers", "math": "general", "choice": "letters"}


def test_the_table_of_the_docs_is_that_of_the_manifests() -> None:
    text = (DOCS / "evaluation.md").read_text("utf-8")
    rows = [line.split("|")[1:-1] for line in text.splitlines() if "| `" in line]
    told = {
        name: [cell.replace("`", "").strip() for cell in cells]
        for (first, *cells) in rows
        if len(cells) == 4
        for name in re.findall(r"`([\w.-]+)`", first)
    }
    for name in own_names():
        manifest = load_manifest(name)
        aliases, problems, answers, protocol = told[name]
        assert [each for each in aliases.split(", ") if each] == list(manifest.aliases)
        assert problems.removesuffix(" each").replace(",", "") == str(manifest.problems)
        assert answers == WORDS[manifest.answer_kind]
        assert protocol == (manifest.protocol or "the settings")


def test_the_manifest_of_the_docs_is_one(tmp_path: Path) -> None:
    block = re.compile(r'^```toml title="arith.toml"\n(.*?)^```', re.MULTILINE | re.DOTALL)
    (text,) = block.findall((DOCS / "data.md").read_text("utf-8"))
    path = tmp_path / "arith.toml"
    path.write_text(text)
    rows = [{"id": n, "question": f"{n}?", "gold": n, "level": 1 + n // 120} for n in range(480)]
    save(rows, tmp_path / "arith.jsonl")
    path.write_text(text.replace("problems = 120", "problems = 360"))
    assert [prompt.id for prompt in load_benchmark(str(path)).prompts] == list(map(str, range(360)))
    protocol = protocol_for(str(path), name=None)
    assert protocol is not None
    assert protocol.values["prompts.template"].endswith("\\boxed{}.")
