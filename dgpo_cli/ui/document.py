"""The shell of every HTML page that dgpo writes: one file, no network, light and dark.

A page has its style, script and data inline. Its Content-Security-Policy allows exactly these, by
hash, and nothing else: no request, no other script, no form, no frame.
"""

from __future__ import annotations

import base64
import hashlib
import math
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Undefined
from markupsafe import Markup, escape

from dgpo_cli.core.codec import encoded, jsonable
from dgpo_cli.core.text import visible, visible_lines

_ASSETS = Path(__file__).resolve().parent / "assets"
# Escaped: what would end the JSON block's element, or a line of a script.
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
    """Return a page from a template that extends assets/base.html: same arguments, same bytes.

    Values are made visible and escaped; only Markup passes unchanged. The policy forbids `style=`
    and `on...=` attributes: use classes, and SVG's own attributes (fill, stroke).

    style: CSS after assets/base.css, which has the colours of both schemes as variables (--bg,
    --card, --fg, --muted, --line, --accent, --good, --bad, --warn) and styles headings, tables,
    buttons, `.card`, `.fields` (a dl), `.scroll` (around wide tables) and `.note`. script:
    JavaScript after assets/base.js. data: JSON for the script, NaN as null, in the element "data".
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
    """Return the templates in assets/.

    Every value goes through `visible` and is then escaped: control characters, bidirectional
    overrides and lone surrogates are shown, as in the terminal. The filter `lines` keeps line ends.
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
    """Return data as JSON for a script element: ASCII, without special characters of HTML."""
    text = encoded(jsonable(data), compact=True)
    return text.translate(_IN_A_SCRIPT)


def compact(value: float, *, digits: int) -> float | int:
    """Return a number rounded to these significant digits, whole ones without a point."""
    if not math.isfinite(value):
        return value
    rounded = float(f"{value:.{digits}g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 else rounded


@cache
def asset(name: str) -> str:
    """Return the text of a file in assets/, which has no end tag."""
    text = (_ASSETS / name).read_text(encoding="utf-8")
    assert "</" not in text, f"{name}: an end tag"
    return text


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
