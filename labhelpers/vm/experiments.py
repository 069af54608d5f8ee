"""A virtual machine and a container with the same payload: started, measured, and removed again.

Every time is the engine's: `docker logs --timestamps` and `docker inspect` use one clock for both.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Literal

import pandas as pd
from docker.errors import NotFound

from labhelpers import state
from labhelpers.errors import BadInput, EngineRefused, GuestFailed, LabError, NotRunning, TimedOut
from labhelpers.results import Result, column, record, rows

if TYPE_CHECKING:
    from docker.models.containers import Container

    from labhelpers.lab import Lab

Kind = Literal["vm", "container"]
KINDS: tuple[Kind, ...] = ("vm", "container")
READY, IDLE = "PAYLOAD READY", "PAYLOAD IDLE"
GUEST_MEMORY_MB = 128
READY_TIMEOUT_S = 60.0
PROBE_TIMEOUT_S = 8.0
TAIL_LINES = 40
POLL_S = 0.2
# QEMU itself holds this much beside the guest's memory, with room to spare
QEMU_BYTES = 192 * 1024 * 1024
CACHE = "vm-accel.json"


# --- starting


def start_guest(
    lab: Lab,
    *,
    memory_mb: int = GUEST_MEMORY_MB,
    accel: Literal["tcg", "kvm"] = "tcg",
    name: str | None = None,
    limit_s: float = READY_TIMEOUT_S,
) -> Container:
    """Boot a guest in a container of the image `vm`, and wait until its payload is idle.

    Args:
        memory_mb: the guest's memory in MiB.
        accel: `kvm` gives the container /dev/kvm.
        limit_s: how long to wait, in seconds.

    Raises:
        BadInput: a memory that is no positive whole number.
        GuestFailed: the guest ended, or its payload was not idle in time; the container is removed.
    """
    if isinstance(memory_mb, bool) or not isinstance(memory_mb, int) or memory_mb < 1:
        raise BadInput(f"a guest cannot have {memory_mb!r} MiB of memory", hint="give a whole number: 128")
    guest = lab.run(
        lab.image("vm"),
        name=name,
        network="none",
        environment={"GUEST_MEMORY_MB": str(memory_mb), "GUEST_ACCEL": accel},
        devices=["/dev/kvm"] if accel == "kvm" else None,
    )
    _wait_until_idle(lab, guest, limit_s)
    return guest


def payload_image(lab: Lab) -> tuple[str, ...]:
    """Every file and directory of the payload image that is no second name of busybox, sorted.

    Source: a container's own listing; what the engine mounts into it (/dev, /proc, /sys, /etc) is left out.
    """
    with lab.quiet(["docker run --rm"]):
        listing = _run_script(lab, "find / -xdev ! -type l ! -path '/etc*' ! -path '/dev*' | sort")
    return tuple(listing.split())


def start_payload(lab: Lab, *, name: str | None = None, limit_s: float = READY_TIMEOUT_S) -> Container:
    """Start the same payload in a container, and wait until it is idle.

    Raises:
        GuestFailed: the payload was not idle within `limit_s` seconds.
    """
    container = lab.run(lab.image("payload"), name=name, network="none")
    _wait_until_idle(lab, container, limit_s)
    return container


@dataclass(frozen=True, slots=True)
class Pair:
    """A guest and a container with the same payload, both idle."""

    guest: Container
    container: Container


def start_pair(lab: Lab) -> Pair:
    """Start one of each, and wait until both are idle. They stay, to be looked at, until the lab closes.

    Raises:
        GuestFailed: one did not reach its payload.
    """
    with lab.quiet(["docker run -d"]):
        return Pair(_start(lab, "vm"), _start(lab, "container"))


def _both(pair: Pair) -> tuple[Container, Container]:
    """The guest and the container.

    Raises:
        NotRunning: one is gone, or does not run.
    """
    both = (pair.guest, pair.container)
    for one in both:
        with suppress(NotFound):
            one.reload()
            if one.status == "running":
                continue
        raise NotRunning(
            f"{one.name} is gone, or does not run any more",
            hint="run the cell that starts the two again, then this one",
        )
    return both


def _wait_until_idle(lab: Lab, container: Container, limit_s: float) -> None:
    def is_idle() -> bool:
        # a guest writes some 350 lines, and this is its last one
        return IDLE in lab.logs(container, tail=TAIL_LINES)

    try:
        try:
            lab.wait_for("the payload to be idle", is_idle, limit_s, every_s=POLL_S, while_running=container)
        except (NotRunning, TimedOut) as error:
            raise _failed(lab, container, error, limit_s) from error
    except BaseException:
        # a guest that failed must not stay and hold memory
        with lab.quiet():
            lab.remove(container, force=True)
        raise


def _failed(lab: Lab, container: Container, error: NotRunning | TimedOut, limit_s: float) -> GuestFailed:
    found = lab.inspect(container)
    image = found["Config"]["Image"]
    ended = f"{image} ended with exit code {found['State']['ExitCode']} before its payload was ready"
    late = f"the payload of {image} was not ready within {limit_s:g} s"
    return GuestFailed(
        late if isinstance(error, TimedOut) else ended,
        hint="read its last lines; too little memory is the usual cause: give the guest 128 MiB or more",
        engine_message=error.engine_message or "(nothing)",
    )


@contextmanager
def _started(lab: Lab, kind: Kind) -> Iterator[Container]:
    """A guest or a container for the duration of a block, its payload idle."""
    container = _start(lab, kind)
    try:
        yield container
    finally:
        lab.remove(container, force=True)


def _start(lab: Lab, kind: Kind) -> Container:
    return start_guest(lab, accel=probe_accel(lab).kind) if kind == "vm" else start_payload(lab)


# --- reading


def facts(log: str) -> dict[str, str]:
    """What the payload said it sees: name → value, from its lines `fact name=value`."""
    return dict(re.findall(r"fact (\w+)=(.*?)\r?$", log, re.MULTILINE))


def pci(log: str) -> tuple[str, ...]:
    """The PCI devices that the payload sees: `address vendor:device class`."""
    return tuple(re.findall(r"^pci (\S+ \S+ \S+)\r?$", log, re.MULTILINE))


def _stamped(log: str) -> list[tuple[float, str]]:
    """The lines of a log with timestamps, each with its time: seconds since the epoch, by the engine's clock."""
    pairs = (line.partition(" ") for line in log.splitlines())
    return [(_seconds(stamp), text.rstrip("\r")) for stamp, _, text in pairs if stamp[:2] == "20"]


def _seconds(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()


def _run_script(lab: Lab, script: str, *, image: str = "payload") -> str:
    """What a shell script prints in a container of its own.

    Raises:
        EngineRefused: the script failed.
    """
    done = lab.run_once(lab.image(image), ["-c", script], entrypoint="/bin/sh", network="none")
    if done.exit_code:
        raise EngineRefused(
            f"this command failed in a container of labhelpers/{image}: {script}",
            hint="run the cell again; if it fails again, `./lab doctor` shows what the engine permits",
            engine_message=str(done),
        )
    return done.stdout


def _held_bytes(lab: Lab, containers: Sequence[Container]) -> list[int]:
    """The memory that each container's processes hold on the engine's host (Pss, proc(5)), in bytes."""
    return [lab.host.memory(container).pss_bytes for container in containers]


# --- acceleration


@record
class Acceleration(Result):
    """How the guests run here."""

    kind: Literal["tcg", "kvm"] = column(
        "`kvm` (the processor runs the guest's code) or `tcg` (QEMU translates it)"
    )
    reason: str = column("why, in words")


def probe_accel(lab: Lab) -> Acceleration:
    """KVM where a guest has reached its payload with it within `PROBE_TIMEOUT_S`, else TCG.

    The answer is kept for this engine until its host boots again: a probe costs seconds.
    """
    key = f"{lab.engine.identity}/{lab.host.kernel().boot_id}/{_image_id(lab, 'vm')}"
    kept = state.read_json(CACHE, {})
    if isinstance(kept, dict) and kept.get("key") == key:
        return Acceleration(kept["kind"], kept["reason"])
    found = _probe(lab)
    state.write_json(CACHE, {"key": key, **asdict(found)})
    return found


def _probe(lab: Lab) -> Acceleration:
    with lab.quiet(["docker run -d"]):
        try:
            guest = start_guest(lab, accel="kvm", limit_s=PROBE_TIMEOUT_S)
        except GuestFailed as error:
            last = (error.engine_message or "").splitlines()[-1:]
            if isinstance(error.__cause__, TimedOut):
                return Acceleration(
                    "tcg", f"/dev/kvm is there, but a guest hangs with it ({PROBE_TIMEOUT_S:g} s)"
                )
            return Acceleration("tcg", f"/dev/kvm is there, but QEMU ended with it: {' '.join(last)}")
        except LabError as error:
            words = error.engine_message or error.message
            if "no such file" in words.lower() or "gathering device information" in words:
                return Acceleration("tcg", "the engine's host has no /dev/kvm")
            return Acceleration("tcg", f"the engine refused /dev/kvm: {words}")
        lab.remove(guest, force=True)
    return Acceleration("kvm", "a guest has booted with /dev/kvm")


def _image_id(lab: Lab, name: str) -> str:
    return str(lab.inspect_image(lab.image(name))["Id"])


# --- start


@dataclass(frozen=True, slots=True)
class Phase:
    """One part of a start: from `start_ms` to `end_ms`, milliseconds since the engine was asked."""

    name: str
    start_ms: float
    end_ms: float


@record
class Start:
    """One start, from `docker create` to the payload's first answer."""

    kind: Kind = column("`vm` or `container`")
    order: int = column("the place in which it was started, from 0; the order is random")
    phases: tuple[Phase, ...] = column("without gaps, in order", shown=False)

    @property
    def total_ms(self) -> float:
        """From the first phase's start to the last one's end."""
        return self.phases[-1].end_ms - self.phases[0].start_ms


@record
class StartTimes(Result):
    """Starts of guests and containers with the same payload."""

    starts: tuple[Start, ...] = rows("every one, in the order in which they were started", of=Start)
    accel: str = column("`kvm` or `tcg`")

    def of(self, kind: Kind) -> tuple[Start, ...]:
        """The starts of one kind."""
        return tuple(start for start in self.starts if start.kind == kind)

    def middle(self, kind: Kind) -> Start:
        """The start of that kind whose total is the (lower) median."""
        ranked = sorted(self.of(kind), key=lambda start: start.total_ms)
        return ranked[(len(ranked) - 1) // 2]

    @property
    def vm_median_ms(self) -> float:
        """The median total of the guests."""
        return median(start.total_ms for start in self.of("vm"))

    @property
    def container_median_ms(self) -> float:
        """The median total of the containers."""
        return median(start.total_ms for start in self.of("container"))

    @property
    def ratio(self) -> float:
        """How many times as long a guest takes."""
        return self.vm_median_ms / self.container_median_ms

    @property
    def every_container_was_first(self) -> bool:
        """Whether the slowest container was ready sooner than the quickest guest."""
        slowest = max(start.total_ms for start in self.of("container"))
        return slowest < min(start.total_ms for start in self.of("vm"))

    def frame(self) -> pd.DataFrame:
        """One row a start and phase: order, kind, phase, start_ms, end_ms."""
        rows = [(s.order, s.kind, p.name, p.start_ms, p.end_ms) for s in self.starts for p in s.phases]
        return pd.DataFrame(rows, columns=["order", "kind", "phase", "start_ms", "end_ms"])


PHASE_MARKERS: Mapping[Kind, Sequence[tuple[str, Callable[[str], bool]]]] = {
    # the phase that begins, and the line that begins it
    "vm": (
        ("QEMU", lambda line: line.startswith("GUEST POWER ON")),
        ("firmware", lambda line: line.startswith("SeaBIOS")),
        ("kernel", lambda line: "] Linux version" in line or "] Booting Linux" in line),
        ("initramfs", lambda line: "GUEST INITRAMFS" in line),
        ("user space", lambda line: "GUEST USER SPACE" in line),
        ("ready", lambda line: READY in line),
    ),
    "container": (("ready", lambda line: READY in line),),
}


def start_times(lab: Lab, repeats: int = 5) -> StartTimes:
    """Start `repeats` guests and as many containers in random order, one at a time, and keep every start.

    Raises:
        BadInput: `repeats` is below 1.
        GuestFailed: one did not reach its payload.
    """
    if repeats < 1:
        raise BadInput(f"{repeats} repeats measure nothing", hint="give 1 or more")
    kinds = [*KINDS] * repeats
    random.shuffle(kinds)
    with lab.quiet(["docker run -d"]):
        accel = probe_accel(lab)
        return StartTimes(tuple(_timed(lab, kind, order) for order, kind in enumerate(kinds)), accel.kind)


def _timed(lab: Lab, kind: Kind, order: int) -> Start:
    with _started(lab, kind) as container:
        lines = _stamped(lab.logs(container, timestamps=True))
        found = lab.inspect(container)
    created = _seconds(found["Created"])
    # the engine notes the start a little after the process has begun: the first line may be earlier
    begun = min(_seconds(found["State"]["StartedAt"]), lines[0][0])
    seen = [(name, _first(lines, is_mark)) for name, is_mark in PHASE_MARKERS[kind]]
    if kind == "container":
        seen.insert(0, ("user space", begun))
    marks = [("container", created), *((name, at) for name, at in seen if at is not None)]
    phases = [
        Phase(name, (at - created) * 1000, (after - created) * 1000)
        for (name, at), (_, after) in pairwise(marks)
    ]
    return Start(kind, order, tuple(phases))


def _first(lines: Sequence[tuple[float, str]], is_mark: Callable[[str], bool]) -> float | None:
    return next((at for at, text in lines if is_mark(text)), None)


# --- memory and disk


@record
class MemoryUsage(Result):
    """What an idle guest and an idle container hold of the memory of the engine's host."""

    vm_bytes: int = column("of QEMU with its guest (Pss of every process)")
    container_bytes: int = column("of the container's processes (Pss)")
    guest_memory_bytes: int = column("what the guest was given")

    @property
    def ratio(self) -> float:
        """How many times as much the guest holds."""
        return self.vm_bytes / self.container_bytes


def memory_usage(lab: Lab, pair: Pair) -> MemoryUsage:
    """Measure both at the same moment, idle.

    Raises:
        NotRunning: one does not run any more.
    """
    guest, container = _held_bytes(lab, _both(pair))
    return MemoryUsage(guest, container, GUEST_MEMORY_MB * 1024 * 1024)


@record
class DiskUsage(Result):
    """What each carries on disk, and what one more copy of it costs."""

    kernel_bytes: int = column("of the guest")
    initramfs_bytes: int = column("of the guest")
    root_disk_bytes: int = column("of the guest")
    qemu_bytes: int = column("the rest of the image `vm`: QEMU, its libraries and firmware")
    payload_image_bytes: int = column("the container's whole image")
    vm_copy_bytes: int = column("what a started one adds (`SizeRw`, Engine API)")
    container_copy_bytes: int = column("what a started one adds (`SizeRw`, Engine API)")

    @property
    def guest_bytes(self) -> int:
        """Kernel, initramfs and root disk, without QEMU."""
        return self.kernel_bytes + self.initramfs_bytes + self.root_disk_bytes


def disk_usage(lab: Lab, pair: Pair) -> DiskUsage:
    """Measure what is in the two images, and what the started ones have added.

    Raises:
        NotRunning: one does not run any more.
    """
    with lab.quiet(["docker run --rm"]):
        listing = _run_script(lab, "cd /guest && stat -c '%n %s' kernel initramfs root.img", image="vm")
    parts = {name: int(size) for name, size in (line.split() for line in listing.splitlines())}
    whole = lab.inspect_image(lab.image("vm"))["Size"]
    vm_copy, container_copy = (_added_bytes(lab, one) for one in _both(pair))
    return DiskUsage(
        kernel_bytes=parts["kernel"],
        initramfs_bytes=parts["initramfs"],
        root_disk_bytes=parts["root.img"],
        qemu_bytes=whole - sum(parts.values()),
        payload_image_bytes=lab.inspect_image(lab.image("payload"))["Size"],
        vm_copy_bytes=vm_copy,
        container_copy_bytes=container_copy,
    )


def _added_bytes(lab: Lab, container: Container) -> int:
    (row,) = lab.list_containers(sizes=True, filters={"id": str(container.id)})
    return int(row.get("SizeRw") or 0)


# --- kernels


@record
class Kernel:
    """A kernel as seen from one place."""

    seen_from: str = column("where")
    release: str = column("`uname -r`")
    version: str = column("/proc/version")
    boot_id: str = column(
        "drawn by the kernel at each boot (random(4)): two places with one boot id share one kernel"
    )


@record
class Kernels(Result):
    """The kernel seen from the engine's host, from two containers of different images, and from two guests."""

    host: Kernel = column("the engine's host", shown=False)
    containers: tuple[Kernel, ...] = column("two of each", shown=False)
    guests: tuple[Kernel, ...] = column("two of each", shown=False)
    engine_says: str = column("the release that the engine itself reports (Engine API, GET /info)")

    @property
    def containers_share_the_hosts(self) -> bool:
        """Whether every container sees the host's release, version and boot id."""
        host = (self.engine_says, self.host.version, self.host.boot_id)
        return all((k.release, k.version, k.boot_id) == host for k in self.containers)

    @property
    def every_guest_has_its_own(self) -> bool:
        """Whether no guest shares a boot id with the host, a container, or another guest."""
        ids = [self.host.boot_id, *(guest.boot_id for guest in self.guests)]
        return all(ids) and len(set(ids)) == len(ids)

    def frame(self) -> pd.DataFrame:
        """One row a place: seen_from, release, version, boot_id."""
        return pd.DataFrame([asdict(k) for k in (self.host, *self.containers, *self.guests)])


SHOW_KERNEL = "uname -r; cat /proc/version /proc/sys/kernel/random/boot_id"


def kernels(lab: Lab, pair: Pair) -> Kernels:
    """Ask the engine's host, two containers of different images, and two guests for their kernel.

    The first guest is that of `pair`; the second is booted for this and removed.

    Raises:
        GuestFailed: the second guest did not reach its payload.
        NotRunning: the first does not run any more.
    """
    there = lab.host.kernel()
    host = Kernel("engine's host", there.release, there.version, there.boot_id)
    with lab.quiet(["docker run --rm"]):
        inside = [
            Kernel(
                f"container of labhelpers/{image}", *_run_script(lab, SHOW_KERNEL, image=image).splitlines()
            )
            for image in ("payload", "vm")
        ]
        first, _ = _both(pair)
        with _started(lab, "vm") as second:
            reports = [facts(lab.logs(guest)) for guest in (first, second)]
    guests = [
        Kernel(f"guest {n}", fact["release"], fact["version"], fact["boot_id"])
        for n, fact in enumerate(reports, 1)
    ]
    return Kernels(host, tuple(inside), tuple(guests), str(lab.engine.info["KernelVersion"]))


@record
class EngineHost(Result):
    """Where the engine lives."""

    operating_system: str = column("what the engine says of it")
    in_a_vm: bool = column("whether the engine's host is itself a virtual machine")
    reason: str = column("how that was found")


DMI = ("sys_vendor", "bios_vendor", "board_vendor", "product_name")
DEVICE_TREE = "/proc/device-tree/model"


def engine_host(lab: Lab) -> EngineHost:
    """Whether the engine lives in a virtual machine: by its own word, by the processor's flag `hypervisor`
    (set by a hypervisor for its guests, CPUID leaf 1), or by the name of the machine (DMI, device tree).
    """
    system = str(lab.engine.info["OperatingSystem"])
    if system == "Docker Desktop":
        return EngineHost(system, True, "Docker Desktop runs the engine in a virtual machine of its own")
    seen = lab.host.read_many(["/proc/cpuinfo", *(f"/sys/class/dmi/id/{name}" for name in DMI), DEVICE_TREE])
    cpu, *names = (text or "" for text in seen.values())
    if re.search(r"^flags.* hypervisor", cpu, re.MULTILINE):
        return EngineHost(system, True, "its processor says that a hypervisor is above it")
    machine = re.search(
        r"QEMU|KVM|VMware|VirtualBox|Virtual Machine|Xen|Apple Virtualization", " ".join(names)
    )
    if machine:
        return EngineHost(system, True, f"its machine calls itself {machine[0]}")
    return EngineHost(system, False, "nothing there tells of a hypervisor")


# --- what they see


@record
class BootLog(Result):
    """What a guest said on its serial line."""

    at_ms: tuple[float, ...] = column(
        "the time of each line, milliseconds since power-on, by the engine's clock"
    )
    lines: tuple[str, ...] = column("the text of each")

    @property
    def kernel_lines(self) -> int:
        """How many lines the guest's kernel wrote."""
        return sum(re.match(r"\[ *\d+\.\d+\]", line) is not None for line in self.lines)

    def frame(self) -> pd.DataFrame:
        """One row a line: at_ms, line."""
        return pd.DataFrame({"at_ms": self.at_ms, "line": self.lines})

    def matching(self, pattern: str) -> BootLog:
        """Those lines that hold the regular expression `pattern`."""
        rows = [
            (at, line) for at, line in zip(self.at_ms, self.lines, strict=True) if re.search(pattern, line)
        ]
        return BootLog(tuple(at for at, _ in rows), tuple(line for _, line in rows))


def boot_log(pair: Pair) -> BootLog:
    """All that the guest has said since it was switched on.

    Raises:
        NotRunning: it does not run any more.
    """
    guest, _ = _both(pair)
    lines = _stamped(guest.logs(timestamps=True).decode(errors="replace"))
    return BootLog(tuple((at - lines[0][0]) * 1000 for at, _ in lines), tuple(text for _, text in lines))


@record
class View:
    """What the payload sees of the machine."""

    seen_from: str = column("`host`, `container` or `guest`")
    pci: tuple[str, ...] = column("its PCI devices, `address vendor:device class`")
    memory_bytes: int = column("all of the memory that it sees")
    cpus: int = column("processors")
    processes: int = column("in its /proc, kernel threads included")
    root_filesystem: str = column("the type of what is mounted at /")


@record
class Devices(Result):
    """The machine as a container and a guest see it."""

    container: View = column("one view each", shown=False)
    guest: View = column("one view each", shown=False)
    host_memory_bytes: int = column("what the engine says that its host has")
    host_sees_payload: bool = column("whether the container's payload is among the host's processes")
    host_sees_guest_payload: bool = column("whether the guest's payload is")

    @property
    def container_sees_the_hosts_memory(self) -> bool:
        """Whether the container sees all of the host's memory."""
        return self.container.memory_bytes == self.host_memory_bytes

    @property
    def guest_sees_its_own(self) -> bool:
        """Whether the guest sees other devices than the container, and less memory."""
        differs = self.guest.pci != self.container.pci
        return differs and self.guest.memory_bytes <= GUEST_MEMORY_MB * 1024 * 1024

    def frame(self) -> pd.DataFrame:
        """One row a view."""
        return pd.DataFrame([asdict(view) | {"pci": len(view.pci)} for view in (self.container, self.guest)])


def devices(lab: Lab, pair: Pair) -> Devices:
    """Compare what the two payloads see, and what the host sees of them.

    Raises:
        NotRunning: one does not run any more.
    """
    both = _both(pair)
    guest, container = (lab.logs(one) for one in both)
    commands = [" ".join(process.command for process in lab.host.processes(one)) for one in both]
    return Devices(
        _view("container", container),
        _view("guest", guest),
        int(lab.engine.info["MemTotal"]),
        host_sees_payload="/payload" in commands[1],
        host_sees_guest_payload="/payload" in commands[0],
    )


def _view(seen_from: str, log: str) -> View:
    told = facts(log)
    return View(
        seen_from,
        pci(log),
        int(told["memory_kib"]) * 1024,
        int(told["cpus"]),
        int(told["processes"]),
        told["root_filesystem"],
    )


# --- how many fit


@record
class Density(Result):
    """How many guests and containers fit in a given memory: a few measured, the rest extrapolated."""

    memory_bytes: int = column("the memory to fill")
    started: tuple[int, ...] = column("how many were running, for each measurement")
    vm_bytes: tuple[int, ...] = column("the memory that they held together, measured")
    container_bytes: tuple[int, ...] = column("the memory that they held together, measured")

    def line(self, kind: Kind) -> tuple[float, float]:
        """The least-squares line through the measurements: bytes at zero, bytes for each."""
        held = self.vm_bytes if kind == "vm" else self.container_bytes
        n_mean, held_mean = sum(self.started) / len(self.started), sum(held) / len(held)
        spread = sum((n - n_mean) ** 2 for n in self.started)
        slope = sum((n - n_mean) * (b - held_mean) for n, b in zip(self.started, held, strict=True)) / spread
        return held_mean - slope * n_mean, slope

    def fit(self, kind: Kind) -> int:
        """How many fit, extrapolated along the line."""
        base, each = self.line(kind)
        return max(0, int((self.memory_bytes - base) // each))

    def frame(self) -> pd.DataFrame:
        """One row a kind and number: kind, count, held_bytes, how (`measured` or `extrapolated`)."""
        rows: list[tuple[str, int, float, str]] = []
        kinds: tuple[tuple[Kind, tuple[int, ...]], ...] = (
            ("vm", self.vm_bytes),
            ("container", self.container_bytes),
        )
        for kind, held in kinds:
            rows += [(kind, n, b, "measured") for n, b in zip(self.started, held, strict=True)]
            base, each = self.line(kind)
            rows.append((kind, self.fit(kind), base + each * self.fit(kind), "extrapolated"))
        return pd.DataFrame(rows, columns=["kind", "count", "held_bytes", "how"])


def density(lab: Lab, memory_bytes: int, started: Sequence[int] = (1, 2, 3, 4)) -> Density:
    """Start a few of each, measure what they hold, and extrapolate to `memory_bytes`.

    No more than half of the memory that is free on the engine's host is ever used.

    Raises:
        BadInput: fewer than two different numbers to start, or a memory that is not positive.
        LabError: the engine's host has too little free memory.
        GuestFailed: one did not reach its payload.
    """
    counts = tuple(sorted(set(started)))
    if len(counts) < 2 or counts[0] < 1 or memory_bytes <= 0:
        raise BadInput(
            "a line needs two different numbers of machines, and a memory to fill",
            hint="for example how_many_fit(lab, 8 * 1024**3, started=(1, 2, 3))",
        )
    _must_have_room(lab, counts[-1])
    with lab.quiet(["docker run -d"]):
        guests, containers = (_held_by(lab, kind, counts) for kind in KINDS)
    return Density(memory_bytes, counts, guests, containers)


def _must_have_room(lab: Lab, guests: int) -> None:
    free = lab.host.meminfo()["MemAvailable"]
    need = guests * (GUEST_MEMORY_MB * 1024 * 1024 + QEMU_BYTES)
    if need > free // 2:
        raise LabError(
            f"{guests} guests could need {need // 2**20} MiB; the lab takes at most {free // 2**21} MiB",
            hint="start fewer, for example started=(1, 2), or close other programs on the engine's machine",
        )


def _held_by(lab: Lab, kind: Kind, counts: Sequence[int]) -> tuple[int, ...]:
    made: list[Container] = []
    held = []
    with ExitStack() as block:
        for count in counts:
            while len(made) < count:
                made.append(block.enter_context(_started(lab, kind)))
            held.append(sum(_held_bytes(lab, made)))
    return tuple(held)


# --- part3-1


@record
class Stacks(Result):
    """What stands on what, from the hardware to the payload, with what was measured."""

    host_release: str = column("kernel releases")
    guest_release: str = column("kernel releases")
    accel: str = column("how the guest's code runs")
    memory: MemoryUsage = column("as measured", shown=False)
    disk: DiskUsage = column("as measured", shown=False)


def stacks(lab: Lab, seen: Kernels, memory: MemoryUsage, disk: DiskUsage) -> Stacks:
    """Put together what was measured before for the figure of the two stacks."""
    return Stacks(seen.engine_says, seen.guests[0].release, probe_accel(lab).kind, memory, disk)
