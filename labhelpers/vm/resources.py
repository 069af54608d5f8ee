"""The memory and the disk space that a guest and a container use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labhelpers.course.arguments import experiment
from labhelpers.results import Result, column, derived, record
from labhelpers.vm.guests import GUEST_MEMORY_MB, MIB, pss_bytes, run_script

if TYPE_CHECKING:
    from docker.models.containers import Container

    from labhelpers.lab import Lab
    from labhelpers.vm.pairs import Pair


@record
class MemoryUsage(Result):
    """Memory of the engine's host that an idle guest and an idle container use."""

    vm_bytes: int = column("QEMU with its guest (Pss of every process)")
    container_bytes: int = column("the container's processes (Pss)")
    guest_memory_bytes: int = column("memory of the guest's machine")

    @derived
    def ratio(self) -> float:
        """How many times as much memory the guest uses."""
        return self.vm_bytes / self.container_bytes


@experiment
def memory_usage(lab: Lab, pair: Pair) -> MemoryUsage:
    """Measure both at the same moment, idle.

    Raises:
        NotRunning: one of them is not running.
    """
    guest, container = pss_bytes(lab, pair.both())
    return MemoryUsage(guest, container, GUEST_MEMORY_MB * MIB)


@record
class DiskUsage(Result):
    """Disk space of a guest and of a container, and of one more copy of each."""

    kernel_bytes: int = column("the guest's kernel")
    initramfs_bytes: int = column("the guest's initramfs")
    root_disk_bytes: int = column("the guest's root disk")
    qemu_bytes: int = column("the rest of the image `vm`: QEMU, its libraries and firmware")
    payload_image_bytes: int = column("the container's whole image")
    vm_copy_bytes: int = column("what one more guest adds (`SizeRw`, Engine API)")
    container_copy_bytes: int = column("what one more container adds (`SizeRw`, Engine API)")

    @derived
    def guest_bytes(self) -> int:
        """The guest's kernel, initramfs and root disk, without QEMU."""
        return self.kernel_bytes + self.initramfs_bytes + self.root_disk_bytes


@experiment
def disk_usage(lab: Lab, pair: Pair) -> DiskUsage:
    """Measure the contents of the two images, and what the running pair has added.

    Raises:
        NotRunning: one of them is not running.
    """
    with lab.quiet(["docker run --rm"]):
        listing = run_script(lab, "cd /guest && stat -c '%n %s' kernel initramfs root.img", image="vm")
    parts = {name: int(size) for name, size in (line.split() for line in listing.splitlines())}
    image_bytes = lab.inspect_image(lab.image("vm"))["Size"]
    vm_copy, container_copy = (_added_bytes(lab, container) for container in pair.both())
    return DiskUsage(
        kernel_bytes=parts["kernel"],
        initramfs_bytes=parts["initramfs"],
        root_disk_bytes=parts["root.img"],
        qemu_bytes=image_bytes - sum(parts.values()),
        payload_image_bytes=lab.inspect_image(lab.image("payload"))["Size"],
        vm_copy_bytes=vm_copy,
        container_copy_bytes=container_copy,
    )


def _added_bytes(lab: Lab, container: Container) -> int:
    (listed,) = lab.list_containers(sizes=True, filters={"id": str(container.id)})
    return int(listed.get("SizeRw") or 0)
