"""How large the house is, and how much of it a run walks through.

    python benchmarks/house.py [--json FILE]

Frames of ours on the stack at optimizer.step, and functions of ours that `dgpo train --preset tiny
--steps 2` calls in its own process, evaluations included; modules that `dgpo --help` and `import
dgpo_cli` load, and the CPU time of the help; lines and files by room, the largest files, folders
with more than 15 files.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import dgpo_cli

PACKAGE = Path(dgpo_cli.__file__).parent
MOST_FILES = 15  # in one folder
TINY = ("train", "--preset=tiny", "--steps=2", "--view=lines")

# Runs the command in a process of its own, as a user would, and counts what it enters.
_WALK = """
import json, runpy, sys
package, out, *arguments = sys.argv[1:]
called, stacks = set(), []

def entered(frame, event, value):
    code = frame.f_code
    is_function = code.co_flags & 1  # and no body of a module or class
    if event == "call" and is_function and code.co_filename.startswith(package):
        called.add((code.co_filename, code.co_qualname))

def stack(optimizer, *rest):
    frame, found, command = sys._getframe(), [], None
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(package):
            found.append([file.removeprefix(package).lstrip("/"), frame.f_code.co_qualname])
        elif "/typer/" in file and command is None:
            command = len(found)  # frames below the one that calls the command
        frame = frame.f_back
    stacks.append([command, found[::-1]])

from torch.optim.optimizer import register_optimizer_step_pre_hook
register_optimizer_step_pre_hook(stack)
sys.argv = ["dgpo", *arguments]
import threading
threading.setprofile(entered)
sys.setprofile(entered)
try:
    runpy.run_module("dgpo_cli", run_name="__main__", alter_sys=True)
finally:
    sys.setprofile(None)
    with open(out, "w") as file:
        json.dump({"called": sorted(called), "stacks": stacks}, file)
"""
_LOADED = "import json, sys; print(json.dumps(sorted(sys.modules)))"
_HELP = """
import atexit, runpy, sys
def tell():
    import json
    sys.stderr.write(json.dumps(sorted(sys.modules)))
atexit.register(tell)
sys.argv = ["dgpo", "--help"]
runpy.run_module("dgpo_cli", run_name="__main__", alter_sys=True)
"""


def walked() -> dict[str, Any]:
    """Return what a run of two steps enters, and who stands on the stack at optimizer.step."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "walk.json"
        run = [str(PACKAGE), str(out), *TINY, f"--out={folder}/run"]
        done = subprocess.run([sys.executable, "-c", _WALK, *run], capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        found = json.loads(out.read_text())
    # A comprehension or lambda is no function that a reader has to look up.
    called = [(file, name) for file, name in found["called"] if not name.endswith(">")]
    command, stack = found["stacks"][0]
    return {
        "frames": len(stack),
        "frames_from_command": command,
        "files_on_stack": len({file for file, _ in stack}),
        "stack": [f"{file} {name}" for file, name in stack],
        "functions_called": len(set(called)),
        "files_entered": len({file for file, _ in called}),
    }


def loaded() -> dict[str, Any]:
    """Return how many modules are loaded, all and ours, beyond those of a bare Python."""
    bare = set(_printed("-c", _LOADED))
    imported = set(_printed("-c", f"import dgpo_cli; {_LOADED}")) - bare
    said = subprocess.run([sys.executable, "-c", _HELP], capture_output=True, text=True, check=True)
    helped = set(json.loads(said.stderr)) - bare
    return {
        "by_help": len(helped),
        "ours_by_help": len(_ours(helped)),
        "by_import": len(imported),
        "ours_by_import": len(_ours(imported)),
    }


def _printed(*arguments: str) -> list[str]:
    found = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True)
    names: list[str] = json.loads(found.stdout)
    return names


def _ours(modules: set[str]) -> list[str]:
    return [name for name in modules if name.partition(".")[0] == "dgpo_cli"]


def help_seconds(times: int = 5) -> float:
    """Return the median CPU seconds of `dgpo --help`, its imports included."""
    found = []
    for _ in range(times):
        before = _cpu_of_children()
        command = [sys.executable, "-m", "dgpo_cli", "--help"]
        subprocess.run(command, check=True, capture_output=True)
        found.append(_cpu_of_children() - before)
    return statistics.median(found)


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def size() -> dict[str, Any]:
    """Return lines and files: in all, by room, the largest ones, and full folders."""
    lines = {
        path.relative_to(PACKAGE): len(path.read_text(encoding="utf-8").splitlines())
        for path in sorted(PACKAGE.rglob("*.py"))
    }
    rooms: Counter[str] = Counter()
    files: Counter[str] = Counter()
    flat: Counter[str] = Counter()
    for path, count in lines.items():
        room = path.parts[0] if len(path.parts) > 1 else "."
        rooms[room] += count
        files[room] += 1
        flat[path.parent.as_posix()] += path.name != "__init__.py"
    largest = sorted(lines.items(), key=lambda each: -each[1])[:10]
    full = {folder: count for folder, count in flat.most_common() if count > MOST_FILES}
    return {
        "lines": sum(lines.values()),
        "files": len(lines),
        "rooms": {
            room: {"lines": count, "files": files[room]} for room, count in rooms.most_common()
        },
        "largest": {path.as_posix(): count for path, count in largest},
        "above_500_lines": sum(count > 500 for count in lines.values()),
        "full_folders": full,
    }


def table(found: dict[str, Any]) -> str:
    """Write what was found for people."""
    run, modules, house = found["run"], found["modules"], found["size"]
    rows = [
        ("frames of ours at optimizer.step", run["frames"]),
        ("from the command train on", run["frames_from_command"]),
        ("files that all of them are in", run["files_on_stack"]),
        ("functions called in two steps", run["functions_called"]),
        ("files that these are in", run["files_entered"]),
        ("modules loaded by dgpo --help", f"{modules['by_help']}, ours {modules['ours_by_help']}"),
        ("by import dgpo_cli", f"{modules['by_import']}, ours {modules['ours_by_import']}"),
        ("CPU seconds of dgpo --help", f"{found['help_cpu_s']:.2f}"),
        ("lines", f"{house['lines']:,}"),
        ("files", house["files"]),
        ("files above 500 lines", house["above_500_lines"]),
        (f"folders above {MOST_FILES} files", len(house["full_folders"])),
    ]
    out = [f"{name:<34}{value!s:>16}" for name, value in rows]
    out += ["", "on the stack, outermost first", *(f"  {each}" for each in run["stack"])]
    out += ["", f"{'room':<24}{'lines':>10}{'files':>8}"]
    out += [f"{room:<24}{n['lines']:>10,}{n['files']:>8}" for room, n in house["rooms"].items()]
    out += ["", *(f"{name:<44}{count:>6}" for name, count in house["largest"].items())]
    out += ["", *(f"{name:<44}{count:>6}" for name, count in house["full_folders"].items())]
    return "\n".join(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there too")
    arguments = parser.parse_args()
    found = {
        "run": walked(),
        "modules": loaded(),
        "help_cpu_s": round(help_seconds(), 3),
        "size": size(),
    }
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(table(found))


if __name__ == "__main__":
    main()
