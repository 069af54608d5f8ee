"""The layers below the payload of a guest and of a container."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labhelpers.course.arguments import experiment
from labhelpers.results import Result, column, record
from labhelpers.vm.acceleration import probe_accel
from labhelpers.vm.resources import DiskUsage, MemoryUsage

if TYPE_CHECKING:
    from labhelpers.lab import Lab
    from labhelpers.vm.kernel import Kernels


@record
class Stacks(Result):
    """The layers from the hardware to the payload, for a virtual machine and for a container."""

    host_release: str = column("kernel release of the engine's host")
    guest_release: str = column("kernel release of the guest")
    accel: str = column("how the guest's code runs: `kvm` or `tcg`")
    memory: MemoryUsage = column("memory of both, as measured", shown=False)
    disk: DiskUsage = column("disk space of both, as measured", shown=False)


@experiment
def stacks(lab: Lab, kernels: Kernels, memory: MemoryUsage, disk: DiskUsage) -> Stacks:
    """Combine earlier measurements for the figure of the two stacks."""
    return Stacks(kernels.engine_release, kernels.guests[0].release, probe_accel(lab).kind, memory, disk)
