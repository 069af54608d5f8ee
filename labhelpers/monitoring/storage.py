"""Where a mount's files are stored: in a volume, or in a directory of the engine's host."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labhelpers.course.arguments import experiment

if TYPE_CHECKING:
    from labhelpers.lab import Lab


@experiment
def host_home(lab: Lab) -> str:
    """The path of a directory on the engine's host that replaces its /home, and is removed with the lab.

    It is the directory of a volume: what a bind mount creates in it is removed with the volume, while a directory that
    `-v` creates in the host's own /home stays.
    """
    with lab.quiet(essential=["docker volume create"]):
        return lab.directory_of(lab.create_volume(f"home-{lab.session}"))


@experiment
def volume_files(lab: Lab, volume: str) -> tuple[str, ...]:
    """The names of the non-empty files in a volume, sorted, read on the engine's host.

    Raises:
        EngineRefused: the volume does not exist.
    """
    entries = lab.host.directory(lab.directory_of(volume))
    return tuple(entry.path for entry in entries if entry.kind == "file" and entry.size_bytes)
