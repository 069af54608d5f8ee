"""Where files end up: in a volume, or in a directory of the engine's host beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from docker.errors import APIError

from labhelpers.errors import LabError

if TYPE_CHECKING:
    from labhelpers.lab import Lab


def home(lab: Lab) -> str:
    """The path of a directory on the engine's host that stands in for its /home, and goes with the lab.

    It is the inside of a volume: what a bind mount makes in it is removed with that volume, while a directory that
    `-v` makes in the host's own /home stays there for ever.
    """
    with lab.quiet():
        volume = lab.create_volume(f"home-{lab.session}")
    return str(volume.attrs["Mountpoint"])


def files_in(lab: Lab, volume: str) -> tuple[str, ...]:
    """The names of the files in a volume that hold something, as the engine's host sees them, sorted.

    Raises:
        LabError: there is no such volume.
    """
    try:
        found = lab.client.volumes.get(volume)
    except APIError as error:
        raise LabError(
            f"the engine has no volume called {volume}",
            hint="`docker volume ls` lists those that it has",
            engine_words=str(error.explanation),
        ) from None
    entries = lab.host.directory(str(found.attrs["Mountpoint"]))
    return tuple(one.path for one in entries if one.kind == "file" and one.size_bytes)
