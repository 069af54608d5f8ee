"""One lab for the whole folder: what is measured once is asserted often."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from labhelpers.engine import Engine
from labhelpers.lab import Lab


@pytest.fixture(scope="module")
def shared_lab(engine: Engine) -> Iterator[Lab]:
    """A quiet lab for the tests of one file; it must remove everything that it created."""
    with Lab("test", engine=engine) as lab, lab.quiet():
        yield lab
    left = engine.client.containers.list(
        all=True, filters={"label": f"labhelpers.session={lab.session}"}, ignore_removed=True
    )
    assert left == [], "the lab left containers behind"
    assert not engine.client.volumes.list(filters={"label": f"labhelpers.session={lab.session}"})
