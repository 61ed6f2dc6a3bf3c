"""What was sent to a tracker can be read back from it, number by number, each step once."""

from __future__ import annotations

import json
import math
import os
import sqlite3
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dgpo_cli.config.load import Resolved, resolve
from dgpo_cli.core.events import NOBODY, Diagnosed, Ended, Evaluated, StepDone
from dgpo_cli.core.types import Diagnosis
from dgpo_cli.runs.run_folder import RunFolder
from dgpo_cli.train.tracking import Tracking
from tests.recorder import Notes

LINE: dict[str, Any] = {
    "step": 2,
    "bench": "sums",
    "k": 8,
    "avg_at_k": 0.625,
    "stderr_rerun": 0.0123,
    "stderr_problems": 0.0456,
    "rerun_95": {"low": 0.59, "high": 0.65},
}
SICK = Diagnosis("no_signal", 2, "no group has signal", "0 of 16 groups", "raise [group_size] *")
Read = Callable[[Path], dict[str, list[tuple[int, Any]]]]


def metrics(step: int) -> dict[str, float]:
    """Values that float32 cannot hold, one that is unknown, and one that is new every time."""
    return {
        "reward/mean": step / 7,
        "optim/lr": 2e-4 / 3,
        "credit/weight_max": math.nan,
        "time/step_s": step * 1.1,
    }


def resolved(*names: str, more: tuple[str, ...] = ()) -> Resolved:
    listed = json.dumps(list(names))
    return resolve(
        preset="tiny", overrides=[f"track.to={listed}", "track.mode=offline", "seed=7", *more]
    )


def send(out: Path, *names: str, after: int, to: int, events: list[str] | None = None) -> None:
    """A part of a run: the steps after `after` up to `to`, with an evaluation after the second."""
    out.mkdir(exist_ok=True)
    told = events if events is not None else []
    folder, notes = RunFolder(out), Notes(told)
    tracking = Tracking(resolved(*names), folder=folder, step=after, observer=notes)
    for step in range(after + 1, to + 1):
        tracking.on(StepDone(step, metrics(step)))
        if step == 2:
            tracking.on(Evaluated(step, None, (LINE,)))  # type: ignore[arg-type]
            tracking.on(Diagnosed(step, (SICK,)))
    tracking.on(Ended("done"))


def in_event_files(out: Path) -> dict[str, list[tuple[int, Any]]]:
    """What TensorBoard shows of a run folder, by its own reader; numbers are float32 there."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util import tensor_util

    events = EventAccumulator(str(out / "tensorboard"), size_guidance={"tensors": 0, "scalars": 0})
    events.Reload()
    numbers = {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }
    return numbers | {
        tag: [
            (event.step, tensor_util.make_ndarray(event.tensor_proto).item())
            for event in events.Tensors(tag)
        ]
        for tag in events.Tags()["tensors"]
    }


def records(data: bytes) -> Iterator[bytes]:
    """The records of a file in LevelDB's log format, which wandb writes after 7 bytes of its own.

    Source: https://github.com/google/leveldb/blob/main/doc/log_format.md
    """
    block, header = 32768, 7
    at, whole = header, b""
    assert data[:4] == b":W&B"
    while at + header <= len(data):
        if block - at % block < header:  # no header fits: the block ends in zeros
            at += block - at % block
            continue
        _, size, kind = struct.unpack_from("<IHB", data, at)
        at += header
        whole += data[at : at + size]
        at += size
        if kind in (1, 4):  # full, or last of several
            yield whole
            whole = b""


def closed_records(path: Path) -> list[Any]:
    """The records of a file; wandb's own process writes the last of them after it was closed."""
    from wandb.proto import wandb_internal_pb2

    deadline = time.monotonic() + 60
    while True:
        found = [wandb_internal_pb2.Record.FromString(data) for data in records(path.read_bytes())]
        if found and found[-1].HasField("exit"):
            return found
        assert time.monotonic() < deadline, path
        time.sleep(0.05)


def in_wandb_files(out: Path) -> dict[str, list[tuple[int, Any]]]:
    """What the offline files of wandb hold, in the order of their making."""
    found: dict[str, list[tuple[int, Any]]] = {}
    for folder in sorted((out / "wandb").glob("offline-run-*")):
        for record in closed_records(next(folder.glob("run-*.wandb"))):
            if record.HasField("history"):
                step = record.history.step.num
                for item in record.history.item:
                    name = item.key or "/".join(item.nested_key)
                    found.setdefault(name, []).append((step, json.loads(item.value_json)))
            for item in record.run.config.update if record.HasField("run") else ():
                name = item.key or ".".join(item.nested_key)
                found.setdefault(f"config {name}", []).append((0, json.loads(item.value_json)))
    return found


@pytest.fixture
def trackio_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """trackio with its database in a folder of the test; it reads the variable when imported."""
    folder = tmp_path / "trackio-home"
    monkeypatch.setenv("TRACKIO_DIR", str(folder))
    before = {name: sys.modules.pop(name) for name in list(sys.modules) if _is_trackio(name)}
    yield folder
    for name in [name for name in sys.modules if _is_trackio(name)]:
        del sys.modules[name]
    sys.modules.update(before)


def _is_trackio(name: str) -> bool:
    return name == "trackio" or name.startswith("trackio.")


def in_trackio_database(folder: Path) -> dict[str, list[tuple[int, Any]]]:
    (path,) = folder.glob("dgpo*.db")
    found: dict[str, list[tuple[int, Any]]] = {}
    with sqlite3.connect(path) as database:
        rows = database.execute("SELECT step, metrics FROM metrics ORDER BY id").fetchall()
    for step, values in rows:
        for name, value in json.loads(values).items():
            found.setdefault(name, []).append((step, value))
    return found


def same(one: Any, other: Any) -> bool:
    """Equal, in float32 at least, or unknown both: JSON spells NaN in words."""
    if isinstance(other, float) and math.isnan(other):
        return one == "NaN" or (isinstance(one, float) and math.isnan(one))
    return bool(one == other) or float32(other) == one


def float32(value: float) -> float:
    (rounded,) = struct.unpack("f", struct.pack("f", value))
    return float(rounded)


def check_numbers(found: dict[str, list[tuple[int, Any]]], *, steps: int) -> None:
    for name in metrics(1):
        assert [step for step, _ in found[name]] == list(range(1, steps + 1)), name
        assert all(same(value, metrics(step)[name]) for step, value in found[name]), name
    for name in ("k", "avg_at_k", "stderr_rerun", "stderr_problems"):
        ((step, value),) = found[f"eval/{name}"]
        assert step == 2 and same(value, LINE[name])
    for end, expected in LINE["rerun_95"].items():
        ((step, value),) = found[f"eval/rerun_95_{end}"]
        assert step == 2 and same(value, expected)
    ((step, text),) = next(found[name] for name in found if name.startswith("diagnosis/no_signal"))
    text = text.decode() if isinstance(text, bytes) else text
    assert step == 2
    assert all(words in text for words in (SICK.headline, SICK.evidence, SICK.advice))


def test_event_files_of_tensorboard_hold_every_number_once(tmp_path: Path) -> None:
    send(tmp_path, "tensorboard", after=0, to=5)
    send(tmp_path, "tensorboard", after=3, to=6)  # killed after step 5, gone on with from step 3
    found = in_event_files(tmp_path)
    check_numbers(found, steps=6)
    ((step, text),) = found["settings/text_summary"]
    assert step == 0
    assert "    seed = 7" in text.decode()


def test_text_for_tensorboard_is_code_and_no_markdown(tmp_path: Path) -> None:
    send(tmp_path, "tensorboard", after=1, to=2)
    ((_, text),) = in_event_files(tmp_path)["diagnosis/no_signal/text_summary"]
    assert all(line.startswith("    ") for line in text.decode().splitlines())


def test_offline_files_of_wandb_hold_every_number_once(tmp_path: Path) -> None:
    send(tmp_path, "wandb", after=0, to=5)
    send(tmp_path, "wandb", after=3, to=6)
    found = in_wandb_files(tmp_path)
    check_numbers(found, steps=6)
    assert found["config seed"][0][1] == 7
    folders = list((tmp_path / "wandb").glob("offline-run-*"))
    assert len(folders) == 2
    names = {file.name for folder in folders for file in folder.glob("run-*.wandb")}
    assert len(names) == 1  # one run, one id


def test_the_database_of_trackio_holds_every_number_once(
    tmp_path: Path, trackio_folder: Path
) -> None:
    send(tmp_path / "a", "trackio", after=0, to=5)
    send(tmp_path / "a", "trackio", after=3, to=6)
    check_numbers(in_trackio_database(trackio_folder), steps=6)


def test_runs_in_folders_of_one_name_are_two_runs(tmp_path: Path, trackio_folder: Path) -> None:
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        send(tmp_path / place / "tiny", "trackio", after=0, to=1)
    (path,) = trackio_folder.glob("dgpo*.db")
    with sqlite3.connect(path) as database:
        names = {name for (name,) in database.execute("SELECT run_name FROM metrics")}
    assert len(names) == 2
    assert all(name.startswith("tiny-") for name in names)


def test_nothing_of_a_tracker_goes_to_stdout(
    tmp_path: Path, trackio_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    events: list[str] = []
    send(tmp_path / "a", "tensorboard", "wandb", "trackio", after=0, to=1, events=events)
    assert capfd.readouterr().out == ""
    assert [event.partition(":")[0] for event in events] == ["tensorboard", "wandb", "trackio"]


def test_passwords_in_addresses_are_no_part_of_the_config(tmp_path: Path) -> None:
    more = (
        "rollout.backend.kind=vllm-server",
        'rollout.backend.urls=["http://me:secret@host:8000"]',
    )
    tracking = Tracking(
        resolved("tensorboard", more=more), folder=RunFolder(tmp_path), step=0, observer=NOBODY
    )
    tracking.on(StepDone(1, metrics(1)))
    tracking.on(Ended("done"))
    ((_, text),) = in_event_files(tmp_path)["settings/text_summary"]
    assert "http://host:8000" in text.decode()
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(b"secret" in data for data in written)


def test_without_a_key_wandb_asks_nothing_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    import wandb

    monkeypatch.setattr(type(wandb.api), "api_key", None, raising=False)
    events: list[str] = []
    tracking = Tracking(
        resolve(preset="tiny", overrides=['track.to=["wandb"]']),
        folder=RunFolder(tmp_path),
        step=0,
        observer=Notes(events),
    )
    tracking.on(StepDone(1, metrics(1)))
    tracking.on(Ended("done"))
    (line,) = events
    assert line.startswith("wandb failed while starting and is off from here on")
    assert "wandb login" in line
    assert os.listdir(tmp_path) in ([], ["trackers.json"])
