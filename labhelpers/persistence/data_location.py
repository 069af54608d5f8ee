"""Location of a container's data directory: an anonymous volume, a named volume, or a directory of the host."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from labhelpers.course.arguments import experiment
from labhelpers.persistence.servers import DATA, volume_name
from labhelpers.results import Result, column, derived, record, rows

if TYPE_CHECKING:
    from labhelpers.lab import Lab

CONTAINER_LAYER, ANONYMOUS_VOLUME, VOLUME, BIND = (
    "container layer",
    "volume without a name",
    "volume",
    "bind mount",
)


@record
class DataLocation(Result):
    """Location of a container's data directory."""

    container: str = column("name of the container")
    kind: str = column("`container layer`, `volume without a name`, `volume` or `bind mount`")
    name: str = column("name of the volume, empty for other kinds", shown=False)
    requested: bool = column(
        "whether the mount was requested when the container was created, not by the `VOLUME` of its image"
    )
    size_bytes: int | None = column("disk space of the directory, measured by `du` in the running container")

    def __repr__(self) -> str:
        origin = "requested" if self.requested else "not requested: the image declares a VOLUME"
        return f"{self.container}: {self.kind} {self.volume} ({origin})".replace("  ", " ")

    @derived
    def volume(self) -> str:
        """Name of the volume, only the first 12 digits if it is anonymous."""
        return self.name if self.kind != ANONYMOUS_VOLUME else f"{self.name[:12]}…"


@record
class DataLocations(Result):
    """Locations of the data directories of several containers."""

    locations: tuple[DataLocation, ...] = rows("one for each container", of=DataLocation)


@experiment
def find_data_location(lab: Lab, container: str, path: str = DATA) -> DataLocation:
    """Find where the directory `path` of a container is stored (`docker inspect`, `.Mounts`).

    Raises:
        ContainerMissing: there is no such container.
    """
    inspected = lab.inspect(container)
    name, size = inspected["Name"].lstrip("/"), None
    if inspected["State"]["Running"]:
        with lab.quiet(essential=["docker exec"]):
            counted = lab.exec(name, ["du", "-sk", path]).stdout.split()
        # if a file is removed meanwhile, du(1) reports an error but still prints the total
        size = int(counted[0]) * 1024 if counted else None
    mount = next((each for each in inspected["Mounts"] if each["Destination"] == path), None)
    if mount is None:
        return DataLocation(name, CONTAINER_LAYER, "", False, size)
    if mount["Type"] == "bind":
        return DataLocation(name, BIND, "", True, size)
    # an anonymous volume that is mounted by its id has a name of 64 digits, too
    requested = _is_requested(inspected["HostConfig"], path)
    kind = VOLUME if requested else ANONYMOUS_VOLUME
    return DataLocation(name, kind, volume_name(mount), requested, size)


def _is_requested(host_config: dict[str, Any], path: str) -> bool:
    """Whether the container was created with a named source at `path`."""
    binds = [bind.split(":") for bind in host_config.get("Binds") or []]
    mounts = [mount for mount in host_config.get("Mounts") or [] if mount.get("Source")]
    return path in {parts[1] for parts in binds if len(parts) > 1} | {mount["Target"] for mount in mounts}
