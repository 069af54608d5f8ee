"""The room of `07_volumes`: where files live that outlast a container, and who may touch them."""

from labhelpers.volumes.backup import back_up, contents, create_test_files, restore
from labhelpers.volumes.bind_sources import missing_sources, resolve_bind_source
from labhelpers.volumes.dangling import dangling_volumes
from labhelpers.volumes.locations import file_locations, volume_location
from labhelpers.volumes.mount_types import read_only, tmpfs
from labhelpers.volumes.ownership import file_ownership
from labhelpers.volumes.population import populate
from labhelpers.volumes.shared_directory import propagation_delays, write_both_sides
from labhelpers.volumes.speed import speeds

__all__ = [
    "back_up",
    "contents",
    "create_test_files",
    "dangling_volumes",
    "file_locations",
    "file_ownership",
    "missing_sources",
    "populate",
    "propagation_delays",
    "read_only",
    "resolve_bind_source",
    "restore",
    "speeds",
    "tmpfs",
    "volume_location",
    "write_both_sides",
]
