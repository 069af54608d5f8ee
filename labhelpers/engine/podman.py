"""Which chapters work on Podman, and why the others do not: each was run on Podman 4.3 with runc and cgroup v1."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labhelpers.errors import EngineRefused

if TYPE_CHECKING:
    from labhelpers.engine.find import Engine

WORKS = ("00",)
"""The chapters that run to their end on Podman."""

MISSES = {
    "01": "the virtual machine that it compares with does not start in a container there",
    "02": "images are pushed to the lab's registry, and Podman takes their names as invalid",
    "03": "the root directory of its containers is read-only for a process without CAP_DAC_OVERRIDE",
    "04": "it has no `docker update`, and its containers are in other cgroups",
    "05": "there is no docker0, and its networks have other names and firewall rules",
    "06": "images are pushed to the lab's registry, and Podman takes their names as invalid",
    "07": "it creates a missing directory for `--mount type=bind`, which Docker refuses",
    "08": "a volume without a name cannot be told from one with a name",
    "09": "`docker top` answers with other columns, and no daemon's socket is there to watch",
}
"""The other chapters, and the first thing in each that Podman does in another way."""


def check(engine: Engine, chapter: str) -> None:
    """Refuse a chapter that would fail somewhere in the middle.

    Args:
        chapter: "05", or "05b" for its optional part; anything else is not checked.

    Raises:
        EngineRefused: the engine is Podman, and the chapter does not work on it.
    """
    reason = MISSES.get(chapter[:2])
    if reason and engine.is_podman:
        raise EngineRefused(
            f"chapter {chapter} does not work on Podman: {reason}",
            hint=f"{these()}; for this one use Docker: `./lab up --engine private` on Debian and Ubuntu, or install it",
        )


def these() -> str:
    """Which chapters work, as a clause of a sentence."""
    return (
        f"chapter {WORKS[0]} works on Podman"
        if len(WORKS) == 1
        else f"chapters {', '.join(WORKS)} work on Podman"
    )
