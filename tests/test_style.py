"""The whole package is typed strictly, linted and formatted."""

from __future__ import annotations

import subprocess
import sys

import pytest

from labhelpers import state
from labhelpers.state import ROOT

# a new checkout is looked at with what an older one has learnt
CACHE = f"--cache-dir={state.path('cache', 'mypy')}"


@pytest.mark.parametrize(
    "command",
    [
        ["mypy", "--no-error-summary", CACHE],
        ["ruff", "check", "--quiet", "labhelpers", "tests"],
        ["ruff", "format", "--check", "--quiet", "labhelpers", "tests"],
    ],
    ids=["mypy --strict", "ruff check", "ruff format"],
)
def test_style(command: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
