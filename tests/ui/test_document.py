"""A page is one file: its policy allows its own style and script, by hash, and nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest
from jinja2 import UndefinedError
from markupsafe import escape

from dgpo_cli.core.text import visible
from dgpo_cli.ui.document import document, json_text, templates
from tests.samples import HOSTILE

NASTY = '</script><script>alert(1)</script><img src=x onerror="alert(2)">&\u2028\u2029\ud800\u202e'


class Elements(HTMLParser):
    """The elements of a page with their attributes and the text up to the next tag."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.is_open = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs), []))
        self.is_open = True

    def handle_endtag(self, tag: str) -> None:
        self.is_open = False

    def handle_data(self, data: str) -> None:
        if self.is_open:
            self.found[-1][2].append(data)

    def named(self, tag: str) -> list[tuple[dict[str, str | None], str]]:
        return [(attrs, "".join(text)) for name, attrs, text in self.found if name == tag]


def page(**changes: object) -> str:
    parts: dict[str, object] = {
        "title": NASTY,
        "style": "p { color: red }",
        "script": "'hello';",
        "data": {"text": NASTY, "nan": float("nan"), NASTY: [1, 2.5, None]},
    }
    return document("base.html", **(parts | changes))  # type: ignore[arg-type]


def test_the_policy_names_the_hashes_of_the_only_style_and_script() -> None:
    elements = Elements(page())
    ((attrs, _), *_) = [each for each in elements.named("meta") if "http-equiv" in each[0]]
    policy = dict(part.split(" ", 1) for part in (attrs["content"] or "").split("; "))
    ((_, style),) = elements.named("style")
    data, script = elements.named("script")

    def hashed(text: str) -> str:
        digest = hashlib.sha256(text.encode()).digest()
        return f"'sha256-{base64.b64encode(digest).decode()}'"

    assert policy == {
        "default-src": "'none'",
        "style-src": hashed(style),
        "script-src": hashed(script[1]),
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert data[0] == {"type": "application/json", "id": "data"}
    assert style.endswith("p { color: red }") and script[1].endswith("'hello';")


def test_hostile_text_makes_no_element_and_comes_back_whole_from_the_data() -> None:
    harmless = Elements(page(title="t", data=0))
    elements = Elements(page())
    assert [tag for tag, *_ in elements.found] == [tag for tag, *_ in harmless.found]
    (_, text), _ = elements.named("script")
    assert json.loads(text) == {"text": NASTY, "nan": None, NASTY: [1, 2.5, None]}


@pytest.mark.parametrize("text", [*HOSTILE, NASTY])
def test_no_text_reaches_html_or_data_raw(text: str) -> None:
    written = templates().from_string("{{ text }}").render(text=text)
    for shown in (written, json_text(text)):
        assert not set(shown) & set("<>\x1b\n\u2028\u2029\u202e\ud800\x07\x00")
        assert "&" not in re.sub(r"&(amp|lt|gt|#34|#39);", "", shown)
    assert written == escape(visible(text))
    assert not set(written) & set('"' + "'")
    assert json.loads(json_text(text)) == text


def test_a_text_of_several_lines_keeps_them_and_nothing_else() -> None:
    written = templates().from_string("{{ text | lines }}").render(text="a<b>\r\n\u2028\x1b\n")
    assert written == "a&lt;b&gt;\\r\n\\u2028\\x1b\n"


def test_a_name_that_a_template_does_not_get_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="missing"):
        templates().from_string("{{ missing }}").render()


def test_a_page_names_no_address_and_can_be_written_as_utf8() -> None:
    assert not re.search(r"https?:|//[a-z]|url\(|@import", page().encode().decode())


def test_the_same_arguments_give_the_same_bytes() -> None:
    assert page() == page()
