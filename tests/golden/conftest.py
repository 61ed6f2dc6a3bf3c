"""The stored files and the commands; `--regenerate` stores anew what differs, and prints it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.golden import schemas, stored
from tests.golden.commands import Commands
from tests.golden.decode import plain, told

_CHANGED = pytest.StashKey[list[str]]()
_STORED = pytest.StashKey[set[str]]()
Check = Callable[[str, Mapping[str, Path | str]], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--regenerate", action="store_true", help="store the golden files anew; print what differs"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_CHANGED], config.stash[_STORED] = [], set()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for text in terminalreporter.config.stash[_CHANGED]:
        terminalreporter.write_line(text)


@pytest.fixture(scope="session")
def dgpo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """Runs commands; relative paths are in `dgpo.folder`."""
    with Commands(tmp_path_factory.mktemp("golden")) as commands:
        yield commands


@pytest.fixture
def check(dgpo: Commands, request: pytest.FixtureRequest) -> Check:
    """Hold files, and texts, to their schemas and against those stored under a name."""

    def held(name: str, now: Mapping[str, Path | str]) -> None:
        work = dgpo.folder
        for inside, each in now.items():
            schemas.hold(f"{name}/{inside}", each)
        texts = {
            inside: plain(each, work=work) if isinstance(each, str) else told(each, work=work)
            for inside, each in now.items()
        }
        _hold(name, texts, config=request.config)

    return held


def _hold(name: str, texts: dict[str, str], *, config: pytest.Config) -> None:
    before = stored.read(name)
    here = stored.machine()
    there = json.loads(before.pop(stored.MACHINE, "{}"))
    # What two tests hold against one name must be equal: the second never stores its own.
    if config.getoption("--regenerate", default=False) and name not in config.stash[_STORED]:
        config.stash[_STORED].add(name)
        found = stored.differences(before, texts, exact=True)
        config.stash[_CHANGED] += [f"{name}/{each}" for each in found]
        stored.write(name, {**texts, stored.MACHINE: json.dumps(here, indent=2) + "\n"})
        return
    is_same = here == there
    found = stored.differences(before, texts, exact=is_same)
    assert not found, "\n".join([*found, "if that is meant: pytest tests/golden --regenerate"])
    if not is_same:
        other = ", ".join(key for key in here if here[key] != there.get(key))
        pytest.skip(f"formats hold; numbers and weights are of another machine ({other})")
