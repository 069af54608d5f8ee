"""Fixtures of the room: one lab for all of its tests, since starting containers is slow on some engines."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib
import pytest

from labhelpers import networks
from labhelpers.engine import Engine
from labhelpers.lab import Lab
from labhelpers.networks.overlay import SwarmEngines
from labhelpers.networks.paths import Paths

matplotlib.use("agg")


@pytest.fixture(scope="session")
def shared_lab(engine: Engine) -> Iterator[Lab]:
    """One lab for the room."""
    with Lab("test", engine=engine) as lab, lab.quiet():
        lab.host.kernel()
        yield lab


@pytest.fixture(scope="session")
def maybe_engines(shared_lab: Lab) -> Iterator[SwarmEngines]:
    """Two engines in a swarm, or none if this engine cannot run them."""
    with networks.swarm_of_two(shared_lab) as swarm:
        yield swarm


@pytest.fixture(scope="session")
def engines(maybe_engines: SwarmEngines, paths: Paths) -> SwarmEngines:
    """Two engines; tests that need them are skipped if this engine cannot run them."""
    if maybe_engines.unavailable_reason:
        pytest.skip(f"two engines: {maybe_engines.unavailable_reason}")
    return maybe_engines


@pytest.fixture(scope="session")
def paths(shared_lab: Lab, maybe_engines: SwarmEngines) -> Paths:
    """Every path of this engine, in one round, before a test kills one of the two engines."""
    return networks.paths(shared_lab, maybe_engines, rounds=1, seed=7)
