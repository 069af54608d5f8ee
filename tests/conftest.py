"""Fixtures: the engine that the tests run on, and a lab whose leftovers are a failure."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from labhelpers import engine as engines
from labhelpers.engine import Engine
from labhelpers.lab import Lab

# no test depends on how fast the machine is; and what the fixtures of a function hold is the same for every example
settings.register_profile(
    "lab",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("lab")


@pytest.fixture(autouse=True)
def _figures_can_be_read() -> Iterator[None]:
    """Every figure that a test leaves open is audited, and closed."""
    yield
    if "matplotlib.pyplot" not in sys.modules:
        return
    from tests.figure_audit import faults

    plt = sys.modules["matplotlib.pyplot"]
    try:
        assert [fault for number in plt.get_fignums() for fault in faults(plt.figure(number))] == []
    finally:
        plt.close("all")


@pytest.fixture(scope="session")
def engine() -> Engine:
    """The engine that `./lab test` set up or found."""
    return engines.connect()


@contextmanager
def open_lab(engine: Engine) -> Iterator[Lab]:
    """A lab for the block; it must remove all that it made."""
    with Lab("test", engine=engine) as it:
        yield it
    left = engine.client.api.containers(all=True, filters={"label": f"labhelpers.session={it.session}"})
    assert left == [], "the lab left containers behind"


@pytest.fixture
def lab(engine: Engine) -> Iterator[Lab]:
    """A lab of its own for one test."""
    with open_lab(engine) as it:
        yield it


@pytest.fixture(scope="module")
def shared_lab(engine: Engine) -> Iterator[Lab]:
    """One quiet lab for the tests of a file that do not ask what a lab prints or when it closes.

    A lab, its view of the host and its registry are a process and two containers: started once, they serve all.
    """
    with open_lab(engine) as it, it.quiet():
        yield it


@pytest.fixture
def quiet_lab(lab: Lab) -> Iterator[Lab]:
    """The same lab, whose operations print nothing."""
    with lab.quiet():
        yield lab


@pytest.fixture
def temporary_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A state directory of the test's own: the reader's progress is left alone."""
    monkeypatch.setenv("LABHELPERS_HOME", str(tmp_path))
