"""Disks: how fast a container may read and write, on a disk that the engine knows."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from labhelpers.cgroups.safety_limits import DEFAULT_SAFETY_LIMITS, MIB, SafetyLimits, load, program
from labhelpers.errors import LabError, NotRunning
from labhelpers.results import Result, column, record, rows, table

if TYPE_CHECKING:
    import pandas as pd

    from labhelpers.lab import Lab

LIMITS_BPS = (2 * MIB, 8 * MIB)
# a disk that others keep busy
TIMEOUT_S = 150.0
COPY_PROGRAM = program("copy_file.py")


@record
class Disk(Result):
    """The disk on which the engine keeps its volumes."""

    number: str = column("`major:minor` of the file system that a volume is on")
    path: str | None = column("the whole disk in the engine's /dev; None where there is none")
    why_not: str = column("why there is none, in words; an empty string where there is one")


@record
class DiskStep:
    """One limit, and how fast a container read or wrote."""

    way: str = column("`read` or `write`")
    asked_bps: int | None = column("the limit, in bytes a second; None for no limit")
    points: tuple[tuple[float, int], ...] = column("(seconds, bytes so far) as the container itself counted")

    @property
    def measured_bps(self) -> float:
        """Bytes a second, on average."""
        seconds, count = self.points[-1]
        return count / seconds


@record
class DiskLimits(Result):
    """Reading and writing with limits and without, past the page cache."""

    disk: Disk = column("on which", shown=False)
    steps: tuple[DiskStep, ...] = rows(
        "none where the engine's storage has no disk that it can limit: `disk.why_not` says why", of=DiskStep
    )

    def of(self, way: str) -> tuple[DiskStep, ...]:
        """The steps of reading, or of writing."""
        return tuple(step for step in self.steps if step.way == way)

    @property
    def held(self) -> bool:
        """Whether no step with a limit moved more than a quarter above it; so it is, too, where none could be made."""
        return all(step.measured_bps <= 1.25 * step.asked_bps for step in self.steps if step.asked_bps)

    def frame(self) -> pd.DataFrame:
        """One row a step: way, asked_mib_s, measured_mib_s."""
        rows = [(s.way, s.asked_bps and s.asked_bps / MIB, s.measured_bps / MIB) for s in self.steps]
        return table(rows, ["way", "asked_mib_s", "measured_mib_s"])


def disk(lab: Lab, volume: str) -> Disk:
    """The disk that a volume is on, as the engine names it.

    From the mount table of a container that has the volume: `major:minor` of its file system; from there to the whole
    disk through /sys/dev/block; and its name from the engine's own /dev.

    Source: proc(5), mountinfo; kernel, Documentation/ABI/stable/sysfs-block.
    """
    options: dict[str, Any] = {"network": "none", "volumes": [f"{volume}:/data"]}
    with lab.quiet(), lab.running(lab.image("payload"), ["sleep", "60"], **options) as container:
        number = next(mount.device for mount in lab.host.mounts(container) if mount.point == "/data")
    if number.startswith("0:"):
        return Disk(number, None, "the file system of the engine's volumes is on no single disk")
    whole = number
    texts = lab.host.read_many([f"/sys/dev/block/{number}/partition", f"/sys/dev/block/{number}/../dev"])
    partition, above = texts.values()
    if partition is not None and above is not None:
        whole = above.strip()
    named = {
        one.device: f"/dev/{one.path}" for one in lab.host.directory("/dev") if one.kind == "block device"
    }
    if whole not in named:
        return Disk(
            number, None, f"the engine has no name for the disk {whole} in its /dev (it runs in a container?)"
        )
    return Disk(number, named[whole], "")


def disk_limits(lab: Lab, asked: Sequence[int] = LIMITS_BPS, seconds: float = 1.0) -> DiskLimits:
    """Write and read past the page cache: first without a limit, then with each of `asked`.

    Args:
        asked: in bytes a second, for reading and writing alike.
        seconds: for each way.

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
        found = disk(lab, name)
        if found.path is None:
            return DiskLimits(found, ())
        steps: list[DiskStep] = []
        for limit in (None, *asked):
            rate = [f"{found.path}:{limit}"]
            limits = {} if limit is None else {"device_read_bps": rate, "device_write_bps": rate}
            try:
                steps += _copied(lab, name, limit, seconds, limits)
            except LabError as error:
                if limit is None:
                    raise
                why = f"the engine refused a limit on {found.path}: {error.engine_message or error.message}"
                return DiskLimits(Disk(found.number, None, re.sub(r"[0-9a-f]{64}", "…", why)), ())
    return DiskLimits(found, tuple(steps))


def _copied(
    lab: Lab, volume: str, limit: int | None, seconds: float, limits: dict[str, Any]
) -> list[DiskStep]:
    command = ["python3", "-c", COPY_PROGRAM, str(seconds)]
    bound = SafetyLimits(DEFAULT_SAFETY_LIMITS.memory_bytes, DEFAULT_SAFETY_LIMITS.pids, TIMEOUT_S)
    with load(lab, command, image="tools", bound=bound, volumes=[f"{volume}:/data"], **limits) as container:
        code = lab.wait(container, limit_s=TIMEOUT_S + 10)
        log = lab.logs(container)
    if code:
        raise NotRunning(
            "the container that reads and writes ended before it was done",
            hint="is the engine's disk full? `docker system df` tells; then run the cell again",
            engine_message=log[-500:],
        )
    result = json.loads(log.splitlines()[-1])
    return [
        DiskStep(way, limit, tuple((at, count) for at, count in points)) for way, points in result.items()
    ]
