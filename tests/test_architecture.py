"""Holds the rules of imports, of torch, of printing and of room over the whole package.

Each rule is also shown to fail on a planted violation in a small tree of its own.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import dgpo_cli

PACKAGE = "dgpo_cli"
LEVELS = (
    {"core"},
    {"algo", "stats", "ui", "trackers", "parallel"},
    {"policy", "samplers", "rewards"},
    {"hub", "environments"},
    {"prompts"},
    {"config"},
    {"planning"},
    {"engine"},
    {"runs"},
    {"diagnosis", "evals", "inspect", "live", "doctor"},
    {"study"},
    {"report", "train", "publish"},
    {"cli"},
    {"__main__", "__init__"},
)
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
TOP = len(LEVELS)  # of a name that the package itself gives to other programs
HEAVY = {"torch", "transformers", "vllm", "peft", "sympy", "math_verify"}
LIGHT = (
    *("config", "cli", "core", "stats", "ui", "hub", "diagnosis", "live", "study", "__main__"),
    *("algo.credit", "algo.losses", "algo.advantages"),
)
PRINTER = "ui.console"
FULL = 15  # files of a folder besides __init__.py


@dataclass(frozen=True)
class Import:
    """An import statement's target; `eager`: it runs when the module is imported."""

    target: str
    line: int
    eager: bool


class Module:
    """A parsed file of the package; `name` is dotted, without the package's own name."""

    def __init__(self, path: Path, *, root: Path) -> None:
        parts = path.relative_to(root).with_suffix("").parts
        self.name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        self.room = parts[0]
        self.tree = ast.parse(path.read_text(encoding="utf-8"))
        self.imports = tuple(_imports(self.tree, eager=True))


def _imports(node: ast.AST, *, eager: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name, child.lineno, eager)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are absolute"
            for alias in child.names:  # `from a import b` may import the module a.b
                yield Import(f"{child.module}.{alias.name}", child.lineno, eager)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            yield from _imports(child, eager=False)
        else:
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _imports(child, eager=eager and not inside)


def modules_of(root: Path) -> dict[str, Module]:
    found = (Module(path, root=root) for path in sorted(root.rglob("*.py")))
    return {module.name: module for module in found}


def own_target(target: str) -> str | None:
    """Return what an import names inside the package, None for anything else."""
    package, _, rest = target.partition(".")
    return rest if package == PACKAGE else None


def layer_violations(modules: dict[str, Module]) -> list[str]:
    """Imports run downwards only, and no two rooms of one level import each other."""
    found = []
    for module in modules.values():
        for imported in module.imports:
            target = own_target(imported.target)
            room = target.partition(".")[0] if target else None
            if room is None or room == module.room or room == "__version__":
                continue
            if LEVEL.get(room, TOP) >= LEVEL.get(module.room, -1):
                found.append(f"{module.name}:{imported.line} imports {target}")
    return found


def modules_in_circles(modules: dict[str, Module]) -> list[str]:
    """Modules that need themselves through others, even if only a function or a type does."""
    needed = {name: set(_needed(module, modules)) for name, module in modules.items()}
    found = []
    for name in modules:
        seen: set[str] = set()
        left = set(needed[name])
        while left:
            seen |= left
            left = set().union(*(needed[each] for each in left)) - seen
        if name in seen:
            found.append(name)
    return found


def _needed(module: Module, modules: dict[str, Module]) -> Iterator[str]:
    for imported in module.imports:
        target = own_target(imported.target)
        if target is not None:
            name = target if target in modules else target.rpartition(".")[0]
            if name in modules:
                yield name


def rooms_without_level(modules: dict[str, Module]) -> set[str]:
    return {module.room for module in modules.values()} - LEVEL.keys()


def is_light(name: str) -> bool:
    return name.endswith(".settings") or any(
        name == light or name.startswith(f"{light}.") for light in LIGHT
    )


def heavy_violations(modules: dict[str, Module]) -> list[str]:
    """Nothing that a light module imports, directly or through others, is heavy."""
    found = []
    for module in modules.values():
        if is_light(module.name):
            found += [f"{module.name}: {chain}" for chain in _heavy_chains(module, modules, set())]
    return found


def _heavy_chains(module: Module, modules: dict[str, Module], seen: set[str]) -> Iterator[str]:
    seen.add(module.name)
    for imported in module.imports:
        if not imported.eager:
            continue
        target = own_target(imported.target)
        if target is None:
            if imported.target.partition(".")[0] in HEAVY:
                yield f"{module.name}:{imported.line} imports {imported.target}"
            continue
        for name in (target, target.rpartition(".")[0]):  # a module, or a name in a module
            if name in modules and name not in seen:
                yield from _heavy_chains(modules[name], modules, seen)


def printing_violations(modules: dict[str, Module]) -> list[str]:
    """Only the printer prints, touches the standard streams or makes a console on them.

    A console on a string is a drawing board, not a printer.
    """
    return [
        f"{module.name}:{node.lineno} {what}"
        for module in modules.values()
        if module.name != PRINTER
        for node, what in _printing(module.tree)
    ]


def _printing(tree: ast.AST) -> Iterator[tuple[ast.expr, str]]:
    boards = _names_of_boards(tree)
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id="print")):
                yield node, "calls print"
            case ast.Call(func=ast.Name(id="Console")) if not _is_on_a_string(node):
                yield node, "makes a Console"
            case ast.Call(func=ast.Attribute(attr="print" | "echo" | "secho" as name, value=owner)):
                if not (isinstance(owner, ast.Name) and owner.id in boards):
                    yield node, f"calls .{name}"
            case ast.Attribute(
                value=ast.Name(id="sys"), attr="stdout" | "stderr" | "__stdout__" | "__stderr__"
            ):
                yield node, f"uses sys.{node.attr}"


def _is_on_a_string(call: ast.Call) -> bool:
    return any(k.arg == "file" and ast.unparse(k.value) == "io.StringIO()" for k in call.keywords)


def _names_of_boards(tree: ast.AST) -> set[str]:
    return {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)
        for target in node.targets
        if isinstance(target, ast.Name) and _is_on_a_string(node.value)
    }


def crowded(root: Path) -> dict[str, int]:
    """Folders with more files than one takes in at a glance, and how many they have."""
    found = Counter(
        path.parent.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if path.name != "__init__.py"
    )
    return {folder: files for folder, files in found.items() if files > FULL}


@pytest.fixture(scope="module")
def package() -> dict[str, Module]:
    return modules_of(Path(dgpo_cli.__file__).parent)


def test_every_room_has_a_level(package: dict[str, Module]) -> None:
    assert rooms_without_level(package) == set()


def test_imports_run_downwards_only(package: dict[str, Module]) -> None:
    assert layer_violations(package) == []


def test_no_module_needs_itself(package: dict[str, Module]) -> None:
    assert modules_in_circles(package) == []


def test_settings_errors_and_the_command_line_import_nothing_heavy(
    package: dict[str, Module],
) -> None:
    assert heavy_violations(package) == []


def test_only_the_console_prints(package: dict[str, Module]) -> None:
    assert printing_violations(package) == []


def test_no_folder_is_crowded() -> None:
    assert crowded(Path(dgpo_cli.__file__).parent) == {}


def planted(folder: Path, **files: str) -> dict[str, Module]:
    """Make a tree of modules; a name such as algo__loss is the file algo/loss.py."""
    for name, text in files.items():
        path = folder.joinpath(*name.split("__")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return modules_of(folder)


@pytest.mark.parametrize(
    "statement",
    [
        "import dgpo_cli.engine",
        "from dgpo_cli import load_settings",
        "from dgpo_cli import engine",
        "from dgpo_cli.samplers.hf import HfSampler",
        "def f():\n    from dgpo_cli.config import load",
        "if TYPE_CHECKING:\n    from dgpo_cli.config import load",
    ],
)
def test_an_import_upwards_or_sideways_is_found(tmp_path: Path, statement: str) -> None:
    modules = planted(tmp_path, policy__load=f"from dgpo_cli.algo import loss\n{statement}\n")
    (violation,) = layer_violations(modules)
    assert violation.startswith("policy.load:")


def test_a_circle_of_imports_is_found(tmp_path: Path) -> None:
    modules = planted(
        tmp_path,
        policy__load="from dgpo_cli.policy.shape import A\n",
        policy__shape="def f():\n    from dgpo_cli.policy import head\n",
        policy__head="if TYPE_CHECKING:\n    from dgpo_cli.policy.shape import A\n",
    )
    assert modules_in_circles(modules) == ["policy.head", "policy.shape"]


def test_the_lowest_modules_import_nothing_of_ours(tmp_path: Path) -> None:
    modules = planted(tmp_path, core__seeds="from dgpo_cli.config.load import resolve\n")
    assert layer_violations(modules) == ["core.seeds:1 imports config.load.resolve"]


def test_a_room_that_nobody_placed_is_found(tmp_path: Path) -> None:
    assert rooms_without_level(planted(tmp_path, utils__misc="", algo__loss="")) == {"utils"}


@pytest.mark.parametrize(
    "statement",
    [
        "import torch",
        "import torch.nn as nn",
        "from transformers import AutoModel",
        "try:\n    import vllm\nexcept ImportError:\n    vllm = None",
        "class A:\n    import peft",
    ],
)
def test_a_heavy_import_in_a_light_module_is_found(tmp_path: Path, statement: str) -> None:
    for name in ("config__load", "samplers__settings", "algo__credit__dgpo", "cli__main"):
        modules = planted(tmp_path / name, **{name: statement})
        assert len(heavy_violations(modules)) == 1


def test_a_heavy_import_behind_other_modules_is_found(tmp_path: Path) -> None:
    modules = planted(
        tmp_path,
        config__load="from dgpo_cli.policy.settings import A\n",
        policy__settings="from dgpo_cli.policy import helper\n",
        policy__helper="import torch\n",
    )
    assert heavy_violations(modules) == [
        "config.load: policy.helper:1 imports torch",
        "policy.settings: policy.helper:1 imports torch",
    ]


def test_a_heavy_import_that_does_not_run_on_import_is_allowed(tmp_path: Path) -> None:
    modules = planted(
        tmp_path,
        config__load="if TYPE_CHECKING:\n    import torch\ndef f():\n    import torch\n",
        policy__load="import torch\n",
    )
    assert heavy_violations(modules) == []


@pytest.mark.parametrize(
    "statement",
    [
        "print('x')",
        "console.print('x')",
        "Console()",
        "Console(file=stream)",
        "sys.stdout.write('x')",
        "f(file=sys.stderr)",
        "typer.echo('x')",
    ],
)
def test_printing_outside_the_console_is_found(tmp_path: Path, statement: str) -> None:
    modules = planted(tmp_path, cli__train=statement, ui__console=statement)
    (violation,) = printing_violations(modules)
    assert violation.startswith("cli.train:1")


def test_a_console_on_a_string_is_no_printing(tmp_path: Path) -> None:
    drawing = "board = Console(file=io.StringIO(), width=80)\nboard.print('x')\n"
    assert printing_violations(planted(tmp_path, report__svg=drawing)) == []


def test_a_crowded_folder_is_found(tmp_path: Path) -> None:
    planted(tmp_path, **{f"ui__file{i}": "" for i in range(FULL)})
    (tmp_path / "ui" / "__init__.py").write_text("")
    assert crowded(tmp_path) == {}
    planted(tmp_path, ui__one_more="")
    assert crowded(tmp_path) == {"ui": FULL + 1}
