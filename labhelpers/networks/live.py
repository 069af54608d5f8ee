"""The live map of the engine's networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from labhelpers.course.arguments import experiment
from labhelpers.networks.maps import NetworkMap, network_map

if TYPE_CHECKING:
    from labhelpers.lab import Lab
    from labhelpers.networks.map_widget import LiveMap


@experiment
def live_map(lab: Lab, prefix: str = "") -> LiveMap:
    """A map of the containers whose names begin with `prefix`, redrawn when containers start or stop.

    As the last value of a cell, it shows a picture that changes. `.stop()`, or the end of the lab, ends it.
    """
    from labhelpers.networks.map_widget import LiveMap

    def take() -> NetworkMap:
        return network_map(lab, _names(lab, prefix))

    return LiveMap(lab, take)


def _names(lab: Lab, prefix: str) -> Sequence[str] | None:
    if not prefix:
        return None
    return [
        name.lstrip("/")
        for row in lab.list_containers()
        for name in row.get("Names") or []
        if name.lstrip("/").startswith(prefix)
    ]
