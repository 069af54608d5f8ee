"""Where the files of a container are on the engine's host: from its mount table, and from what the engine says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labhelpers.engine import responses
from labhelpers.engine.host import Entry
from labhelpers.lab.base import name_of
from labhelpers.results import Result, column, record, rows, table
from labhelpers.volumes import common

if TYPE_CHECKING:
    import pandas as pd
    from docker.models.containers import Container

    from labhelpers.lab import Lab


@record
class VolumeLocation(Result):
    """Where a volume lives."""

    name: str = column("as `docker volume ls` has them")
    driver: str = column("as `docker volume ls` has them")
    directory: str = column("on the engine's host", repr=False)
    shown: str = column("the same, below `DATA`, the engine's data directory")
    entries: tuple[Entry, ...] = rows("what is in it, as the host sees it", of=Entry)

    @property
    def is_below_data(self) -> bool:
        """Whether it is in the engine's own data directory."""
        return self.shown.startswith("DATA/")

    def frame(self) -> pd.DataFrame:
        """One row: name, driver, directory on the engine's host, entries."""
        names = ", ".join(entry.path for entry in self.entries) or "(empty)"
        return table(
            [(self.name, self.driver, self.shown, names)],
            ["volume", "driver", "directory on the engine's host", "entries"],
        )


@record
class FileLocation:
    """One place of a container's files."""

    inside: str = column("the path in the container")
    kind: str = column("`container layer`, `volume`, `bind` or `tmpfs`")
    name: str = column("of a volume, else an empty string")
    directory: str | None = column("on the engine's host; None for memory", repr=False)
    shown: str = column("the same as the course shows it: `DATA` is the engine's data directory")
    file_system: str = column("what the mount table says: `overlay`, `ext4`, `tmpfs`, …")
    read_only: bool = column("whether nothing can be written there")


@record
class FileLocations(Result):
    """Where each of a container's files is stored, without what the engine mounts everywhere (`/proc`, …)."""

    container: str = column("its name")
    places: tuple[FileLocation, ...] = rows("the root first, then by path", of=FileLocation)

    def of(self, kind: str) -> tuple[FileLocation, ...]:
        """The places of one kind."""
        return tuple(place for place in self.places if place.kind == kind)

    def frame(self) -> pd.DataFrame:
        """One row a place."""
        rows = [(p.inside, p.kind, p.name, p.shown, p.file_system, not p.read_only) for p in self.places]
        return table(rows, ["inside", "kind", "name", "on the engine's host", "file system", "writable"])


def volume_location(lab: Lab, name: str) -> VolumeLocation:
    """Where a volume of this session lives, and what is in it.

    Raises:
        EngineRefused: there is no such volume.
        NameTaken: this session did not make it.
    """
    directory = common.directory_of(lab, common.owned_volume(lab, name))
    driver = str(lab.inspect_volume(name)["Driver"])
    entries = tuple(lab.host.directory(directory))
    return VolumeLocation(name, driver, directory, common.display_path(lab, directory), entries)


def file_locations(lab: Lab, container: Container | str) -> FileLocations:
    """Where the files of a running container are.

    Source: the mount table (proc(5), mountinfo); Engine API, GET /containers/{id}/json: `Mounts`.

    Raises:
        LabError: it does not run.
    """
    name = name_of(container)
    by_point = {mount.point: mount for mount in lab.host.mounts(container)}
    inspected = lab.inspect(name)
    found = []
    root = by_point["/"]
    upper = root.upper
    found.append(
        FileLocation(
            "/",
            "container layer",
            "",
            upper,
            common.display_path(lab, upper) if upper else root.kind,
            root.kind,
            root.is_read_only,
        )
    )
    given = {mount["Destination"]: mount for mount in responses.nested_list(inspected, "Mounts")}
    for point in sorted({*given, *responses.nested_object(inspected, "HostConfig", "Tmpfs")}):
        mount, engine = by_point[point], given.get(point, {"Type": "tmpfs"})
        directory = engine.get("Source") or None
        if engine["Type"] == "tmpfs" or not directory:
            found.append(FileLocation(point, "tmpfs", "", None, "memory", mount.kind, mount.is_read_only))
            continue
        volume = responses.volume_name(engine)
        shown = common.display_path(lab, directory)
        found.append(
            FileLocation(point, engine["Type"], volume, directory, shown, mount.kind, mount.is_read_only)
        )
    return FileLocations(name, tuple(found))
