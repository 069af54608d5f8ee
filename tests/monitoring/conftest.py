"""What the tests of the room share: one lab, and one measurement of each kind."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib
import pytest

from labhelpers import monitoring
from labhelpers.engine import Engine
from labhelpers.lab import Lab
from labhelpers.monitoring.door import Door, Holders
from labhelpers.monitoring.restart import Fates
from labhelpers.monitoring.timeline import Timeline

matplotlib.use("agg")


@pytest.fixture(scope="session")
def there(engine: Engine) -> Iterator[Lab]:
    """One lab for the room."""
    with Lab("test", engine=engine) as lab, lab.quiet():
        lab.host.kernel()
        yield lab


@pytest.fixture(scope="session")
def fates(there: Lab) -> Fates:
    """Every policy against every way of dying."""
    return monitoring.restarts(there)


@pytest.fixture(scope="session")
def engine_fates(there: Lab) -> Fates:
    """The same for an engine that goes; skipped by name where this engine cannot run another."""
    found = monitoring.engine_restarts(there)
    if found.why_not:
        pytest.skip(f"an engine in a container: {found.why_not}")
    return found


@pytest.fixture(scope="session")
def door(there: Lab) -> Door:
    """The engine's socket on its host."""
    return monitoring.docker_sock(there)


@pytest.fixture(scope="session")
def held(there: Lab, door: Door) -> Holders:
    """What four holders of ways to the engine had."""
    return monitoring.holders(there, door)


@pytest.fixture(scope="session")
def story(there: Lab) -> Timeline:
    """One container's life."""
    return monitoring.timeline(there)
