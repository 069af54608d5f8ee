"""Where the files of a container are on the engine's host: from its mount table and from `docker inspect`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from labhelpers.course.arguments import experiment
from labhelpers.engine import responses
from labhelpers.engine.arguments import name_of
from labhelpers.engine.host import Entry, Mount
from labhelpers.results import Result, column, derived, record, rows
from labhelpers.volumes import common

if TYPE_CHECKING:
    from docker.models.containers import Container

    from labhelpers.lab import Lab


@record
class VolumeLocation(Result):
    """Location of a volume on the engine's host."""

    volume: str = column("name of the volume")
    driver: str = column("volume driver")
    directory: str = column("full path on the engine's host", shown=False, repr=False)
    host_path: str = column("path on the engine's host; `DATA` is the engine's data directory")
    entries: tuple[Entry, ...] = column("entries of the directory, read on the host", shown=False)

    @property
    def is_below_data(self) -> bool:
        """Whether the directory is in the engine's data directory."""
        return self.host_path.startswith("DATA/")

    @derived
    def contents(self) -> tuple[str, ...]:
        """Names of the files and directories in it."""
        return tuple(entry.path for entry in self.entries)


@record
class FileLocation:
    """Location of some of a container's files."""

    mount_point: str = column("path in the container")
    kind: str = column("`container layer`, `volume`, `bind` or `tmpfs`")
    volume: str = column("name of the volume, empty for other kinds")
    directory: str | None = column("full path on the engine's host, None for memory", shown=False, repr=False)
    host_path: str = column("path on the engine's host; `DATA` is the engine's data directory")
    file_system: str = column("file system type in the mount table: `overlay`, `ext4`, `tmpfs`, …")
    read_only: bool = column("whether the mount is read-only")


@record
class FileLocations(Result):
    """Locations of a container's files on the engine's host, without `/proc` and other mounts of every container."""

    container: str = column("name of the container")
    locations: tuple[FileLocation, ...] = rows("the root first, then by path", of=FileLocation)

    def of(self, kind: str) -> tuple[FileLocation, ...]:
        """The locations of one kind."""
        return tuple(location for location in self.locations if location.kind == kind)


@experiment
def volume_location(lab: Lab, name: str) -> VolumeLocation:
    """Where a volume of this session is on the engine's host, and its entries.

    Raises:
        EngineRefused: there is no such volume.
        NameTaken: the volume was not created by this session.
    """
    directory = common.directory_of(lab, common.owned_volume(lab, name))
    driver = str(lab.inspect_volume(name)["Driver"])
    entries = tuple(lab.host.directory(directory))
    return VolumeLocation(name, driver, directory, common.display_path(lab, directory), entries)


@experiment
def file_locations(lab: Lab, container: Container | str) -> FileLocations:
    """Where the files of a running container are.

    Source: the mount table (proc(5), mountinfo); Engine API, GET /containers/{id}/json: `Mounts`.

    Raises:
        ContainerMissing, NotRunning: the container does not exist or is not running.
    """
    name = name_of(container)
    mounted = {mount.point: mount for mount in lab.host.mounts(container)}
    inspected = lab.inspect(name)
    mounts = {mount["Destination"]: mount for mount in responses.nested_list(inspected, "Mounts")}
    # `--tmpfs` is not part of `Mounts`
    points = sorted({*mounts, *responses.nested_object(inspected, "HostConfig", "Tmpfs")})
    locations = [_location(lab, mounted[point], mounts.get(point, {"Type": "tmpfs"})) for point in points]
    return FileLocations(name, (_layer(lab, mounted["/"]), *locations))


def _layer(lab: Lab, root: Mount) -> FileLocation:
    """The container's own layer: the upper directory of its root."""
    path = common.display_path(lab, root.upper) if root.upper else root.kind
    return FileLocation("/", "container layer", "", root.upper, path, root.kind, root.is_read_only)


def _location(lab: Lab, mount: Mount, inspected: Mapping[str, Any]) -> FileLocation:
    """A mount, from the container's mount table and from `docker inspect`."""
    kind, directory = inspected["Type"], inspected.get("Source")
    if kind == "tmpfs" or not directory:
        return FileLocation(mount.point, "tmpfs", "", None, "memory", mount.kind, mount.is_read_only)
    path, volume = common.display_path(lab, directory), responses.volume_name(inspected)
    return FileLocation(mount.point, kind, volume, directory, path, mount.kind, mount.is_read_only)
