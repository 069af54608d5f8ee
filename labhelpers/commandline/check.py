"""The quick checks of a checkout: format, lint and types, in less than a minute."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence

from labhelpers import state
from labhelpers.terminal import echo

_PYTHON = ("labhelpers", "tests", "conftest.py")


def commands() -> Mapping[str, Sequence[str]]:
    """The checks by name, as Python modules with arguments."""
    # a cache shared by all checkouts
    cache = f"--cache-dir={state.path('cache', 'mypy')}"
    return {
        "format": ("ruff", "format", "--check", "--quiet", *_PYTHON),
        "lint": ("ruff", "check", "--quiet", *_PYTHON, "notebooks"),
        "types": ("mypy", "--no-error-summary", cache),
    }


def run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run one check and capture its output."""
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=state.ROOT, capture_output=True, encoding="utf-8", check=False
    )


def check() -> bool:
    """Run all checks and print their results; whether all passed."""
    passed = True
    for name, command in commands().items():
        completed = run(command)
        echo(f"{name}: {'passed' if completed.returncode == 0 else 'failed'}")
        if completed.returncode:
            echo((completed.stdout + completed.stderr).rstrip())
            passed = False
    return passed
