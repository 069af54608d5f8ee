"""Fixtures of the room: one lab, and one result of each experiment."""

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
    """Every restart policy after each kind of exit."""
    return monitoring.restart_policies(shared_lab)


@pytest.fixture(scope="session")
def engine_restart_results(shared_lab: Lab) -> RestartResults:
    """Every restart policy after a restart of a nested engine; skipped if this engine cannot run one."""
    results = monitoring.engine_restart_policies(shared_lab)
    if results.unavailable_reason:
        pytest.skip(f"a nested engine: {results.unavailable_reason}")
    return results


@pytest.fixture(scope="session")
def engine_socket(shared_lab: Lab) -> EngineSocket:
    """The engine's socket on its host."""
    return monitoring.find_engine_socket(shared_lab)


@pytest.fixture(scope="session")
def socket_access(shared_lab: Lab, engine_socket: EngineSocket) -> SocketAccess:
    """What a container can read with each kind of access to the engine."""
    return monitoring.socket_access(shared_lab, engine_socket)


@pytest.fixture(scope="session")
def timeline(shared_lab: Lab) -> Timeline:
    """The timeline of one container."""
    return monitoring.timeline(shared_lab)
