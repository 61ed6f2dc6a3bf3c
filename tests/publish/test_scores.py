"""Scores on the hub: in its forms and unit, on the leaderboard of their benchmark or on none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import EvalResultEntry, ModelCard, ModelCardData, parse_eval_result_entries

from dgpo_cli import __version__
from dgpo_cli.core.digests import write_digests
from dgpo_cli.core.errors import ConfigError, DataError
from dgpo_cli.prompts.benchmarks import benchmark_names, load_manifest
from dgpo_cli.prompts.manifests import HubManifest
from dgpo_cli.publish.model_folder import check, foreign_results, publish, with_results
from dgpo_cli.publish.scores import Score, leaderboard, read_score
from tests.publish import scores

ENTRIES = ".eval_results/dgpo-aime2026.yaml"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "my-model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def aime(tmp_path: Path, **changes: Any) -> Score:
    return read_score(
        scores.aime_folder(tmp_path / f"eval{len(list(tmp_path.iterdir()))}", **changes)
    )


def own(tmp_path: Path) -> Score:
    return read_score(scores.stored(tmp_path / "own", scores.own(), scores.card_of(scores.OWN)))


def entries(folder: Path, name: str = ENTRIES) -> list[EvalResultEntry]:
    return parse_eval_result_entries(yaml.safe_load((folder / name).read_text()))


def index(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ModelCard.load(folder / "README.md").data.to_dict()["model-index"]
    return found


def test_the_entry_names_the_hubs_benchmark_and_task_and_counts_in_percent(
    model: Path, tmp_path: Path
) -> None:
    score = aime(tmp_path)
    publish(model, [score], url="https://huggingface.co/me/model")
    [found] = entries(model)
    assert (found.dataset_id, found.task_id) == ("MathArena/aime_2026", "MathArena/aime_2026")
    assert (found.value, found.date) == (20.0, "2026-01-01")
    assert found.dataset_revision is None  # the commit is that of another copy of the problems
    assert found.source_url == "https://huggingface.co/me/model"
    assert score.rerun_95 is not None and score.problems_95 is not None and score.card is not None
    spans = [
        f"{100 * ends.low:.1f} to {100 * ends.high:.1f}"
        for ends in (score.rerun_95, score.problems_95)
    ]
    assert found.notes == (
        f"dgpo {__version__}: Avg@8; protocol boxed, temperature 0.6, top_p 0.95, up to 32768 "
        f"tokens; 12.5% truncated; 95% {spans[0]} over reruns; 95% {spans[1]} over other problems; "
        f"card {score.card.key[:8]}"
    )


def test_the_card_has_the_share_with_k_protocol_and_both_errors(
    model: Path, tmp_path: Path
) -> None:
    score = aime(tmp_path, changed={"rollout.top_p": 1.0})
    publish(model, [score])
    [result] = ModelCard.load(model / "README.md").data.eval_results
    assert (result.dataset_type, result.dataset_name) == ("math-ai/aime26", "aime2026")
    assert result.dataset_revision == scores.AIME["revision"]
    assert (result.metric_type, result.metric_name) == ("avg@8", "Avg@8")
    assert result.metric_value == pytest.approx(0.2, abs=1e-15)
    assert score.rerun_95 is not None and score.problems_95 is not None and score.card is not None
    assert result.metric_args == {
        "dgpo": __version__,
        "k": 8,
        "protocol": "boxed (changed: rollout.top_p)",
        "rerun_95": [score.rerun_95.low, score.rerun_95.high],
        "problems_95": [score.problems_95.low, score.problems_95.high],
        "truncated": 0.125,
        "date": "2026-01-01",
        "card": score.card.key,
    }


def test_a_greedy_score_says_so_in_both_forms(model: Path, tmp_path: Path) -> None:
    publish(model, [aime(tmp_path, temperature=0)])
    assert "protocol boxed, up to 32768 tokens, greedy;" in str(entries(model)[0].notes)
    assert index(model)[0]["results"][0]["metrics"][0]["args"]["greedy"] is True


def test_a_score_that_was_stopped_early_says_so_in_both_forms(model: Path, tmp_path: Path) -> None:
    publish(model, [aime(tmp_path, stop_when=0.015)])
    assert "sampled until the error over reruns was 1.5 points;" in str(entries(model)[0].notes)
    assert index(model)[0]["results"][0]["metrics"][0]["args"]["stop_when"] == 0.015


def test_the_leaderboards_that_are_known() -> None:
    """Task ids as models on the hub use them; a benchmark without one goes to the card only."""
    places = {
        name: (place.dataset, place.task)
        for name in benchmark_names()
        if isinstance(manifest := load_manifest(name), HubManifest)
        and (place := manifest.leaderboard) is not None
    }
    assert places == {
        "aime2026": ("MathArena/aime_2026", "MathArena/aime_2026"),
        "gpqa-diamond": ("Idavidrein/gpqa", "diamond"),
        "gsm8k": ("openai/gsm8k", "gsm8k"),
        "mmlu-pro": ("TIGER-Lab/MMLU-Pro", "mmlu_pro"),
    }


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dataset": "aime.jsonl", "revision": None}, "was read from a local file"),
        ({"n_problems": 29}, "was evaluated without some of its problems"),
    ],
)
def test_what_is_not_the_hubs_benchmark_gets_no_place_on_its_leaderboard(
    model: Path, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    found = publish(model, [aime(tmp_path, **changes)])
    assert [str(file.relative_to(model)) for file in found.files] == ["README.md"]
    assert reason in found.notes[0] and "in the card only" in found.notes[0]


def test_a_benchmark_without_a_leaderboard_goes_to_the_card_only(
    model: Path, tmp_path: Path
) -> None:
    found = publish(model, [own(tmp_path)])
    assert found.notes == ("mine has no leaderboard on the hub: its score is in the card only",)
    assert not (model / ".eval_results").exists()
    assert index(model)[0]["results"][0]["dataset"] == {"name": "mine", "type": "mine"}
    assert leaderboard(own(tmp_path / "again"))[0] is None


def test_a_second_score_replaces_the_first_and_nothing_else(model: Path, tmp_path: Path) -> None:
    publish(model, [aime(tmp_path), own(tmp_path)])
    theirs = {
        "dataset": {"id": "MathArena/aime_2026", "task_id": "MathArena/aime_2026"},
        "value": 99.0,
        "date": "2026-02-03",
        "notes": "theirs",
    }
    own_file = model / ENTRIES
    own_file.write_text(yaml.safe_dump([theirs, *yaml.safe_load(own_file.read_text())]))
    moved = own_file.rename(own_file.with_name("scores.yaml"))
    publish(model, [aime(tmp_path, k=1)])
    assert not own_file.exists()  # the older entry is replaced where it is
    assert yaml.safe_load(moved.read_text())[0] == theirs
    assert [each.value for each in entries(model, ".eval_results/scores.yaml")] == [99.0, 50.0]
    values = {r["dataset"]["name"]: r["metrics"][0]["value"] for r in index(model)[0]["results"]}
    assert values == {"mine": 0.375, "aime2026": 0.5}


CARD = """---
# chosen with care
license:   apache-2.0   # the model's
model-index:
- name: theirs
  results:
  - task: {type: text-generation, name: Maths}
    dataset: {type: math-ai/aime26, name: aime2026}
    metrics:
    - {type: acc, value: "20.0 ± 1.2", extra: kept}
    source: {url: "https://example.org", name: Somebody}
- name: another
  results: []

# after
tags: [a,   b]
---
# Title

---
not metadata
"""


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_everything_in_a_card_but_the_index_keeps_its_bytes(
    model: Path, tmp_path: Path, newline: str
) -> None:
    before = CARD.replace("\n", newline)
    (model / "README.md").write_bytes(before.encode())
    publish(model, [aime(tmp_path)])
    after = (model / "README.md").read_bytes().decode()
    head, _, _ = before.partition("model-index:")
    assert after.startswith(head)
    tail = before[before.index("# after") :]
    assert after.endswith(tail) and ("\r" in after) == ("\r" in before)
    assert newline == "\n" or "\n" not in after.replace(newline, "")
    old, new = (yaml.safe_load(text.split("---" + newline)[1]) for text in (before, after))
    assert new["model-index"][0]["results"][0] == old["model-index"][0]["results"][0]
    assert (
        len(new["model-index"][0]["results"]) == 2
        and new["model-index"][1] == old["model-index"][1]
    )
    assert {**new, "model-index": 0} == {**old, "model-index": 0}


@pytest.mark.parametrize(
    "inside",
    [
        "model-index: [{name: m, results: []}]\nlicense: mit",
        "base: &x [1]\nmodel-index:\n- name: m\n  results: []\nlicense: *x",
        "{license: mit, model-index: []}",
        "model-index:\n# of ours\n- name: m\n  results: []\nlicense: mit",
        "license: mit\nmodel-index:",
        "",
    ],
)
def test_an_index_written_in_any_way_is_read_and_the_rest_means_the_same(inside: str) -> None:
    new = [{"dataset": {"type": "t", "name": "n"}, "metrics": [{"args": {"dgpo": "1"}}]}]
    text = with_results(f"---\n{inside}\n---\nbody", new, title="t", where="x")
    old, found = yaml.safe_load(inside) or {}, yaml.safe_load(text.split("---\n")[1])
    assert found.pop("model-index")[0]["results"] == new and text.endswith("---\nbody")
    old.pop("model-index", None)
    assert found == old


def test_a_card_without_metadata_gets_some_and_a_missing_card_is_begun(
    model: Path, tmp_path: Path
) -> None:
    publish(model, [own(tmp_path)])
    assert (model / "README.md").read_text().endswith("---\n# my-model\n")
    (model / "README.md").write_text("# Mine\n\nprose\n")
    found = publish(model, [own(tmp_path / "2")])
    assert "had no metadata, and has some now" in found.notes[0]
    assert (model / "README.md").read_text().endswith("---\n# Mine\n\nprose\n")
    assert index(model)[0]["name"] == "my-model"


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("README.md", b"---\na: [1\n---\n# x\n", "not valid YAML (line"),
        ("README.md", b"---\na: 1\nb: \xff\n---\n", "not UTF-8 (byte 12)"),
        ("README.md", b"---\n- a\n---\n", "not a table of keys and values"),
        ("README.md", b"---\nmodel-index: {a: 1}\n---\n", "not a list of models with results"),
        ("README.md", b"---\nmodel-index: [{name: x}]\n---\n", "not a list of models with results"),
        (ENTRIES, b"- dataset: {id: a/b}\n  value: 1\n", "not a list of evaluation results"),
        (ENTRIES, b"a: b\n", "not a list of evaluation results"),
        (ENTRIES, b"- [\n", "not valid YAML (line"),
        (ENTRIES, b"- !!python/object/apply:os.system [ls]\n", "not valid YAML (line"),
    ],
)
def test_a_broken_file_is_named_before_and_after_and_not_touched(
    model: Path, tmp_path: Path, name: str, content: bytes, fault: str
) -> None:
    file = model / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)
    for write in (lambda: check(model), lambda: publish(model, [aime(tmp_path)])):
        with pytest.raises(DataError, match=r"; mend it$") as told:
            write()
        assert str(told.value).startswith(f"{file}: ") and fault in str(told.value)
        assert "\n" not in str(told.value)
    assert file.read_bytes() == content
    assert {path for path in model.rglob("*") if path.is_file()} == {file, model / "config.json"}


def test_what_is_no_model_is_refused_before_a_sample_is_drawn(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        check(tmp_path / "none")
    with pytest.raises(ConfigError, match=r"has no README\.md or config\.json"):
        check(tmp_path)


def test_a_checkpoint_keeps_its_files_and_their_digests(model: Path) -> None:
    write_digests(model)
    with pytest.raises(ConfigError, match="is a checkpoint, whose files must not change"):
        check(model)


def test_results_of_others_are_told_from_ours(tmp_path: Path, model: Path) -> None:
    (model / "README.md").write_text(CARD)
    publish(model, [aime(tmp_path)])
    [kept] = foreign_results((model / "README.md").read_text(), where="x")
    assert kept["source"]["name"] == "Somebody"


def test_an_index_is_what_huggingface_hub_makes_of_it(model: Path, tmp_path: Path) -> None:
    """Their classes write what they read: no field of ours is of a form that they do not know."""
    publish(model, [aime(tmp_path), own(tmp_path)])
    data = ModelCard.load(model / "README.md").data
    again = ModelCardData(model_name=data.model_name, eval_results=data.eval_results)
    assert again.to_dict()["model-index"] == index(model)


def test_a_folder_without_a_finished_evaluation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no report\.json in it"):
        read_score(tmp_path)
