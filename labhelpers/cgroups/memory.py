"""Memory: a hog that grows into its limit and is killed, and one that grows past its reservation."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from labhelpers.cgroups.safety_limits import MIB, START_TIMEOUT_S, SafetyLimits, load, open_gate, program
from labhelpers.cgroups.samples import Sampler, Samples
from labhelpers.errors import LabError
from labhelpers.results import Result, column, record

if TYPE_CHECKING:
    from docker.models.containers import Container

    from labhelpers.lab import Lab

STEP, INTERVAL_S = 2 * MIB, 0.03
ALLOCATE_PROGRAM = program("grow.py")
OOM_KILL_LINE = re.compile(r"^.*Memory cgroup out of memory: Killed process (\d+) .*$", re.M)


def allocate(most_bytes: int) -> list[str]:
    """A command that takes 2 MiB more every 30 ms, up to `most_bytes`, and then keeps them."""
    return ["python3", "-c", ALLOCATE_PROGRAM, str(STEP), str(INTERVAL_S), str(most_bytes)]


@record
class OutOfMemory(Result):
    """A hog that grew into its limit."""

    name: str = column("of the container")
    limit_bytes: int = column("as the kernel has it")
    held_bytes: int = column("what the hog said last that it holds")
    exit_code: int = column("of the container")
    engine_says: bool = column("what the engine notes of its end: `State.OOMKilled`")
    oom_kills: int = column("how many processes the kernel has killed in its cgroup")
    kernel_line: str | None = column("the kernel's own line about it, or None")
    no_line: str = column("why there is none; an empty string where there is one")
    samples: Samples = column("of its cgroup, until its end", shown=False)

    @property
    def highest_bytes(self) -> int:
        """The most that a sample saw charged."""
        return max(reading.cgroup.memory.usage_bytes for reading in self.samples.of(self.name))

    @property
    def killed_at_s(self) -> float:
        """The time of the first sample that counts a killed process."""
        readings = self.samples.of(self.name)
        return next((one.time_s for one in readings if one.cgroup.memory.oom_kills), readings[-1].time_s)


def out_of_memory(lab: Lab, limit: int = 64 * MIB, bound: SafetyLimits | None = None) -> OutOfMemory:
    """Let a hog grow into its limit, and see how it ends.

    Args:
        limit: in bytes; None gives it no limit of its own, so that the lab's bound holds it.

    Source: kernel, cgroup-v2.rst (memory.max, memory.events); docs.docker.com, resource_constraints.
    """
    bound = bound or SafetyLimits(2 * limit, 32, 60)
    options: dict[str, Any] = {"image": "tools", "bound": bound, "memory": limit, "needs": ["memory"]}
    with (
        lab.quiet(essential=["docker run -d --network none --memory"]),
        load(lab, allocate(4 * limit), begin=False, stay=True, **options) as container,
    ):
        with Sampler(lab, container, hz=20) as sampler:
            open_gate(lab, container)
            lab.wait_for(
                "the kernel to kill a process at the limit of memory",
                lambda: lab.host.cgroup(container).memory.oom_kills,
                bound.seconds,
                every_s=0.1,
                while_running=container,
            )
            sampler.wait(0.3)
        memory = lab.host.cgroup(container).memory
        open_gate(lab, container)
        code = lab.wait(container, limit_s=START_TIMEOUT_S)
        line, why = kernel_line(lab, str(container.id))
        return OutOfMemory(
            name=str(container.name),
            limit_bytes=memory.limit_bytes or 0,
            held_bytes=_held(lab, container),
            exit_code=code,
            engine_says=bool(lab.inspect(container)["State"]["OOMKilled"]),
            oom_kills=memory.oom_kills,
            kernel_line=line,
            no_line=why,
            samples=sampler.samples(),
        )


def _held(lab: Lab, container: Container) -> int:
    held = re.findall(r"^holds (\d+)", lab.logs(container), re.M)
    return int(held[-1]) if held else 0


def kernel_line(lab: Lab, container_id: str) -> tuple[str | None, str]:
    """The kernel's line about a process of that container that it killed for want of memory.

    The least right that shows it is one capability, SYSLOG (syslog(2)); no device and no mount.

    Returns:
        The line and "", or None and why there is none.
    """
    with lab.quiet():
        try:
            said = lab.run_once(
                lab.image("payload"), ["dmesg"], network="none", cap_drop=["ALL"], cap_add=["SYSLOG"]
            )
        except LabError as error:
            return None, f"the engine does not give the right to read its kernel's log: {error.message}"
    log = said.stdout
    if said.exit_code:
        return None, f"the kernel's log cannot be read: {str(said).strip()[-200:]}"
    tasks = re.findall(rf"oom-kill:.*task_memcg=\S*{container_id[:12]}\S*,task=[^,]*,pid=(\d+)", log)
    lines = [line for line in OOM_KILL_LINE.finditer(log) if tasks and line[1] == tasks[-1]]
    return (lines[-1][0], "") if lines else (None, "the kernel's log holds no line about it (any more)")


# --- the reservation


@record
class Reservation(Result):
    """A hog that grew past its reservation, and stopped by itself below its limit."""

    name: str = column("of the container")
    reservation_bytes: int = column("as the kernel has them")
    limit_bytes: int = column("as the kernel has them")
    file: str = column(
        "the file that holds the reservation: `memory.low`, or `memory.soft_limit_in_bytes` on version 1"
    )
    oom_kills: int = column("how many of its processes were killed")
    samples: Samples = column("of its cgroup", shown=False)

    @property
    def highest_bytes(self) -> int:
        """The most that a sample saw charged."""
        return max(reading.cgroup.memory.usage_bytes for reading in self.samples.of(self.name))


def reservation(
    lab: Lab, reserved: int = 24 * MIB, wanted: int = 48 * MIB, limit: int = 96 * MIB
) -> Reservation:
    """Let a hog grow past its reservation.

    A reservation acts only when the host itself runs short of memory. The lab does not bring that about.

    Source: kernel, cgroup-v1/memory.rst (soft limits); cgroup-v2.rst (memory.low).
    """
    options: dict[str, Any] = {"memory": limit, "memory_reservation": reserved}
    bound = SafetyLimits(limit, 32, 60)
    with (
        lab.quiet(essential=["docker run -d --network none --memory"]),
        load(
            lab, allocate(wanted), image="tools", bound=bound, begin=False, needs=["memory"], **options
        ) as container,
    ):
        with Sampler(lab, container, hz=20) as sampler:
            open_gate(lab, container)
            lab.wait_for(
                "the program to have all that it wants",
                lambda: "has enough" in lab.logs(container),
                every_s=0.1,
                while_running=container,
            )
            sampler.wait(0.3)
        files = lab.host.cgroup_files(container, ["memory.low", "memory.soft_limit_in_bytes"])
        found = next(file for file in files.values() if file.text is not None)
        memory = lab.host.cgroup(container).memory
        return Reservation(
            str(container.name),
            int(found.text or 0),
            memory.limit_bytes or 0,
            found.name,
            memory.oom_kills,
            sampler.samples(),
        )
