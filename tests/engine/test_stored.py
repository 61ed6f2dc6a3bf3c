"""A model that vLLM alone loads: what its files say is what the loaded model says."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from dgpo_cli import load_settings, sampling_engine
from dgpo_cli.config.load import resolve
from dgpo_cli.core.errors import BackendError, ConfigError, ModelError, NoModelError
from dgpo_cli.core.events import NOBODY
from dgpo_cli.engine.setup import make_sampler, widest
from dgpo_cli.engine.stored import StoredPolicy, load_stored
from dgpo_cli.engine.vllm_setup import engine_flags
from dgpo_cli.evals import evaluate
from dgpo_cli.evals.request import EvalRequest
from dgpo_cli.policy import load
from dgpo_cli.policy.load_policy import load_for_sampling
from dgpo_cli.samplers.base import GatheredWeights, described
from dgpo_cli.samplers.vllm.sampler import VllmSampler
from dgpo_cli.samplers.vllm.server import SharedServers
from tests.policy import adapters, tiny
from tests.samplers.fake_vllm import BASE, FakeVllm, fake_servers
from tests.samplers.test_vllm_waiting import answering

FAMILIES = ("qwen2-tied", "qwen2-untied", "gemma2-softcap", "qwen3_moe", "gpt2", "falcon_h1")


def written(folder: Path, family: str, **generation: Any) -> Path:
    """Write a model whose generation config has other ends than its config."""
    model = tiny.build_model(family)
    for name, value in generation.items():
        setattr(model.generation_config, name, value)
    model.save_pretrained(folder)
    tiny.char_tokenizer().save_pretrained(folder)
    return folder


def adapter_in(folder: Path, base: Path) -> Path:
    adapters.make(base, apart=0.1).save(folder)
    return folder


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever loads a model fails."""

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(load, "from_pretrained", fail)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("ends", [None, [2, 5], "no file"], ids=str)
def test_the_files_say_what_the_loaded_model_says(family: str, ends: Any, tmp_path: Path) -> None:
    folder = written(tmp_path, family, **({"eos_token_id": ends} if isinstance(ends, list) else {}))
    if ends == "no file":
        (folder / "generation_config.json").unlink()
    settings = adapters.settings_of(folder)
    stored, loaded = load_stored(settings, adapter=None), load_for_sampling(settings)
    assert stored.stop_ids == loaded.stop_ids
    assert stored.stop_ids >= set(ends if isinstance(ends, list) else ())
    for name in ("embeddings", "has_adapter", "adapter_rank", "untouched", "device"):
        assert getattr(stored, name) == getattr(loaded, name), name
    assert stored.canary_ids() == loaded.canary_ids()
    assert stored.decode([5, 6, 7]) == loaded.decode([5, 6, 7])


@pytest.mark.parametrize("family", ["qwen2-tied", "qwen2-untied", "gemma2-softcap"])
def test_what_is_sent_from_the_files_is_what_a_loaded_model_would_send(
    family: str, tmp_path: Path
) -> None:
    settings = adapters.settings_of(written(tmp_path, family))
    stored = load_stored(settings, adapter=None).tensors()
    loaded = dict(load_for_sampling(settings).tensors())
    assert isinstance(stored, GatheredWeights)  # so it is read while it is sent
    sent = dict(stored)
    assert sent.keys() == loaded.keys()
    assert all(torch.equal(sent[name], loaded[name]) for name in sent)
    assert described(stored) == [(name, t.dtype, tuple(t.shape)) for name, t in sent.items()]


def test_weights_in_several_files_are_all_sent_and_all_copied(tmp_path: Path) -> None:
    tiny.build_model("qwen2-untied").save_pretrained(tmp_path / "m", max_shard_size="20KB")
    tiny.char_tokenizer().save_pretrained(tmp_path / "m")
    assert len(list((tmp_path / "m").glob("*.safetensors"))) > 2
    settings = adapters.settings_of(tmp_path / "m")
    stored = load_stored(settings, adapter=None)
    loaded = load_for_sampling(settings)
    assert {name for name, _ in stored.tensors()} == {name for name, _ in loaded.tensors()}
    stored.save(tmp_path / "copy")
    copied = dict(load.load_model(adapters.settings_of(tmp_path / "copy")).state_dict())
    assert all(torch.equal(copied[n], t) for n, t in loaded.model.state_dict().items())
    next(iter(sorted((tmp_path / "m").glob("*.safetensors")))).unlink()
    with pytest.raises(ModelError, match="missing, but named in the index"):
        load_stored(settings, adapter=None)


def test_an_adapter_is_handed_on_as_it_is(model_folder: Path, tmp_path: Path) -> None:
    adapter = adapter_in(tmp_path / "a", model_folder)
    settings = adapters.settings_of(model_folder)
    stored = load_stored(settings, adapter=adapter)
    loaded = load_for_sampling(settings, adapter=adapter)
    assert (stored.adapter_rank, stored.has_adapter) == (loaded.adapter_rank, True) == (3, True)
    stored.save(tmp_path / "new" / "copy")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "new" / "copy" / name).read_bytes() == (adapter / name).read_bytes()


def test_an_adapter_of_another_model_is_refused(
    model_folder: Path, wide_folder: Path, tmp_path: Path
) -> None:
    adapter = adapter_in(tmp_path / "a", wide_folder)
    with pytest.raises(ModelError, match=r"of another model: its .*_proj is \d+ x"):
        load_stored(adapters.settings_of(model_folder), adapter=adapter)
    with pytest.raises(NoModelError, match=r"no adapter_config\.json"):
        load_stored(adapters.settings_of(model_folder), adapter=tmp_path)
    config = json.loads((adapter / "adapter_config.json").read_text())
    del config["r"]
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="not the configuration of a LoRA adapter"):
        load_stored(adapters.settings_of(wide_folder), adapter=adapter)


def test_what_transformers_would_refuse_is_refused(model_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(NoModelError, match="no such folder"):
        load_stored(adapters.settings_of(tmp_path / "none"), adapter=None)
    folder = tmp_path / "m"
    shutil.copytree(model_folder, folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pickled weights \(\.bin\) can run code"):
        load_stored(adapters.settings_of(folder), adapter=None)


@pytest.mark.parametrize("shards", [False, True])
def test_a_model_of_the_hub_is_found_in_the_cache_at_its_revision(
    shards: bool, tmp_path: Path
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--org--m"
    snapshot = repository / "snapshots" / commit
    model = tiny.build_model("qwen2-untied")
    model.save_pretrained(snapshot, max_shard_size="20KB" if shards else "5GB")
    tiny.char_tokenizer().save_pretrained(snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "v1").write_text(commit)
    code = (
        "from dgpo_cli.engine.stored import load_stored\n"
        "from dgpo_cli.policy.settings import ModelSettings\n"
        "settings = ModelSettings(path='org/m', revision='v1', device='cpu')\n"
        "stored = load_stored(settings, adapter=None)\n"
        "print(stored.folder, stored.embeddings, len(list(stored.tensors())))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.split() == [str(snapshot), str(tiny.VOCAB), str(len(model.state_dict()))]


def test_packed_weights_are_not_sent(model_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    shutil.copytree(model_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BackendError, match="quantized, and cannot be sent"):
        load_stored(adapters.settings_of(folder), adapter=None).tensors()


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("kind", ["vllm", "vllm-server"])
def test_an_engine_that_samples_with_vllm_loads_no_model(kind: str) -> None:
    settings = load_settings("tiny", overrides={"rollout.backend.kind": kind})
    with sampling_engine(settings) as engine:
        assert isinstance(engine.subject, StoredPolicy)
        assert isinstance(engine.sampler, VllmSampler)
        folder = engine.sampler._fleet.folder
        assert folder.exists()
        with pytest.raises(ConfigError, match=rf"rollout\.backend\.kind={kind}: .*kind=hf"):
            _ = engine.policy
    assert not folder.exists()  # its vLLM is gone as well: the next model may need the device


def test_an_engine_without_a_trainer_does_not_sleep(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = [f"model.path={model_folder}", "rollout.backend.kind=vllm"]
    settings = resolve(overrides=overrides).settings
    stored = load_stored(settings.model, adapter=None)
    monkeypatch.setattr(StoredPolicy, "device", torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    sampler = make_sampler(settings, policy=stored)
    assert isinstance(sampler, VllmSampler) and not sampler.sleeps
    sampler.close()


@pytest.mark.parametrize(
    ("prompts", "completions", "length"),
    [((100, 50), (28, 400), 450), ((1000, 50), (28, 400), 1028)],
)
def test_one_engine_is_as_wide_as_the_widest_evaluation(
    model_folder: Path, prompts: tuple[int, int], completions: tuple[int, int], length: int
) -> None:
    every = [
        resolve(
            overrides=[
                *(f"model.path={model_folder}", "rollout.backend.kind=vllm"),
                *(f"prompts.max_prompt_tokens={p}", f"rollout.max_completion_tokens={c}"),
                f"rollout.backend.max_num_seqs={seqs}",
            ]
        ).settings
        for p, c, seqs in zip(prompts, completions, (8, 64), strict=True)
    ]
    settings = widest(every)
    backend = settings.rollout.backend
    assert backend.kind == "vllm"
    stored = load_stored(settings.model, adapter=None)
    flags = engine_flags(settings, backend=backend, policy=stored, sleeps=False)
    # Not the sum of the two maxima, which the model's context may lack.
    assert (flags.max_model_len, flags.max_num_seqs) == (length, 64)
    assert widest(every[:1]) == every[0]


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def server(state: None) -> Iterator[FakeVllm]:
    with fake_servers() as (server,):
        yield server


def evaluated(folder: Path, server: FakeVllm, out: Path, *, adapter: Path | None = None) -> Any:
    resolved = resolve(
        overrides=[
            *(f"model.path={folder}", "rollout.backend.kind=vllm-server"),
            *(f'rollout.backend.urls=["{server.address}"]', "reward.workers=1"),
            *("rollout.max_completion_tokens=4", "prompts.max_prompt_tokens=60"),
            "prompts.template={problem}",
        ]
    )
    bench = out.with_suffix(".jsonl")
    bench.write_text(json.dumps({"id": "one", "problem": "1+1", "answer": "2"}) + "\n")
    request = EvalRequest(bench=str(bench), k=2, name="m", out=out, adapter=adapter)
    return evaluate.run(resolved, request=request, observer=NOBODY).card.subject


@pytest.mark.usefixtures("no_model")
def test_a_card_claims_only_weights_that_a_server_has_from_here(
    server: FakeVllm, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / BASE
    shutil.copytree(model_folder, folder)
    server.faults.no_updates = True
    subject = evaluated(folder, server, tmp_path / "kept")
    assert (subject["weights"], subject["served"]) == (None, BASE)
    assert subject["not_given"] == ["weights"]
    server.faults.no_updates = False
    monkeypatch.setattr(FakeVllm, "take_sync", lambda self, path: 0.0)
    subject = evaluated(folder, server, tmp_path / "given")
    assert len(subject["weights"]["sha256"]) == 64
    assert "served" not in subject and "not_given" not in subject
    assert "/collective_rpc" in server.calls  # they were sent


def test_what_is_no_vllm_server_is_told_before_torch_is_loaded() -> None:
    code = (
        "import sys\n"
        "from dgpo_cli.__main__ import main\n"
        "sys.argv = ['dgpo', 'eval', '--model', 'embedded:tiny', '--bench', 'sums-easy', '--set', "
        "'rollout.backend.kind=vllm-server', '--set', 'rollout.backend.urls=[\"%s\"]']\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n"
        "    print(end.code, sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    with answering(lambda path: (404, b"")) as url:
        found = subprocess.run(
            [sys.executable, "-c", code % url], capture_output=True, text=True, timeout=120
        )
    assert found.stdout.strip() == "1 []", found.stderr
    assert f"dgpo eval --endpoint {url} --model NAME" in found.stderr


@pytest.mark.usefixtures("no_model")
def test_a_server_of_another_model_is_refused_before_anything_is_written(
    server: FakeVllm, model_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(BackendError, match=rf"serves {BASE}, not {model_folder}; .*--model"):
        evaluated(model_folder, server, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert "/v1/completions" not in server.calls


def test_only_a_checkpoint_may_go_to_a_server_of_another_name(
    model_folder: Path, tmp_path: Path
) -> None:
    """Of all weights: an adapter's base must be what the server has."""

    def rule(folder: Path, adapter: Path | None = None) -> str:
        settings = resolve(
            overrides=[f"model.path={folder}", "rollout.backend.kind=vllm-server"]
        ).settings
        sampler = make_sampler(settings, policy=load_stored(settings.model, adapter=adapter))
        assert isinstance(sampler, VllmSampler)
        fleet = sampler._fleet
        assert isinstance(fleet, SharedServers)
        return fleet._another

    adapter = adapter_in(tmp_path / "a", model_folder)
    checkpoint = tmp_path / "step-4"
    shutil.copytree(model_folder, checkpoint)
    (checkpoint / "state.json").write_text("{}")
    assert rule(model_folder) == "refused"
    assert rule(checkpoint) == "given ours"
    assert rule(checkpoint, adapter) == "refused"
