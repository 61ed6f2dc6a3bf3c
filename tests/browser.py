"""A real browser for the tests of the pages: the system's Chromium, headless, without a network."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
QUIET = (
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


@dataclass
class Visit:
    """A page that is open, and what the browser said of it.

    complaints: every line on its console, every uncaught error, every dialog.
    requests: every address that was asked for.
    """

    page: Any
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def __call__(self, expression: str, argument: object = None) -> Any:
        """Evaluate JavaScript in the page."""
        return self.page.evaluate(expression, argument)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """The browser, started once; tests that need it are skipped where it is missing."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    api = pytest.importorskip("playwright.sync_api", reason="playwright is in the extra dev")
    as_root = ["--no-sandbox"] if os.geteuid() == 0 else []
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=[*QUIET, *as_root])
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Any, tmp_path: Path) -> Iterator[Callable[..., Visit]]:
    """Open the HTML of a page from a file, as a user does; settings are those of a context."""
    contexts = []

    def visit_(html: str, *, width: int = 1280, **settings: Any) -> Visit:
        path = tmp_path / f"page-{len(contexts)}.html"
        path.write_bytes(html.encode("utf-8"))
        context = chromium.new_context(viewport={"width": width, "height": 800}, **settings)
        contexts.append(context)
        found = Visit(context.new_page())
        page = found.page
        page.on("console", lambda message: found.complaints.append(message.text))
        page.on("pageerror", lambda error: found.complaints.append(str(error)))
        page.on("dialog", lambda dialog: (found.complaints.append("dialog"), dialog.dismiss()))
        context.on("request", lambda request: found.requests.append(request.url))
        page.goto(path.as_uri())
        return found

    yield visit_
    for context in contexts:
        context.close()
