"""Copy-on-write: the cost of the first write to a file of the image."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from labhelpers.course.arguments import experiment
from labhelpers.engine.arguments import is_integer
from labhelpers.errors import BadInput
from labhelpers.layers.builds import build, unique_name
from labhelpers.layers.overlay import mounts
from labhelpers.layers.recipes import SIZED_FILES
from labhelpers.results import Result, column, derived, record, rows

if TYPE_CHECKING:
    from docker.models.containers import Container

    from labhelpers.lab import Lab

TIMEOUT_S = 120.0
_APPEND_PROGRAM = Path(__file__).with_name("inside") / "append.py"


@record
class CopyUp:
    """Two writes of one byte each to a file of the image."""

    file_bytes: int = column("size of the file in its read-only layer")
    layer_growth_bytes: int = column("growth of the container's own layer on disk (512-byte blocks)")
    first_write_ms: float = column("time of the first open, write and close, measured in the container")
    second_write_ms: float = column("time of the second open, write and close, measured in the container")

    @derived
    def whole_file_was_copied(self) -> bool:
        """Whether the container's layer grew by at least the size of the file."""
        return self.layer_growth_bytes >= self.file_bytes


@record
class CopyUpCost(Result):
    """Cost of the first and the second write to a file of the image, against the size of the file."""

    writes: tuple[CopyUp, ...] = rows("all measurements, sorted by file size", of=CopyUp)

    def medians(self) -> tuple[CopyUp, ...]:
        """The median of the measurements for each file size."""
        sizes = sorted({write.file_bytes for write in self.writes})
        return tuple(self._median(size) for size in sizes)

    def _median(self, size: int) -> CopyUp:
        same = [write for write in self.writes if write.file_bytes == size]
        return CopyUp(
            size,
            int(median(write.layer_growth_bytes for write in same)),
            median(write.first_write_ms for write in same),
            median(write.second_write_ms for write in same),
        )

    @property
    def every_file_was_copied(self) -> bool:
        """Whether the container's layer grew by the whole file in every measurement."""
        return all(write.whole_file_was_copied for write in self.writes)


@experiment
def copy_up(lab: Lab, sizes: Sequence[int], repeats: int = 3) -> CopyUpCost:
    """Append one byte, twice, to files of an image, and measure the time and the growth of the container's layer.

    The image is built first: one layer with a file of random bytes for each size. Each repeat uses a new container.
    The file may be in the host's page cache: this measures the copy, not the disk.

    Args:
        sizes: file sizes in bytes, 1 or more.

    Raises:
        BadInput: a size or the number of repeats is invalid.
    """
    if not sizes or any(not is_integer(s) or s < 1 for s in sizes) or repeats < 1:
        raise BadInput(
            f"cannot measure sizes {list(sizes)!r} with {repeats!r} repeats",
            hint="pass sizes in bytes, 1 or more: [1_000_000, 100_000_000]",
        )
    names = [str(size) for size in sorted(set(sizes))]
    with lab.quiet(["docker run -d"]):
        ref = build(
            lab, SIZED_FILES, unique_name(lab, "sized:1"), BASE=lab.image("tools"), SIZES=" ".join(names)
        )
        writes = [write for _ in range(repeats) for write in _measure_append(lab, ref, names)]
    return CopyUpCost(tuple(sorted(writes, key=lambda write: write.file_bytes)))


def _measure_append(lab: Lab, ref: str, names: Sequence[str]) -> list[CopyUp]:
    command = ["-c", _APPEND_PROGRAM.read_text(encoding="utf-8"), *names]
    with lab.running(ref, command, entrypoint="python3", network="none") as container:
        times = json.loads(_first_line(lab, container))
        upper = mounts(lab, container).upper
        growth = [lab.host.disk_usage(f"{upper}/sized/{name}").allocated_bytes for name in names]
    return [CopyUp(int(name), size, *pair) for name, size, pair in zip(names, growth, times, strict=True)]


def _first_line(lab: Lab, container: Container) -> str:
    """The first line that a container writes to standard output."""

    def line() -> str:
        first, newline, _ = lab.logs(container, stderr=False).partition("\n")
        return first if newline else ""

    return lab.wait_for("the writes to finish", line, TIMEOUT_S, while_running=container)
