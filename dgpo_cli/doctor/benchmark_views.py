"""What `dgpo bench` prints: the list of benchmarks, one of them, and what is wrong with a copy."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from rich.cells import cell_len
from rich.text import Text

from dgpo_cli.core.numbers import counted
from dgpo_cli.core.text import split_cells
from dgpo_cli.doctor.benchmarks import (
    KINDS,
    BenchmarkJson,
    BenchmarksJson,
    Checked,
    Described,
    options_of,
    source_of,
)
from dgpo_cli.prompts.manifests import HubManifest, RowsManifest
from dgpo_cli.ui.page import Page, View

_LEAST = 8  # cells of a licence; with fewer, it stands below with the source
_LABEL = 12
_COMMIT = 8  # digits of a commit
_LISTED = 50  # faults


def render_list(found: BenchmarksJson) -> View:
    """Return the benchmarks, by the kind of their answers."""
    return View(partial(_draw_list, found=found))


def render_one(found: Described, *, answers: bool) -> View:
    """Return what a benchmark's manifest says, and a problem of it if there is a copy."""
    return View(partial(_draw_one, found=found, answers=answers))


def render_check(found: Checked) -> View:
    """Return what was found in a copy; the faults last."""
    return View(partial(_draw_check, found=found))


def _draw_list(page: Page, *, found: BenchmarksJson) -> None:
    names = max(cell_len(each.name) for each in found.benchmarks) + 2
    protocols = max(cell_len(each.protocol or "") for each in found.benchmarks) + 2
    sources = max(cell_len(_source(each)) for each in found.benchmarks) + 2
    for at, (kind, words) in enumerate(KINDS.items()):
        rows = [each for each in found.benchmarks if each.answers == kind]
        if not rows:
            continue
        if at:
            page.blank()
        page.heading(words, "problems, protocol, here or to fetch, source, licence")
        for each in rows:
            _draw_row(page, each, widths=(names, protocols, sources))


def _draw_row(page: Page, each: BenchmarkJson, *, widths: tuple[int, int, int]) -> None:
    names, protocols, sources = widths
    line = page.cells(
        (page.fit(page.shown(each.name), names - 1), names, "bold"),
        ("?" if each.problems is None else f"{each.problems:,}", -6),
        ("", 2),
        (each.protocol or "settings", max(protocols, 10)),
        ("here" if each.cached else "fetch", 7, "" if each.cached else "dim"),
    )
    where = page.shown(_source(each))
    rest = page.shown(each.licence or "unknown" if "/" in each.source else "")
    room = page.width - line.cell_len - sources
    if room < _LEAST:
        line.rstrip()
        page.add(line)
        page.add(("  " + page.fit(f"{where}  {rest}".rstrip(), page.width - 2), "dim"))
        return
    page.add(line, page.cells((where, sources, "dim"), (page.fit(rest, room), room, "dim")))
    last = page.lines[-1]
    assert isinstance(last, Text)
    last.rstrip()


def _source(each: BenchmarkJson) -> str:
    return each.source if each.package in ("", "dgpo") else f"{each.source} ({each.package})"


def _draw_one(page: Page, *, found: Described, answers: bool) -> None:
    manifest, protocol = found.manifest, found.protocol
    package = "" if found.listed.package in (None, "dgpo") else f"from {found.listed.package}"
    page.title(page.shown(found.listed.name), package)
    facts = {
        "": manifest.title,
        "also": ", ".join(manifest.aliases),
        "problems": "any number" if manifest.problems is None else f"{manifest.problems:,}",
        "answers": KINDS[manifest.answer_kind] + _range(manifest),
        "options": options_of(manifest),
        "protocol": "the settings as they are" if protocol is None else protocol.name,
        "prompt": "" if protocol is None else str(protocol.values.get("prompts.template", "")),
        "licence": manifest.licence or "unknown",
        "from": source_of(manifest),
        **_pinned(manifest),
        "here": "yes" if found.cached else "no: dgpo eval fetches it, or give --data FILE",
        "manifest": str(found.listed.path),
    }
    for label, text in facts.items():
        if text:
            _draw_fact(page, label, text)
    if isinstance(manifest, RowsManifest):
        for name, remark in manifest.remarks.items():
            _draw_fact(page, "remark", f"{name}: {remark}")
    if found.example is not None:
        page.blank()
        page.heading("An example", f"problem {page.shown(found.example.id)}")
        for line in found.example.text.splitlines():
            page.wrapped(line, indent=2)
        if answers:
            _draw_fact(page, "answer", found.example.answer)


def _draw_fact(page: Page, label: str, text: str) -> None:
    """Write a label and a text of any length."""
    shown = page.shown(text.replace("\n", " "))
    head = page.cells((label, _LABEL, "dim"))
    room = page.width - _LABEL
    if cell_len(shown) > room and " " not in shown:  # a digest, a path
        first, shown = split_cells(shown, room)
        page.add(head, first)
        head = page.text(" " * _LABEL)
    page.paragraph(shown, indent=_LABEL, head=head)


def _range(manifest: object) -> str:
    low, high = getattr(manifest, "minimum", None), getattr(manifest, "maximum", None)
    if low is None and high is None:
        return ""
    if low is not None and high is not None:
        return f" from {low} to {high}"
    return f" from {low}" if high is None else f" up to {high}"


def _pinned(manifest: object) -> dict[str, str]:
    """Return what a manifest says of the data's files and what must hold of them."""
    if not isinstance(manifest, RowsManifest):
        return {}
    commit = ""
    if isinstance(manifest, HubManifest):
        commit = manifest.revision or "the newest, which the card names"
        if manifest.gated:
            commit += " (gated: accept its conditions on the hub and log in)"
    rows = [
        f"{field} in {', '.join(map(str, where.any_of))}" * bool(where.any_of)
        + f"{field} from {where.at_least}" * (where.at_least is not None)
        + f"{field} up to {where.at_most}" * (where.at_most is not None)
        for field, where in manifest.where.items()
    ]
    return {
        "commit": commit,
        "file": ", ".join(manifest.files) if commit else "",
        "digest": manifest.sha256 or "",
        "rows": ", ".join(rows),
        "key": f"{counted(len(manifest.answers), 'answer')} to compare with"
        if manifest.answers
        else "",
    }


def _draw_check(page: Page, *, found: Checked) -> None:
    bench = found.found.benchmark
    page.title(page.shown(bench.name), counted(len(bench.prompts), "problem"))
    kinds = ", ".join(counted(count, kind) for kind, count in found.kinds.items())
    reward = f"reward.kind={found.reward}" if found.reward else "no checker reads all of them"
    facts = {
        "read": found.found.where,
        "answers": f"{kinds}; {reward}",
        "digest": f"{bench.sha256[:16]}… of ids, problems and answers",
    }
    for label, text in facts.items():
        _draw_fact(page, label, text)
    notes = [note for note in bench.notes if note not in found.faults]
    for note in notes:
        _draw_fact(page, "note", note.removeprefix(f"{found.found.where}: "))
    _draw_lines(page, "odd", found.found.odd)
    _draw_lines(page, "fault", found.faults, style="bold")
    if found.faults:
        page.add((counted(len(found.faults), "fault"), "bold"))
    else:
        page.add(("no faults", "bold"))


def _draw_lines(page: Page, label: str, lines: Sequence[str], *, style: str = "") -> None:
    for line in lines[:_LISTED]:
        head = page.cells((label, _LABEL, style or "dim"))
        page.paragraph(page.shown(line), indent=_LABEL, head=head)
    if len(lines) > _LISTED:
        page.add(" " * _LABEL, (f"and {len(lines) - _LISTED:,} more", "dim"))
