"""The shell of every HTML page that dgpo writes: one file, no network, light and dark.

A page holds its style, script and data inline. Its Content-Security-Policy allows exactly these,
by their hashes, and nothing else: no request, no other script, no form, no frame.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Undefined
from markupsafe import Markup, escape

from dgpo_cli.core.codec import encoded, jsonable
from dgpo_cli.core.text import visible, visible_lines

_ASSETS = Path(__file__).resolve().parent / "assets"
# What would end the JSON block's element, or a line of a script, is written as an escape.
_IN_A_SCRIPT = {ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}


def document(
    template: str,
    *,
    title: str,
    style: str = "",
    script: str = "",
    data: Any = None,
    **context: Any,
) -> str:
    """A whole page, from a template that extends assets/base.html: same arguments, same bytes.

    What a template writes is shown and escaped by itself; only Markup passes as it is. `style=` and
    `on...=` attributes do nothing, for the policy forbids them: use classes, and SVG's own
    attributes (fill, stroke). style: CSS after assets/base.css, which holds the colours of both
    schemes as variables (--bg, --card, --fg, --muted, --line, --accent, --good, --bad, --warn) and
    the looks of headings, tables, buttons, `.card`, `.fields` (a dl), `.scroll` (around wide
    tables) and `.note`. script: JavaScript after assets/base.js, which runs the theme button.
    data: what JSON can hold, NaN becomes null; the script finds it by
    `JSON.parse(document.getElementById("data").textContent)`.
    """
    styles = Markup(asset("base.css") + style)
    scripts = Markup(asset("base.js") + script)
    policy = (
        "default-src 'none'",
        f"style-src {_hash(styles)}",
        f"script-src {_hash(scripts)}",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
    )
    if data is not None:
        context["data"] = Markup(json_text(data))
    return (
        templates()
        .get_template(template)
        .render(context, title=title, policy="; ".join(policy), style=styles, script=scripts)
    )


@cache
def templates() -> Environment:
    """The templates in assets/.

    Every text that one writes goes through `visible`, and then is escaped: what a reader could not
    see or a browser would obey (control characters, bidirectional overrides, lone surrogates) is
    shown as an escape, as in the terminal. The filter `lines` keeps the ends of lines.
    """
    found = Environment(
        loader=FileSystemLoader(_ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if _is_safe(value) else visible(str(value)),
    )
    found.filters["lines"] = lambda text: escape(visible_lines(text))
    return found


def _is_safe(value: object) -> bool:
    return isinstance(value, Markup | int | float | Undefined)


def json_text(data: Any) -> str:
    """Data as JSON that can stand in a script element: ASCII, and no character of HTML in it."""
    text = encoded(jsonable(data), compact=True)
    return text.translate(_IN_A_SCRIPT)


@cache
def asset(name: str) -> str:
    """The text of a file in assets/, which cannot end the element that it is put into."""
    text = (_ASSETS / name).read_text(encoding="utf-8")
    assert "</" not in text, f"{name}: an end tag"
    return text


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
