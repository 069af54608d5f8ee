"""Write speed of a container: to its own layer, a volume, a bind mount and a tmpfs."""

from __future__ import annotations

import json
import random
import statistics
from typing import TYPE_CHECKING

from labhelpers.course.arguments import experiment
from labhelpers.engine.differences import security_option
from labhelpers.results import Result, column, derived, record, rows, table
from labhelpers.volumes import common

if TYPE_CHECKING:
    import pandas as pd

    from labhelpers.lab import Lab

MIB = 1024 * 1024
MOUNT_POINTS = {
    "container layer": "/layer",
    "volume": "/volume",
    "bind mount": "/bind",
    "tmpfs": "/memory",
}
MODES = CACHED, SYNCED, SMALL_SYNCED = "written", "written and synced", "small, each synced"
# enough for a busy disk in an emulated machine
TIMEOUT_S = 400.0


@record
class SpeedMeasurement:
    """A measurement of the write speed."""

    storage: str = column("`container layer`, `volume`, `bind mount` or `tmpfs`")
    mode: str = column(
        "`written` (until the data are in the page cache), `written and synced` (until fdatasync(2) returns) or "
        "`small, each synced`"
    )
    transferred_bytes: int = column("number of bytes that were written")
    duration_s: float = column("duration of the measurement")
    operation_bytes: int = column("size of each write(2)")

    @derived
    def bytes_per_s(self) -> float:
        """Write speed."""
        return self.transferred_bytes / self.duration_s

    @derived
    def operation_ms(self) -> float:
        """Mean duration of a write with its sync."""
        return 1000 * self.duration_s * self.operation_bytes / self.transferred_bytes


@record
class Speeds(Result):
    """Write speed of a container to four kinds of storage."""

    measurements: tuple[SpeedMeasurement, ...] = rows(
        "every measurement, in its random order", of=SpeedMeasurement
    )
    file_systems: dict[str, str] = column("file system type of each storage in the mount table", shown=False)
    large_bytes: int = column("size of the file")
    small_bytes: int = column("size of a small write, at a random offset of an existing file")
    repeats: int = column("number of measurements of each storage and mode")

    def of(self, storage: str, mode: str) -> tuple[SpeedMeasurement, ...]:
        """The measurements of one storage in one mode."""
        return tuple(each for each in self.measurements if (each.storage, each.mode) == (storage, mode))

    def median(self, storage: str, mode: str) -> float:
        """The median of these measurements, in bytes per second."""
        return statistics.median(each.bytes_per_s for each in self.of(storage, mode))

    @property
    def is_complete(self) -> bool:
        """Whether every storage has `repeats` measurements in every mode."""
        return all(len(self.of(storage, mode)) == self.repeats for storage in MOUNT_POINTS for mode in MODES)

    def frame(self) -> pd.DataFrame:
        """One row for each mode and storage: MiB/s (median, lowest, highest), and ms per small write (median)."""
        rows = []
        for mode in MODES:
            for storage in MOUNT_POINTS:
                group = self.of(storage, mode)
                rates = sorted(each.bytes_per_s / MIB for each in group)
                write_ms = (
                    statistics.median(each.operation_ms for each in group) if mode == SMALL_SYNCED else None
                )
                rows.append((mode, storage, statistics.median(rates), rates[0], rates[-1], write_ms))
        speeds = [f"{name}_mib_per_s" for name in ("median", "lowest", "highest")]
        return table(rows, ["mode", "storage", *speeds, "small_write_ms"])


@experiment
def speeds(
    lab: Lab,
    source: str | None = None,
    *,
    repeats: int = 5,
    large_bytes: int = 8 * MIB,
    small_bytes: int = 4096,
    small_writes: int = 32,
    limit_s: float = 0.4,
) -> Speeds:
    """Write a file, sync it, and write small blocks with a sync after each, to four kinds of storage.

    Args:
        source: a directory of the engine's host for the bind mount; None for a directory of the lab, which is also
            used where the engine maps UIDs or SELinux confines containers.
        repeats: number of measurements of each storage and mode. Their order is random, which spreads the effect of
            other load on the machine evenly.
        large_bytes: size of the file, a multiple of 1 MiB.
        small_bytes: size of a small write.
        small_writes, limit_s: number of small writes in a measurement, and its maximum duration in seconds.

    Source: write(2) and fdatasync(2): write returns when the data are in the kernel's page cache; only a sync waits
    for the disk. A tmpfs has nothing to sync (kernel, Documentation/filesystems/tmpfs.rst).
    """
    schedule = [
        (storage, directory, kind)
        for storage, directory in MOUNT_POINTS.items()
        for kind in ("sequential", "small")
        for _ in range(repeats)
    ]
    random.shuffle(schedule)
    parameters = json.dumps([schedule, large_bytes, small_bytes, small_writes, limit_s])
    with lab.quiet(), common.volume(lab, "speed") as name, common.volume(lab, "bound") as bound:
        # containers cannot write to the reader's directory there, and the lab changes neither its owner nor its label
        if source is None or lab.engine.remaps_users or security_option(lab.engine.info, "selinux"):
            source = common.directory_of(lab, bound)
        stdout = common.output(
            lab,
            ["python3", "-c", common.program("write.py"), parameters],
            image="tools",
            limit_s=TIMEOUT_S,
            **common.bind_options(
                lab, source, MOUNT_POINTS["bind mount"], volumes=[f"{name}:{MOUNT_POINTS['volume']}"]
            ),
            tmpfs={MOUNT_POINTS["tmpfs"]: f"size={4 * large_bytes}"},
        )
    results, file_systems = json.loads(stdout)
    measurements = [
        SpeedMeasurement(storage, mode, transferred, duration_s, small_bytes if kind == "small" else MIB)
        for storage, kind, parts in results
        for mode, (transferred, duration_s) in zip(
            (SMALL_SYNCED,) if kind == "small" else (CACHED, SYNCED), parts, strict=True
        )
    ]
    by_storage = {storage: file_systems[directory] for storage, directory in MOUNT_POINTS.items()}
    return Speeds(tuple(measurements), by_storage, large_bytes, small_bytes, repeats)
