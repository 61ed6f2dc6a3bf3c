"""The shell of every HTML page that dgpo writes: one file, no network, light and dark.

A page holds its style, script and data inline. Its Content-Security-Policy allows exactly these,
by their hashes, and nothing else: no request, no other script, no form, no frame.
"""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from dgpo_cli.core.text import escaped
from dgpo_cli.ui.jsonable import jsonable

_ASSETS = Path(__file__).resolve().parent / "assets"
_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<meta name="generator" content="dgpo">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
{data}<script>{script}</script>
</body>
</html>
"""
# What would end the JSON block's element, or a line of a script, is written as an escape.
_IN_A_SCRIPT = {ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}


def document(*, title: str, body: str, style: str = "", script: str = "", data: Any = None) -> str:
    """A whole page: the same arguments give the same bytes.

    title: plain text, may be untrusted. body: HTML of our own making, in which every foreign text
    went through `escaped`; it should be one `<header class="top">` and one `<main>`. `style=` and
    `on...=` attributes do nothing in it, for the policy forbids them: use classes, and SVG's own
    attributes (fill, stroke). style: CSS after assets/base.css, which holds the colours of both
    schemes as variables (--bg, --card, --fg, --muted, --line, --accent, --good, --bad, --warn) and
    the looks of headings, tables, buttons, `.card`, `.fields` (a dl), `.scroll` (around wide
    tables) and `.note`. script: JavaScript after assets/base.js, which runs the theme button
    (`theme_button`). data: what JSON can hold, NaN becomes null; the script finds it by
    `JSON.parse(document.getElementById("data").textContent)`.
    """
    styles = asset("base.css") + style
    scripts = asset("base.js") + script
    policy = "; ".join(
        (
            "default-src 'none'",
            f"style-src {_hash(styles)}",
            f"script-src {_hash(scripts)}",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    block = ""
    if data is not None:
        block = f'<script type="application/json" id="data">{json_text(data)}</script>\n'
    return _PAGE.format(
        policy=policy,
        title=escaped(title),
        style=styles,
        body=body,
        data=block,
        script=scripts,
    )


def theme_button() -> str:
    """The button between light and dark, for the page's header; without a script it is hidden."""
    return '<button type="button" class="theme" id="theme" hidden>Theme</button>'


def json_text(data: Any) -> str:
    """Data as JSON that can stand in a script element: ASCII, and no character of HTML in it."""
    text = json.dumps(jsonable(data), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.translate(_IN_A_SCRIPT)


@cache
def asset(name: str) -> str:
    """The text of a file in assets/, which cannot end the element that it is put into."""
    text = (_ASSETS / name).read_text(encoding="utf-8")
    assert "</" not in text, f"{name}: an end tag"
    return text


@cache
def template(name: str) -> str:
    """The text of an HTML file in assets/, with $names for string.Template."""
    return (_ASSETS / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
