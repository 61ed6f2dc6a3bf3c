"""Laws of the documents: what they name exists, and they stay short."""

from __future__ import annotations

import ast
import gzip
import importlib.metadata
import importlib.util
import itertools
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest
import typer

from dgpo_cli.cli.main import app
from dgpo_cli.config.load import resolve
from dgpo_cli.config.reference import entry_fields
from dgpo_cli.config.settings import Settings
from dgpo_cli.config.tree import known_leaves
from dgpo_cli.study.file import read_file
from tests.test_architecture import LEVEL

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md")))
EVERY_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)

COMMAND = re.compile(
    r"^ {4,8}\$ (?:[^\n]*\| )?(dgpo (?:[^\\\n]|\\\n|\\.)*)|`(dgpo [^`]+)`", re.MULTILINE
)
LINK = re.compile(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)")
PATH = re.compile(r"`((?:dgpo_cli|tests|benchmarks|data|docs|presets)/[\w./-]*)`")
# What a reader is to add, and a slip that is shown.
MADE_UP = {
    "data/benchmarks/NAME.toml",
    "credit.rule=mine",
    "credit.rule=FILE.py:NAME",
    "reward.kind=even",
    "credit.tua=0.1",
}
SETTING = re.compile(r"`([a-z_]+\.[a-z_.]*[a-z])(?:=[^`]*)?`")
SNIPPET = re.compile(r'^--8<-- "([^":]+)(?::(\w+))?"$', re.MULTILINE)
GZIP = b"\x1f\x8b"
SECTIONS = frozenset(Settings.model_fields)


def snippet(path: str, section: str | None) -> str:
    """The text of a file that a page includes, or a section of it."""
    text = (ROOT / path).read_text(encoding="utf-8")
    if section is None:
        return text
    marks = re.findall(rf"^.*8<-- \[(?:start|end):{section}\].*$", text, re.MULTILINE)
    return text.partition(marks[0])[2].partition(marks[1])[0]


def commands_of(text: str) -> Iterator[list[str]]:
    """The words of every command of dgpo, in blocks and in lines, without comments."""
    for block, inline in COMMAND.findall(text):
        yield shlex.split((block or inline).replace("\\\n", " "), comments=True)[1:]


def anchors_of(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in titles}


def overrides_of(words: list[str]) -> list[str]:
    values = [value for option, value in itertools.pairwise(words) if option == "--set"]
    # The entry of a list is one of the file that --config names.
    values = [value for value in values if entry_fields(value.partition("=")[0]) is None]
    return [value.replace("=N", "=8") for value in values if value not in MADE_UP]


def preset_of(words: list[str]) -> str | None:
    found = [value for option, value in itertools.pairwise(words) if option == "--preset"]
    return found[0] if found and found[0].islower() else None


def test_the_readme_has_at_most_200_lines_and_a_page_not_many_more() -> None:
    lengths = {page.name: len(page.read_text(encoding="utf-8").splitlines()) for page in PAGES}
    assert lengths["README.md"] <= 200
    assert {name: length for name, length in lengths.items() if length > 280} == {}


@EVERY_PAGE
def test_every_link_leads_somewhere(page: Path) -> None:
    for target, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        file = page.parent / target if target else page
        assert file.exists(), target
        assert not anchor or anchor in anchors_of(file), f"{target}#{anchor}"


@EVERY_PAGE
def test_every_path_of_the_project_exists(page: Path) -> None:
    named = PATH.findall(page.read_text(encoding="utf-8"))
    assert {path for path in named if not (ROOT / path).exists()} <= MADE_UP


@EVERY_PAGE
def test_every_command_and_option_exists(page: Path) -> None:
    root = typer.main.get_command(app)
    for words in commands_of(page.read_text(encoding="utf-8")):
        command = root
        while words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]  # type: ignore[attr-defined]
        assert command is not root or words[0] == "COMMAND" or words[0].startswith("--"), words
        known = {name for each in (*command.params, *root.params) for name in each.opts}
        known |= {name for each in command.params for name in each.secondary_opts}
        options = {word.partition("=")[0] for word in words if re.match(r"--\w", word)}
        assert options - {"--help"} <= known, words


def test_the_start_page_lists_every_command() -> None:
    rows = re.findall(r"^\| (`dgpo.*?) \|", (ROOT / "docs/start.md").read_text(), re.MULTILINE)
    listed = {name for row in rows for name in re.findall(r"`dgpo (\w+)`", row)}
    assert listed == set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def golden_rows(pattern: str) -> Iterator[dict[str, object]]:
    """The objects in the frozen files of that name: a file's, or its lines'."""
    files = sorted((ROOT / "tests/golden/files").rglob(pattern))
    assert files, pattern
    for file in files:
        text = (gzip.decompress(data) if (data := file.read_bytes())[:2] == GZIP else data).decode()
        lines = text.splitlines() if ".jsonl" in file.name else [text]
        yield from map(json.loads, lines)


def test_every_metric_of_the_frozen_runs_is_on_the_page_of_metrics() -> None:
    text = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    known = re.findall(r"`([a-z_]+/[a-z0-9_*]+)`", text)
    found = {name for row in golden_rows("metrics.jsonl*") for name in row} - {"step"}
    assert {name for name in found if not any(fnmatch(name, each) for each in known)} == set()


@pytest.mark.parametrize(
    "pattern",
    [
        *("rollouts.jsonl.gz", "step-*.jsonl.gz", "samples.jsonl.gz", "changes.jsonl"),
        *("evals.jsonl", "state.json", "card.json", "report.json.gz"),
    ],
)
def test_every_field_of_the_frozen_files_is_on_the_page_of_files(pattern: str) -> None:
    known = set(re.findall(r"`([a-z_0-9]+)`", (ROOT / "docs/formats.md").read_text()))
    assert {name for row in golden_rows(pattern) for name in row} - known == set()


@EVERY_PAGE
def test_every_setting_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    leaves = known_leaves()
    sections = {leaf.rpartition(".")[0] for leaf in leaves}
    named = [name for name in SETTING.findall(text) if name.partition(".")[0] in SECTIONS]
    files = re.compile(r"\.(?:toml|jsonl?|py|md|tsv|log)$")
    named = [n for n in named if n not in leaves and n not in sections and not files.search(n)]
    unknown = [n for n in named if n.rpartition(".")[2] not in (entry_fields(n) or ())]
    assert unknown == []


@EVERY_PAGE
def test_every_override_is_accepted(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    groups = [(preset_of(words), overrides_of(words)) for words in commands_of(text)]
    lines = re.findall(r"`(--set [^`]+)`", text)
    groups += [(None, overrides_of(shlex.split(line))) for line in lines]
    for preset, group in groups:
        resolve(
            preset=preset, overrides=group
        )  # raises for a value that is not one of the setting's


@EVERY_PAGE
def test_every_block_of_settings_is_accepted(page: Path, tmp_path: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for block in re.findall(r"^```toml\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        block = SNIPPET.sub(lambda found: snippet(*found.groups()), block)
        file = tmp_path / "settings.toml"
        file.write_text(block, encoding="utf-8")
        if "seeds" in tomllib.loads(block):
            read_file(file)  # of a study
            continue
        assert set(tomllib.loads(block)) <= SECTIONS
        resolve(config=file)


def rows_of_from_trl() -> list[list[str]]:
    """Names in each cell of the tables: what it is, TRL's, verl's, dgpo's."""
    text = (ROOT / "docs/from-trl-or-verl.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return [row for row in rows if row[-1] not in ("dgpo", "---")]


def fields_of(path: Path, name: str) -> set[str]:
    """The annotated names of a class, without importing its module."""
    [found] = [
        node
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and node.name == name
    ]
    return {
        node.target.id
        for node in found.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }


def fields_of_trl() -> set[str]:
    trl = importlib.util.find_spec("trl")
    if trl is None or trl.origin is None:
        pytest.skip("TRL is in the development extra")
    assert importlib.metadata.version("trl") == "1.16.0"
    transformers = importlib.util.find_spec("transformers")
    assert transformers is not None and transformers.origin is not None
    known = fields_of(Path(trl.origin).parent / "trainer/grpo_config.py", "GRPOConfig")
    return known | fields_of(
        Path(transformers.origin).parent / "training_args.py", "TrainingArguments"
    )


def test_the_script_of_trl_sets_what_its_config_has() -> None:
    text = (ROOT / "docs/from-trl-or-verl.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    [script] = [block for block in blocks if "GRPOConfig(" in block]
    [call] = [
        node
        for node in ast.walk(ast.parse(script))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "GRPOConfig"
    ]
    assert {keyword.arg for keyword in call.keywords} <= fields_of_trl()


def test_every_name_of_trl_is_a_field_of_its_config() -> None:
    known = fields_of_trl()
    rows = rows_of_from_trl()
    assert len(rows) > 30 and all(len(row) == 4 for row in rows)
    named = {name.partition("=")[0] for row in rows for name in re.findall(r"`(.*?)`", row[1])}
    assert len(named) > 20 and named <= known


def test_every_row_for_those_who_come_from_trl_has_a_setting_that_is_accepted() -> None:
    for row in rows_of_from_trl():
        names = re.findall(r"`(.*?)`", row[-1])
        assert names or row[-1] == "one", row
        assert {name.partition("=")[0] for name in names} <= known_leaves().keys()
        resolve(overrides=[name for name in names if "=" in name])


def test_the_architecture_page_lists_every_room_with_its_level() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| (\d+) \| `(\w+)/` \|", text, re.MULTILINE)
    assert {room: int(level) for level, room in listed} == {
        room: level for room, level in LEVEL.items() if room not in ("__main__", "__init__")
    }


@pytest.mark.parametrize(
    ("kind", "names"), [("integer", ("integer",)), ("math", ("math", "place"))]
)
def test_the_counted_cases_are_those_that_are_there(kind: str, names: tuple[str, ...]) -> None:
    texts = [(ROOT / f"tests/rewards/cases/{name}_cases.jsonl").read_text() for name in names]
    cases = [json.loads(line) for text in texts for line in text.splitlines()]
    right = sum(case["want"] == "correct" for case in cases)
    row = f"| `{kind}` | {len(cases):,} | {right:,} |"
    assert row in (ROOT / "docs/answers.md").read_text(encoding="utf-8")


def test_the_planted_faults_are_found() -> None:
    text = "`dgpo train --no-such`, `optim.rate=1`, `dgpo_cli/nowhere.py`, [x](gone.md#a)\n"
    assert list(commands_of(text)) == [["train", "--no-such"]]
    assert SETTING.findall(text) == ["optim.rate"]
    assert PATH.findall(text) == ["dgpo_cli/nowhere.py"]
    assert LINK.findall(text) == [("gone.md", "a")]


def test_the_demo_keeps_the_policy_that_sampled_what_it_shows() -> None:
    """Its rollouts are of the weights after a step whose checkpoint is still there at the end."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    overrides = re.findall(r"--set (\S+)", re.findall(r"^KEEP := (.*)$", makefile, re.MULTILINE)[0])
    train = resolve(preset="tiny", overrides=overrides).settings.train
    (shown,) = map(int, re.findall(r"^EARLY := .*/step-0*(\d+)\.jsonl$", makefile, re.MULTILINE))
    assert shown % train.rollouts_every == 0
    assert (shown - 1) % train.checkpoint_every == 0
    kept = train.steps - train.keep_checkpoints * train.checkpoint_every
    assert kept < shown - 1
