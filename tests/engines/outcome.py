"""A plugin of pytest: writes what became of the tests into the file that `LABHELPERS_OUTCOME` names, as JSON.

Where pytest-xdist spreads the tests, the workers tell and the controller writes.
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
"""How many lines of a failure are told: its error, and the engine's words in it."""


class _ItemMarker:
    """Knows the items: marks those with a finding, and counts those left out."""

    def __init__(self) -> None:
        self.deselected = 0

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            cell = getattr(item, "cell", None)  # of a notebook: nbval keeps it on the item
            if cell is not None and "finding(" in cell.source:
                item.user_properties.append((FINDING, True))

    def pytest_deselected(self, items: list[pytest.Item]) -> None:
        self.deselected += len(items)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        output = getattr(session.config, "workeroutput", None)
        if output is not None:
            output["deselected"] = self.deselected


class _Writer:
    def __init__(self, file: Path, teller: _ItemMarker) -> None:
        self._file = file
        self._teller = teller
        self._told: dict[str, Any] = {"passed": 0, "failed": [], "findings": 0, "skipped": []}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._told["failed"].append([report.nodeid, _failure_text(report.longreprtext)])
        elif report.skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            self._told["skipped"].append([report.nodeid, reason.removeprefix("Skipped: ")])
        elif report.when == "call":
            self._told["passed"] += 1
            self._told["findings"] += (FINDING, True) in map(tuple, report.user_properties)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        # each worker collects all of the tests, and leaves out the same
        left_out = getattr(node, "workeroutput", {}).get("deselected", 0)
        self._teller.deselected = max(self._teller.deselected, left_out)

    def pytest_sessionfinish(self) -> None:
        self._file.write_text(
            json.dumps({**self._told, "deselected": self._teller.deselected}), encoding="utf-8"
        )


def _failure_text(text: str) -> str:
    lines = [line.rstrip() for line in Text.from_ansi(text).plain.splitlines()]
    return "\n".join([line for line in lines if line][-LAST_LINES:])


def pytest_configure(config: pytest.Config) -> None:
    """Join in, if somebody wants to know."""
    if file := os.environ.get("LABHELPERS_OUTCOME"):
        teller = _ItemMarker()
        config.pluginmanager.register(teller, "labhelpers-teller")
        if not hasattr(config, "workerinput"):
            config.pluginmanager.register(_Writer(Path(file), teller), "labhelpers-writer")
