"""A plugin of pytest: writes what became of the tests into the file that `LABHELPERS_OUTCOME` names, as JSON."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest


class _Outcome:
    def __init__(self, file: Path) -> None:
        self._file = file
        self._cells: dict[str, str] = {}
        self._told: dict[str, Any] = {
            "passed": 0,
            "failed": [],
            "findings": 0,
            "skipped": [],
            "deselected": 0,
        }

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        # a cell of a notebook: nbval keeps it on the item
        cells = ((item.nodeid, getattr(item, "cell", None)) for item in items)
        self._cells = {name: cell.source for name, cell in cells if cell is not None}

    def pytest_deselected(self, items: list[pytest.Item]) -> None:
        self._told["deselected"] += len(items)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._told["failed"].append(report.nodeid)
        elif report.skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            self._told["skipped"].append([report.nodeid, reason.removeprefix("Skipped: ")])
        elif report.when == "call":
            self._told["passed"] += 1
            self._told["findings"] += "finding(" in self._cells.get(report.nodeid, "")

    def pytest_sessionfinish(self) -> None:
        self._file.write_text(json.dumps(self._told))


def pytest_configure(config: pytest.Config) -> None:
    """Join in, if somebody wants to know."""
    if file := os.environ.get("LABHELPERS_OUTCOME"):
        config.pluginmanager.register(_Outcome(Path(file)), "labhelpers-outcome")
