"""Where files end up: in a volume, or in a directory of the engine's host beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from labhelpers.lab import Lab


def host_home(lab: Lab) -> str:
    """The path of a directory on the engine's host that stands in for its /home, and goes with the lab.

    It is the inside of a volume: what a bind mount makes in it is removed with that volume, while a directory that
    `-v` makes in the host's own /home stays there for ever.
    """
    with lab.quiet(essential=["docker volume create"]):
        return lab.directory_of(lab.create_volume(f"home-{lab.session}"))


def volume_files(lab: Lab, volume: str) -> tuple[str, ...]:
    """The names of the files in a volume that hold something, as the engine's host sees them, sorted.

    Raises:
        EngineRefused: there is no such volume.
    """
    entries = lab.host.directory(lab.directory_of(volume))
    return tuple(one.path for one in entries if one.kind == "file" and one.size_bytes)
