"""Which evaluations may be compared: card, problems and k decide; each difference is named."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dgpo_cli.core.errors import ConfigError, DataError
from dgpo_cli.core.types import Card
from dgpo_cli.evals.compare import run
from dgpo_cli.stats.cards import differences
from dgpo_cli.stats.comparison import NamedEvaluation
from tests.samples import card, evaluation


def made(
    name: str = "a", correct: tuple[int, ...] = (1, 4, 8), *, k: int = 8, **more: Card
) -> NamedEvaluation:
    return NamedEvaluation(name, evaluation(correct, k=k), more.get("card", card()))


def test_runs_under_the_same_protocol_are_compared_with_the_first() -> None:
    subject = replace(card(), subject={"model": "b", "revision": None})
    first, second = run([made(), made("b", (2, 5, 8), card=subject), made("c", (0, 4, 8))])
    assert (first.before.name, first.after.name) == ("a", "b")
    assert (second.before.name, second.after.name) == ("a", "c")
    assert first.comparison.difference == pytest.approx(2 / 24)
    assert first.forced == () and len(first.notes) == 1  # few problems
    assert first.subject == (
        "model: runs/tiny/step-100 -> b",
        "prompt_ids.first: [1, 2, 3] -> missing",
        "revision: missing -> none",
    )


def test_one_run_is_no_comparison() -> None:
    with pytest.raises(ConfigError, match="at least one"):
        run([made()])


def test_another_seed_or_end_token_is_the_subjects_and_not_refused() -> None:
    (pair,) = run([made(card=card(stop=[2])), made(card=card(stop=[7], seed=5))])
    assert pair.subject == ("seed: 0 -> 5", "stop: [2] -> [7]")
    assert pair.forced == ()


def test_an_evaluation_that_stopped_early_may_be_compared_with_one_that_did_not() -> None:
    (pair,) = run([made(), made("b", (1, 2, 4), k=4, card=card(stop_when=0.015))])
    assert pair.subject == ("stop_when: missing -> 0.015",)
    assert pair.forced == () and any("k differs" in note for note in pair.notes)


def test_the_same_data_from_another_place_is_the_same() -> None:
    hub = card(dataset="math-ai/aime25", revision="563bb84", sha256="1433")
    copy = card(dataset="aime2025.jsonl", revision=None, sha256="1433")
    (pair,) = run([made(card=hub), made(card=copy)])
    assert pair.forced == ()
    other = card(dataset="aime2025.jsonl", revision=None, sha256="beef")
    with pytest.raises(ConfigError, match=r"protocol\.dataset: math-ai/aime25 -> aime2025\.jsonl"):
        run([made(card=hub), made(card=other)])


def test_an_endpoint_is_compared_with_an_engine_although_its_machine_is_unknown() -> None:
    engine = replace(card(stop=[2]), environment={"backend": "hf", "versions": {"torch": "2.13"}})
    endpoint = replace(card(stop=None), environment={"backend": "endpoint", "server": "vllm"})
    (pair,) = run([made(card=engine), made(card=endpoint)])
    assert pair.forced == ()
    assert pair.subject == (
        "stop: [2] -> none",
        "environment.backend: hf -> endpoint",
        "environment.versions.torch: 2.13 -> missing",
        "environment.server: missing -> vllm",
    )


def test_every_difference_of_protocol_and_environment_is_named_and_refused() -> None:
    other = replace(
        card(temperature=1.0, checker={"kind": "integer", "version": "4"}, extra=1),
        environment={"backend": "vllm", "versions": {"torch": "2.9.1"}},
    )
    runs = [made("evals/a"), made("evals/b", card=other)]
    named = (
        "protocol.temperature: 0.6 -> 1.0",
        "protocol.checker.version: 3 -> 4",
        "protocol.extra: missing -> 1",
        "environment.backend: hf -> vllm",
    )
    with pytest.raises(ConfigError) as caught:
        run(runs)
    message = str(caught.value)
    assert message.startswith("evals/a and evals/b cannot be compared (--force")
    assert message.split("\n  ")[1:] == list(named)
    (pair,) = run(runs, force=True)
    assert pair.forced == named


def test_a_missing_card_is_refused() -> None:
    bare = NamedEvaluation("bare", evaluation((1, 4, 8)), None)
    with pytest.raises(ConfigError, match="card: bare has none"):
        run([made(), bare])
    (pair,) = run([bare, bare], force=True)
    assert len(pair.forced) == 2


def test_other_problems_are_refused_and_forced_to_the_common_ones() -> None:
    runs = [made("a", (1, 4, 8)), made("b", (3, 4, 8, 8))]
    with pytest.raises(ConfigError, match="problems: 3 and 4, 3 in both"):
        run(runs)
    (pair,) = run(runs, force=True)
    assert pair.comparison.n_problems == 3
    assert pair.comparison.difference == pytest.approx(2 / 24)


def test_a_problem_with_another_answer_is_another_problem() -> None:
    after = evaluation((1, 4, 8))
    first, *rest = after.problems
    after = replace(after, problems=(replace(first, answer="69"), *rest))
    runs = [made(), NamedEvaluation("b", after, card())]
    with pytest.raises(ConfigError, match="problems: 3 and 3, 2 in both"):
        run(runs)
    (pair,) = run(runs, force=True)
    assert [change.id for change in pair.comparison.changes] == ["p1", "p2"]


def test_problems_are_paired_by_id_and_not_by_place() -> None:
    after = evaluation((2, 4, 8))
    shuffled = replace(after, problems=after.problems[::-1])
    (pair,) = run([made(), NamedEvaluation("b", shuffled, card())])
    assert [change.difference for change in pair.comparison.changes] == [1 / 8, 0.0, 0.0]


def test_nothing_in_common_cannot_be_forced() -> None:
    after = evaluation((1,))
    (only,) = after.problems
    other = NamedEvaluation("b", replace(after, problems=(replace(only, id="q"),)), card())
    with pytest.raises(ConfigError, match="no problem is in both"):
        run([made("a", (1,)), other], force=True)


def test_another_benchmark_is_refused() -> None:
    other = NamedEvaluation("b", replace(evaluation((1, 4, 8)), bench="aime"), card())
    with pytest.raises(ConfigError, match="benchmark: sums -> aime"):
        run([made(), other])


def test_a_problem_that_stands_twice_is_refused() -> None:
    twice = evaluation((1, 4))
    twice = replace(twice, problems=(twice.problems[0],) * 2)
    with pytest.raises(DataError, match="b: problem p0 is in it twice"):
        run([made("a", (1, 4)), NamedEvaluation("b", twice, card())])


def test_notes_say_that_k_differs_and_that_samples_are_the_same() -> None:
    (pair,) = run([made(k=8), made("b", (1, 4, 8), k=16)])
    assert pair.notes[0].startswith("k differs, 8 and 16")
    (pair,) = run([made(), made("b")])
    assert "the same samples" in pair.notes[0] and pair.comparison.p_problems == 1.0


def test_notes_say_that_so_few_problems_cannot_be_significant() -> None:
    (pair,) = run([made("a", (1, 4, 5)), made("b", (2, 5, 6))])
    assert pair.notes[0].startswith("The test over other problems cannot reach p < 0.05 with 3")
    (pair,) = run([made("a", (1,) * 6), made("b", (3,) * 6)])
    assert pair.notes == () and pair.comparison.p_problems == 2 / 2**6 < 0.05


def test_long_values_are_cut_around_their_first_difference() -> None:
    before, after = "x" * 100 + "A" + "y" * 100, "x" * 100 + "B" + "y" * 100
    ((key, change),) = differences({"a": {"b": before}}, {"a": {"b": after}})
    assert key == "a.b"
    old, new = change.split(" -> ")
    assert old == "..." + "x" * 12 + "A" + "y" * 27 + "..." and new == old.replace("A", "B")
    assert list(differences({"a": 1, "b": {}}, {"a": 1, "b": {}})) == []
    ((_, change),) = differences({"a": "1"}, {"a": "12"})
    assert change == "1 -> 12"
