"""What the tests of the room share: one lab, and one measurement of each kind."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib
import pytest

from labhelpers import monitoring
from labhelpers.engine import Engine
from labhelpers.lab import Lab
from labhelpers.monitoring.engine_socket import EngineSocket, SocketAccess
from labhelpers.monitoring.restart import RestartResults
from labhelpers.monitoring.timeline import Timeline

matplotlib.use("agg")


@pytest.fixture(scope="session")
def shared_lab(engine: Engine) -> Iterator[Lab]:
    """One lab for the room."""
    with Lab("test", engine=engine) as lab, lab.quiet():
        lab.host.kernel()
        yield lab


@pytest.fixture(scope="session")
def restart_results(shared_lab: Lab) -> RestartResults:
    """Every policy against every way of dying."""
    return monitoring.restart_policies(shared_lab)


@pytest.fixture(scope="session")
def engine_restart_results(shared_lab: Lab) -> RestartResults:
    """The same for an engine that goes; skipped by name where this engine cannot run another."""
    found = monitoring.engine_restart_policies(shared_lab)
    if found.why_not:
        pytest.skip(f"an engine in a container: {found.why_not}")
    return found


@pytest.fixture(scope="session")
def engine_socket(shared_lab: Lab) -> EngineSocket:
    """The engine's socket on its host."""
    return monitoring.find_engine_socket(shared_lab)


@pytest.fixture(scope="session")
def socket_access(shared_lab: Lab, engine_socket: EngineSocket) -> SocketAccess:
    """What four holders of ways to the engine had."""
    return monitoring.socket_access(shared_lab, engine_socket)


@pytest.fixture(scope="session")
def timeline(shared_lab: Lab) -> Timeline:
    """One container's life."""
    return monitoring.timeline(shared_lab)
