"""The machine as the payload of a guest and of a container sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labhelpers.course.arguments import experiment
from labhelpers.results import Result, column, derived, record, rows
from labhelpers.vm.guests import GUEST_MEMORY_MB, MIB, facts, pci

if TYPE_CHECKING:
    from labhelpers.lab import Lab
    from labhelpers.vm.kernel import Viewpoint
    from labhelpers.vm.pairs import Pair


@record
class View:
    """The machine as one payload sees it."""

    viewpoint: Viewpoint = column("`container` or `guest`")
    pci: tuple[str, ...] = column("PCI devices, `address vendor:device class`", shown=False)
    memory_bytes: int = column("total memory of the machine")
    cpus: int = column("number of processors")
    processes: int = column("processes in /proc, including kernel threads")
    root_filesystem: str = column("type of the file system at /")

    @derived
    def pci_devices(self) -> int:
        """Number of PCI devices."""
        return len(self.pci)


@record
class Devices(Result):
    """The machine as a container and a guest see it."""

    views: tuple[View, ...] = rows("the container's view and the guest's", of=View)
    host_memory_bytes: int = column("memory of the engine's host, as the engine reports it")
    host_sees_payload: bool = column("whether the container's payload is a process of the host")
    host_sees_guest_payload: bool = column("whether the guest's payload is a process of the host")

    def of(self, viewpoint: Viewpoint) -> View:
        """The view of the container or of the guest."""
        return next(view for view in self.views if view.viewpoint == viewpoint)

    @property
    def container_sees_host_memory(self) -> bool:
        """Whether the container sees all of the host's memory."""
        return self.of("container").memory_bytes == self.host_memory_bytes

    @property
    def guest_has_own_devices(self) -> bool:
        """Whether the guest sees other devices than the container, and no more than its own memory."""
        guest = self.of("guest")
        return guest.pci != self.of("container").pci and guest.memory_bytes <= GUEST_MEMORY_MB * MIB


@experiment
def devices(lab: Lab, pair: Pair) -> Devices:
    """Compare what the two payloads see, and what the host sees of them.

    Raises:
        NotRunning: one of them is not running.
    """
    both = pair.both()
    guest_log, container_log = (lab.logs(container) for container in both)
    guest_commands, container_commands = (
        " ".join(process.command for process in lab.host.processes(container)) for container in both
    )
    return Devices(
        (_view("container", container_log), _view("guest", guest_log)),
        int(lab.engine.info["MemTotal"]),
        host_sees_payload="/payload" in container_commands,
        host_sees_guest_payload="/payload" in guest_commands,
    )


def _view(viewpoint: Viewpoint, log: str) -> View:
    report = facts(log)
    return View(
        viewpoint,
        pci(log),
        int(report["memory_kib"]) * 1024,
        int(report["cpus"]),
        int(report["processes"]),
        report["root_filesystem"],
    )
