"""A pytest plugin that writes the outcome of the tests to the file in `LABHELPERS_OUTCOME`, as JSON.

With pytest-xdist, the workers report to the controller, which writes the file.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from rich.text import Text

FINDING = "finding"
LAST_LINES = 6
"""The number of lines of a failure that are reported: the error and the engine's message in it."""


class _ItemMarker:
    """Marks items with a finding, and counts deselected ones."""

    def __init__(self) -> None:
        self.deselected = 0

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            cell = getattr(item, "cell", None)  # set by nbval for cells of notebooks
            if cell is not None and "finding(" in cell.source:
                item.user_properties.append((FINDING, True))

    def pytest_deselected(self, items: list[pytest.Item]) -> None:
        self.deselected += len(items)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        output = getattr(session.config, "workeroutput", None)
        if output is not None:
            output["deselected"] = self.deselected


class _Writer:
    def __init__(self, file: Path, marker: _ItemMarker) -> None:
        self._file = file
        self._marker = marker
        self._outcome: dict[str, Any] = {"passed": 0, "failed": [], "findings": 0, "skipped": []}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._outcome["failed"].append([report.nodeid, _failure_text(report.longreprtext)])
        elif report.skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            self._outcome["skipped"].append([report.nodeid, reason.removeprefix("Skipped: ")])
        elif report.when == "call":
            self._outcome["passed"] += 1
            self._outcome["findings"] += (FINDING, True) in map(tuple, report.user_properties)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        # every worker collects all tests, and deselects the same ones
        deselected = getattr(node, "workeroutput", {}).get("deselected", 0)
        self._marker.deselected = max(self._marker.deselected, deselected)

    def pytest_sessionfinish(self) -> None:
        self._file.write_text(
            json.dumps({**self._outcome, "deselected": self._marker.deselected}), encoding="utf-8"
        )


def _failure_text(text: str) -> str:
    lines = [line.rstrip() for line in Text.from_ansi(text).plain.splitlines()]
    return "\n".join([line for line in lines if line][-LAST_LINES:])


def pytest_configure(config: pytest.Config) -> None:
    """Register the plugins if `LABHELPERS_OUTCOME` is set."""
    if file := os.environ.get("LABHELPERS_OUTCOME"):
        marker = _ItemMarker()
        config.pluginmanager.register(marker, "labhelpers-marker")
        if not hasattr(config, "workerinput"):
            config.pluginmanager.register(_Writer(Path(file), marker), "labhelpers-writer")
