"""Streams of prompts are a function of seed and step; files lose nothing in silence."""

import ast
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from dgpo_cli.core.errors import ConfigError, DataError
from dgpo_cli.core.formats import Position
from dgpo_cli.core.types import Message, Prompt
from dgpo_cli.prompts.datasets import PromptStream, open_prompts
from dgpo_cli.prompts.problems import read_prompts
from dgpo_cli.prompts.settings import FilePrompts, SumsPrompts
from dgpo_cli.prompts.sums import held_out


def draw(stream: PromptStream, step: int, count: int) -> list[Prompt]:
    """The prompts of a step of a run that draws `count` once in every step."""
    return stream.take(Position(step, step * count), count=count)


def save(folder: Path, *records: dict[str, Any], name: str = "data.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def numbered(folder: Path, count: int) -> Path:
    return save(folder, *({"problem": f"{i}+1?", "answer": i + 1} for i in range(count)))


def read(path: Path, **columns: str) -> tuple[tuple[Prompt, ...], tuple[str, ...]]:
    return read_prompts(path, template="{problem}", system=None, **columns)


# ---------------------------------------------------------------- sums


def value_of(node: ast.expr) -> int:
    if isinstance(node, ast.Constant):
        assert isinstance(node.value, int)
        return node.value
    assert isinstance(node, ast.BinOp)
    left, right = value_of(node.left), value_of(node.right)
    if isinstance(node.op, ast.Add):
        return left + right
    return left - right if isinstance(node.op, ast.Sub) else left * right


def test_sums_ask_the_expression_and_know_its_value() -> None:
    stream = open_prompts(SumsPrompts(template="Q: {problem}", system="S"), seed=3)
    for prompt in draw(stream, 0, 50):
        system, user = prompt.messages
        assert system == Message("system", "S")
        assert user == Message("user", f"Q: {prompt.id}?")
        assert int(prompt.answer) == value_of(ast.parse(prompt.id, mode="eval").body)
        assert prompt.source == "sums"


def test_sums_are_a_function_of_seed_step_and_count() -> None:
    first = open_prompts(SumsPrompts(), seed=1)
    expected = [draw(first, step, 8) for step in range(5)]
    later = open_prompts(SumsPrompts(), seed=1)
    assert [draw(later, step, 8) for step in (4, 2)] == [expected[4], expected[2]]
    assert draw(open_prompts(SumsPrompts(), seed=2), 0, 8) != expected[0]
    assert len({prompt.id for batch in expected for prompt in batch}) > 35


def test_sums_are_never_held_out_problems() -> None:
    test_side = {p.key for n in (1, 2, 3) for p in held_out(n)}
    expressions = {p.expression for n in (1, 2, 3) for p in held_out(n)}
    stream = open_prompts(SumsPrompts(operations=(1, 2, 3)), seed=0)
    drawn = {p.id for step in range(20) for p in draw(stream, step, 50)}
    assert test_side
    assert not drawn & expressions


def test_sums_of_a_step_are_all_different_even_where_few_exist() -> None:
    stream = open_prompts(SumsPrompts(operations=(1,), max_operand=9), seed=0)
    for step in range(5):
        ids = [prompt.id for prompt in draw(stream, step, 60)]
        assert len(set(ids)) == 60


def test_too_few_different_sums_say_which_settings_to_change() -> None:
    stream = open_prompts(SumsPrompts(operations=(1,), max_operand=2), seed=0)
    with pytest.raises(DataError, match=r"prompts\.max_operand=2.*different problems"):
        draw(stream, 0, 500)


def test_operations_are_equally_likely() -> None:
    stream = open_prompts(SumsPrompts(operations=(1, 3)), seed=0)
    drawn = [p.id for step in range(20) for p in draw(stream, step, 50)]
    short = sum(sum(text.count(sign) for sign in "+-*") == 1 for text in drawn)
    assert 430 <= short <= 570  # 1000 draws: 4.4 standard deviations


def test_sums_that_do_not_fit_are_drawn_again() -> None:
    stream = open_prompts(SumsPrompts(), seed=0).keep(lambda p: len(p.id) <= 6, reason="too long")
    batch = draw(stream, 3, 20)
    assert len(batch) == 20
    assert all(len(prompt.id) <= 6 for prompt in batch)
    assert stream.notes == ()
    assert stream.prompts is None


def test_sums_of_which_none_fits_fail_at_once() -> None:
    with pytest.raises(DataError, match="found only 0"):
        open_prompts(SumsPrompts(), seed=0).keep(lambda p: False, reason="too long")


# ---------------------------------------------------------------- file streams


def test_every_epoch_has_every_problem_once_in_its_own_order(tmp_path: Path) -> None:
    stream = open_prompts(FilePrompts(path=str(numbered(tmp_path, 12))), seed=0)
    epochs = [
        [p.id for step in range(3 * epoch, 3 * epoch + 3) for p in draw(stream, step, 4)]
        for epoch in range(4)
    ]
    assert len(stream.prompts or ()) == 12
    assert all(sorted(epoch) == sorted(epochs[0]) for epoch in epochs)
    assert len(set(epochs[0])) == 12
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_file_prompts_are_a_function_of_seed_and_step(tmp_path: Path) -> None:
    settings = FilePrompts(path=str(numbered(tmp_path, 10)))
    expected = [draw(open_prompts(settings, seed=5), step, 4) for step in range(10)]
    resumed = open_prompts(settings, seed=5)
    assert [draw(resumed, step, 4) for step in range(7, 10)] == expected[7:]
    assert draw(open_prompts(settings, seed=6), 0, 4) != expected[0]


def test_steps_run_over_the_end_of_an_epoch_without_losing_a_problem(tmp_path: Path) -> None:
    stream = open_prompts(FilePrompts(path=str(numbered(tmp_path, 5))), seed=0)
    drawn = Counter(p.id for step in range(10) for p in draw(stream, step, 3))
    assert set(drawn.values()) == {6}  # 30 draws of 5 problems
    assert len(draw(stream, 0, 12)) == 12


def test_problems_that_do_not_fit_are_left_out_and_counted(tmp_path: Path) -> None:
    stream = open_prompts(FilePrompts(path=str(numbered(tmp_path, 12))), seed=0)
    kept = stream.keep(lambda p: len(p.text) < 5, reason="longer than 4")
    assert len(kept.prompts or ()) == 10
    assert kept.notes == ("2 of 12 problems are left out: longer than 4",)
    assert kept.keep(lambda p: True, reason="x").notes == kept.notes
    with pytest.raises(DataError, match="all 12 problems are too long"):
        stream.keep(lambda p: False, reason="too long")


# ---------------------------------------------------------------- files


def test_a_file_is_read_in_its_order_with_answers_as_text(tmp_path: Path) -> None:
    path = save(
        tmp_path,
        {"problem": " 1+1? ", "answer": 2, "id": "first"},
        {"problem": "2*2?", "answer": " \\frac{8}{2} ", "id": 7},
        {"problem": "1/4?", "answer": 0.25},
        {"problem": "3*4?", "answer": 12.0, "id": None},
    )
    prompts, notes = read(path)
    assert [(p.id, p.text, p.answer) for p in prompts] == [
        ("first", "1+1?", "2"),
        ("7", "2*2?", "\\frac{8}{2}"),
        ("data:3", "1/4?", "0.25"),
        ("data:4", "3*4?", "12"),
    ]
    assert {p.source for p in prompts} == {str(path)}
    assert notes == ()


def test_template_and_system_are_applied(tmp_path: Path) -> None:
    path = save(tmp_path, {"q": {"text": "x"}, "a": {"b": "1"}})
    (prompt,), _ = read_prompts(
        path,
        template=r"{problem} in \boxed{}",
        system="S",
        problem_column="q.text",
        answer_column="a.b",
    )
    assert prompt.messages == (Message("system", "S"), Message("user", r"x in \boxed{}"))


def test_a_column_of_messages_is_taken_as_messages(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "S"}, {"role": "user", "content": "1+1?"}]
    path = save(tmp_path, {"prompt": turns, "reward_model": {"ground_truth": "2"}})
    (prompt,), _ = read(path, problem_column="prompt", answer_column="reward_model.ground_truth")
    assert prompt.messages == (Message("system", "S"), Message("user", "1+1?"))
    assert (prompt.text, prompt.answer) == ("1+1?", "2")


def test_repeated_problems_are_left_out_and_counted(tmp_path: Path) -> None:
    path = save(
        tmp_path,
        {"problem": "a", "answer": 1, "id": "x"},
        {"problem": "b", "answer": 2},
        {"problem": " a ", "answer": "1", "id": "x"},
        {"problem": "c d", "answer": 5},
        {"problem": "c \n d", "answer": "5"},
        {"problem": "caf\u00e9", "answer": 6},
        {"problem": "cafe\u0301", "answer": 6},
    )
    prompts, notes = read(path)
    assert [p.text for p in prompts] == ["a", "b", "c d", "caf\u00e9"]
    assert notes == (f"{path}: 7 rows, 4 problems: duplicates left out",)
    assert open_prompts(FilePrompts(path=str(path)), seed=0).notes == notes


GOOD = {"problem": "a", "answer": 1}
BROKEN: list[tuple[dict[str, Any], str]] = [
    ({"problem": "b"}, r"no field 'answer' .*'problem'\); name it with prompts\.answer_column"),
    ({"answer": 1}, r"no field 'problem' .*; name it with prompts\.problem_column"),
    ({"problem": "b", "answer": ""}, "field 'answer' is empty"),
    ({"problem": "b", "answer": None}, "field 'answer' must be .* not null"),
    ({"problem": "b", "answer": [1]}, "field 'answer' must be .* not a list"),
    ({"problem": "b", "answer": True}, "field 'answer' must be .* not a boolean"),
    ({"problem": " ", "answer": 1}, "field 'problem' is empty"),
    ({"problem": "\ud83d b", "answer": 1}, r"field 'problem' has \\ud83d, half of a surrogate"),
    ({"problem": "b", "answer": "\udc00"}, r"field 'answer' has \\udc00, half of a surrogate"),
    ({"problem": 5, "answer": 1}, "field 'problem' must be text"),
    ({"problem": {"x": 1}, "answer": 1}, "field 'problem' must be .* not an object"),
    ({"problem": ["b"], "answer": 1}, "field 'problem': every message needs a role"),
    ({"problem": [{"role": "tool", "content": "b"}], "answer": 1}, "needs a role"),
    ({"problem": [{"role": "user", "content": None}], "answer": 1}, "content that is text"),
    ({"problem": [{"role": "assistant", "content": "b"}], "answer": 1}, "must be the user's"),
    ({"problem": [], "answer": 1}, "must be the user's"),
    ({"problem": "b", "answer": 1, "id": [2]}, "field 'id' must be text"),
    ({"problem": "b", "answer": 1, "id": "data:1"}, "id 'data:1' is already that of line 1"),
]


@pytest.mark.parametrize(("record", "message"), BROKEN, ids=lambda part: str(part)[:40])
def test_a_broken_row_names_file_line_and_field(
    tmp_path: Path, record: dict[str, Any], message: str
) -> None:
    path = save(tmp_path, GOOD, record)
    with pytest.raises(DataError, match=message) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}, line 2: ")
    assert "\n" not in str(caught.value)


def test_an_endless_number_is_refused_quickly(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"problem": "a", "answer": 1e999999999}')
    with pytest.raises(DataError, match="over 1000 digits"):
        read(path)


@pytest.mark.parametrize("content", ["", "\n \r\n"])
def test_a_file_without_problems_is_an_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match="no problems"):
        open_prompts(FilePrompts(path=str(path)), seed=0)


def test_a_missing_file_exits_as_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file") as caught:
        open_prompts(FilePrompts(path=str(tmp_path / "none.jsonl")), seed=0)
    assert caught.value.exit_code == 2
