"""A lab and an initialized data directory for the whole folder: the initialization costs seconds of CPU time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from labhelpers import persistence
from labhelpers.engine import Engine
from labhelpers.lab import Lab


@pytest.fixture(scope="session")
def shared_lab(engine: Engine) -> Iterator[Lab]:
    """A quiet lab for all tests of the room; it must remove every container that it creates."""
    with Lab("test", engine=engine) as lab, lab.quiet():
        yield lab
    left = engine.client.containers.list(
        all=True, filters={"label": f"labhelpers.session={lab.session}"}, ignore_removed=True
    )
    assert left == [], "the lab left containers behind"


@pytest.fixture(scope="session")
def image(shared_lab: Lab) -> str:
    """The MySQL image."""
    return shared_lab.image("mysql")


@pytest.fixture(scope="session")
def source(shared_lab: Lab, image: str) -> str:
    """A volume with a data directory that has the book's row and is not in use."""
    name = f"source-{shared_lab.session}"
    persistence.data_directory(shared_lab, image, name)
    return name
