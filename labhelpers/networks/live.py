"""The map that follows the engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from labhelpers.networks.maps import NetworkMap, network_map

if TYPE_CHECKING:
    from labhelpers.lab import Lab
    from labhelpers.networks.map_widget import LiveMap


def live_map(lab: Lab, prefix: str = "") -> LiveMap:
    """The map of the containers whose names begin with `prefix`, drawn anew as they come and go.

    As the last value of a cell it shows a picture that changes. `.stop()` ends it, and so does the lab's end.
    """
    from labhelpers.networks.map_widget import LiveMap

    def look() -> NetworkMap:
        return network_map(lab, _names(lab, prefix))

    return LiveMap(lab, look)


def _names(lab: Lab, prefix: str) -> Sequence[str] | None:
    if not prefix:
        return None
    return [
        name.lstrip("/")
        for row in lab.list_containers()
        for name in row.get("Names") or []
        if name.lstrip("/").startswith(prefix)
    ]
