"""The chapters that work on Podman, tested with Podman 4.3, runc and cgroup v1, and why the others do not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labhelpers.errors import EngineRefused

if TYPE_CHECKING:
    from labhelpers.engine.find import Engine

SUPPORTED_CHAPTERS = ("00",)
"""The chapters that complete on Podman."""

UNSUPPORTED_REASONS = {
    "01": "its virtual machine does not start in a Podman container",
    "02": "it pushes images to the lab's registry, and Podman rejects their names",
    "03": "the root directory of its containers is read-only for a process without CAP_DAC_OVERRIDE",
    "04": "Podman has no `docker update` and places containers in other cgroups",
    "05": "Podman has no docker0, and its networks have other names and firewall rules",
    "06": "it pushes images to the lab's registry, and Podman rejects their names",
    "07": "it creates a missing directory for `--mount type=bind`, which Docker refuses",
    "08": "anonymous volumes cannot be distinguished from named volumes",
    "09": "`docker top` prints other columns, and there is no daemon socket",
}
"""The other chapters, with the first difference of Podman that each fails on."""


def check_chapter(engine: Engine, chapter: str) -> None:
    """Refuse a chapter that does not work on Podman.

    Args:
        chapter: "05", or "05b" for its optional part; anything else is not checked.

    Raises:
        EngineRefused: the engine is Podman, and the chapter does not work on it.
    """
    reason = UNSUPPORTED_REASONS.get(chapter[:2])
    if reason and engine.is_podman:
        raise EngineRefused(
            f"chapter {chapter} does not work on Podman: {reason}",
            hint=f"{supported_text()}; for this chapter use Docker: "
            "`./lab up --engine private` on Debian and Ubuntu, or install it",
        )


def supported_text() -> str:
    """Which chapters work, as a clause of a sentence."""
    return (
        f"chapter {SUPPORTED_CHAPTERS[0]} works on Podman"
        if len(SUPPORTED_CHAPTERS) == 1
        else f"chapters {', '.join(SUPPORTED_CHAPTERS)} work on Podman"
    )
