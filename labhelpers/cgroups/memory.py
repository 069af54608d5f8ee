"""Memory: a program that reaches its limit and is killed, and one that exceeds its reservation."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from labhelpers.cgroups.safety_limits import MIB, START_TIMEOUT_S, SafetyLimits, load, open_gate, program
from labhelpers.cgroups.samples import Sampler, Samples
from labhelpers.course.arguments import experiment
from labhelpers.errors import LabError
from labhelpers.results import Result, column, derived, record

if TYPE_CHECKING:
    from docker.models.containers import Container

    from labhelpers.lab import Lab

STEP_BYTES, INTERVAL_S = 2 * MIB, 0.03
ALLOCATE_PROGRAM = program("grow.py")
OOM_KILL_LINE = re.compile(r"^.*Memory cgroup out of memory: Killed process (\d+) .*$", re.M)


def allocate(total_bytes: int) -> list[str]:
    """A command that allocates 2 MiB every 30 ms, up to `total_bytes`, and keeps them."""
    return ["python3", "-c", ALLOCATE_PROGRAM, str(STEP_BYTES), str(INTERVAL_S), str(total_bytes)]


@record
class OutOfMemory(Result):
    """A program that allocated memory until it was killed at the limit of its container."""

    name: str = column("name of the container")
    limit_bytes: int = column("memory limit in the kernel's file")
    allocated_bytes: int = column("memory that the program last reported to have")
    exit_code: int = column("exit code of the container")
    oom_killed: bool = column("`State.OOMKilled` in `docker inspect`")
    oom_kills: int = column("processes that the kernel killed in the cgroup")
    kernel_line: str | None = column("line of the kernel's log about the kill")
    no_kernel_line_reason: str = column("why that line could not be read, or an empty string")
    samples: Samples = column("samples of the cgroup until the end", shown=False)

    @derived
    def peak_bytes(self) -> int:
        """Highest memory charged to the cgroup, of all samples."""
        return max(reading.cgroup.memory.usage_bytes for reading in self.samples.of(self.name))

    @property
    def killed_at_s(self) -> float:
        """The time of the first sample that counts a killed process."""
        readings = self.samples.of(self.name)
        return next((each.time_s for each in readings if each.cgroup.memory.oom_kills), readings[-1].time_s)


@experiment
def out_of_memory(lab: Lab, limit_bytes: int = 64 * MIB, safety: SafetyLimits | None = None) -> OutOfMemory:
    """Run a program that allocates memory in a container with a memory limit, until the kernel kills it.

    Args:
        limit_bytes: the container's memory limit.
        safety: the safety limits; by default twice `limit_bytes`.

    Source: kernel, cgroup-v2.rst (memory.max, memory.events); docs.docker.com, resource_constraints.
    """
    safety = safety or SafetyLimits(2 * limit_bytes, 32, 60)
    options: dict[str, Any] = {"image": "tools", "safety": safety, "memory": limit_bytes}
    with (
        lab.quiet(essential=["docker run -d --network none --memory"]),
        load(
            lab, allocate(4 * limit_bytes), start=False, keep=True, controllers=["memory"], **options
        ) as container,
    ):
        with Sampler(lab, container, hz=20) as sampler:
            open_gate(lab, container)
            lab.wait_for(
                "the kernel to kill a process at the memory limit",
                lambda: lab.host.cgroup(container).memory.oom_kills,
                safety.seconds,
                every_s=0.1,
                while_running=container,
            )
            sampler.wait(0.3)
        memory = lab.host.cgroup(container).memory
        open_gate(lab, container)
        code = lab.wait(container, limit_s=START_TIMEOUT_S)
        line, reason = kernel_line(lab, str(container.id))
        return OutOfMemory(
            name=str(container.name),
            limit_bytes=memory.limit_bytes or 0,
            allocated_bytes=_allocated_bytes(lab, container),
            exit_code=code,
            oom_killed=bool(lab.inspect(container)["State"]["OOMKilled"]),
            oom_kills=memory.oom_kills,
            kernel_line=line,
            no_kernel_line_reason=reason,
            samples=sampler.samples(),
        )


def _allocated_bytes(lab: Lab, container: Container) -> int:
    reports = re.findall(r"^allocated (\d+)", lab.logs(container), re.M)
    return int(reports[-1]) if reports else 0


def kernel_line(lab: Lab, container_id: str) -> tuple[str | None, str]:
    """The line of the kernel's log about the last process of that container that it killed for lack of memory.

    Reading the log requires one capability, SYSLOG (syslog(2)); no device and no mount.

    Returns:
        The line and an empty string, or None and the reason.
    """
    with lab.quiet():
        try:
            output = lab.run_once(
                lab.image("payload"), ["dmesg"], network="none", cap_drop=["ALL"], cap_add=["SYSLOG"]
            )
        except LabError as error:
            return None, f"the engine does not permit reading its kernel's log: {error.message}"
    if output.exit_code:
        return None, f"the kernel's log cannot be read: {str(output).strip()[-200:]}"
    pids = re.findall(rf"oom-kill:.*task_memcg=\S*{container_id[:12]}\S*,task=[^,]*,pid=(\d+)", output.stdout)
    lines = [line for line in OOM_KILL_LINE.finditer(output.stdout) if pids and line[1] == pids[-1]]
    return (lines[-1][0], "") if lines else (None, "the kernel's log has no line about it (any more)")


# --- the reservation


@record
class Reservation(Result):
    """A program that exceeded its memory reservation and stayed below its limit."""

    name: str = column("name of the container")
    reservation_bytes: int = column("memory reservation in the kernel's file")
    limit_bytes: int = column("memory limit in the kernel's file")
    file: str = column("file of the reservation: `memory.low`, or `memory.soft_limit_in_bytes` on version 1")
    oom_kills: int = column("processes that the kernel killed in the cgroup")
    samples: Samples = column("samples of the cgroup", shown=False)

    @derived
    def peak_bytes(self) -> int:
        """Highest memory charged to the cgroup, of all samples."""
        return max(reading.cgroup.memory.usage_bytes for reading in self.samples.of(self.name))


@experiment
def reservation(
    lab: Lab,
    reservation_bytes: int = 24 * MIB,
    target_bytes: int = 48 * MIB,
    limit_bytes: int = 96 * MIB,
) -> Reservation:
    """Run a program that allocates more memory than the reservation of its container.

    A reservation has an effect only if the host itself runs short of memory. The lab does not cause that.

    Args:
        reservation_bytes: the container's memory reservation.
        target_bytes: how much the program allocates.
        limit_bytes: the container's memory limit.

    Source: kernel, cgroup-v1/memory.rst (soft limits); cgroup-v2.rst (memory.low).
    """
    options: dict[str, Any] = {
        "image": "tools",
        "memory": limit_bytes,
        "memory_reservation": reservation_bytes,
        "safety": SafetyLimits(limit_bytes, 32, 60),
    }
    with (
        lab.quiet(essential=["docker run -d --network none --memory"]),
        load(lab, allocate(target_bytes), start=False, controllers=["memory"], **options) as container,
    ):
        with Sampler(lab, container, hz=20) as sampler:
            open_gate(lab, container)
            lab.wait_for(
                "the program to allocate all of its memory",
                lambda: "done" in lab.logs(container),
                every_s=0.1,
                while_running=container,
            )
            sampler.wait(0.3)
        files = lab.host.cgroup_files(container, ["memory.low", "memory.soft_limit_in_bytes"])
        file = next(file for file in files.values() if file.text is not None)
        memory = lab.host.cgroup(container).memory
        return Reservation(
            str(container.name),
            int(file.text or 0),
            memory.limit_bytes or 0,
            file.name,
            memory.oom_kills,
            sampler.samples(),
        )
