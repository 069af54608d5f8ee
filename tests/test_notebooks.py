"""What nbval is worth here: every cell runs, and a finding that changes is seen."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from labhelpers.state import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
MEASURED = "nbval-ignore-output"


def code(path: Path) -> list[Any]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def tags(cell: Any) -> set[str]:
    return set(cell.metadata.get("tags", []))


def nbval(path: Path) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--nbval",
        "--nbval-current-env",
        "-q",
        "-c",
        "/dev/null",
        str(path),
    ]
    return subprocess.run(command, cwd=path.parent, capture_output=True, text=True)


def finding_cell(stored: str) -> Any:
    source = "from labhelpers.results import finding\nfinding('one kernel', 1 + 1 == 2)"
    return new_code_cell(
        source, execution_count=1, outputs=[new_output("stream", name="stdout", text=stored)]
    )


@pytest.mark.parametrize(("stored", "passes"), [("one kernel: yes\n", True), ("one kernel: no\n", False)])
def test_a_changed_finding_makes_nbval_fail(tmp_path: Path, stored: str, passes: bool) -> None:
    path = tmp_path / "trial.ipynb"
    nbformat.write(new_notebook(cells=[finding_cell(stored)]), path)
    done = nbval(path)
    assert (done.returncode == 0) is passes, done.stdout
    assert passes or "one kernel: yes" in done.stdout


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestNotebook:
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

    def test_one_step_a_cell(self, path: Path) -> None:
        assert [cell.source for cell in code(path) if cell.source.count("\n") >= 14] == []

    def test_it_names_its_kernel(self, path: Path) -> None:
        assert nbformat.read(path, as_version=4).metadata.kernelspec.name == "python3"
