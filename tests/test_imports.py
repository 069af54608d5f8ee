"""Imports point one way and have no cycles: notebook → room → course → lab → engine → ground floor."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter

import pytest

from labhelpers.state import ROOT

PACKAGE = ROOT / "labhelpers"
GROUND_FLOOR = ("drawing", "errors", "results", "state", "terminal", "units")
ROOMS = (
    *("start", "vm", "layers", "namespaces", "cgroups"),
    *("networks", "services", "volumes", "persistence", "monitoring"),
)
FLOORS = {
    **dict.fromkeys(GROUND_FLOOR, 0),
    "engine": 1,
    "lab": 2,
    "course": 3,
    **dict.fromkeys(ROOMS, 4),
    "commandline": 4,
    "assets": 4,
    "__main__": 5,
}

MODULES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
    for file in sorted(PACKAGE.rglob("*.py"))
}


def imported(tree: ast.AST) -> Iterator[str]:
    """The modules of the package that a module imports, at its top or in a function; not those for type checking."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        if isinstance(node, ast.ImportFrom) and node.module in MODULES:
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if submodule in MODULES else str(node.module)
        yield from imported(node)


GRAPH = {
    name: set(imported(ast.parse(file.read_text(encoding="utf-8")))) - {name}
    for name, file in MODULES.items()
}


def part(module: str) -> str:
    """The part of the package that a module belongs to; "" for the package itself."""
    return [*module.split("."), ""][1]


def may_import(module: str, other: str) -> bool:
    """Whether an import of `other` in `module` points down, or stays in the same part."""
    item, two = part(module), part(other)
    return (
        not item or not two or item == two or FLOORS[two] < FLOORS[item] or FLOORS[item] == FLOORS[two] == 0
    )


def test_every_part_has_its_floor() -> None:
    assert {part(module) for module in MODULES} - {""} == set(FLOORS)


def test_no_import_points_up_or_into_another_room() -> None:
    assert [
        f"{module} imports {other}"
        for module, others in GRAPH.items()
        for other in sorted(others)
        if not may_import(module, other)
    ] == []


@pytest.mark.parametrize(
    ("module", "other"),
    [
        ("labhelpers.engine.images", "labhelpers.lab.sessions"),
        ("labhelpers.lab.lab", "labhelpers.course.exercises"),
        ("labhelpers.vm.figures", "labhelpers.layers.figures"),
        ("labhelpers.course.panel", "labhelpers.vm.exercises"),
        ("labhelpers.vm.figures", "labhelpers.commandline.cli"),
    ],
)
def test_an_import_that_points_up_is_found(module: str, other: str) -> None:
    assert not may_import(module, other)


def test_no_cycles() -> None:
    try:
        TopologicalSorter(GRAPH).prepare()
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


def test_a_notebooks_first_import_loads_neither_matplotlib_nor_pandas() -> None:
    code = "import sys; from labhelpers import Lab, finding, predict, progress, recall; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, encoding="utf-8", check=True
    )
    assert not {"matplotlib", "pandas"} & set(done.stdout.split())


def test_what_the_package_does_not_have_is_an_import_error() -> None:
    with pytest.raises(ImportError):
        from labhelpers import nothing  # type: ignore[attr-defined]  # noqa: F401


def test_the_architecture_lists_every_module_outside_the_rooms_and_no_other() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    tables = text[text.index("## The modules") : text.index("## Reaching an engine")]
    first_cells = re.findall(r"^\| (`.*?`) \|", tables, re.MULTILINE)
    listed = {name for cell in first_cells for name in re.findall(r"`([\w.]+)`", cell)}
    packages = {module for module in MODULES if any(other.startswith(f"{module}.") for other in MODULES)}
    tops = {"labhelpers.engine.host", "labhelpers.lab.operations"}
    modules = {
        module.removeprefix("labhelpers.")
        for module in (set(MODULES) - packages) | tops
        if part(module) not in (*ROOMS, "", "__main__")
        and not module.startswith(tuple(f"{top}." for top in tops))
    }
    assert listed == modules
