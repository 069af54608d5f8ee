"""Where the files of a container are on the engine's host: from its mount table, and from what the engine says."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from labhelpers.engine import responses
from labhelpers.engine.host import Entry
from labhelpers.lab.base import name_of
from labhelpers.results import Result, table
from labhelpers.volumes import common

if TYPE_CHECKING:
    import pandas as pd
    from docker.models.containers import Container

    from labhelpers.lab import Lab


@dataclass(frozen=True, slots=True)
class VolumeLocation(Result):
    """Where a volume lives.

    Attributes:
        name, driver: as `docker volume ls` has them.
        directory: on the engine's host.
        shown: the same, below `DATA`, the engine's data directory.
        entries: what is in it, as the host sees it.
    """

    name: str
    driver: str
    directory: str = field(repr=False)  # notebooks are stored with what they show
    shown: str
    entries: tuple[Entry, ...]

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


@dataclass(frozen=True, slots=True)
class FileLocation:
    """One place of a container's files.

    Attributes:
        inside: the path in the container.
        kind: `container layer`, `volume`, `bind` or `tmpfs`.
        name: of a volume, else "".
        directory: on the engine's host; None for memory.
        shown: the same as the course shows it: `DATA` is the engine's data directory.
        file_system: what the mount table says: `overlay`, `ext4`, `tmpfs`, …
        read_only: whether nothing can be written there.
    """

    inside: str
    kind: str
    name: str
    directory: str | None = field(repr=False)
    shown: str
    file_system: str
    read_only: bool


@dataclass(frozen=True, slots=True)
class FileLocations(Result):
    """Every place where a container's own files are; what the engine gives to each container (`/proc`, …) is left out.

    Attributes:
        container: its name.
        places: the root first, then by path.
    """

    container: str
    places: tuple[FileLocation, ...]

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
