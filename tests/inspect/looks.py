"""What the tests of inspect share: the call of its workflow, and the lines of a run."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from dgpo_cli.core.events import NOBODY
from dgpo_cli.core.types import Inspection
from dgpo_cli.inspect import inspect
from dgpo_cli.inspect.request import Models, Origin, Selection, Values, WhatIf
from dgpo_cli.runs.run_folder import RunFolder


def look(**changes: Any) -> Inspection:
    """Inspect with these of the workflow's arguments, whichever of its parts they belong to.

    value, settings: continuations of each prefix, and what estimates them.
    """
    origin, models, choice, what_if = (
        part(**{f.name: changes.pop(f.name) for f in fields(part) if f.name in changes})
        for part in (Origin, Models, Selection, WhatIf)
    )
    if "value" in changes:
        changes["values"] = Values(changes.pop("value"), changes.pop("settings", ()))
    given = {"at": None, "observer": NOBODY, **changes}
    return inspect.run(origin, models=models, choice=choice, what_if=what_if, **given)


def stored_lines(run: Path) -> list[dict[str, Any]]:
    path = RunFolder(run).rollouts()[-1]
    return [json.loads(line) for line in path.read_text().splitlines()]
