"""What the tests of the room share: one lab, since starting containers is slow on some engines."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib
import pytest

from labhelpers import networks
from labhelpers.engine import Engine
from labhelpers.lab import Lab
from labhelpers.networks.overlay import Engines

matplotlib.use("agg")


@pytest.fixture(scope="session")
def there(engine: Engine) -> Iterator[Lab]:
    """One lab for the room."""
    with Lab("test", engine=engine) as lab, lab.quiet():
        lab.host.kernel()
        yield lab


@pytest.fixture(scope="session")
def engines(there: Lab) -> Iterator[Engines]:
    """Two engines in a swarm; where this engine cannot run them, what needs them is skipped by that reason."""
    with networks.two_engines(there) as found:
        if not found:
            pytest.skip(f"two engines: {found.why_not}")
        yield found
