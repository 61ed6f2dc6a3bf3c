"""What is uploaded and what is refused, without a secret told. The hub is on this machine."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries

from dgpo_cli.core.errors import CheckpointError
from dgpo_cli.policy.fingerprint import adapter_fingerprint
from dgpo_cli.publish import push
from tests.cli.helpers import Ended, dgpo, run_python
from tests.hub_server import TOKEN, Hub, serve
from tests.publish import scores
from tests.runs.finished import LORA, make_run

FILES = {
    "README.md",
    "adapter_config.json",
    "adapter_model.safetensors",
    "chat_template.jinja",
    "tokenizer.json",
    "tokenizer_config.json",
}


@pytest.fixture(scope="module")
def runs(wide_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs "lora" and "full"."""
    root = tmp_path_factory.mktemp("runs")
    make_run(root / "lora", wide_folder, *LORA)
    make_run(root / "full", wide_folder)
    return root


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve(Hub()) as hub:
        yield hub


def pushed(run: Path, *flags: str, hub: Hub | str, token: str = TOKEN) -> Ended:
    env = {
        "HF_ENDPOINT": hub if isinstance(hub, str) else hub.address,
        "HF_TOKEN": token,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",  # its servers are not on this machine
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    ended = dgpo("push", str(run), "me/model", *flags, env=env)
    assert TOKEN not in ended.out + ended.err and (not token or token not in ended.err)
    return ended


def test_an_adapter_is_uploaded_in_one_commit_and_peft_loads_it(
    runs: Path, hub: Hub, wide_folder: Path, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    ended = pushed(runs / "lora", hub=hub)
    assert ended.code == 0, ended.err
    assert hub.files.keys() == FILES and hub.commits == 1 and hub.private is False
    assert f"uploaded to {hub.address}/me/model/commit/1" in ended.out
    checkpoint = runs / "lora" / "checkpoints" / "step-000004"
    for name in FILES - {"README.md", "adapter_config.json"}:
        assert hub.files[name] == (checkpoint / name).read_bytes()
    for name, data in hub.files.items():
        (tmp_path / name).write_bytes(data)
    ids = torch.arange(5, 15)[None]
    one, two = (
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(wide_folder), str(folder))
        for folder in (tmp_path, checkpoint)
    )
    with torch.no_grad():
        assert torch.equal(one(input_ids=ids).logits, two(input_ids=ids).logits)
    assert [path.name for path in (runs / "lora").iterdir() if path.name.startswith(".")] == []


def test_no_folder_of_this_machine_is_told(runs: Path, hub: Hub, wide_folder: Path) -> None:
    ended = pushed(runs / "lora", hub=hub)
    config = json.loads(hub.files["adapter_config.json"])
    assert config["base_model_name_or_path"] == wide_folder.name
    for name, data in hub.files.items():
        assert str(wide_folder.parent).encode() not in data, name
        assert str(runs).encode() not in data, name
    assert f"the base model {wide_folder.name} is not on the hub" in ended.err


def test_a_full_run_is_uploaded_without_its_optimiser(runs: Path, hub: Hub) -> None:
    assert pushed(runs / "full", "--checkpoint", "2", hub=hub).code == 0
    assert hub.files.keys() == FILES - {"adapter_config.json", "adapter_model.safetensors"} | {
        "config.json",
        "generation_config.json",
        "model.safetensors",
    }
    card = hub.files["README.md"].decode()
    assert "library_name: transformers" in card and "trained for 2 steps" in card


def test_a_merged_run_is_uploaded_as_a_plain_model(runs: Path, hub: Hub) -> None:
    from safetensors.torch import load

    assert pushed(runs / "lora", "--merged", hub=hub).code == 0
    assert "adapter_config.json" not in hub.files
    weights = load(hub.files["model.safetensors"])
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    assert not any("lora" in name for name in weights)


def test_a_dry_run_reaches_nobody_and_prints_the_card(runs: Path, hub: Hub) -> None:
    ended = pushed(runs / "lora", "--dry-run", hub=hub, token="")
    assert ended.code == 0 and hub.asked == []
    assert "would be uploaded to me/model" in ended.out
    assert all(name in ended.out for name in FILES)
    assert "base_model" not in ended.out.split("---")[1]  # a local folder is no hub id
    assert "| 4 | 0.5 | 0.4 |" in ended.out
    assert "trainer.pt" not in ended.out and "state.json" not in ended.out


def test_private_is_asked_for_and_a_public_repository_is_not_taken_for_it(
    runs: Path, hub: Hub
) -> None:
    assert pushed(runs / "lora", "--private", hub=hub).code == 0
    assert hub.private is True and hub.commits == 1
    assert pushed(runs / "lora", "--private", hub=hub).code == 0  # exists, and is private
    assert hub.commits == 2
    hub.private = False
    ended = pushed(runs / "lora", "--private", hub=hub)
    assert (ended.code, hub.commits) == (1, 2)
    assert "me/model: exists and is public" in ended.err


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (401, "invalid token (401)"),
        (403, "the token has no write access (403)"),
        (404, "no such repository (404)"),
        (418, "the hub answered 418"),
    ],
)
def test_a_refusal_is_one_line_and_never_the_token(
    runs: Path, hub: Hub, status: int, reason: str
) -> None:
    """The hub's own words hold the token here; they are not repeated."""
    hub.fails["/commit/"] = status
    ended = pushed(runs / "lora", "--debug", hub=hub)
    assert (ended.code, hub.commits) == (1, 0)
    assert f"error: me/model: {reason}" in ended.err
    last = [line for line in ended.err.splitlines() if line.startswith("error:")]
    assert len(last) == 1


def test_a_wrong_token_is_told_without_it(runs: Path, hub: Hub) -> None:
    ended = pushed(runs / "lora", hub=hub, token="hf_wrongButPrivate")
    assert ended.code == 1 and hub.commits == 0
    assert "invalid token (401); set HF_TOKEN" in ended.err
    assert "hf_wrongButPrivate" not in ended.out


def test_without_a_token_nothing_is_asked(runs: Path, hub: Hub, tmp_path: Path) -> None:
    env = {"HF_ENDPOINT": hub.address, "HF_TOKEN": "", "HF_HOME": str(tmp_path)}
    ended = dgpo("push", str(runs / "lora"), "me/model", env=env | {"HF_HUB_OFFLINE": "0"})
    assert ended.code == 1 and hub.asked == []
    assert "no hub token; set HF_TOKEN" in ended.err


@pytest.mark.parametrize("where", ["/api/repos/create", "/commit/"])
def test_a_connection_that_breaks_is_one_line(runs: Path, hub: Hub, where: str) -> None:
    hub.fails[where] = 0
    ended = pushed(runs / "lora", hub=hub)
    assert (ended.code, hub.commits) == (1, 0)
    assert f"me/model: {hub.address} is unreachable or broke off" in ended.err
    assert "Traceback" not in ended.err


def test_a_hub_that_is_not_there_is_one_line(runs: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    ended = pushed(runs / "lora", hub=address)
    assert ended.code == 1 and f"{address} is unreachable" in ended.err


@pytest.mark.parametrize("flags", [(), ("--dry-run",)])
@pytest.mark.parametrize("name", ["a/b/c", "b", "a b/c"])
def test_a_name_that_is_none_is_told_before_anything_else(
    runs: Path, hub: Hub, name: str, flags: tuple[str, ...]
) -> None:
    env = {"HF_ENDPOINT": hub.address, "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0"}
    ended = dgpo("push", str(runs / "lora"), name, *flags, env=env)
    assert ended.code == 2 and ended.err.startswith(f"error: {name}: ")
    assert ended.err.endswith("; give USER/NAME\n") and ended.out == "" and hub.asked == []


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("pytorch_model.bin", "may be a pickle"),
        ("adapter_model.pt", "may be a pickle"),
        ("extra.pkl", "may be a pickle"),
        ("modeling_own.py", "not a file of a model"),
        ("more.safetensors", "is not in safetensors format"),
    ],
)
def test_what_could_run_code_is_not_uploaded(
    runs: Path, tmp_path: Path, hub: Hub, name: str, reason: str
) -> None:
    run = shutil.copytree(runs / "lora", tmp_path / "run")
    torch.save({"a": torch.ones(2)}, run / "checkpoints" / "step-000004" / name)
    ended = pushed(run, hub=hub)
    assert ended.code == 1 and hub.asked == []
    assert f"error: {name}: {reason}" in ended.err


def test_samples_that_wait_for_their_step_are_not_uploaded(
    runs: Path, tmp_path: Path, hub: Hub
) -> None:
    run = shutil.copytree(runs / "lora", tmp_path / "run")
    for name in ("carried.json", "waiting.json"):
        (run / "checkpoints" / "step-000004" / name).write_text("[]")
    assert pushed(run, hub=hub).code == 0
    assert hub.files.keys() == FILES


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="has no weights in safetensors"):
        push.check_files(tmp_path)


def test_links_are_not_followed(runs: Path, tmp_path: Path, hub: Hub) -> None:
    run = shutil.copytree(runs / "lora", tmp_path / "run")
    secret = tmp_path / "secret.json"
    secret.write_text('{"password": 1}')
    (run / "checkpoints" / "step-000004" / "notes.json").symlink_to(secret)
    ended = pushed(run, hub=hub)
    assert ended.code == 1 and hub.asked == [] and "is not a plain file" in ended.err


def eval_of(folder: Path, out: Path, **changes: Any) -> Path:
    """The folder of an evaluation of the adapter in `folder`."""
    subject = {"model": "m", "weights": {"sha256": "0"}, "adapter": adapter_fingerprint(folder)}
    return scores.aime_folder(out, subject=subject | changes.pop("subject", {}), **changes)


def test_scores_of_the_weights_go_up_and_nothing_of_a_problem(
    runs: Path, hub: Hub, tmp_path: Path
) -> None:
    checkpoint = runs / "lora" / "checkpoints" / "step-000004"
    out = eval_of(checkpoint, tmp_path / "aime")
    (out / "samples.jsonl").write_text('{"answer": "SECRET"}')
    report = (out / "report.json").read_text()
    assert '"p0"' in report
    assert pushed(runs / "lora", "--eval", str(out), hub=hub).code == 0
    assert hub.files.keys() == FILES | {".eval_results/dgpo-aime2026.yaml"} and hub.commits == 1
    [entry] = parse_eval_result_entries(
        yaml.safe_load(hub.files[".eval_results/dgpo-aime2026.yaml"])
    )
    assert (entry.dataset_id, entry.value) == ("MathArena/aime_2026", 20.0)
    assert (entry.source_url, entry.source_name) == (f"{hub.address}/me/model", "Model Card")
    card = ModelCard(hub.files["README.md"].decode())
    assert [each.dataset_name for each in card.data.eval_results] == ["aime2026"]
    assert "| aime2026 | 8 | 20.0% |" in card.text
    for name, data in hub.files.items():
        assert b"SECRET" not in data and b'"p0"' not in data, name


def test_what_others_measured_stays_on_the_hub(runs: Path, hub: Hub, tmp_path: Path) -> None:
    theirs = {
        "task": {"type": "text-generation"},
        "dataset": {"type": "math-ai/aime26", "name": "aime2026"},
        "metrics": [{"type": "acc", "value": "20 ± 1"}],
        "source": {"name": "Somebody", "url": "https://example.org"},
    }
    index = {"model-index": [{"name": "theirs", "results": [theirs]}]}
    hub.files["README.md"] = f"---\n{yaml.safe_dump(index)}---\nold".encode()
    entry = {"dataset": {"id": "cais/hle", "task_id": "hle"}, "value": 1.5, "notes": "theirs"}
    hub.files[".eval_results/dgpo-aime2026.yaml"] = yaml.safe_dump([entry]).encode()
    hub.files[".eval_results/other.yaml"] = b"untouched"
    checkpoint = runs / "lora" / "checkpoints" / "step-000004"
    out = eval_of(checkpoint, tmp_path / "aime")
    for _ in range(2):
        assert pushed(runs / "lora", "--eval", str(out), hub=hub).code == 0
    found = yaml.safe_load(hub.files["README.md"].decode().split("---\n")[1])["model-index"]
    assert [each["dataset"]["name"] for each in found[0]["results"]] == ["aime2026", "aime2026"]
    assert theirs in found[0]["results"]
    there = yaml.safe_load(hub.files[".eval_results/dgpo-aime2026.yaml"])
    assert there[0] == entry and [each["value"] for each in there] == [1.5, 20.0]
    assert hub.files[".eval_results/other.yaml"] == b"untouched"


def test_a_card_on_the_hub_that_cannot_be_read_is_not_overwritten(runs: Path, hub: Hub) -> None:
    hub.files["README.md"] = b"---\na: [1\n---\nmine"
    ended = pushed(runs / "lora", hub=hub)
    assert (ended.code, hub.commits) == (2, 0)
    assert "error: README.md of me/model: not valid YAML (line" in ended.err
    assert hub.files["README.md"] == b"---\na: [1\n---\nmine"


def test_a_score_of_other_weights_is_refused(runs: Path, hub: Hub, tmp_path: Path) -> None:
    checkpoints = runs / "lora" / "checkpoints"
    earlier = eval_of(checkpoints / "step-000002", tmp_path / "earlier")
    base = eval_of(checkpoints / "step-000004", tmp_path / "base", subject={"adapter": None})
    trained = eval_of(
        checkpoints / "step-000004", tmp_path / "trained", subject={"trained": {"step": 2}}
    )
    for out, words in (
        (earlier, "with another adapter"),
        (base, "those of m;"),
        (trained, "step 2"),
    ):
        ended = pushed(runs / "lora", "--eval", str(out), hub=hub)
        assert ended.code == 2 and hub.asked == [], ended.err
        assert ended.err.startswith(f"error: --eval {out}: is of ") and words in ended.err
    ended = pushed(
        runs / "lora", "--eval", str(earlier), "--checkpoint", "2", "--eval", str(earlier), hub=hub
    )
    assert ended.code == 2 and "is of aime2026 too; give one of them" in ended.err


def test_a_score_through_an_endpoint_is_the_users_word(
    runs: Path, hub: Hub, tmp_path: Path
) -> None:
    out = scores.aime_folder(tmp_path / "served", subject={"model": "served"})
    ended = pushed(runs / "lora", "--eval", str(out), hub=hub)
    assert ended.code == 0 and "nothing shows that it is of these" in ended.err


def test_pushing_an_adapter_needs_no_torch() -> None:
    code = "import sys, dgpo_cli.publish.push; sys.exit('torch' in sys.modules)"
    assert run_python(code).code == 0


def test_a_failure_that_holds_the_token_is_told_without_it() -> None:
    """As a proxy could put it into an address."""
    failure = OSError(f"https://user:{TOKEN}@proxy refused")
    told = str(push._explained(failure, repo="me/model", endpoint="http://hub", token=TOKEN))
    assert TOKEN not in told and "https://proxy refused" in told
