"""Disks: how fast a container may read and write."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from labhelpers.cgroups.safety_limits import DEFAULT_SAFETY_LIMITS, MIB, SafetyLimits, load, program
from labhelpers.course.arguments import experiment
from labhelpers.errors import LabError, NotRunning
from labhelpers.results import Result, column, derived, record, rows

if TYPE_CHECKING:
    from labhelpers.lab import Lab

LIMITS_BYTES_PER_S = (2 * MIB, 8 * MIB)
# for a disk that is busy with other work
TIMEOUT_S = 150.0
COPY_PROGRAM = program("copy_file.py")


@record
class Disk(Result):
    """The disk on which the engine keeps its volumes."""

    number: str = column("device number of a volume's file system, `major:minor`")
    path: str | None = column("the whole disk in the engine's /dev; none if it is not there")
    unavailable_reason: str = column("why no limit can be set on it, or an empty string")


@record
class DiskStep:
    """Throughput of a container that reads or writes, under a limit."""

    direction: str = column("`read` or `write`")
    limit_bytes_per_s: int | None = column("limit; none if there is no limit")
    points: tuple[tuple[float, int], ...] = column(
        "(seconds, bytes so far), as counted in the container", shown=False
    )

    @derived
    def measured_bytes_per_s(self) -> float:
        """Throughput, on average."""
        seconds, count = self.points[-1]
        return count / seconds


@record
class DiskLimits(Result):
    """Throughput with limits and without, past the page cache."""

    disk: Disk = column("disk that the limits apply to", shown=False)
    steps: tuple[DiskStep, ...] = rows(
        "one for each limit and direction; none if the engine's storage is not on a disk that can be limited",
        of=DiskStep,
    )

    def of(self, direction: str) -> tuple[DiskStep, ...]:
        """The steps that read, or those that write."""
        return tuple(step for step in self.steps if step.direction == direction)

    @property
    def within_limits(self) -> bool:
        """Whether no step was more than a quarter above its limit; true if no limit could be set."""
        return all(
            step.measured_bytes_per_s <= 1.25 * step.limit_bytes_per_s
            for step in self.steps
            if step.limit_bytes_per_s
        )


def disk(lab: Lab, volume: str) -> Disk:
    """The disk that a volume is on, with its path in the engine's /dev.

    The mount table of a container with the volume gives the number of its file system, /sys/dev/block the number
    of the whole disk, and the engine's own /dev its path.

    Source: proc(5), mountinfo; kernel, Documentation/ABI/stable/sysfs-block.
    """
    options: dict[str, Any] = {"network": "none", "volumes": [f"{volume}:/data"]}
    with lab.quiet(), lab.running(lab.image("payload"), ["sleep", "60"], **options) as container:
        number = next(mount.device for mount in lab.host.mounts(container) if mount.point == "/data")
    if number.startswith("0:"):
        return Disk(number, None, "the file system of the engine's volumes is not on a single disk")
    whole = number
    texts = lab.host.read_many([f"/sys/dev/block/{number}/partition", f"/sys/dev/block/{number}/../dev"])
    partition, parent = texts.values()
    if partition is not None and parent is not None:
        whole = parent.strip()
    paths = {
        entry.device: f"/dev/{entry.path}"
        for entry in lab.host.directory("/dev")
        if entry.kind == "block device"
    }
    if whole not in paths:
        return Disk(
            number, None, f"the disk {whole} is not in the engine's /dev (does it run in a container?)"
        )
    return Disk(number, paths[whole], "")


@experiment
def disk_limits(
    lab: Lab, limits_bytes_per_s: Sequence[int] = LIMITS_BYTES_PER_S, seconds: float = 1.0
) -> DiskLimits:
    """Write and read past the page cache: first without a limit, then with each limit.

    Args:
        limits_bytes_per_s: the limits, each for reading and writing alike.
        seconds: how long to measure each direction.

    Source: kernel, cgroup-v1/blkio-controller.rst (throttling); cgroup-v2.rst (io.max).
    """
    name = f"cgroups-disk-{lab.session}"
    memory, pids = DEFAULT_SAFETY_LIMITS.memory_bytes, DEFAULT_SAFETY_LIMITS.pids
    limited = (
        f"docker run -d --network none -v {name}:/data --memory {memory} "
        f"--memory-swap {memory} --pids-limit {pids} --device-read-bps"
    )
    with lab.quiet(essential=[limited]), ExitStack() as stack:
        stack.callback(lab.remove_volume, lab.create_volume(name))
        target = disk(lab, name)
        if target.path is None:
            return DiskLimits(target, ())
        steps: list[DiskStep] = []
        for limit in (None, *limits_bytes_per_s):
            rate = [f"{target.path}:{limit}"]
            limits = {} if limit is None else {"device_read_bps": rate, "device_write_bps": rate}
            try:
                steps += _measure(lab, name, limit, seconds, limits)
            except LabError as error:
                if limit is None:
                    raise
                reason = (
                    f"the engine refused a limit on {target.path}: {error.engine_message or error.message}"
                )
                return DiskLimits(Disk(target.number, None, re.sub(r"[0-9a-f]{64}", "…", reason)), ())
    return DiskLimits(target, tuple(steps))


def _measure(
    lab: Lab, volume: str, limit: int | None, seconds: float, limits: dict[str, Any]
) -> list[DiskStep]:
    command = ["python3", "-c", COPY_PROGRAM, str(seconds)]
    safety = SafetyLimits(DEFAULT_SAFETY_LIMITS.memory_bytes, DEFAULT_SAFETY_LIMITS.pids, TIMEOUT_S)
    with load(lab, command, image="tools", safety=safety, volumes=[f"{volume}:/data"], **limits) as container:
        code = lab.wait(container, limit_s=TIMEOUT_S + 10)
        log = lab.logs(container)
    if code:
        raise NotRunning(
            f"the container that reads and writes exited with code {code}",
            hint="the engine's disk may be full or busy: check `docker system df`, then run the cell again",
            engine_message=log[-500:],
        )
    result = json.loads(log.splitlines()[-1])
    return [
        DiskStep(direction, limit, tuple((at, count) for at, count in points))
        for direction, points in result.items()
    ]
