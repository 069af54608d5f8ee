"""The room of `07_volumes`: where files live that outlast a container, and who may touch them."""

from labhelpers.volumes.backup import back_up, contents, put_files, restore
from labhelpers.volumes.filling import filling
from labhelpers.volumes.kinds import read_only, tmpfs
from labhelpers.volumes.leftovers import leftovers
from labhelpers.volumes.owners import owners
from labhelpers.volumes.places import places, where
from labhelpers.volumes.sides import both_ways, delays
from labhelpers.volumes.sources import go_on, missing
from labhelpers.volumes.speed import speeds

__all__ = [
    "back_up",
    "both_ways",
    "contents",
    "delays",
    "filling",
    "go_on",
    "leftovers",
    "missing",
    "owners",
    "places",
    "put_files",
    "read_only",
    "restore",
    "speeds",
    "tmpfs",
    "where",
]
