"""Writes docs/schemas: a JSON Schema of every file and every --json, made from its type.

python docs/make_schemas.py, or make schemas. A test holds the files to the types.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dgpo_cli.config.settings import Settings
from dgpo_cli.core.codec import Format
from dgpo_cli.core.formats import FORMATS
from dgpo_cli.doctor.benchmarks import BENCHMARKS
from dgpo_cli.doctor.check import CHECK
from dgpo_cli.doctor.table import DOCTOR
from dgpo_cli.evals.matrix.table import TABLE
from dgpo_cli.evals.request import REGRADE
from dgpo_cli.evals.views.comparison_json import COMPARISON
from dgpo_cli.inspect.as_json import INSPECTION
from dgpo_cli.planning.table import PLAN
from dgpo_cli.report.as_json import REPORT
from dgpo_cli.study.summary import STUDY

FOLDER = Path(__file__).parent / "schemas"
SETTINGS: Format[Settings] = Format(Settings, name="settings", what="settings.toml", partial=True)
PRINTED: tuple[Format[Any], ...] = (
    *(INSPECTION, COMPARISON, TABLE, REPORT, STUDY, REGRADE),
    *(PLAN, DOCTOR, CHECK, BENCHMARKS),
)


def schemas() -> dict[str, str]:
    """Return the text of every file of the folder by its name."""
    return {
        f"{each.name}.schema.json": json.dumps(each.schema(), indent=2) + "\n"
        for each in (*FORMATS, *PRINTED, SETTINGS)
    }


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    made = schemas()
    for path in FOLDER.iterdir():
        if path.name not in made:
            path.unlink()
    for name, text in made.items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
