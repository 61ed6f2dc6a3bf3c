"""Readers of files that anybody may have written end in a named field, line and file, or read them.

Each fuzzer damages what dgpo itself wrote and runs the real commands on it; see damage.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from dgpo_cli.core.resources import resource_dir
from tests.cli.helpers import in_process as dgpo
from tests.evals.evaluations import Asked, boxed, install, problems, run
from tests.fuzz.damage import damaged, fuzz, told

TOKENS = 6
LINE: dict[str, Any] = {
    "version": 1,
    "prompt_id": "p",
    "prompt": "1+1?",
    "messages": [{"role": "user", "content": "1+1?"}],
    "answer": "2",
    "index": 0,
    "completion": "1+1=2",
    "prompt_token_ids": [3, 20, 4],
    "token_ids": [20, 30, 20, 40, 21, 1],
    "sampling_logprobs": [-0.5] * TOKENS,
    "temperature": 1.0,
    "finish_reason": "stop",
    "starts_in_thought": False,
    "outcome": "correct",
    "extracted": "2",
    "reward": 1.0,
    "seed": 7,
    "policy_version": 3,
    "length_penalty": 0.0,
    "advantage": 0.7,
    "vocab_size": 1024,
    "credit": {"rule": "dgpo", "tau": 0.5, "kappa": 1.0, "target_ess": None},
    "tau": 0.5,
    "noise_floor": 1e-7,
    "logprobs": [-0.5, -1.0, -0.1, -2.0, -0.2, -0.01],
    "entropy": [0.5, 1.0, 0.1, 2.0, 0.2, 0.01],
    "hellinger_sq": [0.01, 0.2, 0.0, 0.1, 0.02, 0.0],
    "scores": [0.01, 0.2, 0.0, 0.1, 0.02, 0.0],
    "weights": [0.8, 1.6, 0.7, 1.3, 0.9, 0.7],
}
WRONG = LINE | {"index": 1, "outcome": "wrong", "reward": 0.0, "advantage": -0.7}
FOREIGN: dict[str, Any] = {
    "question": "1+1?",
    "response": "2",
    "messages": [{"role": "user", "content": [{"type": "text", "text": "1+1?"}]}],
    "gts": ["2"],
    "score": 1.0,
    "stop_reason": "max_tokens",
}


@pytest.fixture
def rollouts(tmp_path: Path) -> Path:
    """Where the rollouts of a run lie, with the tokenizer that they need."""
    (tmp_path / "run" / "tokenizer").mkdir(parents=True)
    tokenizer = resource_dir("data") / "tiny" / "tokenizer.json"
    (tmp_path / "run" / "tokenizer" / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    (tmp_path / "run" / "rollouts").mkdir()
    return tmp_path / "run" / "rollouts" / "step-000001.jsonl"


def test_fuzz_rollouts(rollouts: Path) -> None:
    views = (("--json",), ("--pair",), ("--steps", "--sample", "0"), ("--tau", "0.1"), ("--full",))
    page, drawing = rollouts.with_name("page.html"), rollouts.with_name("drawing.svg")
    files = ("--html", str(page), "--svg", str(drawing))
    models = ("--model", "embedded:tiny", "--reference", "embedded:tiny")
    lines = st.sampled_from([LINE, LINE, FOREIGN]).flatmap(damaged)

    def law(example: tuple[bytes, bool, tuple[str, ...]]) -> None:
        line, first, view = example
        rest = json.dumps(WRONG).encode()
        rollouts.write_bytes(b"\n".join([line, rest] if first else [rest, line]) + b"\n")
        told(dgpo("inspect", str(rollouts), *view), r"step-000001\.jsonl(:\d+)?(: | has )")

    fuzz(st.tuples(lines, st.booleans(), st.sampled_from([*views, files, models])), law)


def test_fuzz_settings(tmp_path: Path) -> None:
    preset = dgpo("preset", "show", "tiny").stdout
    assert "[rollout" in preset
    path = tmp_path / "mine.toml"
    values = st.sampled_from(
        [
            *("1e400", "nan", "-inf", "9" * 5000, "true", "-1", "0", "[1, 2]", "[[1]]", "{a = 1}"),
            *("''", '"\\u0000"', "1979-05-27", "07:32:00", "[" * 3000 + "]" * 3000, "[", "0x1f"),
            *(
                "{" + "a = {" * 2000 + "}" * 2000 + "}",
                '"""a\nb"""',
                "2**31",
                "99999999999999999999",
            ),
        ]
    )

    def law(example: tuple[int, str, str, bytes]) -> None:
        at, value, kind, noise = example
        lines = preset.splitlines()
        at %= len(lines)
        name = lines[at].partition("=")[0].strip()
        lines[at] = {
            "value": f"{name} = {value}",
            "table": f"[{name}.x]\ny = {value}",
            "name": f"{'a.' * 400}{name or 'b'} = {value}",
            "array": f"[[{name}]]",
        }[kind]
        path.write_bytes("\n".join(lines).encode() + b"\n" + noise)
        ended = dgpo("train", "--config", str(path), "--dry-run")
        assert ended.exit_code in (0, 2), (ended.output, ended.exception)
        assert (ended.exit_code == 0) == ("error:" not in ended.stderr), ended.output
        assert all(len(line) < 700 for line in ended.stderr.splitlines())

    kinds = st.sampled_from(["value", "value", "table", "name", "array"])
    noise = st.sampled_from([b"", b"", b"\xff", b"\0", b"x", b"[", b'a = "'])
    fuzz(st.tuples(st.integers(0, 10**6), values, kinds, noise), law)


@pytest.fixture
def evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    install(monkeypatch, Asked(boxed))
    run(problems(tmp_path), 2, tmp_path / "out", second_opinion=True)
    assert dgpo("regrade", str(tmp_path / "out")).exit_code == 0
    return tmp_path / "out"


def test_fuzz_samples(evaluation: Path) -> None:
    path = evaluation / "samples.jsonl"
    whole = path.read_bytes().splitlines()
    lines = damaged(json.loads(whole[2]))

    def law(example: tuple[bytes, int]) -> None:
        line, at = example
        path.write_bytes(b"\n".join([*whole[:at], line, *whole[at + 1 :]]) + b"\n")
        seen = dgpo("view", str(evaluation))
        assert seen.exit_code == 0 and (evaluation / "view.html").stat().st_size < 10**6, (
            seen.output
        )
        told(
            dgpo("regrade", str(evaluation)), r"samples\.jsonl:\d+: |not every problem has a sample"
        )

    fuzz(st.tuples(lines, st.integers(0, len(whole) - 1)), law)


def test_fuzz_cards(evaluation: Path) -> None:
    card, report = evaluation / "card.json", evaluation / "report.json"
    whole = {path: path.read_bytes() for path in (card, report)}
    texts = {path: damaged(json.loads(data)) for path, data in whole.items()}

    def law(example: tuple[Path, bytes]) -> None:
        for path, data in whole.items():
            path.write_bytes(data)
        path, text = example
        path.write_bytes(text)
        assert dgpo("view", str(evaluation)).exit_code == 0
        if path == card:
            told(dgpo("regrade", str(evaluation)), r"card\.json: ")
        else:
            told(dgpo("compare", str(evaluation), str(evaluation)), r"report\.json: |/out: ")
            told(dgpo("compare", str(evaluation), str(evaluation), "--json"), "report|/out: ")

    fuzz(
        st.one_of(*(st.tuples(st.just(path), text) for path, text in texts.items())),
        law,
    )


HALF = "a\ud83db \udc00c"


@pytest.mark.parametrize(
    "view", ["", "--full", "--steps", "--pair", "--at 1", "--json", "--html", "--svg", "--png"]
)
def test_half_a_surrogate_pair_is_shown_in_every_view(rollouts: Path, view: str) -> None:
    names = ("prompt", "completion", "answer", "extracted", "prompt_id")
    halves = dict.fromkeys(names, HALF) | {"messages": [{"role": "user", "content": HALF}]}
    lines = [json.dumps(line | halves) for line in (LINE, WRONG)]
    rollouts.write_text("\n".join(lines))
    file = rollouts.with_name("out")
    written = view in ("--html", "--svg", "--png")
    ended = dgpo("inspect", str(rollouts), *view.split(), *([str(file)] if written else []))
    assert ended.exit_code == 0, ended.stderr
    if view != "--png":
        shown = file.read_text("utf-8") if written else ended.stdout
        assert r"a\ud83db" in shown and "\ud83d" not in shown


def test_what_fuzzers_found_in_rollouts_stays_found(rollouts: Path) -> None:
    """Weights that are no distribution are read as far as they go, and named where they do not."""
    rollouts.write_text(json.dumps(LINE | {"weights": [0.0] * TOKENS}))
    assert dgpo("inspect", str(rollouts)).exit_code == 0
    rollouts.write_text(json.dumps(LINE | {"weights": [0]}))
    ended = dgpo("inspect", str(rollouts))
    assert ended.exit_code == 2 and "weights has 1 numbers for 6 tokens" in ended.stderr
    for credit, said in (
        ({"tau": 0.5}, r"\.jsonl:1: the field credit\.rule is missing"),
        ({"rule": "dgpo", "tau": [1]}, r"\.jsonl: the credit of completion 0 of p: credit\.tau="),
        ({"rule": "other"}, r"\.jsonl: the credit of completion 0 of p: credit\.rule=other"),
    ):
        rollouts.write_text(json.dumps(LINE | {"credit": credit}))
        for view in ((), ("--tau", "0.1"), ("--json",)):
            ended = dgpo("inspect", str(rollouts), *view)
            assert ended.exit_code == 2
            told(ended, said)


def test_what_fuzzers_found_in_evaluations_stays_found(evaluation: Path) -> None:
    card, samples = evaluation / "card.json", evaluation / "samples.jsonl"
    whole = card.read_text(), samples.read_text()
    data = json.loads(whole[0])
    data["protocol"]["top_p"] = False
    card.write_text(json.dumps(data))
    told(dgpo("regrade", str(evaluation)), r"card\.json: protocol\.top_p=false: must be a number$")
    card.write_text(whole[0])
    (evaluation / "report.json").write_text('{"k": 1e400}')  # of no use, and of no harm
    assert dgpo("regrade", str(evaluation)).exit_code == 0
    lines = whole[1].splitlines()
    samples.write_text("\n".join([lines[0], json.dumps(json.loads(lines[1]) | {"answer": ""})]))
    with samples.open("a") as file:
        file.write("\n")
    told(dgpo("regrade", str(evaluation)), r"samples\.jsonl:2: its answer is not an integer")
