"""Where a container's data directory is: in a volume without a name, in a named one, or in a directory of the host."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
    """Where one container keeps its data directory."""

    container: str = column("its name")
    kind: str = column("`container layer`, `volume without a name`, `volume` or `bind mount`")
    name: str = column("of the volume, as the engine knows it; empty where it is none", shown=False)
    asked_for: bool = column(
        "whether whoever made the container named that place; else the image did (its VOLUME)"
    )
    size_bytes: int | None = column(
        "what the directory takes, as `du` in the container counts it; None where it does not run"
    )

    def __repr__(self) -> str:
        asked = "asked for" if self.asked_for else "nobody asked for it: the image declares a VOLUME"
        return f"{self.container}: {self.kind} {self.short} ({asked})".replace("  ", " ")

    @derived
    def short(self) -> str:
        """The name as a person reads it: of 64 digits the first 12."""
        return self.name if self.kind != ANONYMOUS_VOLUME else f"{self.name[:12]}…"


@record
class DataLocations(Result):
    """Where several containers keep their data."""

    places: tuple[DataLocation, ...] = rows("one each", of=DataLocation)


def find_data_location(lab: Lab, container: str, inside: str = DATA) -> DataLocation:
    """Where the directory `inside` of a container is, as the engine says it (`docker inspect`, `.Mounts`).

    Raises:
        ContainerMissing: there is no such container.
    """
    found = lab.inspect(container)
    name, size = found["Name"].lstrip("/"), None
    if found["State"]["Running"]:
        with lab.quiet(essential=["docker exec"]):
            counted = lab.exec(name, ["du", "-sk", inside]).stdout.split()
        # a file may vanish while du(1) counts: it complains and counts on
        size = int(counted[0]) * 1024 if counted else None
    mount = next((one for one in found["Mounts"] if one["Destination"] == inside), None)
    if mount is None:
        return DataLocation(name, CONTAINER_LAYER, "", False, size)
    if mount["Type"] == "bind":
        return DataLocation(name, BIND, "", True, size)
    named = _asked_for(found["HostConfig"], inside)
    # what was asked for by its id has a name of 64 digits as well
    return DataLocation(name, VOLUME if named else ANONYMOUS_VOLUME, volume_name(mount), named, size)


def _asked_for(host_config: dict[str, Any], inside: str) -> bool:
    """Whether the container was made with something of a name at `inside`."""
    binds = [bind.split(":") for bind in host_config.get("Binds") or []]
    mounts = [one for one in host_config.get("Mounts") or [] if one.get("Source")]
    return inside in {parts[1] for parts in binds if len(parts) > 1} | {one["Target"] for one in mounts}
