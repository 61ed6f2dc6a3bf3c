"""Each view of inspect is drawn for its flags, and flags that exclude each other say so."""

from __future__ import annotations

import re

import pytest

from tests.cli.conftest import Install
from tests.cli.helpers import in_process as dgpo
from tests.samples import inspection, pair, reasoning


def test_each_flag_draws_its_view(workflow: Install) -> None:
    shown = reasoning()
    calls = workflow("inspect", returns=inspection(shown))
    default = dgpo("inspect", "a").stdout
    full = dgpo("inspect", "a", "--full").stdout
    steps = dgpo("inspect", "a", "--steps").stdout
    entropy = dgpo("inspect", "a", "--what", "entropy").stdout
    assert "% of the weight ───" in default and "Most weighted tokens" in default
    assert "% of the weight ───" not in full and len(full) > len(default)
    assert "40 steps" in steps and "Most weighted tokens" not in steps
    assert "Tokens of the highest entropy" in entropy
    assert [call["choice"].pair for call in calls] == [False] * 4


def test_a_pair_is_of_two_completions(workflow: Install) -> None:
    both = pair()
    calls = workflow("inspect", returns=inspection(*both))
    output = dgpo("inspect", "a", "--pair").stdout
    assert calls[0]["choice"].pair is True
    assert "Both begin with the same" in output and "lines before" in output
    assert "lines before" not in dgpo("inspect", "a", "--pair", "--full").stdout
    coloured = dgpo("inspect", "a", "--pair", "--what", "entropy").stdout
    assert "nats" in coloured and "nats" not in output


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--pair", "--steps"], ["--pair", "--steps"]),
        (["--steps", "--full"], ["--steps", "--full"]),
        (["--json", "--full"], ["--json", "--full"]),
        (["--json", "--steps"], ["--json", "--steps"]),
        (["--json", "--pair"], ["--json", "--pair"]),
        (["--json", "--what", "score"], ["--json", "--what"]),
        (["--pair", "--steps", "--full"], ["--pair", "--steps"]),
        (["--at", "3", "--what", "score"], ["--at", "--what"]),
        (["--at", "3", "--pair"], ["--at", "--pair"]),
        (["--at", "3", "--steps"], ["--at", "--steps"]),
        (["--at", "3", "--full"], ["--at", "--full"]),
        (["--at", "3", "--html", "a.html"], ["--at", "--html", "--svg"]),
        (["--pair", "--html", "a.html"], ["--pair", "--html", "--svg"]),
        (["--pair", "--sample", "1"], ["--pair", "--sample=1"]),
        (["--what", "wait"], ["--what=wait", "weight"]),
    ],
    ids=" ".join,
)
def test_flags_that_exclude_each_other_exit_with_2_in_one_line(
    workflow: Install, flags: list[str], named: list[str]
) -> None:
    calls = workflow("inspect", returns=inspection(reasoning()))
    result = dgpo("inspect", "a", *flags)
    assert result.exit_code == 2 and result.stdout == "" and calls == []
    assert re.fullmatch(r"error: .+\n", result.stderr)
    assert all(name in result.stderr for name in named)


def test_a_pair_cannot_be_typed(workflow: Install) -> None:
    calls = workflow("inspect", returns=inspection(reasoning()))
    result = dgpo("inspect", "--prompt", "1+1?", "--completion", "2", "--model", "m", "--pair")
    assert result.exit_code == 2 and calls == []
    assert re.fullmatch(r"error: --pair and --completion: .+\n", result.stderr)
