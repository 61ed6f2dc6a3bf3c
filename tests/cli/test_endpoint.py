"""Laws of dgpo eval --endpoint, as a user meets it: in a process, against a real socket."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api_server import KEY, Api, draw_of, is_probe, serve
from tests.cli.helpers import Ended, dgpo, in_process, run_python

HEAVY = ("torch", "transformers", "peft", "sympy", "math_verify", "vllm", "datasets")


@pytest.fixture
def api() -> Iterator[Api]:
    with serve(Api()) as api:
        yield api


def evaluated(api: Api, out: Path, *more: str, env: dict[str, str] | None = None) -> Ended:
    args = ["eval", "--bench", "sums", "--k", "2", "--endpoint", api.address]
    args += ["--out", str(out), "--set", "reward.workers=1"]
    return dgpo(*args, *more, env=env)


def test_a_model_behind_an_api_is_evaluated_without_torch(api: Api, tmp_path: Path) -> None:
    api.delay_s = lambda body: draw_of(body) % 10 / 100
    code = (
        "import sys\n"
        "from dgpo_cli.__main__ import main\n"
        "sys.argv[0] = 'dgpo'\n"
        "try:\n    main()\nfinally:\n"
        f"    print([n for n in {HEAVY!r} if n in sys.modules], file=sys.stderr)\n"
    )
    out = tmp_path / "e"
    ended = run_python(
        code,
        *["eval", "--bench", "sums", "--k", "2", "--endpoint", api.address, "--model", "tiny"],
        *["--out", str(out), "--price", "1,2", "--json"],
    )
    assert ended.err.splitlines()[-1] == "[]", ended.err
    report = json.loads(ended.out)
    assert 0.4 < report["avg_at_k"] < 0.95 and report["k"] == 2
    billed = list(api.billed[1:])  # the first is the probe's
    assert report["prompt_tokens"] == sum(prompt for prompt, _ in billed)
    cost = sum(prompt + 2 * completion for prompt, completion in billed) / 1e6
    assert report["cost"] == pytest.approx(cost)
    subject = report["card"]["subject"]
    assert subject["endpoint"] == api.url and subject["served"] == "tiny"
    assert "token ids" in subject["not_given"] and "seeds" not in subject["not_given"]
    assert report["card"]["environment"]["server"].startswith("TestApi/1")
    again = in_process("regrade", str(out), "--json")
    again_report = json.loads(again.stdout)["report"]
    assert again_report["cost"] == pytest.approx(cost)
    assert again_report["problems"] == report["problems"]  # and in the same order
    sample = json.loads((out / "samples.jsonl").read_text().splitlines()[0])
    assert sample["completion_tokens"] > 0 and sample["prompt_tokens"] > 0


def test_the_key_is_in_no_file_and_no_message(api: Api, tmp_path: Path) -> None:
    api.key, api.thought = KEY, "reasoning_content"
    ended = evaluated(
        api, tmp_path / "e", "--api-key-env", "MY_KEY", "--card", "--debug", env={"MY_KEY": KEY}
    )
    assert ended.code == 0, ended.err
    said = [ended.out, ended.err]
    wrong = {"MY_KEY": KEY + "x"}
    refused = evaluated(api, tmp_path / "f", "--api-key-env", "MY_KEY", "--debug", env=wrong)
    assert refused.code == 2 and "refuses the key in MY_KEY" in refused.err
    api.fault = lambda body, count: (400, {"error": f"bad header Bearer {KEY}"}, {})
    failed = evaluated(
        api, tmp_path / "g", "--api-key-env", "MY_KEY", "--debug", env={"MY_KEY": KEY}
    )
    assert failed.code == 1 and "[key]" in failed.err
    assert "kept in" not in failed.err  # the probe failed: there is nothing yet
    said += [refused.err, failed.err, failed.out]
    files = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) >= 4 and not any(KEY in text for text in (*said, *files))
    first = json.loads((tmp_path / "e" / "samples.jsonl").read_text().splitlines()[0])
    assert first["reasoning"] == "I think."


def test_without_a_name_the_only_model_is_taken(api: Api, tmp_path: Path) -> None:
    ended = evaluated(api, tmp_path / "e", "--set", "rollout.backend.max_in_flight=2")
    assert api.widest <= 2
    assert ended.code == 0 and f"evaluating tiny, the only model of {api.url}" in ended.err
    api.models = ("tiny", "large")
    ended = evaluated(api, tmp_path / "f")
    assert ended.code == 2 and "give --model, one of tiny, large" in ended.err


def test_a_spent_budget_reports_whole_rounds_and_says_how_to_go_on(
    api: Api, tmp_path: Path
) -> None:
    price = ["--model", "tiny", "--price", "1e6,1e6", "--set", "rollout.max_completion_tokens=30"]
    out = tmp_path / "e"
    ended = evaluated(api, out, *price, "--max-cost", "2000")
    assert ended.code == 1 and "Avg@1" in ended.out, ended.err
    assert "--max-cost 2000: " in ended.err and "run the same command with a larger" in ended.err
    spent = sum(prompt + completion for prompt, completion in api.billed)
    assert 1900 < spent <= 2000
    there = len((out / "samples.jsonl").read_text().splitlines())
    assert 30 <= there < 60
    asked = len([body for body in api.asked if not is_probe(body)])
    again = evaluated(api, out, *price, "--max-cost", "9000")
    assert again.code == 0 and "Avg@2" in again.out
    assert len([body for body in api.asked if not is_probe(body)]) == asked + 60 - there
    little = evaluated(api, tmp_path / "f", *price, "--max-cost", "200")
    assert little.code == 1 and "of 60 samples are kept" in little.err and "Avg" not in little.out


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--run", "r"], "--endpoint and --run: an endpoint has its own weights"),
        (["--preset", "tiny"], "--endpoint and --preset"),
        (["--model", "m", "--adapter", "a"], "--endpoint and --adapter"),
        (["--model", "m", "--max-cost", "1"], "--max-cost 1: give --price IN,OUT too"),
        (["--model", "m", "--price", "1"], "--price 1: give the price of a million prompt tokens"),
        (["--model", "m", "--price", "-1,2"], "--price -1,2: give the price"),
        (["--model", "m", "--price", "1,2", "--max-cost", "0"], "--max-cost 0: must be a number"),
        (["--model", "m", "--price", "1,2", "--max-cost", "inf"], "inf: must be a number above 0"),
    ],
)
def test_what_does_not_go_with_an_endpoint_is_refused(more: list[str], words: str) -> None:
    ended = in_process("eval", "--bench", "sums", "--endpoint", "http://127.0.0.1:9", *more)
    assert ended.exit_code == 2 and words in ended.stderr


@pytest.mark.parametrize("url", ["127.0.0.1:9", "ftp://x", "unix:/x", "http://x/v1?version=1"])
def test_an_address_that_is_none_is_refused_before_anything_is_sent(url: str) -> None:
    ended = in_process("eval", "--bench", "sums", "--endpoint", url, "--model", "m")
    assert "must be http://" in ended.stderr


@pytest.mark.parametrize("command", ["train", "rollout", "plan"])
def test_only_eval_takes_an_endpoint(command: str) -> None:
    more = ["--prompts", "sums", "--out", "r.jsonl"] if command == "rollout" else []
    ended = in_process(command, "--preset=tiny", "--set=rollout.backend.kind=endpoint", *more)
    assert "only dgpo eval samples from it" in ended.stderr


def test_a_key_needs_an_endpoint() -> None:
    ended = in_process("eval", "--bench", "sums", "--api-key-env", "K", "--model", "m")
    assert "--api-key-env: give --endpoint URL too" in ended.stderr


@pytest.mark.parametrize("pasted", [KEY, "hf_abcdefghijklmnop"])
def test_a_key_in_place_of_its_variable_is_refused_and_not_repeated(pasted: str) -> None:
    there = ["--endpoint", "http://127.0.0.1:9", "--model", "m"]
    ended = in_process("eval", "--bench", "sums", *there, "--api-key-env", pasted)
    assert ended.exit_code == 2 and "no environment variable has this name" in ended.stderr
    assert pasted not in ended.stdout + ended.stderr


def test_a_price_needs_an_endpoint() -> None:
    more = ["--preset", "tiny", "--price", "1,2", "--max-cost", "1"]
    ended = in_process("eval", "--bench", "sums", *more)
    assert ended.exit_code == 2 and "--price: only a model behind an API" in ended.stderr
