"""What the tests of the room share: one lab, since starting containers is slow on some engines."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib
import pytest

from labhelpers import networks
from labhelpers.engine import Engine
from labhelpers.lab import Lab
from labhelpers.networks.overlay import Engines
from labhelpers.networks.paths import Paths

matplotlib.use("agg")


@pytest.fixture(scope="session")
def there(engine: Engine) -> Iterator[Lab]:
    """One lab for the room."""
    with Lab("test", engine=engine) as lab, lab.quiet():
        lab.host.kernel()
        yield lab


@pytest.fixture(scope="session")
def maybe_engines(there: Lab) -> Iterator[Engines]:
    """Two engines in a swarm, or none, where this engine cannot run them."""
    with networks.two_engines(there) as found:
        yield found


@pytest.fixture(scope="session")
def engines(maybe_engines: Engines, measured: Paths) -> Engines:
    """Two engines; what needs them is skipped by name where there are none."""
    if maybe_engines.why_not:
        pytest.skip(f"two engines: {maybe_engines.why_not}")
    return maybe_engines


@pytest.fixture(scope="session")
def measured(there: Lab, maybe_engines: Engines) -> Paths:
    """Every way that this engine has, in one round; before one of the two engines is lost."""
    return networks.paths(there, maybe_engines, rounds=1, seed=7)
