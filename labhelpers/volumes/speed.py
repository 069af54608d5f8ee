"""How fast a container writes: into its own layer, a volume, a bind mount and memory."""

from __future__ import annotations

import json
import random
import statistics
from typing import TYPE_CHECKING

from labhelpers.engine.differences import security_option
from labhelpers.results import Result, column, record, rows, table
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
CACHED, SYNCED, SMALL = "written", "written and synced", "small, each synced"
# a disk that others keep busy, in a translated machine
TIMEOUT_S = 400.0


@record
class SpeedMeasurement:
    """One measurement."""

    place: str = column("`container layer`, `volume`, `bind mount` or `tmpfs`")
    what: str = column(
        "`written` (the kernel has it in memory), `written and synced` (fdatasync(2) came back), or "
        "`small, each synced`"
    )
    moved_bytes: int = column("how much was written")
    took_s: float = column("in how long")
    operation_bytes: int = column("of one write(2)")

    @property
    def bytes_per_s(self) -> float:
        """Bytes a second."""
        return self.moved_bytes / self.took_s

    @property
    def operation_ms(self) -> float:
        """Milliseconds for one write with its sync."""
        return 1000 * self.took_s * self.operation_bytes / self.moved_bytes


@record
class Speeds(Result):
    """How fast a container wrote into four places, in random order."""

    turns: tuple[SpeedMeasurement, ...] = rows(
        "every measurement, in the order in which it was made", of=SpeedMeasurement
    )
    file_systems: dict[str, str] = column("place → what the mount table says of it", shown=False)
    whole_bytes: int = column("size of the file")
    small_bytes: int = column("size of a small write, at a random place of a file that is there")
    repeats: int = column("how often each was measured")

    def of(self, place: str, what: str) -> tuple[SpeedMeasurement, ...]:
        """The measurements of one kind at one place."""
        return tuple(turn for turn in self.turns if (turn.place, turn.what) == (place, what))

    def median(self, place: str, what: str) -> float:
        """Their median, in bytes a second."""
        return statistics.median(turn.bytes_per_s for turn in self.of(place, what))

    @property
    def is_whole(self) -> bool:
        """Whether every place was measured in every way as often as was asked."""
        return all(
            len(self.of(place, what)) == self.repeats
            for place in MOUNT_POINTS
            for what in (CACHED, SYNCED, SMALL)
        )

    def frame(self) -> pd.DataFrame:
        """One row a place and way: median, lowest and highest MiB/s; for small writes the median ms of one."""
        rows = []
        for what in (CACHED, SYNCED, SMALL):
            for place in MOUNT_POINTS:
                turns = self.of(place, what)
                rates = sorted(turn.bytes_per_s / MIB for turn in turns)
                one = statistics.median(t.operation_ms for t in turns) if what == SMALL else float("nan")
                rows.append((what, place, statistics.median(rates), rates[0], rates[-1], one))
        return table(rows, ["what", "place", "median_mib_s", "lowest_mib_s", "highest_mib_s", "one_write_ms"])


def speeds(
    lab: Lab,
    source: str | None = None,
    *,
    repeats: int = 5,
    whole_bytes: int = 8 * MIB,
    small_bytes: int = 4096,
    small_writes: int = 32,
    limit_s: float = 0.4,
) -> Speeds:
    """Write a whole file, sync it, and write small pieces with a sync after each; in four places.

    Args:
        source: a directory of the engine's host for the bind mount; None for one of the lab's own, which also serves
            where the engine maps users or SELinux confines containers.
        repeats: how often each place is measured in each way. The order is random, so that what the
            machine does meanwhile hits all alike.
        whole_bytes: size of the file, a multiple of 1 MiB.
        small_writes, limit_s: a turn of small writes ends after so many, or so many seconds.

    Source: write(2) and fdatasync(2): a write has come back when the kernel has the data in its page cache; only a sync
    waits for the disk. A tmpfs has nothing to sync (kernel, Documentation/filesystems/tmpfs.rst).
    """
    turns = [
        (place, folder, what)
        for place, folder in MOUNT_POINTS.items()
        for what in ("sequential", "small")
        for _ in range(repeats)
    ]
    random.shuffle(turns)
    asked = json.dumps([turns, whole_bytes, small_bytes, small_writes, limit_s])
    with lab.quiet(), common.volume(lab, "speed") as name, common.volume(lab, "bound") as bound:
        # a container may not write into the reader's directory, and the lab changes neither its owner nor its label
        if source is None or lab.engine.remaps_users or security_option(lab.engine.info, "selinux"):
            source = common.directory_of(lab, bound)
        printed = common.output(
            lab,
            ["python3", "-c", common.program("write.py"), asked],
            image="tools",
            limit_s=TIMEOUT_S,
            **common.bind_options(
                lab, source, MOUNT_POINTS["bind mount"], volumes=[f"{name}:{MOUNT_POINTS['volume']}"]
            ),
            tmpfs={MOUNT_POINTS["tmpfs"]: f"size={4 * whole_bytes}"},
        )
    measured, kinds = json.loads(printed)
    found = [
        SpeedMeasurement(place, what, moved, took, small_bytes if kind == "small" else MIB)
        for place, kind, parts in measured
        for what, (moved, took) in zip((SMALL,) if kind == "small" else (CACHED, SYNCED), parts, strict=True)
    ]
    file_systems = {place: kinds[folder] for place, folder in MOUNT_POINTS.items()}
    return Speeds(tuple(found), file_systems, whole_bytes, small_bytes, repeats)
