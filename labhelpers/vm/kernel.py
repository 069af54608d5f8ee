"""Which kernel a process runs on, and whether the engine's host is itself a virtual machine."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from labhelpers.course.arguments import experiment
from labhelpers.results import Result, column, record, rows
from labhelpers.vm.guests import facts, run_script
from labhelpers.vm.pairs import running

if TYPE_CHECKING:
    from labhelpers.lab import Lab
    from labhelpers.vm.pairs import Pair

Viewpoint = Literal["host", "container", "guest"]


@record
class Kernel:
    """A kernel, as one place sees it."""

    viewpoint: Viewpoint = column("`host`, `container` or `guest`")
    name: str = column("the engine's host, the image of the container, or the number of the guest")
    release: str = column("`uname -r`")
    version: str = column("/proc/version")
    boot_id: str = column(
        "random ID of this boot of the kernel (random(4)): two places with the same boot ID share a kernel"
    )


@record
class Kernels(Result):
    """The kernel that the engine's host, two containers of different images and two guests see."""

    kernels: tuple[Kernel, ...] = rows("one for each place", of=Kernel)
    engine_release: str = column("the kernel release that the engine reports (Engine API, GET /info)")

    def of(self, viewpoint: Viewpoint) -> tuple[Kernel, ...]:
        """The kernels from one viewpoint."""
        return tuple(kernel for kernel in self.kernels if kernel.viewpoint == viewpoint)

    @property
    def guests(self) -> tuple[Kernel, ...]:
        """The kernels of the guests."""
        return self.of("guest")

    @property
    def containers_share_host_kernel(self) -> bool:
        """Whether every container sees the host's release, version and boot ID."""
        (host,) = self.of("host")
        expected = (self.engine_release, host.version, host.boot_id)
        return all((k.release, k.version, k.boot_id) == expected for k in self.of("container"))

    @property
    def every_guest_has_own_kernel(self) -> bool:
        """Whether no guest shares a boot ID with the host, a container, or another guest."""
        ids = [kernel.boot_id for kernel in (*self.of("host"), *self.guests)]
        return all(ids) and len(set(ids)) == len(ids)


SHOW_KERNEL = "uname -r; cat /proc/version /proc/sys/kernel/random/boot_id"


@experiment
def kernels(lab: Lab, pair: Pair) -> Kernels:
    """Read the kernel of the engine's host, of two containers of different images, and of two guests.

    The first guest is that of `pair`; the second is booted for this and removed.

    Raises:
        GuestFailed: the second guest did not start its payload.
        NotRunning: the first guest is not running.
    """
    kernel = lab.host.kernel()
    host = Kernel("host", "engine's host", kernel.release, kernel.version, kernel.boot_id)
    with lab.quiet(["docker run --rm"]):
        containers = [
            Kernel(
                "container", f"labhelpers/{image}", *run_script(lab, SHOW_KERNEL, image=image).splitlines()
            )
            for image in ("payload", "vm")
        ]
        first, _ = pair.both()
        with running(lab, "vm") as second:
            reports = [facts(lab.logs(guest)) for guest in (first, second)]
    guests = [
        Kernel("guest", f"guest {number}", report["release"], report["version"], report["boot_id"])
        for number, report in enumerate(reports, 1)
    ]
    return Kernels((host, *containers, *guests), str(lab.engine.info["KernelVersion"]))


@experiment
def payload_image(lab: Lab) -> tuple[str, ...]:
    """Every file and directory of the payload image except busybox's links, sorted.

    Source: a container's own listing, without what the engine mounts into it (/dev, /proc, /sys, /etc).
    """
    with lab.quiet(["docker run --rm"]):
        listing = run_script(lab, "find / -xdev ! -type l ! -path '/etc*' ! -path '/dev*' | sort")
    return tuple(listing.split())


@record
class EngineHost(Result):
    """The machine that the engine runs on."""

    operating_system: str = column("operating system that the engine reports")
    is_vm: bool = column("whether the engine's host is itself a virtual machine")
    reason: str = column("how the lab detected it")


DMI = ("sys_vendor", "bios_vendor", "board_vendor", "product_name")
DEVICE_TREE = "/proc/device-tree/model"


@experiment
def engine_host(lab: Lab) -> EngineHost:
    """Detect whether the engine runs in a virtual machine.

    By what the engine reports, by the processor flag `hypervisor` (set by a hypervisor for its guests, CPUID
    leaf 1), or by the name of the machine (DMI, device tree).
    """
    system = str(lab.engine.info["OperatingSystem"])
    if system == "Docker Desktop":
        return EngineHost(system, True, "Docker Desktop runs the engine in its own virtual machine")
    files = lab.host.read_many(["/proc/cpuinfo", *(f"/sys/class/dmi/id/{name}" for name in DMI), DEVICE_TREE])
    cpu, *names = (text or "" for text in files.values())
    if re.search(r"^flags.* hypervisor", cpu, re.MULTILINE):
        return EngineHost(system, True, "its processor has the flag `hypervisor`")
    machine = re.search(
        r"QEMU|KVM|VMware|VirtualBox|Virtual Machine|Xen|Apple Virtualization", " ".join(names)
    )
    if machine:
        return EngineHost(system, True, f"its firmware names the machine {machine[0]}")
    return EngineHost(system, False, "it shows no sign of a hypervisor")
