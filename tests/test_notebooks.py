"""What nbval is worth here: every cell runs, every finding is compared. engines/test_engines.py has a changed one."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

from labhelpers.lab.commands import CSS_CLASS
from labhelpers.state import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
MEASURED = "nbval-ignore-output"


def code(path: Path) -> list[Any]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def tags(cell: Any) -> set[str]:
    return set(cell.metadata.get("tags", []))


# what changes nothing on the engine, so that there is no command to show
READS = {
    *("layers.through", "namespaces.masks", "namespaces.matrix", "namespaces.of", "namespaces.tree"),
    *("networks.census", "networks.limits", "networks.map", "networks.rules_of"),
    *(
        "monitoring.files_in",
        "persistence.ulimit",
        "services.page",
        "services.host_mounts",
        "services.watch_startup",
    ),
    *("vm.devices", "vm.engine_host", "vm.memory_usage", "vm.stacks", "volumes.places", "volumes.where"),
}
# clients of a server, not of the engine
CLIENTS = {"mysql.connect", "mysql.wait_until_ready"}
# panels, whose buttons act later; what goes on in the background; exercises, whose commands would give the answer away
LATER = {
    *(
        "networks.live",
        "monitoring.control_panel",
        "services.push_image",
        "volumes.go_on",
        "start.first_exercise",
    ),
    # it removes directories that a mistake of the book makes, where there are any
    "services.remove_created_directories",
}


def helpers(cell: Any) -> set[str]:
    """The functions of rooms that a cell gives the lab to, such as `cgroups.quota(lab, …)`."""
    source = re.sub(r"(?m)^(\s*)[%!].*$", r"\1pass", cell.source)
    return {
        ast.unparse(node.func)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if isinstance(node.func.value, ast.Name) and node.func.value.id != "exercises"
        if node.args and ast.unparse(node.args[0]) == "lab"
    }


def shows_commands(cell: Any) -> bool:
    text = "".join(output.get("text", "") for output in cell.outputs)
    pages = "".join(output.get("data", {}).get("text/html", "") for output in cell.outputs)
    return "$ docker " in text or CSS_CLASS in pages


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestNotebook:
    def test_a_page_that_was_not_run_shows_text_and_no_missing_widget(self, path: Path) -> None:
        # JupyterLab prefers a widget to the text beside it, and has no model for one that another kernel made
        for cell in code(path):
            for output in cell.outputs:
                assert "application/vnd.jupyter.widget-view+json" not in output.get("data", {})

    def test_no_cell_is_skipped(self, path: Path) -> None:
        for cell in code(path):
            assert not {tag.lower() for tag in tags(cell)} & {"nbval-skip", "skip-execution"}
            assert "NBVAL_SKIP" not in cell.source
            assert cell.execution_count is not None, f"never run: {cell.source[:60]}"

    def test_every_finding_is_compared(self, path: Path) -> None:
        found = [cell for cell in code(path) if "finding(" in cell.source]
        assert found
        for cell in found:
            assert MEASURED not in tags(cell), cell.source
            assert "NBVAL_IGNORE_OUTPUT" not in cell.source
            assert any(": " in output.get("text", "") for output in cell.outputs), cell.source

    def test_no_stored_output_is_an_error_that_nobody_expects(self, path: Path) -> None:
        for cell in code(path):
            if "nbval-raises-exception" not in tags(cell):
                assert not [output for output in cell.outputs if output.output_type == "error"], cell.source

    def test_every_cell_that_makes_the_engine_do_something_shows_its_commands(self, path: Path) -> None:
        experiments = [
            cell
            for cell in code(path)
            if not cell.source.startswith("%%") and helpers(cell) - READS - CLIENTS - LATER
        ]
        assert experiments or path.stem.startswith("00")
        assert [cell.source for cell in experiments if not shows_commands(cell)] == []

    def test_one_step_a_cell(self, path: Path) -> None:
        assert [cell.source for cell in code(path) if cell.source.count("\n") >= 14] == []

    def test_no_line_of_code_is_cut_off(self, path: Path) -> None:
        lines = [line for cell in code(path) for line in cell.source.split("\n") if "docker" not in line]
        assert [line for line in lines if len(line) > 110] == []

    def test_run_all_leaves_its_exercises_open(self, path: Path) -> None:
        assert [cell.source for cell in code(path) if "lab.close()" in cell.source] == []

    def test_it_names_its_kernel(self, path: Path) -> None:
        assert nbformat.read(path, as_version=4).metadata.kernelspec.name == "python3"
