"""A guest and a container with the same payload, side by side."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from docker.errors import NotFound

from labhelpers.course.arguments import experiment
from labhelpers.errors import NotRunning
from labhelpers.vm.acceleration import probe_accel
from labhelpers.vm.guests import start_guest, start_payload

if TYPE_CHECKING:
    from docker.models.containers import Container

    from labhelpers.lab import Lab

Kind = Literal["vm", "container"]
KINDS: tuple[Kind, ...] = ("vm", "container")


@dataclass(frozen=True, slots=True)
class Pair:
    """A guest and a container with the same payload, both idle."""

    guest: Container
    container: Container

    def both(self) -> tuple[Container, Container]:
        """The guest and the container.

        Raises:
            NotRunning: one of them was removed, or is not running.
        """
        both = (self.guest, self.container)
        for each in both:
            with suppress(NotFound):
                each.reload()
                if each.status == "running":
                    continue
            raise NotRunning(
                f"{each.name} is gone, or is not running",
                hint="run the cell that starts the pair again, then this one",
            )
        return both


@experiment
def start_pair(lab: Lab) -> Pair:
    """Start a guest and a container, and wait until both are idle. They run until the lab closes.

    Raises:
        GuestFailed: one of them did not start its payload.
    """
    with lab.quiet(["docker run -d"]):
        return Pair(_start(lab, "vm"), _start(lab, "container"))


@contextmanager
def running(lab: Lab, kind: Kind) -> Iterator[Container]:
    """A guest or a container for the duration of a block, its payload idle."""
    container = _start(lab, kind)
    try:
        yield container
    finally:
        lab.remove(container, force=True)


def _start(lab: Lab, kind: Kind) -> Container:
    return start_guest(lab, accel=probe_accel(lab).kind) if kind == "vm" else start_payload(lab)
